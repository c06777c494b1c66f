"""Which images may leave the disk, and what the ledger keeps of them.

In: a moment before which everything of a series must have ended, or the files in which a patient was found. Out: the
files that are to be removed; their rows stay, with ``removed_at``, so that counts and digests stay true and a copy that
comes again is recognised. The rows are marked first and the files are removed afterwards, so a crash between the two
leaves files that ``is_removed`` names. Nothing here touches a file.

A received series and everything that was derived from it go together, once all of this holds.

1. Its last instance, its verdict, its jobs, its deliveries and their proofs are older than the given moment. What the
   PACS took only yesterday, after an outage of weeks, therefore does not go today.
2. It has its verdict, and no person has to look at that.
3. None of its jobs waits, runs, is held or failed: whoever mends the cause needs the images.
4. Each of its deliveries is sent, or cancelled. A delivery that is sent has the proof that its peer can give: none that
   was asked to commit has still to answer. The acknowledgements alone are proof only where no better one can be had.
5. What was derived has gone to a peer, or an operator cancelled its delivery. A result that no rule delivers is nowhere
   else, so its series stays.
6. No file that was set aside of it, or because of one of its instances, waits for a comparison or for a person.

A series that was kept has nothing to deliver: the sender has the original, and the verdict said so.

A file that was set aside goes once a person has seen it and that is older than the given moment. One that nobody has
seen, or that is still to be compared, never goes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import ColumnElement, Connection, and_, case, exists, func, null, or_, select, update

from dicomnode.errors import InputError
from dicomnode.ids import DeliveryId, InstanceId, SeriesId
from dicomnode.ledger import mapping
from dicomnode.ledger import quarantine as set_aside
from dicomnode.ledger.deliveries import COMPARED, NO_LEASE
from dicomnode.ledger.schema import RECEIVED, commitment, delivery, delivery_item, instance, job, quarantine, series
from dicomnode.ledger.sentences import moment
from dicomnode.ledger.statements import bind_values, bound, moving, stands
from dicomnode.ledger.states import (
    OPERATOR,
    CommitmentState,
    DeliveryState,
    Event,
    ItemState,
    JobState,
    SeriesState,
)
from dicomnode.ledger.transaction import LedgerTransaction

REMOVED: Final = "removed"  # event: the files of a series were removed because of their age
ERASED: Final = "erased"  # event: the files of a patient were removed because a person asked for it
RETURNED: Final = "returned"  # event: an instance whose file was removed came again

PIECE: Final = 200  # series that one question looks at
ERASED_SENTENCE: Final = "An operator erased images of this series."


class Stays(StrEnum):
    """Why a series stays although it is old enough."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What was marked: its files are to be removed."""

    series: SeriesId
    files: tuple[str, ...]  # paths below the archive folder
    instances: int  # that were marked now; others may have been marked before
    size_bytes: int


_of_job = job.alias("of_job")
_later = job.alias("later")
_beside = instance.alias("beside")

