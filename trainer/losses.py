"""What a fidelity network is trained to make small."""

from __future__ import annotations

from torch import Tensor

CHARBONNIER_EPSILON = 1e-3  # about the noise floor of the volumes' scale (SCIENCE §4.2)
GRADIENT_WEIGHT = 0.5  # SCIENCE §4.2


def charbonnier(difference: Tensor) -> Tensor:
    """Mean of √(d² + ε²): as |d|, but smooth at zero."""
    return (difference.square() + CHARBONNIER_EPSILON**2).sqrt().mean()


def fidelity_loss(thin: Tensor, truth: Tensor) -> Tensor:
    """Charbonnier of the values and, at half weight, of their steps along z (axis -3)."""
    error = thin - truth
    return charbonnier(error) + GRADIENT_WEIGHT * charbonnier(error.diff(dim=-3))
