"""The worker process: told a job by pipe, it writes derived files and answers with their manifest.

It imports torch once and keeps the models warm. It never opens the ledger or a socket. It ends at once when its
parent is gone, in the middle of a computation too: the kernel kills it (PR_SET_PDEATHSIG), and where there is no
such call the thread that waits on the pipe does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import sys
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

from dicomnode import log
from dicomnode.work import orders

if TYPE_CHECKING:
    from dicomnode.work.job import Models

PARENT_GONE = 3  # exit code that nobody is left to read; for whoever traces processes
NICENESS = 5  # the scanner's associations come first on a machine whose cores are all computing

OOM_SCORE = "500"  # when memory runs out, the kernel is to kill this process and not the one that receives

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a child is told when it is spawned."""

    data: Path  # the node's data folder
    device: str  # auto | cpu | cuda | cuda:N
    models: tuple[str, ...]  # to load before the first job: NAME, or NAME@DIGEST
    timed: str | None = None  # NAME@DIGEST of the model to be timed before the first job
    log_level: str
    log_format: Literal["auto", "text", "json"]


def child_main(connection: Connection, parent_pid: int, setup: Setup) -> NoReturn:
    """Serve orders from the pipe until the parent is gone."""
    _end_with_parent(parent_pid)
    # A Ctrl-C at the terminal, or a unit that signals the whole group, must not cut a job short: the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.nice(NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE, "ascii")
    log.start_logging(setup.log_level, setup.log_format)
    waiting: queue.SimpleQueue[orders.Order] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, waiting), name="pipe", daemon=True).start()
    models = _warm_up(connection, setup)
    while True:
        _answer(waiting.get(), setup.device, models, connection)


def _warm_up(connection: Connection, setup: Setup) -> Models:
    from dicomnode.work.job import Models  # numpy, pydicom and, for a learned model, torch

    models = Models(setup.data)
    for wanted in setup.models:
        models.warm(wanted)
    reference_s = models.seconds_for_reference(setup.timed, setup.device) if setup.timed else None
    ready = orders.Ready(models=models.loaded, device=setup.device, reference_s=reference_s)
    connection.send_bytes(orders.encode(ready))
    return models


def _answer(order: orders.Order, device: str, models: Models, connection: Connection) -> None:
    from dicomnode.work import job

    def progress(stage: str, share: float) -> None:
        connection.send_bytes(orders.encode(orders.StageReport(job=order.job, stage=stage, share=share)))

    answer = job.answer(order, device=device, models=models, progress=progress)
    connection.send_bytes(orders.encode(answer))


def _listen(connection: Connection, waiting: queue.SimpleQueue[orders.Order]) -> NoReturn:
    """Pass orders on; the end of the pipe is the end of the parent, and so of this process."""
    while True:
        try:
            message = orders.decode(connection.recv_bytes(orders.MESSAGE_LIMIT_BYTES))
        except (EOFError, OSError):
            os._exit(PARENT_GONE)
        assert isinstance(message, orders.Order), message
        waiting.put(message)


def _end_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process with the thread that spawned it: the supervisor's."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) was refused")
    if os.getppid() != parent_pid:  # it went while we were starting
        os._exit(PARENT_GONE)
