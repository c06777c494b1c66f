"""Samples of the thin network: what a strip promises to the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.phantom_sources import phantom
from tests.support.recipes import thin_recipe
from trainer.training import networks, predictions, strips
from trainer.training.recipe import Recipe
from trainer.training.recipe_tables import PREDICTED_SLICES, Augmentation, Degradation
from trainer.training.simulate import GreyVolume, grey_volume
from trainer.training.strips import STRIP_SLICES, Strip, draw_strip

DRAWS = 60  # enough for every branch of the draw: warp, ramp, noise, remap, both ends
RECIPE = thin_recipe()
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def volumes() -> tuple[GreyVolume, ...]:
    """Two phantoms."""
    return tuple(grey_volume(phantom(seed, extent=41)) for seed in (0, 1))


def draw_many(volumes: tuple[GreyVolume, ...], ratio: int, recipe: Recipe = RECIPE) -> list[Strip]:
    """Strips of one ratio, seeds 0, 1, …"""
    return [draw_strip(volumes, ratio, recipe, np.random.default_rng(seed)) for seed in range(DRAWS)]


@pytest.mark.parametrize("ratio", [2, 3])
def test_a_strip_is_thick_slices_with_the_truth_of_three(volumes: tuple[GreyVolume, ...], ratio: int) -> None:
    for strip in draw_many(volumes, ratio):
        assert strip.thick.shape == (STRIP_SLICES, 16, 16)
        assert strip.truth.shape == strip.base.shape == (PREDICTED_SLICES * ratio, 16, 16)
        assert strip.thick.dtype == strip.truth.dtype == strip.base.dtype == np.float32
        assert np.isfinite(strip.thick).all()
        assert strip.thickness_over_spacing <= 1.0


def test_the_truth_averages_to_the_thick_slices(volumes: tuple[GreyVolume, ...]) -> None:
    """With a contiguous box and no noise: whatever flip, contrast, ramp or rotation was drawn."""
    clean = RECIPE.model_copy(update={"degradation": Degradation()})
    for strip in draw_many(volumes, 3, clean):
        means = strip.truth.reshape(PREDICTED_SLICES, 3, 16, 16).mean(axis=1)
        np.testing.assert_allclose(means, strip.thick[strip.first : strip.first + PREDICTED_SLICES], atol=1e-4)


def test_a_mirrored_batch_has_the_same_strips_from_the_other_side(volumes: tuple[GreyVolume, ...]) -> None:
    """Among them strips at both ends; cubic-dc, which has no upper and lower side, gives the same from both sides."""
    batch = strips.stacked(draw_many(volumes, 3), 3)
    mirrored = batch.mirrored()
    assert torch.equal(predictions.measured(mirrored, CPU), predictions.measured(batch, CPU).flip(1))
    nothing = torch.zeros(batch.base.shape)
    seen, seen_mirrored = (predictions.projected(nothing, one, CPU)[0] for one in (batch, mirrored))
    torch.testing.assert_close(seen_mirrored.flip(1), seen, atol=1e-5, rtol=0)
    torch.testing.assert_close(predictions.truth_of(mirrored, CPU).flip(1), predictions.truth_of(batch, CPU))


def test_some_strips_end_the_stack(volumes: tuple[GreyVolume, ...]) -> None:
    places = {strip.first for strip in draw_many(volumes, 3)}
    assert places == {0, (STRIP_SLICES - PREDICTED_SLICES) // 2, STRIP_SLICES - PREDICTED_SLICES}


def test_a_sample_depends_on_its_random_numbers_alone(volumes: tuple[GreyVolume, ...]) -> None:
    first, second, other = (draw_strip(volumes, 3, RECIPE, np.random.default_rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.thick, second.thick)
    np.testing.assert_array_equal(first.truth, second.truth)
    assert not np.array_equal(first.thick, other.thick)


def test_the_prediction_is_consistent_with_the_measured_slices(volumes: tuple[GreyVolume, ...]) -> None:
    """A contiguous stack: block means of the prediction are the thick slices, even of a net that is far off."""
    strip = next(strip for strip in draw_many(volumes, 3) if strip.thickness_over_spacing == 1.0)
    batch = strips.stacked([strip], 3)
    torch.manual_seed(0)
    net = networks.build(RECIPE.network)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.uniform_(-0.1, 0.1)
        served, before = (thin[0].numpy() for thin in predictions.predict(net, batch, torch.float32, CPU))
    measured = batch.thick[0, batch.first[0] : batch.first[0] + 3]

    def missed(thin: np.ndarray) -> float:
        return float(np.abs(thin.reshape(3, 3, 16, 16).mean(axis=1) - measured).max())

    assert missed(served) < 2e-3 * missed(before)


def test_an_untrained_network_predicts_cubic_dc(volumes: tuple[GreyVolume, ...]) -> None:
    batch = strips.stacked(draw_many(volumes, 2)[:3], 2)
    with torch.no_grad():
        served, before = predictions.predict(networks.build(RECIPE.network), batch, torch.float32, CPU)
    np.testing.assert_array_equal(before.numpy(), batch.base)
    np.testing.assert_allclose(served.numpy(), batch.base, atol=2e-3)


def test_of_a_patch_with_two_sides_the_shorter_lies_along_the_slices_of_a_native_stack() -> None:
    """Slices of one brightness each, warped or not: a strip is as bright all along its longer side."""
    levels = np.broadcast_to(np.arange(1000, 1010, dtype=np.uint16)[:, None, None], (10, 60, 60))
    native = GreyVolume(levels=levels, body_level=10, slice_axes=(1, 2), is_native=True)
    oblong = RECIPE.model_copy(
        update={
            "samples": RECIPE.samples.model_copy(update={"patch": (16, 8)}),
            "degradation": Degradation(),
            "augmentation": Augmentation(warp_share=0.5),
        }
    )
    for seed in range(DRAWS):
        for is_turned, shape in ((False, (16, 8)), (True, (8, 16))):
            strip = draw_strip((native,), 3, oblong, np.random.default_rng(seed), is_turned=is_turned)
            assert strip.thick.shape == (STRIP_SLICES, *shape)
            assert strip.truth.shape == (PREDICTED_SLICES * 3, *shape)
            longer, shorter = (2, 1) if is_turned else (1, 2)
            assert np.ptp(strip.thick, axis=longer).max() < 1e-5
            assert np.ptp(strip.thick, axis=shorter).min() > 1e-3


def test_a_thin_volume_gives_patches_of_two_sides_as_well(volumes: tuple[GreyVolume, ...]) -> None:
    oblong = RECIPE.model_copy(update={"samples": RECIPE.samples.model_copy(update={"patch": (16, 9)})})
    for strip in draw_many(volumes, 3, oblong):
        assert strip.thick.shape == (STRIP_SLICES, 16, 9)
        assert np.isfinite(strip.truth).all()
