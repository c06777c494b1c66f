"""Remove old images, events and alerts: once a day, in small pieces with pauses, so that nobody waits.

In: the days that the settings give to images, and to events and alerts. Out: room on the disk and a shorter ledger; an
event that names what was removed, and lines in the log. The rule for images that may be removed is the ledger's
(``ledger.old_images``). The rows of a series are marked first, and its files are removed afterwards. A kill leaves the
other series for the next day, and marked files for the sweep.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from dicomnode import log
from dicomnode.archive.store import Archive
from dicomnode.errors import InputError, NodeError, StorageError
from dicomnode.ledger.removed import Removed
from dicomnode.ledger.store import Ledger
from dicomnode.ledger.transaction import NODE
from dicomnode.seams import SYSTEM_CLOCK, Clock, checkpoint

LOGGER = logging.getLogger(__name__)

PAUSE_SHARE = 19.0  # a pause is so many times as long as the piece before it: a twentieth of the ledger's time
REMOVAL_PAUSE_SHARE = 3.0  # after a series: it flushes the ledger and each folder, as the receiver does meanwhile
PAUSE_LIMIT_S = 5.0


class Retention:
    """Removes old images, old events and closed alerts while a service lives."""

    def __init__(
        self,
        ledger: Ledger,
        archive: Archive,
        *,
        keep_days: float,
        keep_events_days: int,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._ledger = ledger
        self._archive = archive
        self._keep_days = keep_days
        self._keep_events_days = keep_events_days
        self._clock = clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retention")

    def begin(self) -> None:
        """Begin a pass in a thread of its own, unless one still goes on or everything is kept."""
        if (self._keep_days or self._keep_events_days) and not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="retention")
            self._thread.start()

    def stop(self, limit_s: float) -> None:
        """Stop between two pieces."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(limit_s)

    def forget(self) -> int:
        """Remove the events and alerts that are old enough now; return the number of rows."""
        before = self._clock.now() - timedelta(days=self._keep_events_days)
        forgotten, after = self._ledger.upkeep.forget_alerts(before), 0
        while not self._stopping.is_set() and (last := self._ledger.upkeep.old_events(after, before)) is not None:
            began_s = self._clock.monotonic()
            forgotten += self._ledger.upkeep.forget_events(after, last, before)
            checkpoint("retention.piece")
            after = last
            self._stopping.wait(min(PAUSE_SHARE * (self._clock.monotonic() - began_s), PAUSE_LIMIT_S))
        if forgotten:
            detail = f"{forgotten} events and closed alerts of before {before:%Y-%m-%d} (ledger.keep_events_days)"
            self._ledger.note("forgotten", table="node", row=1, detail=detail)
            log.event(LOGGER, "events_forgotten", count=forgotten)
        return forgotten

    def remove(self) -> list[Removed]:
        """Remove the images, and the files that were set aside, that are old enough now."""
        before = oldest_kept(self._keep_days, self._clock)
        gone = list(remove_old(self._ledger, self._archive, before, stopping=self._stopping, clock=self._clock))
        remove_old_set_aside(self._ledger, self._archive, before, stopping=self._stopping)
        return gone

    def _run(self) -> None:
        """Border: if the pass fails, disk and ledger grow, and the node goes on with everything else."""
        try:
            if self._keep_days:
                self.remove()
            if self._keep_events_days:
                self.forget()
        except NodeError as exc:
            log.event(LOGGER, "retention_failed", level=logging.WARNING, code=exc.code, sentence=exc.sentence)
        except Exception:  # noqa: BLE001 (border: retention thread)
            log.failure(LOGGER, "retention_failed")


def oldest_kept(keep_days: float, clock: Clock = SYSTEM_CLOCK) -> datetime:
    """Return the moment before which all of a series must have ended. Raises InputError if images are kept for ever."""
    if not keep_days:
        raise InputError(
            "The settings keep all images for ever; nothing was removed.",
            hint="Set `archive.keep_days` to the number of days after which images may go.",
        )
    return clock.now() - timedelta(days=keep_days)


def remove_old(
    ledger: Ledger,
    archive: Archive,
    before: datetime,
    *,
    stopping: threading.Event,
    by: str = NODE,
    clock: Clock = SYSTEM_CLOCK,
) -> Iterator[Removed]:
    """Remove the images that may go, the oldest series first. Raises LedgerError, and StorageError where a file stays.

    A marked row counts as removed: the sweep removes its file when it checks the folder.
    """
    after: int | None = 0
    series = instances = size_bytes = 0
    while after is not None and not stopping.is_set():
        old, after = ledger.removals.old_series(before, after)
        for one in old:
            if one.stays is not None or stopping.is_set():
                continue
            began_s = clock.monotonic()
            removed = ledger.removals.remove_old(one.id, before, by)
            if removed is None:
                continue
            checkpoint("retention.marked")
            with _said(f"Files of series {one.id}"):
                archive.remove(removed.files)
            series, instances, size_bytes = series + 1, instances + removed.instances, size_bytes + removed.size_bytes
            yield removed
            stopping.wait(min(REMOVAL_PAUSE_SHARE * (clock.monotonic() - began_s), PAUSE_LIMIT_S))
    if series:
        log.event(LOGGER, "images_removed", count=series, instances=instances, bytes=size_bytes)


def remove_old_set_aside(
    ledger: Ledger, archive: Archive, before: datetime, *, stopping: threading.Event, by: str = NODE
) -> int:
    """Remove the files that were set aside and may go; return their number. Raises as ``remove_old`` does."""
    count = 0
    while not stopping.is_set() and (names := ledger.removals.remove_old_set_aside(before, by)):
        with _said("Files of the quarantine"):
            archive.quarantine.remove(names)
        count += len(names)
    if count:
        log.event(LOGGER, "quarantine_removed", count=count)
    return count


@contextmanager
def _said(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise StorageError(
            f"{what} could not be removed: {exc.strerror}; their rows say that they are.",
            hint="See that the node's user owns the data folder and that its disk is sound. Each night the node tries "
            "again.",
        ) from exc
