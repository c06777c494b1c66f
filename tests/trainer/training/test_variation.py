"""Variations of the thin truth: what is drawn, and that nothing is drawn where a recipe has no share for it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.phantom_sources import phantom
from trainer.training import variation
from trainer.training.recipe_tables import Augmentation
from trainer.training.simulate import BRIGHTEST, GREY_LEVELS

RATIO = 4
DRAWS = 30


def test_without_augmentation_contrast_is_what_it_was() -> None:
    table = variation.draw_contrast(Augmentation(), np.random.default_rng(0))
    np.testing.assert_allclose(table, np.arange(GREY_LEVELS) * BRIGHTEST / GREY_LEVELS, rtol=1e-6)


def test_without_a_share_no_random_number_is_used() -> None:
    """So a run of a recipe without these shares goes on as it began."""
    rng = np.random.default_rng(0)
    thin = np.ones((4, 4, 4), np.float32)
    assert variation.smooth(thin, Augmentation(), rng) is thin
    variation.add_lesions(thin, RATIO, Augmentation(), rng)
    assert (thin == 1).all()
    assert rng.random() == np.random.default_rng(0).random()


def test_a_smoothed_sample_has_less_grain_and_the_same_brightness() -> None:
    grain = 1 + 0.1 * np.random.default_rng(1).standard_normal((24, 24, 24), dtype=np.float32)
    always = Augmentation(smoothing_share=1.0)
    spreads = []
    for seed in range(DRAWS):
        smoothed = variation.smooth(grain, always, np.random.default_rng(seed))
        assert smoothed.dtype == np.float32
        assert smoothed.mean() == pytest.approx(grain.mean(), abs=5e-3)
        spreads.append(float(smoothed.std()))
    assert max(spreads) < 0.85 * grain.std()
    assert min(spreads) < 0.25 * grain.std()


def test_lesions_are_bright_and_dark_ellipsoids_of_bounded_contrast() -> None:
    always = Augmentation(lesion_share=1.0)
    added = []
    for seed in range(DRAWS):
        thin = np.zeros((11 * RATIO, 64, 64), np.float32)
        variation.add_lesions(thin, RATIO, always, np.random.default_rng(seed))
        assert thin.any()
        added.append(thin)
    values = np.concatenate([one[one != 0] for one in added])
    assert values.max() > 0.3
    assert values.min() < -0.3
    assert np.mean([(one != 0).mean() for one in added]) < 0.1  # small beside the tissue that they lie in


def test_an_ellipsoid_has_its_size_and_stays_inside_the_strip() -> None:
    thin = np.zeros((40, 40, 40), np.float32)
    radii, centre = np.array([4, 6, 8], np.float32), np.array([20.0, 20.0, 20.0])
    variation._add_ellipsoid(thin, centre, radii, np.float32(0.5), edge=1.0)
    assert thin.max() == pytest.approx(0.5)
    assert thin.sum() / 0.5 == pytest.approx(4 / 3 * np.pi * 4 * 6 * 8, rel=0.05)
    corner = np.zeros((8, 8, 8), np.float32)
    variation._add_ellipsoid(corner, np.zeros(3), radii[:1].repeat(3), np.float32(-0.5), edge=1.0)
    assert corner[0, 0, 0] == pytest.approx(-0.5)
    assert not corner[6:].any()


def test_lesions_lie_in_tissue_of_any_shape() -> None:
    """A strip that is no wider than a lesion still takes one."""
    narrow = phantom(0, extent=41)[:, :9, :9].copy()
    variation.add_lesions(narrow, 2, Augmentation(lesion_share=1.0), np.random.default_rng(3))
    assert np.isfinite(narrow).all()
