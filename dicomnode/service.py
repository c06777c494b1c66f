"""The running node. It starts its parts in the order of their dependence and stops them in reverse order.

    data folder locked → ledger → monitor → sweep begun → models known → work → settle → push, one a peer → receive
    → sweep → alerts → calendar

The receiver starts after the parts that process what it receives, and stops before them. Only the sweep of the archive,
the alerts and the calendar start after the receiver, so that no sender waits for them. The monitor is there from early
on, and says that the node is not ready yet. The ledger records at any moment
what each part has begun. A stop in this order is therefore not needed for safety; it only saves time at the next start.
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
from dicomnode.archive import Archive
from dicomnode.catalog import ModelCatalog
from dicomnode.checks import ensure_writable, introduction, is_choice_made, known_models, require_cluster
from dicomnode.errors import NodeError
from dicomnode.ledger.queries import Reader, open_reader
from dicomnode.ledger.store import Ledger, open_ledger
from dicomnode.ledger.values import BootReport, Condition, ModelEvent
from dicomnode.push.dimse_carrier import DimseCarrier
from dicomnode.push.peer_loop import PeerLoop
from dicomnode.push.proof_loop import ProofLoop
from dicomnode.push.witness import Witness
from dicomnode.receive.scp import Receiver
from dicomnode.receive.space import Condition as SpaceCondition
from dicomnode.retention import Retention
from dicomnode.rules import model_wanted
from dicomnode.schedule import Calendar, CalendarJob
from dicomnode.seams import SYSTEM_CLOCK, Clock, checkpoint
from dicomnode.settings.models import Settings, split_letter
from dicomnode.settle import Settler
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

PUSH_STOP_S = 10.0  # for the instance that is being sent to a peer; then the association is aborted
SETTLE_STOP_S = 10.0  # for the series that is being judged
SWEEP_STOP_S = 10.0  # for the folder that is being looked through
SIGNAL_POLL_S = 1.0
CERTIFICATES_AT = time(8)  # each day, local time: when there is somebody who can ask for a new one
WEEK = timedelta(days=7)
CLUSTER_LOST_S = 300.0  # before people are told: a scheduler that restarts is back before
FORGOTTEN_AT = time(3)  # each day, local time, for what has had its time in the ledger
SWEPT_AT = time(4)  # each day, local time: before the first patients, and not in an hour that summer time moves


class Service:
    """One node on one data folder. Started once, stopped once."""

    def __init__(self, settings: Settings, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.settings = settings
        self._clock = clock
        self._parts = ExitStack()
        self._drain_s = 0.0  # while it starts there is nothing to wait for
        self._supervisors: list[Supervisor] = []
        self._executors: list[LocalExecutor] = []
        self._loops: list[PeerLoop] = []
        self._proofs: dict[str, ProofLoop] = {}  # by the peer that was sent to
        self._receiver: Receiver | None = None
        self._threads: Counter[str] = Counter()  # that run as long as the node does, by name; empty: it is not ready
        # Why the service is to end: a signal, or an error that it cannot survive. It is a SimpleQueue because only that
        # may be used in a signal handler that interrupts its own ``get``; an Event may deadlock.
        self._asked: SimpleQueue[int | NodeError] = SimpleQueue()

    @property
    def port(self) -> int:
        """The port on which the service listens without TLS, else that for TLS. The service must be started."""
        assert self._receiver is not None, "not started"
        return self._receiver.port or self._receiver.tls_port

    def run(self) -> None:
        """Start, serve until SIGTERM or Ctrl-C, and stop every part.

        Returns after SIGTERM and raises KeyboardInterrupt after Ctrl-C. If the check of the ledger finds damage, the
        service stops as well and raises LedgerError. Every part has stopped before this returns or raises.
        """
        with _signals(self._asked):
            self.start()
            notify("READY=1")
            why = _wait_for_end(self._asked)
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

    def stop(self) -> None:
        """Stop every part, the last one first."""
        self._parts.close()
        log.event(LOGGER, "stopped")

    def _start(self, parts: ExitStack) -> None:
        settings = self.settings
        host = socket.gethostname()
        identity = Identity(settings.tls) if settings.uses_tls else None
        archive, ledger, boot = self._open(parts, host)
        self._monitor(parts)
        sweep = Sweep(archive, ledger, boot, damaged=self._asked.put, clock=self._clock)
        sweep.begin()
        is_fast = settings.work.model_speed == "fast"
        catalog = ModelCatalog(ledger.active_models, settings.node.data.absolute(), is_fast=is_fast)
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
                finished=self._wake_loops,
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
        settler = Settler(
            settings.settle,
            settings.rule,
            ledger,
            archive,
            model_of=catalog.model_of,
            open_series=receiver.open_series,
            planned=self._wake_supervisors,
            enhanced_kept=frozenset(peer.name for peer in settings.peer if peer.enhanced != "process"),
            clock=self._clock,
        )
        carrier = DimseCarrier(ae_title=settings.node.ae_title, push=settings.push, identity=identity)
        named = {peer.name: peer for peer in settings.peer}
        self._proofs = {
            peer.name: ProofLoop(
                peer, named[peer.committer], settings.push, ledger, archive,
                witness=Witness(carrier), clock=self._clock,
            )
            for peer in settings.peer
            if peer.committer is not None
        }  # fmt: skip
        ledger.give_up_commitments(self._proofs)
        self._loops = [
            PeerLoop(peer, settings.push, ledger, archive, owner, carrier=carrier, sent=partial(self._prove, peer.name))
            for peer in settings.peer
            if peer.address
        ]
        retention = Retention(ledger, keep_events_days=settings.ledger.keep_events_days, clock=self._clock)
        jobs = [
            CalendarJob(name="retention", at=FORGOTTEN_AT, run=retention.begin),
            CalendarJob(name="sweep", at=SWEPT_AT, run=sweep.look_again),
            CalendarJob(name="certificates", at=CERTIFICATES_AT, run=lambda: self._warn_of_certificates(identity)),
        ]
        watch, letters = self._watch(parts, ledger)
        calendar = Calendar(
            jobs + letters,
            stepped=lambda by_s: ledger.note(
                "clock_stepped", table="boot", row=boot.boot, detail=f"the wall clock was set by {by_s:+.0f} s"
            ),
            clock=self._clock,
        )

        for supervisor in self._supervisors:
            supervisor.start()
        parts.callback(self._stop_supervisors)
        settler.start()
        parts.callback(settler.stop, SETTLE_STOP_S)
        parts.callback(self._stop_loops)
        loops: list[PeerLoop | ProofLoop] = [*self._loops, *self._proofs.values()]
        for loop in loops:
            loop.start()
        receiver.start()
        parts.callback(lambda: receiver.stop(self._drain_s))
        self._receiver = receiver
        sweep.start(is_busy=lambda: receiver.associations() > 0)
        parts.callback(sweep.stop, SWEEP_STOP_S)
        if watch is not None:
            now = self._clock.now()
            watch.start(letter_due_at=letters[0].next_after(now - WEEK) if letters else None)
            parts.callback(watch.stop)
        retention.begin()  # a calendar remembers nothing: a node that is off at night must forget, too
        parts.callback(retention.stop, SWEEP_STOP_S)
        calendar.start()
        parts.callback(calendar.stop)
        self._warn_of_certificates(identity)
        self._threads = _own_threads()
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
        archive.lock()
        parts.callback(archive.unlock)
        archive.require_restored()
        ensure_writable(archive)
        ledger = open_ledger(self.settings.ledger_url, clock=self._clock)
        parts.callback(ledger.close)
        boot = ledger.begin_boot(pid=os.getpid(), host=host)
        parts.callback(ledger.end_boot, boot.boot)
        for peer, number in ledger.deliveries_without_peer(self.settings.reachable_peers).items():
            log.event(LOGGER, "deliveries_without_peer", level=logging.WARNING, peer=peer, count=number)
        return archive, ledger, boot

    def _monitor(self, parts: ExitStack) -> None:
        """Let programs ask how the node is, until it has stopped, where the settings name an address for it."""
        if not self.settings.metrics.listen:
            return
        # Imported here: a node that nobody watches does without the library.
        from dicomnode.monitor.figures import Parts, Worker
        from dicomnode.monitor.monitored import monitored

        watched = Parts(
            associations=lambda: self._receiver.associations() if self._receiver else 0,
            workers=lambda: [Worker(is_warm=one.pid is not None, memory_mb=one.memory_mb) for one in self._executors],
            ended=self._ended_parts,
            unready=self._unready,
        )
        parts.enter_context(monitored(self.settings, watched, clock=self._clock))

    def _ended_parts(self) -> list[str]:
        """Say which parts of the node have ended although it runs: nothing that the node does brings them back."""
        return [f"The thread {name} has ended; restart the service." for name in sorted(self._threads - _own_threads())]

    def _unready(self) -> list[str]:
        """Say why the node accepts no instance now."""
        if not self._threads or self._receiver is None:
            return ["The node starts or stops."]
        condition = self._receiver.condition()
        return self._ended_parts() + ([_UNREADY[condition]] if condition else [])

    def _watch(self, parts: ExitStack, ledger: Ledger) -> tuple[Watch | None, list[CalendarJob]]:
        """The watch over what is wrong, and when its letter is written; nothing where nobody is to be told."""
        settings = self.settings
        ways = destinations(settings.alert)
        if not ways:
            return None, []
        node = node_name(settings.node.ae_title)
        reader = open_reader(settings.ledger_url, peers=settings.reachable_peers)
        parts.callback(reader.close)
        letters = []
        if settings.alert.letter:
            day, at, zone = split_letter(settings.alert.letter)
            letters = [CalendarJob(name="letter", at=at, day=day, zone=zone, run=lambda: watch.write_letter())]
        watch = Watch(
            ledger,
            ways,
            node=node,
            conditions=lambda now: self._conditions(reader, now),
            letter=lambda now: _letter(settings, node, reader, now, letters),
            clock=self._clock,
        )
        return watch, letters

    def _conditions(self, reader: Reader, now: datetime) -> list[Condition]:
        """What is wrong: with the node, in its ledger, and with the cluster as its processes see it."""
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

    def _wake_loops(self) -> None:
        for loop in self._loops:
            loop.wake()

    def _stop_supervisors(self) -> None:
        _at_once([partial(supervisor.stop, self._drain_s) for supervisor in self._supervisors])

    def _prove(self, peer: str) -> None:
        if (loop := self._proofs.get(peer)) is not None:
            loop.wake()

    def _stop_loops(self) -> None:
        loops: list[PeerLoop | ProofLoop] = [*self._loops, *self._proofs.values()]
        _at_once([partial(loop.stop, PUSH_STOP_S) for loop in loops if loop.is_alive])


def _letter(settings: Settings, node: str, reader: Reader, now: datetime, letters: Sequence[CalendarJob]) -> Message:
    """The weekly letter of this moment."""
    next_at = letters[0].next_after(now) if letters else now + WEEK
    return letter(node, reader.week(now - WEEK), reader.waiting(), facts(settings, reader, now), next_at=next_at)


def _own_threads() -> Counter[str]:
    """Count the running threads of the node's parts by their names."""
    names = (thread.name for thread in threading.enumerate())
    return Counter(name for name in names if name in _LASTING or name.startswith(("push-", "proof-")))


