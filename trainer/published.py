"""Compute as the published code of Narcomey and Gu (2018) does, for recipes ending in ``-code`` and "table units".

Read in narcomey/mri-superresolution @2918dcd (MIT); docs/paper.md tells the story.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def true_mse(predicted: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """The mean squared difference per value."""
    assert predicted.shape == truth.shape
    return float(np.square(predicted.astype(np.float64) - truth).mean())


def table_mse(predicted: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """Model 1's mean squared error of one slice (H, W): W times the true one.

    ``model_1/utils.py`` divides the sum of squares by the first two sizes of the network's output, (1, H, W, 1):
    by 1 · H, the batch and the rows. ``model_2/utils.py`` was corrected; its numbers are per value.
    """
    assert predicted.ndim == 2
    return true_mse(predicted, truth) * float(predicted.shape[1])


def code_vgg_input(raw: Tensor) -> Tensor:
    """Raw slices as ``features.Features`` must see them for the activations to be of the size that the code's were.

    The code gave (v + 1) / 2 to kernels averaged over the three colours and made for 0 to 255: as a replicated grey
    image that is a third of it. Its missing subtraction of the mean is not repeated.
    """
    return (raw + 1) / 2 / (3 * 255)
