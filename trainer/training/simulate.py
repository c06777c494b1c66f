"""Thick slices from thin ones: parameters are drawn first and applied then, all by one seed.

What a pair of thick and thin slices made here cannot show is motion and another contrast: whatever counts pairs says of
these that they are simulated. Physics: docs/science.md#slice-profile.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dicomnode.generators.cubic_dc import cubic_dc
from dicomnode.imaging.body import BODY_LEVEL, body_box, body_mask, body_scale
from dicomnode.imaging.profile import ProfileKind, assumed_thickness_over_spacing, choose_ratio, profile_matrix
from dicomnode.imaging.volume import Volume
from trainer.training.recipe_tables import Degradation

FloatArray = NDArray[np.float32]

GREY_LEVELS = 8192  # a contrast change becomes one table look-up; 5e-4 of the scale is far below the noise
BRIGHTEST = 4.0  # × scale; brighter voxels are clipped


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
    """Add to averaged slices (n, H, W) what a scanner adds: a gain that differs between slices, and Rician noise."""
    if drawn.flicker_sigma > 0:
        gain = np.exp(drawn.flicker_sigma * rng.standard_normal(len(thick)))
        thick = thick * gain.astype(np.float32)[:, None, None]
    if drawn.noise_sigma > 0:
        real, imaginary = (
            drawn.noise_sigma * rng.standard_normal(thick.shape, dtype=np.float32) for _ in range(2)
        )  # magnitude of a complex signal with equal noise in both parts (Gudbjartsson & Patz 1995)
        thick = np.hypot(thick + real.astype(np.float32), imaginary.astype(np.float32))
    return thick


def _draw_key(shares: dict[str, float], rng: np.random.Generator) -> str:
    weights = np.array(list(shares.values()), dtype=np.float64)
    return list(shares)[rng.choice(len(weights), p=weights / weights.sum())]
