"""Where slices lie: sorting and the straight line are facts of space, not of file order or axes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from highdicom.spatial import get_series_volume_positions
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dicomnode.imaging import geometry
from dicomnode.imaging.frame import Frame
from dicomnode.imaging.headers import header_of
from tests.support.phantom import Phantom

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
STACK = Phantom(slices=8, rows=8, columns=8, spacing_mm=3.0, thickness_mm=3.0)
angles = st.floats(-180, 180)


def _frames(phantom: Phantom) -> list[Frame]:
    return [Frame(header=header_of(dataset, Path("none.dcm"))) for dataset in phantom.datasets()]


@settings(deadline=None)
@given(st.tuples(angles, angles, angles), st.permutations(range(7)), st.floats(0.5, 12))
def test_a_stack_is_found_in_any_orientation_and_order(
    turn: tuple[float, float, float], order: list[int], spacing_mm: float
) -> None:
    rotation = Rotation.from_euler("xyz", turn, degrees=True)
    orientation = rotation.apply(np.array(AXIAL).reshape(2, 3)).ravel()
    positions = rotation.apply([(3.0, -5.0, k * spacing_mm - 20.0) for k in range(7)])
    line = geometry.fit_line(positions[order].tolist(), orientation.tolist())
    assert [order[k] for k in line.order] == list(range(7))
    assert line.spacing_mm == pytest.approx(spacing_mm)
    assert line.residual_mm == pytest.approx(0.0, abs=1e-9)
    assert line.shear_mm == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(line.origin_mm, positions[0], atol=1e-9)
    np.testing.assert_allclose(line.step_mm, positions[1] - positions[0], atol=1e-9)


@pytest.mark.parametrize("orientation", ["axial", "double oblique", "oblique sagittal"])
def test_spacing_and_order_agree_with_highdicom(orientation: str) -> None:
    """highdicom counts against the normal, so its order is ours reversed."""
    datasets = Phantom(orientation=orientation, slices=6, rows=8, columns=8, spacing_mm=3.3).datasets()
    datasets = [datasets[k] for k in (3, 0, 5, 1, 4, 2)]
    spacing_mm, places = get_series_volume_positions(datasets)
    assert places is not None
    line = geometry.fit_line(
        [dataset.ImagePositionPatient for dataset in datasets], datasets[0].ImageOrientationPatient
    )
    assert line.spacing_mm == pytest.approx(spacing_mm, abs=1e-6)
    rank = np.argsort(line.order)
    assert rank.tolist() in (places, [len(places) - 1 - place for place in places])


def test_a_slice_that_is_shifted_sideways_is_residual_and_a_slanted_stack_is_shear() -> None:
    shifted = geometry.fit_line([(0, 0.3 * (k == 2), 3 * k) for k in range(5)], AXIAL)
    assert shifted.residual_mm > 0.2
    slanted = geometry.fit_line([(0.1 * k, 0, 3 * k) for k in range(5)], AXIAL)
    assert slanted.residual_mm == pytest.approx(0, abs=1e-9)
    assert slanted.shear_mm == pytest.approx(0.1)


@pytest.mark.parametrize(("tilt", "expected"), [(0.9e-3, 1), (1.2e-3, 2), (0.5, 2)])
def test_orientations_differ_from_one_thousandth_on(tilt: float, expected: int) -> None:
    tilted = (np.cos(tilt), np.sin(tilt), 0, -np.sin(tilt), np.cos(tilt), 0)
    assert geometry.count_orientations([AXIAL, AXIAL, AXIAL, tilted]) == expected


def test_a_drift_of_many_small_turns_is_not_one_orientation() -> None:
    drifting = [(np.cos(a), np.sin(a), 0, -np.sin(a), np.cos(a), 0) for a in np.arange(10) * 0.8e-3]
    assert geometry.count_orientations(drifting) > 1


@pytest.mark.parametrize("orientation", [(1.0, 0, 0, 0, 1.002, 0), (1.0, 0, 0, 0.002, 1, 0), (0.0, 0, 0, 0, 1, 0)])
def test_axes_that_are_no_right_angle_are_told(orientation: tuple[float, ...]) -> None:
    assert geometry.is_orthonormal(AXIAL)
    assert not geometry.is_orthonormal(orientation)


@pytest.mark.parametrize(
    ("offsets", "count"),
    [
        ([0, 3, 6, 9], 0),
        ([0, 0, 3, 3, 6, 6], 3),
        ([0, 0, 0, 3, 6], 1),
        ([0, 3, 3.1, 6], 1),
        ([0, 3, 3.2, 6], 0),
        ([5, 5], 1),
    ],
)
def test_positions_within_five_percent_are_one_place(offsets: list[float], count: int) -> None:
    assert geometry.count_repeated(np.array(offsets, dtype=float)) == count


@pytest.mark.parametrize(
    ("numbers", "direction"),
    [([1, 2, 3], 1), ([3, 2, 1], -1), ([1, 3, 5, 2, 4, 6], 1), ([None, 9, 4], -1), ([None, None], 1), ([2, 2], 1)],
)
def test_the_direction_of_the_numbers_outlives_interleaving_and_gaps(numbers: list[int | None], direction: int) -> None:
    assert geometry.number_direction(numbers) == direction


def test_a_stack_for_rules_has_one_orientation_and_a_position_for_every_slice() -> None:
    frames = _frames(STACK)
    assert geometry.stacked(frames) == frames
    assert geometry.stacked(frames[:1]) is None
    assert geometry.stacked([*frames, *_frames(replace(STACK, orientation="sagittal"))]) is None
    assert geometry.stacked(_frames(replace(STACK, changes={"ImagePositionPatient": None}))) is None


@pytest.mark.parametrize(
    ("thickness", "believed", "gap_mm"), [(2.4, 2.4, 0.6), (6.2, 6.2, -3.2), (6.4, None, 0.0), (None, None, 0.0)]
)
def test_a_thickness_beyond_twice_the_spacing_is_no_slice_profile(
    thickness: float | None, believed: float | None, gap_mm: float
) -> None:
    layout = geometry.layout_of(_frames(replace(STACK, changes={"SliceThickness": thickness})))
    assert layout.thickness_mm == believed
    assert layout.gap_mm == pytest.approx(gap_mm)


def test_what_is_missing_is_counted_and_placed_along_the_normal() -> None:
    frames = _frames(replace(STACK, orientation="double oblique"))
    kept = [frames[k] for k in (7, 0, 6, 1, 4, 5)]  # 2 and 3 are gone
    layout = geometry.layout_of(kept)
    found = geometry.missing_slices(layout)
    assert found is not None
    assert found.count == 2
    assert found.distance_mm == pytest.approx(9.0, abs=1e-4)
    around = {id(frame) for frame in layout.frames[found.before : found.before + 2]}
    assert around == {id(frames[1]), id(frames[4])}
    assert geometry.missing_slices(geometry.layout_of(frames)) is None


def test_an_even_stack_has_no_unevenness_and_a_shifted_one_says_which_way() -> None:
    def moved(k: int, axis: int, by_mm: float) -> geometry.Unevenness | None:
        datasets = STACK.datasets()
        position = [float(number) for number in datasets[k].ImagePositionPatient]
        position[axis] += by_mm
        datasets[k].ImagePositionPatient = [f"{number:.6f}" for number in position]
        frames = [Frame(header=header_of(dataset, Path("none.dcm"))) for dataset in datasets]
        return geometry.unevenness(geometry.layout_of(frames))

    assert moved(4, 2, 0.0) is None
    along, sideways = moved(4, 2, 0.4), moved(4, 0, 0.4)
    assert along is not None
    assert sideways is not None
    assert along.nearest_mm == pytest.approx(2.6)
    assert along.farthest_mm == pytest.approx(3.4)
    assert along.sideways_mm is None
    assert sideways.sideways_mm == pytest.approx(0.4, rel=0.3)


def test_the_frame_with_another_pixel_spacing_is_found() -> None:
    frames = _frames(STACK)
    assert geometry.other_pixel_spacing(frames) is None
    (other,) = _frames(replace(STACK, slices=1, changes={"PixelSpacing": [1.3, 1.1002]}))
    assert geometry.other_pixel_spacing([*frames, other]) is other
