"""The paper's network: its shape as published, and its normalisations folded away for serving."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dicomnode.generators.srresnet import SRResNet, fold_batch_norm
from tests.support.model_folders import random_srresnet


@pytest.mark.parametrize(("outputs", "parameters"), [(1, 1_221_953), (3, 1_223_107)])
def test_the_network_has_the_papers_number_of_parameters(outputs: int, parameters: int) -> None:
    net = SRResNet(outputs=outputs)
    assert sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad) == parameters


def test_the_normalisations_keep_33_pairs_of_64_running_statistics() -> None:
    buffers = [buffer for buffer in SRResNet(outputs=1).buffers() if buffer.dim()]  # without the step counters
    assert sum(buffer.numel() for buffer in buffers) == 33 * 128


@pytest.mark.parametrize("shape", [(1, 1, 16, 16), (2, 1, 17, 31), (1, 1, 1, 5)])
def test_the_output_is_as_large_as_the_input(shape: tuple[int, ...]) -> None:
    predicted = random_srresnet(outputs=3)(torch.rand(shape))
    assert predicted.shape == (shape[0], 3, *shape[2:])


def test_the_folded_network_has_no_normalisation_left_and_predicts_the_same() -> None:
    net = random_srresnet(outputs=1, channels=16, blocks=4)
    folded = fold_batch_norm(net)
    slices = torch.rand(2, 1, 33, 29)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        torch.testing.assert_close(folded(slices), net(slices), rtol=1e-4, atol=1e-5)


def test_folding_leaves_the_network_itself_as_it_was() -> None:
    net = random_srresnet(outputs=1)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    fold_batch_norm(net)
    after = net.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_gradients_survive_the_additions_in_place() -> None:
    """Against finite differences, in double precision: an overwritten activation would show."""
    net = random_srresnet(outputs=1, channels=2, blocks=2).double().train()
    slices = torch.rand(1, 1, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(net, (slices,))
