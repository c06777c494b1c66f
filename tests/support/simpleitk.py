"""SimpleITK as an independent reader of series: voxels, and where it says that they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Read:
    """A series as SimpleITK reads it."""

    voxels: NDArray[np.float64]  # (slice, row, column)
    affine: NDArray[np.float64]  # (slice, row, column, 1) to LPS mm

    @property
    def places(self) -> NDArray[np.float64]:
        """LPS mm of every voxel (slice, row, column, 3)."""
        index = np.stack(np.meshgrid(*map(np.arange, self.voxels.shape), indexing="ij"), axis=-1)
        return np.asarray(index @ self.affine[:3, :3].T + self.affine[:3, 3])


def read_folder(folder: Path) -> Read:
    """One series, in the order that ITK finds in its positions."""
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))  # type: ignore[no-untyped-call]
    return read_files([Path(name) for name in names])


def read_files(paths: Sequence[Path]) -> Read:
    """Files in the order given; one file may be a volume of its own."""
    names = [str(path) for path in paths]
    image = SimpleITK.ReadImage(names if len(names) > 1 else names[0])
    direction = np.array(image.GetDirection()).reshape(3, 3)  # type: ignore[no-untyped-call]
    step = direction * np.array(image.GetSpacing())  # type: ignore[no-untyped-call]
    affine = np.eye(4)
    affine[:3, :3] = step[:, ::-1]  # ITK counts columns, rows, slices
    affine[:3, 3] = image.GetOrigin()  # type: ignore[no-untyped-call]
    return Read(voxels=SimpleITK.GetArrayFromImage(image).astype(np.float64), affine=affine)
