"""One thread that settles series for which no further instance arrives, and has each of them judged.

    receiving ── quiet (``quiet``) ──▶ settled ── judged (``judging``) ──▶ kept, with the reason in one sentence
                                          │                           ──▶ planned: a job
                                          ├── waits for its study (``selection``), where a rule derives one series of it
                                          └── waits for absent parts of a concatenation (``parts``)

To settle a series is to freeze its instances as a revision. Their headers are then read from the archive (``reading``),
and files of the series that were set aside are compared (``examine``). The decision is written into the ledger
(``decisions``). A kill at any moment leaves a row that shows what is to be done next.

No file of this room loads PyTorch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from collections.abc import Set as AbstractSet

from dicomnode import log
from dicomnode.archive.store import Archive
from dicomnode.errors import StorageError
from dicomnode.generators.model_dir import ModelFacts
from dicomnode.ids import SeriesId
from dicomnode.ledger.store import Ledger
from dicomnode.ledger.values import SettledSeries
from dicomnode.seams import SYSTEM_CLOCK, Clock, checkpoint
from dicomnode.settings.models import SettleSettings
from dicomnode.settings.rules import RuleSettings
from dicomnode.settle.decisions import Decisions
from dicomnode.settle.examine import Examiner
from dicomnode.settle.judging import Basis, SeriesJudge
from dicomnode.settle.quiet import Due, QuietWatch
from dicomnode.settle.reading import HeaderReader
from dicomnode.worker_thread import WorkerThread

LOGGER = logging.getLogger(__name__)

SHORTEST_WAIT_S = 0.05  # a series whose time has come this moment may need the next one
PAUSE_S = 10.0  # after the ledger or the disk refused


class Settler:
    """The thread. Started once, stopped once."""

    def __init__(
        self,
        settings: SettleSettings,
        rules: Sequence[RuleSettings],
        ledger: Ledger,
        archive: Archive,
        *,
        model_of: Callable[[str | None], ModelFacts],  # what a rule's ``model`` is now; None: the default model
        open_series: Callable[[], AbstractSet[SeriesId]],  # those that an open association stored into
        planned: Callable[[], None],  # called after a job was made
        enhanced_kept: Collection[str] = (),  # the peers whose Enhanced MR is never processed
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._basis = self._next = Basis(settle=settings, rules=rules, enhanced_kept=frozenset(enhanced_kept))
        self._ledger = ledger
        self._open_series = open_series
        self._thread = WorkerThread(self.turn, name="settle", events="settle", logger=LOGGER, pause_s=PAUSE_S)
        self._watch = QuietWatch(settings, clock)
        self._decisions = Decisions(ledger, clock, planned)
        self._examiner = Examiner(ledger.quarantine, archive, clock, self._thread.stopping)
        self._judge = SeriesJudge(
            ledger, HeaderReader(archive, clock, self._thread.stopping), self._examiner, self._decisions,
            model_of=model_of, clock=clock,
        )  # fmt: skip
        self._unread: dict[SeriesId, str] = {}  # series whose files cannot be read, and the error

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def take(
        self, settings: SettleSettings, rules: Sequence[RuleSettings], enhanced_kept: Collection[str] = ()
    ) -> None:
        """Use these settings from the next turn on."""
        self._next = Basis(settle=settings, rules=rules, enhanced_kept=frozenset(enhanced_kept))
        self._thread.wake()

    def wake(self) -> None:
        """Look into the ledger now: an association has ended, or an operator asked for a new verdict."""
        self._thread.wake()

    def stop(self, limit_s: float) -> None:
        """Stop after the present series. Series that wait for their verdict get it after the next start."""
        self._thread.stop(limit_s)

    def turn(self) -> float:
        """Settle the series that are quiet and judge those that are settled; return the seconds until the next turn."""
        if self._next != self._basis:
            self._basis = self._next
            self._watch.settings = self._basis.settle
            self._decisions.forget_waiting()
        # Open associations are read before the rows. An association that breaks off in between is marked in the rows of
        # its series before it counts as closed, so each of them is seen as open, as aborted or as both, never as quiet.
        open_series = self._open_series()
        due, next_s = self._watch.look(self._ledger.settling.receiving(), open_series)
        for one in due:
            self._settle(one)
        for series in self._ledger.settling.settled():
            if self._thread.is_ending:
                break
            if self._decisions.is_waiting(series, parts_wait_s=self._basis.settle.parts_wait_s):
                continue
            try:
                self._judge.judge(series, self._basis)
            except StorageError as exc:  # of this series' files; the files of the next series may be readable
                self._wait_for_disk(series, exc.sentence)
                next_s = max(next_s, PAUSE_S)
            else:
                self._unread.pop(series.id, None)
        self._decisions.choose(quiet_s=self._basis.settle.study_quiet_s)
        self._examiner.examine_late()
        return max(next_s, SHORTEST_WAIT_S)

    def _settle(self, due: Due) -> None:
        """Freeze the instances as a revision, unless another one has arrived since the rows were read."""
        series = due.series
        seen_at = series.last_at if due.is_quiet else None
        if self._ledger.settling.settle(series.id, series.revision, note=due.note, seen_at=seen_at):
            checkpoint("settle.settled")
            log.event(
                LOGGER, "series_settled", series=series.id, revision=series.revision, instances=series.instances,
                detail=due.note or None,
            )  # fmt: skip

    def _wait_for_disk(self, series: SettledSeries, sentence: str) -> None:
        """Leave the series settled until its files can be read. Log and ledger note it once, not at every turn."""
        if self._unread.get(series.id) != sentence:
            self._unread[series.id] = sentence
            self._ledger.note("judge_failed", table="series", row=series.id, detail=f"{sentence} It is tried again.")
            log.event(LOGGER, "judge_failed", level=logging.ERROR, series=series.id, sentence=sentence)
