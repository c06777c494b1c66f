"""A running supervisor with a real child, on a ledger and an archive of a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from dicomnode.archive.store import Archive
from dicomnode.ids import AeTitle
from dicomnode.ledger.store import Ledger
from dicomnode.settings.match import Window
from dicomnode.work.child import Setup
from dicomnode.work.local import LocalExecutor
from dicomnode.work.supervisor import Supervisor
from tests.support.wait import wait_until

S = TypeVar("S", bound=Supervisor)

LIMIT_S = 300.0  # the worker is nice: on a loaded machine it gets little


class Supervised(Supervisor):
    """A supervisor over a child of this machine that tests can watch."""

    def __init__(
        self,
        ledger: Ledger,
        archive: Archive,
        child: LocalExecutor,
        finished: Callable[[], None],
        *,
        offpeak: Window | None = None,
    ) -> None:
        super().__init__(
            ledger, archive, child, ae_title=AeTitle("NODE"), owner="1:test:1", finished=finished, offpeak=offpeak
        )
        self._child = child

    @property
    def worker_pid(self) -> int | None:
        """The process id of the warm child; None while there is none."""
        return self._child.pid


@contextmanager
def supervised(
    ledger: Ledger,
    archive: Archive,
    finished: Callable[[], None] = lambda: None,
    *,
    time_limit_s: float = 3600.0,
    memory_limit_mb: float = 0,
    offpeak: Window | None = None,
) -> Iterator[Supervised]:
    """A running supervisor, stopped at once afterwards."""
    setup = Setup(data=archive.data, device="cpu", models=("cubic-dc",), log_level="debug", log_format="json")
    child = LocalExecutor(setup, time_limit_s=time_limit_s, memory_limit_mb=memory_limit_mb)
    with running(Supervised(ledger, archive, child, finished, offpeak=offpeak)) as supervisor:
        yield supervisor


@contextmanager
def running(supervisor: S) -> Iterator[S]:
    """Start the supervisor, and stop it without a wait after the block."""
    supervisor.start()
    try:
        yield supervisor
    finally:
        supervisor.stop(0)


def warm_pid(supervisor: Supervised) -> int:
    """The process id of the child, once it is warm."""
    return wait_until(lambda: supervisor.worker_pid, LIMIT_S, "a worker is warm") or 0
