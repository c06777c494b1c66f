"""Deliveries of a series as it was received, to the peers that its rule forwards it to.

They are opened in the transaction of the verdict, whatever the verdict is, so that a crash loses none. A peer gets each
instance once: the delivery of a later revision has the instances that no earlier delivery brings, and nothing is held
or cancelled for a late instance. What a peer sent itself is not sent back to it.
"""

from __future__ import annotations

from sqlalchemy import exists, or_, select

from dicomnode.ids import InstanceId, SeriesId
from dicomnode.ledger import deliveries
from dicomnode.ledger.schema import RECEIVED, delivery, delivery_item, instance
from dicomnode.ledger.statements import bind_values, bound, stands
from dicomnode.ledger.states import DeliveryState, ItemState
from dicomnode.ledger.transaction import LedgerTransaction
from dicomnode.ledger.values import SET_ASIDE, Cargo, Forward

_TO_PEER = (
    delivery.c.series_id == bound("series"),
    delivery.c.job_id.is_(None),
    delivery.c.peer == bound("peer"),
)
_IS_OPENED = select(exists().where(*_TO_PEER, delivery.c.revision == bound("revision")))
_IS_BROUGHT = exists().where(
    delivery_item.c.instance_id == instance.c.id,
    delivery_item.c.delivery_id == delivery.c.id,
    *_TO_PEER,
    or_(~stands(delivery, DeliveryState.CANCELLED), stands(delivery_item, ItemState.ACKNOWLEDGED)),
)
_TO_BRING = (
    select(instance.c.id)
    .where(
        instance.c.series_id == bound("series"),
        instance.c.revision <= bound("revision"),
        instance.c.origin == RECEIVED,
        instance.c.peer != bound("peer"),
        ~_IS_BROUGHT,
    )
    .order_by(instance.c.stored_at, instance.c.id)
)


def open_deliveries(transaction: LedgerTransaction, series_id: SeriesId, revision: int, forward: Forward) -> None:
    """Open a delivery to each peer, with the instances of a revision that the peer is still to get.

    A new verdict on the same revision opens none to a peer that has one. It is held if a file of the series that was
    set aside is unseen.
    """
    cargo = Cargo(series=series_id, revision=revision, job=None, priority=forward.priority)
    doubtful = deliveries.is_in_doubt(transaction.connection, series_id)
    for peer in dict.fromkeys(forward.peers):
        values = bind_values(series=series_id, revision=revision, peer=peer)
        if transaction.connection.execute(_IS_OPENED, values).scalar_one():
            continue
        wanted = transaction.connection.execute(_TO_BRING, values).scalars().all()
        if wanted:
            deliveries.open_one(
                transaction, cargo, peer, [InstanceId(one) for one in wanted], cause="forward",
                reason=SET_ASIDE if doubtful else None, sentence=deliveries.doubt(series_id) if doubtful else "",
            )  # fmt: skip
