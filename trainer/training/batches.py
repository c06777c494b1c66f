"""Batches made in a process of their own, so that training never waits for them.

Sample ``k`` of the batch of step ``n`` depends on the plan, ``n`` and ``k`` alone: a resumed run sees exactly the
samples that it missed, and several processes that share a batch see together what one would have seen.
"""

from __future__ import annotations

import multiprocessing
import queue
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np

from dicomnode.errors import InputError
from trainer.data import sources
from trainer.data.pairs import SlicePairs, load_pairs
from trainer.data.sources import Split
from trainer.training import plan as plans
from trainer.training import slices, strips
from trainer.training.plan import PairKind, Plan, Use
from trainer.training.simulate import GreyVolume, grey_volume, in_plane_volume

BATCHES_AHEAD = 8
LOADER_TIMEOUT_S = 600  # reading and pairing the studies takes a minute; beyond this the loader is dead
PARENT_CHECK_S = 1.0  # how soon a loader notices that it was orphaned

Batch = strips.StripBatch | slices.SliceBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Which part of each batch this process works on."""

    rank: int = 0
    world: int = 1

    def numbers(self, batch: int) -> range:
        """The samples of a batch that are this process's."""
        assert batch % self.world == 0
        own = batch // self.world
        return range(self.rank * own, (self.rank + 1) * own)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Material:
    """What samples are drawn from, decoded; one of the two is empty."""

    volumes: tuple[GreyVolume, ...] = ()
    pairs: tuple[SlicePairs, ...] = ()


def load_material(plan: Plan, split: Split) -> Material:
    """Decode the sources of one split; InputError where none of them can be used for this recipe."""
    if plan.recipe.samples.design == "strips":
        return Material(volumes=tuple(_volumes(plan, split)))
    return Material(pairs=tuple(_pairs(plan, split)))


def draw_batch(material: Material, plan: Plan, step: int, share: Share) -> Batch:
    """This process's part of the batch of one step."""
    recipe = plan.recipe
    numbers = share.numbers(recipe.samples.batch)
    if recipe.samples.design == "slices":
        return slices.draw_batch(material.pairs, recipe, numbers, plan.seed, step)
    ratio = int(np.random.default_rng((plan.seed, step)).choice(recipe.samples.ratios))
    return strips.stacked(
        [
            strips.draw_strip(material.volumes, ratio, recipe, np.random.default_rng((plan.seed, step, number)))
            for number in numbers
        ],
        ratio,
    )


@contextmanager
def batches(run: Path, share: Share, *, start: int, stop: int) -> Iterator[Iterator[Batch]]:
    """The batches of steps ``start`` … ``stop`` - 1 of a run; the loader process ends with the block."""
    context = multiprocessing.get_context("spawn")
    made: Queue[Batch | str] = context.Queue(maxsize=BATCHES_AHEAD)
    loader = context.Process(target=_make_batches, args=(made, run, share, start, stop), daemon=True)
    loader.start()
    try:
        yield (_next_batch(made) for _ in range(start, stop))
    finally:
        loader.terminate()
        loader.join()


def _volumes(plan: Plan, split: Split) -> Iterator[GreyVolume]:
    depth, width = strips.smallest_extent(plan.recipe)
    for planned in plan.of_split(split):
        if planned.use is Use.THICK:
            continue
        volume = sources.load(planned.source())
        grey = in_plane_volume(volume, width) if planned.use is Use.IN_PLANE else grey_volume(volume.voxels)
        if min(grey.levels.shape) < max(depth, width):
            raise InputError(
                f"{planned.label} is too small to be trained on: its body measures "
                f"{' × '.join(map(str, grey.levels.shape))} voxels, and a strip needs {max(depth, width)}.",
                hint="Leave it out, or take a smaller patch or smaller ratios in the recipe.",
            )
        yield grey


def _pairs(plan: Plan, split: Split) -> Iterator[SlicePairs]:
    """Real ones first, in the order of the sources; a simulated stack's parameters depend on the seed and its place."""
    patch = plan.recipe.samples.patch
    found = []
    if plan.pairs is not PairKind.SIMULATED:
        found += _real_pairs(plan, split)
    if plan.pairs is not PairKind.REAL:
        for number, planned in enumerate(plan.of_split(split)):
            if planned.use is Use.THICK:
                continue
            rng = np.random.default_rng((plan.seed, number))
            voxels = sources.load(planned.source()).voxels
            axes = (1, 2) if planned.use is Use.IN_PLANE else (0, 1, 2)
            found += slices.simulated(voxels, planned.subject, plan.recipe, rng, axes=axes)
    large = [pair for pair in found if min(pair.thick.shape[1:]) >= patch and len(pair.thin) >= 3]
    if not large and split is Split.TRAIN:
        raise InputError(
            f"No pair of slices of at least {patch} × {patch} pixels was found to train on.",
            hint="See --dry-run for what there is; take a smaller patch in the recipe.",
        )
    return iter(large)


def _real_pairs(plan: Plan, split: Split) -> list[SlicePairs]:
    """As they were found when the run was planned."""
    known = {planned.label: planned.source() for planned in plan.of_split(split)}
    return [
        load_pairs(known[pair.thick], known[pair.thin], matches=pair.matches, registration=pair.registration)
        for pair in plan.real
        if pair.thick in known
    ]


def _next_batch(made: Queue[Batch | str]) -> Batch:
    try:
        batch = made.get(timeout=LOADER_TIMEOUT_S)
    except queue.Empty as exc:
        raise RuntimeError(f"The loader process made no batch in {LOADER_TIMEOUT_S} s.") from exc
    if isinstance(batch, str):
        raise InputError(batch)
    return batch


def _make_batches(made: Queue[Batch | str], run: Path, share: Share, start: int, stop: int) -> None:
    # An interrupt of the terminal reaches the whole group; the trainer ends its loader itself, after its last step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        plan = plans.read(run)
        material = load_material(plan, Split.TRAIN)
    except InputError as exc:
        made.put(f"{exc.sentence} {exc.hint}".strip())
        made.close()
        made.join_thread()
        return
    for step in range(start, stop):
        if not _put_batch(made, draw_batch(material, plan, step, share)):
            made.cancel_join_thread()
            return
    made.close()
    made.join_thread()


def _put_batch(made: Queue[Batch | str], batch: Batch) -> bool:
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
