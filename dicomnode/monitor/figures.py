"""The figures: the state of the node at this moment.

In: the ledger, the settings, and the running parts. Out: metrics for a Prometheus registry. Labels are states, reasons
and names of our own, and the names of peers in the settings: no patient, no UID, no word of a stranger.

The ledger is read at most every few seconds, however often the figures are asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dicomnode import __version__
from dicomnode.archive.store import Archive
from dicomnode.errors import NodeError, SettingsError, StorageError
from dicomnode.ledger.queries import Reader
from dicomnode.ledger.views import Queue, Status, Waiting
from dicomnode.seams import Clock
from dicomnode.settings.models import Settings
from dicomnode.tls.identity import held_certificates
from dicomnode.visible import visible

KEPT_S: Final = 5.0  # an answer of the ledger counts as new for so long
DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """The worker process of one slot."""

    is_warm: bool
    memory_mb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Functions that return the state of the running parts; each may be called from any thread."""

    associations: Callable[[], int]
    workers: Callable[[], Sequence[Worker]]
    ended: Callable[[], list[str]]  # a sentence for each part that has ended although the node runs
    unready: Callable[[], list[str]]  # a sentence for each reason why nothing is accepted now


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ledger:
    """One look into the ledger."""

    status: Status
    kept: Mapping[str, int]
    waiting: Sequence[Waiting]
    queues: Sequence[Queue]


class Figures(Collector):
    """Collects the figures each time that they are asked for."""

    def __init__(self, current: Callable[[], Settings], ledger: Reader, parts: Parts, clock: Clock) -> None:
        self._current = current
        self._reader = ledger
        self._parts = parts
        self._clock = clock
        self._lock = threading.Lock()
        self._looked: tuple[float, _Ledger] | None = None  # the last look and its time on the monotonic clock

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that the registry does not collect when the collector is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics. Without a ledger that answers, its own are absent, and ``dicomnode_ledger_up`` is 0."""
        now = self._clock.now()
        yield _gauge("dicomnode_build_info", "1; the version is the label.", ["version"], [((__version__,), 1)])
        yield _one(
            "dicomnode_open_associations", "Associations that are accepted and open.", self._parts.associations()
        )
        yield from self._workers()
        yield from self._disk()
        yield from self._certificates(now)
        try:
            looked = self._look(now)
        except NodeError:
            looked = None
        yield _one("dicomnode_ledger_up", "1 if the ledger could be read, else 0.", int(looked is not None))
        if looked is not None:
            yield from _of_status(looked.status, looked.kept)
            yield from _of_waiting(looked.waiting)
            yield from _of_queues(looked.queues, now)

    def _look(self, now: datetime) -> _Ledger:
        """Read the ledger, or return the last answer again. Raises LedgerError."""
        with self._lock:  # those that come meanwhile wait for the same answer
            at_s = self._clock.monotonic()
            if self._looked is None or at_s - self._looked[0] >= KEPT_S:
                reader = self._reader
                found = _Ledger(
                    status=reader.status(), kept=reader.kept(), waiting=reader.waiting(), queues=reader.queues(now)
                )
                self._looked = (self._clock.monotonic(), found)
            return self._looked[1]

    def _workers(self) -> Iterator[Metric]:
        workers = list(enumerate(self._parts.workers(), start=1))
        warm = [((str(slot),), int(one.is_warm)) for slot, one in workers]
        memory = [((str(slot),), one.memory_mb * 2**20) for slot, one in workers]
        yield _gauge("dicomnode_worker_warm", "1 if the worker of this slot has its models loaded.", ["slot"], warm)
        yield _gauge("dicomnode_worker_memory_bytes", "Resident memory of the worker.", ["slot"], memory)

    def _disk(self) -> Iterator[Metric]:
        archive = Archive(self._current().node.data)
        try:
            free, percent = archive.data_folder.free_bytes(), archive.data_folder.free_percent()
        except StorageError:
            return
        yield _one("dicomnode_disk_free_bytes", "Free on the disk of the archive.", free)
        yield _one("dicomnode_disk_free_ratio", "The same as a share of the disk.", percent / 100)

    def _certificates(self, now: datetime) -> Iterator[Metric]:
        try:
            held = held_certificates(self._current().tls, now)
        except SettingsError:
            return
        left = [((one.key, str(one.number)), (one.not_after - now).total_seconds() / DAY_S) for one in held]
        help_ = "Days until this certificate of the settings ends; below 0 after its end."
        yield _gauge("dicomnode_certificate_days", help_, ["key", "number"], left)


def _of_status(status: Status, kept: Mapping[str, int]) -> Iterator[Metric]:
    instances = [(("received",), status.instances), (("derived",), status.derived_instances)]
    yield _gauge("dicomnode_instances", "Instances in the ledger.", ["origin"], instances)
    yield _by_state("dicomnode_series", "Received series in the ledger.", status.series)
    reasons = [((reason,), number) for reason, number in kept.items()]
    yield _gauge("dicomnode_kept_series", "Received series that were kept, by their verdict.", ["reason"], reasons)
    yield _by_state("dicomnode_jobs", "Jobs in the ledger.", status.jobs)
    yield _by_state("dicomnode_deliveries", "Deliveries in the ledger.", status.deliveries)
    proofs = [((proof,), number) for proof, number in status.proofs.items()]
    yield _gauge(
        "dicomnode_sent_deliveries", "Sent deliveries, by the proof that the peer has them.", ["proof"], proofs
    )
    aside = [((reason,), number) for reason, number in status.quarantine.items()]
    yield _gauge("dicomnode_quarantine_files", "Files that were set aside.", ["reason"], aside)


def _of_waiting(waiting: Sequence[Waiting]) -> Iterator[Metric]:
    rows = [((one.table, one.state, visible(one.reason), one.peer), one.rows) for one in waiting]
    help_ = "Rows that wait for a person, by what they wait for."
    yield _gauge("dicomnode_waiting_rows", help_, ["table", "state", "reason", "peer"], rows)


def _of_queues(queues: Sequence[Queue], now: datetime) -> Iterator[Metric]:
    labels = ["stage", "peer"]
    rows = [((one.stage, one.peer), one.rows) for one in queues]
    ages = [
        ((one.stage, one.peer), max(0.0, (now - one.since).total_seconds()) if one.since else 0.0) for one in queues
    ]
    stalled = [((one.stage, one.peer), one.stalled) for one in queues]
    yield _gauge("dicomnode_queue_rows", "What waits for a stage.", labels, rows)
    yield _gauge(
        "dicomnode_queue_age_seconds", "How long the oldest of them has waited; 0: nothing waits.", labels, ages
    )
    yield _gauge("dicomnode_stalled_leases", "Rows whose holder has let its lease run out.", labels, stalled)


def _by_state(name: str, help_: str, numbers: dict[str, int]) -> Metric:
    return _gauge(name, help_, ["state"], [((state,), number) for state, number in numbers.items()])


def _one(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_, value=value)


def _gauge(name: str, help_: str, labels: list[str], values: Sequence[tuple[tuple[str, ...], float]]) -> Metric:
    family = GaugeMetricFamily(name, help_, labels=labels)
    for of, value in values:
        family.add_metric(list(of), value)
    return family
