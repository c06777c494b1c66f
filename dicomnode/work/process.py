"""One worker process as its parent sees it: spawned, spoken to, measured, killed.

What the child does is in ``child``; when one is started or killed is decided in ``local``.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from dicomnode.work import orders
from dicomnode.work.child import Setup, child_main

KILL_WAIT_S = 10.0  # a killed process is gone at once, unless it hangs in the kernel; then we go on without it


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The process is gone."""

    exit_code: int | None  # negative: killed by that signal; None: it hangs in the kernel

    @property
    def sentence(self) -> str:
        """How it ended, in words."""
        if self.exit_code is None:
            return "the worker process could not be killed"
        if self.exit_code < 0:
            return f"the worker process was killed by {_signal_name(-self.exit_code)}"
        return f"the worker process ended with exit code {self.exit_code}"


class WorkerProcess:
    """A spawned ``child_main`` and the pipe to it. Used by one thread, which must outlive it (PR_SET_PDEATHSIG)."""

    def __init__(self, setup: Setup) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy the service's threads' locks
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=child_main, args=(theirs, os.getpid(), setup), name="dicomnode-work", daemon=True
        )
        self._process.start()
        theirs.close()  # else the pipe stays open when the child is gone
        assert self._process.pid is not None
        self.pid = self._process.pid
        self._ended: Ended | None = None

    def send(self, order: orders.Order) -> None:
        """Hand over a job; a child that is gone shows at the next ``receive``."""
        with contextlib.suppress(OSError):
            self._connection.send_bytes(orders.encode(order))

    def receive(self, timeout_s: float) -> orders.Message | Ended | None:
        """What the child says next; None when it said nothing within the time."""
        ready = wait([self._connection, self._process.sentinel], timeout_s)
        if self._connection in ready:  # first: it may have spoken before it ended
            try:
                return orders.decode(self._connection.recv_bytes(orders.MESSAGE_LIMIT_BYTES))
            except (EOFError, OSError):  # gone, perhaps in the middle of a message
                return self.kill()
        return self.kill() if ready else None

    def kill(self) -> Ended:
        """End the process, whatever it does; how it ended, if it had ended before."""
        if self._ended is None:
            self._process.kill()
            self._process.join(KILL_WAIT_S)
            self._ended = Ended(exit_code=self._process.exitcode)
            self._connection.close()
        return self._ended

    def resident_mb(self) -> float:
        """Resident memory now, in MiB; 0 for a process that is gone."""
        try:
            pages = Path(f"/proc/{self.pid}/statm").read_text("ascii").split()[1]  # proc(5): size, resident, …
        except (OSError, IndexError):
            return 0.0
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


def machine_memory_mb() -> float:
    """Memory that this machine, or the container around us, has, in MiB."""
    size_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        with contextlib.suppress(OSError, ValueError):  # no such file, or the word "max"
            size_bytes = min(size_bytes, int(limit.read_text("ascii")))
    return size_bytes / 2**20


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
