"""Free space for received instances. While the disk is full, peers get a status; no restart is needed afterwards."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable
from enum import StrEnum

from dicomnode import log
from dicomnode.archive.store import Archive
from dicomnode.errors import StorageError
from dicomnode.seams import Clock
from dicomnode.wire import Answer

LOGGER = logging.getLogger(__name__)

# Errors that end when somebody makes room or closes files: the answer asks the peer to try again.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EFBIG})
# The share of the disk for quarantine: a peer that sends other bytes under known UIDs without end must not take the
# room of good images. A tenth of a disk of 1 TB is some 200,000 slices: no mistake that somebody looks at fills it.
ASIDE_SHARE_PERCENT = 10.0
HOLD_S = 10.0  # nothing is accepted for so long after a failure: a quota or a table of open files cannot be measured


class Condition(StrEnum):
    """Reasons for which no instance is accepted at the moment."""

    NO_SPACE = "no_space"
    NOT_WRITABLE = "not_writable"


class Space:
    """Watches the disk of the archive: whether instances can be accepted, and whether more may be set aside."""

    def __init__(
        self, archive: Archive, refuse_free_percent: float, clock: Clock, note: Callable[[str, str], None]
    ) -> None:
        """``note`` records that a condition began or ended, and the measured values in words."""
        self._archive = archive
        self._note = note
        self._refuse_free_percent = refuse_free_percent
        self._clock = clock
        self._lock = threading.Lock()
        self._failed: Condition | None = None
        self._failed_until = 0.0
        self._shown: Condition | None = None
        self._is_aside_full = False
        self._aside_until = 0.0  # when the quarantine is looked at again

    def condition(self) -> Condition | None:
        """Find the condition that prevents accepting now, or None; each change is logged once."""
        try:
            is_below = self._archive.data_folder.free_percent() < self._refuse_free_percent
            found = Condition.NO_SPACE if is_below else None
        except StorageError:
            found = Condition.NOT_WRITABLE
        with self._lock:
            if found is None and self._clock.monotonic() < self._failed_until:
                found = self._failed
            if found is self._shown:
                return found
            previous, self._shown = self._shown, found
        self._say(found, previous)
        return found

    @property
    def is_aside_full(self) -> bool:
        """True if there was no room to set anything aside at the last measurement."""
        return self._is_aside_full

    def has_room_aside(self) -> bool:
        """Tell whether more may be set aside, measured once in ``HOLD_S``. Logs changes. Raises StorageError."""
        with self._lock:
            if self._clock.monotonic() < self._aside_until:
                return not self._is_aside_full
            self._aside_until = self._clock.monotonic() + HOLD_S
            before = self._is_aside_full
            taken = self._archive.quarantine.size_bytes()
            share = self._archive.data_folder.size_bytes() * ASIDE_SHARE_PERCENT / 100
            self._is_aside_full = taken >= share
            is_full = self._is_aside_full
        if is_full and not before:
            log.event(
                LOGGER,
                "quarantine_full",
                level=logging.ERROR,
                archive=str(self._archive.data),
                bytes=taken,
                limit=round(share),
                hint="`dicomnode quarantine list` shows what it is; what was seen may be removed from the folder.",
            )
            self._note(
                "quarantine_full", f"{taken} bytes lie there, {ASIDE_SHARE_PERCENT:g} % of the disk are its share"
            )
        elif before and not is_full:
            log.event(LOGGER, "quarantine_has_room", bytes=taken)
            self._note("quarantine_has_room", f"{taken} bytes lie there")
        return not is_full

    def failed(self, exc: OSError) -> Answer:
        """Return the answer to a peer whose instance could not be written; nothing is accepted for a while."""
        condition = Condition.NO_SPACE if exc.errno in _NO_ROOM else Condition.NOT_WRITABLE
        with self._lock:
            self._failed = condition
            self._failed_until = self._clock.monotonic() + HOLD_S
        log.event(
            LOGGER,
            "instance_not_written",
            level=logging.ERROR,
            reason=condition,
            error=exc.strerror or type(exc).__name__,
            archive=str(self._archive.data),
        )
        self.condition()
        return Answer.NO_RESOURCES if condition is Condition.NO_SPACE else Answer.FAILED

    def _say(self, found: Condition | None, previous: Condition | None) -> None:
        if found is None:
            log.event(LOGGER, "accepting_again", reason=previous)
            self._note("accepting_again", f"after {previous}")
            return
        free, needed = self._free_and_needed()
        log.event(
            LOGGER,
            found,
            level=logging.ERROR,
            archive=str(self._archive.data),
            free_bytes=free,
            needed_bytes=needed,
            hint="Make room, or lower archive.refuse_free_percent; the node goes on by itself."
            if found is Condition.NO_SPACE
            else "Give the node's user write permission, or mount the disk writable.",
        )
        self._note(found, f"{free} bytes are free, {needed} are the mark")

    def _free_and_needed(self) -> tuple[int, int]:
        """Return the free bytes, and the bytes that must be free to accept anything; zeros where the disk fails."""
        try:
            free, percent = self._archive.data_folder.free_bytes(), self._archive.data_folder.free_percent()
        except StorageError:
            return 0, 0
        return free, round(free / percent * self._refuse_free_percent) if percent else 0
