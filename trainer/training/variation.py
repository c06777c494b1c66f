"""Thin slices varied before they are made thick: contrast, ramps, smoothness, lesions, rotation and scale.

Each is drawn from the random numbers of one sample, by the shares of a recipe's ``augmentation`` table. What is changed
here is changed in the truth, so the thick slices that are made from it show it, too (docs/science.md#design-of-thin).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from trainer.training.recipe_tables import Augmentation
from trainer.training.simulate import BRIGHTEST, GREY_LEVELS, FloatArray

Sides = tuple[int, int]  # rows and columns of a patch, pixels

REMAP_KNOTS = 6
WARP_SCALE = (0.6, 1.1)  # source pixels per patch pixel: also what finer pixels than the thin spacing look like
WARP_SOURCE = 1.5  # side of a rotated or scaled patch's source ÷ the longer side of the patch
RAMP_MAX = 1.0  # rise over the whole strip
SMOOTHING_VOXELS = (0.4, 1.0)  # σ of a Gaussian in all three directions
LESIONS = (2, 12)  # of a strip that has some, over all its slices
LESION_EXTENT = (0.3, 2.5)  # along z, in thick slices; drawn evenly by its logarithm
LESION_RADIUS_PIXELS = (1.5, 6.0)
LESION_CONTRAST = (0.1, 0.5)  # of the scale, brighter or darker
LESION_EDGE_VOXELS = (0.5, 2.0)  # over which its border fades, by the shortest radius


def draw_contrast(augmentation: Augmentation, rng: np.random.Generator) -> FloatArray:
    """Table (GREY_LEVELS,) from level to value: gamma, and now and then a random remap or an inversion."""
    value = np.arange(GREY_LEVELS, dtype=np.float64) * (BRIGHTEST / GREY_LEVELS)
    value = value ** np.exp(rng.uniform(-augmentation.gamma_log, augmentation.gamma_log))
    if rng.random() < augmentation.remap_share:
        knots = np.linspace(0.0, 1.0, REMAP_KNOTS)
        value = np.interp(value, knots, np.concatenate([[0.0], rng.uniform(0.0, 1.0, REMAP_KNOTS - 1)]))
    if rng.random() < augmentation.inversion_share:
        value = 1.0 - np.minimum(value, 1.0)
    gain = np.exp(rng.uniform(-augmentation.gain_log, augmentation.gain_log))
    table: FloatArray = (value * gain).astype(np.float32)
    return table


def add_ramp(thin: FloatArray, augmentation: Augmentation, rng: np.random.Generator) -> None:
    """Now and then adds a linear ramp along the slice axis in place, or leaves nothing but one."""
    draw = rng.random()
    if draw >= augmentation.ramp_share + augmentation.pure_ramp_share:
        return
    if draw < augmentation.pure_ramp_share:
        thin[...] = 0.0
    rise = rng.uniform(-RAMP_MAX, RAMP_MAX)
    thin += np.linspace(max(-rise, 0.0), max(rise, 0.0), len(thin), dtype=np.float32)[:, None, None]


def smooth(thin: FloatArray, augmentation: Augmentation, rng: np.random.Generator) -> FloatArray:
    """Now and then smooth the thin slices in every direction, as of a series that was resampled or denoised.

    Without such samples a network takes the grain of its training volumes for what every scan has.
    """
    if not augmentation.smoothing_share or rng.random() >= augmentation.smoothing_share:
        return thin
    smoothed: FloatArray = ndimage.gaussian_filter(thin, rng.uniform(*SMOOTHING_VOXELS), mode="nearest", truncate=3.0)
    return smoothed


def add_lesions(thin: FloatArray, ratio: int, augmentation: Augmentation, rng: np.random.Generator) -> None:
    """Now and then adds ellipsoids in place, brighter or darker than what is there, at random places of the strip.

    Small findings are rare in a dozen heads, and what is rare a network learns to smooth away.
    """
    if not augmentation.lesion_share or rng.random() >= augmentation.lesion_share:
        return
    for _ in range(rng.integers(LESIONS[0], LESIONS[1] + 1)):
        radii = np.array(
            [np.exp(rng.uniform(*np.log(LESION_EXTENT))) * ratio / 2, *rng.uniform(*LESION_RADIUS_PIXELS, 2)],
            dtype=np.float32,
        )
        centre = rng.uniform(0, thin.shape)
        contrast = np.float32(rng.choice((-1.0, 1.0)) * rng.uniform(*LESION_CONTRAST))
        _add_ellipsoid(thin, centre, radii, contrast, edge=rng.uniform(*LESION_EDGE_VOXELS))


def _add_ellipsoid(
    thin: FloatArray, centre: NDArray[np.float64], radii: FloatArray, contrast: np.float32, *, edge: float
) -> None:
    """``contrast`` inside an ellipsoid, fading over about ``edge`` voxels at its border."""
    reach = radii + edge
    low = np.maximum(np.floor(centre - reach).astype(int), 0)
    high = np.minimum(np.ceil(centre + reach).astype(int) + 1, thin.shape)
    axes = [
        ((np.arange(first, last) - middle) / radius).astype(np.float32)
        for first, last, middle, radius in zip(low, high, centre, radii, strict=True)
    ]
    distance = np.sqrt(axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2)
    inside = np.clip(0.5 + (1 - distance) * (radii.min() / np.float32(edge)), 0, 1)
    thin[tuple(slice(first, last) for first, last in zip(low, high, strict=True))] += contrast * inside


def warp_source(sides: Sides, *, is_rotated: bool) -> Sides:
    """The sides of what a patch is warped from: at any angle a square, else a little more than the patch."""
    if is_rotated:
        side = int(max(sides) * WARP_SOURCE)
        return side, side
    rows, columns = (math.ceil(side * WARP_SCALE[1]) for side in sides)
    return rows, columns


def draw_warp(
    sides: Sides, rng: np.random.Generator, *, is_rotated: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A scale, and with it a rotation by any angle, about the patch centre, as ``affine_transform`` takes it.

    Pixels that are not square are not rotated: what they show would be sheared.
    """
    angle, scale = rng.uniform(0, 2 * np.pi) if is_rotated else 0.0, rng.uniform(*WARP_SCALE)
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle, source_middle = (
        (np.array(lengths) - 1) / 2 for lengths in (sides, warp_source(sides, is_rotated=is_rotated))
    )
    return matrix, source_middle - matrix @ middle


def warp(slices: FloatArray, sides: Sides, matrix: NDArray[np.float64], offset: NDArray[np.float64]) -> FloatArray:
    """Each slice resampled in its plane to ``sides``; commutes with averaging along z, so it is done after it."""
    warped = np.empty((len(slices), *sides), dtype=np.float32)
    for source, target in zip(slices, warped, strict=True):
        ndimage.affine_transform(source, matrix, offset, output=target, order=3, mode="mirror")
    return warped
