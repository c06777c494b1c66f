"""Muon against torch's own, which computes in bfloat16, and against the singular value decomposition."""

from __future__ import annotations

import pytest
import torch

from tests.support.recipes import FIDELITY, thin_recipe
from trainer.training import networks
from trainer.training.muon import Muon, orthonormal
from trainer.training.trained_network import TrainedNetwork, unflatten

SHAPES = [(8, 24), (24, 8), (8, 24), (12, 12)]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(5, 8, 24), (5, 24, 8)])
def test_the_result_keeps_the_singular_vectors_and_evens_the_values(shape: tuple[int, int, int]) -> None:
    matrices = noise(*shape)
    found = orthonormal(matrices)
    values = torch.linalg.svdvals(found)
    assert 0.6 < values.min() < values.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    turned = left.mT @ found @ right.mT  # diagonal where the vectors are the same
    assert (turned - torch.diag_embed(turned.diagonal(dim1=1, dim2=2))).abs().max() < 1e-4


def test_steps_are_those_of_torch() -> None:
    ours = [noise(*shape, seed=seed) for seed, shape in enumerate(SHAPES)]
    theirs = [torch.nn.Parameter(matrix.clone()) for matrix in ours]
    begun = [matrix.clone() for matrix in ours]
    optimizer = Muon(ours, lr=0.01, rate_factor=2.0, weight_decay=0.1)
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        for seed, (own, their) in enumerate(zip(ours, theirs, strict=True)):
            own.grad = noise(*own.shape, seed=100 * step + seed)
            their.grad = own.grad.clone()
        optimizer.step()
        reference.step()  # type: ignore[no-untyped-call]
    for own, their, before in zip(ours, theirs, begun, strict=True):
        assert (own - their).norm() < 0.02 * (own - before).norm(), "bfloat16 has eight bits"


def test_it_takes_the_convolutions_between_the_outer_ones_and_nothing_else() -> None:
    """A gradient of one and the same number: AdamW's first step is the rate everywhere, Muon's is not."""
    net = networks.build(thin_recipe().network)
    stage = FIDELITY.model_copy(update={"optimizer": "muon", "weight_decay": 0.0})
    trained = TrainedNetwork(net, stage, dtype=torch.float32, device=torch.device("cpu"), average_decay=0.9)
    before = trained.master.clone()
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    trained.step(1e-3, clip_norm=0.0)
    moved = [torch.empty_like(parameter) for parameter in net.parameters()]
    unflatten(before - trained.master, moved)
    names = [name for name, _ in net.named_parameters()]
    muons = {name for name, move in zip(names, moved, strict=True) if not torch.allclose(move, torch.tensor(1e-3))}
    assert muons == {"blocks.0.first.weight", "blocks.0.second.weight", "join.weight"}
