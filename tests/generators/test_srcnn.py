"""SRCNN as its authors describe it."""

from __future__ import annotations

import pytest
import torch

from dicomnode.generators.srcnn import SRCNN


@pytest.mark.parametrize(("middle", "weights", "field"), [(5, 57_184, 17), (1, 8_032, 13)])
def test_it_has_as_many_weights_and_sees_as_far_as_its_authors_say(middle: int, weights: int, field: int) -> None:
    """Weights without biases, 9-5-5 and 9-1-5: table 1 of arXiv 1501.00092; fields by adding the kernels up."""
    net = SRCNN(middle=middle)
    assert sum(parameter.numel() for parameter in net.parameters() if parameter.dim() == 4) == weights
    image = torch.rand(1, 1, 31, 31, requires_grad=True)
    net(image)[0, 0, 15, 15].backward()
    assert image.grad is not None
    rows = image.grad[0, 0].abs().sum(1).nonzero()
    assert int(rows.max() - rows.min() + 1) == field


@pytest.mark.parametrize("shape", [(1, 1, 16, 16), (2, 1, 17, 31), (1, 1, 1, 5)])
def test_the_output_is_as_large_as_the_input(shape: tuple[int, ...]) -> None:
    assert SRCNN(channels=8, mapped=4)(torch.rand(shape)).shape == shape


def test_its_last_layer_may_stay_in_float32() -> None:
    """Rounded to bfloat16 an image would have 256 grey levels."""
    net = SRCNN(channels=8, mapped=4).bfloat16()
    net.tail.float()
    assert net(torch.rand(1, 1, 8, 8, dtype=torch.bfloat16)).dtype == torch.float32


def test_gradients_survive_the_activations_in_place() -> None:
    net = SRCNN(channels=2, mapped=2, middle=1).double()
    assert torch.autograd.gradcheck(net, (torch.rand(1, 1, 5, 4, dtype=torch.float64, requires_grad=True),))
