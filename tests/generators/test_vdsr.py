"""VDSR as its authors describe it."""

from __future__ import annotations

import pytest
import torch

from dicomnode.generators.vdsr import VDSR


def test_it_has_twenty_layers_and_sees_41_pixels() -> None:
    """Section 3.1 of arXiv 1511.04587: depth 20, receptive field 41; parameters added up by hand."""
    net = VDSR()
    convolutions = [parameter for parameter in net.parameters() if parameter.dim() == 4]
    assert len(convolutions) == 20
    assert sum(parameter.numel() for parameter in net.parameters()) == 640 + 18 * (9 * 64 * 64 + 64) + 9 * 64 + 1
    image = torch.rand(1, 1, 51, 51, requires_grad=True)
    narrow = VDSR(channels=8)
    narrow.residual(image)[0, 0, 25, 25].backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None
    rows = image.grad[0, 0].abs().sum(1).nonzero()
    assert int(rows.max() - rows.min() + 1) == 41


@pytest.mark.parametrize("shape", [(1, 1, 16, 16), (2, 1, 17, 31), (1, 1, 1, 5)])
def test_the_output_is_as_large_as_the_input(shape: tuple[int, ...]) -> None:
    assert VDSR(channels=4, layers=3)(torch.rand(shape)).shape == shape


def test_without_a_residual_it_gives_back_the_interpolated_slice() -> None:
    net = VDSR(channels=4, layers=3)
    torch.nn.init.zeros_(net.tail.weight)
    slices = torch.rand(1, 1, 8, 8)
    assert torch.equal(net(slices), slices)


def test_untrained_it_is_already_near_the_interpolated_slice() -> None:
    """A fixed budget of steps should not be spent on getting back to where interpolation is."""
    torch.manual_seed(0)
    slices = torch.rand(1, 1, 24, 24)
    assert VDSR(channels=16).residual(slices).square().mean() < 0.1 * slices.square().mean()


def test_gradients_survive_the_activations_in_place() -> None:
    net = VDSR(channels=2, layers=4).double()
    assert torch.autograd.gradcheck(net, (torch.rand(1, 1, 5, 4, dtype=torch.float64, requires_grad=True),))
