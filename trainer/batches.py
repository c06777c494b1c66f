"""Batches made in a process of their own, so that training never waits for them.

Batch ``step`` depends on the seed and ``step`` alone: a resumed run sees exactly the batches that it missed.
"""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np

from dicomnode.imaging.profile import RATIO_LIMITS
from trainer import sources
from trainer.simulate import FloatArray, GreyVolume, draw_strip, grey_volume

BATCHES_AHEAD = 8
LOADER_TIMEOUT_S = 300  # reading the volumes takes seconds; beyond this the loader is dead
PARENT_CHECK_S = 1.0  # how soon a loader notices that it was orphaned
RATIOS = tuple(range(RATIO_LIMITS[0], RATIO_LIMITS[1] + 1))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Strips of one ratio, stacked."""

    ratio: int
    thick: FloatArray  # (B, STRIP_SLICES, PATCH, PATCH)
    base: FloatArray  # (B, 3·ratio, PATCH, PATCH)
    truth: FloatArray  # (B, 3·ratio, PATCH, PATCH)
    first: tuple[int, ...]
    thickness_over_spacing: tuple[float, ...]


def training_volumes(data: Path) -> tuple[GreyVolume, ...]:
    """Every volume that may be trained on."""
    return tuple(
        grey_volume(sources.load(name, data, sources.Split.TRAIN)) for name in sources.names(sources.Split.TRAIN)
    )


def draw_batch(volumes: tuple[GreyVolume, ...], strips: int, seed: int, step: int) -> Batch:
    """The batch of one step."""
    rng = np.random.default_rng((seed, step))
    ratio = int(rng.choice(RATIOS))
    drawn = [draw_strip(volumes, ratio, rng) for _ in range(strips)]
    return Batch(
        ratio=ratio,
        thick=np.stack([strip.thick for strip in drawn]),
        base=np.stack([strip.base for strip in drawn]),
        truth=np.stack([strip.truth for strip in drawn]),
        first=tuple(strip.first for strip in drawn),
        thickness_over_spacing=tuple(strip.thickness_over_spacing for strip in drawn),
    )


@contextmanager
def batches(data: Path, *, strips: int, seed: int, start: int, stop: int) -> Iterator[Iterator[Batch]]:
    """The batches of steps ``start`` … ``stop`` - 1; the loader process ends with the block."""
    context = multiprocessing.get_context("spawn")
    made: Queue[Batch] = context.Queue(maxsize=BATCHES_AHEAD)
    loader = context.Process(target=_make_batches, args=(made, data, strips, seed, start, stop), daemon=True)
    loader.start()
    try:
        yield (_next_batch(made) for _ in range(start, stop))
    finally:
        loader.terminate()
        loader.join()


def _next_batch(made: Queue[Batch]) -> Batch:
    try:
        return made.get(timeout=LOADER_TIMEOUT_S)
    except queue.Empty as exc:
        raise RuntimeError(f"The loader process made no batch in {LOADER_TIMEOUT_S} s.") from exc


def _make_batches(made: Queue[Batch], data: Path, strips: int, seed: int, start: int, stop: int) -> None:
    volumes = training_volumes(data)
    for step in range(start, stop):
        if not _put_batch(made, draw_batch(volumes, strips, seed, step)):
            made.cancel_join_thread()
            return
    made.close()
    made.join_thread()


def _put_batch(made: Queue[Batch], batch: Batch) -> bool:
    """False once there is nobody left to take it: a killed trainer must not leave its loader behind."""
    trainer = multiprocessing.parent_process()
    assert trainer is not None
    while trainer.is_alive():
        try:
            made.put(batch, timeout=PARENT_CHECK_S)
        except queue.Full:
            continue
        return True
    return False
