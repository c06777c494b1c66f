"""The training loop: bfloat16 weights in front of a float32 master copy, everything scheduled by step.

A run is a function of its settings and the data: batches depend on (seed, step), the schedule on the step, and
a checkpoint holds the rest, so an interrupted run ends bit for bit where an uninterrupted one does.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import AdamW

from dicomnode.errors import InputError
from dicomnode.generators.thin import ThinNet, consistency_tensors, project, thick_windows
from dicomnode.imaging.profile import consistency
from trainer import checkpoint
from trainer.batches import Batch, batches
from trainer.checkpoint import Checkpoint
from trainer.losses import fidelity_loss
from trainer.simulate import PREDICTED_SLICES

CHECKPOINT_EVERY_S = 240  # wall time: what a kill may cost
LOG_EVERY_STEPS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """Everything that decides the weights, besides the data (SCIENCE §4.2–4.3)."""

    steps: int
    seed: int = 1
    strips: int = 4  # three windows each
    window: int = 5
    channels: int = 64
    blocks: int = 8
    learning_rate: float = 3e-4  # above 5e-4 the gain halves (SCIENCE §4.2)
    final_rate_share: float = 0.01
    warm_up_steps: int = 100
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    average_decay: float = 0.998
    precision: str = "bfloat16"  # of weights and activations; master copy, projection and loss are float32


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Linear warm-up, then a cosine that reaches its last share at the last step."""
    warm = min(1.0, (step + 1) / settings.warm_up_steps)
    low = settings.final_rate_share
    cosine = 0.5 * (1.0 + math.cos(math.pi * step / settings.steps))
    return settings.learning_rate * warm * (low + (1.0 - low) * cosine)


