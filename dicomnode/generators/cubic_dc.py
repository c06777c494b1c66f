"""``cubic-dc``: cubic-spline interpolation between slices, then made consistent with what was measured.

The baseline that every network has to beat, and the base that the ``thin`` network adds to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dicomnode.generators.base import Generated, Progress, thin_volume
from dicomnode.imaging.profile import ThinGrid, assumed_thickness_over_spacing, consistency
from dicomnode.imaging.volume import Volume

NAME: Final = "cubic-dc"  # what a rule, a job and a derived series call the method
ROWS_PER_CHUNK = 32  # bounds the working copy to 32/H of the thin stack; more rows are no faster


@dataclass(frozen=True, slots=True, kw_only=True)
class CubicDc:
    """The generator without weights; always there."""

    name: str = NAME
    digest: str = f"{NAME}/1"  # raised when the method's output changes
    consistency: bool = True

    def generate(self, thick: Volume, grid: ThinGrid, *, device: str, progress: Progress | None = None) -> Generated:
        """One matrix product along the slice axis; ``device`` is not used."""
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
    """(n, H, W) → (n·ratio, H, W), whole rows at a time."""
    slices, height, width = thick.shape
    matrix = consistency(slices, ratio, thickness_over_spacing).cubic_dc.astype(np.float32)
    thin = np.empty((slices * ratio, height, width), dtype=np.float32)
    for start in range(0, height, ROWS_PER_CHUNK):
        rows = thick[:, start : start + ROWS_PER_CHUNK]
        thin[:, start : start + ROWS_PER_CHUNK] = (matrix @ rows.reshape(slices, -1)).reshape(-1, *rows.shape[1:])
        if progress is not None:
            progress(min(start + ROWS_PER_CHUNK, height) / height)
    return thin
