"""Trunks that follow a stack: begin as cubic-dc, see along the slices as they should, keep any matrix size."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from trainer.training import sequences
from trainer.training.sequences import Recurrence, SequenceNet, with_neighbours

SMALL = {
    "volume": lambda: sequences.volumetric(channels=4, blocks=1),
    "recurrent": lambda: sequences.recurrent(channels=4, blocks=2),
}


def awake(net: SequenceNet) -> SequenceNet:
    """With outputs that are not zero."""
    for tail in net.tails.values():
        assert isinstance(tail, nn.Conv2d)
        nn.init.normal_(tail.weight, std=0.1)
    return net.eval()


@pytest.mark.parametrize("name", SMALL)
def test_an_untrained_trunk_adds_nothing_and_keeps_the_matrix(name: str) -> None:
    found = SMALL[name]()(torch.rand(2, 5, 9, 7), 3)
    assert found.shape == (2, 5, 3, 9, 7)
    assert not found.any()


@pytest.mark.parametrize(("name", "reach"), [("volume", 2), ("recurrent", 6)])
def test_a_slice_is_seen_as_far_along_the_stack_as_the_trunk_reaches(name: str, reach: int) -> None:
    """Of a block with two convolutions of three slices two slices to each side; of a recurrence the whole stack."""
    torch.manual_seed(0)
    net, stack = awake(SMALL[name]()), torch.rand(1, 13, 8, 8)
    changed = stack.clone()
    changed[0, 6] += 1.0
    with torch.inference_mode():
        differs = (net(changed, 2) - net(stack, 2)).abs().amax(dim=(0, 2, 3, 4)) > 0
    assert differs.nonzero().flatten().tolist() == list(range(6 - reach, 6 + reach + 1))


def test_a_convolution_with_neighbours_is_one_in_three_dimensions() -> None:
    stacks, weight = torch.rand(2, 5, 4, 6, 6), torch.rand(4, 4, 3, 3, 3)  # (N, S, C, H, W)
    known = functional.conv3d(stacks.transpose(1, 2), weight, padding=1).transpose(1, 2)
    flat = weight.transpose(1, 2).flatten(1, 2)  # channels of the slice before, of the slice, of the one after
    found = functional.conv2d(with_neighbours(stacks.flatten(0, 1), 5), flat, padding=1)
    torch.testing.assert_close(found.view_as(stacks), known)


def test_a_stack_turned_round_is_the_same_to_a_recurrence_whose_two_ways_are_alike() -> None:
    torch.manual_seed(0)
    recurrence = Recurrence(4)
    upwards, downwards = recurrence.directions
    downwards.load_state_dict(upwards.state_dict())
    half = recurrence.merge.weight.data[:, :4]
    recurrence.merge.weight.data = torch.cat([half, half], dim=1)
    planes = torch.rand(6, 4, 5, 5)
    torch.testing.assert_close(recurrence(planes.flip(0), 2, 6).flip(0), recurrence(planes, 2, 6))
