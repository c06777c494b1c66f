"""The running node. It starts its parts in the order of their dependence and stops them in reverse order.

    data folder locked → ledger → monitor → sweep begun → models known → work → settle → push, one a peer → receive
    → sweep → alerts → calendar

The receiver starts after the parts that process what it receives, and stops before them. Only the sweep of the archive,
the alerts and the calendar start after the receiver, so that no sender waits for them. The monitor is there from early
on, and says that the node is not ready yet. The ledger records at any moment what each part has begun. A stop in this
order is therefore not needed for safety; it only saves time at the next start.

At SIGHUP the settings file is read anew. Everything that can fail is tried first. If nothing fails, each part is given
its new settings as one value, which it begins to use between two pieces of its work. If something fails, every part
goes on as before, and the ledger records why.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, time, timedelta
from functools import partial
from queue import Empty, SimpleQueue
from types import FrameType

from dicomnode import __version__, log
from dicomnode.alert.conditions import conditions, facts
from dicomnode.alert.message import Message, letter, node_name
from dicomnode.alert.watch import Watch, destinations
from dicomnode.archive.store import Archive
from dicomnode.catalog import ModelCatalog
from dicomnode.checks.cluster import require_cluster
from dicomnode.checks.disk import ensure_writable
from dicomnode.checks.models import is_choice_made, known_models
from dicomnode.checks.peers import introduction
from dicomnode.errors import NodeError
from dicomnode.ledger.queries import Reader, open_reader
from dicomnode.ledger.store import Ledger, open_ledger
from dicomnode.ledger.values import BootReport, Condition, ModelEvent
from dicomnode.push.carriers import Carriers
from dicomnode.push.dimse_carrier import DimseCarrier
from dicomnode.push.loops import PushLoops, at_once
from dicomnode.push.stow_carrier import StowCarrier
from dicomnode.receive.scp import Receiver
from dicomnode.receive.space import Condition as SpaceCondition
from dicomnode.reload import Reading, read_anew
from dicomnode.retention import Retention
from dicomnode.rules import model_wanted
from dicomnode.schedule import Calendar, CalendarJob, next_moment
from dicomnode.seams import SYSTEM_CLOCK, Clock, checkpoint
from dicomnode.settings.alert import split_letter
from dicomnode.settings.load import NO_FILE, Source
from dicomnode.settings.match import window
from dicomnode.settings.models import Settings
from dicomnode.settle.settler import Settler
from dicomnode.sweep import Sweep
from dicomnode.systemd import notify
from dicomnode.tls.identity import Age, Identity
from dicomnode.work.child import Setup
from dicomnode.work.local import LocalExecutor
from dicomnode.work.supervisor import Supervisor

LOGGER = logging.getLogger(__name__)

_LASTING = ("listener", "settle", "work", "calendar", "alert")  # threads that end only when the node stops
_UNREADY = {
    SpaceCondition.NO_SPACE: "The disk of the archive is too full; nothing is accepted.",
    SpaceCondition.NOT_WRITABLE: "The archive cannot be written; nothing is accepted.",
}

PUSH_STOP_S = 10.0  # wait for the instance that is being sent to a peer; then the association is aborted
SETTLE_STOP_S = 10.0  # wait for the series that is being judged
SWEEP_STOP_S = 10.0  # wait for the folder that the sweep is checking
SIGNAL_POLL_S = 1.0
CERTIFICATES_AT = time(8)  # each day, local time: at an hour when somebody can ask for a new one
WEEK = timedelta(days=7)
CLUSTER_LOST_S = 300.0  # before people are told: a scheduler that restarts is back before
FORGOTTEN_AT = time(3)  # each day, local time: removal of what is old enough in archive and ledger
SWEPT_AT = time(4)  # each day, local time: before the first patients, and not in an hour that summer time moves


class Service:
    """One node on one data folder. Started once, stopped once."""

    def __init__(
        self,
        settings: Settings,
        *,
        source: Source = NO_FILE,
        read: Callable[[], tuple[Settings, Source]] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """``source``: the file that the settings come from. ``read`` reads them anew; None: they stay as they are."""
        self.settings = settings  # the settings in use
        self._source = source
        self._read = read
        self._clock = clock
        self._parts = ExitStack()
        self._drain_s = 0.0  # during the start there is nothing to wait for
        self._supervisors: list[Supervisor] = []
        self._executors: list[LocalExecutor] = []
        self._loops: PushLoops | None = None
        self._receiver: Receiver | None = None
        self._give: Callable[[Settings, Identity | None], None] | None = None  # new settings to every part
        self._threads: Counter[str] = Counter()  # threads that run as long as the node does, by name; empty: not ready
        # The reasons to end: a signal, or an error that the service cannot survive. This is a SimpleQueue because only
        # that may be used in a signal handler that interrupts its own ``get``; an Event may deadlock.
        self._asked: SimpleQueue[int | NodeError] = SimpleQueue()

    @property
    def port(self) -> int:
        """The port on which the service listens without TLS, or with TLS if there is no other. It must be started."""
        assert self._receiver is not None, "not started"
        return self._receiver.port or self._receiver.tls_port

    def run(self) -> None:
        """Start, serve until SIGTERM or Ctrl-C, and stop every part. SIGHUP reads the settings anew.

        Returns after SIGTERM and raises KeyboardInterrupt after Ctrl-C. If the check of the ledger finds damage, the
        service stops as well and raises LedgerError. Every part has stopped before this returns or raises.
        """
        with _signals(self._asked):
            self.start()
            notify("READY=1")
            while (why := _wait_for_next(self._asked)) == signal.SIGHUP:
                self.reload()
            if isinstance(why, NodeError):
                log.event(LOGGER, "stopping", level=logging.ERROR, code=why.code, sentence=why.sentence)
            else:
                log.event(LOGGER, "stopping", signal=signal.Signals(why).name)
            notify("STOPPING=1")
            self.stop()
        if isinstance(why, NodeError):
            raise why
        if why == signal.SIGINT:
            raise KeyboardInterrupt

    def start(self) -> None:
        """Start every part. If one cannot start, the parts before it are stopped and its error is raised."""
        with ExitStack() as parts:
            self._start(parts)
            self._drain_s = self.settings.receive.drain_s
            self._parts = parts.pop_all()

    def reload(self) -> None:
        """Use the settings that the file has now, or go on with those in use where it holds a mistake."""
        assert self._give is not None, "not started"
        if self._read is None:
            return
        at = self._clock.now()
        read = read_anew(self.settings, self._read, self._ledger.models.active)
        if isinstance(read, Reading):
            try:
                self._give(read.settings, read.identity)
            except Exception as exc:  # noqa: BLE001 (border: a part that cannot start a thread, for example)
                log.failure(LOGGER, "reload_failed")
                read = f"Not every part of the node took the new settings ({type(exc).__name__}); restart the service."
        try:
            if isinstance(read, Reading):
                self._source = read.source
                log.event(LOGGER, "settings_taken", sentence=read.sentence)
                self._record_settings(read.waiting, at)
            else:
                log.event(LOGGER, "settings_refused", level=logging.ERROR, sentence=read)
                self._ledger.boots.refuse_settings(self._boot, fault=read, at=at)
        except NodeError as exc:
            log.event(LOGGER, "event_not_noted", level=logging.WARNING, code=exc.code, sentence=exc.sentence)

    def stop(self) -> None:
        """Stop every part, the last one first."""
        self._parts.close()
        log.event(LOGGER, "stopped")

    def _start(self, parts: ExitStack) -> None:
        settings = self.settings
        host = socket.gethostname()
        identity = Identity(settings.tls) if settings.uses_tls else None
        archive, ledger, boot = self._open(parts, host)
        self._ledger, self._boot = ledger, boot.boot
        self._monitor(parts)
        sweep = Sweep(archive, ledger, boot, damaged=self._asked.put, clock=self._clock)
        sweep.begin()
        is_fast = settings.work.model_speed == "fast"
        catalog = ModelCatalog(ledger.models.active, settings.node.data.absolute(), is_fast=is_fast)
        models = known_models(settings, catalog)
        timed = catalog.begin_choice() if is_choice_made(settings) else None
        owner = f"{boot.boot}:{host}:{os.getpid()}"

        child = Setup(
            data=settings.node.data.absolute(),
            device=settings.work.device,
            models=tuple(sorted({models[model_wanted(rule)].pinned for rule in settings.rule})),
            timed=timed.pinned if timed else None,
            log_level=settings.log.level,
            log_format=settings.log.format,
            cluster=require_cluster(settings),
        )
        self._executors = [
            LocalExecutor(
                child,
                time_limit_s=settings.work.time_limit_s,
                memory_limit_mb=settings.work.memory_limit_mb,
                timed=lambda reference_s: _choose_model(reference_s, catalog, ledger, boot, chosen=settler.wake),
                clock=self._clock,
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
                finished=lambda: loops.wake(),
                offpeak=window(settings.work.offpeak_hours),
                least_free_percent=settings.archive.work_free_percent,
                clock=self._clock,
            )
            for executor in self._executors
        ]
        receiver = Receiver(
            node=settings.node,
            receive=settings.receive,
            disk=settings.archive,
            peers=settings.peer,
            committers=settings.committers,
            ledger=ledger,
            archive=archive,
            wake=lambda: settler.wake(),
            tls=settings.tls,
            identity=identity,
            clock=self._clock,
        )
        loops = self._loops = PushLoops(ledger, archive, owner, clock=self._clock)
        settler = Settler(
            settings.settle,
            settings.rule,
            ledger,
            archive,
            model_of=catalog.model_of,
            open_series=receiver.open_series,
            planned=self._wake_supervisors,
            enhanced_kept=settings.enhanced_kept,
            clock=self._clock,
        )
        retention = Retention(
            ledger,
            archive,
            keep_days=settings.archive.keep_days,
            keep_events_days=settings.ledger.keep_events_days,
            clock=self._clock,
        )
        watch = self._watch(parts, ledger)
        jobs = [
            CalendarJob(name="retention", at=FORGOTTEN_AT, run=retention.begin),
            CalendarJob(name="sweep", at=SWEPT_AT, run=sweep.look_again),
            CalendarJob(name="certificates", at=CERTIFICATES_AT, run=lambda: self._warn_of_certificates(identity)),
        ]
        calendar = Calendar(
            jobs + _letters(settings, watch),
            stepped=lambda by_s: ledger.note(
                "clock_stepped", table="boot", row=boot.boot, detail=f"the wall clock was set by {by_s:+.0f} s"
            ),
            clock=self._clock,
        )

        def give(new: Settings, identified: Identity | None) -> None:
            nonlocal identity
            self.settings = new
            if identity is None:
                identity = identified
            elif identified is not None:
                identity.take(identified)  # the listener goes on with this very object
            receiver.take(new.node.titles, new.peer, new.committers)
            loops.take(new.peer, new.push, _carriers(new, identity))
            settler.take(new.settle, new.rule, new.enhanced_kept)
            watch.take(destinations(new.alert))
            calendar.take(jobs + _letters(new, watch))

        for supervisor in self._supervisors:
            supervisor.start()
        parts.callback(self._stop_supervisors)
        settler.start()
        parts.callback(settler.stop, SETTLE_STOP_S)
        parts.callback(loops.stop, PUSH_STOP_S)
        loops.take(settings.peer, settings.push, _carriers(settings, identity))
        receiver.start()
        parts.callback(lambda: receiver.stop(self._drain_s))
        self._receiver = receiver
        sweep.start(is_busy=lambda: receiver.associations() > 0)
        parts.callback(sweep.stop, SWEEP_STOP_S)
        watch.start(letter_due_at=_letter_at(settings, self._clock.now() - WEEK))
        parts.callback(watch.stop)
        retention.begin()  # a calendar keeps no plan over a restart: a node that is off at night must make room, too
        parts.callback(retention.stop, SWEEP_STOP_S)
        calendar.start()
        parts.callback(calendar.stop)
        self._warn_of_certificates(identity)
        self._record_settings((), self._clock.now())
        self._give = give
        self._threads = _lasting_threads()
        parts.callback(self._threads.clear)
        checkpoint("service.started")
        log.event(
            LOGGER, "started", version=__version__, boot=boot.boot, pid=os.getpid(), port=self.port,
            host=settings.node.host if settings.node.listen else settings.tls.host, archive=str(settings.node.data),
            sentence=introduction(settings, receiver.port, receiver.tls_port),
        )  # fmt: skip

    def _open(self, parts: ExitStack, host: str) -> tuple[Archive, Ledger, BootReport]:
        """Lock the data folder and open the ledger, until the service stops."""
        archive = Archive(self.settings.node.data)
        archive.data_folder.lock()
        parts.callback(archive.data_folder.unlock)
        archive.data_folder.require_restored()
        ensure_writable(archive)
        ledger = open_ledger(self.settings.ledger_url, clock=self._clock)
        parts.callback(ledger.close)
        boot = ledger.boots.begin(pid=os.getpid(), host=host)
        parts.callback(ledger.boots.end, boot.boot)
        for peer, number in ledger.deliveries.without_peer(self.settings.reachable_peers).items():
            log.event(LOGGER, "deliveries_without_peer", level=logging.WARNING, peer=peer, count=number)
        return archive, ledger, boot

    def _monitor(self, parts: ExitStack) -> None:
        """Start the monitor, if the settings name an address for it. It runs until the node has stopped."""
        if not self.settings.metrics.listen:
            return
        # Imported here: a node without a monitor does not need the library.
        from dicomnode.monitor.figures import Parts, Worker
        from dicomnode.monitor.monitored import monitored

        watched = Parts(
            associations=lambda: self._receiver.associations() if self._receiver else 0,
            workers=lambda: [Worker(is_warm=one.pid is not None, memory_mb=one.memory_mb) for one in self._executors],
            ended=self._ended_parts,
            unready=self._unready,
        )
        parts.enter_context(monitored(lambda: self.settings, watched, clock=self._clock))

    def _ended_parts(self) -> list[str]:
        """Name the parts that have ended although the node runs. The node does not start them again."""
        of_peers = self._loops.names if self._threads and self._loops else Counter[str]()
        ended = (self._threads + of_peers) - Counter(thread.name for thread in threading.enumerate())
        return [f"The thread {name} has ended; restart the service." for name in sorted(ended)]

    def _unready(self) -> list[str]:
        """Say why the node accepts no instance now."""
        if not self._threads or self._receiver is None:
            return ["The node starts or stops."]
        condition = self._receiver.condition()
        return self._ended_parts() + ([_UNREADY[condition]] if condition else [])

    def _watch(self, parts: ExitStack, ledger: Ledger) -> Watch:
        """Make the thread that looks for what is wrong, and give it the function that writes the weekly letter."""
        node = node_name(self.settings.node.ae_title)
        reader = open_reader(self.settings.ledger_url, peers=lambda: self.settings.reachable_peers)
        parts.callback(reader.close)
        return Watch(
            ledger.alerts,
            destinations(self.settings.alert),
            node=node,
            conditions=lambda now: self._conditions(reader, now),
            letter=lambda now: _letter(self.settings, node, reader, now),
            clock=self._clock,
        )

    def _record_settings(self, waiting: Sequence[str], at: datetime) -> None:
        file = self._source.file
        self._ledger.boots.take_settings(
            self._boot, file=str(file) if file else None, sha256=self._source.sha256, restart=waiting, at=at
        )

    def _conditions(self, reader: Reader, now: datetime) -> list[Condition]:
        """List what is wrong with the node, in its ledger, and with the cluster as the node's processes see it."""
        lost = next(filter(None, (executor.lost(CLUSTER_LOST_S) for executor in self._executors)), "")
        cluster = [Condition(name="cluster", sentence=lost, number=1, is_error=True)] if lost else []
        return conditions(self.settings, reader, now) + cluster

    def _warn_of_certificates(self, identity: Identity | None) -> None:
        """Log which certificates expire within 30 days; within 7 days as an error."""
        for held in identity.certificates(self._clock.now()) if identity is not None else ():
            if held.age is not Age.VALID:
                level = logging.WARNING if held.age is Age.SOON else logging.ERROR
                log.event(LOGGER, "certificate_expires", level=level, state=str(held.age), sentence=held.sentence)

    def _wake_supervisors(self) -> None:
        for supervisor in self._supervisors:
            supervisor.wake()

    def _stop_supervisors(self) -> None:
        at_once([partial(supervisor.stop, self._drain_s) for supervisor in self._supervisors])


