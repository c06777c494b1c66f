"""Samples of the ``thin`` network: strips of simulated thick slices with the thin truth of three of them.

A strip is eleven neighbouring thick slices of one patch; the network predicts three neighbouring ones of them, so that
the loss sees the seams between slabs. Contrast is changed on the thin truth, before it is averaged
(docs/science.md#design-of-thin).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dicomnode.imaging.profile import consistency
from trainer.training.recipe import Recipe
from trainer.training.recipe_tables import PREDICTED_SLICES
from trainer.training.simulate import FloatArray, GreyVolume, acquire, draw_degradation, profile_rows
from trainer.training.variation import (
    Sides,
    add_lesions,
    add_ramp,
    draw_contrast,
    draw_warp,
    smooth,
    warp,
    warp_source,
)

STRIP_SLICES = 11  # three windows of five, and two more slices each side so that cubic-dc has its context
MARGIN_SLICES = 1  # simulated each side and dropped, for the tails of profiles wider than the spacing
END_SHARE = 0.15  # of strips that end the stack, where end slices are repeated
BODY_SHARE = 0.3  # of a patch's middle slice that must be body …
BODY_ATTEMPTS = 8  # … unless so many draws found none


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Strip:
    """One sample."""

    thick: FloatArray  # (STRIP_SLICES, P, Q)
    base: FloatArray  # (3·ratio, P, Q): cubic-dc of the predicted slices
    truth: FloatArray  # (3·ratio, P, Q)
    first: int  # index of the first predicted slice in ``thick``
    thickness_over_spacing: float  # as consistency assumes it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StripBatch:
    """Strips of one ratio and one shape, stacked."""

    ratio: int
    thick: FloatArray  # (B, STRIP_SLICES, P, Q)
    base: FloatArray  # (B, 3·ratio, P, Q)
    truth: FloatArray  # (B, 3·ratio, P, Q)
    first: tuple[int, ...]
    thickness_over_spacing: tuple[float, ...]

    @property
    def images(self) -> int:
        """Windows that go through the network."""
        return len(self.thick) * PREDICTED_SLICES

    def mirrored(self) -> StripBatch:
        """The same strips with their slices in reverse order."""
        thick, base, truth = (np.flip(one, 1).copy() for one in (self.thick, self.base, self.truth))
        first = tuple(STRIP_SLICES - PREDICTED_SLICES - index for index in self.first)
        return replace(self, thick=thick, base=base, truth=truth, first=first)


def smallest_extent(recipe: Recipe) -> tuple[int, int]:
    """(along the slice axis, in plane): what a volume must measure, in voxels, for a strip of any kind."""
    depth = (STRIP_SLICES + 2 * MARGIN_SLICES) * max(recipe.samples.ratios)
    return depth, max(_cut_sides(recipe.samples.patch, is_warped=_may_warp(recipe), is_native=False))


def smallest_slices(recipe: Recipe) -> int:
    """The least number of slices of a thick stack whose rows and columns teach, as ``draw_strip`` cuts it."""
    sides = recipe.samples.patch
    return min(_cut_sides(sides, is_warped=_may_warp(recipe), is_native=not recipe.samples.is_square))


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


def draw_strip(
    volumes: tuple[GreyVolume, ...],
    ratio: int,
    recipe: Recipe,
    rng: np.random.Generator,
    *,
    is_turned: bool = False,
) -> Strip:
    """One sample from a random volume, plane and place; ``is_turned``: with the second side of a patch as its rows."""
    augmentation, (first_side, second_side) = recipe.augmentation, recipe.samples.patch
    sides = (second_side, first_side) if is_turned else (first_side, second_side)
    warped = rng.random() < augmentation.warp_share
    levels, is_native = _draw_patch(volumes, ratio, sides, rng, is_warped=warped)
    thin = smooth(draw_contrast(augmentation, rng)[levels], augmentation, rng)
    add_lesions(thin, ratio, augmentation, rng)
    add_ramp(thin, augmentation, rng)

    drawn = draw_degradation(recipe.degradation, rng)
    rows = profile_rows(STRIP_SLICES + 2 * MARGIN_SLICES, ratio, drawn, dropped=MARGIN_SLICES)
    thick = np.tensordot(rows, thin, axes=1)
    first = _draw_first(rng)
    begin = (MARGIN_SLICES + first) * ratio
    truth = thin[begin : begin + PREDICTED_SLICES * ratio]
    if warped:
        matrix, offset = draw_warp(sides, rng, is_rotated=not is_native)
        thick, truth = warp(thick, sides, matrix, offset), warp(truth, sides, matrix, offset)
    thick = acquire(thick, drawn, rng)

    assumed = min(drawn.thickness_over_spacing, 1.0)
    cubic_dc = consistency(STRIP_SLICES, ratio, assumed).cubic_dc[first * ratio : (first + PREDICTED_SLICES) * ratio]
    base = np.tensordot(cubic_dc.astype(np.float32), thick, axes=1)
    return Strip(thick=thick, base=base, truth=truth, first=first, thickness_over_spacing=assumed)


def _draw_patch(
    volumes: tuple[GreyVolume, ...], ratio: int, sides: Sides, rng: np.random.Generator, *, is_warped: bool
) -> tuple[NDArray[np.uint16], bool]:
    """Levels (13·ratio, rows, columns) and whether they are of a native stack; slices along a random axis, turned at
    random, but the slices of a native stack along the shorter side."""
    depth = (STRIP_SLICES + 2 * MARGIN_SLICES) * ratio
    for _ in range(BODY_ATTEMPTS):
        volume = volumes[rng.integers(len(volumes))]
        levels = np.moveaxis(volume.levels, rng.choice(volume.slice_axes), 0)
        # Axis 0 of a native stack, which is never the slice axis, is the first of the other two here.
        if (sides[0] > sides[1]) if volume.is_native else rng.random() < 0.5:
            levels = levels.transpose(0, 2, 1)
        shape = (depth, *_cut_sides(sides, is_warped=is_warped, is_native=volume.is_native))
        start = [rng.integers(extent - length + 1) for extent, length in zip(levels.shape, shape, strict=True)]
        patch = levels[tuple(slice(first, first + length) for first, length in zip(start, shape, strict=True))]
        if (patch[depth // 2, ::4, ::4] > volume.body_level).mean() > BODY_SHARE:
            break
    flips = tuple(slice(None, None, -1) if flip else slice(None) for flip in rng.random(3) < 0.5)
    return patch[flips], volume.is_native


def _cut_sides(sides: Sides, *, is_warped: bool, is_native: bool) -> Sides:
    """The sides that are cut out of a volume for a patch: more than the patch, where it is warped."""
    return warp_source(sides, is_rotated=not is_native) if is_warped else sides


def _may_warp(recipe: Recipe) -> bool:
    return recipe.augmentation.warp_share > 0


def _draw_first(rng: np.random.Generator) -> int:
    """Mostly the middle of the strip; else one of its ends, which then is the end of the stack."""
    if rng.random() >= END_SHARE:
        return (STRIP_SLICES - PREDICTED_SLICES) // 2
    return int(rng.choice((0, STRIP_SLICES - PREDICTED_SLICES)))
