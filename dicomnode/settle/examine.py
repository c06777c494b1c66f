"""Compares files that were set aside with the instances that were archived under their UIDs.

A file of a series is set aside when its SOP Instance UID is in the archive already. Only here are pixels decoded before
a series is derived. The findings stand in the ledger: where one matters, and no person has marked the file as seen, the
series is kept, or its deliveries are held.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from dicomnode import log
from dicomnode.archive.store import Archive, FileState
from dicomnode.errors import NodeError, StorageError
from dicomnode.ids import SeriesId
from dicomnode.imaging.comparison import compare
from dicomnode.ledger.facades.quarantine import Quarantine
from dicomnode.ledger.values import Examined, Finding, QuarantineReason, Unexamined
from dicomnode.seams import Clock, checkpoint
from dicomnode.settle.reading import READ_LIMIT_S, Stopped

LOGGER = logging.getLogger(__name__)


class Examiner:
    """Compares files that were set aside with the archived instances. Used by one thread."""

    def __init__(self, quarantine: Quarantine, archive: Archive, clock: Clock, stopping: threading.Event) -> None:
        self._quarantine = quarantine
        self._archive = archive
        self._clock = clock
        self._stopping = stopping

    def examine_late(self) -> None:
        """Compare the files that were set aside of series that have their verdict already."""
        for series in self._quarantine.waiting_series():
            try:
                self.examine(series)
            except Stopped:
                return
            except StorageError as exc:  # its deliveries stay held, and the next turn tries again
                log.event(
                    LOGGER, "examination_failed", level=logging.ERROR, series=series, code=exc.code,
                    sentence=exc.sentence,
                )  # fmt: skip

    def examine(self, series: SeriesId) -> None:
        """Compare the files of a series that were set aside with the archived instances, and record the findings."""
        until = self._clock.monotonic() + READ_LIMIT_S
        found: list[Examined] = []
        for one in self._quarantine.unexamined(series):
            if self._stopping.is_set():
                raise Stopped
            if self._clock.monotonic() > until:
                found.append(_not_compared(one, "there are too many of them"))
            else:
                found.append(self._examined(one))
        if found:
            self._quarantine.examined(series, found)
            checkpoint("settle.examined")
            harmful = sum(one.finding is not Finding.SAME for one in found)
            log.event(
                LOGGER, "quarantine_examined", level=logging.WARNING if harmful else logging.INFO, series=series,
                count=len(found), instances=harmful,
            )  # fmt: skip

    def _examined(self, one: Unexamined) -> Examined:
        if one.is_stored:
            return Examined(id=one.id, finding=Finding.SAME)
        if one.reason is QuarantineReason.ORPHAN:
            return Examined(id=one.id, finding=Finding.NOT_STORED)
        kept = one.kept
        if kept is None:
            return _not_compared(one, "the first one is not known")
        if kept.series != one.series:
            return Examined(id=one.id, finding=Finding.OTHER_SERIES)
        aside = self._archive.quarantine.path(one.file)
        if not aside.is_file():
            return _not_compared(one, "the file in quarantine is missing")
        state = self._archive.verify(kept.file, kept.sha256)
        if state is FileState.MISSING and kept.is_removed:
            return _not_compared(one, "the first one was removed from the archive")
        if state is not FileState.WHOLE:
            return _not_compared(one, f"the file of the first one is {state}")
        try:
            return _difference(one, aside, self._archive.path(kept.file))
        except NodeError:
            raise  # the disk's matter
        except Exception as exc:  # noqa: BLE001 (border: one object that was set aside)
            log.failure(LOGGER, "examination_failed", quarantine=one.id, series=one.series)
            return _not_compared(one, f"they could not be compared ({type(exc).__name__})")


def _not_compared(one: Unexamined, why: str) -> Examined:
    return Examined(id=one.id, finding=Finding.NOT_COMPARED, details=(why,))


def _difference(one: Unexamined, aside: Path, kept: Path) -> Examined:
    """Compare a file that was set aside with the archived instance.

    If only the encoding is known to differ, other attributes than those of patient, study and position are ignored.
    """
    found = compare(kept, aside)
    if found is None:
        return _not_compared(one, "a header cannot be read")
    if found.identity:
        return Examined(id=one.id, finding=Finding.OTHER_IDENTITY, details=found.identity)
    others = found.others if one.reason is QuarantineReason.CONFLICT else ()
    pixels = ("pixels",) if found.has_same_pixels is False else ()
    if details := (*pixels, *found.place, *others):
        return Examined(id=one.id, finding=Finding.OTHER_CONTENT, details=details)
    if found.has_same_pixels is None:
        return _not_compared(one, "pixels cannot be decoded")
    return Examined(id=one.id, finding=Finding.SAME)
