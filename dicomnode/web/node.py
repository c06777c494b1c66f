"""Access of the pages to one node: its settings, its ledger and its archive.

The ledger is opened for reading alone, when the first page needs it, and stays open. A page that changes something, or
shows images, opens the one writer for that moment, as a command does: a change and its event are one act of the
ledger. The content of the first page is read at most every few seconds, however many browsers ask.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from dicomnode.alert import conditions
from dicomnode.archive.store import Archive
from dicomnode.catalog import ModelLine, is_fast_default, model_lines
from dicomnode.errors import InputError
from dicomnode.ledger.judgements import Protocol
from dicomnode.ledger.lists import Wanted
from dicomnode.ledger.queries import Reader, open_reader
from dicomnode.ledger.results import Results
from dicomnode.ledger.store import Ledger, open_ledger
from dicomnode.ledger.views import AttentionLine, DeliveryLine, Queue, Recipient, Sender, Week
from dicomnode.seams import Clock
from dicomnode.settings.models import Settings
from dicomnode.web.commands import Commands
from dicomnode.web.current import Current
from dicomnode.web.pictures import Pictures
from dicomnode.web.run_files import RunFiles

Value = TypeVar("Value")

DAY: Final = timedelta(days=1)
SILENCE: Final = timedelta(days=7)  # a sender that is silent for longer is shown as silent
KEPT_S: Final = 2.0  # the content of the first page counts as new for so long
COUNTED_S: Final = 60.0  # the same for counts over weeks or months
REHEARSAL_LIMIT_S: Final = 180.0  # it takes a minute at most
REFRESH_LIMIT_S: Final = 600.0  # a connection and two answers, with room for long `push.response_timeout_s`


@dataclass(frozen=True, slots=True, kw_only=True)
class Today:
    """The content of the first page."""

    at: datetime
    day: Week  # the figures of the last 24 hours
    senders: tuple[Sender, ...]
    silent: tuple[str, ...]  # peers of the settings that may send, and have not within SILENCE
    recipients: tuple[Recipient, ...]
    unsent: tuple[str, ...]  # peers of the settings that can be sent to, and have no delivery
    queues: tuple[Queue, ...]
    attention: tuple[AttentionLine, ...]


class Node:
    """One node, as its page reads it. Safe to use from many threads."""

    def __init__(self, current: Current, clock: Clock) -> None:
        settings = current.settings
        self.current = current
        self.clock = clock
        self.archive = Archive(settings.node.data)
        self.pictures = Pictures(self.archive)
        self.rehearsals = Commands(what="rehearsal", limit_s=REHEARSAL_LIMIT_S)
        self.refreshes = Commands(what="refresh", limit_s=REFRESH_LIMIT_S)
        self.runs = RunFiles(Path(settings.web.runs)) if settings.web.runs else None
        self._lock = threading.Lock()
        self._reader: Reader | None = None
        self._turns: dict[str, threading.Lock] = {}  # one for each question whose answer is kept
        self._kept: dict[str, tuple[float, Any]] = {}  # answers, and when they were read, on the monotonic clock

    def close(self) -> None:
        """Close the ledger."""
        with self._lock:
            if self._reader is not None:
                self._reader.close()
                self._reader = None

    @property
    def settings(self) -> Settings:
        """The settings that the running node uses, as far as the page has taken them."""
        return self.current.settings

    def follow(self) -> None:
        """Take settings that the service has taken meanwhile; the ledger is asked every few seconds at most."""
        self._once("settings", KEPT_S, lambda reader: self.current.follow(reader.settings()))

    @property
    def reader(self) -> Reader:
        """The ledger, open for reading. Raises LedgerError as long as there is none."""
        with self._lock:
            return self._opened()

    @contextmanager
    def writer(self) -> Iterator[Ledger]:
        """Open the ledger for one act of a person. Raises LedgerError where there is none, or it is busy."""
        with closing(open_ledger(self.settings.ledger_url, clock=self.clock, create=False)) as ledger:
            yield ledger

    def delivery(self, number: int) -> DeliveryLine:
        """Read a delivery. Raises InputError where there is none of this number."""
        found = self.reader.deliveries_list(Wanted(before=number + 1, limit=1))
        if not found or found[0].id != number:
            raise InputError(f"There is no delivery {number}.")
        return found[0]

    def today(self) -> Today:
        """Read the content of the first page, or return the last answer again."""
        return self._once("today", KEPT_S, self._read_today)

    def protocols(self, since: timedelta) -> tuple[Protocol, ...]:
        """Read the judgements of each scanner and protocol in the last ``since``, or return the last answer again."""
        return self._once("protocols", COUNTED_S, lambda reader: reader.protocols(self.clock.now() - since))

    def results(self, since: timedelta) -> Results:
        """Read the results of the models in the last ``since``, or return the last answer again."""
        return self._once("results", COUNTED_S, lambda reader: reader.results(self.clock.now() - since))

    def models(self) -> list[ModelLine]:
        """Read the list of models, with their files compared with their digests, or return the last answer again."""

        def read(reader: Reader) -> list[ModelLine]:
            is_fast = is_fast_default(self.settings.work.model_speed, reader.model_choice())
            return model_lines(reader.imported_models(), is_fast=is_fast)

        return self._once("models", COUNTED_S, read)

    def _once(self, what: str, kept_s: float, read: Callable[[Reader], Value]) -> Value:
        """Read an answer once for all browsers that ask at the same time, and keep it for ``kept_s``."""
        with self._lock:
            turn = self._turns.setdefault(what, threading.Lock())
        with turn:
            at_s = self.clock.monotonic()
            if what not in self._kept or at_s - self._kept[what][0] >= kept_s:
                self._kept[what] = (at_s, read(self.reader))
            value: Value = self._kept[what][1]
            return value

    def _opened(self) -> Reader:
        if self._reader is None:
            self._reader = open_reader(self.settings.ledger_url, peers=lambda: self.settings.reachable_peers)
        return self._reader

    def _read_today(self, reader: Reader) -> Today:
        now = self.clock.now()
        senders, recipients = reader.traffic(now - DAY, now - SILENCE)
        heard, sent_to = {one.peer for one in senders}, {one.peer for one in recipients}
        return Today(
            at=now,
            day=reader.week(now - DAY),
            senders=senders,
            silent=tuple(peer.name for peer in self.settings.peer if peer.networks and peer.name not in heard),
            recipients=recipients,
            unsent=tuple(name for name in self.settings.reachable_peers if name not in sent_to),
            queues=reader.queues(now),
            attention=(*conditions.lines(self.settings, reader, now), *reader.attention()),
        )
