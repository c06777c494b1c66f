"""Rows for received images: numbers of series, instances on disk, late instances, and instances whose UID is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select, update

from dicomnode.ids import SeriesId
from dicomnode.ledger import deliveries, jobs, quarantine, removed
from dicomnode.ledger.mapping.instance import KNOWN_INSTANCE, known_instance_of, new_received_instance
from dicomnode.ledger.mapping.series import new_received_series
from dicomnode.ledger.schema import RECEIVED, instance, series
from dicomnode.ledger.statements import bind_values, bound, insert_if_new, moving, stands
from dicomnode.ledger.states import Event, SeriesState
from dicomnode.ledger.transaction import LedgerTransaction
from dicomnode.ledger.values import KnownInstance, StoredInstance, StoreOutcome

_NUMBER = select(series.c.id).where(series.c.series_uid == bound("uid"))
_MAKE_SERIES = insert_if_new(series)
_KNOWN = select(*KNOWN_INSTANCE).where(instance.c.sop_instance_uid == bound("uid"))
_SERIES = select(
    series.c.id,
    series.c.state,
    series.c.revision,
    series.c.aborted,
    series.c.first_at,
    series.c.origin,
    series.c.pulled,
).where(series.c.id == bound("series"))
_ADD = insert_if_new(instance)
_REOPEN = (
    moving(series, Event.LATE_INSTANCE)
    .where(series.c.id == bound("series"))
    .values(
        revision=series.c.revision + 1, first_at=None, last_at=None, reason=None, sentence="", notes=[], alert=False
    )
)
_TOUCH = (
    update(series)
    .where(series.c.id == bound("series"))
    .values(first_at=bound("first_at"), last_at=bound("last_at"), aborted=False, pulled=bound("pulled"))
)
_ABORTED = (
    update(series)
    .where(series.c.id == bound("series"), stands(series, SeriesState.RECEIVING), series.c.first_at.is_not(None))
    .values(aborted=True)
)
# By the index of the paths: "0" is what comes after "/".
_DIGESTS = select(instance.c.file, instance.c.sha256).where(instance.c.removed_at.is_(None))
_FILES_IN = select(instance.c.file).where(
    instance.c.file > bound("first"), instance.c.file < bound("beyond"), instance.c.removed_at.is_(None)
)
_NOT_ABORTED = update(series).where(series.c.id == bound("series")).values(aborted=False)


@dataclass(slots=True, kw_only=True)
class _Open:
    """A series into which this batch stores."""

    state: SeriesState
    revision: int
    is_derived: bool
    aborted: bool
    first_at: datetime | None
    is_pulled: bool  # every instance so far
    added: list[datetime]


def series_number(connection: Connection, series_uid: str) -> SeriesId | None:
    """Return the number of a series. None: it has none yet."""
    found = connection.execute(_NUMBER, bind_values(uid=series_uid)).scalar_one_or_none()
    return None if found is None else SeriesId(found)


def make_series(transaction: LedgerTransaction, series_uid: str, study_uid: str | None) -> SeriesId:
    """Give a series a number, or return the one that another association got for it a moment ago."""
    transaction.connection.execute(_MAKE_SERIES, new_received_series(transaction, series_uid, study_uid))
    number = series_number(transaction.connection, series_uid)
    assert number is not None, "the row was just written"
    return number


def known_instance(connection: Connection, sop_instance_uid: str) -> KnownInstance | None:
    """Return the instance that the ledger has under this UID."""
    row = connection.execute(_KNOWN, bind_values(uid=sop_instance_uid)).one_or_none()
    return None if row is None else known_instance_of(row)


def series_numbers(connection: Connection) -> list[SeriesId]:
    """List the number of every series, the oldest first."""
    return [SeriesId(number) for number in connection.execute(select(series.c.id).order_by(series.c.id)).scalars()]


def files_in(connection: Connection, folder: str) -> set[str]:
    """Return the paths below the archive folder of the files that ought to lie in one folder."""
    return set(connection.execute(_FILES_IN, bind_values(first=f"{folder}/", beyond=f"{folder}0")).scalars())


def archived_digests(connection: Connection) -> dict[str, str]:
    """Return the digest of every archived file's data set, by its path below the archive folder."""
    return {row.file: row.sha256 for row in connection.execute(_DIGESTS)}


def accept(transaction: LedgerTransaction, instances: Sequence[StoredInstance]) -> list[StoreOutcome]:
    """Give each new instance its row, and return what each instance is, in the order given."""
    opened: dict[SeriesId, _Open] = {}
    outcomes = [_accept_one(transaction, one, opened) for one in instances]
    for series_id, now_open in opened.items():
        _touch(transaction, series_id, now_open)
    return outcomes


def mark_aborted(transaction: LedgerTransaction, series_id: SeriesId) -> None:
    """Record that an association into the series ended without a release: more may come, so it settles later."""
    if transaction.connection.execute(_ABORTED, bind_values(series=series_id)).rowcount:
        transaction.note("aborted", table=series.name, row=series_id)