class Trainee:
    """The network in working precision, its float32 master copy, the optimiser and the moving average."""

    def __init__(self, settings: TrainSettings) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        net = ThinNet(window=settings.window, channels=settings.channels, blocks=settings.blocks)
        self.master = flatten(list(net.parameters()))
        self.average = self.master.clone()
        self.master.grad = torch.zeros_like(self.master)
        self.dtype: torch.dtype = getattr(torch, settings.precision)
        self.net = net.to(dtype=self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = AdamW(
            [self.master],
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.step = 0
        self.schedule: tuple[tuple[int, int], ...] = ((0, settings.steps),)

    def restore(self, saved: Checkpoint) -> None:
        """Continue where ``saved`` ended; refuses a checkpoint of other settings.

        Only the number of steps may differ: a machine that turns out slower or faster ends the cosine sooner or
        later. The checkpoint remembers it, so that the run can be repeated.
        """
        if saved.settings | {"steps": self.settings.steps} != dataclasses.asdict(self.settings):
            raise InputError(
                "The checkpoint belongs to a run with other settings.", hint="Resume with the settings of that run."
            )
        self.schedule = saved.schedule
        if saved.settings["steps"] != self.settings.steps:
            self.schedule += ((saved.step, self.settings.steps),)
        self.step = saved.step
        self.master.copy_(saved.master)
        self.average.copy_(saved.average)
        self.optimizer.state[self.master] = {
            "step": torch.tensor(float(saved.step)),
            "exp_avg": saved.first_moment.clone(),
            "exp_avg_sq": saved.second_moment.clone(),
        }
        self._publish_weights()

    def checkpoint(self) -> Checkpoint:
        """The state after the steps taken so far."""
        moments = self.optimizer.state[self.master]
        return Checkpoint(
            step=self.step,
            settings=dataclasses.asdict(self.settings),
            schedule=self.schedule,
            master=self.master.detach(),
            average=self.average,
            first_moment=moments["exp_avg"],
            second_moment=moments["exp_avg_sq"],
        )

    def train_step(self, batch: Batch) -> tuple[float, float]:
        """One optimiser step; returns the loss and the gradient norm before clipping."""
        settings = self.settings
        loss = fidelity_loss(self.predict(batch), torch.from_numpy(batch.truth))
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = list(self.net.parameters())
        assert self.master.grad is not None
        self.master.grad.copy_(flatten([_gradient(parameter) for parameter in parameters]))
        for parameter in parameters:
            parameter.grad = None
        norm = torch.nn.utils.clip_grad_norm_([self.master], settings.clip_norm)
        self.optimizer.param_groups[0]["lr"] = learning_rate(settings, self.step)
        self.optimizer.step()
        self.average.lerp_(self.master, 1.0 - settings.average_decay)
        self._publish_weights()
        self.step += 1
        return loss.item(), norm.item()

    def predict(self, batch: Batch) -> Tensor:
        """(B, 3·ratio, H, W) in float32: cubic-dc plus the network's residual, projected."""
        thick = torch.from_numpy(batch.thick)
        windows = torch.cat(
            [
                thick_windows(strip, self.settings.window, first, first + PREDICTED_SLICES)
                for strip, first in zip(thick, batch.first, strict=True)
            ]
        )
        residual = self.net(windows.to(self.dtype, memory_format=torch.channels_last), batch.ratio).float()
        thin = torch.from_numpy(batch.base) + residual.reshape(batch.base.shape)
        # With t ≤ s the projection of three slabs does not depend on their neighbours.
        measured = torch.stack([s[f : f + PREDICTED_SLICES] for s, f in zip(thick, batch.first, strict=True)])
        matrices = [
            consistency_tensors(consistency(PREDICTED_SLICES, batch.ratio, thickness), "cpu")
            for thickness in batch.thickness_over_spacing
        ]
        profile, operator = (torch.stack(group) for group in zip(*matrices, strict=True))
        return project(thin, measured, profile, operator)

    def _publish_weights(self) -> None:
        unflatten(self.master.detach(), list(self.net.parameters()))


def flatten(tensors: list[Tensor]) -> Tensor:
    """One float32 vector, in order."""
    return torch.cat([tensor.detach().contiguous().reshape(-1).float() for tensor in tensors])


def unflatten(vector: Tensor, tensors: list[Tensor]) -> None:
    """The inverse of ``flatten``, rounded to the precision of ``tensors``."""
    with torch.no_grad():
        start = 0
        for tensor in tensors:
            tensor.copy_(vector[start : start + tensor.numel()].view(tensor.shape))
            start += tensor.numel()
    assert start == vector.numel()


def averaged_net(saved: Checkpoint) -> ThinNet:
    """The float32 network of a checkpoint's moving average: what is judged and shipped."""
    settings = TrainSettings(**saved.settings)  # type: ignore[arg-type]
    net = ThinNet(window=settings.window, channels=settings.channels, blocks=settings.blocks)
    unflatten(saved.average, list(net.parameters()))
    return net.eval()


def train(settings: TrainSettings, data: Path, out: Path, *, resume: bool, report: Callable[[str], None]) -> Checkpoint:
    """Runs to the last step; checkpoint and journal in ``out``."""
    last = out / "last.safetensors"
    if last.exists() and not resume:
        raise InputError(f"{out} holds a run already.", hint="Continue it with --resume, or name another folder.")
    trainee = Trainee(settings)
    if resume:
        trainee.restore(checkpoint.load(last))
    out.mkdir(parents=True, exist_ok=True)
    began_at = saved_at = logged_at = time.monotonic()
    losses: list[float] = []
    with (
        (out / "metrics.jsonl").open("a") as journal,
        batches(data, strips=settings.strips, seed=settings.seed, start=trainee.step, stop=settings.steps) as drawn,
    ):
        for batch in drawn:
            loss, norm = trainee.train_step(batch)
            losses.append(loss)
            if trainee.step % LOG_EVERY_STEPS == 0:
                now = time.monotonic()
                line = {
                    "step": trainee.step,
                    "loss": round(sum(losses) / len(losses), 6),
                    "gradient_norm": round(norm, 4),
                    "learning_rate": learning_rate(settings, trainee.step - 1),
                    "steps_per_s": round(len(losses) / (now - logged_at), 2),
                    "elapsed_s": round(now - began_at, 1),
                }
                journal.write(json.dumps(line) + "\n")
                journal.flush()
                report(json.dumps(line))
                losses, logged_at = [], now
            if time.monotonic() - saved_at > CHECKPOINT_EVERY_S:
                checkpoint.save(trainee.checkpoint(), last)
                saved_at = time.monotonic()
    final = trainee.checkpoint()
    checkpoint.save(final, last)
    return final


def _gradient(parameter: Tensor) -> Tensor:
    """Heads of ratios that the batch did not hold have none."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
