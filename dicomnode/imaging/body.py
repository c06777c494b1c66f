"""Find the body in a volume and measure its brightness, the scale that networks and metrics share."""

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
SQUARE = 4  # pixels to a side
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


def body_rectangle(voxels: NDArray[np.float32], scale: float, margin: int) -> tuple[slice, slice]:
    """Rows and columns that hold the body on every slice, and ``margin`` pixels around it; all where there is none.

    Seen on squares of four pixels, whose mean the noise of air does not lift above ``BODY_LEVEL``; a body that takes
    up only a part of a square is found where its neighbours are.
    """
    height, width = voxels.shape[1:]
    rows, columns = np.zeros(height, dtype=np.bool_), np.zeros(width, dtype=np.bool_)
    row_starts, column_starts = np.arange(0, height, SQUARE), np.arange(0, width, SQUARE)
    counts = np.outer(np.diff(row_starts, append=height), np.diff(column_starts, append=width))
    for plane in voxels:
        sums = np.add.reduceat(np.add.reduceat(plane, row_starts, axis=0), column_starts, axis=1)
        is_body = sums > BODY_LEVEL * scale * counts
        rows |= is_body.any(axis=1).repeat(SQUARE)[:height]
        columns |= is_body.any(axis=0).repeat(SQUARE)[:width]
    return _span(rows, margin), _span(columns, margin)


def body_box(mask: Mask) -> tuple[slice, slice, slice]:
    """The smallest box that holds the whole mask; the whole volume where the mask is empty."""
    if not mask.any():
        return (slice(None), slice(None), slice(None))
    z, y, x = (np.flatnonzero(mask.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1)))
    return (slice(z[0], z[-1] + 1), slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1))


def _span(is_body: NDArray[np.bool_], margin: int) -> slice:
    """The range from the first to the last true value, with a margin; it begins and ends at a square's edge."""
    found = np.flatnonzero(is_body)
    if not found.size:
        return slice(0, len(is_body))
    first, last = int(found[0]), int(found[-1])
    return slice(max(first - margin, 0) // SQUARE * SQUARE, min(last + 1 + margin, len(is_body)))


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
    """Return a window within ``extent`` pixels, around the middle of the pixels that hold body."""
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
