"""Slice profiles: how thick slices come from thin ones, and what may be put back.

All lengths are in units of the thick slice spacing s unless a name says mm. A thick slice is the
profile-weighted mean of the thin voxels under it, ``thick = A @ thin``; data consistency adds to a candidate
thin stack what ``A`` says is missing of the measured slices. Physics and numbers: docs/science.md#slice-profile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dicomnode.imaging.volume import Vector, Volume

Matrix = NDArray[np.float64]

SUBSAMPLES_PER_VOXEL = 32  # more change no entry by 1e-3 (docs/science.md#slice-profile)
# of mean diag(A Aᵀ): exact consistency is harmless for a box profile (docs/science.md#consistency)
RELATIVE_LAMBDA = 1e-3
TARGET_SPACING_MM = 1.0  # below it, thin slices show noise, not anatomy (docs/science.md#grid-and-ratio)
MIN_RATIO = 1.5  # thinner than this the series is thin already (docs/science.md#grid-and-ratio)
RATIO_LIMITS = (2, 6)  # the ratios that were measured (docs/science.md#grid-and-ratio)
ROUND_DOWN_UP_TO = 0.51  # a half goes down (fewer slices are made up); 0.01 for the error of measured positions
GAUSSIAN_EXPONENT = 4.0 * math.log(2.0)  # full width at half maximum 1
SPLINE_PADDING = 12  # repeated end slices; the spline forgets a sample by 0.27 per slice, so 1e-7 is left
SPLINE_POLE = math.sqrt(3.0) - 2.0  # of the filter that gives the coefficients (Unser 1999, table 1)
SPLINE_REACH = 2  # a cubic B-spline is zero two samples away from its centre
SINC_ZERO_CROSSINGS = 3  # each side of the pulse's centre; gives the cond(A Aᵀ) of 1.5 of docs/science.md#consistency


class ProfileKind(StrEnum):
    """Shape of the slice profile, full width at half maximum = slice thickness."""

    BOX = "box"
    GAUSSIAN = "gaussian"
    SINC = "sinc"


def profile_weight(u: NDArray[np.float64], kind: ProfileKind) -> NDArray[np.float64]:
    """Sensitivity at distance ``u`` (in thicknesses) from the slice centre, 1 at the centre."""
    match kind:
        case ProfileKind.BOX:
            return (np.abs(u) < 0.5).astype(np.float64)
        case ProfileKind.GAUSSIAN:
            weight: NDArray[np.float64] = np.exp(-GAUSSIAN_EXPONENT * u * u)
            return weight
        case ProfileKind.SINC:
            distance, weight = _sinc_profile()
            return np.interp(np.abs(u), distance, weight, right=0.0)


@lru_cache(maxsize=1)
def _sinc_profile() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance (in full widths at half maximum) and weight of the windowed-sinc pulse's slice profile.

    Small-angle excitation: the profile is the magnitude of the pulse envelope's Fourier transform.
    """
    time = np.linspace(-SINC_ZERO_CROSSINGS, SINC_ZERO_CROSSINGS, 2001)
    envelope = np.sinc(time) * 0.5 * (1.0 + np.cos(np.pi * time / SINC_ZERO_CROSSINGS))
    frequency = np.linspace(0.0, 3.0, 3001)
    weight = np.abs(np.cos(2.0 * np.pi * np.outer(frequency, time)) @ envelope)
    weight /= weight[0]
    half_width = np.interp(0.5, weight[1000::-1], frequency[1000::-1])  # falls monotonically to frequency 1
    return frequency / (2.0 * half_width), weight


def profile_matrix(
    thick_slices: int,
    ratio: int,
    *,
    kind: ProfileKind = ProfileKind.BOX,
    thickness_over_spacing: float = 1.0,
    offset: float = 0.0,
) -> Matrix:
    """``A`` (thick_slices, thick_slices·ratio) of ``thick = A @ thin``, each row summing to 1.

    ``offset`` moves the thin grid, in thick spacings, from the block-aligned one, where ``ratio`` thin voxels
    tile each thick spacing. Rows are divided by their sum, so a constant stays exact at the ends as well.

    >>> profile_matrix(2, 2)
    array([[0.5, 0.5, 0. , 0. ],
           [0. , 0. , 0.5, 0.5]])
    """
    assert min(thick_slices, ratio) >= 1
    assert thickness_over_spacing > 0
    samples_per_spacing = ratio * SUBSAMPLES_PER_VOXEL
    sample_position = (np.arange(thick_slices * samples_per_spacing) + 0.5) / samples_per_spacing - 0.5 + offset
    distance = sample_position[None, :] - np.arange(thick_slices)[:, None]
    weight = profile_weight(distance / thickness_over_spacing, kind)
    weight = weight.reshape(thick_slices, thick_slices * ratio, SUBSAMPLES_PER_VOXEL).sum(axis=2)
    row_sum = weight.sum(axis=1, keepdims=True)
    assert (row_sum > 0).all(), "a thick slice lies outside the thin grid"
    matrix: Matrix = weight / row_sum
    return matrix


