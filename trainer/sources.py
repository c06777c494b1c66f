"""The real volumes: which may be trained on, which only judged on, and how they are read.

The table is the licence and split table of the data inventory. Nothing outside it can be loaded, and nothing
can be loaded for a purpose that its row does not allow: a mistake here would make the weights unshippable.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from numpy.typing import NDArray

from dicomnode.errors import InputError


class Split(StrEnum):
    """What a volume may be used for."""

    TRAIN = "train"
    VALIDATION = "validation"  # models are chosen on these
    UNSEEN = "unseen"  # thick series, judged on and never trained on


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One volume of the data folder."""

    path: str  # a folder of DICOM instances or a NIfTI file, relative to the data folder
    subject: str  # volumes of one person never sit in two splits
    split: Split
    licence: str


SOURCES = {
    "fnndsc_10yr": Source(path="fnndsc_10yr", subject="fnndsc", split=Split.TRAIN, licence="MIT"),
    "studyforrest_t1": Source(path="studyforrest_t1", subject="studyforrest", split=Split.TRAIN, licence="PDDL"),
    "seg3d_t1": Source(path="thin_nifti/seg3d_t1.nii.gz", subject="seg3d", split=Split.TRAIN, licence="MIT"),
    "niimath_t1": Source(path="thin_nifti/niimath_t1.nii.gz", subject="niimath", split=Split.TRAIN, licence="CC0"),
    "stroke_a_t1": Source(path="thin_nifti/stroke_a_t1.nii.gz", subject="stroke_a", split=Split.TRAIN, licence="MIT"),
    "stroke_a_t2": Source(path="thin_nifti/stroke_a_t2.nii.gz", subject="stroke_a", split=Split.TRAIN, licence="MIT"),
    "stroke_a_flair": Source(
        path="thin_nifti/stroke_a_flair.nii.gz", subject="stroke_a", split=Split.TRAIN, licence="MIT"
    ),
    "philips_mprage": Source(path="philips_mprage", subject="philips", split=Split.VALIDATION, licence="BSD-2-Clause"),
    "m2307_t2": Source(path="thin_nifti/m2307_t2.nii.gz", subject="m2307", split=Split.VALIDATION, licence="CC0"),
    "prostatex_t2_tra": Source(
        path="prostatex/t2_tra", subject="prostatex-0000", split=Split.UNSEEN, licence="CC-BY-4.0"
    ),
    "prostatex_t2_sag": Source(
        path="prostatex/t2_sag", subject="prostatex-0000", split=Split.UNSEEN, licence="CC-BY-4.0"
    ),
    "prostatex_t2_cor": Source(
        path="prostatex/t2_cor", subject="prostatex-0000", split=Split.UNSEEN, licence="CC-BY-4.0"
    ),
    "lumbar_t2_sag": Source(path="lumbar/t2_sag", subject="lumbar", split=Split.UNSEEN, licence="CC0"),
    "mimbcd_t1_tse_3p3": Source(
        path="mimbcd_uta11/t1_tse_3p3", subject="mimbcd", split=Split.UNSEEN, licence="CC-BY-SA-4.0"
    ),
    "brain_t1_fl2d": Source(
        path="brain_t1_fl2d", subject="dcm_qa_decubitus", split=Split.UNSEEN, licence="BSD-2-Clause"
    ),
}


def names(split: Split) -> tuple[str, ...]:
    """The volumes of one split, in the table's order."""
    return tuple(name for name, source in SOURCES.items() if source.split is split)


def load(name: str, data: Path, split: Split) -> NDArray[np.float32]:
    """Voxels (D, H, W) of a volume, slice axis first for DICOM; raises where the split is not that of its row."""
    source = SOURCES.get(name)
    if source is None or source.split is not split:
        raise InputError(
            f"The volume {name} is not one that may be used for {split}.",
            hint=f"Use one of: {', '.join(names(split))}.",
        )
    path = data / source.path
    if not path.exists():
        raise InputError(f"The volume {name} is not in {data}.", hint="Name the data folder with --data.")
    voxels = _read_dicom(path) if path.is_dir() else _read_nifti(path)
    assert voxels.ndim == 3
    assert voxels.dtype == np.float32
    return voxels


def _read_dicom(folder: Path) -> NDArray[np.float32]:
    """One axis-parallel series, slices by position along the normal, rescaled to modality units."""
    instances = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    row, column = np.split(np.array(instances[0].ImageOrientationPatient, dtype=np.float64), 2)
    normal = np.cross(row, column)
    instances.sort(key=lambda instance: float(normal @ np.array(instance.ImagePositionPatient, dtype=np.float64)))
    slices = [
        instance.pixel_array.astype(np.float32) * float(instance.get("RescaleSlope", 1))
        + float(instance.get("RescaleIntercept", 0))
        for instance in instances
    ]
    return np.stack(slices).astype(np.float32)


def _read_nifti(path: Path) -> NDArray[np.float32]:
    """A NIfTI volume, axes as stored."""
    image = nibabel.load(path)
    assert isinstance(image, nibabel.Nifti1Image)
    return np.ascontiguousarray(image.get_fdata(dtype=np.float32))
