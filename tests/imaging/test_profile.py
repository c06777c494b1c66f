"""Profiles and consistency: against closed forms, scipy's splines and the numbers of docs/science.md#consistency."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, interpolate

from dicomnode.imaging.profile import (
    Matrix,
    ProfileKind,
    assumed_thickness_over_spacing,
    choose_ratio,
    consistency,
    consistency_operator,
    profile_matrix,
    profile_weight,
    slab_weights,
    spline_coefficients,
    spline_matrix,
    thin_grid,
)
from dicomnode.imaging.volume import Volume

MEASURED_SLICES = 24  # of the table in docs/science.md#consistency
ratios = st.integers(2, 6)
slice_counts = st.integers(1, 24)


def make_stack(*, slices: int = 6, spacing_mm: float = 4.8, thickness_mm: float = 4.0) -> Volume:
    """An oblique stack: the normal is no coordinate axis."""
    row, column = np.array([0.8, 0.6, 0.0]), np.array([-0.6, 0.8, 0.0])
    tilted = np.array([0.0, 0.28, 0.96])
    column = np.cross(tilted, row)
    column /= np.linalg.norm(column)
    return Volume(
        voxels=np.zeros((slices, 4, 5), dtype=np.float32),
        origin_mm=np.array([-10.0, 20.0, 30.0]),
        row_direction=row,
        column_direction=column,
        slice_step_mm=np.cross(row, column) * spacing_mm,
        row_spacing_mm=0.7,
        column_spacing_mm=0.7,
        slice_thickness_mm=thickness_mm,
    )


def test_a_contiguous_box_is_a_block_mean() -> None:
    expected = np.kron(np.eye(7), np.full((1, 4), 0.25))
    np.testing.assert_allclose(profile_matrix(7, 4), expected, atol=1e-15)


def test_a_gap_leaves_thin_voxels_unmeasured() -> None:
    """t/s = 0.5, r = 4: only the two inner voxels of each spacing lie inside the slice."""
    expected = np.kron(np.eye(3), [[0.0, 0.5, 0.5, 0.0]])
    np.testing.assert_allclose(profile_matrix(3, 4, thickness_over_spacing=0.5), expected, atol=1e-15)


def test_an_offset_moves_the_thin_grid_towards_the_next_slice() -> None:
    shifted = profile_matrix(3, 2, offset=0.5)
    np.testing.assert_allclose(shifted[1], [0.0, 0.5, 0.5, 0.0, 0.0, 0.0], atol=1e-15)


@pytest.mark.parametrize("kind", ProfileKind)
def test_a_row_is_the_integral_of_the_profile_over_each_voxel(kind: ProfileKind) -> None:
    """Simpson's rule on 2,001 points per voxel in place of 32 sub-samples."""
    slices, ratio, thickness = 9, 3, 0.9
    edges = np.arange(slices * ratio + 1) / ratio - 0.5
    z = np.linspace(edges[:-1], edges[1:], 2001)
    exact = integrate.simpson(profile_weight((z - 4.0) / thickness, kind), x=z, axis=0)
    row = profile_matrix(slices, ratio, kind=kind, thickness_over_spacing=thickness)[4]
    np.testing.assert_allclose(row, exact / exact.sum(), atol=2e-3)


@pytest.mark.parametrize("kind", ProfileKind)
def test_a_profile_falls_to_half_at_half_its_thickness(kind: ProfileKind) -> None:
    inside, outside = profile_weight(np.array([0.499, 0.501]), kind)
    assert inside >= 0.5 >= outside


@given(slice_counts, ratios, st.sampled_from(ProfileKind), st.floats(0.5, 1.2))
def test_a_constant_stays_exact_at_the_ends_too(slices: int, ratio: int, kind: ProfileKind, thickness: float) -> None:
    profile = profile_matrix(slices, ratio, kind=kind, thickness_over_spacing=thickness)
    assert profile.shape == (slices, slices * ratio)
    assert (profile >= 0).all()
    np.testing.assert_allclose(profile.sum(axis=1), 1.0, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "thickness", "condition"),
    [
        (ProfileKind.BOX, 1.0, 1.0),
        (ProfileKind.BOX, 0.8, 1.0),
        (ProfileKind.SINC, 1.0, 1.5),
        (ProfileKind.GAUSSIAN, 1.0, 3.2),
        (ProfileKind.GAUSSIAN, 1.2, 7.0),
    ],
)
def test_conditioning_is_that_of_the_measured_table(kind: ProfileKind, thickness: float, condition: float) -> None:
    profile = profile_matrix(MEASURED_SLICES, 3, kind=kind, thickness_over_spacing=thickness)
    assert np.linalg.cond(profile @ profile.T) == pytest.approx(condition, abs=0.05)


def noise_gain(matrix: Matrix, ratio: int) -> float:
    """Output σ over input σ of white noise, middle slices."""
    return float(np.sqrt((matrix[10 * ratio : 14 * ratio] ** 2).sum(axis=1).mean()))


@pytest.mark.parametrize(("ratio", "gain"), [(3, 1.05), (5, 1.06)])
def test_cubic_dc_amplifies_noise_as_measured(ratio: int, gain: float) -> None:
    assert noise_gain(spline_matrix(MEASURED_SLICES, ratio), ratio) == pytest.approx(0.94, abs=0.006)
    assert noise_gain(consistency(MEASURED_SLICES, ratio, 1.0).cubic_dc, ratio) == pytest.approx(gain, abs=0.006)