def consistency_operator(profile: Matrix, *, relative_lambda: float = RELATIVE_LAMBDA) -> Matrix:
    """``Aᵀ(A Aᵀ + εI)⁻¹`` (n·r, n): the smallest thin stack that explains a residual of the thick one.

    ε = ``relative_lambda`` · mean diag(A Aᵀ), so that one λ serves every ratio (docs/science.md#consistency).
    """
    gram = profile @ profile.T
    gram += relative_lambda * gram.diagonal().mean() * np.eye(len(gram))
    operator: Matrix = np.linalg.solve(gram, profile).T.astype(np.float64)  # gram is symmetric
    return operator


def spline_matrix(thick_slices: int, ratio: int) -> Matrix:
    """(n·r, n): interpolating cubic B-spline from thick centres to thin centres, end slices repeated outward."""
    padded_source = np.arange(-SPLINE_PADDING, thick_slices + SPLINE_PADDING)
    neighbours = np.abs(padded_source[:, None] - padded_source[None, :]).astype(np.float64)
    thin_position = (np.arange(thick_slices * ratio) + 0.5) / ratio - 0.5
    basis = _cubic_b_spline(np.abs(thin_position[:, None] - padded_source[None, :]))
    padded_matrix = np.linalg.solve(_cubic_b_spline(neighbours).T, basis.T)  # row k: the part of padded slice k
    matrix = np.zeros((thick_slices, thick_slices * ratio))
    np.add.at(matrix, padded_source.clip(0, thick_slices - 1), padded_matrix)
    return np.ascontiguousarray(matrix.T)