def _at_once(stops: Sequence[Callable[[], object]]) -> None:
    """Call all of them at the same time, so that ten parts that hang take no longer than one."""
    stopping = [threading.Thread(target=stop, name="stop") for stop in stops]
    for thread in stopping:
        thread.start()
    for thread in stopping:
        thread.join()


def _choose_model(
    reference_s: float | None, catalog: ModelCatalog, ledger: Ledger, boot: BootReport, *, chosen: Callable[[], None]
) -> None:
    """Choose the default model by the time that the worker measured, and wake who has waited for that: ``chosen``."""
    choice = catalog.choose(reference_s)
    log.event(LOGGER, "model_chosen", model=catalog.default, sentence=choice.sentence)
    chosen()
    kind = ModelEvent.FAST if choice.is_fast else ModelEvent.QUALITY
    ledger.note(kind, table="boot", row=boot.boot, detail=choice.sentence)


def _wait_for_end(asked: SimpleQueue[int | NodeError]) -> int | NodeError:
    """Return the first signal that arrives, or the first error that the node cannot survive.

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
    """Put the first SIGTERM or SIGINT into the queue. The second one ends the process at once; no data is lost."""

    def handle(number: int, _frame: FrameType | None) -> None:
        if was_asked:
            os._exit(128 + number)
        was_asked.append(number)
        asked.put(number)

    was_asked: list[int] = []
    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
