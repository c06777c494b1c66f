"""The parts of a running node. They are made and started in the order of their dependence:

    sweep begun → models known → work → settle → push, one a peer → receive → sweep → alerts → calendar

The receiver starts after the parts that process what it receives, and stops before them. Only the sweep of the archive,
the alerts and the calendar start after the receiver, so that no sender waits for them.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from datetime import time

from dicomnode import log
from dicomnode.alert.conditions import WEEK
from dicomnode.alert.watch import destinations
from dicomnode.archive.store import Archive
from dicomnode.catalog import ModelCatalog
from dicomnode.checks.models import is_choice_made, known_models
from dicomnode.errors import NodeError
from dicomnode.ledger.store import Ledger
from dicomnode.ledger.values import BootReport, ModelEvent
from dicomnode.push.carriers import Carriers
from dicomnode.push.dimse_carrier import DimseCarrier
from dicomnode.push.loops import PushLoops
from dicomnode.push.stow_carrier import StowCarrier
from dicomnode.receive.scp import Receiver
from dicomnode.receive.space import Condition as SpaceCondition
from dicomnode.retention import Retention
from dicomnode.rules import model_wanted
from dicomnode.schedule import Calendar, CalendarJob
from dicomnode.seams import Clock
from dicomnode.service.alerts import letter_at, letters, make_watch
from dicomnode.service.slots import Slots, setup_of
from dicomnode.settings.models import Settings
from dicomnode.settle.settler import Settler
from dicomnode.sweep import Sweep
from dicomnode.tls.identity import Age, Identity

LOGGER = logging.getLogger(__name__)

_LASTING = ("listener", "settle", "work", "calendar", "alert")  # threads that end only when the node stops
_UNREADY = {
    SpaceCondition.NO_SPACE: "The disk of the archive is too full; nothing is accepted.",
    SpaceCondition.NOT_WRITABLE: "The archive cannot be written; nothing is accepted.",
}

NOT_SERVING = "The node starts or stops."

PUSH_STOP_S = 10.0  # wait for the instance that is being sent to a peer; then the association is aborted
SETTLE_STOP_S = 10.0  # wait for the series that is being judged
SWEEP_STOP_S = 10.0  # wait for the folder that the sweep is checking
CERTIFICATES_AT = time(8)  # each day, local time: at an hour when somebody can ask for a new one
FORGOTTEN_AT = time(3)  # each day, local time: removal of what is old enough in archive and ledger
SWEPT_AT = time(4)  # each day, local time: before the first patients, and not in an hour that summer time moves


class Parts:
    """All parts of one node but the monitor. Made and started once; they take new settings while they run."""

    def __init__(
        self,
        stack: ExitStack,
        in_use: Callable[[], Settings],
        archive: Archive,
        ledger: Ledger,
        boot: BootReport,
        identity: Identity | None,
        *,
        host: str,
        damaged: Callable[[NodeError], None],
        clock: Clock,
    ) -> None:
        """``in_use``: returns the settings in use. ``damaged``: called where the check of the ledger finds damage."""
        settings = in_use()
        self._ledger, self._boot, self._identity, self._clock = ledger, boot, identity, clock
        self._threads: Counter[str] = Counter()  # threads that run as long as the node does, by name; empty: not ready
        self.drain_s = 0.0  # for open associations and running jobs at the stop; during the start there are none
        self._sweep = Sweep(archive, ledger, boot, damaged=damaged, clock=clock)
        self._sweep.begin()
        self._catalog = ModelCatalog(
            ledger.models.active, settings.node.data.absolute(), is_fast=settings.work.model_speed == "fast"
        )
        owner = f"{boot.boot}:{host}:{os.getpid()}"
        self.slots = self._make_slots(settings, archive, owner)
        self.receiver = Receiver(
            node=settings.node,
            receive=settings.receive,
            disk=settings.archive,
            peers=settings.peer,
            committers=settings.committers,
            ledger=ledger,
            archive=archive,
            wake=lambda: self._settler.wake(),
            tls=settings.tls,
            identity=identity,
            clock=clock,
        )
        self._loops = PushLoops(ledger, archive, owner, clock=clock)
        self._settler = Settler(
            settings.settle,
            settings.rule,
            ledger,
            archive,
            model_of=self._catalog.model_of,
            open_series=self.receiver.open_series,
            planned=self.slots.wake,
            enhanced_kept=settings.enhanced_kept,
            clock=clock,
        )
        self._retention = Retention(
            ledger,
            archive,
            keep_days=settings.archive.keep_days,
            keep_events_days=settings.ledger.keep_events_days,
            clock=clock,
        )
        self._watch = make_watch(stack, in_use, ledger.alerts, lost=self.slots.lost, clock=clock)
        self._daily = [
            CalendarJob(name="retention", at=FORGOTTEN_AT, run=self._retention.begin),
            CalendarJob(name="sweep", at=SWEPT_AT, run=self._sweep.look_again),
            CalendarJob(name="certificates", at=CERTIFICATES_AT, run=self._warn_of_certificates),
        ]
        self._calendar = Calendar(
            self._daily + letters(settings, self._watch), stepped=self._note_clock_step, clock=clock
        )

    def start(self, stack: ExitStack, settings: Settings) -> None:
        """Start every part, and leave with the stack what stops them in reverse order."""
        self.slots.start()
        stack.callback(lambda: self.slots.stop(self.drain_s))
        self._settler.start()
        stack.callback(self._settler.stop, SETTLE_STOP_S)
        stack.callback(self._loops.stop, PUSH_STOP_S)
        self._loops.take(settings.peer, settings.push, _carriers(settings, self._identity))
        self.receiver.start()
        stack.callback(lambda: self.receiver.stop(self.drain_s))
        self._sweep.start(is_busy=lambda: self.receiver.associations() > 0)
        stack.callback(self._sweep.stop, SWEEP_STOP_S)
        self._watch.start(letter_due_at=letter_at(settings, self._clock.now() - WEEK))
        stack.callback(self._watch.stop)
        self._retention.begin()  # a calendar keeps no plan over a restart: a node off at night must make room, too
        stack.callback(self._retention.stop, SWEEP_STOP_S)
        self._calendar.start()
        stack.callback(self._calendar.stop)
        self._warn_of_certificates()

    def take(self, new: Settings, identity: Identity | None) -> None:
        """Give each part its new settings, which it begins to use between two pieces of its work."""
        if self._identity is None:
            self._identity = identity
        elif identity is not None:
            self._identity.take(identity)  # the listener goes on with this very object
        self.receiver.take(new.node.titles, new.peer, new.committers)
        self._loops.take(new.peer, new.push, _carriers(new, self._identity))
        self._settler.take(new.settle, new.rule, new.enhanced_kept)
        self._watch.take(destinations(new.alert))
        self._calendar.take(self._daily + letters(new, self._watch))

    def watch_threads(self, stack: ExitStack) -> None:
        """Count the running threads by name, until the stop; those of peers come and go and are left out."""
        self._threads = Counter(thread.name for thread in threading.enumerate() if thread.name in _LASTING)
        stack.callback(self._threads.clear)

    def ended(self) -> list[str]:
        """Name the parts that have ended although the node runs. The node does not start them again."""
        of_peers = self._loops.names if self._threads else Counter[str]()
        ended = (self._threads + of_peers) - Counter(thread.name for thread in threading.enumerate())
        return [f"The thread {name} has ended; restart the service." for name in sorted(ended)]

    def unready(self) -> list[str]:
        """Say why the node accepts no instance now."""
        if not self._threads:
            return [NOT_SERVING]
        condition = self.receiver.condition()
        return self.ended() + ([_UNREADY[condition]] if condition else [])

    def _make_slots(self, settings: Settings, archive: Archive, owner: str) -> Slots:
        """Verify the models of the rules, and make the slots whose processes load them."""
        models = known_models(settings, self._catalog)
        timed = self._catalog.begin_choice() if is_choice_made(settings) else None
        setup = setup_of(
            settings,
            models=(models[model_wanted(rule)].pinned for rule in settings.rule),
            timed=timed.pinned if timed else None,
        )
        return Slots(
            settings, archive, self._ledger, setup, owner=owner, timed=self._choose_model,
            finished=lambda: self._loops.wake(), clock=self._clock,
        )  # fmt: skip

    def _choose_model(self, reference_s: float | None) -> None:
        """Choose the default model by the time that the worker measured, and wake the settler, which waits for it."""
        choice = self._catalog.choose(reference_s)
        log.event(LOGGER, "model_chosen", model=self._catalog.default, sentence=choice.sentence)
        self._settler.wake()
        kind = ModelEvent.FAST if choice.is_fast else ModelEvent.QUALITY
        self._ledger.note(kind, table="boot", row=self._boot.boot, detail=choice.sentence)

    def _note_clock_step(self, by_s: float) -> None:
        detail = f"the wall clock was set by {by_s:+.0f} s"
        self._ledger.note("clock_stepped", table="boot", row=self._boot.boot, detail=detail)

    def _warn_of_certificates(self) -> None:
        """Log which certificates expire within 30 days; within 7 days as an error."""
        for held in self._identity.certificates(self._clock.now()) if self._identity is not None else ():
            if held.age is not Age.VALID:
                level = logging.WARNING if held.age is Age.SOON else logging.ERROR
                log.event(LOGGER, "certificate_expires", level=level, state=str(held.age), sentence=held.sentence)


def _carriers(settings: Settings, identity: Identity | None) -> Carriers:
    return Carriers(
        dimse=DimseCarrier(ae_title=settings.node.ae_title, push=settings.push, identity=identity),
        stow=StowCarrier(settings.push, settings.tls),
    )
