"""A network in training: in working precision in front of a float32 master copy, with optimiser and moving average.

Generator and discriminator are each one of these. All state is flat float32 vectors, so that a checkpoint is a few
tensors and an exchange between processes is one.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from trainer.training import group
from trainer.training.muon import Muon
from trainer.training.recipe_tables import TrainingStage

CONVOLUTION_AXES = 4  # of its weights: output channels, input channels, rows, columns
OUTER_LAYERS = ("head", "tail")  # from values and to values: for Muon's equal directions there is no reason
# torch's names of what an optimiser remembers of each weight → ours in a checkpoint.
ADAM_MOMENTS = {"exp_avg": "first_moment", "exp_avg_sq": "second_moment"}
MUON_MOMENTS = {"momentum_buffer": "momentum"}


class TrainedNetwork:
    """One network of one stage; begins with the weights that the network has."""

    def __init__(
        self, net: nn.Module, stage: TrainingStage, *, dtype: torch.dtype, device: torch.device, average_decay: float
    ) -> None:
        net = net.to(device)
        self.average_decay = average_decay
        self.master = flatten(list(net.parameters()))
        self.average = self.master.clone()
        self.master.grad = torch.zeros_like(self.master)
        self.optimizers = _optimizers(stage, self.master, list(net.named_parameters()))
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        lower_precision(self.net, dtype)

    def step(self, rate: float, clip_norm: float) -> Tensor:
        """One optimiser step on the gradients that are there; returns their norm before clipping."""
        gradient = self.take_gradient()
        assert self.master.grad is not None
        self.master.grad.copy_(gradient)
        limit = clip_norm if clip_norm > 0 else float("inf")
        norm = torch.nn.utils.clip_grad_norm_([self.master], limit)
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
        self.average.lerp_(self.master.detach(), 1.0 - self.average_decay)
        unflatten(self.master.detach(), list(self.net.parameters()))
        return norm

    def take_gradient(self) -> Tensor:
        """The flat gradient, averaged over processes; the parameters' own are cleared."""
        parameters = list(self.net.parameters())
        gradient = flatten([_gradient(parameter) for parameter in parameters])
        for parameter in parameters:
            parameter.grad = None
        group.average(gradient)
        return gradient

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Everything, by name; tensors are copies on the CPU."""
        tensors = {"master": self.master.detach(), "average": self.average, "buffers": flatten(buffers(self.net))}
        for optimizer in self.optimizers:
            remembered = [optimizer.state[part] for part in optimizer.param_groups[0]["params"]]
            for theirs, ours in _moments(optimizer).items():
                if theirs in remembered[0]:  # not before the first step
                    tensors[ours] = flatten([moments[theirs] for moments in remembered])
        return {f"{prefix}.{name}": tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}

    def restore(self, prefix: str, tensors: dict[str, Tensor], step: int) -> None:
        """The inverse of ``state``, after ``step`` optimiser steps."""
        with torch.no_grad():
            self.master.copy_(tensors[f"{prefix}.master"])
            self.average.copy_(tensors[f"{prefix}.average"])
        unflatten(tensors[f"{prefix}.buffers"], buffers(self.net))
        for optimizer in self.optimizers:
            parts = optimizer.param_groups[0]["params"]
            for theirs, ours in _moments(optimizer).items():
                if f"{prefix}.{ours}" in tensors:
                    restored = [torch.empty_like(part) for part in parts]
                    unflatten(tensors[f"{prefix}.{ours}"], restored)
                    for part, moment in zip(parts, restored, strict=True):
                        optimizer.state[part] |= {"step": torch.tensor(float(step)), theirs: moment}
        unflatten(self.master.detach(), list(self.net.parameters()))

    def averaged(self) -> nn.Module:
        """A float32 copy with the averaged weights and the running statistics: what is judged and shipped."""
        net: nn.Module = copy.deepcopy(self.net).float()
        unflatten(self.average, list(net.parameters()))
        return net.eval()


def _optimizers(stage: TrainingStage, master: Tensor, parameters: list[tuple[str, nn.Parameter]]) -> list[Optimizer]:
    """The optimisers that step ``master``, whose gradient is there, in parts that are views of it."""
    if stage.optimizer != "muon":
        return [_adam(AdamW if stage.optimizer == "adamw" else Adam, [master], stage)]
    assert master.grad is not None
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    start = 0
    for name, parameter in parameters:
        piece = slice(start, start := start + parameter.numel())
        is_matrix = parameter.ndim == CONVOLUTION_AXES and not name.startswith(OUTER_LAYERS)
        part = master[piece].view(len(parameter), -1) if is_matrix else master[piece]
        part.grad = master.grad[piece].view_as(part)
        (matrices if is_matrix else others).append(part)
    muon = Muon(matrices, lr=stage.learning_rate, rate_factor=stage.muon_rate, weight_decay=stage.weight_decay)
    return [muon, _adam(AdamW, others, stage)]


def _adam(kind: type[Adam], parts: list[Tensor], stage: TrainingStage) -> Optimizer:
    betas, decay = (stage.beta1, stage.beta2), stage.weight_decay
    return kind(parts, lr=stage.learning_rate, betas=betas, weight_decay=decay, fused=True)


def _moments(optimizer: Optimizer) -> dict[str, str]:
    return MUON_MOMENTS if isinstance(optimizer, Muon) else ADAM_MOMENTS


def lower_precision(net: nn.Module, dtype: torch.dtype) -> None:
    """Weights in ``dtype``, but for normalisations, whose statistics need float32."""
    for module in net.modules():
        if not isinstance(module, nn.BatchNorm2d):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


def set_weights(net: nn.Module, tensors: dict[str, Tensor], prefix: str) -> None:
    """The averaged weights and the statistics of a checkpoint into a float32 network."""
    unflatten(tensors[f"{prefix}.average"], list(net.parameters()))
    unflatten(tensors[f"{prefix}.buffers"], buffers(net))


def buffers(net: nn.Module) -> list[Tensor]:
    """Running statistics; the counter of batches beside them is not used, as the momentum is fixed."""
    return [buffer for buffer in net.buffers() if buffer.is_floating_point()]


def flatten(tensors: list[Tensor]) -> Tensor:
    """One float32 vector, in order."""
    if not tensors:
        return torch.zeros(0)
    return torch.cat([tensor.detach().contiguous().reshape(-1).float() for tensor in tensors])


def unflatten(vector: Tensor, tensors: list[Tensor]) -> None:
    """The inverse of ``flatten``, rounded to the precision of ``tensors``."""
    assert vector.numel() == sum(tensor.numel() for tensor in tensors)
    with torch.no_grad():
        start = 0
        for tensor in tensors:
            tensor.copy_(vector[start : start + tensor.numel()].view(tensor.shape))
            start += tensor.numel()


def _gradient(parameter: Tensor) -> Tensor:
    """The gradient of a parameter; zeros for heads of ratios that the batch did not hold, which have none."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
