"""Motion between two series: found, undone, or too strange to be believed."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from dicomnode.imaging.volume import Volume
from tests.support.phantom_sources import phantom
from trainer.data.register import implausible, register, resample

EXTENT = 64
MIDDLE_MM = (EXTENT - 1) / 2


def volume(voxels: NDArray[np.float32], *, slice_spacing_mm: float = 1.0, first_mm: float = 0.0) -> Volume:
    return Volume(
        voxels=voxels,
        origin_mm=np.array([0.0, 0.0, first_mm]),
        row_direction=np.array([1.0, 0.0, 0.0]),
        column_direction=np.array([0.0, 1.0, 0.0]),
        slice_step_mm=np.array([0.0, 0.0, slice_spacing_mm]),
        row_spacing_mm=1.0,
        column_spacing_mm=1.0,
        slice_thickness_mm=slice_spacing_mm,
    )


def head() -> NDArray[np.float32]:
    """A ball of waves whose brightness rises in one direction, so that no turn looks like another."""
    return phantom(11, extent=EXTENT) * np.linspace(0.4, 1.0, EXTENT, dtype=np.float32)


def thick_of(thin: NDArray[np.float32]) -> Volume:
    """Slices of 4 mm."""
    return volume(thin.reshape(EXTENT // 4, 4, EXTENT, EXTENT).mean(axis=1), slice_spacing_mm=4.0, first_mm=1.5)


def moved(voxels: NDArray[np.float32], shift_mm: tuple[float, float, float], turn_deg: float) -> NDArray[np.float32]:
    """What shows at R(p - c) + c + shift what ``voxels`` show at p (x, y, z); R turns about z. Done by scipy."""
    turn = Rotation.from_euler("z", turn_deg, degrees=True).as_matrix()[::-1, ::-1]  # of (z, y, x)
    centre = np.full(3, MIDDLE_MM)
    offset = centre - turn.T @ (centre + np.array(shift_mm[::-1]))
    result: NDArray[np.float32] = ndimage.affine_transform(voxels, turn.T, offset, order=3)
    return result.clip(0).astype(np.float32)


@pytest.mark.parametrize(
    ("shift_mm", "turn_deg"), [((0.0, 0.0, 0.0), 0.0), ((3.0, -2.0, 1.0), 0.0), ((1.0, 0.5, -1.5), 3.0)]
)
def test_a_planted_motion_is_found(shift_mm: tuple[float, float, float], turn_deg: float) -> None:
    """Another contrast on the thin side, bright where it was dark; half a millimetre is a quarter of a search pixel."""
    truth = head()
    thin = moved(truth, shift_mm, turn_deg)
    thin = np.where(thin > 30, 1100 - thin, 0).astype(np.float32)
    found = register(thick_of(truth), volume(thin))
    np.testing.assert_allclose(found.shift_mm, shift_mm, atol=0.5)
    np.testing.assert_allclose(found.rotation_deg, (0, 0, turn_deg), atol=0.5)
    assert found.across_mm == pytest.approx(found.shift_mm[2], abs=1e-4)
    assert found.edges_after >= found.edges_before - 0.01
    assert implausible(found) is None


def test_the_same_two_series_are_registered_the_same_every_time() -> None:
    truth = head()
    thick, thin = thick_of(truth), volume(moved(truth, (2.0, 1.0, 0.5), 1.0))
    assert register(thick, thin) == register(thick, thin)


def test_resampling_undoes_the_motion_that_was_found() -> None:
    truth = head()
    thick, thin = thick_of(truth), volume(moved(truth, (3.0, -2.0, 0.0), 2.0))
    back = resample(thin, register(thick, thin), onto=thick)
    inner = (slice(8, -8),) * 3
    before = np.abs(thin.voxels - truth)[inner].mean()
    after = np.abs(back - truth)[inner].mean()
    assert after < 0.2 * before


def test_slices_keep_their_places_where_nothing_moved() -> None:
    thin = volume(head())
    np.testing.assert_allclose(resample(thin, None, onto=thick_of(head())), thin.voxels, atol=0.01)


def test_another_anatomy_is_no_partner() -> None:
    other = phantom(12, extent=EXTENT)
    other[:, :20] = 0
    other[40:, 30:] = 0
    found = register(thick_of(head()), volume(other))
    assert implausible(found) is not None


def test_a_motion_beyond_reason_is_named_in_mm_and_degrees() -> None:
    truth = head()
    found = replace(register(thick_of(truth), volume(truth)), shift_mm=(0.0, 12.0, 5.0))
    assert re.fullmatch(r"it moves by 13\.0 mm and 0\.\d°, more than 10 mm or 5°", implausible(found) or "")


def test_edges_that_agree_less_than_before_are_named() -> None:
    found = replace(register(thick_of(head()), volume(head())), edges_before=0.9, edges_after=0.6)
    assert implausible(found) == "edges correlate less after it (0.60) than before (0.90)"
