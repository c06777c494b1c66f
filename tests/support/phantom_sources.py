"""A data folder with the layout of the real one and phantoms in it: small, made in a second, nobody's head."""

from __future__ import annotations

import tomllib
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from tests.support import mr_series
from tests.support.mr_series import mr_datasets
from trainer.data.inventory import OPEN_DATA
from trainer.data.sources import Source, Split

EXTENT = 97  # a warped patch needs 96 in every direction; odd matrices are the harder case


def phantom(seed: int, *, extent: int = EXTENT) -> NDArray[np.float32]:
    """A ball of smooth waves in air, 0…1000."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, extent)] * 3, indexing="ij")
    waves = np.full_like(z, 5.0)
    for frequency in rng.uniform(-25, 25, (6, 3)):
        waves += np.sin(frequency[0] * z + frequency[1] * y + frequency[2] * x)
    inside = z**2 + y**2 + x**2 < 0.9
    return np.where(inside, waves * 90, 0).clip(0, 1000).astype(np.float32)


def source(*paths: Path, subject: str = "s", split: Split = Split.TRAIN) -> Source:
    """A source of these files, called as the first of them, or as its subject."""
    return Source(label=paths[0].stem if paths else subject, subject=subject, split=split, licence="MIT", paths=paths)


def write_sources(data: Path) -> None:
    """Every volume of the inventory of open data: 97³ of 1 mm where thin, 12 slices of 3 mm where thick."""
    for seed, row in enumerate(tomllib.loads(OPEN_DATA.read_text())["source"]):
        path, voxels = data / row["path"], phantom(seed)
        if path.suffix == ".gz":
            path.parent.mkdir(parents=True, exist_ok=True)
            is_thick = path.parent.name == "thick_nifti"  # whose slice axis is the last one
            shown = voxels[40:52].transpose(2, 1, 0) if is_thick else voxels
            affine = np.diag([1.0, 1.0, 3.0 if is_thick else 1.0, 1.0])
            nibabel.save(nibabel.Nifti1Image(shown, affine), path)  # type: ignore[no-untyped-call]
        elif row["split"] == "unseen":
            write_series(path, voxels[40:52], slice_spacing_mm=3.0, patient=row["subject"])
        else:
            write_series(path, voxels, slice_spacing_mm=1.0, patient=row["subject"])


def write_series(
    folder: Path,
    voxels: NDArray[np.float32],
    *,
    slice_spacing_mm: float,
    first_mm: float = 0.0,
    corner_mm: tuple[float, float] = (0.0, 0.0),
    patient: str = "P-1",
    **attributes: object,
) -> list[Path]:
    """Slices as MR images of slope 2, intercept -10, whose file names run against their positions.

    ``corner_mm`` and ``first_mm`` are the place of the first pixel of the first slice.
    """
    datasets = mr_datasets(slices=len(voxels), slice_spacing_mm=slice_spacing_mm, size=voxels.shape[1])
    for k, (dataset, pixels) in enumerate(zip(datasets, voxels, strict=True)):
        dataset.PatientID = patient
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.ImagePositionPatient = [*corner_mm, first_mm + slice_spacing_mm * k]
        dataset.RescaleSlope, dataset.RescaleIntercept = 2, -10
        dataset.PixelData = ((pixels + 10) / 2).astype("<u2").tobytes()
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
    return mr_series.write_series(folder, datasets[::-1])