def _carriers(settings: Settings, identity: Identity | None) -> Carriers:
    return Carriers(
        dimse=DimseCarrier(ae_title=settings.node.ae_title, push=settings.push, identity=identity),
        stow=StowCarrier(settings.push, settings.tls),
    )


def _letters(settings: Settings, watch: Watch) -> list[CalendarJob]:
    """Return the job of the calendar that writes the weekly letter; none if nobody gets one."""
    if not (destinations(settings.alert) and settings.alert.letter):
        return []
    day, at, zone = split_letter(settings.alert.letter)
    return [CalendarJob(name="letter", at=at, day=day, zone=zone, run=watch.write_letter)]


def _letter_at(settings: Settings, after: datetime) -> datetime | None:
    """Return the first moment after this one at which a letter is due. None: nobody gets one."""
    if not (destinations(settings.alert) and settings.alert.letter):
        return None
    day, at, zone = split_letter(settings.alert.letter)
    return next_moment(at, after, day=day, zone=zone)


def _letter(settings: Settings, node: str, reader: Reader, now: datetime) -> Message:
    """Write the weekly letter of this moment."""
    next_at = _letter_at(settings, now) or now + WEEK
    return letter(node, reader.week(now - WEEK), reader.waiting(), facts(settings, reader, now), next_at=next_at)


