"""The read-only queries of the ledger for an operator; nothing here can write."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime

from sqlalchemy import Connection, Select, and_, func, literal, or_, select

from dicomnode.derivation import GateFigure
from dicomnode.errors import InputError, LedgerError
from dicomnode.ids import SeriesId
from dicomnode.ledger import (
    alerts,
    attention,
    boots,
    judgements,
    lists,
    models,
    old_images,
    quarantine,
    rehearsals,
    removed,
    results,
    traffic,
)
from dicomnode.ledger.deliveries import without_peer
from dicomnode.ledger.engine import ReadingDatabase, require_head, require_sound, schema_version
from dicomnode.ledger.judgements import JudgedSeries, Protocol
from dicomnode.ledger.lists import ALL, IS_ALERT, SOURCE, Wanted
from dicomnode.ledger.mapping.commitment import commitment_line
from dicomnode.ledger.mapping.event import event_line
from dicomnode.ledger.mapping.job import gate_figures, job_line
from dicomnode.ledger.mapping.model import model_row
from dicomnode.ledger.mapping.series import series_detail
from dicomnode.ledger.old_images import OldSeries
from dicomnode.ledger.queues import queues
from dicomnode.ledger.results import Results
from dicomnode.ledger.schema import (
    RECEIVED,
    boot,
    commitment,
    delivery,
    delivery_item,
    events,
    instance,
    job,
    model,
    node,
    series,
)
from dicomnode.ledger.schema import (
    quarantine as aside,
)
from dicomnode.ledger.sentences import Arrival, Standing, explain
from dicomnode.ledger.statements import AnyRow, bind_values, bound
from dicomnode.ledger.states import DeliveryState, JobState, SeriesState
from dicomnode.ledger.values import WAITS_FOR_PARTS, WAITS_FOR_STUDY, ImportedModel, ModelEvent, QuarantineReason
from dicomnode.ledger.views import (
    AttentionLine,
    BootLine,
    CommitmentLine,
    DeliveryLine,
    EventLine,
    Explanation,
    JobLine,
    ModelChoice,
    ModelRow,
    QuarantineLine,
    Queue,
    Recipient,
    Sender,
    SeriesDetail,
    SeriesLine,
    SettingsLine,
    Status,
    StuckPeer,
    Undelivered,
    Waiting,
    WaitingModel,
    Week,
)
from dicomnode.ledger.week import week

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
_FIGURES = select(job.c.figures).where(job.c.id == bound("job"))
_JOBS = (
    select(job)
    .where(or_(job.c.series_id == bound("series"), job.c.output_series_id == bound("series")))
    .order_by(job.c.id)
)

_MODEL_CHOICE = (
    select(events.c.kind, events.c.detail)
    .where(
        events.c.table_name == boot.name,
        events.c.row_id == select(func.max(boot.c.id)).scalar_subquery(),
        events.c.kind.in_(list(ModelEvent)),
    )
    .order_by(events.c.id.desc())
    .limit(1)
)


def open_reader(url: str, *, peers: Collection[str] | Callable[[], Collection[str]] | None = None) -> Reader:
    """Open a ledger beside its service. Raises LedgerError where there is none, or one of another version.

    ``peers``: the names that can be sent to, or a function that returns them at each query; a delivery to another one
    is told as such. None: nobody asks.
    """
    database = ReadingDatabase(url)
    try:
        with database.reading() as connection:
            version = schema_version(connection)
        if version is None:
            raise LedgerError(
                f"The ledger {database.path} is empty.", hint="`dicomnode serve` fills it when it starts."
            )
        require_head(version, database.path)
    except BaseException:
        database.close()
        raise
    return Reader(database, version, peers)


class Reader:
    """The queries. Each answer is one consistent view of the ledger."""

    def __init__(
        self,
        database: ReadingDatabase,
        version: str,
        peers: Collection[str] | Callable[[], Collection[str]] | None = None,
    ) -> None:
        self._database = database
        self._version = version
        self._reachable = peers

    def close(self) -> None:
        """Give the connections back."""
        self._database.close()

    @property
    def _peers(self) -> Collection[str] | None:
        return self._reachable() if callable(self._reachable) else self._reachable

    @property
    def version(self) -> str:
        """The version of the ledger's schema."""
        return self._version

    def node_uuid(self) -> str:
        """Return the node's own UUID."""
        with self._database.reading() as connection:
            return str(connection.execute(select(node.c.uuid)).scalar_one())

    def archived_digests(self) -> dict[str, str]:
        """Return the digest of every archived file's data set, by its path below the archive folder."""
        question = select(instance.c.file, instance.c.sha256).where(instance.c.removed_at.is_(None))
        with self._database.reading() as connection:
            return {row.file: row.sha256 for row in connection.execute(question)}

    def removed_files(self) -> set[str]:
        """Return the files that were removed on purpose, as paths below the data folder."""
        question = select(instance.c.file).where(instance.c.removed_at.is_not(None))
        with self._database.reading() as connection:
            archived = {f"archive/{file}" for file in connection.execute(question).scalars()}
            return archived | {f"quarantine/{file}" for file in removed.removed_aside(connection)}

    def old_series(self, before: datetime) -> list[OldSeries]:
        """List the series that are old enough to be removed, those too that stay all the same; the oldest first."""
        found: list[OldSeries] = []
        after: int | None = 0
        with self._database.reading() as connection:
            while after is not None:
                piece, after = old_images.old_series(connection, before, after)
                found += piece
        return found

    def old_set_aside(self, before: datetime) -> int:
        """Count the files that were set aside and are old enough to be removed."""
        with self._database.reading() as connection:
            return old_images.old_set_aside(connection, before)

    def series_list(self, wanted: Wanted = ALL, *, derived: bool = False) -> list[SeriesLine]:
        """List the received series, with ``derived`` also those that this node made; the newest first."""
        with self._database.reading() as connection:
            return lists.series_lines(connection, wanted, derived=derived)

    def protocols(self, since: datetime) -> tuple[Protocol, ...]:
        """List the protocols of each scanner with their figures week by week, from the week of a moment on."""
        with self._database.reading() as connection:
            return judgements.protocols(connection, since)

    def series_of_protocol(self, protocol: int, limit: int) -> tuple[JudgedSeries, ...]:
        """List the newest series of a protocol."""
        with self._database.reading() as connection:
            return judgements.last_series(connection, protocol, limit)

    def results(self, since: datetime) -> Results:
        """Count the results that the models made since a moment, with the figures of the result gate."""
        with self._database.reading() as connection:
            return results.results(connection, since)

    def count_series(self, wanted: Wanted = ALL, *, derived: bool = False) -> int:
        """Count the series that a list without a limit would show."""
        with self._database.reading() as connection:
            return lists.count_series(connection, wanted, derived=derived)

    def senders(self) -> set[str]:
        """Return the names of the peers that sent any of the instances, as they were called when they sent."""
        with self._database.reading() as connection:
            return lists.senders(connection)

    def series_show(self, series_id: int, *, identify: bool = False) -> SeriesDetail:
        """Return one series with its files, jobs and deliveries. Raises InputError where there is no such series."""
        with self._database.reading() as connection:
            row = _series_row(connection, series_id)
            files = connection.execute(_FILES, bind_values(series=series_id)).all()
            return series_detail(
                row,
                files,
                _jobs_of(connection, series_id),
                self._deliveries_of(connection, series_id),
                identify=identify,
            )

    def series_explain(self, series_id: int, *, identify: bool = False) -> Explanation:
        """Explain why a series is in its state. Raises InputError where there is no such series."""
        with self._database.reading() as connection:
            row = _series_row(connection, series_id)
            arrivals = connection.execute(_ARRIVALS, bind_values(series=series_id)).all()
            called = tuple(connection.execute(_CALLED, bind_values(series=series_id)).scalars())
            jobs = _jobs_of(connection, series_id)
            deliveries = self._deliveries_of(connection, series_id)
            history = _events(connection, series_id, jobs, deliveries)
            set_aside = quarantine.notes(connection, SeriesId(series_id))
            gone = removed.gone(connection, SeriesId(series_id))
            last = jobs[-1] if jobs else None
            figures = () if last is None else _figures(connection, last)
        standing = Standing(
            state=SeriesState(row.state),
            revision=row.revision,
            aborted=row.aborted,
            last_at=row.last_at,
            verdict=row.sentence or _what_is_waited_for(history),
            called=called,
            arrivals=tuple(Arrival(revision=one.revision, peer=one.peer, instances=one.instances) for one in arrivals),
        )
        # If the verdict is that something was set aside, its sentence says so already.
        notes = tuple(row.notes) + tuple(one for one in set_aside if one not in row.sentence)
        notes += () if gone is None else (gone,)
        # The sentence of a held delivery says already what the result gate found.
        notes += (
            tuple(one for one in last.notes if not any(one in line.sentence for line in deliveries)) if last else ()
        )
        return Explanation(
            id=row.id,
            state=row.state,
            revision=row.revision,
            reason=row.reason,
            sentences=explain(standing, last, figures, notes, deliveries),
            notes=notes,
            job=last,
            gate=figures,
            deliveries=deliveries,
            events=history,
            series_uid=row.series_uid if identify else None,
        )

    def deliveries_list(self, wanted: Wanted = ALL) -> list[DeliveryLine]:
        """List the deliveries, the newest first."""
        with self._database.reading() as connection:
            return lists.delivery_lines(connection, wanted, reachable=self._peers)

    def count_deliveries(self, wanted: Wanted = ALL) -> int:
        """Count the deliveries that a list without a limit would show."""
        with self._database.reading() as connection:
            return lists.count_deliveries(connection, wanted, reachable=self._peers)

    def receivers(self) -> set[str]:
        """Return the names of the peers of all deliveries, as they were called when those were opened."""
        with self._database.reading() as connection:
            return lists.receivers(connection)

    def quarantine_list(
        self, *, limit: int | None = None, reason: QuarantineReason | None = None, is_all: bool = False
    ) -> list[QuarantineLine]:
        """List the files that were set aside and wait for a person, or all of them; the newest first."""
        with self._database.reading() as connection:
            return quarantine.lines(connection, limit=limit, reason=reason, is_all=is_all)

    def imported_models(self) -> list[ModelRow]:
        """List the imported models, the oldest first."""
        with self._database.reading() as connection:
            return [model_row(row) for row in connection.execute(select(model).order_by(model.c.id))]

    def active_models(self) -> dict[str, ImportedModel]:
        """Return, by name, the imported models that rules get instead of those that came with the node."""
        with self._database.reading() as connection:
            return models.active(connection)

    def model_choice(self) -> ModelChoice | None:
        """Return the default model that the last start chose. None: it had nothing to choose, or has not chosen yet."""
        with self._database.reading() as connection:
            return _model_choice(connection)

    def model_history(self, model_id: int) -> tuple[EventLine, ...]:
        """List the events of one imported model."""
        question = (
            select(events, literal(1).label("times"))
            .where(events.c.table_name == model.name, events.c.row_id == model_id)
            .order_by(events.c.id)
        )
        with self._database.reading() as connection:
            return tuple(event_line(row, row.row_id) for row in connection.execute(question))

    def rehearsal_report(self, transaction_uid: str) -> rehearsals.RehearsalReport | None:
        """Return what a peer reported to the running service on a request of a rehearsal; None: nothing yet."""
        with self._database.reading() as connection:
            return rehearsals.reported(connection, transaction_uid)

    def require_sound(self) -> None:
        """Raise LedgerError where the file is damaged."""
        with self._database.reading() as connection:
            require_sound(connection, self._database.path)

    def status(self) -> Status:
        """Count what is in the ledger, by state, and list the rows that wait for a person."""
        with self._database.reading() as connection:
            instances = connection.execute(select(func.count()).select_from(instance)).scalar_one()
            of_jobs = select(func.count()).select_from(instance).where(instance.c.job_id.is_not(None))
            derived = connection.execute(of_jobs).scalar_one()
            received = select(series.c.state, func.count()).where(series.c.origin == RECEIVED)
            return Status(
                version=self._version,
                boot=boots.last(connection),
                settings=boots.last_settings(connection),
                instances=instances - derived,
                derived_instances=derived,
                series=_per(SeriesState, _numbers(connection, received.group_by(series.c.state))),
                jobs=_per(JobState, _numbers(connection, select(job.c.state, func.count()).group_by(job.c.state))),
                deliveries=_per(
                    DeliveryState,
                    _numbers(connection, select(delivery.c.state, func.count()).group_by(delivery.c.state)),
                ),
                proofs=_numbers(
                    connection,
                    select(delivery.c.proof, func.count())
                    .where(delivery.c.proof.is_not(None))
                    .group_by(delivery.c.proof),
                ),
                quarantine=_numbers(connection, select(aside.c.reason, func.count()).group_by(aside.c.reason)),
                waiting_since=connection.execute(
                    select(func.min(job.c.queued_at)).where(job.c.state == JobState.QUEUED)
                ).scalar_one(),
                no_peer={} if self._peers is None else without_peer(connection, self._peers),
                model_choice=_model_choice(connection),
                attention=attention.lines(connection, self._peers),
            )

    def boot(self) -> BootLine | None:
        """Return the last start of the service. None: it never started."""
        with self._database.reading() as connection:
            return boots.last(connection)

    def settings(self) -> SettingsLine | None:
        """Return the settings that the last start uses. None: that start was before the ledger recorded them."""
        with self._database.reading() as connection:
            return boots.last_settings(connection)

    def waiting(self) -> list[Waiting]:
        """Count the rows that wait for a person by what they wait for."""
        with self._database.reading() as connection:
            return attention.counted(connection, self._peers)

    def attention(self) -> tuple[AttentionLine, ...]:
        """List the rows that wait for a person."""
        with self._database.reading() as connection:
            return attention.lines(connection, self._peers)

    def traffic(self, since: datetime, earliest: datetime) -> tuple[tuple[Sender, ...], tuple[Recipient, ...]]:
        """Count what came from and went to each peer since a moment; listed are the senders since an earlier one."""
        with self._database.reading() as connection:
            return traffic.senders(connection, since, earliest), traffic.recipients(connection, since)

    def figures(self, job_id: int) -> tuple[GateFigure, ...]:
        """List the figures of the result gate on the result of a job; empty for a job that is not done."""
        with self._database.reading() as connection:
            return gate_figures(connection.execute(_FIGURES, bind_values(job=job_id)).scalar_one_or_none())

    def commitments_of(self, delivery_id: int, *, identify: bool = False) -> tuple[CommitmentLine, ...]:
        """List the requests to commit to a delivery, the oldest first."""
        question = select(commitment).where(commitment.c.delivery_id == delivery_id).order_by(commitment.c.id)
        with self._database.reading() as connection:
            return tuple(commitment_line(row, identify=identify) for row in connection.execute(question))

    def kept(self) -> dict[str, int]:
        """Count the received series that were kept, by the reason of their verdict."""
        question = (
            select(series.c.reason, func.count())
            .where(series.c.origin == RECEIVED, series.c.state == SeriesState.KEPT)
            .group_by(series.c.reason)
        )
        with self._database.reading() as connection:
            return _numbers(connection, question)

    def queues(self, now: datetime) -> tuple[Queue, ...]:
        """List the queues: the series, jobs and deliveries that wait to be judged, derived and sent."""
        with self._database.reading() as connection:
            return queues(connection, now)

    def stuck_peers(self, since: datetime) -> list[StuckPeer]:
        """List the peers to which a delivery has only failed since before that moment."""
        with self._database.reading() as connection:
            return attention.stuck_peers(connection, since)

    def undelivered(self) -> tuple[Undelivered, ...]:
        """List the destinations to which alerts could not be sent, and since when."""
        with self._database.reading() as connection:
            return alerts.undelivered(connection)

    def week(self, since: datetime) -> Week:
        """Count the figures of the weekly letter."""
        with self._database.reading() as connection:
            return week(connection, since)

    def waiting_models(self) -> list[WaitingModel]:
        """List the models that queued jobs need, the one that is needed longest first."""
        since = func.min(job.c.queued_at).label("since")
        wanted = (
            select(job.c.model, job.c.model_digest, func.count().label("jobs"), since)
            .where(job.c.state == JobState.QUEUED)
            .group_by(job.c.model, job.c.model_digest)
            .order_by(since)
        )
        with self._database.reading() as connection:
            return [
                WaitingModel(model=row.model, digest=row.model_digest, jobs=row.jobs, since=row.since)
                for row in connection.execute(wanted)
            ]

    def _deliveries_of(self, connection: Connection, series_id: int) -> tuple[DeliveryLine, ...]:
        """List the deliveries of one series, the oldest first."""
        lines = lists.delivery_lines(connection, ALL, reachable=self._peers, of_series=series_id)
        return tuple(reversed(lines))


