"""Samples of the slice-by-slice networks: one slice in, the thin slice at its place (and its neighbours) out.

They come from pairs of stacks, real ones or simulated; which of the two a pair is stands in it (``Origin``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from dicomnode.generators.kinds import NETWORKS, Prediction
from dicomnode.imaging.body import BODY_LEVEL, body_box, body_mask, body_scale
from dicomnode.imaging.profile import spline_matrix
from trainer.data.pairs import Origin, SlicePairs, simulated_pairs
from trainer.training.recipe import Recipe
from trainer.training.recipe_tables import Input, Order, Scale
from trainer.training.simulate import FloatArray, acquire, draw_degradation

BODY_SHARE = 0.3  # of a patch that must be body …
BODY_ATTEMPTS = 8  # … unless so many draws found none
BODY_STRIDE = 4  # pixels between those that are looked at for it
SPLINE_FORGOTTEN = 1e-6  # weights of slices so far away that their share is lost in float32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SliceBatch:
    """Slices of one size, stacked."""

    inputs: FloatArray  # (B, 1, P, P)
    targets: FloatArray  # (B, 1 or 3, P, P)

    @property
    def images(self) -> int:
        """Slices that go through the network."""
        return len(self.inputs)


def simulated(
    voxels: FloatArray, subject: str, recipe: Recipe, rng: np.random.Generator, *, axes: Sequence[int] = (0, 1, 2)
) -> Iterator[SlicePairs]:
    """A thin volume as pairs: one for each axis and ratio, with one drawn degradation for the whole stack."""
    cropped = voxels[body_box(body_mask(voxels / np.float32(body_scale(voxels))))]
    for axis in axes:
        for ratio in recipe.samples.ratios:
            drawn = draw_degradation(recipe.degradation, rng)
            pairs = simulated_pairs(
                cropped,
                subject,
                plane=axis,
                ratio=ratio,
                kind=drawn.profile,
                thickness_over_spacing=drawn.thickness_over_spacing,
                offset=drawn.offset,
            )
            yield replace(pairs, thick=acquire(pairs.thick, drawn, rng))


def draw_batch(pairs: Sequence[SlicePairs], recipe: Recipe, numbers: range, seed: int, step: int) -> SliceBatch:
    """Samples ``numbers`` of the batch of one step."""
    drawn = [_draw(pairs, recipe, seed, step, number) for number in numbers]
    return SliceBatch(
        inputs=np.stack([source for source, _ in drawn])[:, None], targets=np.stack([target for _, target in drawn])
    )


def _draw(
    pairs: Sequence[SlicePairs], recipe: Recipe, seed: int, step: int, number: int
) -> tuple[FloatArray, FloatArray]:
    """(input (P, P), target (C, P, P)) of one sample; depends on nothing but these numbers."""
    rng = np.random.default_rng((seed, step, number))
    counts = np.array([len(pair.matches) for pair in pairs])
    if recipe.samples.order is Order.SERIES:
        place = (step * recipe.samples.batch + number) % counts.sum()
    else:
        place = rng.integers(counts.sum())
    which = int(np.searchsorted(np.cumsum(counts), place, side="right"))
    pair = pairs[which]
    match = int(place - counts[:which].sum())
    rows, columns = _draw_window(pair, match, recipe, rng)
    source, target = _cut(pair, match, recipe, rows, columns, rng)
    if recipe.samples.scale is Scale.RAW:
        source, target = source * np.float32(pair.thick_scale), target * np.float32(pair.thin_scale)
    if recipe.samples.order is Order.SHUFFLED:
        source, target = _turned(source, target, rng)
    gain = np.float32(np.exp(rng.uniform(-recipe.augmentation.gain_log, recipe.augmentation.gain_log)))
    return np.ascontiguousarray(source * gain), np.ascontiguousarray(target * gain)


def _draw_window(pair: SlicePairs, match: int, recipe: Recipe, rng: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of the patch, on the body if it can be found; a slice that is too small is taken whole."""
    image = pair.thick[pair.matches[match][0]]
    size, _ = recipe.samples.patch
    if size == 0:
        return slice(None), slice(None)
    if min(image.shape) < size:
        raise AssertionError("pairs smaller than a patch are left out when they are loaded")
    for _ in range(BODY_ATTEMPTS):
        top, left = (int(rng.integers(extent - size + 1)) for extent in image.shape)
        window = slice(top, top + size), slice(left, left + size)
        if (image[window][::BODY_STRIDE, ::BODY_STRIDE] > BODY_LEVEL).mean() > BODY_SHARE:
            break
    return window


def _cut(
    pair: SlicePairs, match: int, recipe: Recipe, rows: slice, columns: slice, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    thick_index, thin_index = pair.matches[match]
    if NETWORKS[recipe.network.kind].prediction is Prediction.THREE_SLICES:
        middle = min(max(thin_index, 1), len(pair.thin) - 2)  # the code shifted the stack at the ends instead
        return pair.thick[thick_index, rows, columns], pair.thin[middle - 1 : middle + 2, rows, columns]
    if recipe.samples.input is Input.THICK:
        return pair.thick[thick_index, rows, columns], pair.thin[None, thin_index, rows, columns]
    # Any thin slice will do, for interpolation makes an input at its place.
    slices, ratio = len(pair.thick), len(pair.thin) // len(pair.thick)
    assert pair.origin is Origin.SIMULATED, "the grids of a real pair share no ratio"
    thin_index = int(rng.integers(slices * ratio))
    weights = _spline(slices, ratio)[thin_index]
    near = np.flatnonzero(weights)
    near = np.arange(near[0], near[-1] + 1)
    cubic = np.tensordot(weights[near], pair.thick[near[0] : near[-1] + 1, rows, columns], axes=1)
    return cubic, pair.thin[None, thin_index, rows, columns]


@lru_cache(maxsize=64)
def _spline(slices: int, ratio: int) -> FloatArray:
    """(slices·ratio, slices): the thick slices' weights in each cubic-interpolated thin one."""
    matrix: FloatArray = spline_matrix(slices, ratio).astype(np.float32)
    matrix[np.abs(matrix) < SPLINE_FORGOTTEN] = 0.0
    matrix.setflags(write=False)
    return matrix


def _turned(source: FloatArray, target: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Flipped and transposed at random, both alike."""
    rows, columns = (slice(None, None, -1) if flip else slice(None) for flip in rng.random(2) < 0.5)
    source, target = source[rows, columns], target[:, rows, columns]
    if rng.random() < 0.5 and source.shape[0] == source.shape[1]:
        source, target = source.T, target.transpose(0, 2, 1)
    return source, target