def _cubic_b_spline(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cubic B-spline at a distance ≥ 0 from its centre, in sample spacings (Unser 1999, eq. 3)."""
    near = 2.0 / 3.0 - distance**2 + distance**3 / 2.0
    far = np.maximum(2.0 - distance, 0.0) ** 3 / 6.0
    return np.where(distance < 1.0, near, far)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Consistency:
    """The matrices of one stack geometry; shared and therefore read-only."""

    profile: Matrix  # A (n, n·r)
    operator: Matrix  # Aᵀ(A Aᵀ + εI)⁻¹ (n·r, n)
    cubic_dc: Matrix  # (n·r, n): cubic spline, then made consistent


@lru_cache(maxsize=32)
def consistency(thick_slices: int, ratio: int, thickness_over_spacing: float) -> Consistency:
    """Matrices for a box profile, which is what a header allows us to assume (docs/science.md#consistency)."""
    profile = profile_matrix(thick_slices, ratio, thickness_over_spacing=thickness_over_spacing)
    operator = consistency_operator(profile)
    spline = spline_matrix(thick_slices, ratio)
    cubic_dc = spline + operator @ (np.eye(thick_slices) - profile @ spline)
    for matrix in (profile, operator, cubic_dc):
        matrix.setflags(write=False)
    return Consistency(profile=profile, operator=operator, cubic_dc=cubic_dc)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SlabWeights:
    """The weights of ``Consistency`` within one thick slice: all slices of a stack share them. float32, read-only.

    No profile that is assumed reaches into a neighbour's slab, so ``A Aᵀ`` is diagonal, and a stack needs no matrix
    that grows with the square of its slices.
    """

    profile: NDArray[np.float32]  # (r,): the part of each thin slice in the average of its thick one
    operator: NDArray[np.float32]  # (r,): what each thin slice gets of a residual of its thick one
    # (r, 5): cubic-dc from the spline coefficients of the thick slice, and of two before it and two after it
    cubic_dc: NDArray[np.float32]


@lru_cache(maxsize=32)
def slab_weights(ratio: int, thickness_over_spacing: float) -> SlabWeights:
    """The weights for a box profile that is no wider than the spacing."""
    assert thickness_over_spacing <= 1.0, "the profile would reach into the neighbours"
    profile = profile_matrix(1, ratio, thickness_over_spacing=thickness_over_spacing)
    operator = consistency_operator(profile)
    around = np.arange(-SPLINE_REACH, SPLINE_REACH + 1, dtype=np.float64)
    position = (np.arange(ratio) + 0.5) / ratio - 0.5
    spline = _cubic_b_spline(np.abs(position[:, None] - around[None, :]))
    measured = _cubic_b_spline(np.abs(around))[None, :]  # the spline at the thick slice's centre is the slice itself
    cubic_dc = spline + operator @ (measured - profile @ spline)
    parts = (profile[0].astype(np.float32), operator[:, 0].astype(np.float32), cubic_dc.astype(np.float32))
    for part in parts:
        part.setflags(write=False)
    return SlabWeights(profile=parts[0], operator=parts[1], cubic_dc=parts[2])


def spline_coefficients(thick: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, …) → (n + 4, …): coefficients of the cubic B-spline through the slices, end slices repeated outward.

    Two coefficients stand before the first slice and two behind the last. The filter runs once along the slices and
    once back (Unser 1999, box 2); what lies beyond the ends is summed in closed form.
    """
    slices, pole = len(thick), np.float32(SPLINE_POLE)
    coefficients = np.empty((slices + 2 * SPLINE_REACH, *thick.shape[1:]), dtype=np.float32)
    inner = coefficients[SPLINE_REACH:-SPLINE_REACH]
    first, last = (end * np.float32(1.0 / (1.0 - SPLINE_POLE)) for end in (thick[0], thick[-1]))
    inner[0] = first
    for k in range(1, slices):
        np.multiply(inner[k - 1], pole, out=inner[k])
        inner[k] += thick[k]
    inner[-1] = -pole * (last / np.float32(1.0 - SPLINE_POLE) + (inner[-1] - last) / np.float32(1.0 - SPLINE_POLE**2))
    for k in range(slices - 2, -1, -1):
        np.subtract(inner[k + 1], inner[k], out=inner[k])
        inner[k] *= pole
    inner *= np.float32(6.0)
    for beyond in range(1, SPLINE_REACH + 1):
        share = np.float32(SPLINE_POLE**beyond)
        coefficients[SPLINE_REACH - beyond] = thick[0] + share * (inner[0] - thick[0])
        coefficients[-SPLINE_REACH - 1 + beyond] = thick[-1] + share * (inner[-1] - thick[-1])
    return coefficients


def assumed_thickness_over_spacing(thick: Volume) -> float:
    """t/s that consistency assumes for a stack, at most 1.

    Overlapping slices (t > s) are taken as contiguous: inverting their overlap would amplify noise
    (docs/science.md#consistency), and assuming a profile that is too narrow only leaves some sharpness unused.
    """
    return min(round(thick.slice_thickness_mm / thick.slice_spacing_mm, 3), 1.0)


def missing_from(
    thin: NDArray[np.float32], thick: NDArray[np.float32], ratio: int, thickness_over_spacing: float
) -> NDArray[np.float32]:
    """(n, H, W): what each thick slice holds and the average of its thin slices (n·r, H, W) lacks.

    The box profile of an ``assumed_thickness_over_spacing`` reaches into no neighbouring slab.
    """
    weights = profile_matrix(1, ratio, thickness_over_spacing=thickness_over_spacing)[0].astype(np.float32)
    missing = thick.copy()
    for owner, lacking in enumerate(missing):
        lacking -= np.tensordot(weights, thin[owner * ratio : (owner + 1) * ratio], axes=1)
    return missing


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ThinGrid:
    """The places of the thin slices of a thick stack; rows and columns are those of the stack."""

    ratio: int  # thick ÷ thin slice spacing
    slices: int
    slice_spacing_mm: float
    origin_mm: Vector  # centre of the first voxel of the first thin slice
    slice_step_mm: Vector  # from one thin slice to the next


def choose_ratio(
    slice_spacing_mm: float,
    in_plane_mm: float,
    *,
    target_mm: float = TARGET_SPACING_MM,
    min_ratio: float = MIN_RATIO,
) -> int | None:
    """Return how many thin slices replace each thick one; None where the series is thin already.

    See docs/science.md#grid-and-ratio.

    ``in_plane_mm`` is the smaller of the two pixel spacings: slices thinner than pixels show nothing more.

    >>> [choose_ratio(s, 0.7) for s in (1.4, 3.3, 4.49999, 4.5, 4.8, 9.0)]
    [None, 3, 4, 4, 5, 6]
    """
    wanted = slice_spacing_mm / max(in_plane_mm, target_mm)
    if wanted < min_ratio:
        return None
    lowest, highest = RATIO_LIMITS
    return min(max(math.ceil(wanted - ROUND_DOWN_UP_TO), lowest), highest)


def thin_grid(thick: Volume, ratio: int) -> ThinGrid:
    """The block-aligned grid: ``ratio`` thin slices tile each thick spacing, the extent stays that of the stack."""
    step_mm = thick.slice_step_mm / ratio
    return ThinGrid(
        ratio=ratio,
        slices=len(thick.voxels) * ratio,
        slice_spacing_mm=thick.slice_spacing_mm / ratio,
        origin_mm=thick.origin_mm - thick.slice_step_mm * (ratio - 1) / (2 * ratio),
        slice_step_mm=step_mm,
    )
