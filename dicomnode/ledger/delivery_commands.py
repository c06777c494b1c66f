"""The commands of an operator on a delivery: retry it, send it to another peer, release it, cancel it.

Each function raises InputError and changes nothing if the state of the delivery does not allow the command.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, exists, or_, select, update

from dicomnode.errors import InputError
from dicomnode.ids import DeliveryId
from dicomnode.ledger import removed
from dicomnode.ledger.deliveries import (
    DUE_NOW,
    GATE,
    IDENTITY,
    IDENTITY_ACCEPTED,
    REFRESHED,
    REVIEW,
    open_one,
)
from dicomnode.ledger.mapping.delivery import cargo_of
from dicomnode.ledger.schema import delivery, delivery_item, job, series
from dicomnode.ledger.statements import NO_LEASE, AnyRow, bind_values, bound, moving, stands
from dicomnode.ledger.states import NOT_ACCEPTED, OPERATOR, DeliveryState, Event, ItemState, JobState
from dicomnode.ledger.transaction import LedgerTransaction
from dicomnode.ledger.values import Release

_IN_WORDS: Final = {
    DeliveryState.DUE: "due already",
    DeliveryState.SENDING: "being sent at this moment",
    DeliveryState.SENT: "sent already",
    DeliveryState.HELD: "held",
    DeliveryState.CANCELLED: "cancelled, because a newer revision or derivation replaced it",
}

_CANCELLED_BY: Final = {
    OPERATOR: "cancelled, by an operator",
    NOT_ACCEPTED: "cancelled, because a person rejected the result",
}

_later = job.alias("later")

_ONE = select(delivery, job.c.release).join_from(delivery, job, isouter=True).where(delivery.c.id == bound("delivery"))
_CANCEL = (
    moving(delivery, Event.CANCEL)
    .where(delivery.c.id == bound("delivery"))
    .values(reason=bound("reason"), sentence=bound("sentence"), **NO_LEASE)
)
_SOMETHING_NEWER = select(
    exists().where(
        job.c.id == bound("job"),
        or_(
            job.c.revision < select(series.c.revision).where(series.c.id == job.c.series_id).scalar_subquery(),
            exists().where(
                _later.c.series_id == job.c.series_id, _later.c.id > job.c.id, stands(_later, JobState.DONE)
            ),
        ),
    )
)
_INSTANCES = (
    select(delivery_item.c.instance_id)
    .where(delivery_item.c.delivery_id == bound("delivery"))
    .order_by(delivery_item.c.id)
)
_RELEASE = moving(delivery, Event.RELEASE).where(delivery.c.id == bound("delivery")).values(**DUE_NOW)
_RETRY = moving(delivery, Event.RETRY).where(delivery.c.id == bound("delivery")).values(**DUE_NOW)
_HASTEN = update(delivery).where(delivery.c.id == bound("delivery")).values(**DUE_NOW)
_RETRY_ITEMS = (
    moving(delivery_item, Event.RETRY).where(delivery_item.c.delivery_id == bound("delivery")).values(tries=0)
)
_FRESH_TRIES = (
    update(delivery_item)
    .where(delivery_item.c.delivery_id == bound("delivery"), stands(delivery_item, ItemState.PENDING))
    .values(tries=0)
)


def retry(transaction: LedgerTransaction, delivery_id: DeliveryId) -> None:
    """Make a delivery due now, and its refused items pending again."""
    row = row_for_operator(transaction.connection, delivery_id)
    removed.refuse_delivery_without_files(transaction.connection, delivery_id)
    _refuse_unreviewed(row)
    match DeliveryState(row.state):
        case DeliveryState.HELD:
            transaction.move(_RETRY, delivery=delivery_id)
        case DeliveryState.CANCELLED:
            refuse_outdated(transaction.connection, row)
            transaction.move(_RETRY, delivery=delivery_id)
        case DeliveryState.DUE:
            transaction.connection.execute(_HASTEN, bind_values(now=transaction.now, delivery=delivery_id))
            transaction.note(Event.RETRY, table=delivery.name, row=delivery_id)
        case _:
            raise InputError(f"Delivery {delivery_id} is {state_in_words(row)}; there is nothing to retry.")
    transaction.connection.execute(_FRESH_TRIES, bind_values(delivery=delivery_id))
    transaction.move(_RETRY_ITEMS, delivery=delivery_id)


def send_to(transaction: LedgerTransaction, delivery_id: DeliveryId, peer: str) -> DeliveryId:
    """Send all images of a delivery to another peer, also those that the first peer has already.

    A delivery that is not sent yet is cancelled in favour of the other. The delivery to that peer is a new one, or the
    one of the same images that was cancelled before.
    """
    row = row_for_operator(transaction.connection, delivery_id)
    if row.peer == peer:
        retry(transaction, delivery_id)
        return delivery_id
    removed.refuse_delivery_without_files(transaction.connection, delivery_id)
    _refuse_unreviewed(row)
    if row.state in (DeliveryState.SENT, DeliveryState.CANCELLED):
        refuse_outdated(transaction.connection, row)
    there = transaction.connection.execute(
        select(delivery).where(
            delivery.c.series_id == row.series_id,
            delivery.c.revision == row.revision,
            delivery.c.job_id.is_not_distinct_from(row.job_id),
            delivery.c.peer == peer,
        )
    ).one_or_none()
    if there is None:
        instances = transaction.connection.execute(_INSTANCES, bind_values(delivery=delivery_id)).scalars().all()
        target = open_one(transaction, cargo_of(row), peer, instances, cause=Event.RETRY)
    elif there.state == DeliveryState.CANCELLED:
        target = DeliveryId(there.id)
        retry(transaction, target)
    else:
        raise InputError(
            f"Delivery {there.id} brings the same images to {peer} and is {state_in_words(there)}; "
            "nothing was changed.",
            hint=f"`dicomnode deliveries cancel {delivery_id}` gives this one up.",
        )
    transaction.move(
        _CANCEL,
        f"delivery {target} goes to {peer} instead",
        delivery=delivery_id,
        reason=OPERATOR,
        sentence=f"An operator sent it to {peer} instead: delivery {target}.",
    )  # changes nothing where it is sent or cancelled already
    return target


def release(transaction: LedgerTransaction, delivery_id: DeliveryId, note: str) -> None:
    """Make a held delivery due; of one that waits for review, accept the result. ``note``: a person's words."""
    row = row_for_operator(transaction.connection, delivery_id)
    if row.state != DeliveryState.HELD:
        raise InputError(f"Delivery {delivery_id} is {state_in_words(row)}; only a held one can be released.")
    removed.refuse_delivery_without_files(transaction.connection, delivery_id)
    transaction.move(_RELEASE, note, delivery=delivery_id)
    if row.reason == IDENTITY:
        transaction.note(IDENTITY_ACCEPTED, table=delivery.name, row=delivery_id, detail=note)


