"""Muon: momentum whose every direction is made equally long, for the weights of convolutions (Jordan 2024).

The update of a weight matrix is the nearest matrix with orthonormal rows to its momentum, found by five Newton–Schulz
iterations: directions in which gradients are small are learned as fast as the few in which they are large. Scaled as
Moonlight does (Liu 2025, arXiv 2502.16982, eq. 4), an update is as large as one of AdamW at the same rate.

torch has this optimiser too, and computes in bfloat16 always, which a processor without it emulates: a third of a
step of ``thin`` there. This one computes in float32 and takes all matrices of one shape at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

import torch
from torch import Tensor
from torch.optim import Optimizer

MOMENTUM = 0.95
ITERATIONS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)  # of the odd polynomial: steep at 0, so that five iterations do
UPDATE_RMS = 0.2  # of AdamW's updates, empirically (Liu 2025, §2.2)


class Muon(Optimizer):
    """Steps on matrices (rows, columns): the output channels of a convolution, and all that each of them reads."""

    def __init__(
        self, matrices: Iterable[Tensor], *, lr: float, rate_factor: float = 1.0, weight_decay: float = 0.0
    ) -> None:
        super().__init__(matrices, {"lr": lr, "rate_factor": rate_factor, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step on the gradients that are there; they are not computed anew, so there is no closure."""
        assert closure is None
        for group in self.param_groups:
            by_shape = groupby(sorted(group["params"], key=_shape), key=_shape)
            for _, alike in by_shape:
                self._step_alike(list(alike), group["lr"] * group["rate_factor"], group["weight_decay"])

    def _step_alike(self, matrices: list[Tensor], rate: float, weight_decay: float) -> None:
        ahead = []
        for matrix in matrices:
            assert matrix.grad is not None
            state = self.state[matrix]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(matrix)
            average = state["momentum_buffer"]
            average.lerp_(matrix.grad, 1.0 - MOMENTUM)
            ahead.append(matrix.grad.lerp(average, MOMENTUM))  # Nesterov's: where the momentum will be
        step = rate * UPDATE_RMS * max(matrices[0].shape) ** 0.5
        for matrix, direction in zip(matrices, orthonormal(torch.stack(ahead)), strict=True):
            matrix.mul_(1.0 - rate * weight_decay).sub_(direction, alpha=step)


def orthonormal(matrices: Tensor) -> Tensor:
    """About the nearest matrix with singular values of 1, of each (n, rows, columns); 0.7 to 1.2 come out."""
    is_tall = matrices.shape[1] > matrices.shape[2]
    found = matrices.mT if is_tall else matrices
    found = found / (found.norm(dim=(1, 2), keepdim=True) + 1e-7)
    linear, cubic, quintic = QUINTIC
    for _ in range(ITERATIONS):
        gram = found @ found.mT
        gram = torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic)
        found = torch.baddbmm(found, gram, found, beta=linear)
    return found.mT if is_tall else found


def _shape(matrix: Tensor) -> tuple[int, ...]:
    return tuple(matrix.shape)
