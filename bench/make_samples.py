"""The samples that ship in the package, made anew from the shared data: `python bench/make_samples.py`.

    prostatex_t2_tra/           a real thick series, copied as it is
    brain_m2307_t2/thick/       4 mm slices, simulated from a 1 mm volume with a box profile
    brain_m2307_t2/thin/        that volume: the truth to compare with

Needs nibabel (extra "train") and ../shared beside the checkout. Same input, same bytes: UIDs are made from names.
`--check` compares what it would write with what is there, and writes nothing.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import uuid
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGLSLossless

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dicomnode import durable
from dicomnode.derive.decimals import coordinate_text, decimal_text
from dicomnode.ids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, derived_uid
from dicomnode.imaging.headers import MR_IMAGE_STORAGE
from dicomnode.imaging.profile import profile_matrix
from dicomnode.imaging.volume import Volume

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
SAMPLES = ROOT / "dicomnode" / "samples"
NAMESPACE = uuid.UUID("6f5d8b0e-1f0c-5f0b-9a57-2d2f8f3f7c11")  # of the samples' UIDs; any constant will do
RATIO = 4  # 1 mm to 4 mm: what a routine brain protocol has
BITS_STORED = 12  # of a scanner; the volume reaches 545
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])  # NIfTI's world to DICOM's (PS3.3 §C.7.6.2.1.1)
DISPLAY_PERCENTILE = 99.5


def main() -> int:
    """Write the samples, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    is_check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch)
        shutil.copytree(SHARED / "prostatex" / "t2_tra", made / "prostatex_t2_tra", copy_function=shutil.copyfile)
        write_brain(made / "brain_m2307_t2")
        if is_check:
            return _compare(made)
        if others := _others(made):
            for path in others:
                print(f"in the way: {path}")
            return 1
        for path in sorted(made.rglob("*.dcm")):
            target = SAMPLES / path.relative_to(made)
            target.parent.mkdir(parents=True, exist_ok=True)
            durable.write_file(target, [path.read_bytes()])
    size = sum(path.stat().st_size for path in SAMPLES.rglob("*") if path.is_file())
    print(f"{size / 2**20:.1f} MiB in {SAMPLES.relative_to(ROOT)}")
    return 0


def write_brain(folder: Path) -> None:
    """The T2 brain as thick slices and as the truth behind them, one study, one Frame of Reference."""
    thin = read_nifti(SHARED / "thin_nifti" / "m2307_t2.nii.gz")
    thick = thickened(thin, RATIO)
    spacing_mm = thick.slice_spacing_mm
    note = f"Simulated: each slice is the mean of {RATIO} slices of {thin.slice_spacing_mm:.0f} mm."
    write_series(folder / "thick", thick, number=1, description=f"T2 axial {spacing_mm:.0f} mm simulated", note=note)
    note = "A volume of niimath-bitmap, written as DICOM with invented header values."
    write_series(folder / "thin", thin, number=2, description="T2 axial 1 mm truth", note=note)


def read_nifti(path: Path) -> Volume:
    """A NIfTI volume as axial slices in LPS: columns to the patient's left, rows to posterior, slices to superior."""
    image = nibabel.Nifti1Image.from_filename(path)
    affine = np.asarray(image.affine, dtype=np.float64)
    assert (np.diag(affine)[:3] > 0.9).all(), "axes R, A, S, as this volume has them"
    values = np.asarray(image.dataobj)[::-1, ::-1, :]  # axes L, P, S
    count_r, count_a, _ = image.shape
    directions = RAS_TO_LPS @ affine[:3, :3] @ np.diag([-1.0, -1.0, 1.0])
    origin = RAS_TO_LPS @ (affine @ [count_r - 1, count_a - 1, 0, 1])[:3]
    column_mm, row_mm, _ = np.linalg.norm(directions, axis=0)
    return Volume(
        voxels=np.ascontiguousarray(values.transpose(2, 1, 0), dtype=np.float32),
        origin_mm=origin,
        row_direction=directions[:, 0] / column_mm,
        column_direction=directions[:, 1] / row_mm,
        slice_step_mm=directions[:, 2],
        row_spacing_mm=float(row_mm),
        column_spacing_mm=float(column_mm),
        slice_thickness_mm=float(np.linalg.norm(directions[:, 2])),
    )


def thickened(thin: Volume, ratio: int) -> Volume:
    """Contiguous thick slices with a box profile; what is left over at the top is not used."""
    slices = len(thin.voxels) // ratio
    matrix = profile_matrix(slices, ratio).astype(np.float32)
    flat = thin.voxels[: slices * ratio].reshape(slices * ratio, -1)
    return Volume(
        voxels=(matrix @ flat).reshape(slices, *thin.voxels.shape[1:]),
        origin_mm=thin.origin_mm + thin.slice_step_mm * (ratio - 1) / 2,
        row_direction=thin.row_direction,
        column_direction=thin.column_direction,
        slice_step_mm=thin.slice_step_mm * ratio,
        row_spacing_mm=thin.row_spacing_mm,
        column_spacing_mm=thin.column_spacing_mm,
        slice_thickness_mm=thin.slice_thickness_mm * ratio,
    )


