"""A child process from both ends: spawned, spoken to in bytes, measured and killed; and how it begins and ends itself.

What the bytes mean, what a child does and when one is started or killed is decided elsewhere. A child ends at once when
its parent is gone, in the middle of a computation too: the kernel kills it (PR_SET_PDEATHSIG), and where there is no
such call the thread of the child that waits on the pipe has to end it.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NoReturn, TypeVar

from dicomnode.work.orders import MESSAGE_LIMIT_BYTES

S = TypeVar("S")

PARENT_GONE = 3  # exit code that nobody is left to read; for whoever traces processes
NICENESS = 5  # the scanner's associations come first on a machine whose cores are all computing
OOM_SCORE = "500"  # when memory runs out, the kernel is to kill this process and not the one that receives
KILL_WAIT_S = 10.0  # a killed process is gone at once, unless it hangs in the kernel; then we go on without it

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The process is gone."""

    exit_code: int | None  # negative: killed by that signal; None: it hangs in the kernel

    @property
    def sentence(self) -> str:
        """The end of the process, in words."""
        if self.exit_code is None:
            return "the worker process could not be killed"
        if self.exit_code < 0:
            return f"the worker process was killed by {_signal_name(-self.exit_code)}"
        return f"the worker process ended with exit code {self.exit_code}"


class WorkerProcess:
    """A spawned process and the pipe to it. Used by one thread, which must outlive it (PR_SET_PDEATHSIG)."""

    def __init__(self, main: Callable[[Connection, int, S], NoReturn], setup: S) -> None:
        """``main`` is called in the child, with its end of the pipe, the process id of the parent, and ``setup``."""
        context = multiprocessing.get_context("spawn")  # a fork would copy the service's threads' locks
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=main, args=(theirs, os.getpid(), setup), name="dicomnode-work", daemon=True
        )
        self._process.start()
        theirs.close()  # else the pipe stays open when the child is gone
        assert self._process.pid is not None
        self.pid = self._process.pid
        self._ended: Ended | None = None

    def send(self, message: bytes | memoryview) -> None:
        """Hand over a message; a child that is gone shows at the next ``receive``."""
        with contextlib.suppress(OSError):
            self._connection.send_bytes(message)

    def receive(self, timeout_s: float) -> bytes | Ended | None:
        """Wait for the next message of the child, or for its end; None when neither came within the time."""
        ready = wait([self._connection, self._process.sentinel], timeout_s)
        if self._connection in ready:  # first: it may have spoken before it ended
            try:
                return self._connection.recv_bytes(MESSAGE_LIMIT_BYTES)
            except (EOFError, OSError):  # gone, perhaps in the middle of a message
                return self.kill()
        return self.kill() if ready else None

    def receive_into(self, buffer: memoryview) -> Ended | None:
        """Fill the buffer with the next message, however long that takes; how the child ended, if it ended first."""
        try:
            assert self._connection.recv_bytes_into(buffer) == buffer.nbytes
        except (EOFError, OSError):
            return self.kill()
        return None

    def interrupt(self) -> None:
        """Send SIGKILL, from any thread; the thread that uses the process learns of its end at the next ``receive``."""
        self._process.kill()

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


def become_child(parent_pid: int) -> None:
    """Called first in a child: it ends with its parent, and leaves processor and memory to whoever receives."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) was refused")
    if os.getppid() != parent_pid:  # it went while we were starting
        os._exit(PARENT_GONE)
    # A Ctrl-C at the terminal, or a unit that signals the whole group, must not cut a job short: the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.nice(NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE, "ascii")


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
