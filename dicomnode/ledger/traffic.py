"""Queries for the traffic with each peer: the series that it sent, and the deliveries to it.

A series counts for the peer that sent its first instance. The instances are counted series by series, so that the
answer takes as long with a million instances as with a thousand.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, case, func, select

from dicomnode.ledger.schema import RECEIVED, delivery, instance, series
from dicomnode.ledger.statements import bind_values, bound
from dicomnode.ledger.states import DeliveryState
from dicomnode.ledger.views import Recipient, Sender

_FIRST = (
    select(instance.c.peer)
    .where(instance.c.series_id == series.c.id)
    .order_by(instance.c.revision)
    .limit(1)
    .scalar_subquery()
)
_COUNT = select(func.count()).where(instance.c.series_id == series.c.id).scalar_subquery()
_CAME = (
    select(
        _FIRST.label("peer"),
        series.c.last_at,
        case((series.c.last_at >= bound("since"), 1), else_=0).label("is_counted"),
        case((series.c.last_at >= bound("since"), _COUNT), else_=0).label("instances"),
    )
    .where(series.c.origin == RECEIVED, series.c.last_at >= bound("earliest"))
    .subquery()
)
_SENDERS = (
    select(
        _CAME.c.peer,
        func.sum(_CAME.c.is_counted).label("series"),
        func.sum(_CAME.c.instances).label("instances"),
        func.max(_CAME.c.last_at).label("last_at"),
    )
    .where(_CAME.c.peer.is_not(None))
    .group_by(_CAME.c.peer)
    .order_by(_CAME.c.peer)
)
_WAITS = delivery.c.state.in_([DeliveryState.DUE, DeliveryState.SENDING])
_RECIPIENTS = (
    select(
        delivery.c.peer,
        func.count().filter(delivery.c.sent_at >= bound("since")).label("sent"),
        func.count().filter(_WAITS).label("waiting"),
        func.count().filter(delivery.c.state == DeliveryState.HELD).label("held"),
        func.min(case((_WAITS, delivery.c.created_at))).label("waiting_since"),
        func.max(delivery.c.sent_at).label("last_at"),
    )
    .group_by(delivery.c.peer)
    .order_by(delivery.c.peer)
)


def senders(connection: Connection, since: datetime, earliest: datetime) -> tuple[Sender, ...]:
    """Count the series that came since a moment, for each peer that sent something since an earlier one."""
    rows = connection.execute(_SENDERS, bind_values(since=since, earliest=earliest))
    return tuple(Sender(peer=row.peer, series=row.series, instances=row.instances, last_at=row.last_at) for row in rows)


def recipients(connection: Connection, since: datetime) -> tuple[Recipient, ...]:
    """Count the deliveries to each peer that wait or are held, and those that were sent since a moment."""
    return tuple(
        Recipient(
            peer=row.peer,
            sent=row.sent,
            waiting=row.waiting,
            held=row.held,
            waiting_since=row.waiting_since,
            last_at=row.last_at,
        )
        for row in connection.execute(_RECIPIENTS, bind_values(since=since))
    )
