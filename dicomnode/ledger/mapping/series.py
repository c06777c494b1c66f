"""Rows of table ``series``: series that came, and series that jobs fill."""

from __future__ import annotations

from collections.abc import Sequence

from dicomnode.ids import SeriesId
from dicomnode.ledger.mapping.instance import instance_line
from dicomnode.ledger.schema import DERIVED, RECEIVED
from dicomnode.ledger.statements import AnyRow
from dicomnode.ledger.states import Event, SeriesState
from dicomnode.ledger.transaction import LedgerTransaction
from dicomnode.ledger.values import NOT_SELECTED, OWN_OUTPUT, PULLED, ReceivingSeries, SettledSeries
from dicomnode.ledger.views import DeliveryLine, JobLine, SeriesDetail, SeriesLine


def new_received_series(transaction: LedgerTransaction, series_uid: str, study_uid: str | None) -> dict[str, object]:
    """Return the row of a new series, whose instances a scanner will send under this UID."""
    return {
        **_new_series(transaction, RECEIVED, SeriesState.RECEIVING, "number"),
        "series_uid": series_uid,
        "study_uid": study_uid,
        "sentence": "",
    }


def new_derived_series(transaction: LedgerTransaction, source: SeriesId) -> dict[str, object]:
    """Return the row of the series that a job will fill."""
    return {
        **_new_series(transaction, DERIVED, SeriesState.KEPT, OWN_OUTPUT),
        "reason": OWN_OUTPUT,
        "sentence": f"This series was made by this node from series {source}; it is kept and never processed again.",
    }


def _new_series(transaction: LedgerTransaction, origin: str, state: SeriesState, cause: str) -> dict[str, object]:
    return {
        "origin": origin,
        "revision": 1,
        **transaction.born(state, cause),
        "created_at": transaction.now,
        "aborted": False,
        "notes": [],
        "alert": False,
    }


def receiving_series(row: AnyRow) -> ReceivingSeries:
    """Map a row that has ``instances``, the number of instances, beside the columns of the series."""
    return ReceivingSeries(
        id=SeriesId(row.id),
        revision=row.revision,
        instances=row.instances,
        first_at=row.first_at,
        last_at=row.last_at,
        aborted=row.aborted,
    )


def settled_series(row: AnyRow) -> SettledSeries:
    """A series that waits for its verdict."""
    return SettledSeries(
        id=SeriesId(row.id),
        revision=row.revision,
        is_pulled=bool(row.pulled),
        study_uid=row.study_uid,
        is_wanted=(row.state_cause, row.state_detail) == (Event.RELEASE, NOT_SELECTED),
    )


def series_line(row: AnyRow) -> SeriesLine:
    """Map a row that has ``alarms``, ``instances``, ``source``, ``job`` and ``job_state`` beside the columns."""
    return SeriesLine(
        id=row.id,
        state=row.state,
        revision=row.revision,
        reason=row.reason,
        instances=row.instances,
        alert=row.alarms,
        origin=PULLED if row.pulled else row.origin,
        source=row.source,
        job=row.job,
        job_state=row.job_state,
        last_at=row.last_at,
    )


def series_detail(
    row: AnyRow,
    files: Sequence[AnyRow],
    jobs: tuple[JobLine, ...],
    deliveries: tuple[DeliveryLine, ...],
    *,
    identify: bool,
) -> SeriesDetail:
    """Map a row that has ``alarms`` and ``source`` beside the columns; ``files`` are the rows of its instances."""
    return SeriesDetail(
        id=row.id,
        state=row.state,
        revision=row.revision,
        reason=row.reason,
        sentence=row.sentence,
        notes=tuple(row.notes),
        alert=row.alarms,
        aborted=row.aborted,
        origin=PULLED if row.pulled else row.origin,
        source=row.source,
        series_uid=row.series_uid if identify else None,
        created_at=row.created_at,
        first_at=row.first_at,
        last_at=row.last_at,
        instances=len(files),
        size_bytes=sum(file.size_bytes for file in files),
        peers=tuple(sorted({file.peer for file in files if file.peer is not None})),
        jobs=jobs,
        deliveries=deliveries,
        files=tuple(instance_line(file, identify=identify) for file in files),
    )
