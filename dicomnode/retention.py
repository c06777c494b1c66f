"""What has had its time leaves the ledger: once a day, in small pieces with long pauses, so that nobody waits.

In: the days that the settings give events and alerts. Out: a shorter ledger, one line in the log, one event that says
how much went. Nothing of the archive is touched here. A kill leaves the rest for the next day.
"""

from __future__ import annotations

import logging
import threading
from datetime import timedelta

from dicomnode import log
from dicomnode.errors import NodeError
from dicomnode.ledger.store import Ledger
from dicomnode.seams import SYSTEM_CLOCK, Clock, checkpoint

LOGGER = logging.getLogger(__name__)

PAUSE_SHARE = 19.0  # times as long a pause as the piece before it took: a twentieth of the ledger's time
PAUSE_LIMIT_S = 5.0


class Retention:
    """Removes old events and closed alerts while a service lives."""

    def __init__(self, ledger: Ledger, *, keep_events_days: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self._ledger = ledger
        self._keep_events_days = keep_events_days
        self._clock = clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retention")

    def begin(self) -> None:
        """Begin a pass in a thread of its own; nothing where one still goes on, or where everything is kept."""
        if self._keep_events_days and not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="retention")
            self._thread.start()

    def stop(self, limit_s: float) -> None:
        """Stop between two pieces."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(limit_s)

    def forget(self) -> int:
        """Remove what is old enough now; how many rows that were."""
        before = self._clock.now() - timedelta(days=self._keep_events_days)
        forgotten, after = self._ledger.forget_alerts(before), 0
        while not self._stopping.is_set() and (last := self._ledger.old_events(after, before)) is not None:
            began_s = self._clock.monotonic()
            forgotten += self._ledger.forget_events(after, last, before)
            checkpoint("retention.piece")
            after = last
            self._stopping.wait(min(PAUSE_SHARE * (self._clock.monotonic() - began_s), PAUSE_LIMIT_S))
        if forgotten:
            detail = f"{forgotten} events and closed alerts of before {before:%Y-%m-%d} (ledger.keep_events_days)"
            self._ledger.note("forgotten", table="node", row=1, detail=detail)
            log.event(LOGGER, "events_forgotten", count=forgotten)
        return forgotten

    def _run(self) -> None:
        """Border: a node whose ledger grows still does everything else."""
        try:
            self.forget()
        except NodeError as exc:
            log.event(LOGGER, "retention_failed", level=logging.WARNING, code=exc.code, sentence=exc.sentence)
        except Exception:  # noqa: BLE001 (border: retention thread)
            log.failure(LOGGER, "retention_failed")
