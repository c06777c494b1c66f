"""Samples of the slice-by-slice networks: the right slices, together, in the right units and order."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from dicomnode.generators.kinds import Kind
from tests.support.phantom_sources import phantom
from tests.support.recipes import slice_recipe
from trainer.data.pairs import Origin, SlicePairs
from trainer.training import slices
from trainer.training.recipe_tables import Degradation


@pytest.fixture(scope="module")
def pair() -> SlicePairs:
    """Four thick slices of three, each voxel of value 100·slice + row, so that a sample says where it is from."""
    rows = np.arange(20, dtype=np.float32)[:, None] + np.zeros((20, 20), np.float32)
    thin = np.stack([rows + 100 * k for k in range(12)])
    return SlicePairs(
        subject="person-0",
        origin=Origin.SIMULATED,
        thick=thin.reshape(4, 3, 20, 20).mean(axis=1),
        thin=thin,
        thick_scale=10.0,
        thin_scale=20.0,
        matches=((0, 1), (1, 4), (2, 7), (3, 10)),
    )


def first_values(images: np.ndarray) -> np.ndarray:
    """Which slice each image is."""
    found: np.ndarray = np.round((images.mean(axis=(-1, -2)) - 10) / 100).astype(int)
    return found


def test_a_slice_comes_with_the_thin_one_at_its_place(pair: SlicePairs) -> None:
    batch = slices.draw_batch([pair], slice_recipe(batch=8), range(8), seed=1, step=0)
    assert batch.inputs.shape == (8, 1, 16, 16)
    assert batch.targets.shape == (8, 1, 16, 16)
    np.testing.assert_allclose(batch.inputs, batch.targets, atol=1e-4)  # here the middle of three is their mean


def test_model_2_is_shown_the_neighbours_in_order(pair: SlicePairs) -> None:
    batch = slices.draw_batch([pair], slice_recipe(Kind.SLAB3, batch=8), range(8), seed=1, step=0)
    assert batch.targets.shape == (8, 3, 16, 16)
    for thick, targets in zip(batch.inputs[:, 0], batch.targets, strict=True):
        np.testing.assert_array_equal(first_values(targets) - first_values(thick), [-1, 0, 1])


def test_the_published_order_is_slice_after_slice(pair: SlicePairs) -> None:
    recipe = slice_recipe(batch=1, patch=0, order="series")
    drawn = [slices.draw_batch([pair], recipe, range(1), seed=1, step=step) for step in range(5)]
    assert [int(first_values(one.inputs)[0, 0]) for one in drawn] == [1, 4, 7, 10, 1]
    assert drawn[0].inputs.shape == (1, 1, 20, 20)


def test_raw_units_are_those_of_each_side(pair: SlicePairs) -> None:
    recipe = slice_recipe(batch=1, patch=0, order="series", scale="raw")
    batch = slices.draw_batch([pair], recipe, range(1), seed=1, step=0)
    np.testing.assert_allclose(batch.inputs[0, 0], pair.thick[0] * 10)
    np.testing.assert_allclose(batch.targets[0, 0], pair.thin[1] * 20)


def test_cubic_input_lies_where_the_target_lies() -> None:
    """Against scipy's spline of the same thick stack; smooth along z, so that interpolation is nearly the truth."""
    thin = (ndimage.gaussian_filter(phantom(0, extent=42), (6, 0, 0)) / 500).astype(np.float32)
    recipe = slice_recipe(Kind.SRCNN, batch=16, input="cubic", ratios=(3,))
    (made,) = slices.simulated(thin, "person-0", recipe, np.random.default_rng(0), axes=(0,))
    batch = slices.draw_batch([made], recipe, range(16), seed=2, step=0)
    error = np.sqrt(np.mean((batch.inputs - batch.targets) ** 2))
    nearest = np.sqrt(np.mean((np.repeat(made.thick, 3, axis=0) - made.thin) ** 2))
    assert error < 0.6 * nearest


def test_a_simulated_pair_says_so_and_averages_to_its_thick_slices() -> None:
    recipe = slice_recipe(ratios=(2, 3))
    made = list(slices.simulated(phantom(0, extent=41), "person-0", recipe, np.random.default_rng(0)))
    assert len(made) == 6  # two ratios, three axes
    for one in made:
        assert one.origin is Origin.SIMULATED
        ratio = len(one.thin) // len(one.thick)
        means = one.thin.reshape(len(one.thick), ratio, *one.thin.shape[1:]).mean(axis=1)
        np.testing.assert_allclose(one.thick, means, atol=1e-4)
        assert all(thin // ratio == thick for thick, thin in one.matches)


def test_a_shifted_grid_finds_other_thin_slices() -> None:
    recipe = slice_recipe(ratios=(3,)).model_copy(update={"degradation": Degradation(offset=0.5)})
    volume = phantom(0, extent=41)
    offsets = set()
    for seed in range(6):
        (made,) = slices.simulated(volume, "person-0", recipe, np.random.default_rng(seed), axes=(0,))
        offsets |= {thin - 3 * thick for thick, thin in made.matches[2:-2]}
    assert len(offsets) > 1


def test_a_sample_does_not_depend_on_who_else_is_in_the_batch(pair: SlicePairs) -> None:
    """So several processes see together what one would have seen."""
    recipe = slice_recipe(batch=4)
    whole = slices.draw_batch([pair], recipe, range(4), seed=1, step=3)
    halves = [slices.draw_batch([pair], recipe, numbers, seed=1, step=3) for numbers in (range(2), range(2, 4))]
    np.testing.assert_array_equal(whole.inputs, np.concatenate([half.inputs for half in halves]))
