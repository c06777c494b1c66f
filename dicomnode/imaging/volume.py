"""A stack of parallel slices as one array with its place in the patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]  # shape (3,), mm or unit-free, patient frame LPS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Volume:
    """Voxels (D, H, W) and the geometry that places them in LPS millimetres.

    Slices ascend along ``normal`` = row_direction × column_direction, whatever order the scanner numbered them in
    (highdicom and ITK do the opposite: docs/derived-objects.md#order-of-the-slices). Values are modality units,
    float32.
    """

    voxels: NDArray[np.float32]  # (D, H, W)
    origin_mm: Vector  # centre of voxel [0, 0, 0]
    row_direction: Vector  # unit vector towards rising column index (first triple of ImageOrientationPatient)
    column_direction: Vector  # unit vector towards rising row index (second triple)
    slice_step_mm: Vector  # from the centre of slice k to that of slice k + 1
    row_spacing_mm: float  # distance between rows (first value of PixelSpacing, PS3.3 10.7.1.3)
    column_spacing_mm: float  # distance between columns (second value)
    slice_thickness_mm: float  # nominal width of the slice profile; the spacing where the header gives none

    def __post_init__(self) -> None:
        assert self.voxels.ndim == 3, self.voxels.shape
        assert self.voxels.dtype == np.float32, self.voxels.dtype
        for vector in (self.origin_mm, self.row_direction, self.column_direction, self.slice_step_mm):
            assert vector.shape == (3,)
            assert vector.dtype == np.float64
        assert float(self.slice_step_mm @ self.normal) > 0, "slices must ascend along the normal"

    @property
    def normal(self) -> Vector:
        """Unit vector across the slices."""
        return np.cross(self.row_direction, self.column_direction)

    @property
    def slice_spacing_mm(self) -> float:
        """Distance between neighbouring slice centres along the normal."""
        return float(self.slice_step_mm @ self.normal)

    @property
    def affine(self) -> NDArray[np.float64]:
        """4 × 4: (slice, row, column, 1) index to (x, y, z, 1) in LPS mm."""
        matrix = np.eye(4)
        matrix[:3, 0] = self.slice_step_mm
        matrix[:3, 1] = self.column_direction * self.row_spacing_mm
        matrix[:3, 2] = self.row_direction * self.column_spacing_mm
        matrix[:3, 3] = self.origin_mm
        return matrix
