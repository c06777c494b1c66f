"""A data folder with the layout of the real one and phantoms in it: small, made in a second, nobody's head."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from trainer.sources import SOURCES

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


def write_sources(data: Path) -> None:
    """Every volume of the table: 97³ where thin, 12 slices where thick."""
    for seed, source in enumerate(SOURCES.values()):
        path = data / source.path
        voxels = phantom(seed)
        if path.suffix == ".gz":
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)  # type: ignore[no-untyped-call]
        else:
            write_series(path, voxels if source.split != "unseen" else voxels[40:52])


def write_series(folder: Path, voxels: NDArray[np.float32]) -> None:
    """Slices as MR images of slope 2, intercept -10, whose file names run against their positions."""
    folder.mkdir(parents=True)
    for k, pixels in enumerate(voxels):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(folder), str(k)])
        instance = Dataset()
        instance.file_meta = meta
        instance.SOPClassUID, instance.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        instance.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        instance.ImagePositionPatient = [0, 0, 3.0 * k]
        instance.RescaleSlope, instance.RescaleIntercept = 2, -10
        instance.Rows, instance.Columns = pixels.shape
        instance.SamplesPerPixel, instance.PhotometricInterpretation = 1, "MONOCHROME2"
        instance.BitsAllocated, instance.BitsStored, instance.HighBit, instance.PixelRepresentation = 16, 16, 15, 0
        instance.PixelData = ((pixels + 10) / 2).astype(np.uint16).tobytes()
        instance.save_as(folder / f"{len(voxels) - k:04d}.dcm", enforce_file_format=True)