_JOBS_OF = (job.c.series_id == series.c.id,)
_DELIVERIES_OF = (delivery.c.job_id == _of_job.c.id, _of_job.c.series_id == series.c.id)
_MOMENT = series.c.last_at.type
_BEFORE = bound("before", _MOMENT)

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
_HAS_LIVE_JOB = exists().where(
    *_JOBS_OF, stands(job, JobState.QUEUED, JobState.RUNNING, JobState.HELD, JobState.FAILED)
)
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
        ~exists().where(_later.c.series_id == job.c.series_id, _later.c.id > job.c.id, stands(_later, JobState.DONE)),
        ~exists().where(
            delivery.c.job_id == job.c.id,
            or_(
                stands(delivery, DeliveryState.SENT),
                and_(stands(delivery, DeliveryState.CANCELLED), delivery.c.reason == OPERATOR),
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
_DERIVED = (
    select(job.c.output_series_id)
    .where(job.c.series_id == bound("series"), job.c.output_series_id.is_not(None))
    .order_by(job.c.output_series_id)
)
_SOURCE = select(job.c.series_id).where(job.c.output_series_id == bound("series"))
_OF_BOTH = instance.c.series_id.in_(bound("both", is_list=True))
_FILES = select(instance.c.file, instance.c.size_bytes, instance.c.removed_at).where(_OF_BOTH).order_by(instance.c.file)
_MARK = update(instance).where(instance.c.file.in_(bound("files", is_list=True)), instance.c.removed_at.is_(None))
_RETURN = (
    update(instance)
    .where(instance.c.id == bound("instance"), instance.c.removed_at.is_not(None))
    .values(file=bound("file"), stored_at=bound("now", _MOMENT), removed_at=None)
)
_PUT_BACK = update(instance).where(instance.c.id == bound("instance")).values(file=bound("file"), removed_at=None)
_GONE = select(
    func.count().label("instances"), func.count(instance.c.removed_at).label("removed"),
    func.max(instance.c.removed_at).label("at"),
)  # fmt: skip
_GONE_OF_SERIES = _GONE.where(instance.c.series_id == bound("series"))
_GONE_OF_DELIVERY = _GONE.join_from(delivery_item, instance).where(delivery_item.c.delivery_id == bound("delivery"))
_REMOVED_IN = select(instance.c.file).where(
    instance.c.file > bound("first"), instance.c.file < bound("beyond"), instance.c.removed_at.is_not(None)
)

_CANCEL_JOBS = (
    moving(job, Event.CANCEL)
    .where(job.c.series_id == bound("series"))
    .values(reason=OPERATOR, sentence=ERASED_SENTENCE, lease_owner=None, lease_until=None)
)
_CANCEL_DELIVERIES = (
    moving(delivery, Event.CANCEL)
    .where(delivery.c.job_id.in_(select(job.c.id).where(job.c.series_id == bound("series"))))
    .values(reason=OPERATOR, sentence=ERASED_SENTENCE, **NO_LEASE)
)
_ERASE_WORDS = (
    update(series).where(series.c.id == bound("series")).values(sentence=ERASED_SENTENCE, notes=[], alert=False)
)
_UNDER_WAY = select(
    series.c.state,
    exists().where(*_DELIVERIES_OF, stands(delivery, DeliveryState.SENDING)).label("is_sent"),
).where(series.c.id == bound("series"))
_RECEIVERS = (
    select(delivery.c.peer)
    .distinct()
    .join_from(delivery, job)
    .where(
        job.c.series_id.in_(bound("numbers", is_list=True)),
        exists().where(delivery_item.c.delivery_id == delivery.c.id, stands(delivery_item, ItemState.ACKNOWLEDGED)),
    )
    .order_by(delivery.c.peer)
)
_ASIDE = select(quarantine.c.id, quarantine.c.file, quarantine.c.removed_at).where(
    quarantine.c.file.in_(bound("files", is_list=True))
)
_IS_OLD_ASIDE = and_(
    quarantine.c.removed_at.is_(None),
    quarantine.c.seen_at < _BEFORE,
    or_(~COMPARED, quarantine.c.finding.is_not(None)),
)
_OLD_ASIDE = (
    select(quarantine.c.id, quarantine.c.file).where(_IS_OLD_ASIDE).order_by(quarantine.c.id).limit(bound("piece"))
)
_OLD_ASIDE_NUMBER = select(func.count()).where(_IS_OLD_ASIDE)
_REMOVE_ASIDE = update(quarantine).where(quarantine.c.id.in_(bound("rows", is_list=True)))


# What is old enough.


def old_series(connection: Connection, before: datetime, after: int) -> tuple[list[OldSeries], int | None]:
    """List the series of the piece behind ``after`` that are old enough, and the last of them. None: the end."""
    found = connection.execute(_OLD_BEHIND, bind_values(before=before, after=after, piece=PIECE)).all()
    lines = []
    for row in found:
        derived = _derived_from(connection, row.id)
        there = [one for one in _files_of(connection, row.id, derived) if one.removed_at is None]
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


def remove_old(transaction: LedgerTransaction, series_id: SeriesId, before: datetime) -> Removed | None:
    """Mark the images of a series, and of what was derived from it. None: it may not go, or not any more."""
    row = transaction.connection.execute(_OLD_ONE, bind_values(series=series_id, before=before)).one_or_none()
    if row is None or row.stays is not None:
        return None
    derived = _derived_from(transaction.connection, series_id)
    files = [one.file for one in _files_of(transaction.connection, series_id, derived)]
    removed = _mark(transaction, series_id, derived, files)
    transaction.note(REMOVED, table=series.name, row=series_id, detail=_in_words(removed, derived))
    return removed


def old_set_aside(connection: Connection, before: datetime) -> int:
    """Count the files that were set aside and may go."""
    return connection.execute(_OLD_ASIDE_NUMBER, bind_values(before=before)).scalar_one()


def remove_old_set_aside(transaction: LedgerTransaction, before: datetime) -> list[str]:
    """Mark the next files that were set aside and may go; return their names. None of them: there is no other."""
    found = transaction.connection.execute(_OLD_ASIDE, bind_values(before=before, piece=PIECE)).all()
    if found:
        rows = [row.id for row in found]
        transaction.connection.execute(_REMOVE_ASIDE.values(removed_at=transaction.now), bind_values(rows=rows))
        transaction.note_each(REMOVED, table=quarantine.name, rows=rows)
    return [row.file for row in found]


# What a person has erased.


def source_of(connection: Connection, number: SeriesId) -> SeriesId:
    """Return the received series from which a series was derived; a received one itself."""
    found = connection.execute(_SOURCE, bind_values(series=number)).scalar_one_or_none()
    return number if found is None else SeriesId(found)


def refusal_to_erase(connection: Connection, series_id: SeriesId) -> str | None:
    """Say why the images of a series cannot be erased now; None: they can."""
    row = connection.execute(_UNDER_WAY, bind_values(series=series_id)).one_or_none()
    if row is None:
        return None
    if row.state in (SeriesState.RECEIVING, SeriesState.SETTLED):
        return f"Series {series_id} is being received or judged"
    return f"What was derived from series {series_id} is being sent" if row.is_sent else None


def receivers(connection: Connection, numbers: Collection[SeriesId]) -> tuple[str, ...]:
    """Name the peers that acknowledged an image derived from one of these series."""
    return tuple(connection.execute(_RECEIVERS, bind_values(numbers=sorted(numbers))).scalars())


def erase(transaction: LedgerTransaction, series_id: SeriesId, files: Collection[str]) -> Removed:
    """Mark these files of a received series and all images that were derived from it; end what waits for them.

    Raises InputError where ``refusal_to_erase`` has something to say.
    """
    if (why := refusal_to_erase(transaction.connection, series_id)) is not None:
        raise InputError(
            f"{why}; nothing of it was erased.", hint="Wait until that has ended, and run the command again."
        )
    transaction.move(_CANCEL_JOBS, ERASED_SENTENCE, series=series_id)
    transaction.move(_CANCEL_DELIVERIES, ERASED_SENTENCE, series=series_id)
    derived = _derived_from(transaction.connection, series_id)
    wanted = [
        one.file
        for one in _files_of(transaction.connection, series_id, derived)
        if one.file in files or not one.file.startswith(f"{series_id}/")
    ]
    removed = _mark(transaction, series_id, derived, wanted)
    transaction.connection.execute(_ERASE_WORDS, bind_values(series=series_id))
    transaction.note(ERASED, table=series.name, row=series_id, detail=_in_words(removed, derived))
    return removed


def erase_set_aside(transaction: LedgerTransaction, files: Collection[str]) -> list[str]:
    """Mark these files of the quarantine as seen and removed; return those that have a row."""
    known = transaction.connection.execute(_ASIDE, bind_values(files=sorted(files))).all()
    rows = [row.id for row in known if row.removed_at is None]
    if rows:
        marks = {"removed_at": transaction.now, "seen_at": func.coalesce(quarantine.c.seen_at, bound("now", _MOMENT))}
        transaction.connection.execute(_REMOVE_ASIDE.values(marks), bind_values(rows=rows, now=transaction.now))
        transaction.note_each(ERASED, table=quarantine.name, rows=rows)
    return [row.file for row in known]


# What comes again, and what is asked of what is gone.


def take_back(transaction: LedgerTransaction, instance_id: InstanceId, file: str) -> bool:
    """Give an instance whose file was removed the file that came now. False: it has its file.

    The file has another name than the removed one, so whoever still removes that one does no harm.
    """
    came = bind_values(instance=instance_id, file=file, now=transaction.now)
    if transaction.connection.execute(_RETURN, came).rowcount == 0:
        return False
    transaction.note(RETURNED, table=instance.name, row=instance_id)
    return True


def put_back(transaction: LedgerTransaction, instance_id: InstanceId, file: str, detail: str) -> None:
    """Give an instance whose file was lost or altered another file with its bytes."""
    transaction.connection.execute(_PUT_BACK, bind_values(instance=instance_id, file=file))
    transaction.note("restored", table=instance.name, row=instance_id, detail=detail)


def removed_in(connection: Connection, folder: str) -> set[str]:
    """Return the paths of the files of one folder that were removed, or are about to be."""
    found = connection.execute(_REMOVED_IN, bind_values(first=f"{folder}/", beyond=f"{folder}0"))
    return set(found.scalars())


def removed_aside(connection: Connection) -> set[str]:
    """Return the names of the files of the quarantine that were removed, or are about to be."""
    return set(connection.execute(select(quarantine.c.file).where(quarantine.c.removed_at.is_not(None))).scalars())


def gone(connection: Connection, series_id: SeriesId) -> str | None:
    """Say in one sentence that images of a series were removed; None: none were."""
    return _gone_sentence(
        connection.execute(_GONE_OF_SERIES, bind_values(series=series_id)).one(), f"series {series_id}"
    )


def refuse_without_files(connection: Connection, series_id: SeriesId) -> None:
    """Raise InputError where images of a series were removed: an operator asked for something that needs them."""
    if (sentence := gone(connection, series_id)) is not None:
        raise InputError(
            f"{sentence} Nothing was changed.",
            hint="Have the whole series sent again; then run the command again.",
        )


def refuse_delivery_without_files(connection: Connection, delivery_id: DeliveryId) -> None:
    """Raise InputError where images of a delivery were removed: an operator wants it sent."""
    row = connection.execute(_GONE_OF_DELIVERY, bind_values(delivery=delivery_id)).one()
    if (sentence := _gone_sentence(row, f"delivery {delivery_id}")) is not None:
        raise InputError(
            f"{sentence} Nothing was changed.",
            hint="Have the series sent again; then `dicomnode series retry` derives and delivers it anew.",
        )


def _gone_sentence(row: mapping.AnyRow, of: str) -> str | None:
    if not row.removed:
        return None
    return f"{row.removed} of the {row.instances} images of {of} were removed from the archive at {moment(row.at)}."


def _derived_from(connection: Connection, series_id: int) -> tuple[SeriesId, ...]:
    return tuple(SeriesId(one) for one in connection.execute(_DERIVED, bind_values(series=series_id)).scalars())


def _files_of(connection: Connection, series_id: int, derived: Sequence[SeriesId]) -> Sequence[mapping.AnyRow]:
    return connection.execute(_FILES, bind_values(both=[series_id, *derived])).all()


def _mark(
    transaction: LedgerTransaction, series_id: SeriesId, derived: Sequence[SeriesId], files: Sequence[str]
) -> Removed:
    """Mark the files that are not marked yet. All of ``files`` are to be removed: a crash may have left some."""
    wanted = set(files)
    there = [
        one
        for one in _files_of(transaction.connection, series_id, derived)
        if one.removed_at is None and one.file in wanted
    ]
    for start in range(0, len(there), PIECE):
        piece = [one.file for one in there[start : start + PIECE]]
        transaction.connection.execute(_MARK.values(removed_at=transaction.now), bind_values(files=piece))
    return Removed(
        series=series_id,
        files=tuple(files),
        instances=len(there),
        size_bytes=sum(one.size_bytes for one in there),
    )


def _in_words(removed: Removed, derived: Sequence[SeriesId]) -> str:
    also = (
        f", with series {', '.join(map(str, derived))}, which {'was' if len(derived) == 1 else 'were'} derived from it"
    )
    return f"{removed.instances} images, {removed.size_bytes} bytes{also if derived else ''}"
