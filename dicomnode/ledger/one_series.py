"""One series in full: its files, jobs and deliveries, and the sentences and events that explain its state."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import Connection, and_, func, literal, or_, select

from dicomnode.errors import InputError
from dicomnode.ids import SeriesId
from dicomnode.ledger import jobs, lists, quarantine, removed, sentences
from dicomnode.ledger.lists import IS_ALERT, SOURCE
from dicomnode.ledger.mapping.event import event_line
from dicomnode.ledger.mapping.job import job_line
from dicomnode.ledger.mapping.series import series_detail
from dicomnode.ledger.schema import delivery_item, events, instance, job, series
from dicomnode.ledger.schema import quarantine as aside
from dicomnode.ledger.sentences import Arrival, Standing
from dicomnode.ledger.statements import AnyRow, bind_values, bound
from dicomnode.ledger.states import SeriesState
from dicomnode.ledger.values import WAITS_FOR_PARTS, WAITS_FOR_STUDY
from dicomnode.ledger.views import DeliveryLine, EventLine, Explanation, JobLine, SeriesDetail

_ONE_SERIES = select(series, IS_ALERT, SOURCE.label("source")).where(series.c.id == bound("series"))
_FILES = (
    select(instance)
    .where(instance.c.series_id == bound("series"))
    .order_by(instance.c.revision, instance.c.number, instance.c.stored_at, instance.c.id)
)
_ARRIVALS = (
    select(instance.c.revision, instance.c.peer, func.count().label("instances"))
    .where(instance.c.series_id == bound("series"))
    .group_by(instance.c.revision, instance.c.peer)
    .order_by(instance.c.revision, instance.c.peer)
)
_CALLED = (
    select(instance.c.called_ae)
    .where(instance.c.series_id == bound("series"), instance.c.called_ae.is_not(None))
    .distinct()
    .order_by(instance.c.called_ae)
)
_JOBS = (
    select(job)
    .where(or_(job.c.series_id == bound("series"), job.c.output_series_id == bound("series")))
    .order_by(job.c.id)
)


def show(connection: Connection, series_id: int, *, reachable: Collection[str] | None, identify: bool) -> SeriesDetail:
    """Return one series with its files, jobs and deliveries. Raises InputError where there is no such series."""
    row = _row(connection, series_id)
    return series_detail(
        row,
        connection.execute(_FILES, bind_values(series=series_id)).all(),
        _jobs(connection, series_id),
        _deliveries(connection, series_id, reachable),
        identify=identify,
    )


def explain(
    connection: Connection, series_id: int, *, reachable: Collection[str] | None, identify: bool
) -> Explanation:
    """Explain why a series is in its state. Raises InputError where there is no such series."""
    row = _row(connection, series_id)
    own_jobs, deliveries = _jobs(connection, series_id), _deliveries(connection, series_id, reachable)
    history = _events(connection, series_id, own_jobs, deliveries)
    last = own_jobs[-1] if own_jobs else None
    figures = () if last is None else jobs.figures(connection, last.id)
    notes = _notes(connection, row, last, deliveries)
    standing = _standing(connection, row, history)
    return Explanation(
        id=row.id,
        state=row.state,
        revision=row.revision,
        reason=row.reason,
        sentences=sentences.explain(standing, last, figures, notes, deliveries),
        notes=notes,
        job=last,
        gate=figures,
        deliveries=deliveries,
        events=history,
        series_uid=row.series_uid if identify else None,
    )


def _row(connection: Connection, series_id: int) -> AnyRow:
    row = connection.execute(_ONE_SERIES, bind_values(series=series_id)).one_or_none()
    if row is None:
        raise InputError(f"There is no series {series_id}.", hint="`dicomnode series list` shows them.")
    return row


def _jobs(connection: Connection, series_id: int) -> tuple[JobLine, ...]:
    """List the jobs that read or made the series."""
    return tuple(job_line(row) for row in connection.execute(_JOBS, bind_values(series=series_id)))


def _deliveries(connection: Connection, series_id: int, reachable: Collection[str] | None) -> tuple[DeliveryLine, ...]:
    """List the deliveries of the series, the oldest first."""
    lines = lists.delivery_lines(connection, lists.ALL, reachable=reachable, of_series=series_id)
    return tuple(reversed(lines))


def _events(
    connection: Connection, series_id: int, own_jobs: Iterable[JobLine], deliveries: Iterable[DeliveryLine]
) -> tuple[EventLine, ...]:
    """List the events of a series, its jobs and deliveries one by one, and those of its images and items counted."""
    numbers = [line.id for line in deliveries]
    rows = {"series": [series_id], "job": [line.id for line in own_jobs], "delivery": numbers}
    # Not as pairs in one list: SQLite would read every event there is.
    each = select(events, literal(1).label("times")).where(
        or_(*(and_(events.c.table_name == table, events.c.row_id.in_(ids)) for table, ids in rows.items()))
    )
    of_images = select(instance.c.id).where(instance.c.series_id == series_id)
    of_items = select(delivery_item.c.id).where(delivery_item.c.delivery_id.in_(numbers))
    same = (events.c.table_name, events.c.kind, events.c.from_state, events.c.to_state, events.c.actor, events.c.detail)
    counted = select(
        *same, func.max(events.c.at).label("at"), func.max(events.c.id).label("id"), func.count().label("times")
    ).group_by(*same)
    found = [(row.id, row, row.row_id) for row in connection.execute(each)]
    set_aside = select(aside.c.id).where(aside.c.series_id == series_id)
    for table, members in (("instance", of_images), ("delivery_item", of_items), ("quarantine", set_aside)):
        of_members = counted.where(events.c.table_name == table, events.c.row_id.in_(members))
        found += [(row.id, row, None) for row in connection.execute(of_members)]
    return tuple(event_line(row, row_id) for _, row, row_id in sorted(found, key=lambda entry: entry[0]))


def _standing(connection: Connection, row: AnyRow, history: Sequence[EventLine]) -> Standing:
    arrivals = connection.execute(_ARRIVALS, bind_values(series=row.id))
    return Standing(
        state=SeriesState(row.state),
        revision=row.revision,
        aborted=row.aborted,
        last_at=row.last_at,
        verdict=row.sentence or _what_is_waited_for(history),
        called=tuple(connection.execute(_CALLED, bind_values(series=row.id)).scalars()),
        arrivals=tuple(Arrival(revision=one.revision, peer=one.peer, instances=one.instances) for one in arrivals),
    )


def _what_is_waited_for(history: Sequence[EventLine]) -> str:
    """Return why a settled series has no verdict yet; empty where it only waits for its turn."""
    return next((one.detail for one in reversed(history) if one.kind in (WAITS_FOR_PARTS, WAITS_FOR_STUDY)), "")


def _notes(
    connection: Connection, row: AnyRow, last: JobLine | None, deliveries: Sequence[DeliveryLine]
) -> tuple[str, ...]:
    """List the notes of the verdict, of what was set aside and removed, and of the last job; none is said twice."""
    # If the verdict is that something was set aside, its sentence says so already.
    set_aside = [one for one in quarantine.notes(connection, SeriesId(row.id)) if one not in row.sentence]
    gone = removed.gone(connection, SeriesId(row.id))
    # The sentence of a held delivery says already what the result gate found.
    of_job = [one for one in last.notes if not any(one in line.sentence for line in deliveries)] if last else []
    return (*row.notes, *set_aside, *([] if gone is None else [gone]), *of_job)
