"""The rows of files that were removed; the ledger keeps them, with ``removed_at``.

So counts and digests stay true, and a copy that comes again is recognised. Rows are marked before files are removed: a
crash between the two leaves files that ``removed_in`` names. Which rows may be marked is decided in ``old_images`` and
``erasure``. Nothing here touches a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, func, select, update

from dicomnode.errors import InputError
from dicomnode.ids import DeliveryId, InstanceId, SeriesId
from dicomnode.ledger.schema import delivery_item, instance, job, quarantine, series
from dicomnode.ledger.sentences import moment
from dicomnode.ledger.statements import AnyRow, bind_values, bound
from dicomnode.ledger.transaction import LedgerTransaction

RETURNED: Final = "returned"  # event: an instance whose file was removed came again

_PIECE: Final = 200  # files that one statement marks


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """The rows that were marked: their files are to be removed."""

    series: SeriesId
    files: tuple[str, ...]  # paths below the archive folder
    instances: int  # that were marked now; others may have been marked before
    size_bytes: int


_DERIVED = (
    select(job.c.output_series_id)
    .where(job.c.series_id == bound("series"), job.c.output_series_id.is_not(None))
    .order_by(job.c.output_series_id)
)
_OF_BOTH = instance.c.series_id.in_(bound("both", is_list=True))
_FILES = select(instance.c.file, instance.c.size_bytes, instance.c.removed_at).where(_OF_BOTH).order_by(instance.c.file)
_MARK = update(instance).where(instance.c.file.in_(bound("files", is_list=True)), instance.c.removed_at.is_(None))
_RETURN = (
    update(instance)
    .where(instance.c.id == bound("instance"), instance.c.removed_at.is_not(None))
    .values(file=bound("file"), stored_at=bound("now", instance.c.stored_at.type), removed_at=None)
)
_PUT_BACK = update(instance).where(instance.c.id == bound("instance")).values(file=bound("file"), removed_at=None)
_GONE = select(
    func.count().label("instances"), func.count(instance.c.removed_at).label("removed"),
    func.max(instance.c.removed_at).label("at"),
)  # fmt: skip
_GONE_OF_SERIES = _GONE.where(instance.c.series_id == bound("series"))
_GONE_OF_DELIVERY = _GONE.join_from(delivery_item, instance).where(delivery_item.c.delivery_id == bound("delivery"))
_REMOVED = select(instance.c.file).where(instance.c.removed_at.is_not(None))
_REMOVED_IN = _REMOVED.where(instance.c.file > bound("first"), instance.c.file < bound("beyond"))
_MARK_ASIDE = update(quarantine).where(quarantine.c.id.in_(bound("rows", is_list=True)))


# Marks.


def derived_from(connection: Connection, series_id: int) -> tuple[SeriesId, ...]:
    """List the series that were derived from a received one."""
    return tuple(SeriesId(one) for one in connection.execute(_DERIVED, bind_values(series=series_id)).scalars())


def files_of(connection: Connection, series_id: int, derived: Sequence[SeriesId]) -> Sequence[AnyRow]:
    """List the files of a received series and of those that were derived from it, removed or not."""
    return connection.execute(_FILES, bind_values(both=[series_id, *derived])).all()


def mark(
    transaction: LedgerTransaction,
    series_id: SeriesId,
    derived: Sequence[SeriesId],
    files: Sequence[str],
    *,
    cause: str,
) -> Removed:
    """Mark the files that are not marked yet, and note it at the series. A crash may have left the others."""
    wanted = set(files)
    there = [
        one
        for one in files_of(transaction.connection, series_id, derived)
        if one.removed_at is None and one.file in wanted
    ]
    for start in range(0, len(there), _PIECE):
        piece = [one.file for one in there[start : start + _PIECE]]
        transaction.connection.execute(_MARK.values(removed_at=transaction.now), bind_values(files=piece))
    removed = Removed(
        series=series_id,
        files=tuple(files),
        instances=len(there),
        size_bytes=sum(one.size_bytes for one in there),
    )
    transaction.note(cause, table=series.name, row=series_id, detail=_in_words(removed, derived))
    return removed


def mark_aside(transaction: LedgerTransaction, rows: Sequence[int], *, cause: str) -> None:
    """Mark files of the quarantine, and note it at each of their rows."""
    if rows:
        transaction.connection.execute(_MARK_ASIDE.values(removed_at=transaction.now), bind_values(rows=rows))
        transaction.note_each(cause, table=quarantine.name, rows=rows)


# Files that come again.


def take_back(transaction: LedgerTransaction, instance_id: InstanceId, file: str) -> bool:
    """Give an instance whose file was removed the file that came now. False: it has its file.

    The file has another name than the removed one, so a removal that is still under way does no harm.
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


# Queries for files that were removed.


def removed_in(connection: Connection, folder: str) -> set[str]:
    """Return the paths of the files of one folder that were removed, or are about to be."""
    found = connection.execute(_REMOVED_IN, bind_values(first=f"{folder}/", beyond=f"{folder}0"))
    return set(found.scalars())


def removed_aside(connection: Connection) -> set[str]:
    """Return the names of the files of the quarantine that were removed, or are about to be."""
    return set(connection.execute(select(quarantine.c.file).where(quarantine.c.removed_at.is_not(None))).scalars())


def files(connection: Connection) -> set[str]:
    """Return the files of archive and quarantine that were removed on purpose, as paths below the data folder."""
    archived = {f"archive/{file}" for file in connection.execute(_REMOVED).scalars()}
    return archived | {f"quarantine/{file}" for file in removed_aside(connection)}


def gone(connection: Connection, series_id: SeriesId) -> str | None:
    """Say in one sentence that images of a series were removed; None: none were."""
    return _gone_sentence(
        connection.execute(_GONE_OF_SERIES, bind_values(series=series_id)).one(), f"series {series_id}"
    )


def refuse_without_files(connection: Connection, series_id: SeriesId) -> None:
    """Raise InputError where images of a series were removed: the operator's command needs all of them."""
    if (sentence := gone(connection, series_id)) is not None:
        raise InputError(
            f"{sentence} Nothing was changed.",
            hint="Have the whole series sent again; then run the command again.",
        )


def refuse_delivery_without_files(connection: Connection, delivery_id: DeliveryId) -> None:
    """Raise InputError where images of a delivery were removed: it cannot be sent as a whole."""
    row = connection.execute(_GONE_OF_DELIVERY, bind_values(delivery=delivery_id)).one()
    if (sentence := _gone_sentence(row, f"delivery {delivery_id}")) is not None:
        raise InputError(
            f"{sentence} Nothing was changed.",
            hint="Have the series sent again; then `dicomnode series retry` derives and delivers it anew.",
        )


def _gone_sentence(row: AnyRow, of: str) -> str | None:
    if not row.removed:
        return None
    return f"{row.removed} of the {row.instances} images of {of} were removed from the archive at {moment(row.at)}."


def _in_words(removed: Removed, derived: Sequence[SeriesId]) -> str:
    also = (
        f", with series {', '.join(map(str, derived))}, which {'was' if len(derived) == 1 else 'were'} derived from it"
    )
    return f"{removed.instances} images, {removed.size_bytes} bytes{also if derived else ''}"
