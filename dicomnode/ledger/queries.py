"""The ledger as those read it who do not write: commands, the page, the monitor, alerts, a backup.

Each method opens one consistent view and asks one query of the module that holds it. Nothing here can write.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime

from dicomnode.derivation import GateFigure
from dicomnode.errors import LedgerError
from dicomnode.ledger import (
    alerts,
    attention,
    boots,
    commitments,
    intake,
    jobs,
    judgements,
    lists,
    models,
    old_images,
    one_series,
    quarantine,
    rehearsals,
    removed,
    results,
    traffic,
)
from dicomnode.ledger.engine import ReadingDatabase, node_uuid, require_head, require_sound, schema_version
from dicomnode.ledger.judgements import JudgedSeries, Protocol
from dicomnode.ledger.lists import ALL, Wanted
from dicomnode.ledger.old_images import OldSeries
from dicomnode.ledger.queues import queues, waiting_models
from dicomnode.ledger.results import Results
from dicomnode.ledger.status import kept, status
from dicomnode.ledger.values import ImportedModel, QuarantineReason
from dicomnode.ledger.views import (
    AttentionLine,
    BootLine,
    CommitmentLine,
    DeliveryLine,
    EventLine,
    Explanation,
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
    """An open ledger that is only read, from any thread."""

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
            return node_uuid(connection)

    def archived_digests(self) -> dict[str, str]:
        """Return the digest of every archived file's data set, by its path below the archive folder."""
        with self._database.reading() as connection:
            return intake.archived_digests(connection)

    def removed_files(self) -> set[str]:
        """Return the files that were removed on purpose, as paths below the data folder."""
        with self._database.reading() as connection:
            return removed.files(connection)

    def old_series(self, before: datetime) -> list[OldSeries]:
        """List the series that are old enough to be removed, those too that stay all the same; the oldest first."""
        with self._database.reading() as connection:
            return old_images.all_old_series(connection, before)

    def old_set_aside(self, before: datetime) -> int:
        """Count the files that were set aside and are old enough to be removed."""
        with self._database.reading() as connection:
            return old_images.old_set_aside(connection, before)

    def series_list(self, wanted: Wanted = ALL, *, derived: bool = False) -> list[SeriesLine]:
        """List the received series, with ``derived`` also those that this node made; the newest first."""
        with self._database.reading() as connection:
            return lists.series_lines(connection, wanted, derived=derived)

    def protocols(self, since: datetime, until: datetime | None = None) -> tuple[Protocol, ...]:
        """List the protocols of each scanner with their figures week by week, from the week of a moment on.

        ``until``: what came from then on is left out.
        """
        with self._database.reading() as connection:
            return judgements.protocols(connection, since, until)

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
            return one_series.show(connection, series_id, reachable=self._peers, identify=identify)

    def series_explain(self, series_id: int, *, identify: bool = False) -> Explanation:
        """Explain why a series is in its state. Raises InputError where there is no such series."""
        with self._database.reading() as connection:
            return one_series.explain(connection, series_id, reachable=self._peers, identify=identify)

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
            return models.imported(connection)

    def active_models(self) -> dict[str, ImportedModel]:
        """Return, by name, the imported models that rules get instead of those that came with the node."""
        with self._database.reading() as connection:
            return models.active(connection)

    def model_choice(self) -> ModelChoice | None:
        """Return the default model that the last start chose. None: it had nothing to choose, or has not chosen yet."""
        with self._database.reading() as connection:
            return models.last_choice(connection)

    def model_history(self, model_id: int) -> tuple[EventLine, ...]:
        """List the events of one imported model."""
        with self._database.reading() as connection:
            return models.history(connection, model_id)

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
            return status(connection, self._version, self._peers)

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
            return jobs.figures(connection, job_id)

    def commitments_of(self, delivery_id: int, *, identify: bool = False) -> tuple[CommitmentLine, ...]:
        """List the requests to commit to a delivery, the oldest first."""
        with self._database.reading() as connection:
            return commitments.lines(connection, delivery_id, identify=identify)

    def kept(self) -> dict[str, int]:
        """Count the received series that were kept, by the reason of their verdict."""
        with self._database.reading() as connection:
            return kept(connection)

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
        with self._database.reading() as connection:
            return waiting_models(connection)
