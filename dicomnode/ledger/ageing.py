"""Removal of rows that are too old to be kept: events, and alerts whose all-clear was sent.

In: a moment; older rows are removed, a piece at a time, so that no writer waits for long. Rows of the node itself and
of its starts stay (when a backup was put back, which default model was chosen), and so do the refusals of instances
that a peer is still to get: the next answer to them depends on these.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy import Connection, and_, delete, exists, func, or_, select

from dicomnode.ledger.schema import alert, boot, delivery_item, events, node
from dicomnode.ledger.statements import bind_values, bound, stands
from dicomnode.ledger.states import AlertState, ItemState
from dicomnode.ledger.transaction import LedgerTransaction

PIECE: Final = 1000  # rows that one transaction looks at

_WINDOW = (
    select(events.c.id, events.c.at)
    .where(events.c.id > bound("after"))
    .order_by(events.c.id)
    .limit(bound("piece"))
    .subquery()
)
_OF_WINDOW = select(func.max(_WINDOW.c.id).label("last"), func.min(_WINDOW.c.at).label("oldest"))
_IS_NEEDED = or_(
    events.c.table_name.in_([node.name, boot.name]),
    and_(
        events.c.table_name == delivery_item.name,
        exists().where(delivery_item.c.id == events.c.row_id, stands(delivery_item, ItemState.PENDING)),
    ),
)
_FORGET = delete(events).where(
    events.c.id > bound("after"),
    events.c.id <= bound("last"),
    events.c.at < bound("before", events.c.at.type),
    ~_IS_NEEDED,
)
_FORGET_ALERTS = delete(alert).where(
    stands(alert, AlertState.CLOSED), alert.c.state_at < bound("before", alert.c.state_at.type)
)


def window(connection: Connection, after: int, before: datetime) -> int | None:
    """Return the last event of the piece that begins behind ``after``; None where nothing in it is old enough.

    Events are written in the order of time, but for steps of the clock, so there is nothing older behind it either.
    """
    row = connection.execute(_OF_WINDOW, bind_values(after=after, piece=PIECE)).one()
    return None if row.last is None or row.oldest >= before else int(row.last)


def forget_events(transaction: LedgerTransaction, after: int, last: int, before: datetime) -> int:
    """Remove the events of a piece that are older than ``before``; return how many there were."""
    return transaction.connection.execute(_FORGET, bind_values(after=after, last=last, before=before)).rowcount


def forget_alerts(transaction: LedgerTransaction, before: datetime) -> int:
    """Remove the alerts whose all-clear was sent before that moment; return how many there were."""
    return transaction.connection.execute(_FORGET_ALERTS, bind_values(before=before)).rowcount