def _lasting_threads() -> Counter[str]:
    """Count the running threads of the node's parts by name; the threads of peers come and go and are left out."""
    return Counter(thread.name for thread in threading.enumerate() if thread.name in _LASTING)


def _choose_model(
    reference_s: float | None, catalog: ModelCatalog, ledger: Ledger, boot: BootReport, *, chosen: Callable[[], None]
) -> None:
    """Choose the default model by the time that the worker measured, then call ``chosen``, which wakes who waited."""
    choice = catalog.choose(reference_s)
    log.event(LOGGER, "model_chosen", model=catalog.default, sentence=choice.sentence)
    chosen()
    kind = ModelEvent.FAST if choice.is_fast else ModelEvent.QUALITY
    ledger.note(kind, table="boot", row=boot.boot, detail=choice.sentence)


def _wait_for_next(asked: SimpleQueue[int | NodeError]) -> int | NodeError:
    """Return the next signal that arrives, or an error that the node cannot survive.

    Each wait is short. A signal that arrives just before the main thread begins to wait does not interrupt the wait; in
    a wait without limit, its handler would run only after the next signal (seen in bench/kill.py).
    """
    while True:
        try:
            return asked.get(timeout=SIGNAL_POLL_S)
        except Empty:
            continue


@contextmanager
def _signals(asked: SimpleQueue[int | NodeError]) -> Iterator[None]:
    """Put each SIGHUP into the queue, and the first SIGTERM or SIGINT. The second one ends the process at once."""

    def handle_hangup(number: int, _frame: FrameType | None) -> None:
        asked.put(number)

    def handle(number: int, _frame: FrameType | None) -> None:
        if was_asked:
            os._exit(128 + number)
        was_asked.append(number)
        asked.put(number)

    was_asked: list[int] = []
    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, handle_hangup)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
