"""Two trunks that follow a stack along its slices, to be compared with the window of ``thin``; neither is served.

Both take a whole run of thick slices and give each slice's residuals, so that features of a slice are computed once and
used by its neighbours. Everything else is as in ``thin``: half resolution, blocks without normalisation, a bias per
block and ratio, an output for each ratio that is zero at the start. ``bench/sequence.py`` trains and judges them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dicomnode.generators.thin import RATIO_ROWS, RATIOS, SECOND_CONVOLUTION_GAIN, SHRINK, ResidualBlock
from trainer.training.predictions import projected
from trainer.training.recipe_tables import PREDICTED_SLICES
from trainer.training.strips import StripBatch

NEIGHBOURS = 3  # slices that a convolution across slices sees


class SequenceNet(nn.Module):
    """Stacks (N, S, H, W) of one ratio → residuals (N, S, ratio, H, W), in body-scale units."""

    def __init__(self, channels: int, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.head = nn.Conv2d(SHRINK**2, channels, 3, padding=1)
        self.blocks = nn.ModuleList(blocks)
        self.join = nn.Conv2d(channels, channels, 3, padding=1)
        self.tails = nn.ModuleDict(
            {str(ratio): nn.Conv2d(channels, ratio * SHRINK**2, 3, padding=1) for ratio in RATIOS}
        )
        for tail in self.tails.values():
            assert isinstance(tail, nn.Conv2d)
            assert tail.bias is not None
            nn.init.zeros_(tail.weight)  # an untrained net is cubic-dc
            nn.init.zeros_(tail.bias)

    def forward(self, stacks: Tensor, ratio: int) -> Tensor:
        """Any matrix size: odd ones are padded by repeating the last row or column."""
        count, slices, height, width = stacks.shape
        planes = stacks.reshape(count * slices, 1, height, width)
        padded = functional.pad(planes, (0, width % SHRINK, 0, height % SHRINK), mode="replicate")
        shallow = self.head(functional.pixel_unshuffle(padded, SHRINK))
        deep = shallow
        for block in self.blocks:
            deep = block(deep, ratio) if isinstance(block, ResidualBlock) else block(deep, ratio, slices)
        residual = functional.pixel_shuffle(self.tails[str(ratio)](shallow + self.join(deep)), SHRINK)
        return residual[..., :height, :width].reshape(count, slices, ratio, height, width)


class VolumeBlock(nn.Module):
    """``ResidualBlock`` with convolutions of 3 × 3 × 3; beyond the ends of the stack there are zeros."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(NEIGHBOURS * channels, channels, 3, padding=1)
        self.second = nn.Conv2d(NEIGHBOURS * channels, channels, 3, padding=1)
        self.ratio_bias = nn.Embedding(RATIO_ROWS, channels)
        with torch.no_grad():
            self.second.weight *= SECOND_CONVOLUTION_GAIN
            self.ratio_bias.weight.zero_()

    def forward(self, features: Tensor, ratio: int, slices: int) -> Tensor:
        """(N·slices, C, H, W) → the same."""
        hidden = self.first(with_neighbours(features, slices)) + self.ratio_bias.weight[ratio][:, None, None]
        changed: Tensor = self.second(with_neighbours(functional.relu_(hidden), slices))
        return features + changed


class Recurrence(nn.Module):
    """A convolutional gated recurrent unit (Ballas 2016, arXiv 1511.06432) from either end of the stack; what both
    say of a slice is added to it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.directions = nn.ModuleList(Direction(channels) for _ in range(2))
        self.merge = nn.Conv2d(2 * channels, channels, 3, padding=1)
        with torch.no_grad():
            self.merge.weight *= SECOND_CONVOLUTION_GAIN

    def forward(self, features: Tensor, ratio: int, slices: int) -> Tensor:
        """(N·slices, C, H, W) → the same; nothing here depends on the ratio."""
        del ratio
        stacks = features.view(-1, slices, *features.shape[1:])
        upwards, downwards = self.directions
        said = torch.cat([upwards(stacks), downwards(stacks.flip(1)).flip(1)], dim=2)
        changed: Tensor = self.merge(said.flatten(0, 1))
        return features + changed


class Direction(nn.Module):
    """One way through the stack. Gates are convolutions of their own, so that Muon steps each of them alike."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.of_slice = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3))
        self.of_state = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(3))

    def forward(self, stacks: Tensor) -> Tensor:
        """(N, S, C, H, W) → the state after each slice, of the same shape."""
        planes = stacks.flatten(0, 1)
        update, reset, new = (gate(planes).view_as(stacks) for gate in self.of_slice)
        of_update, of_reset, of_new = self.of_state
        state = torch.zeros_like(stacks[:, 0])
        states = []
        for number in range(stacks.shape[1]):
            kept = torch.sigmoid(update[:, number] + of_update(state))
            seen = torch.sigmoid(reset[:, number] + of_reset(state))
            state = kept * state + (1 - kept) * torch.tanh(new[:, number] + of_new(seen * state))
            states.append(state)
        return torch.stack(states, dim=1)


def with_neighbours(features: Tensor, slices: int) -> Tensor:
    """(N·slices, C, H, W) → (N·slices, 3·C, H, W): a 2-D convolution of it is a 3-D one of ``features``."""
    stacks = features.view(-1, slices, *features.shape[1:])
    padded = functional.pad(stacks, (0, 0, 0, 0, 0, 0, 1, 1))
    return torch.cat([padded[:, first : first + slices] for first in range(NEIGHBOURS)], dim=2).flatten(0, 1)


def volumetric(*, channels: int = 40, blocks: int = 7) -> SequenceNet:
    """The 3-D trunk; at these defaults it multiplies as often for each output pixel as ``thin``, within 4 %."""
    return SequenceNet(channels, [VolumeBlock(channels) for _ in range(blocks)])


def recurrent(*, channels: int = 48, blocks: int = 8) -> SequenceNet:
    """2-D blocks with a recurrence in their middle; at these defaults as costly as ``thin``, within 1 %."""
    planes = [ResidualBlock(channels) for _ in range(blocks)]
    return SequenceNet(channels, [*planes[: blocks // 2], Recurrence(channels), *planes[blocks // 2 :]])


def predict(net: SequenceNet, batch: StripBatch) -> Tensor:
    """Predict as ``predictions.predict`` does for ``thin``, projected: (B, 3·ratio, P, P), in float32 on the CPU."""
    residuals = net(torch.from_numpy(batch.thick), batch.ratio)
    own = [strip[first : first + PREDICTED_SLICES] for strip, first in zip(residuals, batch.first, strict=True)]
    return projected(torch.stack(own).reshape(batch.base.shape), batch, torch.device("cpu"))[0]
