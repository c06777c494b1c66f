"""Records the decision on a series: it is kept, planned as a job, or waits for its study, or for its parts.

A job records everything that decides its result. Each decision is one transaction of the ledger, which changes nothing
where a late instance of the series came meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from dicomnode import log
from dicomnode.ids import JobId, SeriesId
from dicomnode.ledger.store import Ledger
from dicomnode.ledger.values import (
    NOBODY,
    NOT_SELECTED,
    SET_ASIDE,
    WAITS_FOR_PARTS,
    WAITS_FOR_STUDY,
    Forward,
    NotSelected,
    PlannedJob,
    SettledSeries,
)
from dicomnode.seams import Clock, checkpoint
from dicomnode.settle.parts import PartsWatch
from dicomnode.settle.selection import Candidate, StudyWatch

LOGGER = logging.getLogger(__name__)


class Decisions:
    """Writes decisions into ledger and log. Used by one thread."""

    def __init__(self, ledger: Ledger, clock: Clock, planned: Callable[[], None]) -> None:
        """``planned``: called after a job was made."""
        self._ledger = ledger
        self._planned = planned
        self._studies = StudyWatch(clock)
        self._parts = PartsWatch(clock)

    def keep(
        self,
        series: SettledSeries,
        *,
        reason: str,
        sentence: str,
        alert: bool,
        notes: Sequence[str] = (),
        forward: Forward = NOBODY,
    ) -> None:
        """Archive the series and do not process it. ``forward``: who gets it as it was received."""
        if self._ledger.settling.keep(
            series.id, series.revision, reason=reason, sentence=sentence, alert=alert, notes=tuple(notes),
            forward=forward,
        ):  # fmt: skip
            checkpoint("settle.kept")
            log.event(
                LOGGER, "series_kept", level=logging.WARNING if alert or reason == SET_ASIDE else logging.INFO,
                series=series.id, revision=series.revision, reason=reason, sentence=sentence,
            )  # fmt: skip

    def plan(
        self, series: SettledSeries, job: PlannedJob, *, notes: Sequence[str], alert: bool, forward: Forward
    ) -> None:
        """Derive the series by this job. ``forward``: who gets it as it was received."""
        job_id = self._ledger.settling.plan(
            series.id, series.revision, job, notes=notes, alert=alert, forward=forward
        )  # fmt: skip
        if job_id is not None:
            self._log_planned(series.id, series.revision, job, job_id)

    def wait_for_study(self, candidate: Candidate, *, quiet_s: float) -> None:
        """Leave the series settled until its study is quiet. It is recorded once in the life of the service."""
        self._studies.add(candidate)
        detail = (
            f"Rule {candidate.rule} derives one series of each study; it chooses when nothing of the study has come "
            f"for {quiet_s:g} s (settle.study_quiet_s)."
        )
        self._ledger.note(WAITS_FOR_STUDY, table="series", row=candidate.series, detail=detail)
        log.event(
            LOGGER, "series_waits_for_study", series=candidate.series, revision=candidate.revision, rule=candidate.rule
        )

    def wait_for_parts(self, series: SettledSeries, sentence: str, *, wait_s: float) -> bool:
        """Leave the series settled until its parts have come, or so long. False: it has waited before."""
        if not self._parts.begin(series):
            return False
        detail = f"{sentence} Without one it is kept {wait_s:g} s later (settle.parts_wait_s)."
        self._ledger.note(WAITS_FOR_PARTS, table="series", row=series.id, detail=detail)
        log.event(LOGGER, "series_waits_for_parts", series=series.id, revision=series.revision, sentence=detail)
        return True

    def is_waiting(self, series: SettledSeries, *, parts_wait_s: float) -> bool:
        """Does this revision of a series wait for its study, or for its parts?"""
        return self._studies.holds(series) or self._parts.holds(series, wait_s=parts_wait_s)

    def forget_waiting(self) -> None:
        """Let every series that waits for its study be judged anew, because the rules have changed."""
        self._studies.forget()

    def choose(self, *, quiet_s: float) -> None:
        """Record the choices, in the studies that are quiet, of the rules that derive one series of a study."""
        if not self._studies.is_waiting:
            return
        settled = self._ledger.settling.settled()
        for choice in list(self._studies.due(settled, self._ledger.settling.of_study, quiet_s=quiet_s)):
            chosen = choice.planned
            others = [
                NotSelected(
                    series=one.series, revision=one.revision, notes=one.notes, alert=one.alert, forward=one.forward,
                    sentence=f"{sentence} `dicomnode series release {one.series}` derives this one, too.",
                )
                for one, sentence in choice.kept
            ]  # fmt: skip
            job, kept = self._ledger.settling.choose(None if chosen is None else chosen.selected, others)
            checkpoint("settle.chosen")
            for one in others:
                if one.series in kept:
                    log.event(
                        LOGGER, "series_kept", series=one.series, revision=one.revision, reason=NOT_SELECTED,
                        sentence=one.sentence,
                    )  # fmt: skip
            if chosen is not None and job is not None:
                self._log_planned(chosen.series, chosen.revision, chosen.planned, job)

    def _log_planned(self, series: SeriesId, revision: int, planned: PlannedJob, job: JobId) -> None:
        checkpoint("settle.planned")
        parameters = planned.parameters
        log.event(
            LOGGER, "series_planned", series=series, revision=revision, job=job, rule=parameters.rule,
            model=parameters.model, model_digest=parameters.model_digest, ratio=parameters.ratio,
            sentence=planned.sentence,
        )  # fmt: skip
        self._planned()
