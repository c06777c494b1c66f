"""The slots of the node, each of which derives one series at a time: a supervisor, and the executor under it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from dicomnode.archive.store import Archive
from dicomnode.checks.cluster import require_cluster
from dicomnode.ledger.store import Ledger
from dicomnode.push.loops import at_once
from dicomnode.seams import Clock
from dicomnode.settings.match import window
from dicomnode.settings.models import Settings
from dicomnode.work.child import Setup
from dicomnode.work.local import LocalExecutor
from dicomnode.work.supervisor import Supervisor

CLUSTER_LOST_S = 300.0  # before people are told: a scheduler that restarts is back before


class Slots:
    """All slots of the node. Started once, stopped once."""

    def __init__(
        self,
        settings: Settings,
        archive: Archive,
        ledger: Ledger,
        setup: Setup,
        *,
        owner: str,
        timed: Callable[[float | None], None],
        finished: Callable[[], None],
        clock: Clock,
    ) -> None:
        """``timed`` and ``finished``: as ``LocalExecutor`` and ``Supervisor`` call them."""
        self.executors = [
            LocalExecutor(
                setup,
                time_limit_s=settings.work.time_limit_s,
                memory_limit_mb=settings.work.memory_limit_mb,
                timed=timed,
                clock=clock,
            )
            for _ in range(settings.work.slots)
        ]
        self._supervisors = [
            Supervisor(
                ledger,
                archive,
                executor,
                ae_title=settings.node.ae_title,
                owner=owner,
                finished=finished,
                offpeak=window(settings.work.offpeak_hours),
                least_free_percent=settings.archive.work_free_percent,
                clock=clock,
            )
            for executor in self.executors
        ]

    def start(self) -> None:
        """Start the supervisors, each of which starts its executor."""
        for supervisor in self._supervisors:
            supervisor.start()

    def stop(self, drain_s: float) -> None:
        """Stop all supervisors together; a running job has ``drain_s`` to finish."""
        at_once([partial(supervisor.stop, drain_s) for supervisor in self._supervisors])

    def wake(self) -> None:
        """Have the supervisors look for jobs now."""
        for supervisor in self._supervisors:
            supervisor.wake()

    def lost(self) -> str:
        """Say why the cluster has been lost for too long; empty: it has not."""
        return next(filter(None, (executor.lost(CLUSTER_LOST_S) for executor in self.executors)), "")


def setup_of(settings: Settings, *, models: Iterable[str], timed: str | None) -> Setup:
    """Return what each child process gets when it is spawned. ``models``, ``timed``: each as NAME@DIGEST.

    Raises SettingsError where the models run on a cluster, and its engine is not installed.
    """
    return Setup(
        data=settings.node.data.absolute(),
        device=settings.work.device,
        models=tuple(sorted(set(models))),
        timed=timed,
        log_level=settings.log.level,
        log_format=settings.log.format,
        cluster=require_cluster(settings),
    )
