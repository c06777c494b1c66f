"""Scale and mask of the body."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from dicomnode.imaging.body import body_box, body_mask, body_rectangle, body_scale


def ball(radius: float, *, extent: int = 40) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """A bright ball in air, of body voxels between 0.5 and 1."""
    z, y, x = np.ogrid[:extent, :extent, :extent]
    middle = extent / 2
    inside = (z - middle) ** 2 + (y - middle) ** 2 + (x - middle) ** 2 <= radius**2
    texture = np.random.default_rng(0).uniform(0.5, 1.0, inside.shape)
    return np.where(inside, texture, 0.0).astype(np.float32)


def test_the_scale_ignores_how_much_air_surrounds_the_body() -> None:
    volume = ball(12)
    expected = np.percentile(volume[volume > 0], 99.5)
    assert np.isclose(body_scale(volume), expected, rtol=1e-3)
    assert np.isclose(body_scale(volume[5:-5, 5:-5, 5:-5]), expected, rtol=1e-3)


@given(st.floats(1e-3, 1e4))
def test_the_scale_follows_the_units(factor: float) -> None:
    volume = ball(12)
    assert np.isclose(body_scale(volume * np.float32(factor)), factor * body_scale(volume), rtol=1e-4)


def test_an_empty_volume_has_scale_one() -> None:
    assert body_scale(np.zeros((3, 4, 5), dtype=np.float32)) == 1.0


def test_the_mask_is_the_smoothed_body_dilated_by_two() -> None:
    """Method of docs/science.md#metrics with scipy."""
    volume = ball(12)
    expected = ndimage.binary_dilation(ndimage.gaussian_filter(volume, 1.5) > 0.08, iterations=2)
    np.testing.assert_array_equal(body_mask(volume), expected)


def test_the_box_holds_the_mask_tightly() -> None:
    mask = np.zeros((7, 8, 9), dtype=bool)
    mask[2, 3, 4] = mask[5, 3, 8] = True
    assert body_box(mask) == (slice(2, 6), slice(3, 4), slice(4, 9))
    assert mask[body_box(np.zeros_like(mask))].shape == mask.shape


def test_the_rectangle_holds_the_body_of_every_slice_and_a_margin() -> None:
    voxels = np.abs(np.random.default_rng(0).normal(0, 20, (3, 61, 83))).astype(np.float32)  # the noise of air
    voxels[0, 20:30, 40:50] += 500
    voxels[2, 33:34, 60:61] += 5000  # a single pixel that is bright enough for its square
    rows, columns = body_rectangle(voxels, 500.0, 5)
    assert (rows.start, rows.stop, columns.start, columns.stop) == (12, 41, 32, 69)


def test_the_rectangle_of_air_is_the_whole_plane() -> None:
    assert body_rectangle(np.zeros((2, 9, 7), dtype=np.float32), 1.0, 3) == (slice(0, 9), slice(0, 7))
