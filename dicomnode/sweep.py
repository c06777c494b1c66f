"""Bring files and rows together after the last service ended, however it ended, without keeping anyone waiting.

A crash leaves temporary files, and whole files whose row was never written or stands in quarantine already; a person
who removes files by hand leaves rows without a file. None of them is in the way of new instances: own ids are random,
so nothing new ever gets the name of something old. So the node soon begins to receive; only quick work comes before:

    before READY   unpublished output of jobs; the folders that changed since the last clean stop, for a second
    at first use   a folder before this process first writes into it, whoever writes (``Archive.before_first_write``)
    after READY    every other folder, the newest first, in small pieces with long pauses; quarantine without rows

No folder is checked once this process has begun to write into it, so a file without a row is always one that an
earlier process left, whatever the clocks say: a file that is being received now is never taken for an orphan. A ledger
put back from an older copy gives numbers a second time whose folders hold files: these are set aside before the first
new file is written beside them. The list of checked folders is kept in memory only: a start begins anew.

A large ledger is checked for damage here too, before the rest and in the first quiet moment: a service that finds
damage stops.

Once a day the calendar calls ``look_again``, which moves nothing to quarantine: it looks for rows whose file is gone,
and removes files whose rows say that they are removed. Files without a row are left to the next start, since in a
running node their rows may be about to be written.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from dicomnode import leftovers, log
from dicomnode.archive.store import Archive
from dicomnode.errors import LedgerError, NodeError, StorageError
from dicomnode.imaging.headers import InstanceHeader, read_header_or_reason
from dicomnode.ledger.engine import CheckStoppedError, LedgerBusyError
from dicomnode.ledger.store import Ledger
from dicomnode.ledger.values import BootReport, Examined, Finding, QuarantinedFile, QuarantineReason
from dicomnode.own_output import is_made_here
from dicomnode.seams import SYSTEM_CLOCK, Clock, checkpoint

LOGGER = logging.getLogger(__name__)

BEFORE_READY_S = 1.0  # for folders that changed since the last clean stop; the rest of them follow after the start
PIECE_S = 0.02  # of work, then a pause
PAUSE_SHARE = 9.0  # a pause is so many times as long as the piece: a tenth of one processor
BUSY_PAUSE_SHARE = 49.0  # while an association is open: a fiftieth, since its instances need disk and processor too
PAUSE_LIMIT_S = 5.0  # a piece that took long because the process itself was held must not hold up all that follows
QUARANTINE_PIECE = 50  # files of the quarantine that are given a row in one transaction
RETRY_S = 10.0  # after the ledger was locked, or the disk full
QUIET_S = 10.0  # without an association, before the ledger is checked: after a start, senders send what they kept
QUIET_LIMIT_S = 600.0  # a node that is never quiet has its ledger checked all the same
QUIET_LOOK_S = 0.5
CHECK_NICENESS = 19  # the check is one long call into SQLite, which holds no lock of Python's meanwhile
CHECK_POLL_S = 0.1


class Sweep:
    """Looks through an archive while a service lives. ``look_through`` may be called from any thread."""

    def __init__(
        self,
        archive: Archive,
        ledger: Ledger,
        boot: BootReport,
        *,
        damaged: Callable[[LedgerError], None],  # called once when the check finds damage
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._archive = archive
        self._ledger = ledger
        self._boot = boot
        self._damaged = damaged
        self._clock = clock
        self._turn = threading.Lock()
        self._done: set[str] = set()
        self._swept = self._orphans = 0
        self._missing = _Missing()
        self._moved: list[leftovers.Orphan] = []  # files moved to quarantine, and still without a row there
        self._quarantined: list[str] = []  # names that were there before this process wrote any
        self._is_busy: Callable[[], bool] = lambda: False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweep")
        self._check = threading.Thread(target=self._check_ledger, name="ledger-check")
        self._is_sound = boot.is_checked  # the ledger is sound: only then does a file without a row mean anything

    def begin(self) -> None:
        """Do what must be done before the node listens. Raises StorageError if the data folder cannot be used."""
        began_s = self._clock.monotonic()
        try:
            self._swept += leftovers.remove_unpublished(self._archive)
            self._quarantined = self._archive.quarantine.names()
            names = _newest_first(self._archive.folder_names())
            self._archive.before_first_write = self.look_through
            for name in names:
                if leftovers.has_changed_since(self._archive, name, self._boot.last_clean_stop):
                    self._look_or_leave(name)
                if self._clock.monotonic() - began_s > BEFORE_READY_S:
                    break
            self._give_series_to_quarantined(until_s=began_s + BEFORE_READY_S)
        except OSError as exc:
            raise StorageError(
                f"The archive {self._archive.root} could not be swept: {exc.strerror}; the node did not start.",
                hint="Check that the node's user owns every file of the data folder and that the disk is sound.",
            ) from exc
        log.event(
            LOGGER, "swept", boot=self._boot.boot, state="clean" if self._boot.ended_cleanly else "killed",
            returned=self._boot.returned_jobs + self._boot.returned_deliveries, count=len(self._done),
            swept=self._swept, orphans=self._orphans, seconds=self._clock.monotonic() - began_s,
        )  # fmt: skip

    def start(self, is_busy: Callable[[], bool] = lambda: False) -> None:
        """Begin the work that follows the start. ``is_busy`` tells whether an association is open."""
        self._is_busy = is_busy
        self._thread.start()

    def look_again(self) -> None:
        """Begin to look for files that were removed since, unless a look still goes on."""
        if not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run_again, name="sweep")
            self._thread.start()

    def stop(self, limit_s: float) -> None:
        """Stop between two folders; the next start begins anew."""
        self._stopping.set()
        until_s = self._clock.monotonic() + limit_s
        while self._thread.is_alive() and self._clock.monotonic() < until_s:
            self._ledger.stop_check()  # again and again: an interrupt before the check began would be lost
            self._thread.join(CHECK_POLL_S)

    def look_through(self, name: str) -> None:
        """Bring files and rows of one folder together, once in this process's life and before its first write there.

        A file that cannot be moved or removed is left where it is, and logged. Raises OSError where the folder cannot
        be listed, LedgerError where the ledger cannot be read: then nothing may be written into the folder.
        """
        if name in self._done:
            return
        with self._turn:
            if name in self._done:
                return
            report = leftovers.sweep_folder(
                self._archive,
                name,
                self._ledger.upkeep.files_in(name),
                self._ledger.quarantine.files_in(name),
                self._ledger.removals.files_in(name),
            )
            self._moved += report.orphans
            checkpoint("sweep.set_aside")
            self._record(self._moved)
            self._moved.clear()
            for sentence in report.failures:
                log.event(LOGGER, "sweep_failed", level=logging.WARNING, sentence=sentence)
            self._swept += report.swept
            self._missing.add(self._still_wanted(name, report.missing))
            self._done.add(name)

    def _still_wanted(self, name: str, missing: Sequence[str]) -> list[str]:
        """Leave out what was removed on purpose since the rows of the folder were read."""
        return sorted(self._ledger.upkeep.files_in(name).intersection(missing)) if missing else []

    def _run(self) -> None:
        """Border: if the sweep fails, the node goes on with everything else."""
        began_s = self._clock.monotonic()
        try:
            if not self._is_sound:
                self._wait_for_quiet()
                if self._stopping.is_set():
                    return
                self._check.start()
                self._check.join()
            if not self._is_sound:  # damaged, not readable, or stopped: each was reported already
                return
            self._finish_removal_aside()
            self._give_rows_to_quarantined()
            names = {str(number) for number in self._ledger.upkeep.series_numbers()} | set(self._archive.folder_names())
            log.event(LOGGER, "archive_sweep_begun", count=len(names - self._done))
            self._give_series_to_quarantined()
            for name in self._in_pieces(_newest_first(names - self._done)):
                self._look_or_leave(name)
            self._give_series_to_quarantined()
        except NodeError as exc:
            log.event(LOGGER, "sweep_failed", level=logging.ERROR, code=exc.code, sentence=exc.sentence)
        except Exception:  # noqa: BLE001 (border: sweep thread)
            log.failure(LOGGER, "sweep_failed")
        else:
            if not self._stopping.is_set():
                self._say_the_end(self._clock.monotonic() - began_s)

    def _run_again(self) -> None:
        """Border: if the daily look fails, the node goes on with everything else."""
        began_s = self._clock.monotonic()
        missing = _Missing()
        try:
            self._finish_removal_aside()
            self._give_series_to_quarantined()
            names = _newest_first(map(str, self._ledger.upkeep.series_numbers()))
            for name in self._in_pieces(names):
                try:
                    if removed := self._ledger.removals.files_in(name):
                        leftovers.finish_removal(self._archive, name, removed)
                    lacking = leftovers.missing_files(self._archive, name, self._ledger.upkeep.files_in(name))
                    missing.add(self._still_wanted(name, lacking))
                except StorageError as exc:
                    log.event(LOGGER, "sweep_failed", level=logging.WARNING, sentence=exc.sentence)
        except NodeError as exc:
            log.event(LOGGER, "sweep_failed", level=logging.ERROR, code=exc.code, sentence=exc.sentence)
        except Exception:  # noqa: BLE001 (border: sweep thread)
            log.failure(LOGGER, "sweep_failed")
        else:
            if not self._stopping.is_set():
                log.event(LOGGER, "archive_checked", count=len(names), seconds=self._clock.monotonic() - began_s)
                missing.tell()

    def _wait_for_quiet(self) -> None:
        """Wait until no association was open for a while: the check reads all of the ledger, which slows receiving."""
        began_s = quiet_from_s = self._clock.monotonic()
        while not self._stopping.wait(QUIET_LOOK_S):
            now_s = self._clock.monotonic()
            if self._is_busy():
                quiet_from_s = now_s
            if now_s - quiet_from_s >= QUIET_S or now_s - began_s >= QUIET_LIMIT_S:
                return

    def _check_ledger(self) -> None:
        """Check the ledger in a thread of its own, whose low priority cannot be raised again."""
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), CHECK_NICENESS)
        try:
            self._ledger.check()
            self._is_sound = True
        except CheckStoppedError:
            return
        except LedgerBusyError as exc:  # a fault of the disk or a lock, which proves no damage
            log.event(LOGGER, "sweep_failed", level=logging.ERROR, code=exc.code, sentence=exc.sentence)
        except LedgerError as exc:
            self._damaged(exc)

    def _look_or_leave(self, name: str) -> None:
        """Check one folder. If that fails it is left, so that the others are checked all the same."""
        try:
            self._persist(lambda: self.look_through(name))
        except OSError as exc:
            sentence = f"The folder {self._archive.root / name} could not be looked through: {exc.strerror}."
            log.event(LOGGER, "sweep_failed", level=logging.WARNING, sentence=sentence)

    def _persist(self, act: Callable[[], None]) -> None:
        """Do an act, and repeat it while the ledger is locked or its disk is full."""
        while True:
            try:
                act()
            except LedgerBusyError as exc:
                log.event(LOGGER, "sweep_paused", level=logging.WARNING, code=exc.code, sentence=exc.sentence)
                if self._stopping.wait(RETRY_S):
                    return
            else:
                return

    def _in_pieces(self, names: Sequence[str]) -> Iterator[str]:
        """Yield the names one by one, with a pause after each piece of work, until the end or a stop of the service."""
        piece_began_s = self._clock.monotonic()
        for name in names:
            if self._stopping.is_set():
                return
            yield name
            spent_s = self._clock.monotonic() - piece_began_s
            if spent_s > PIECE_S:
                checkpoint("sweep.piece")
                share = BUSY_PAUSE_SHARE if self._is_busy() else PAUSE_SHARE
                self._stopping.wait(min(share * spent_s, PAUSE_LIMIT_S))
                piece_began_s = self._clock.monotonic()

    def _finish_removal_aside(self) -> None:
        """Remove files of the quarantine that a command had marked as removed when it was killed."""
        if left := self._ledger.removals.files_aside().intersection(self._archive.quarantine.names()):
            self._archive.quarantine.remove(left)

    def _give_rows_to_quarantined(self) -> None:
        """Give rows to files in quarantine whose process was killed before it could write them."""
        unknown = sorted(set(self._quarantined) - self._ledger.quarantine.files())
        for start in range(0, len(unknown), QUARANTINE_PIECE):
            if self._stopping.is_set():
                return
            found = []
            for name in unknown[start : start + QUARANTINE_PIECE]:
                try:
                    found.append(leftovers.quarantined_orphan(self._archive, name))
                except (OSError, StorageError) as exc:
                    sentence = exc.sentence if isinstance(exc, StorageError) else f"{name}: {exc.strerror}."
                    log.event(LOGGER, "sweep_failed", level=logging.WARNING, sentence=sentence)
            self._persist(lambda: self._record(found))  # noqa: B023 (called at once)

    def _give_series_to_quarantined(self, *, until_s: float = math.inf) -> None:
        """Record for each file without a series which series its header names; that series lacks the file."""
        for row, name, reason in self._ledger.quarantine.without_series():
            if self._stopping.is_set() or self._clock.monotonic() > until_s:
                return
            path = self._archive.quarantine.path(name)
            header = read_header_or_reason(path) if path.is_file() else None
            finding = Finding.NOT_STORED if reason is QuarantineReason.ORPHAN else Finding.NOT_COMPARED
            series = None
            if isinstance(header, InstanceHeader) and is_made_here(header.makers):
                finding = Finding.SAME  # left by a job, which makes it again
            elif isinstance(header, InstanceHeader):
                series = self._ledger.intake.find_series(header.series_uid)
            self._ledger.quarantine.belong(row, series, Examined(id=row, finding=finding))

    def _record(self, orphans: Sequence[leftovers.Orphan]) -> None:
        if orphans:
            self._ledger.quarantine.record_orphans(
                [
                    QuarantinedFile(
                        file=orphan.file,
                        reason=QuarantineReason.ORPHAN,
                        sha256=orphan.sha256,
                        peer=orphan.peer,
                        instance=None,
                        kept_sha256=None,
                    )
                    for orphan in orphans
                ]
            )
            checkpoint("sweep.recorded")
            self._orphans += len(orphans)

    def _say_the_end(self, seconds: float) -> None:
        log.event(
            LOGGER, "archive_swept", count=len(self._done), swept=self._swept, orphans=self._orphans, seconds=seconds
        )
        self._missing.tell()


@dataclass
class _Missing:
    """Rows without a file. A job that needs one of the files is held and names it; a series not judged yet is kept."""

    count: int = 0
    first: str = ""

    def add(self, files: Sequence[str]) -> None:
        self.count += len(files)
        self.first = self.first or next(iter(files), "")

    def tell(self) -> None:
        if self.count:
            log.event(
                LOGGER, "files_missing", level=logging.ERROR, count=self.count, detail=self.first,
                hint="Files of the archive were removed by hand: restore them, or have their series sent again.",
            )  # fmt: skip


def _newest_first(names: Iterable[str]) -> list[str]:
    """Sort folder names by series number, the highest first; other names come last."""
    return sorted(names, key=lambda name: (name.isdecimal(), int(name) if name.isdecimal() else 0), reverse=True)
