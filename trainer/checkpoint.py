"""The state of a run in one file: nothing pickled, replaced atomically, enough to go on bit for bit."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """What a run needs to go on after ``step`` steps; every tensor is flat and float32."""

    step: int
    settings: dict[str, float | int | str]
    schedule: tuple[tuple[int, int], ...]  # (from this step on, the cosine ended at that one)
    master: Tensor
    average: Tensor  # exponential moving average of ``master``
    first_moment: Tensor
    second_moment: Tensor


TENSORS = ("master", "average", "first_moment", "second_moment")


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Writes beside ``path`` first: a run killed here keeps the checkpoint that it had."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".new")
    metadata = {
        "step": str(checkpoint.step),
        "settings": json.dumps(checkpoint.settings, sort_keys=True),
        "schedule": json.dumps(checkpoint.schedule),
    }
    save_file({name: getattr(checkpoint, name) for name in TENSORS}, written, metadata=metadata)
    with written.open("rb") as file:
        os.fsync(file.fileno())
    written.replace(path)


def load(path: Path) -> Checkpoint:
    """The state that ``save`` wrote."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in TENSORS}
    return Checkpoint(
        step=int(metadata["step"]),
        settings=json.loads(metadata["settings"]),
        schedule=tuple((begin, end) for begin, end in json.loads(metadata["schedule"])),
        **tensors,
    )
