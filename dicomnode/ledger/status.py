"""The state of the whole ledger in numbers: what ``status`` shows and the monitor counts."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from sqlalchemy import Connection, Select, func, select

from dicomnode.ledger import attention, boots, models
from dicomnode.ledger.schema import RECEIVED, delivery, instance, job, quarantine, series
from dicomnode.ledger.sending import without_peer
from dicomnode.ledger.states import DeliveryState, JobState, SeriesState
from dicomnode.ledger.views import Status

_INSTANCES = select(func.count()).select_from(instance)
_DERIVED = _INSTANCES.where(instance.c.job_id.is_not(None))
_SERIES = select(series.c.state, func.count()).where(series.c.origin == RECEIVED).group_by(series.c.state)
_JOBS = select(job.c.state, func.count()).group_by(job.c.state)
_DELIVERIES = select(delivery.c.state, func.count()).group_by(delivery.c.state)
_PROOFS = select(delivery.c.proof, func.count()).where(delivery.c.proof.is_not(None)).group_by(delivery.c.proof)
_QUARANTINE = select(quarantine.c.reason, func.count()).group_by(quarantine.c.reason)
_WAITING_SINCE = select(func.min(job.c.queued_at)).where(job.c.state == JobState.QUEUED)
_KEPT = (
    select(series.c.reason, func.count())
    .where(series.c.origin == RECEIVED, series.c.state == SeriesState.KEPT)
    .group_by(series.c.reason)
)


def status(connection: Connection, version: str, reachable: Collection[str] | None) -> Status:
    """Count what is in the ledger, by state, and list the rows that wait for a person."""
    instances = connection.execute(_INSTANCES).scalar_one()
    derived = connection.execute(_DERIVED).scalar_one()
    return Status(
        version=version,
        boot=boots.last(connection),
        settings=boots.last_settings(connection),
        instances=instances - derived,
        derived_instances=derived,
        series=_per(SeriesState, _numbers(connection, _SERIES)),
        jobs=_per(JobState, _numbers(connection, _JOBS)),
        deliveries=_per(DeliveryState, _numbers(connection, _DELIVERIES)),
        proofs=_numbers(connection, _PROOFS),
        quarantine=_numbers(connection, _QUARANTINE),
        waiting_since=connection.execute(_WAITING_SINCE).scalar_one(),
        no_peer={} if reachable is None else without_peer(connection, reachable),
        model_choice=models.last_choice(connection),
        attention=attention.lines(connection, reachable),
    )


def kept(connection: Connection) -> dict[str, int]:
    """Count the received series that were kept, by the reason of their verdict."""
    return _numbers(connection, _KEPT)


def _numbers(connection: Connection, question: Select[str, int]) -> dict[str, int]:
    return {key: number for key, number in connection.execute(question)}


def _per(states: Iterable[str], numbers: dict[str, int]) -> dict[str, int]:
    """Give every state a number, also zero, so that the output names every state."""
    return {str(state): numbers.get(state, 0) for state in states}
