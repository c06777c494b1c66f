"""Batches made by processes of their own, so that training never waits for them.

The loader process reads the material once. It makes the batches itself, or forks several makers that share what it
has read: maker ``k`` of ``n`` makes every ``n``-th batch, and which batch that is depends on its step alone.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING

from dicomnode.errors import InputError, NodeError, ProcessError
from trainer.data.sources import Split
from trainer.training import plan as plans
from trainer.training.batches import Batch, BatchShare, Material, draw_batch, load_material
from trainer.training.plan import Plan

if TYPE_CHECKING:
    import torch

BATCHES_AHEAD = 8
LOADER_TIMEOUT_S = 600  # with no batch, and no study read, in so long a loader that is alive hangs
LOADER_CHECK_S = 0.5  # how soon it is noticed that a loader died
BLAS_THREADS = "OPENBLAS_NUM_THREADS"  # read by numpy's linear algebra when it is loaded
LOADER_END_S = 5.0  # a loader that was told to end and has not after so long is killed: it may be stopped

GO_ON = "Then go on with `dicomnode train --resume --out RUN`: the steps since the last save are done again."
OUT_OF_MEMORY = (
    "Give it more memory or fewer studies: it holds every volume decoded, for a network of slices every simulated "
    f"stack too. {GO_ON}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """The last message of a loader that cannot go on."""

    sentence: str
    hint: str
    is_input: bool  # of what was handed in; else the loader failed, and this is where
    where: str = ""


class _Read:
    """The message of a loader for each source that it has read: it gets on."""


_Item = Batch | _Failure | _Read


@contextmanager
def batches(run: Path, share: BatchShare, *, start: int, stop: int, makers: int = 1) -> Iterator[Iterator[Batch]]:
    """The batches of steps ``start`` … ``stop`` - 1 of a run; the loader process ends with the block.

    ``makers`` is how many processes make them. The iterator raises InputError for data that cannot be used,
    ProcessError within a second of the loader's death, whatever it died of, and after ``LOADER_TIMEOUT_S`` of one that
    hangs.
    """
    context = multiprocessing.get_context("spawn")
    received, sent = zip(*(context.Pipe(duplex=False) for _ in range(makers)), strict=True)
    loader = context.Process(target=_load_and_make, args=(sent, run, share, range(start, stop)), daemon=True)
    with _one_thread_each(makers):
        loader.start()
    for end in sent:  # the loader's ends are the only ones now: where it dies, the pipes end and nobody waits
        end.close()
    made: list[queue.Queue[_Item]] = [queue.Queue(maxsize=max(BATCHES_AHEAD // makers, 2)) for _ in received]
    is_over = threading.Event()
    # Threads, for a pipe may hang in the middle of a batch, and nobody can wait for the rest with a limit.
    receivers = [
        threading.Thread(target=_receive, args=(end, items, is_over), name="batches", daemon=True)
        for end, items in zip(received, made, strict=True)
    ]
    for receiver in receivers:
        receiver.start()
    try:
        yield (_next_batch(made[number % makers], loader) for number in range(stop - start))
    finally:
        is_over.set()
        _end(loader)
        for receiver, end in zip(receivers, received, strict=True):
            receiver.join(LOADER_END_S)
            end.close()


def default_makers(device: torch.device, processes: int) -> int:
    """The number of processes that make batches for each of the ``processes`` that train on this machine.

    One feeds a CPU. A GPU takes batches faster than that, so it gets all the processors but the one that steers it.
    """
    if device.type == "cpu":
        return 1
    return max(len(os.sched_getaffinity(0)) // processes - 1, 1)


@contextmanager
def _one_thread_each(makers: int) -> Iterator[None]:
    """Several makers started in this block compute with one thread each: together they use every processor anyway."""
    before = os.environ.get(BLAS_THREADS)
    if makers > 1:
        os.environ[BLAS_THREADS] = "1"
    try:
        yield
    finally:
        if makers > 1:
            os.environ.pop(BLAS_THREADS)
            if before is not None:
                os.environ[BLAS_THREADS] = before


def _receive(received: Connection, made: queue.Queue[_Item], is_over: threading.Event) -> None:
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


def _next_batch(made: queue.Queue[_Item], loader: SpawnProcess) -> Batch:
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


def _load_and_make(pipes: Sequence[Connection], run: Path, share: BatchShare, steps: range) -> None:
    """Do the loader's work in its process; it ends where nobody is left to take a batch and a pipe is broken."""
    # An interrupt of the terminal reaches the whole group; the trainer ends its loader itself, after its last step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with _telling_failures(pipes[0]):
        plan = plans.read(run)
        material = load_material(plan, Split.TRAIN, on_read=lambda: pipes[0].send(_Read()))
        makers = [
            partial(_make, pipe, material, plan, share, steps[number :: len(pipes)])
            for number, pipe in enumerate(pipes)
        ]
        if len(makers) == 1:
            makers[0]()
        else:
            _fork(makers)


def _make(pipe: Connection, material: Material, plan: Plan, share: BatchShare, steps: range) -> None:
    with _telling_failures(pipe):
        for step in steps:
            pipe.send(draw_batch(material, plan, step, share))


def _fork(makers: Sequence[Callable[[], None]]) -> None:
    """Run each in a process of its own, which shares the memory of this one; end as the first that fails does."""
    running = set()
    for make in makers:
        if (pid := os.fork()) == 0:
            code = 1
            try:
                make()
                code = 0
            finally:
                os._exit(code)  # what this process holds is its parent's to tidy up
        running.add(pid)
    while running:
        pid, status = os.wait()
        running.discard(pid)
        if code := os.waitstatus_to_exitcode(status):
            for other in running:
                os.kill(other, signal.SIGKILL)
            if code < 0:
                os.kill(os.getpid(), -code)
            os._exit(abs(code))


@contextmanager
def _telling_failures(pipe: Connection) -> Iterator[None]:
    """Send the trainer what went wrong in the block; where nobody reads the pipe, just end."""
    with suppress(BrokenPipeError):
        try:
            yield
        except BrokenPipeError:
            raise
        except Exception as exc:  # noqa: BLE001 (border: the child's main)
            pipe.send(_failure(exc))


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