def write_series(folder: Path, volume: Volume, *, number: int, description: str, note: str) -> None:
    """One series of classic MR, JPEG-LS lossless, named as its Instance Numbers."""
    folder.mkdir(parents=True)
    window = float(np.percentile(volume.voxels[volume.voxels > 0], DISPLAY_PERCENTILE))
    for index, frame in enumerate(volume.voxels):
        dataset = _attributes(volume, number, index, window)
        dataset.SeriesDescription = description
        dataset.DerivationDescription = note
        dataset.PixelData = _stored(frame).tobytes()
        dataset.compress(JPEGLSLossless, encoding_plugin="pyjpegls", generate_instance_uid=False)
        buffer = BytesIO()
        dcmwrite(buffer, dataset, enforce_file_format=True)
        (folder / f"{index + 1:04d}.dcm").write_bytes(buffer.getvalue())


def _stored(frame: NDArray[np.float32]) -> NDArray[np.uint16]:
    stored = np.rint(frame)
    assert stored.min() >= 0
    assert stored.max() < 1 << BITS_STORED
    return stored.astype("<u2")


def _attributes(volume: Volume, number: int, index: int, window: float) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    dataset.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    spacing = decimal_text(round(volume.slice_spacing_mm, 6))
    values: dict[str, object] = {
        "SpecificCharacterSet": "ISO_IR 100",
        "ImageType": ["DERIVED", "SECONDARY", "OTHER"],
        "SOPClassUID": MR_IMAGE_STORAGE,
        "SOPInstanceUID": derived_uid(NAMESPACE, f"m2307:{number}:{index}"),
        "Modality": "MR",
        "PatientName": "Sample^Brain",
        "PatientID": "M2307",
        "PatientIdentityRemoved": "YES",
        "DeidentificationMethod": "Published without identity, brain-extracted",
        "StudyInstanceUID": derived_uid(NAMESPACE, "m2307:study"),
        "StudyID": "1",
        "StudyDescription": "dicomnode sample",
        "SeriesInstanceUID": derived_uid(NAMESPACE, f"m2307:{number}"),
        "SeriesNumber": number,
        "InstanceNumber": index + 1,
        "FrameOfReferenceUID": derived_uid(NAMESPACE, "m2307:frame"),
        "BodyPartExamined": "BRAIN",
        "PatientPosition": "HFS",
        "ScanningSequence": "RM",  # how it was acquired is not known: "research mode" claims nothing
        "SequenceVariant": "NONE",
        "ImagePositionPatient": [coordinate_text(mm) for mm in volume.origin_mm + index * volume.slice_step_mm],
        "ImageOrientationPatient": [coordinate_text(c) for c in (*volume.row_direction, *volume.column_direction)],
        "PixelSpacing": [decimal_text(round(mm, 6)) for mm in (volume.row_spacing_mm, volume.column_spacing_mm)],
        "SliceThickness": spacing,
        "SpacingBetweenSlices": spacing,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": volume.voxels.shape[1],
        "Columns": volume.voxels.shape[2],
        "BitsAllocated": 16,
        "BitsStored": BITS_STORED,
        "HighBit": BITS_STORED - 1,
        "PixelRepresentation": 0,
        "WindowCenter": decimal_text(round(window / 2)),
        "WindowWidth": decimal_text(round(window)),
    }
    for keyword in (
        "AccessionNumber", "StudyDate", "StudyTime", "ReferringPhysicianName", "PatientBirthDate", "PatientSex",
        "Manufacturer", "PositionReferenceIndicator", "ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime",
        "EchoTrainLength",
    ):  # fmt: skip
        values[keyword] = None  # type 2: has to be there, is not known
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def _others(made: Path) -> list[Path]:
    """Files in the samples' folders that are none of theirs: nothing is written, and nothing removed, beside them."""
    there = [path for folder in made.iterdir() for path in (SAMPLES / folder.name).rglob("*") if path.is_file()]
    return sorted(path for path in there if not (made / path.relative_to(SAMPLES)).is_file())


def _compare(made: Path) -> int:
    """0 when every file is there with the same bytes."""
    differing = [
        path.relative_to(made)
        for path in sorted(made.rglob("*.dcm"))
        if not (SAMPLES / path.relative_to(made)).is_file()
        or (SAMPLES / path.relative_to(made)).read_bytes() != path.read_bytes()
    ]
    for path in differing:
        print(f"differs: {path}")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
