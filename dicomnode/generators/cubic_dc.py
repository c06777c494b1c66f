"""``cubic-dc``: cubic-spline interpolation between slices, then made consistent with what was measured.

The baseline that every network has to beat, and the base that the ``thin`` network adds to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from dicomnode.generators.base import Generated, Progress, no_sharpness, thin_volume
from dicomnode.imaging.profile import (
    SPLINE_REACH,
    ThinGrid,
    assumed_thickness_over_spacing,
    slab_weights,
    spline_coefficients,
)
from dicomnode.imaging.volume import Volume

NAME: Final = "cubic-dc"  # what a rule, a job and a derived series call the method
ROWS_PER_CHUNK = 32  # bounds the coefficients to 32/H of the thick stack; more rows are no faster


@dataclass(frozen=True, slots=True, kw_only=True)
class CubicDc:
    """The generator without weights; always there."""

    name: str = NAME
    digest: str = f"{NAME}/1"  # raised when the method's output changes
    consistency: bool = True
    sharpness: float | None = None

    def at(self, sharpness: float) -> Self:
        """Always an error: nothing was learned here."""
        raise no_sharpness(self.name, sharpness)

    def generate(self, thick: Volume, grid: ThinGrid, *, device: str, progress: Progress | None = None) -> Generated:
        """Weighted sums along the slice axis; ``device`` is not used."""
        del device
        voxels = cubic_dc(thick.voxels, grid.ratio, assumed_thickness_over_spacing(thick), progress=progress)
        return Generated(thin=thin_volume(voxels, thick, grid))


def cubic_dc(
    thick: NDArray[np.float32],
    ratio: int,
    thickness_over_spacing: float,
    *,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """(n, H, W) → (n·ratio, H, W), whole rows at a time. Time and memory grow with n, not with its square."""
    slices, height, width = thick.shape
    weights, window = slab_weights(ratio, thickness_over_spacing).cubic_dc, 2 * SPLINE_REACH + 1
    thin = np.empty((slices * ratio, height, width), dtype=np.float32)
    for start in range(0, height, ROWS_PER_CHUNK):
        rows = slice(start, min(start + ROWS_PER_CHUNK, height))
        coefficients = spline_coefficients(thick[:, rows]).reshape(slices + 2 * SPLINE_REACH, -1)
        for owner in range(slices):
            slab = weights @ coefficients[owner : owner + window]
            thin[owner * ratio : (owner + 1) * ratio, rows] = slab.reshape(ratio, -1, width)
        if progress is not None:
            progress(rows.stop / height)
    return thin
