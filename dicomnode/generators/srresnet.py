"""The network of the paper (Narcomey & Gu 2018): SRResNet without upsampling, input size = output size.

Kinds ``slice`` (one slice → itself, sharper) and ``slab3`` (one slice → the one before, itself, the one after). Neither
makes a series thinner by itself: served, it is given the slices of cubic-dc. Layer by layer as the published code has
it (docs/paper.md#paper-code-recipes): 1,221,953 trainable parameters with one output, 1,223,107 with three.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

INITIAL_SIGMA = 0.02  # of convolutions (paper, §4.2) and of the normalisations' gain (its code)
BATCH_NORM_EPSILON = 1e-5
# with the code's 0.1 the statistics are those of the last few slices (docs/paper.md#paper-code-recipes)
BATCH_NORM_MOMENTUM = 0.01


class Block(nn.Module):
    """conv–BN–ReLU–conv–BN on a skip; the normalisations supply the bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.first_norm: nn.Module = _batch_norm(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm: nn.Module = _batch_norm(channels)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) → the same."""
        inner = functional.relu(self.first_norm(self.first(features)), inplace=True)
        outer: Tensor = self.second_norm(self.second(inner))
        return outer.add_(features)  # no gradient needs what this overwrites


class SRResNet(nn.Module):
    """Slices (N, 1, H, W) of any size, scaled to their series → (N, ``outputs``, H, W) in the same scale."""

    def __init__(self, *, outputs: int, channels: int = 64, blocks: int = 16) -> None:
        super().__init__()
        self.head = nn.Conv2d(1, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(channels) for _ in range(blocks)))
        self.join = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.join_norm: nn.Module = _batch_norm(channels)
        self.tail = nn.Conv2d(channels, outputs, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=INITIAL_SIGMA)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, mean=1.0, std=INITIAL_SIGMA)

    def forward(self, slices: Tensor) -> Tensor:
        """The last convolution may be kept in float32: rounded to bfloat16 an image would have 256 grey levels."""
        shallow = functional.relu(self.head(slices))
        deep: Tensor = self.join_norm(self.join(self.blocks(shallow)))
        deep.add_(shallow)
        predicted: Tensor = self.tail(deep.to(self.tail.weight.dtype))
        return predicted


def fold_batch_norm(net: SRResNet) -> SRResNet:
    """A copy for serving, whose convolutions do the work of the normalisations: one pass less each."""
    folded = copy.deepcopy(net).eval()
    with torch.no_grad():
        for block in folded.blocks:
            assert isinstance(block, Block)
            block.first, block.first_norm = _fold(block.first, block.first_norm)
            block.second, block.second_norm = _fold(block.second, block.second_norm)
        folded.join, folded.join_norm = _fold(folded.join, folded.join_norm)
    return folded


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPSILON, momentum=BATCH_NORM_MOMENTUM)


def _fold(convolution: nn.Conv2d, norm: nn.Module) -> tuple[nn.Conv2d, nn.Module]:
    assert isinstance(norm, nn.BatchNorm2d), "folded already"
    return fuse_conv_bn_eval(convolution, norm), nn.Identity()
