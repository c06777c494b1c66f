"""The feature distance: what it compares, and that weights of another scale do not change it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from trainer.features import Features
from trainer.judging.perception import REFORMATS_COMPARED, feature_distance, spread, squared_distance


def tiny_features(gain: float = 1.0) -> Features:
    """One random convolution in the place of VGG19's."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 4, 3, padding=1)
    with torch.no_grad():
        convolution.weight *= gain
        assert convolution.bias is not None
        convolution.bias *= gain
    return Features("tiny", nn.Sequential(convolution), None)


def test_the_distance_grows_with_the_error_and_is_zero_without() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((12, 16, 16), dtype=np.float32)
    error = rng.standard_normal(truth.shape, dtype=np.float32)
    mask = truth >= 0
    found = [
        feature_distance(tiny_features(), truth + np.float32(size) * error, truth, mask) for size in (0.0, 0.1, 0.2)
    ]
    assert found[0] == 0.0
    assert found[2] == pytest.approx(4 * found[1], rel=1e-3), "a linear layer: the square of the error"


def test_weights_of_another_scale_give_the_same_distance() -> None:
    rng = np.random.default_rng(1)
    image, truth = (rng.random((14, 15), dtype=np.float32) for _ in range(2))
    ours, larger = squared_distance(tiny_features(), image, truth), squared_distance(tiny_features(30.0), image, truth)
    assert larger == pytest.approx(ours, rel=0.01), "energy has three digits"


def test_both_reformats_are_looked_at_inside_the_mask_alone() -> None:
    truth = np.zeros((10, 40, 40), dtype=np.float32)
    mask = np.zeros(truth.shape, dtype=bool)
    mask[:, 5:10, 20:30] = True
    outside = truth.copy()
    outside[:, 30:, :10] = 1.0  # in reformats of neither plane that hold mask
    assert feature_distance(tiny_features(), outside, truth, mask) == 0.0
    row = truth.copy()
    row[:, 7, 0] = 1.0  # in a reformat of one plane only
    assert feature_distance(tiny_features(), row, truth, mask) > 0.0


def test_many_reformats_are_thinned_evenly() -> None:
    chosen = spread(np.arange(80), REFORMATS_COMPARED)
    assert len(chosen) == REFORMATS_COMPARED
    assert set(np.diff(chosen)) == {10}
    np.testing.assert_array_equal(spread(np.array([3, 9]), REFORMATS_COMPARED), [3, 9])