def cancel(transaction: LedgerTransaction, delivery_id: DeliveryId, note: str) -> None:
    """Cancel a delivery: no further instance is sent; the answer to one that is being sent is still recorded.

    To cancel a delivery that waits for review is to reject the result, which needs a note.
    """
    row = row_for_operator(transaction.connection, delivery_id)
    is_rejected = _waits_for_review(row)
    if is_rejected and not note:
        raise InputError(
            f"Delivery {delivery_id} waits for review, and to cancel it is to reject the result; nothing was changed.",
            hint=f"Say why: `dicomnode deliveries cancel {delivery_id} --note TEXT`.",
        )
    words = "A person rejected the result" if is_rejected else "An operator cancelled it"
    values = {
        "reason": NOT_ACCEPTED if is_rejected else OPERATOR,
        "sentence": f"{words}: {note}" if note else f"{words}.",
    }
    if transaction.move(_CANCEL, note, delivery=delivery_id, **values) == 0:
        raise InputError(f"Delivery {delivery_id} is {state_in_words(row)}; there is nothing to cancel.")


def peer_of(connection: Connection, delivery_id: DeliveryId) -> str:
    """Name the peer of a delivery. Raises InputError where there is no such delivery."""
    peer: str = row_for_operator(connection, delivery_id).peer
    return peer


def state_in_words(row: AnyRow) -> str:
    """Say in which state a delivery is, and why if it is cancelled."""
    if row.state == DeliveryState.CANCELLED and row.reason in _CANCELLED_BY:
        return _CANCELLED_BY[row.reason]
    return _IN_WORDS[DeliveryState(row.state)]


def _waits_for_review(row: AnyRow) -> bool:
    """Is a person yet to say whether the result may leave? What the result gate holds may wait for both."""
    is_held_new = row.state == DeliveryState.HELD and row.reason in (GATE, REVIEW)
    return bool(is_held_new and row.release == Release.REVIEW)


def _refuse_unreviewed(row: AnyRow) -> None:
    """Raise InputError if the delivery waits for review: it is not sent before a person has accepted the result."""
    if _waits_for_review(row):
        raise InputError(
            f"Delivery {row.id} waits for review; nothing was changed.",
            hint=f"`dicomnode deliveries release {row.id}` accepts the result, `dicomnode deliveries cancel {row.id} "
            "--note TEXT` rejects it.",
        )


def refuse_outdated(connection: Connection, row: AnyRow) -> None:
    """Raise InputError if a newer revision or derivation has replaced the delivery: then it is not sent again.

    Nothing replaces the originals: a later revision sends those that came later.
    """
    if row.state == DeliveryState.CANCELLED and row.reason == REFRESHED:
        raise InputError(f"{row.sentence} Nothing was changed.")
    if row.job_id is not None and connection.execute(_SOMETHING_NEWER, bind_values(job=row.job_id)).scalar_one():
        raise InputError(
            f"Delivery {row.id} is {row.state}, and its series has a newer revision or derivation by now; "
            "nothing was changed."
        )


def row_for_operator(connection: Connection, delivery_id: DeliveryId) -> AnyRow:
    """Return a delivery with the release of its job. Raises InputError where there is none."""
    row = connection.execute(_ONE, bind_values(delivery=delivery_id)).one_or_none()
    if row is None:
        raise InputError(f"There is no delivery {delivery_id}.", hint="`dicomnode deliveries list` shows them.")
    return row
