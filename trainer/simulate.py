"""Training samples: strips of simulated thick slices with the thin truth of three of them.

A strip is 11 neighbouring thick slices of one patch; the network predicts three neighbouring ones of them, so
that the loss sees the seams between slabs. Contrast is changed on the thin truth, before it is averaged.
Sample design: SCIENCE §4.2; "aug 2" there is the contrast change used here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dicomnode.imaging.body import BODY_LEVEL, body_box, body_mask, body_scale
from dicomnode.imaging.profile import Matrix, ProfileKind, consistency, profile_matrix

FloatArray = NDArray[np.float32]

GREY_LEVELS = 8192  # a contrast change becomes one table look-up; 5e-4 of the scale is far below the noise
BRIGHTEST = 4.0  # × scale; brighter voxels are clipped
STRIP_SLICES = 11  # three windows of five, and two more slices each side so that cubic-dc has its context
PREDICTED_SLICES = 3
MARGIN_SLICES = 1  # simulated each side and dropped, for the tails of profiles wider than the spacing
PATCH = 64
WARPED_PATCH = 96  # source of a rotated or scaled patch

PROFILES = (ProfileKind.BOX, ProfileKind.GAUSSIAN, ProfileKind.SINC)
PROFILE_SHARE = (0.75, 0.125, 0.125)
THICKNESSES_OVER_SPACING = (1.0, 0.8, 0.9, 1.1)  # few values, so that their matrices stay cached
THICKNESS_SHARE = (0.7, 0.1, 0.1, 0.1)
END_SHARE = 0.15  # of strips that end the stack, where end slices are repeated
BODY_SHARE = 0.3  # of a patch's middle slice that must be body …
BODY_ATTEMPTS = 8  # … unless so many draws found none
WARP_SHARE = 0.3
WARP_SCALE = (0.6, 1.1)  # source pixels per patch pixel: also what finer pixels than the thin spacing look like
GAMMA_LOG = 0.4
REMAP_SHARE, REMAP_KNOTS = 0.1, 6
INVERSION_SHARE = 0.05
GAIN_LOG = 0.3
NOISE_SHARE, NOISE_MAX = 0.25, 0.01  # of the thick slices, in scale units
RAMP_SHARE, PURE_RAMP_SHARE, RAMP_MAX = 0.08, 0.02, 1.0  # a net that never saw a ramp bends it (SCIENCE §4.7)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GreyVolume:
    """A thin volume cropped to its body, as grey levels of ``BRIGHTEST`` / ``GREY_LEVELS`` of its scale."""

    levels: NDArray[np.uint16]  # (D, H, W)
    body_level: int  # levels above it are body


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Strip:
    """One training sample."""

    thick: FloatArray  # (STRIP_SLICES, PATCH, PATCH)
    base: FloatArray  # (3·ratio, PATCH, PATCH): cubic-dc of the predicted slices
    truth: FloatArray  # (3·ratio, PATCH, PATCH)
    first: int  # index of the first predicted slice in ``thick``
    thickness_over_spacing: float  # as consistency assumes it


def grey_volume(voxels: FloatArray) -> GreyVolume:
    """Scale, crop to the body and quantise."""
    scaled = voxels / np.float32(body_scale(voxels))
    scaled = scaled[body_box(body_mask(scaled))]
    levels = np.clip(np.rint(scaled * (GREY_LEVELS / BRIGHTEST)), 0, GREY_LEVELS - 1).astype(np.uint16)
    return GreyVolume(levels=levels, body_level=int(BODY_LEVEL * GREY_LEVELS / BRIGHTEST))


def draw_strip(volumes: tuple[GreyVolume, ...], ratio: int, rng: np.random.Generator) -> Strip:
    """One sample from a random volume, plane and place."""
    warped = rng.random() < WARP_SHARE
    levels = _draw_patch(volumes, ratio, WARPED_PATCH if warped else PATCH, rng)
    thin = _draw_contrast(rng)[levels]
    _add_ramp(thin, rng)

    kind = PROFILES[rng.choice(len(PROFILES), p=PROFILE_SHARE)]
    thickness = float(rng.choice(THICKNESSES_OVER_SPACING, p=THICKNESS_SHARE))
    profile = _strip_profile(ratio, kind, thickness)
    thick = np.tensordot(profile, thin, axes=1)
    first = _draw_first(rng)
    begin = (MARGIN_SLICES + first) * ratio
    truth = thin[begin : begin + PREDICTED_SLICES * ratio]
    if warped:
        matrix, offset = _draw_warp(rng)
        thick, truth = _warp(thick, matrix, offset), _warp(truth, matrix, offset)
    if rng.random() < NOISE_SHARE:
        thick = thick + rng.uniform(0, NOISE_MAX) * rng.standard_normal(thick.shape, dtype=np.float32)

    assumed = min(thickness, 1.0)
    cubic_dc = consistency(STRIP_SLICES, ratio, assumed).cubic_dc[first * ratio : (first + PREDICTED_SLICES) * ratio]
    base = np.tensordot(cubic_dc.astype(np.float32), thick, axes=1)
    return Strip(thick=thick, base=base, truth=truth, first=first, thickness_over_spacing=assumed)


def _draw_patch(volumes: tuple[GreyVolume, ...], ratio: int, size: int, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Levels (13·ratio, size, size), slices along a random axis, flipped and transposed at random."""
    depth = (STRIP_SLICES + 2 * MARGIN_SLICES) * ratio
    for _ in range(BODY_ATTEMPTS):
        volume = volumes[rng.integers(len(volumes))]
        levels = np.moveaxis(volume.levels, rng.integers(3), 0)
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


