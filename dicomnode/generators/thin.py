"""The ``thin`` network: a window of thick slices in, the residual on cubic-dc of the middle one's thin slices out.

Half-resolution trunk (pixel-unshuffle 2), residual blocks without normalisation, a learned bias per block and
ratio, one output head per ratio. Design and what it was measured against: docs/science.md#design-of-thin.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dicomnode.imaging.profile import Consistency

RATIOS = (2, 3, 4, 5, 6)
RATIO_ROWS = 9  # rows of the bias table; addressed by the ratio itself, those of ratios not in RATIOS stay zero
SHRINK = 2  # pixel-unshuffle factor: a quarter of the work for no measurable loss
SECOND_CONVOLUTION_GAIN = 0.3  # keeps eight blocks without normalisation near the identity at the start


class ResidualBlock(nn.Module):
    """conv–ReLU–conv on a skip; the first convolution's bias has a part that depends on the ratio."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.ratio_bias = nn.Embedding(RATIO_ROWS, channels)
        with torch.no_grad():
            self.second.weight *= SECOND_CONVOLUTION_GAIN
            self.ratio_bias.weight.zero_()

    def forward(self, features: Tensor, ratio: int) -> Tensor:
        """(N, C, H, W) → the same."""
        assert self.first.bias is not None
        bias = self.first.bias + self.ratio_bias.weight[ratio]
        hidden = functional.conv2d(features, self.first.weight, bias, padding=1)
        changed: Tensor = self.second(functional.relu_(hidden))
        return features + changed


class ThinNet(nn.Module):
    """Windows (N, window, H, W) of one ratio → residuals (N, ratio, H, W), in body-scale units."""

    def __init__(self, *, window: int = 5, channels: int = 64, blocks: int = 8) -> None:
        super().__init__()
        assert window % 2 == 1
        self.window = window
        self.head = nn.Conv2d(window * SHRINK**2, channels, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(channels) for _ in range(blocks))
        self.join = nn.Conv2d(channels, channels, 3, padding=1)
        self.tails = nn.ModuleDict(
            {str(ratio): nn.Conv2d(channels, ratio * SHRINK**2, 3, padding=1) for ratio in RATIOS}
        )
        for tail in self.tails.values():
            assert isinstance(tail, nn.Conv2d)
            assert tail.bias is not None
            nn.init.zeros_(tail.weight)  # an untrained net is cubic-dc
            nn.init.zeros_(tail.bias)

    def forward(self, windows: Tensor, ratio: int) -> Tensor:
        """Any matrix size: odd ones are padded by repeating the last row or column."""
        height, width = windows.shape[-2:]
        padded = functional.pad(windows, (0, width % SHRINK, 0, height % SHRINK), mode="replicate")
        shallow = self.head(functional.pixel_unshuffle(padded, SHRINK))
        deep = shallow
        for block in self.blocks:
            deep = block(deep, ratio)
        deep = shallow + self.join(deep)
        residual = functional.pixel_shuffle(self.tails[str(ratio)](deep), SHRINK)
        return residual[..., :height, :width]


def thick_windows(thick: Tensor, window: int, start: int, stop: int) -> Tensor:
    """The windows around thick slices ``start`` … ``stop`` - 1 of a stack (n, H, W), end slices repeated.

    Returns (stop - start, window, H, W).
    """
    reach = torch.arange(window, device=thick.device) - window // 2
    middle = torch.arange(start, stop, device=thick.device)
    return thick[(middle[:, None] + reach[None, :]).clamp(0, len(thick) - 1)]


def project(candidate: Tensor, thick: Tensor, profile: Tensor, operator: Tensor) -> Tensor:
    """``candidate`` (…, n·r, H, W) made consistent with ``thick`` (…, n, H, W); float32 throughout.

    bfloat16 here would give back slab means with three digits, which is worse than not projecting.
    """
    assert candidate.dtype == thick.dtype == profile.dtype == operator.dtype == torch.float32
    flat = candidate.flatten(-2)
    missing = thick.flatten(-2) - profile @ flat
    return (flat + operator @ missing).view_as(candidate)


def consistency_tensors(matrices: Consistency, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """(profile, operator) as float32 tensors for ``project``."""
    return (
        torch.tensor(matrices.profile, dtype=torch.float32, device=device),
        torch.tensor(matrices.operator, dtype=torch.float32, device=device),
    )