def _series_row(connection: Connection, series_id: int) -> AnyRow:
    row = connection.execute(_ONE_SERIES, bind_values(series=series_id)).one_or_none()
    if row is None:
        raise InputError(f"There is no series {series_id}.", hint="`dicomnode series list` shows them.")
    return row


def _jobs_of(connection: Connection, series_id: int) -> tuple[JobLine, ...]:
    """List the jobs that read or made the series."""
    return tuple(job_line(row) for row in connection.execute(_JOBS, bind_values(series=series_id)))


def _figures(connection: Connection, last: JobLine) -> tuple[GateFigure, ...]:
    """List the figures of the result gate on the result of a job."""
    return gate_figures(connection.execute(_FIGURES, bind_values(job=last.id)).scalar_one())


def _events(
    connection: Connection, series_id: int, jobs: Iterable[JobLine], deliveries: Iterable[DeliveryLine]
) -> tuple[EventLine, ...]:
    """List the events of a series, its jobs and deliveries one by one, and those of its images and items counted."""
    numbers = [line.id for line in deliveries]
    rows = {"series": [series_id], "job": [line.id for line in jobs], "delivery": numbers}
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


def _model_choice(connection: Connection) -> ModelChoice | None:
    row = connection.execute(_MODEL_CHOICE).one_or_none()
    return None if row is None else ModelChoice(is_fast=row.kind == ModelEvent.FAST, sentence=row.detail)


def _what_is_waited_for(history: Sequence[EventLine]) -> str:
    """Return why a settled series has no verdict yet; empty where it only waits for its turn."""
    return next((one.detail for one in reversed(history) if one.kind in (WAITS_FOR_PARTS, WAITS_FOR_STUDY)), "")


def _numbers(connection: Connection, question: Select[str, int]) -> dict[str, int]:
    return {key: number for key, number in connection.execute(question)}


def _per(states: Iterable[str], numbers: dict[str, int]) -> dict[str, int]:
    """Give every state a number, also zero, so that the output names every state."""
    return {str(state): numbers.get(state, 0) for state in states}
