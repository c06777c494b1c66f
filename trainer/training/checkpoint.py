"""The state of a stage in one file: nothing pickled, replaced atomically, enough to go on bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dicomnode import durable
from dicomnode.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """The state from which a stage goes on after ``step`` of its steps."""

    step: int
    best_psnr: float  # dB on the validation samples; -inf before the first look
    seconds: float  # of training so far: what the weights cost
    tensors: dict[str, Tensor]  # flat and float32; names: ``trained_network.TrainedNetwork.state``


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Writes beside ``path`` first: a run killed here keeps the checkpoint that it had."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"step": str(checkpoint.step), "best_psnr": repr(checkpoint.best_psnr)}
    metadata["seconds"] = repr(checkpoint.seconds)
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
    with durable.growing_file(path) as written:
        save_file(tensors, written, metadata=metadata)


def load(path: Path) -> Checkpoint:
    """The state that ``save`` wrote; InputError where the file is none."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Checkpoint(
            step=int(metadata["step"]),
            best_psnr=float(metadata["best_psnr"]),
            seconds=float(metadata["seconds"]),
            tensors=tensors,
        )
    except (OSError, SafetensorError, KeyError, TypeError) as exc:
        raise InputError(f"{path} is not a checkpoint.", hint="Begin the run again in another folder.") from exc
