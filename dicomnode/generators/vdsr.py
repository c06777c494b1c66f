"""VDSR (Kim 2016, arXiv 1511.04587): twenty convolutions that predict what an interpolated slice lacks.

One of the two networks that the paper sets itself against; there to be compared with, not to be used.
665,921 parameters with twenty layers of 64 channels.
"""

from __future__ import annotations

from torch import Tensor, nn

LAYERS = 20
SKETCH_SHARE = 0.1  # of the last layer's initial weights: it begins near the interpolation


class VDSR(nn.Module):
    """Interpolated slices (N, 1, H, W) of any size → the same, sharper."""

    def __init__(self, *, channels: int = 64, layers: int = LAYERS) -> None:
        assert layers >= 2
        super().__init__()
        self.head = nn.Conv2d(1, channels, 3, padding=1)
        self.trunk = nn.Sequential(*(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(layers - 2)))
        self.tail = nn.Conv2d(channels, 1, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                assert module.bias is not None
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")  # He 2015, as the authors did
                nn.init.zeros_(module.bias)
        self.tail.weight.data.mul_(SKETCH_SHARE)

    def forward(self, slices: Tensor) -> Tensor:
        """The slices with their residual: what is trained."""
        return slices + self.residual(slices)

    def residual(self, slices: Tensor) -> Tensor:
        """Predict the residual alone, so that a server can add it to the slices in full precision."""
        features = self.head(slices).relu_()
        for convolution in self.trunk:
            features = convolution(features).relu_()
        predicted: Tensor = self.tail(features)
        return predicted
