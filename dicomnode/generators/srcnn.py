"""SRCNN (Dong 2014; 2016, arXiv 1501.00092): three convolutions that sharpen an interpolated slice.

One of the two networks that the paper sets itself against; there to be compared with, not to be used. Kernels
9-5-5 with 64 and 32 channels, the authors' best: 57,281 parameters (9-1-5, their basic one: 8,129).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class SRCNN(nn.Module):
    """Interpolated slices (N, 1, H, W) of any size → the same, sharper; predicts the image and not its difference."""

    def __init__(self, *, channels: int = 64, mapped: int = 32, middle: int = 5) -> None:
        super().__init__()
        self.head = nn.Conv2d(1, channels, 9, padding=4)
        self.middle = nn.Conv2d(channels, mapped, middle, padding=middle // 2)
        self.tail = nn.Conv2d(mapped, 1, 5, padding=2)
        # Not the authors' N(0, 0.001), which needs their 8·10⁸ steps: every network here has the same budget.
        for convolution in (self.head, self.middle, self.tail):
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            nn.init.zeros_(_bias(convolution))

    def forward(self, slices: Tensor) -> Tensor:
        """The last convolution may be kept in float32, as in ``SRResNet``."""
        patches = functional.relu(self.head(slices), inplace=True)
        mapped = functional.relu(self.middle(patches), inplace=True)
        predicted: Tensor = self.tail(mapped.to(self.tail.weight.dtype))
        return predicted


def _bias(convolution: nn.Conv2d) -> Tensor:
    assert convolution.bias is not None
    return convolution.bias
