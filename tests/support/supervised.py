"""A running supervisor with a real child, on a ledger and an archive of a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dicomnode.archive import Archive
from dicomnode.ids import AeTitle
from dicomnode.ledger.store import Ledger
from dicomnode.settings.models import WorkSettings
from dicomnode.work.child import Setup
from dicomnode.work.supervisor import Supervisor
from tests.support.wait import wait_until

LIMIT_S = 60.0


@contextmanager
def supervised(
    ledger: Ledger, archive: Archive, finished: Callable[[], None] = lambda: None, **settings: object
) -> Iterator[Supervisor]:
    """Stopped at once afterwards."""
    running = Supervisor(
        WorkSettings.model_validate({"device": "cpu", **settings}),
        ledger,
        archive,
        ae_title=AeTitle("NODE"),
        setup=Setup(data=archive.data, device="cpu", models=("cubic-dc",), log_level="debug", log_format="json"),
        owner="1:test:1",
        finished=finished,
    )
    running.start()
    try:
        yield running
    finally:
        running.stop(0)


def warm_pid(supervisor: Supervisor) -> int:
    """The process id of the child, once it is warm."""
    return wait_until(lambda: supervisor.worker_pid, LIMIT_S, "a worker is warm") or 0
