"""Deliveries on their way: claimed by the loop of their peer under a lease, answered image by image, ended.

How they come to be, and what holds them back before, is in ``deliveries``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, and_, exists, func, literal_column, or_, select, update

from dicomnode.ids import DeliveryId
from dicomnode.ledger import commitments
from dicomnode.ledger.deliveries import IDENTITY_ACCEPTED, PART_IS_THERE
from dicomnode.ledger.mapping.delivery import claimed_delivery, pending_item
from dicomnode.ledger.schema import delivery, delivery_item, events, instance
from dicomnode.ledger.statements import NO_LEASE, bind_values, bound, moving, stands
from dicomnode.ledger.states import DeliveryState, Event, ItemState
from dicomnode.ledger.transaction import LedgerTransaction
from dicomnode.ledger.values import Delivery, DeliveryItem

REFUSED: Final = "refused"  # reason: the peer refused some of the images

_MINE = and_(delivery.c.id == bound("delivery"), delivery.c.lease_token == bound("token"))
_STILL_MINE = exists().where(_MINE, stands(delivery, DeliveryState.SENDING))
# The answer to an instance that was being sent when an operator cancelled the delivery. It is recorded as usual.
_CANCELLED_UNDER_WAY = exists().where(
    _MINE, stands(delivery, DeliveryState.CANCELLED), delivery.c.state_cause == literal_column(f"'{Event.CANCEL}'")
)
# A clock that was set back stands before the moment at which the wait began: nobody waits for it to catch up.
_IS_DUE = or_(delivery.c.next_at <= bound("now"), delivery.c.state_at > bound("now"))

_LEASE_LOST = (
    moving(delivery, Event.LEASE_LOST)
    .where(delivery.c.peer == bound("peer"), delivery.c.lease_until < bound("now"))
    .values(next_at=bound("now"), **NO_LEASE)
)
_RETURN_ALL = moving(delivery, Event.LEASE_LOST).values(next_at=bound("now"), **NO_LEASE)
_CLAIM = (
    moving(delivery, Event.CLAIM)
    .where(
        delivery.c.id
        == select(delivery.c.id)
        .where(delivery.c.peer == bound("peer"), stands(delivery, DeliveryState.DUE), _IS_DUE)
        .order_by(delivery.c.priority, delivery.c.next_at, delivery.c.id)
        .limit(1)
        .scalar_subquery()
    )
    .values(
        attempts=delivery.c.attempts + 1,
        lease_owner=bound("owner"),
        lease_token=delivery.c.lease_token + 1,
        lease_until=bound("until"),
    )
    .returning(delivery)
)
_BEAT = update(delivery).where(_MINE, stands(delivery, DeliveryState.SENDING)).values(lease_until=bound("until"))

# A person's word stands in the events, which nothing overwrites, and holds for every later attempt.
_IS_IDENTITY_OPEN = select(
    exists().where(
        delivery.c.id == bound("delivery"),
        ~PART_IS_THERE,
        ~exists().where(
            events.c.table_name == delivery.name,
            events.c.row_id == delivery.c.id,
            events.c.kind == IDENTITY_ACCEPTED,
        ),
    )
)

_PENDING_ITEMS = (
    select(
        delivery_item.c.id,
        delivery_item.c.instance_id,
        delivery_item.c.tries,
        delivery_item.c.status,
        instance.c.file,
        instance.c.sop_class_uid,
        instance.c.sop_instance_uid,
        instance.c.transfer_syntax_uid,
        instance.c.size_bytes,
        instance.c.sha256,
    )
    .join_from(delivery_item, instance)
    .where(delivery_item.c.delivery_id == bound("delivery"), stands(delivery_item, ItemState.PENDING))
    .order_by(delivery_item.c.id)
)

# From the events, which nothing overwrites: the operator's retry and every later answer leave them standing.
_REFUSALS = select(events.c.row_id, events.c.detail).where(
    events.c.table_name == delivery_item.name,
    events.c.to_state == ItemState.REFUSED,
    events.c.row_id.in_(
        select(delivery_item.c.id).where(
            delivery_item.c.delivery_id == bound("delivery"), stands(delivery_item, ItemState.PENDING)
        )
    ),
)

_THE_ITEM = and_(
    delivery_item.c.id == bound("item"),
    delivery_item.c.delivery_id == bound("delivery"),
    or_(_STILL_MINE, _CANCELLED_UNDER_WAY),
)
_ACKNOWLEDGE = (
    moving(delivery_item, Event.ACKNOWLEDGE).where(_THE_ITEM).values(status=bound("status"), attempt=bound("attempt"))
)
_REFUSE = moving(delivery_item, Event.REFUSE).where(_THE_ITEM).values(status=bound("status"))
_FAIL_ITEM = (
    update(delivery_item)
    .where(_THE_ITEM, stands(delivery_item, ItemState.PENDING))
    .values(status=bound("status"), tries=delivery_item.c.tries + 1)
    .returning(delivery_item.c.tries)
)

_ITEMS_BY_STATE = (
    select(delivery_item.c.state, delivery_item.c.status, func.count().label("items"))
    .where(delivery_item.c.delivery_id == bound("delivery"))
    .group_by(delivery_item.c.state, delivery_item.c.status)
    .order_by(delivery_item.c.state, delivery_item.c.status)
)

_RETURN = moving(delivery, Event.RETURN).where(_MINE).values(next_at=bound("next_at"), **NO_LEASE)
_DEFER = _RETURN.values(
    # "In a row" ends with progress: an image that was acknowledged in this very attempt.
    failures=bound("failures"),
    reason=bound("reason"),
    sentence=bound("sentence"),
)
_PROGRESS = select(
    exists().where(delivery_item.c.delivery_id == bound("delivery"), delivery_item.c.attempt == bound("attempt"))
)
_HOLD = moving(delivery, Event.HOLD).where(_MINE).values(reason=bound("reason"), sentence=bound("sentence"), **NO_LEASE)
_FINISH = (
    moving(delivery, Event.FINISH)
    .where(_MINE)
    .values(sent_at=bound("now"), proof="acknowledged", failures=0, reason=None, sentence="", **NO_LEASE)
)


def return_all(transaction: LedgerTransaction, detail: str) -> int:
    """Make every delivery due that was being sent: at the start of a service no lease is alive."""
    return transaction.move(_RETURN_ALL, detail)


def claim(transaction: LedgerTransaction, peer: str, owner: str, until: datetime) -> Delivery | None:
    """Take the most urgent delivery that is due to this peer, among equals the one that has been due longest."""
    transaction.move(_LEASE_LOST, "the lease ran out", peer=peer)
    row = transaction.take(_CLAIM, peer=peer, owner=owner, until=until)
    return None if row is None else claimed_delivery(row)


def next_due_at(connection: Connection, peer: str, now: datetime) -> datetime | None:
    """Return the moment from which the first waiting delivery to this peer may be claimed. None: none waits."""
    waiting = (delivery.c.peer == peer, stands(delivery, DeliveryState.DUE))
    if connection.execute(select(exists().where(*waiting, _IS_DUE)), bind_values(now=now)).scalar_one():
        return now
    moment: datetime | None = connection.execute(select(func.min(delivery.c.next_at)).where(*waiting)).scalar_one()
    return moment


def without_peer(connection: Connection, reachable: Collection[str]) -> dict[str, int]:
    """Count the due deliveries to each peer that is not among those that can be sent to."""
    question = (
        select(delivery.c.peer, func.count())
        .where(stands(delivery, DeliveryState.DUE), delivery.c.peer.not_in(sorted(reachable)))
        .group_by(delivery.c.peer)
        .order_by(delivery.c.peer)
    )
    return {peer: number for peer, number in connection.execute(question)}


def beat(transaction: LedgerTransaction, claimed: Delivery, until: datetime) -> bool:
    """Renew the lease. False: the delivery is no longer ours."""
    return transaction.connection.execute(_BEAT, bind_values(**_claim_of(claimed), until=until)).rowcount == 1


def pending_items(connection: Connection, claimed: Delivery) -> list[DeliveryItem]:
    """List the pending items, in the order of the slices."""
    refusals: defaultdict[int, set[int]] = defaultdict(set)
    for row in connection.execute(_REFUSALS, bind_values(delivery=claimed.id)):
        refusals[row.row_id].add(int(row.detail, 16))
    return [
        pending_item(row, refusals[row.id])
        for row in connection.execute(_PENDING_ITEMS, bind_values(delivery=claimed.id))
    ]


def is_ours(connection: Connection, claimed: Delivery) -> bool:
    """Does the claim hold? It does not after its lease was lost, or an operator cancelled the delivery."""
    return bool(connection.execute(select(_STILL_MINE), bind_values(**_claim_of(claimed))).scalar_one())


def is_identity_open(connection: Connection, claimed: Delivery) -> bool:
    """Is it to be asked whether the peer has the study under another patient?

    Not where the peer has a part of the delivery already, and not where a person released it in spite of the answer.
    """
    return bool(connection.execute(_IS_IDENTITY_OPEN, bind_values(delivery=claimed.id)).scalar_one())


def state_of(connection: Connection, delivery_id: DeliveryId) -> DeliveryState:
    """Return the state of a delivery, whoever holds it."""
    return DeliveryState(connection.execute(select(delivery.c.state).where(delivery.c.id == delivery_id)).scalar_one())


def acknowledge(transaction: LedgerTransaction, claimed: Delivery, item: DeliveryItem, status: int) -> bool:
    """Record that the peer has the instance. False: the claim is no longer ours, and no other item may be sent."""
    answer = {**_claim_of(claimed), "item": item.id, "status": status, "attempt": claimed.attempts}
    return transaction.move(_ACKNOWLEDGE, f"{status:04X}", **answer) == 1 and is_ours(transaction.connection, claimed)


def refuse(transaction: LedgerTransaction, claimed: Delivery, item: DeliveryItem, status: int) -> bool:
    """Record that the peer will not take the instance. False means the same as from ``acknowledge``."""
    moved = transaction.move(_REFUSE, f"{status:04X}", **_claim_of(claimed), item=item.id, status=status)
    return moved == 1 and is_ours(transaction.connection, claimed)


def fail_item(transaction: LedgerTransaction, claimed: Delivery, item: DeliveryItem, status: int) -> int:
    """Record that the peer could not take the instance this time; return how often that has happened."""
    answer = bind_values(**_claim_of(claimed), item=item.id, status=status)
    tries = transaction.connection.execute(_FAIL_ITEM, answer).scalar_one_or_none()
    return item.tries if tries is None else int(tries)


def defer(transaction: LedgerTransaction, claimed: Delivery, *, due_at: datetime, reason: str, sentence: str) -> bool:
    """Make the delivery due again at a later moment, after a transient failure."""
    this_attempt = bind_values(delivery=claimed.id, attempt=claimed.attempts)
    progress = transaction.connection.execute(_PROGRESS, this_attempt).scalar_one()
    failures = 1 if progress else claimed.failures + 1
    wait = {"next_at": due_at, "failures": failures, "reason": reason, "sentence": sentence}
    return transaction.move(_DEFER, sentence, **_claim_of(claimed), **wait) == 1


def release_claim(transaction: LedgerTransaction, claimed: Delivery) -> bool:
    """Make the delivery due at once, without a failure: the service stops between two instances."""
    return transaction.move(_RETURN, "stopped", **_claim_of(claimed), next_at=transaction.now) == 1


def hold(transaction: LedgerTransaction, claimed: Delivery, *, reason: str, sentence: str) -> bool:
    """Hold the delivery until an operator acts."""
    return transaction.move(_HOLD, sentence, **_claim_of(claimed), reason=reason, sentence=sentence) == 1


def finish(transaction: LedgerTransaction, claimed: Delivery, committer: str | None) -> DeliveryState | None:
    """End a delivery whose items are all answered: it is sent where the peer took every one, else held.

    ``committer``: the peer that is to commit to what was sent; None: nobody is asked. None as the result: the claim is
    no longer ours.
    """
    if not is_ours(transaction.connection, claimed):
        return None
    rows = transaction.connection.execute(_ITEMS_BY_STATE, bind_values(delivery=claimed.id)).all()
    assert all(row.state != ItemState.PENDING for row in rows), "a delivery is finished when no item is pending"
    refused = [row for row in rows if row.state == ItemState.REFUSED]
    if not refused:
        transaction.move(_FINISH, "every image acknowledged", **_claim_of(claimed))
        if committer is not None:
            commitments.want(transaction, claimed.id, committer)
        return DeliveryState.SENT
    statuses = ", ".join(f"{row.items} x status {row.status:04X}" for row in refused)
    total = sum(row.items for row in rows)
    sentence = f"{claimed.peer} refused {sum(row.items for row in refused)} of {total} images: {statuses}."
    hold(transaction, claimed, reason=REFUSED, sentence=sentence)
    return DeliveryState.HELD


def _claim_of(claimed: Delivery) -> dict[str, object]:
    return {"delivery": claimed.id, "token": claimed.lease_token}
