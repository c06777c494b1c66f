"""The generator without weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomnode.generators.base import Generator
from dicomnode.generators.cubic_dc import CubicDc, cubic_dc
from dicomnode.imaging.profile import consistency, thin_grid
from dicomnode.imaging.volume import Volume


def make_stack(voxels: np.ndarray[tuple[int, ...], np.dtype[np.float32]], *, thickness_mm: float = 3.0) -> Volume:
    """An axial stack, 3 mm from slice to slice."""
    return Volume(
        voxels=voxels,
        origin_mm=np.array([1.0, 2.0, 3.0]),
        row_direction=np.array([1.0, 0.0, 0.0]),
        column_direction=np.array([0.0, 1.0, 0.0]),
        slice_step_mm=np.array([0.0, 0.0, 3.0]),
        row_spacing_mm=0.5,
        column_spacing_mm=0.5,
        slice_thickness_mm=thickness_mm,
    )


def test_the_thin_volume_lies_where_the_grid_says() -> None:
    thick = make_stack(np.random.default_rng(0).random((6, 9, 8), dtype=np.float32))
    generator: Generator = CubicDc()
    thin = generator.generate(thick, thin_grid(thick, 3), device="cpu").thin
    assert thin.voxels.shape == (18, 9, 8)
    assert thin.slice_spacing_mm == pytest.approx(1.0)
    assert thin.slice_thickness_mm == pytest.approx(1.0)
    np.testing.assert_allclose(thin.origin_mm, [1.0, 2.0, 2.0])  # one thin slice before the first thick centre
    np.testing.assert_array_equal(thin.row_direction, thick.row_direction)


@settings(deadline=None)
@given(
    st.integers(1, 12), st.integers(2, 6), st.integers(1, 70), st.sampled_from([2.4, 3.0]), st.integers(0, 2**32 - 1)
)
def test_averaging_gives_back_the_measured_slices(
    slices: int, ratio: int, height: int, thickness_mm: float, seed: int
) -> None:
    measured = np.random.default_rng(seed).random((slices, height, 3), dtype=np.float32)
    thick = make_stack(measured, thickness_mm=thickness_mm)
    thin = CubicDc().generate(thick, thin_grid(thick, ratio), device="cpu").thin.voxels
    profile = consistency(slices, ratio, thickness_mm / 3.0).profile
    np.testing.assert_allclose(np.tensordot(profile, thin, axes=1), measured, atol=2e-3)


def test_a_linear_ramp_stays_one_away_from_the_ends() -> None:
    """A cubic spline reproduces it, and the mean of a slab is then its middle."""
    thick = np.arange(30, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), dtype=np.float32)
    thin = cubic_dc(thick, 4, 1.0)[:, 0, 0]
    expected = (np.arange(120) + 0.5) / 4 - 0.5
    np.testing.assert_allclose(thin[40:80], expected[40:80], atol=1e-4)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(2, 6), st.sampled_from([0.5, 0.8, 1.0]), st.integers(0, 2**32 - 1))
def test_it_is_the_matrix_of_the_whole_stack(slices: int, ratio: int, thickness: float, seed: int) -> None:
    """The dense matrix solves the system of equations whole; another test compares its spline with scipy's."""
    measured = np.random.default_rng(seed).random((slices, 3, 4), dtype=np.float32)
    whole = np.tensordot(consistency(slices, ratio, thickness).cubic_dc, measured, axes=1)
    np.testing.assert_allclose(cubic_dc(measured, ratio, thickness), whole, atol=2e-6)


def test_chunks_of_rows_do_not_show_and_progress_reaches_one() -> None:
    measured = np.random.default_rng(0).random((5, 71, 4), dtype=np.float32)
    seen: list[float] = []
    thin = cubic_dc(measured, 2, 1.0, progress=seen.append)
    row_by_row = np.concatenate([cubic_dc(measured[:, row : row + 1], 2, 1.0) for row in range(71)], axis=1)
    np.testing.assert_allclose(thin, row_by_row, atol=1e-6)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_the_input_is_not_altered() -> None:
    thick = make_stack(np.random.default_rng(0).random((3, 4, 4), dtype=np.float32))
    before = thick.voxels.copy()
    CubicDc().generate(thick, thin_grid(thick, 2), device="cpu")
    np.testing.assert_array_equal(thick.voxels, before)
