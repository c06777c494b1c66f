"""A held delivery whose series is derived anew under the patient whom the peer has (docs/decisions/0013).

In: the delivery, and the file that holds the peer's answer. Out: the job that pins this file by its digest, and the old
result given up: what had not begun is cancelled for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import Connection, exists, select

from dicomnode.derivation import utc_offset_min
from dicomnode.errors import InputError
from dicomnode.ids import DeliveryId, JobId, SeriesId
from dicomnode.ledger import jobs, quarantine, removed
from dicomnode.ledger.deliveries import PART_IS_THERE, REFRESHED
from dicomnode.ledger.delivery_commands import refuse_outdated, row_for_operator, state_in_words
from dicomnode.ledger.mapping.job import planned_job
from dicomnode.ledger.schema import delivery, delivery_item, instance, job, series
from dicomnode.ledger.schema import quarantine as set_aside
from dicomnode.ledger.statements import AnyRow, bind_values, bound, moving, stands
from dicomnode.ledger.states import LIVE_JOB_STATES, DeliveryState, Event, SeriesState
from dicomnode.ledger.transaction import LedgerTransaction
from dicomnode.ledger.values import QuarantinedFile, QuarantineReason

EVENT: Final = "refreshed"  # event of a delivery: a person had its series derived anew under the peer's patient


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshable:
    """A delivery whose series may be derived anew under the patient of its peer."""

    peer: str
    series: SeriesId  # the received one
    file: str  # the first of the delivery's files, as a path below the archive folder


_FILE = (
    select(instance.c.file)
    .join_from(delivery_item, instance)
    .where(delivery_item.c.delivery_id == bound("delivery"))
    .order_by(delivery_item.c.id)
    .limit(1)
)
_HAS_PART = select(exists().where(delivery.c.id == bound("delivery"), PART_IS_THERE))
_SERIES = select(
    series.c.state,
    series.c.revision,
    exists().where(job.c.series_id == series.c.id, stands(job, *LIVE_JOB_STATES)).label("has_live_job"),
).where(series.c.id == bound("series"))
_JOB = select(job).where(job.c.id == bound("job"))
_NOT_BEGUN = (delivery.c.job_id == bound("job"), ~PART_IS_THERE)
_PEERS = (
    select(delivery.c.peer)
    .where(*_NOT_BEGUN, stands(delivery, DeliveryState.DUE, DeliveryState.HELD))
    .order_by(delivery.c.id)
)
_GIVE_UP = moving(delivery, Event.SUPERSEDE).where(*_NOT_BEGUN).values(reason=REFRESHED, sentence=bound("sentence"))
_FILE_OF = select(set_aside.c.file).where(
    set_aside.c.series_id == bound("series"),
    set_aside.c.sha256 == bound("sha256"),
    set_aside.c.reason == QuarantineReason.PATIENT,
    set_aside.c.removed_at.is_(None),
)


def wanted(connection: Connection, delivery_id: DeliveryId) -> Refreshable:
    """Return the peer to ask, and a file of the study. Raises InputError where the delivery does not allow it."""
    row = row_for_operator(connection, delivery_id)
    if row.job_id is None:
        raise InputError(
            f"Delivery {delivery_id} brings images as they were received, which are never changed; nothing was changed."
        )
    if row.state != DeliveryState.HELD:
        raise InputError(f"Delivery {delivery_id} is {state_in_words(row)}; only a held one can be refreshed.")
    if connection.execute(_HAS_PART, bind_values(delivery=delivery_id)).scalar_one():
        raise InputError(f"{row.peer} has a part of delivery {delivery_id} already; nothing was changed.")
    refuse_outdated(connection, row)
    removed.refuse_without_files(connection, row.series_id)
    removed.refuse_delivery_without_files(connection, delivery_id)
    _refuse_busy(connection, row)
    file = connection.execute(_FILE, bind_values(delivery=delivery_id)).scalar_one()
    return Refreshable(peer=row.peer, series=SeriesId(row.series_id), file=file)


def _refuse_busy(connection: Connection, row: AnyRow) -> None:
    found = connection.execute(_SERIES, bind_values(series=row.series_id)).one()
    if found.state != SeriesState.PLANNED or found.revision != row.revision:
        raise InputError(
            f"Series {row.series_id} is being received or judged anew; nothing was changed.",
            hint=f"`dicomnode series explain {row.series_id}` shows where it stands.",
        )
    if found.has_live_job:
        raise InputError(
            f"A job of series {row.series_id} waits or runs already; nothing was changed.",
            hint=f"`dicomnode series explain {row.series_id}` shows which; its result has a delivery of its own.",
        )


def begin(transaction: LedgerTransaction, delivery_id: DeliveryId, answer: QuarantinedFile, note: str) -> JobId:
    """Plan the job, and give up deliveries of the old result that have not begun.

    The job delivers to the peers to which nothing of the old result has gone. Raises InputError as ``wanted`` does;
    then nothing changes.
    """
    connection = transaction.connection
    found = wanted(connection, delivery_id)
    row = row_for_operator(connection, delivery_id)
    peers: Sequence[str] = connection.execute(_PEERS, bind_values(job=row.job_id)).scalars().all()
    old = planned_job(connection.execute(_JOB, bind_values(job=row.job_id)).one())
    quarantine.see(transaction, [quarantine.record(transaction, answer)])
    parameters = replace(old.parameters, patient=answer.sha256, utc_offset_min=utc_offset_min(transaction.now))
    planned = replace(old, parameters=parameters, deliver_to=tuple(peers))
    made = jobs.plan(transaction, found.series, row.revision, planned)
    sentence = f"Job {made} derives the series anew under the patient whom {row.peer} names; this result is never sent."
    transaction.move(_GIVE_UP, f"job {made} derives it anew", job=row.job_id, sentence=sentence)
    transaction.note(
        EVENT, table=delivery.name, row=delivery_id, detail=f"job {made}: {note}" if note else f"job {made}"
    )
    return made


def file_of(connection: Connection, series_id: SeriesId, sha256: str) -> str | None:
    """Return the name, below the quarantine folder, of the file that a job of the series pins."""
    return connection.execute(_FILE_OF, bind_values(series=series_id, sha256=sha256)).scalars().first()