@given(slice_counts, ratios)
def test_the_spline_matrix_is_the_interpolating_cubic_spline(slices: int, ratio: int) -> None:
    """scipy's spline through the slices with the end slices repeated far outward."""
    repeated = np.pad(np.eye(slices), [(30, 30), (0, 0)], mode="edge")
    spline = interpolate.make_interp_spline(np.arange(-30, slices + 30), repeated, k=3)
    positions = (np.arange(slices * ratio) + 0.5) / ratio - 0.5
    np.testing.assert_allclose(spline_matrix(slices, ratio), spline(positions), atol=1e-6)


@given(slice_counts, st.integers(0, 2**32 - 1))
def test_the_coefficients_are_those_of_the_spline_through_repeated_end_slices(slices: int, seed: int) -> None:
    thick = np.random.default_rng(seed).random(slices, dtype=np.float32)
    repeated = np.pad(thick.astype(np.float64), 30, mode="edge")
    spline = interpolate.make_interp_spline(np.arange(-30, slices + 30), repeated, k=3)
    # scipy leaves out a knot at each end, so its coefficients are shifted by one; far outside all are the end slice.
    expected = spline.c[28 : 28 + slices + 4]
    np.testing.assert_allclose(spline_coefficients(thick[:, None])[:, 0], expected, atol=1e-5)


@given(slice_counts, ratios, st.sampled_from([0.5, 0.8, 0.9, 1.0]), st.integers(0, 2**32 - 1))
def test_averaging_cubic_dc_gives_back_what_was_measured(slices: int, ratio: int, thickness: float, seed: int) -> None:
    """Up to λ = 1e-3 of what plain interpolation misses."""
    thick = np.random.default_rng(seed).standard_normal(slices)
    matrices = consistency(slices, ratio, thickness)
    missed = thick - matrices.profile @ (spline_matrix(slices, ratio) @ thick)
    left = thick - matrices.profile @ (matrices.cubic_dc @ thick)
    assert np.linalg.norm(left) <= 1.2e-3 * np.linalg.norm(missed) + 1e-12


@given(st.integers(2, 12), ratios, st.integers(0, 2**32 - 1))
def test_consistency_adds_the_smallest_correction(slices: int, ratio: int, seed: int) -> None:
    """The pseudo-inverse is the minimum-norm solution of A x = y."""
    profile = profile_matrix(slices, ratio, kind=ProfileKind.GAUSSIAN)
    residual = np.random.default_rng(seed).standard_normal(slices)
    operator = consistency_operator(profile, relative_lambda=1e-12)
    np.testing.assert_allclose(operator @ residual, np.linalg.pinv(profile) @ residual, atol=1e-6)


def test_a_single_slice_becomes_its_copies() -> None:
    np.testing.assert_allclose(consistency(1, 3, 1.0).cubic_dc, np.ones((3, 1)), atol=1e-6)


def test_shared_matrices_cannot_be_altered() -> None:
    with pytest.raises(ValueError, match="read-only"):
        consistency(3, 2, 1.0).cubic_dc[0, 0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        slab_weights(2, 1.0).cubic_dc[0, 0] = 1.0


@pytest.mark.parametrize(
    ("spacing_mm", "in_plane_mm", "ratio"),
    [
        (5.0, 0.5, 5),
        (3.3, 0.5, 3),
        (3.0, 0.75, 3),
        (6.5, 1.0, 6),  # the limit, not 7
        (4.49999, 0.684, 4),  # lumbar: a half with the tolerance of positions …
        (4.5, 0.684, 4),
        (4.51, 0.684, 4),
        (4.52, 0.684, 5),
        (4.8, 1.016, 5),
        (3.6, 0.5625, 4),
        (1.5, 0.5, 2),
        (1.499, 0.5, None),
        (0.909, 0.859, None),
        (3.0, 2.0, 2),  # pixels of 2 mm: thinner slices would show nothing more
    ],
)
def test_the_ratio_rule(spacing_mm: float, in_plane_mm: float, ratio: int | None) -> None:
    assert choose_ratio(spacing_mm, in_plane_mm) == ratio


def test_a_coarser_target_asks_for_fewer_slices() -> None:
    assert choose_ratio(6.0, 0.5, target_mm=2.0) == 3
    assert choose_ratio(3.0, 0.5, target_mm=1.5, min_ratio=2.5) is None


@given(ratios, st.integers(1, 40))
def test_thin_slices_tile_the_extent_of_the_thick_ones(ratio: int, slices: int) -> None:
    thick = make_stack(slices=slices)
    grid = thin_grid(thick, ratio)
    assert grid.slices == slices * ratio
    centres = [grid.origin_mm + k * grid.slice_step_mm for k in range(grid.slices)]
    for k in range(slices):
        block_mean = np.mean(centres[k * ratio : (k + 1) * ratio], axis=0)
        np.testing.assert_allclose(block_mean, thick.origin_mm + k * thick.slice_step_mm, atol=1e-9)
    assert grid.slice_spacing_mm == pytest.approx(thick.slice_spacing_mm / ratio)
    assert np.linalg.norm(grid.slice_step_mm) == pytest.approx(grid.slice_spacing_mm)


def test_the_assumed_profile_is_the_headers_but_never_overlaps() -> None:
    assert assumed_thickness_over_spacing(make_stack(spacing_mm=5.0, thickness_mm=4.0)) == 0.8
    assert assumed_thickness_over_spacing(make_stack(spacing_mm=3.0, thickness_mm=6.0)) == 1.0
