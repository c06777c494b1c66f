"""Queries for the rows that wait for a person: ``status`` names each of them, and an alert counts them.

These are alerts of series, held and failed jobs, held deliveries, deliveries that are due to a peer that cannot be sent
to, and files that were set aside. A job that failed on an older revision waits for nobody: the newer one has its own.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, Select, func, literal, select

from dicomnode.ids import SeriesId
from dicomnode.ledger import lists, quarantine
from dicomnode.ledger.lists import IS_ALERT
from dicomnode.ledger.schema import delivery, events, job, series
from dicomnode.ledger.sentences import alerting
from dicomnode.ledger.states import DeliveryState, Event, JobState
from dicomnode.ledger.views import AttentionLine, StuckPeer, Waiting

MOST_NAMED: Final = 100  # rows of a kind that ``lines`` names one by one

_JOBS = (
    select(
        literal("job").label("kind"),
        job.c.id,
        job.c.series_id.label("of_series"),
        job.c.state,
        job.c.reason,
        literal("").label("peer"),
        job.c.state_at,
        job.c.sentence,
    )
    .join_from(job, series, series.c.id == job.c.series_id)
    .where(job.c.state.in_([JobState.HELD, JobState.FAILED]), job.c.revision == series.c.revision)
)
_DELIVERIES = select(
    literal("delivery").label("kind"),
    delivery.c.id,
    delivery.c.series_id.label("of_series"),
    delivery.c.state,
    delivery.c.reason,
    delivery.c.peer,
    delivery.c.state_at,
    delivery.c.sentence,
).where(delivery.c.state == DeliveryState.HELD)
_SERIES = select(
    literal("series").label("kind"),
    series.c.id,
    series.c.id.label("of_series"),
    series.c.state,
    series.c.reason,
    literal("").label("peer"),
    series.c.state_at,
    series.c.sentence,
    series.c.notes,
).where(IS_ALERT)
_FAILING = (
    select(delivery.c.id, delivery.c.peer, delivery.c.failures, delivery.c.reason)
    .where(delivery.c.state == DeliveryState.DUE, delivery.c.failures > 0)
    .order_by(delivery.c.failures.desc(), delivery.c.id)
)


def lines(connection: Connection, peers: Collection[str] | None) -> tuple[AttentionLine, ...]:
    """List the rows that wait for a person, the newest of each kind. ``peers``: those that can be sent to."""
    found = [
        AttentionLine(
            table=series.name,
            id=row.id,
            series=row.id,
            state=row.state,
            reason=row.reason,
            sentence=" ".join(quarantine.objections(connection, SeriesId(row.id))) or alerting(row.sentence, row.notes),
        )
        for row in connection.execute(_SERIES.order_by(series.c.id.desc()).limit(MOST_NAMED))
    ]
    found += [
        AttentionLine(
            table=row.kind, id=row.id, series=row.of_series, state=row.state, reason=row.reason, sentence=row.sentence
        )
        for question in (_JOBS.order_by(job.c.id.desc()), _DELIVERIES.order_by(delivery.c.id.desc()))
        for row in connection.execute(question.limit(MOST_NAMED))
    ]
    found += [
        AttentionLine(
            table="delivery",
            id=row.id,
            series=row.of_series,
            state=row.state,
            reason=lists.NO_PEER,
            sentence=lists.no_peer_sentence(row.id, row.peer),
        )
        for row in connection.execute(_stranded(peers).order_by(delivery.c.id.desc()).limit(MOST_NAMED))
    ]
    return (*found, *quarantine.attention(connection))


def counted(connection: Connection, peers: Collection[str] | None) -> list[Waiting]:
    """Count the same rows by table, state, reason and peer. No sentence of a row is read: it may quote a stranger."""
    found = []
    for question in (_JOBS, _DELIVERIES, _stranded(peers), _SERIES):
        rows = question.subquery()
        key = (rows.c.kind, rows.c.state, rows.c.reason, rows.c.peer)
        tally = select(
            *key,
            func.count().label("rows"),
            func.max(rows.c.id).label("newest"),
            func.min(rows.c.state_at).label("since"),
        ).group_by(*key)
        found += [
            Waiting(
                table=row.kind, state=row.state, reason=row.reason or "", peer=row.peer, rows=row.rows,
                newest=row.newest, since=row.since,
            )
            for row in connection.execute(tally)
        ]  # fmt: skip
    return found + quarantine.waiting(connection)


def stuck_peers(connection: Connection, since: datetime) -> list[StuckPeer]:
    """List the peers to which one delivery has failed again and again, without a success, since before ``since``."""
    found: dict[str, StuckPeer] = {}
    for row in connection.execute(_FAILING):
        if row.peer in found:
            continue
        # The first of the failures in a row: each of them gave the claim back once.
        first = (
            select(events.c.at)
            .where(events.c.table_name == delivery.name, events.c.row_id == row.id, events.c.kind == Event.RETURN)
            .order_by(events.c.id.desc())
            .offset(row.failures - 1)
            .limit(1)
        )
        began_at = connection.execute(first).scalar_one_or_none()
        if began_at is not None and began_at <= since:
            found[row.peer] = StuckPeer(
                peer=row.peer, delivery=row.id, failures=row.failures, reason=row.reason or "", since=began_at
            )
    return list(found.values())


def _stranded(peers: Collection[str] | None) -> Select[str, int, int, str, str, str, datetime]:
    """The deliveries that are due to a peer that cannot be sent to."""
    return select(
        literal("delivery").label("kind"),
        delivery.c.id,
        delivery.c.series_id.label("of_series"),
        delivery.c.state,
        literal(lists.NO_PEER).label("reason"),
        delivery.c.peer,
        delivery.c.state_at,
    ).where(lists.has_no_peer(peers))
