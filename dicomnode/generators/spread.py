"""The spread of a generator's thin slices when the series is turned and mirrored, as a measure of guessed detail.

Anatomy that the thick slices determine comes out the same whichever way the picture lies; detail that the network
supplies from what it has learned does not. The figure says how sure the model is of itself, not how right it is: all
sixteen may agree on the same mistake.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from dicomnode.generators.base import Generator, Progress, thin_volume
from dicomnode.imaging.body import body_mask, body_scale
from dicomnode.imaging.profile import ThinGrid
from dicomnode.imaging.volume import Volume

FloatArray = NDArray[np.float32]

# Slices, rows and columns each in order or reversed, and rows and columns exchanged or not.
SYMMETRIES = tuple(product((False, True), repeat=4))
HIGH_PERCENTILE = 99.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Standard deviations over the symmetries, inside the body, as shares of the series' brightness."""

    average: float  # root of the mean square
    high: float  # a hundredth of the body lies above it

    @property
    def sentence(self) -> str:
        """Say the figure in one sentence to an operator."""
        return (
            f"Turned and mirrored in {len(SYMMETRIES)} ways, the series gives thin slices that differ by "
            f"{self.average:.2%} of its brightness, and by more than {self.high:.2%} in a hundredth of the body: "
            "detail there is guessed."
        )


def deviation_of(
    generator: Generator, thick: Volume, grid: ThinGrid, *, device: str, progress: Progress | None = None
) -> Volume:
    """The standard deviation over the symmetries of each thin voxel, in the units of ``thick``.

    Runs the generator once for each symmetry, so it takes sixteen times as long as the series itself. Memory beyond
    that of one run: two stacks of the size of the thin one.
    """
    mean = np.zeros((grid.slices, *thick.voxels.shape[1:]), dtype=np.float32)
    squares = np.zeros_like(mean)  # of the deviations from the mean (Welford 1962)
    for number, thin in enumerate(_turned(generator, thick, grid, device), start=1):
        np.subtract(thin, mean, out=thin)
        mean += thin / np.float32(number)
        squares += np.square(thin) * np.float32((number - 1) / number)
        if progress is not None:
            progress(number / len(SYMMETRIES))
    squares /= np.float32(len(SYMMETRIES) - 1)
    return thin_volume(np.sqrt(squares, out=squares), thick, grid)


def spread_of(deviation: Volume, thick: Volume) -> Spread:
    """Sum up what ``deviation_of`` found in the body of ``thick``."""
    scale = body_scale(thick.voxels)
    ratio = len(deviation.voxels) // len(thick.voxels)
    mask = np.repeat(body_mask(thick.voxels / np.float32(scale)), ratio, axis=0)
    found = deviation.voxels[mask] / np.float32(scale)
    if not found.size:
        return Spread(average=0.0, high=0.0)
    return Spread(
        average=math.sqrt(float(np.square(found).mean(dtype=np.float64))),
        high=float(np.percentile(found, HIGH_PERCENTILE)),
    )


def _turned(generator: Generator, thick: Volume, grid: ThinGrid, device: str) -> Iterator[FloatArray]:
    """The thin stack of each symmetry, turned back."""
    for *reversed_axes, is_exchanged in SYMMETRIES:
        order = tuple(slice(None, None, -1) if is_reversed else slice(None) for is_reversed in reversed_axes)
        turned = thick.voxels[order]
        if is_exchanged:
            turned = turned.swapaxes(1, 2)
        # The geometry stays: a generator reads nothing of it but the ratio and the thickness.
        made = generator.generate(replace(thick, voxels=np.ascontiguousarray(turned)), grid, device=device).thin.voxels
        back = made.swapaxes(1, 2) if is_exchanged else made
        yield back[order].copy()
