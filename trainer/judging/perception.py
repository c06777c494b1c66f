"""Measure results against the truth as a network of natural images sees them; only where its features are given."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from dicomnode.imaging.metrics import FloatArray, Mask
from trainer.features import Features

REFORMATS_COMPARED = 8  # of each of the two planes that contain z, evenly spread over the mask; all would take minutes

Distance = Callable[[FloatArray, FloatArray], float]  # of one pair of images (H, W)


def feature_distance(features: Features, image: FloatArray, truth: FloatArray, mask: Mask) -> float:
    """Mean squared difference of the activations, over reformats.

    Divided by the features' energy, so that weights of another scale give a number of the same order.
    """
    return mean_over_reformats(partial(squared_distance, features), image, truth, mask)


def mean_over_reformats(distance: Distance, image: FloatArray, truth: FloatArray, mask: Mask) -> float:
    """The mean distance over some reformats of both planes that contain z, both planes alike."""
    assert image.shape == truth.shape == mask.shape
    means = []
    for axis in (1, 2):
        chosen = spread(np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))), REFORMATS_COMPARED)
        distances = [distance(image.take(index, axis), truth.take(index, axis)) for index in chosen.tolist()]
        means.append(sum(distances) / len(distances))
    return sum(means) / len(means)


def squared_distance(features: Features, image: FloatArray, truth: FloatArray) -> float:
    """The mean squared distance of activations of one pair of images (H, W)."""
    pair = torch.from_numpy(np.stack([image, truth])[:, None].astype(np.float32))
    with torch.inference_mode():
        of_image, of_truth = features(pair)
    distance: float = (of_image - of_truth).square().mean().item() / features.energy
    return distance


def spread(indices: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """Take at most ``count`` of them, evenly spread, the ends left out."""
    if len(indices) <= count:
        return indices
    places = (np.arange(count) + 0.5) / count * len(indices)
    chosen: NDArray[np.intp] = indices[places.astype(np.intp)]
    return chosen
