"""Thick slices from thin ones, and thin ones varied: parameters are drawn first and applied then, all by one seed.

What a pair of thick and thin slices made here cannot show is motion and another contrast: whatever counts pairs says of
these that they are simulated. Physics: docs/science.md#slice-profile; the variations were measured in
docs/science.md#design-of-thin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dicomnode.generators.cubic_dc import cubic_dc
from dicomnode.imaging.body import BODY_LEVEL, body_box, body_mask, body_scale
from dicomnode.imaging.profile import ProfileKind, assumed_thickness_over_spacing, choose_ratio, profile_matrix
from dicomnode.imaging.volume import Volume
from trainer.training.recipe_tables import Augmentation, Degradation

FloatArray = NDArray[np.float32]
Sides = tuple[int, int]  # rows and columns of a patch, pixels

GREY_LEVELS = 8192  # a contrast change becomes one table look-up; 5e-4 of the scale is far below the noise
BRIGHTEST = 4.0  # × scale; brighter voxels are clipped
REMAP_KNOTS = 6
WARP_SCALE = (0.6, 1.1)  # source pixels per patch pixel: also what finer pixels than the thin spacing look like
WARP_SOURCE = 1.5  # side of a rotated or scaled patch's source ÷ the longer side of the patch
RAMP_MAX = 1.0  # rise over the whole strip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GreyVolume:
    """A thin volume cropped to its body, as grey levels of ``BRIGHTEST`` / ``GREY_LEVELS`` of its scale."""

    levels: NDArray[np.uint16]  # (D, H, W)
    body_level: int  # levels above it are body
    slice_axes: tuple[int, ...] = (0, 1, 2)  # along which it may be taken as a stack of thin slices
    is_native: bool = False  # a thick stack as it was scanned: along axis 0 its voxels are longer than in its planes


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One way to make a thick stack of a thin one."""

    profile: ProfileKind
    thickness_over_spacing: float
    offset: float  # of the thin grid, in thick spacings
    noise_sigma: float  # Rician, 1 = scale
    flicker_sigma: float  # of the logarithm of each slice's gain


def grey_volume(voxels: FloatArray) -> GreyVolume:
    """Scale, crop to the body and quantise."""
    scaled = voxels / np.float32(body_scale(voxels))
    scaled = scaled[body_box(body_mask(scaled))]
    levels = np.clip(np.rint(scaled * (GREY_LEVELS / BRIGHTEST)), 0, GREY_LEVELS - 1).astype(np.uint16)
    return GreyVolume(levels=levels, body_level=int(BODY_LEVEL * GREY_LEVELS / BRIGHTEST))


def in_plane_volume(thick: Volume, smallest: int, *, is_native: bool) -> GreyVolume:
    """The in-plane detail of a thick stack as a thin volume whose rows or columns are taken as its slice axis.

    Between the slices there is no detail, so axis 0 is never the slice axis: cubic-dc fills it, or, of a volume that
    ``is_native``, its voxels stay as long as they are. A stack of few slices is mirrored until it holds ``smallest`` of
    them, the least that a patch needs.
    """
    ratio = choose_ratio(thick.slice_spacing_mm, min(thick.row_spacing_mm, thick.column_spacing_mm)) or 1
    if is_native:
        ratio = 1
    voxels = thick.voxels
    if ratio > 1:
        voxels = cubic_dc(voxels, ratio, assumed_thickness_over_spacing(thick))
    grey = grey_volume(voxels)
    missing = max(smallest - len(grey.levels), 0)
    levels = np.pad(grey.levels, ((missing // 2, missing - missing // 2), (0, 0), (0, 0)), mode="symmetric")
    return GreyVolume(levels=levels, body_level=grey.body_level, slice_axes=(1, 2), is_native=is_native)


def draw_degradation(degradation: Degradation, rng: np.random.Generator) -> Drawn:
    """One set of parameters."""
    noisy, flickering = rng.random() < degradation.noise_share, rng.random() < degradation.flicker_share
    return Drawn(
        profile=ProfileKind(_draw_key({str(kind): share for kind, share in degradation.profiles.items()}, rng)),
        thickness_over_spacing=float(_draw_key(degradation.thicknesses, rng)),
        offset=float(rng.uniform(-degradation.offset, degradation.offset)),
        noise_sigma=float(rng.uniform(0, degradation.noise_max)) if noisy else 0.0,
        flicker_sigma=float(rng.uniform(0, degradation.flicker_max)) if flickering else 0.0,
    )


def profile_rows(thick_slices: int, ratio: int, drawn: Drawn, *, dropped: int = 0) -> FloatArray:
    """(thick_slices - 2·dropped, thick_slices·ratio): the profile matrix without its first and last rows."""
    return _profile_rows(
        thick_slices, ratio, drawn.profile, drawn.thickness_over_spacing, round(drawn.offset, 3), dropped
    )


@lru_cache(maxsize=64)
def _profile_rows(
    thick_slices: int, ratio: int, kind: ProfileKind, thickness_over_spacing: float, offset: float, dropped: int
) -> FloatArray:
    matrix = profile_matrix(
        thick_slices, ratio, kind=kind, thickness_over_spacing=thickness_over_spacing, offset=offset
    )
    rows: FloatArray = matrix[dropped : thick_slices - dropped].astype(np.float32)
    rows.setflags(write=False)
    return rows


def acquire(thick: FloatArray, drawn: Drawn, rng: np.random.Generator) -> FloatArray:
    """What the scanner adds to averaged slices (n, H, W): a gain that differs from slice to slice, and Rician noise."""
    if drawn.flicker_sigma > 0:
        gain = np.exp(drawn.flicker_sigma * rng.standard_normal(len(thick)))
        thick = thick * gain.astype(np.float32)[:, None, None]
    if drawn.noise_sigma > 0:
        real, imaginary = (
            drawn.noise_sigma * rng.standard_normal(thick.shape, dtype=np.float32) for _ in range(2)
        )  # magnitude of a complex signal with equal noise in both parts (Gudbjartsson & Patz 1995)
        thick = np.hypot(thick + real.astype(np.float32), imaginary.astype(np.float32))
    return thick


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


def warp_source(sides: Sides, *, is_rotated: bool) -> Sides:
    """What a patch of these sides is warped from: at any angle a square, else a little more than the patch."""
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


def _draw_key(shares: dict[str, float], rng: np.random.Generator) -> str:
    weights = np.array(list(shares.values()), dtype=np.float64)
    return list(shares)[rng.choice(len(weights), p=weights / weights.sum())]