def mark_cut_off(transaction: LedgerTransaction) -> None:
    """Mark every series that still comes in: after a kill nobody knows whether its sender had finished."""
    receiving = select(series.c.id).where(stands(series, SeriesState.RECEIVING), series.c.first_at.is_not(None))
    for series_id in transaction.connection.execute(receiving).scalars().all():
        mark_aborted(transaction, SeriesId(series_id))


def _accept_one(transaction: LedgerTransaction, one: StoredInstance, opened: dict[SeriesId, _Open]) -> StoreOutcome:
    now_open = opened.get(one.series)
    if now_open is None:
        now_open = opened[one.series] = _look_up(transaction.connection, one.series)
    if now_open.is_derived:  # a PACS may give our objects UIDs of its own; what we derived stays as it was derived
        sender = LedgerTransaction(connection=transaction.connection, now=transaction.now, by=one.peer)
        sender.note(StoreOutcome.OWN_OUTPUT, table=series.name, row=one.series)
        return StoreOutcome.OWN_OUTPUT
    is_late = now_open.state is not SeriesState.RECEIVING
    revision = now_open.revision + 1 if is_late else now_open.revision
    if transaction.connection.execute(_ADD, new_received_instance(one, revision)).rowcount == 0:
        return _compare(transaction, one, now_open, is_judged=is_late)
    now_open.added.append(one.received_at)
    now_open.is_pulled &= one.is_pulled
    if is_late:
        _reopen(transaction, one, now_open)
    return StoreOutcome.STORED


def _look_up(connection: Connection, series_id: SeriesId) -> _Open:
    row = connection.execute(_SERIES, bind_values(series=series_id)).one()
    return _Open(
        state=SeriesState(row.state),
        revision=row.revision,
        is_derived=row.origin != RECEIVED,
        aborted=row.aborted,
        first_at=row.first_at,
        is_pulled=bool(row.pulled) or (row.revision == 1 and row.first_at is None),
        added=[],
    )


def _reopen(transaction: LedgerTransaction, late: StoredInstance, now_open: _Open) -> None:
    """Begin the next revision for a late instance, and give up jobs and deliveries that wait for the older one."""
    sender = LedgerTransaction(connection=transaction.connection, now=transaction.now, by=late.peer)
    now_open.revision += 1
    now_open.state = SeriesState.RECEIVING
    now_open.first_at = None
    moved = sender.move(_REOPEN, f"revision {now_open.revision}", series=late.series)
    assert moved == 1, "the series was read in this transaction, and a late instance may come in any other state"
    detail = f"revision {now_open.revision} of series {late.series}"
    jobs.supersede_old(sender, late.series, detail)
    deliveries.supersede_unsent(sender, late.series, but_job=None, detail=detail)


def _compare(
    transaction: LedgerTransaction, again: StoredInstance, now_open: _Open, *, is_judged: bool
) -> StoreOutcome:
    """Compare an instance with the one that has its UID already; the first is kept, whatever the second is.

    An instance that is set aside belongs to its series all the same, so it counts as one that came.
    """
    sender = LedgerTransaction(connection=transaction.connection, now=transaction.now, by=again.peer)
    known = known_instance(transaction.connection, again.sop_instance_uid)
    assert known is not None, "an instance that was not added has its UID in the ledger"
    if known.id == again.id or known.file == again.file:
        return StoreOutcome.STORED
    if known.is_derived:
        outcome = StoreOutcome.OWN_OUTPUT
    elif known.transfer_syntax_uid != again.transfer_syntax_uid:
        outcome = StoreOutcome.OTHER_ENCODING
    elif known.sha256 != again.sha256:
        outcome = StoreOutcome.CONFLICT
    else:
        outcome = StoreOutcome.DUPLICATE
    if outcome is StoreOutcome.DUPLICATE and removed.take_back(sender, known.id, again.file):
        now_open.added.append(again.received_at)  # the age of the series is counted from here
        return StoreOutcome.STORED
    if outcome in (StoreOutcome.OWN_OUTPUT, StoreOutcome.DUPLICATE):
        sender.note(outcome, table=instance.name, row=known.id)
        return outcome
    if not quarantine.take(sender, again, known, outcome):
        return StoreOutcome.ASIDE_ALREADY
    if not is_judged:
        now_open.added.append(again.received_at)
        now_open.is_pulled &= again.is_pulled
    return outcome


def _touch(transaction: LedgerTransaction, series_id: SeriesId, now_open: _Open) -> None:
    """Record when instances came. A copy of an instance that is there shows only that its sender is back."""
    if now_open.added:
        first = now_open.first_at or min(now_open.added)
        last = max(now_open.added)
        heard = bind_values(series=series_id, first_at=first, last_at=last, pulled=now_open.is_pulled)
        transaction.connection.execute(_TOUCH, heard)
    elif now_open.aborted:
        transaction.connection.execute(_NOT_ABORTED, bind_values(series=series_id))
