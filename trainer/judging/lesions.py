"""Lesions that are put into a truth: ellipsoids of known contrast at random places of the tissue."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from trainer.judging.cases import Case

FloatArray = NDArray[np.float32]

# Single lesions come back with anything between half and one and a half of what cubic-dc recovers of them: the mean
# over 12 was off by .05, over 192 it is off by about .01.
LESIONS = 192
LESIONS_FILL = 0.02  # of the tissue at most: a small volume has its lesions put in a few at a time
LESION_RADIUS_PIXELS = 3.0
LESION_CONTRAST = 0.3  # of the scale
LESION_EXTENTS = (0.5, 1.0, 2.0)  # along z, in thick slices
LESION_TISSUE = 0.25  # lesions go where the scan is brighter than this: into tissue
LESION_MARGIN_SLICES, LESION_MARGIN_PIXELS = 3, 8  # from the volume's faces: thick slices, pixels
SEED = 7


def has_room(case: Case) -> bool:
    """Is there a voxel far enough from every face?"""
    return all(extent > 2 * edge for extent, edge in zip(case.truth.shape, _margin(case.ratio), strict=True))


def draw_lesions(case: Case, extent: float) -> Iterator[FloatArray]:
    """1 inside ellipsoids at random places of the tissue, 0 elsewhere; ``extent`` in thick slices along z.

    ``LESIONS`` in all, in as many arrays as the share ``LESIONS_FILL`` of the tissue asks for.
    """
    rng = np.random.default_rng(SEED)
    radii = np.array([extent * case.ratio / 2, LESION_RADIUS_PIXELS, LESION_RADIUS_PIXELS])
    margin = np.array(_margin(case.ratio))
    tissue = np.argwhere(case.truth > LESION_TISSUE)
    tissue = tissue[((tissue >= margin) & (tissue < case.truth.shape - margin)).all(axis=1)]
    if not len(tissue):
        return
    at_once = max(int(LESIONS_FILL * len(tissue) / (4 / 3 * np.pi * radii.prod())), 1)
    for first in range(0, LESIONS, at_once):
        chosen = rng.choice(len(tissue), min(at_once, LESIONS - first, len(tissue)), replace=False)
        centres = tissue[chosen] + rng.uniform(-0.5, 0.5, (len(chosen), 3))
        yield _ellipsoids(case.truth.shape, centres, radii)


def _margin(ratio: int) -> tuple[int, int, int]:
    return LESION_MARGIN_SLICES * ratio, LESION_MARGIN_PIXELS, LESION_MARGIN_PIXELS


def _ellipsoids(shape: tuple[int, ...], centres: NDArray[np.float64], radii: NDArray[np.float64]) -> FloatArray:
    found = np.zeros(shape, dtype=np.float32)
    for centre in centres:
        low = np.floor(centre - radii).astype(int)
        high = np.ceil(centre + radii).astype(int) + 1
        box = tuple(slice(start, stop) for start, stop in zip(low, high, strict=True))
        grid = np.stack(np.meshgrid(*(np.arange(b.start, b.stop) for b in box), indexing="ij"), axis=-1)
        found[box][(((grid - centre) / radii) ** 2).sum(axis=-1) <= 1.0] = 1.0
    return found
