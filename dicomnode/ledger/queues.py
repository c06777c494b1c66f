"""Queries for the series, jobs and deliveries that wait, since when they wait, and whose lease has run out.

Also the models that the queued jobs need.

The answers are small, however large the ledger is: each query reads an index of the rows that are not done.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, func, select

from dicomnode.ledger.schema import delivery, job, series
from dicomnode.ledger.statements import bind_values, bound, stands
from dicomnode.ledger.states import DeliveryState, JobState, SeriesState
from dicomnode.ledger.views import Queue, WaitingModel

_SETTLED = select(func.count().label("rows"), func.min(series.c.state_at).label("since")).where(
    stands(series, SeriesState.SETTLED)
)
_QUEUED = select(func.count().label("rows"), func.min(job.c.queued_at).label("since")).where(
    stands(job, JobState.QUEUED)
)
_DUE = (
    select(delivery.c.peer, func.count().label("rows"), func.min(delivery.c.created_at).label("since"))
    .where(stands(delivery, DeliveryState.DUE))
    .group_by(delivery.c.peer)
    .order_by(delivery.c.peer)
)
_MODELS = (
    select(
        job.c.model, job.c.model_digest, func.count().label("jobs"), func.min(job.c.queued_at).label("since"),
    )
    .where(stands(job, JobState.QUEUED))
    .group_by(job.c.model, job.c.model_digest)
    .order_by("since")
)  # fmt: skip
_STALLED_JOBS = select(func.count()).where(stands(job, JobState.RUNNING), job.c.lease_until < bound("now"))
_STALLED_DELIVERIES = (
    select(delivery.c.peer, func.count())
    .where(stands(delivery, DeliveryState.SENDING), delivery.c.lease_until < bound("now"))
    .group_by(delivery.c.peer)
)


def queues(connection: Connection, now: datetime) -> tuple[Queue, ...]:
    """List the queues: series that wait for their verdict, jobs, and deliveries of each peer that has any."""
    values = bind_values(now=now)
    settled, queued = connection.execute(_SETTLED).one(), connection.execute(_QUEUED).one()
    late = {peer: rows for peer, rows in connection.execute(_STALLED_DELIVERIES, values)}
    due = {row.peer: row for row in connection.execute(_DUE)}
    return (
        Queue(stage="judge", peer="", rows=settled.rows, since=settled.since, stalled=0),
        Queue(
            stage="derive", peer="", rows=queued.rows, since=queued.since,
            stalled=connection.execute(_STALLED_JOBS, values).scalar_one(),
        ),
        *(
            Queue(
                stage="push", peer=peer, rows=due[peer].rows if peer in due else 0,
                since=due[peer].since if peer in due else None, stalled=late.get(peer, 0),
            )
            for peer in sorted(due.keys() | late.keys())
        ),
    )  # fmt: skip


def waiting_models(connection: Connection) -> list[WaitingModel]:
    """List the models that queued jobs need, the one that is needed longest first."""
    return [
        WaitingModel(model=row.model, digest=row.model_digest, jobs=row.jobs, since=row.since)
        for row in connection.execute(_MODELS)
    ]
