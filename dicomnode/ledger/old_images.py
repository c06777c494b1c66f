"""The rules by which old images leave the disk.

In: a moment before which everything of a series must have ended. Out: the series that may go, those that are old enough
and stay, and why; the marks on the rows of what goes.

A received series and everything that was derived from it go together, once all of this holds.

1. Its last instance, its verdict, its jobs, its deliveries and their proofs are older than the given moment. What the
   PACS took only yesterday, after an outage of weeks, therefore does not go today.
2. It has its verdict, and no person has to look at that.
3. None of its jobs waits, runs, is held or failed: whoever mends the cause needs the images.
4. Each of its deliveries is sent, or cancelled. A delivery that is sent has the proof that its peer can give: none that
   was asked to commit has still to answer. The acknowledgements alone are proof only where no better one can be had.
5. What was derived has gone to a peer, or a person cancelled its delivery or rejected the result, or its rule says
   shadow. A result that no rule delivers is nowhere else, so its series stays.
6. No file that was set aside of it, or because of one of its instances, waits for a comparison or for a person.

A series that was kept has nothing to deliver: the sender has the original, and the verdict said so. A shadow result is
derived to be measured: its figures stay in the row of its job, and its images have the term of their series, from the
end of the job. If the series itself is forwarded, the fourth condition holds for it as for any other.

A file that was set aside goes once a person has seen it and that is older than the given moment. One that nobody has
seen, or that is still to be compared, never goes. A peer's answer that names a patient stays while a job of its series
waits, runs, is held or failed: the job pins it, and cannot go on without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import ColumnElement, Connection, and_, case, exists, func, null, or_, select

from dicomnode.ids import SeriesId
from dicomnode.ledger import quarantine as set_aside
from dicomnode.ledger.deliveries import COMPARED
from dicomnode.ledger.removed import Removed, derived_from, files_of, mark, mark_aside
from dicomnode.ledger.schema import RECEIVED, commitment, delivery, instance, job, quarantine, series
from dicomnode.ledger.statements import bind_values, bound, stands
from dicomnode.ledger.states import NOT_ACCEPTED, OPERATOR, CommitmentState, DeliveryState, JobState, SeriesState
from dicomnode.ledger.transaction import LedgerTransaction
from dicomnode.ledger.values import QuarantineReason, Release

REMOVED: Final = "removed"  # event: files of the row were removed because of their age

PIECE: Final = 200  # series that one question looks at


class Stays(StrEnum):
    """Reasons for which a series stays although it is old enough."""

    ALERT = "alert"  # of its verdict, which nobody has looked at
    JOB = "job"
    DELIVERY = "delivery"
    UNDELIVERED = "undelivered"
    SET_ASIDE = "set_aside"


@dataclass(frozen=True, slots=True, kw_only=True)
class OldSeries:
    """A received series that is old enough, with files in the archive."""

    id: SeriesId
    last_at: datetime  # its last instance
    stays: Stays | None  # None: it may go
    derived: tuple[SeriesId, ...]  # which go with it
    instances: int  # of all of these, with files
    size_bytes: int


_later = job.alias("later")
_beside = instance.alias("beside")
_JOBS_OF = (job.c.series_id == series.c.id,)
_DELIVERIES_OF = (delivery.c.series_id == series.c.id,)  # of results, and of the series as it was received
_BEFORE = bound("before", series.c.last_at.type)
_HAS_FILES = (
    select(func.count()).where(instance.c.series_id == series.c.id).scalar_subquery()
    > select(func.count())
    .where(instance.c.series_id == series.c.id, instance.c.removed_at.is_not(None))
    .scalar_subquery()
)
_IS_OLD = and_(
    series.c.origin == RECEIVED,
    stands(series, SeriesState.KEPT, SeriesState.PLANNED),
    series.c.last_at < _BEFORE,
    series.c.state_at < _BEFORE,
    ~exists().where(*_JOBS_OF, job.c.state_at >= _BEFORE),
    ~exists().where(*_DELIVERIES_OF, delivery.c.state_at >= _BEFORE),
    ~exists().where(*_DELIVERIES_OF, commitment.c.delivery_id == delivery.c.id, commitment.c.state_at >= _BEFORE),
    _HAS_FILES,
)
_IS_LIVE = stands(job, JobState.QUEUED, JobState.RUNNING, JobState.HELD, JobState.FAILED)
_HAS_LIVE_JOB = exists().where(*_JOBS_OF, _IS_LIVE)
_HAS_OPEN_DELIVERY = or_(
    exists().where(*_DELIVERIES_OF, stands(delivery, DeliveryState.DUE, DeliveryState.SENDING, DeliveryState.HELD)),
    exists().where(
        *_DELIVERIES_OF,
        commitment.c.delivery_id == delivery.c.id,
        stands(delivery, DeliveryState.SENT),
        stands(commitment, CommitmentState.WANTED, CommitmentState.ASKED),
    ),
)
_HAS_UNDELIVERED_RESULT = and_(
    stands(series, SeriesState.PLANNED),
    exists().where(
        *_JOBS_OF,
        stands(job, JobState.DONE),
        job.c.release != Release.SHADOW,
        ~exists().where(_later.c.series_id == job.c.series_id, _later.c.id > job.c.id, stands(_later, JobState.DONE)),
        ~exists().where(
            delivery.c.job_id == job.c.id,
            or_(
                stands(delivery, DeliveryState.SENT),
                and_(stands(delivery, DeliveryState.CANCELLED), delivery.c.reason.in_((OPERATOR, NOT_ACCEPTED))),
            ),
        ),
    ),
)
_IS_OPEN_QUARANTINE = or_(set_aside.IS_ALERT, and_(COMPARED, quarantine.c.finding.is_(None)))
_HAS_OPEN_QUARANTINE = or_(
    exists().where(quarantine.c.series_id == series.c.id, _IS_OPEN_QUARANTINE),
    exists().where(_beside.c.series_id == series.c.id, quarantine.c.instance_id == _beside.c.id, _IS_OPEN_QUARANTINE),
)
_STAYS: Final[ColumnElement[str | None]] = case(
    (series.c.alert, Stays.ALERT),
    (_HAS_LIVE_JOB, Stays.JOB),
    (_HAS_OPEN_DELIVERY, Stays.DELIVERY),
    (_HAS_UNDELIVERED_RESULT, Stays.UNDELIVERED),
    (_HAS_OPEN_QUARANTINE, Stays.SET_ASIDE),
    else_=null(),
)
_OLD = select(series.c.id, series.c.last_at, _STAYS.label("stays")).where(_IS_OLD)
_OLD_BEHIND = _OLD.where(series.c.id > bound("after")).order_by(series.c.id).limit(bound("piece"))
_OLD_ONE = _OLD.where(series.c.id == bound("series"))
_IS_OLD_ASIDE = and_(
    quarantine.c.removed_at.is_(None),
    quarantine.c.seen_at < _BEFORE,
    or_(~COMPARED, quarantine.c.finding.is_not(None)),
    ~and_(
        quarantine.c.reason == QuarantineReason.PATIENT,
        exists().where(job.c.series_id == quarantine.c.series_id, _IS_LIVE),
    ),
)
_OLD_ASIDE = (
    select(quarantine.c.id, quarantine.c.file).where(_IS_OLD_ASIDE).order_by(quarantine.c.id).limit(bound("piece"))
)
_OLD_ASIDE_NUMBER = select(func.count()).where(_IS_OLD_ASIDE)


def old_series(connection: Connection, before: datetime, after: int) -> tuple[list[OldSeries], int | None]:
    """List the series of the piece behind ``after`` that are old enough, and the last of them. None: the end."""
    found = connection.execute(_OLD_BEHIND, bind_values(before=before, after=after, piece=PIECE)).all()
    lines = []
    for row in found:
        derived = derived_from(connection, row.id)
        there = [one for one in files_of(connection, row.id, derived) if one.removed_at is None]
        lines.append(
            OldSeries(
                id=SeriesId(row.id),
                last_at=row.last_at,
                stays=None if row.stays is None else Stays(row.stays),
                derived=derived,
                instances=len(there),
                size_bytes=sum(one.size_bytes for one in there),
            )
        )
    return lines, found[-1].id if found else None


def all_old_series(connection: Connection, before: datetime) -> list[OldSeries]:
    """List all series that are old enough, those too that stay all the same; the oldest first."""
    found: list[OldSeries] = []
    after: int | None = 0
    while after is not None:
        piece, after = old_series(connection, before, after)
        found += piece
    return found


def remove_old(transaction: LedgerTransaction, series_id: SeriesId, before: datetime) -> Removed | None:
    """Mark the images of a series, and of the series derived from it. None: it may not go, or not any more."""
    row = transaction.connection.execute(_OLD_ONE, bind_values(series=series_id, before=before)).one_or_none()
    if row is None or row.stays is not None:
        return None
    derived = derived_from(transaction.connection, series_id)
    files = [one.file for one in files_of(transaction.connection, series_id, derived)]
    return mark(transaction, series_id, derived, files, cause=REMOVED)


def old_set_aside(connection: Connection, before: datetime) -> int:
    """Count the files that were set aside and may go."""
    return connection.execute(_OLD_ASIDE_NUMBER, bind_values(before=before)).scalar_one()


def remove_old_set_aside(transaction: LedgerTransaction, before: datetime) -> list[str]:
    """Mark the next files that were set aside and may go; return their names. None of them: there is no other."""
    found = transaction.connection.execute(_OLD_ASIDE, bind_values(before=before, piece=PIECE)).all()
    mark_aside(transaction, [row.id for row in found], cause=REMOVED)
    return [row.file for row in found]
