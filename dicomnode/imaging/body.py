"""Where the body is in a volume, and how bright it is: the scale that networks and metrics share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dicomnode.imaging.smoothing import gaussian

Mask = NDArray[np.bool_]

SCALE_PERCENTILE = 99.5  # of the body voxels (docs/science.md#metrics); the maximum would be one vessel
BODY_LEVEL = 0.08  # of the scale: above the noise of air, below any tissue (docs/science.md#metrics)
BODY_SMOOTHING_VOXELS = 1.5  # docs/science.md#metrics
BODY_SMOOTHING_RADIUS = 6  # four sigma
BODY_DILATION_VOXELS = 2  # docs/science.md#metrics
WINDOW = 128  # pixels: what is measured in the middle of the body stands for all of it, at a bounded cost
COARSE = 4  # pixels: to find that middle, every fourth row and column is enough


def body_scale(voxels: NDArray[np.float32]) -> float:
    """The 99.5th percentile of the body voxels, in the volume's own units; 1.0 for an empty volume."""
    rough = float(np.percentile(voxels, SCALE_PERCENTILE))
    body = voxels[voxels > BODY_LEVEL * rough] if rough > 0 else voxels[:0]
    return float(np.percentile(body, SCALE_PERCENTILE)) if body.size else 1.0


def body_mask(scaled: NDArray[np.float32]) -> Mask:
    """Voxels of the body and a margin of two around it, of a volume divided by its ``body_scale``."""
    mask = gaussian(scaled, sigma=BODY_SMOOTHING_VOXELS, radius=BODY_SMOOTHING_RADIUS) > BODY_LEVEL
    for _ in range(BODY_DILATION_VOXELS):
        mask = _dilated(mask)
    return mask


def body_box(mask: Mask) -> tuple[slice, slice, slice]:
    """The smallest box that holds the whole mask; the whole volume where the mask is empty."""
    if not mask.any():
        return (slice(None), slice(None), slice(None))
    z, y, x = (np.flatnonzero(mask.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1)))
    return (slice(z[0], z[-1] + 1), slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1))


def body_window(voxels: NDArray[np.float32], side: int = WINDOW) -> tuple[slice, slice]:
    """Rows and columns of a window of at most ``side`` pixels each way around the middle of the body."""
    coarse = voxels[:, ::COARSE, ::COARSE]
    body = coarse > BODY_LEVEL * np.float32(body_scale(coarse))
    rows, columns = (
        _centred(extent, side, np.flatnonzero(body.any(axis=others)) * COARSE)
        for extent, others in zip(voxels.shape[1:], ((0, 2), (0, 1)), strict=True)
    )
    return rows, columns


def _centred(extent: int, side: int, held: NDArray[np.intp]) -> slice:
    """Of ``extent`` pixels, a window around the middle of those that hold body."""
    width = min(side, extent)
    middle = int(held[0] + held[-1]) // 2 if held.size else extent // 2
    start = min(max(middle - width // 2, 0), extent - width)
    return slice(start, start + width)


def _dilated(mask: Mask) -> Mask:
    """The mask and its six-neighbours."""
    grown = mask.copy()
    for axis in range(mask.ndim):
        ahead, behind = np.moveaxis(grown, axis, 0), np.moveaxis(mask, axis, 0)
        ahead[1:] |= behind[:-1]
        ahead[:-1] |= behind[1:]
    return grown