def _draw_contrast(rng: np.random.Generator) -> FloatArray:
    """Table (GREY_LEVELS,) from level to value: gamma, and now and then a random remap or an inversion."""
    value = np.arange(GREY_LEVELS, dtype=np.float64) * (BRIGHTEST / GREY_LEVELS)
    value = value ** np.exp(rng.uniform(-GAMMA_LOG, GAMMA_LOG))
    if rng.random() < REMAP_SHARE:
        knots = np.linspace(0.0, 1.0, REMAP_KNOTS)
        value = np.interp(value, knots, np.concatenate([[0.0], rng.uniform(0.0, 1.0, REMAP_KNOTS - 1)]))
    if rng.random() < INVERSION_SHARE:
        value = 1.0 - np.minimum(value, 1.0)
    gain = np.exp(rng.uniform(-GAIN_LOG, GAIN_LOG))
    table: FloatArray = (value * gain).astype(np.float32)
    return table


def _add_ramp(thin: FloatArray, rng: np.random.Generator) -> None:
    """Now and then adds a linear ramp along the slice axis in place, or leaves nothing but one."""
    draw = rng.random()
    if draw >= RAMP_SHARE + PURE_RAMP_SHARE:
        return
    if draw < PURE_RAMP_SHARE:
        thin[...] = 0.0
    rise = rng.uniform(-RAMP_MAX, RAMP_MAX)
    thin += np.linspace(max(-rise, 0.0), max(rise, 0.0), len(thin), dtype=np.float32)[:, None, None]


@lru_cache(maxsize=64)
def _strip_profile(ratio: int, kind: ProfileKind, thickness_over_spacing: float) -> FloatArray:
    """(STRIP_SLICES, 13·ratio), margin rows dropped."""
    profile: Matrix = profile_matrix(
        STRIP_SLICES + 2 * MARGIN_SLICES, ratio, kind=kind, thickness_over_spacing=thickness_over_spacing
    )
    rows: FloatArray = profile[MARGIN_SLICES:-MARGIN_SLICES].astype(np.float32)
    return rows


def _draw_first(rng: np.random.Generator) -> int:
    """Mostly the middle of the strip; else one of its ends, which then is the end of the stack."""
    if rng.random() >= END_SHARE:
        return (STRIP_SLICES - PREDICTED_SLICES) // 2
    return int(rng.choice((0, STRIP_SLICES - PREDICTED_SLICES)))


def _draw_warp(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rotation by any angle with a scale, about the patch centre, as ``affine_transform`` takes it."""
    angle, scale = rng.uniform(0, 2 * np.pi), rng.uniform(*WARP_SCALE)
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return matrix, np.full(2, (WARPED_PATCH - 1) / 2) - matrix @ np.full(2, (PATCH - 1) / 2)


def _warp(slices: FloatArray, matrix: NDArray[np.float64], offset: NDArray[np.float64]) -> FloatArray:
    """Each slice resampled in its plane; commutes with averaging along z, so it is done after it."""
    warped = np.empty((len(slices), PATCH, PATCH), dtype=np.float32)
    for source, target in zip(slices, warped, strict=True):
        ndimage.affine_transform(source, matrix, offset, output=target, order=3, mode="mirror")
    return warped
