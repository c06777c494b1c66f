"""Training samples: what a strip promises to the loss."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.phantom_sources import phantom
from trainer import simulate
from trainer.simulate import PATCH, PREDICTED_SLICES, STRIP_SLICES, GreyVolume, Strip, draw_strip, grey_volume

DRAWS = 60  # enough for every branch of the draw: warp, ramp, noise, remap, both ends


@pytest.fixture(scope="module")
def volumes() -> tuple[GreyVolume, ...]:
    """Two phantoms."""
    return (grey_volume(phantom(0)), grey_volume(phantom(1)))


def draw_many(volumes: tuple[GreyVolume, ...], ratio: int) -> list[Strip]:
    """Strips of one ratio, seeds 0, 1, …"""
    return [draw_strip(volumes, ratio, np.random.default_rng(seed)) for seed in range(DRAWS)]


@pytest.mark.parametrize("ratio", [2, 6])
def test_a_strip_is_thick_slices_with_the_truth_of_three(volumes: tuple[GreyVolume, ...], ratio: int) -> None:
    for strip in draw_many(volumes, ratio):
        assert strip.thick.shape == (STRIP_SLICES, PATCH, PATCH)
        assert strip.truth.shape == strip.base.shape == (PREDICTED_SLICES * ratio, PATCH, PATCH)
        assert strip.thick.dtype == strip.truth.dtype == strip.base.dtype == np.float32
        assert np.isfinite(strip.thick).all()
        assert strip.thickness_over_spacing <= 1.0


def test_the_truth_averages_to_the_thick_slices(
    volumes: tuple[GreyVolume, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a contiguous box and no noise: whatever flip, contrast, ramp or rotation was drawn."""
    monkeypatch.setattr(simulate, "PROFILE_SHARE", (1.0, 0.0, 0.0))
    monkeypatch.setattr(simulate, "THICKNESS_SHARE", (1.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(simulate, "NOISE_SHARE", 0.0)
    for strip in draw_many(volumes, 4):
        means = strip.truth.reshape(PREDICTED_SLICES, 4, PATCH, PATCH).mean(axis=1)
        np.testing.assert_allclose(means, strip.thick[strip.first : strip.first + PREDICTED_SLICES], atol=1e-4)


def test_some_strips_end_the_stack(volumes: tuple[GreyVolume, ...]) -> None:
    places = {strip.first for strip in draw_many(volumes, 3)}
    assert places == {0, (STRIP_SLICES - PREDICTED_SLICES) // 2, STRIP_SLICES - PREDICTED_SLICES}


def test_a_sample_depends_on_its_random_numbers_alone(volumes: tuple[GreyVolume, ...]) -> None:
    first, second, other = (draw_strip(volumes, 3, np.random.default_rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.thick, second.thick)
    np.testing.assert_array_equal(first.truth, second.truth)
    assert not np.array_equal(first.thick, other.thick)


def test_grey_levels_keep_the_values() -> None:
    volume = phantom(0)
    levels = grey_volume(volume).levels
    values = levels * (simulate.BRIGHTEST / simulate.GREY_LEVELS)
    assert np.isclose(np.percentile(values[values > 0.08], 99.5), 1.0, atol=2e-3)
    assert levels.dtype == np.uint16


def test_a_grey_volume_is_cropped_to_its_body() -> None:
    padded = np.pad(phantom(0), 30)
    shape = grey_volume(padded).levels.shape
    assert all(length <= phantom(0).shape[0] + 2 * 6 for length in shape)
