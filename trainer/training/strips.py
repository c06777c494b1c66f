"""Samples of the ``thin`` network: strips of simulated thick slices with the thin truth of three of them.

A strip is eleven neighbouring thick slices of one patch; the network predicts three neighbouring ones of them, so that
the loss sees the seams between slabs. Contrast is changed on the thin truth, before it is averaged
(docs/science.md#design-of-thin).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomnode.imaging.profile import consistency
from trainer.training.recipe import Recipe
from trainer.training.recipe_tables import PREDICTED_SLICES
from trainer.training.simulate import (
    WARP_SOURCE,
    FloatArray,
    GreyVolume,
    acquire,
    add_ramp,
    draw_contrast,
    draw_degradation,
    draw_warp,
    profile_rows,
    warp,
)

STRIP_SLICES = 11  # three windows of five, and two more slices each side so that cubic-dc has its context
MARGIN_SLICES = 1  # simulated each side and dropped, for the tails of profiles wider than the spacing
END_SHARE = 0.15  # of strips that end the stack, where end slices are repeated
BODY_SHARE = 0.3  # of a patch's middle slice that must be body …
BODY_ATTEMPTS = 8  # … unless so many draws found none


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Strip:
    """One sample."""

    thick: FloatArray  # (STRIP_SLICES, P, P)
    base: FloatArray  # (3·ratio, P, P): cubic-dc of the predicted slices
    truth: FloatArray  # (3·ratio, P, P)
    first: int  # index of the first predicted slice in ``thick``
    thickness_over_spacing: float  # as consistency assumes it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StripBatch:
    """Strips of one ratio, stacked."""

    ratio: int
    thick: FloatArray  # (B, STRIP_SLICES, P, P)
    base: FloatArray  # (B, 3·ratio, P, P)
    truth: FloatArray  # (B, 3·ratio, P, P)
    first: tuple[int, ...]
    thickness_over_spacing: tuple[float, ...]

    @property
    def images(self) -> int:
        """Windows that go through the network."""
        return len(self.thick) * PREDICTED_SLICES


def smallest_extent(recipe: Recipe) -> tuple[int, int]:
    """(along the slice axis, in plane): what a volume must measure, in voxels, for a strip of any kind."""
    depth = (STRIP_SLICES + 2 * MARGIN_SLICES) * max(recipe.samples.ratios)
    wide = WARP_SOURCE if recipe.augmentation.warp_share else 1.0
    return depth, int(recipe.samples.patch * wide)


def stacked(strips: list[Strip], ratio: int) -> StripBatch:
    """Strips of one ratio as a batch."""
    return StripBatch(
        ratio=ratio,
        thick=np.stack([strip.thick for strip in strips]),
        base=np.stack([strip.base for strip in strips]),
        truth=np.stack([strip.truth for strip in strips]),
        first=tuple(strip.first for strip in strips),
        thickness_over_spacing=tuple(strip.thickness_over_spacing for strip in strips),
    )


def draw_strip(volumes: tuple[GreyVolume, ...], ratio: int, recipe: Recipe, rng: np.random.Generator) -> Strip:
    """One sample from a random volume, plane and place."""
    augmentation, size = recipe.augmentation, recipe.samples.patch
    warped = rng.random() < augmentation.warp_share
    levels = _draw_patch(volumes, ratio, int(size * WARP_SOURCE) if warped else size, rng)
    thin = draw_contrast(augmentation, rng)[levels]
    add_ramp(thin, augmentation, rng)

    drawn = draw_degradation(recipe.degradation, rng)
    rows = profile_rows(STRIP_SLICES + 2 * MARGIN_SLICES, ratio, drawn, dropped=MARGIN_SLICES)
    thick = np.tensordot(rows, thin, axes=1)
    first = _draw_first(rng)
    begin = (MARGIN_SLICES + first) * ratio
    truth = thin[begin : begin + PREDICTED_SLICES * ratio]
    if warped:
        matrix, offset = draw_warp(size, rng)
        thick, truth = warp(thick, size, matrix, offset), warp(truth, size, matrix, offset)
    thick = acquire(thick, drawn, rng)

    assumed = min(drawn.thickness_over_spacing, 1.0)
    cubic_dc = consistency(STRIP_SLICES, ratio, assumed).cubic_dc[first * ratio : (first + PREDICTED_SLICES) * ratio]
    base = np.tensordot(cubic_dc.astype(np.float32), thick, axes=1)
    return Strip(thick=thick, base=base, truth=truth, first=first, thickness_over_spacing=assumed)


def _draw_patch(volumes: tuple[GreyVolume, ...], ratio: int, size: int, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Levels (13·ratio, size, size), slices along a random axis, flipped and transposed at random."""
    depth = (STRIP_SLICES + 2 * MARGIN_SLICES) * ratio
    for _ in range(BODY_ATTEMPTS):
        volume = volumes[rng.integers(len(volumes))]
        levels = np.moveaxis(volume.levels, rng.choice(volume.slice_axes), 0)
        if rng.random() < 0.5:
            levels = levels.transpose(0, 2, 1)
        start = [
            rng.integers(extent - length + 1) for extent, length in zip(levels.shape, (depth, size, size), strict=True)
        ]
        patch = levels[start[0] : start[0] + depth, start[1] : start[1] + size, start[2] : start[2] + size]
        if (patch[depth // 2, ::4, ::4] > volume.body_level).mean() > BODY_SHARE:
            break
    flips = tuple(slice(None, None, -1) if flip else slice(None) for flip in rng.random(3) < 0.5)
    return patch[flips]


def _draw_first(rng: np.random.Generator) -> int:
    """Mostly the middle of the strip; else one of its ends, which then is the end of the stack."""
    if rng.random() >= END_SHARE:
        return (STRIP_SLICES - PREDICTED_SLICES) // 2
    return int(rng.choice((0, STRIP_SLICES - PREDICTED_SLICES)))
