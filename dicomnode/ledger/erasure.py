"""The rows of a patient's images that a person has erased.

In: the files in which the patient was found. Out: the marks on their rows and on those of everything that was derived
from them; jobs and deliveries of these end. The ledger knows no patient, so it cannot find the files itself.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from sqlalchemy import Connection, exists, select, update

from dicomnode.errors import InputError
from dicomnode.ids import SeriesId
from dicomnode.ledger import judgements
from dicomnode.ledger.removed import Removed, derived_from, files_of, mark, mark_aside
from dicomnode.ledger.schema import commitment, delivery, delivery_item, job, quarantine, series
from dicomnode.ledger.statements import NO_LEASE, bind_values, bound, moving, stands
from dicomnode.ledger.states import OPERATOR, DeliveryState, Event, ItemState, SeriesState
from dicomnode.ledger.transaction import LedgerTransaction

ERASED: Final = "erased"  # event: files of the row were removed because a person asked for it
ERASED_SENTENCE: Final = "An operator erased images of this series."

_SOURCE = select(job.c.series_id).where(job.c.output_series_id == bound("series"))
_UNDER_WAY = select(
    series.c.state,
    exists().where(delivery.c.series_id == series.c.id, stands(delivery, DeliveryState.SENDING)).label("is_sent"),
).where(series.c.id == bound("series"))
_RECEIVERS = (
    select(delivery.c.peer)
    .distinct()
    .where(
        delivery.c.series_id.in_(bound("numbers", is_list=True)),
        exists().where(delivery_item.c.delivery_id == delivery.c.id, stands(delivery_item, ItemState.ACKNOWLEDGED)),
    )
    .order_by(delivery.c.peer)
)
_CANCEL_JOBS = (
    moving(job, Event.CANCEL)
    .where(job.c.series_id == bound("series"))
    .values(reason=OPERATOR, sentence=ERASED_SENTENCE, lease_owner=None, lease_until=None)
)
_OF_SERIES = delivery.c.series_id == bound("series")
_CANCEL_DELIVERIES = (
    moving(delivery, Event.CANCEL).where(_OF_SERIES).values(reason=OPERATOR, sentence=ERASED_SENTENCE, **NO_LEASE)
)
# A C-FIND for a better proof would need the file of an image; a report that comes is still taken.
_GIVE_UP_PROOFS = moving(commitment, Event.GIVE_UP).where(
    commitment.c.delivery_id.in_(select(delivery.c.id).where(_OF_SERIES))
)
_ERASE_WORDS = (
    update(series).where(series.c.id == bound("series")).values(sentence=ERASED_SENTENCE, notes=[], alert=False)
)
_ASIDE = select(quarantine.c.id, quarantine.c.file, quarantine.c.removed_at).where(
    quarantine.c.file.in_(bound("files", is_list=True))
)
_SEE = update(quarantine).where(quarantine.c.id.in_(bound("rows", is_list=True)), quarantine.c.seen_at.is_(None))


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
    return f"Series {series_id}, or what was derived from it, is being sent" if row.is_sent else None


def receivers(connection: Connection, numbers: Collection[SeriesId]) -> tuple[str, ...]:
    """Name the peers that acknowledged an image of one of these series, or an image derived from it."""
    return tuple(connection.execute(_RECEIVERS, bind_values(numbers=sorted(numbers))).scalars())


def erase(transaction: LedgerTransaction, series_id: SeriesId, files: Collection[str]) -> Removed:
    """Mark these files of a received series and all images that were derived from it; end what waits for them.

    Raises InputError where ``refusal_to_erase`` returns a sentence.
    """
    if (why := refusal_to_erase(transaction.connection, series_id)) is not None:
        raise InputError(
            f"{why}; nothing of it was erased.", hint="Wait until that has ended, and run the command again."
        )
    transaction.move(_CANCEL_JOBS, ERASED_SENTENCE, series=series_id)
    transaction.move(_CANCEL_DELIVERIES, ERASED_SENTENCE, series=series_id)
    transaction.move(_GIVE_UP_PROOFS, ERASED_SENTENCE, series=series_id)
    derived = derived_from(transaction.connection, series_id)
    wanted = [
        one.file
        for one in files_of(transaction.connection, series_id, derived)
        if one.file in files or not one.file.startswith(f"{series_id}/")
    ]
    transaction.connection.execute(_ERASE_WORDS, bind_values(series=series_id))
    judgements.forget(transaction, series_id)
    return mark(transaction, series_id, derived, wanted, cause=ERASED)


def erase_set_aside(transaction: LedgerTransaction, files: Collection[str]) -> list[str]:
    """Mark these files of the quarantine as seen and removed; return those that have a row."""
    known = transaction.connection.execute(_ASIDE, bind_values(files=sorted(files))).all()
    rows = [row.id for row in known if row.removed_at is None]
    transaction.connection.execute(_SEE.values(seen_at=transaction.now), bind_values(rows=rows))
    mark_aside(transaction, rows, cause=ERASED)
    return [row.file for row in known]
