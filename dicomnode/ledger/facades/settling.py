"""The part of the ledger that the settling worker uses: the steps of a series until its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from dicomnode.ids import JobId, SeriesId
from dicomnode.ledger import judgements, verdicts
from dicomnode.ledger.access import Access
from dicomnode.ledger.judgements import Judgement
from dicomnode.ledger.values import (
    NOBODY,
    ArchivedInstance,
    Forward,
    NotSelected,
    PlannedJob,
    ReceivingSeries,
    Selected,
    SettledSeries,
    StudySeries,
)


class Settling:
    """The settling worker reads here which series are due, and records their verdicts."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def receiving(self) -> list[ReceivingSeries]:
        """List the series whose instances still come."""
        with self._access.reading() as connection:
            return verdicts.receiving(connection)

    def settle(self, series: SeriesId, revision: int, *, note: str, seen_at: datetime | None = None) -> bool:
        """Freeze a quiet series; with ``seen_at`` only if its ``last_at`` is still the one that was judged quiet."""
        with self._access.writing("settle") as transaction:
            return verdicts.settle(transaction, series, revision, note=note, seen_at=seen_at)

    def settled(self) -> list[SettledSeries]:
        """List the series that wait for a verdict."""
        with self._access.reading() as connection:
            return verdicts.settled(connection)

    def instances_of(self, series: SeriesId, revision: int) -> list[ArchivedInstance]:
        """List the instances of one revision."""
        with self._access.reading() as connection:
            return verdicts.instances_of(connection, series, revision)

    def series_beside(self, series: SeriesId, *, within_s: float, limit: int) -> list[str]:
        """List one file of each other received series that began within so many seconds of this one."""
        with self._access.reading() as connection:
            return verdicts.series_beside(connection, series, within_s=within_s, limit=limit)

    def judged(self, series: SeriesId, told: Judgement) -> None:
        """Record the data on the scanner that the verdict on a series yields."""
        with self._access.writing("judged") as transaction:
            judgements.record(transaction, series, told)

    def keep(
        self,
        series: SeriesId,
        revision: int,
        *,
        reason: str,
        sentence: str,
        alert: bool = False,
        notes: Sequence[str] = (),
        forward: Forward = NOBODY,
    ) -> bool:
        """Record the verdict to archive a series and not to process it. ``forward``: who gets it as it was received."""
        with self._access.writing("keep") as transaction:
            return verdicts.keep(
                transaction, series, revision, reason=reason, sentence=sentence, alert=alert, notes=notes,
                forward=forward,
            )  # fmt: skip

    def plan(
        self,
        series: SeriesId,
        revision: int,
        planned: PlannedJob,
        *,
        notes: Sequence[str] = (),
        alert: bool = False,
        forward: Forward = NOBODY,
    ) -> JobId | None:
        """Record the verdict to derive a series by a job. ``forward``: who gets it as it was received."""
        with self._access.writing("plan") as transaction:
            return verdicts.plan(transaction, series, revision, planned, notes=notes, alert=alert, forward=forward)

    def of_study(self, study_uid: str) -> list[StudySeries]:
        """List the series of a study of which instances came."""
        with self._access.reading() as connection:
            return verdicts.of_study(connection, study_uid)

    def choose(self, chosen: Selected | None, others: Sequence[NotSelected]) -> tuple[JobId | None, list[SeriesId]]:
        """Record the choice of a rule in a study: the job of the chosen series, and which of the others are kept.

        ``chosen``: None where it was chosen before. Nothing is written where a late instance of it came meanwhile.
        """
        with self._access.writing("choose") as transaction:
            return verdicts.choose(transaction, chosen, others)
