"""The processes of ``torch.distributed.run`` that share the batches of a run; alone, nothing here has an effect.

Each of them waits for all others in every step. Where one died, or does not answer, the others end with a
ProcessError: by a broken connection at once, by silence after ``ANSWER_LIMIT_S``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor, distributed

from dicomnode.errors import ProcessError

ANSWER_LIMIT_S = 900  # more than a loader may take that hangs: its own process says so first


def join() -> tuple[int, int]:
    """Become one of the group: (rank, processes); (0, 1) where there is no group."""
    if not distributed.is_torchelastic_launched():
        return 0, 1
    with _told():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=timedelta(seconds=ANSWER_LIMIT_S))
    return distributed.get_rank(), distributed.get_world_size()


def processes_here() -> int:
    """The number of processes of the group on this machine, as its launcher states it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def left() -> Iterator[None]:
    """Leave the group at the end of the block."""
    try:
        yield
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def average(tensor: Tensor) -> None:
    """Average the tensor over all processes, in place."""
    if distributed.is_initialized():
        with _told():
            distributed.all_reduce(tensor)
        tensor /= distributed.get_world_size()


def is_asked_by_any(asked: bool) -> bool:
    """Tell all processes, at the same step, whether any was asked: else the others would wait for it for ever."""
    if not distributed.is_initialized():
        return asked
    flag = torch.tensor(float(asked), device="cuda" if distributed.get_backend() == "nccl" else "cpu")
    with _told():
        distributed.all_reduce(flag)
    return bool(flag > 0)


def wait_for_all() -> None:
    """Wait until every process is here."""
    if distributed.is_initialized():
        with _told():
            distributed.barrier()


@contextmanager
def _told() -> Iterator[None]:
    """Raise ProcessError in place of a backend's RuntimeError, which holds an address and a line of C++."""
    try:
        yield
    except RuntimeError as exc:
        raise ProcessError(
            "Another process of this run ended or does not answer, so this one stopped too.",
            hint="What the other one said, or the kernel's log (out of memory?), tells why; then start all of them "
            "again: the steps since the last save are done again.",
        ) from exc
