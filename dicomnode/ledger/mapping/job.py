"""Rows of table ``job``, and the parameters that were pinned in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dicomnode.derivation import DerivationParameters, GateFigure
from dicomnode.ids import JobId, SeriesId
from dicomnode.ledger.statements import AnyRow
from dicomnode.ledger.states import Event, JobState
from dicomnode.ledger.transaction import LedgerTransaction
from dicomnode.ledger.values import Job, Late, PlannedJob, Priority, Release
from dicomnode.ledger.views import JobLine


def new_job(
    transaction: LedgerTransaction, series_id: SeriesId, revision: int, planned: PlannedJob, *, derivation_number: int
) -> dict[str, object]:
    """A job that was just planned."""
    return {
        "series_id": series_id,
        "revision": revision,
        **transaction.born(JobState.QUEUED, Event.PLAN),
        **planned.parameters.as_columns(),
        "derivation_number": derivation_number,
        "deliver_to": list(planned.deliver_to),
        "verdict": planned.sentence,
        "created_at": transaction.now,
        "queued_at": transaction.now,
        "attempts": 0,
        "lease_token": 0,
        "sentence": "",
        "notes": [],
        "priority": planned.priority,
        "release": planned.release,
        "late": planned.late,
    }


def planned_job(row: AnyRow) -> PlannedJob:
    """Read the parameters pinned when the job was planned. Raises InputError where this version cannot read them."""
    return PlannedJob(
        parameters=DerivationParameters.from_columns(row._asdict()),
        deliver_to=tuple(row.deliver_to),
        sentence=row.verdict,
        priority=Priority(row.priority),
        release=Release(row.release),
        late=Late(row.late),
    )


def claimed_job(row: AnyRow, planned: PlannedJob, output: SeriesId) -> Job:
    """The row as the claim left it; ``output``: the series to fill."""
    return Job(
        id=JobId(row.id),
        series=SeriesId(row.series_id),
        revision=row.revision,
        output_series=output,
        planned=planned,
        derivation_number=row.derivation_number,
        created_at=row.created_at,
        attempts=row.attempts,
        lease_token=row.lease_token,
    )


def job_line(row: AnyRow) -> JobLine:
    """A job as an operator reads it."""
    return JobLine(
        id=row.id,
        state=row.state,
        series=row.series_id,
        revision=row.revision,
        rule=row.rule,
        model=row.model,
        model_digest=row.model_digest,
        ratio=row.ratio,
        parameters=row.parameters,
        derivation_number=row.derivation_number,
        release=row.release,
        output_series=row.output_series_id,
        attempts=row.attempts,
        reason=row.reason,
        sentence=row.sentence,
        created_at=row.created_at,
        finished_at=row.finished_at,
        seconds=row.seconds,
        notes=tuple(row.notes),
    )


def gate_figures(kept: Sequence[Mapping[str, Any]] | None) -> tuple[GateFigure, ...]:
    """Read the figures of the result gate from the job's row; empty where the job is not done or is too old."""
    return tuple(GateFigure(**figure) for figure in kept or ())
