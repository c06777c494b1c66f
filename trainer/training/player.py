"""A network in training: in working precision in front of a float32 master copy, with optimiser and moving average.

Generator and discriminator are both players. All state is flat float32 vectors, so that a checkpoint is a few
tensors and an exchange between processes is one.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, distributed, nn
from torch.optim import Adam, AdamW

from trainer.training.recipe import Stage


class Player:
    """One network of one stage; begins with the weights that the network has."""

    def __init__(
        self, net: nn.Module, stage: Stage, *, dtype: torch.dtype, device: torch.device, average_decay: float
    ) -> None:
        net = net.to(device)
        self.average_decay = average_decay
        self.master = flatten(list(net.parameters()))
        self.average = self.master.clone()
        self.master.grad = torch.zeros_like(self.master)
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        lower_precision(self.net, dtype)
        optimizer = AdamW if stage.optimizer == "adamw" else Adam
        self.optimizer = optimizer(
            [self.master],
            lr=stage.learning_rate,
            betas=(stage.beta1, stage.beta2),
            weight_decay=stage.weight_decay,
            fused=True,
        )

    def step(self, rate: float, clip_norm: float) -> Tensor:
        """One optimiser step on the gradients that are there; returns their norm before clipping."""
        gradient = self.take_gradient()
        assert self.master.grad is not None
        self.master.grad.copy_(gradient)
        limit = clip_norm if clip_norm > 0 else float("inf")
        norm = torch.nn.utils.clip_grad_norm_([self.master], limit)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        self.average.lerp_(self.master.detach(), 1.0 - self.average_decay)
        unflatten(self.master.detach(), list(self.net.parameters()))
        return norm

    def take_gradient(self) -> Tensor:
        """The flat gradient, averaged over processes; the parameters' own are cleared."""
        parameters = list(self.net.parameters())
        gradient = flatten([_gradient(parameter) for parameter in parameters])
        for parameter in parameters:
            parameter.grad = None
        if distributed.is_initialized():
            distributed.all_reduce(gradient)
            gradient /= distributed.get_world_size()
        return gradient

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Everything, by name; tensors are copies on the CPU."""
        moments = self.optimizer.state.get(self.master, {})
        tensors = {"master": self.master.detach(), "average": self.average, "buffers": flatten(buffers(self.net))}
        if moments:
            tensors |= {"first_moment": moments["exp_avg"], "second_moment": moments["exp_avg_sq"]}
        return {f"{prefix}.{name}": tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}

    def restore(self, prefix: str, tensors: dict[str, Tensor], step: int) -> None:
        """The inverse of ``state``, after ``step`` optimiser steps."""
        with torch.no_grad():
            self.master.copy_(tensors[f"{prefix}.master"])
            self.average.copy_(tensors[f"{prefix}.average"])
        unflatten(tensors[f"{prefix}.buffers"], buffers(self.net))
        if f"{prefix}.first_moment" in tensors:
            self.optimizer.state[self.master] = {
                "step": torch.tensor(float(step)),
                "exp_avg": tensors[f"{prefix}.first_moment"].to(self.master.device),
                "exp_avg_sq": tensors[f"{prefix}.second_moment"].to(self.master.device),
            }
        unflatten(self.master.detach(), list(self.net.parameters()))

    def averaged(self) -> nn.Module:
        """A float32 copy with the averaged weights and the running statistics: what is judged and shipped."""
        net: nn.Module = copy.deepcopy(self.net).float()
        unflatten(self.average, list(net.parameters()))
        return net.eval()


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
    """Heads of ratios that the batch did not hold have none."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
