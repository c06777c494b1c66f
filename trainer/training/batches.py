"""Batches made in a process of their own, so that training never waits for them.

Sample ``k`` of the batch of step ``n`` depends on the plan, ``n`` and ``k`` alone: a resumed run sees exactly the
samples that it missed, and several processes that share a batch see together what one would have seen.
"""

from __future__ import annotations

import multiprocessing
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

import numpy as np

from dicomnode.errors import InputError, NodeError, ProcessError
from trainer.data import sources
from trainer.data.pairs import SlicePairs, load_pairs
from trainer.data.sources import Split
from trainer.training import fit, slices, strips
from trainer.training import plan as plans
from trainer.training.plan import PairKind, Plan, Use
from trainer.training.simulate import GreyVolume, grey_volume, in_plane_volume

BATCHES_AHEAD = 8
LOADER_TIMEOUT_S = 600  # with no batch, and no study read, in so long a loader that is alive hangs
LOADER_CHECK_S = 0.5  # how soon it is noticed that a loader died
LOADER_END_S = 5.0  # a loader that was told to end and has not after so long is killed: it may be stopped

Batch = strips.StripBatch | slices.SliceBatch
OnRead = Callable[[], None]
GO_ON = "Then go on with `dicomnode train --resume --out RUN`: the steps since the last save are done again."
OUT_OF_MEMORY = (
    "Give it more memory or fewer studies: it holds every volume decoded, for a network of slices every simulated "
    f"stack too. {GO_ON}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchShare:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """What a loader says last where it cannot go on."""

    sentence: str
    hint: str
    is_input: bool  # of what was handed in; else the loader failed, and this is where
    where: str = ""


class _Read:
    """What a loader sends for each source that it has read: it gets on."""


def load_material(plan: Plan, split: Split, *, on_read: OnRead = lambda: None) -> Material:
    """Decode the sources of one split; InputError where none of them can be used for this recipe.

    ``on_read`` is called after each of them: reading and pairing many takes minutes.
    """
    if plan.recipe.samples.design == "strips":
        return Material(volumes=tuple(_volumes(plan, split, on_read)))
    return Material(pairs=tuple(_pairs(plan, split, on_read)))


def draw_batch(material: Material, plan: Plan, step: int, share: BatchShare) -> Batch:
    """This process's part of the batch of one step."""
    recipe = plan.recipe
    numbers = share.numbers(recipe.samples.batch)
    if recipe.samples.design == "slices":
        return slices.draw_batch(material.pairs, recipe, numbers, plan.seed, step)
    of_all = np.random.default_rng((plan.seed, step))  # what the strips of a batch have in common
    ratio, is_turned = int(of_all.choice(recipe.samples.ratios)), bool(of_all.random() < 0.5)
    return strips.stacked(
        [
            strips.draw_strip(
                material.volumes,
                ratio,
                recipe,
                np.random.default_rng((plan.seed, step, number)),
                is_turned=is_turned,
            )
            for number in numbers
        ],
        ratio,
    )


@contextmanager
def batches(run: Path, share: BatchShare, *, start: int, stop: int) -> Iterator[Iterator[Batch]]:
    """The batches of steps ``start`` … ``stop`` - 1 of a run; the loader process ends with the block.

    The iterator raises InputError for data that cannot be used, ProcessError within a second of the loader's death,
    whatever it died of, and after ``LOADER_TIMEOUT_S`` of one that hangs.
    """
    context = multiprocessing.get_context("spawn")
    received, sent = context.Pipe(duplex=False)
    loader = context.Process(target=_make_batches, args=(sent, run, share, start, stop), daemon=True)
    loader.start()
    sent.close()  # the loader's end is the only one now: where it dies in a batch, the pipe ends and nobody waits
    made: queue.Queue[Batch | _Failure | _Read] = queue.Queue(maxsize=BATCHES_AHEAD)
    is_over = threading.Event()
    # A thread, for a pipe may hang in the middle of a batch, and nobody can wait for the rest with a limit.
    receiver = threading.Thread(target=_receive, args=(received, made, is_over), name="batches", daemon=True)
    receiver.start()
    try:
        yield (_next_batch(made, loader) for _ in range(start, stop))
    finally:
        is_over.set()
        _end(loader)
        receiver.join(LOADER_END_S)
        received.close()


def _receive(received: Connection, made: queue.Queue[Batch | _Failure | _Read], is_over: threading.Event) -> None:
    """Move batches from the pipe into the queue, until either is at its end."""
    with suppress(EOFError, OSError):
        while True:
            item = received.recv()
            while not is_over.is_set():
                with suppress(queue.Full):
                    made.put(item, timeout=LOADER_CHECK_S)
                    break
            else:
                return


def _next_batch(made: queue.Queue[Batch | _Failure | _Read], loader: SpawnProcess) -> Batch:
    began = time.monotonic()
    while time.monotonic() - began < LOADER_TIMEOUT_S:
        if loader.exitcode:
            raise _died(loader.exitcode)
        try:
            item = made.get(timeout=LOADER_CHECK_S)
        except queue.Empty:
            if loader.exitcode == 0 and made.empty():
                raise _died(0) from None
            continue
        if isinstance(item, _Read):
            began = time.monotonic()
        elif isinstance(item, _Failure):
            raise _failed(item)
        else:
            return item
    raise ProcessError(
        f"The loader process, which makes the batches, is alive but has made none for {LOADER_TIMEOUT_S} s; "
        "the run was stopped.",
        hint=f"See that the disk with the studies answers and that the process was not stopped. {GO_ON}",
    )


def _died(code: int) -> ProcessError:
    """Say how a loader died that said nothing itself: its exit code tells."""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        how = f"was ended by {name}"
    else:
        how = f"ended with exit code {code} before its work was done"
    is_killed = code == -signal.SIGKILL
    return ProcessError(
        f"The loader process, which makes the batches, {how}; the run was stopped.",
        hint=f"That is what the kernel does when memory runs out; its log says so. {OUT_OF_MEMORY}"
        if is_killed
        else f"What it printed stands above, if it could. {GO_ON}",
    )


def _failed(failure: _Failure) -> NodeError:
    if failure.is_input:
        return InputError(failure.sentence, hint=failure.hint)
    error = ProcessError(failure.sentence, hint=failure.hint)
    error.__cause__ = RuntimeError(failure.where)  # what --debug shows
    return error


def _end(loader: SpawnProcess) -> None:
    loader.terminate()
    loader.join(LOADER_END_S)
    if loader.exitcode is None:
        loader.kill()
        loader.join(LOADER_END_S)


def _volumes(plan: Plan, split: Split, on_read: OnRead) -> Iterator[GreyVolume]:
    depth, width = strips.smallest_extent(plan.recipe)
    slices, is_native = strips.smallest_slices(plan.recipe), not plan.recipe.samples.is_square
    for planned in plan.of_split(split):
        if planned.use is Use.THICK:
            continue
        volume = sources.load(planned.source())
        if planned.use is Use.IN_PLANE:
            grey = in_plane_volume(volume, slices, is_native=is_native)
        else:
            grey = grey_volume(volume.voxels)
        if min(grey.levels.shape[int(grey.is_native) :]) < max(depth, width):
            raise InputError(
                f"{planned.label} is too small to be trained on: its body measures "
                f"{' × '.join(map(str, grey.levels.shape))} voxels, and a strip needs {max(depth, width)}.",
                hint="Leave it out, or take a smaller patch or smaller ratios in the recipe.",
            )
        on_read()
        yield grey


def _pairs(plan: Plan, split: Split, on_read: OnRead) -> Iterator[SlicePairs]:
    """Real ones first, in the order of the sources; a simulated stack's parameters depend on the seed and its place."""
    side = fit.smallest_side(plan.recipe)
    found = []
    if plan.pairs is not PairKind.SIMULATED:
        for pairs in _real_pairs(plan, split):
            found.append(pairs)
            on_read()
    if plan.pairs is not PairKind.REAL:
        for number, planned in enumerate(plan.of_split(split)):
            if planned.use is Use.THICK:
                continue
            rng = np.random.default_rng((plan.seed, number))
            voxels = sources.load(planned.source()).voxels
            axes = (1, 2) if planned.use is Use.IN_PLANE else (0, 1, 2)
            found += slices.simulated(voxels, planned.subject, plan.recipe, rng, axes=axes)
            on_read()
    large = [pair for pair in found if min(pair.thick.shape[1:]) >= side and len(pair.thin) >= 3]
    if not large and split is Split.TRAIN:
        raise InputError(
            f"No pair of slices of at least {side} × {side} pixels was found to train on.",
            hint="See --dry-run for what there is; take a smaller patch, or a smaller discriminator, in the recipe.",
        )
    return iter(large)


def _real_pairs(plan: Plan, split: Split) -> Iterator[SlicePairs]:
    """The real pairs as they were found when the run was planned."""
    known = {planned.label: planned.source() for planned in plan.of_split(split)}
    for pair in plan.real:
        if pair.thick in known:
            yield load_pairs(known[pair.thick], known[pair.thin], matches=pair.matches, registration=pair.registration)


def _make_batches(sent: Connection, run: Path, share: BatchShare, start: int, stop: int) -> None:
    """Make batches in the loader process; it ends where nobody is left to take a batch and the pipe is broken."""
    # An interrupt of the terminal reaches the whole group; the trainer ends its loader itself, after its last step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        try:
            plan = plans.read(run)
            material = load_material(plan, Split.TRAIN, on_read=lambda: sent.send(_Read()))
            for step in range(start, stop):
                sent.send(draw_batch(material, plan, step, share))
        except BrokenPipeError:
            raise
        except Exception as exc:  # noqa: BLE001 (border: the child's main)
            sent.send(_failure(exc))
    except BrokenPipeError:
        return


def _failure(error: Exception) -> _Failure:
    if isinstance(error, InputError):
        return _Failure(sentence=error.sentence, hint=error.hint, is_input=True)
    where = traceback.format_exc()
    if isinstance(error, NodeError):
        return _Failure(sentence=error.sentence, hint=f"{error.hint} {GO_ON}".strip(), is_input=False, where=where)
    if isinstance(error, MemoryError):
        sentence = "The loader process, which makes the batches, found no more memory; the run was stopped."
        return _Failure(sentence=sentence, hint=OUT_OF_MEMORY, is_input=False, where=where)
    sentence = f"The loader process, which makes the batches, failed: {type(error).__name__}; the run was stopped."
    return _Failure(sentence=sentence, hint="`dicomnode --debug train …` shows where.", is_input=False, where=where)
