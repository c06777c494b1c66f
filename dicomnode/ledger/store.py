"""The one writer of the ledger: each method is one transaction.

Everything durable goes through here, from any thread of the service and from the operator's commands beside it. A
method returns what happened as a value; False or None means that the row was no longer where the caller left it
(its lease was lost, a late instance came) and that nothing was written. ``boots``, ``intake``, ``verdicts``,
``quarantine``, ``jobs``, ``deliveries``, ``commitments``, ``delivery_commands``, ``models``, ``alerts`` and ``ageing``
say which rows a transaction changes, ``states`` which changes there are at all.
Files that leave the disk have ``removals``.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import select

from dicomnode.derivation import DerivedSeries
from dicomnode.ids import DeliveryId, InstanceId, JobId, QuarantineId, SeriesId
from dicomnode.ledger import (
    ageing,
    alerts,
    boots,
    commitments,
    deliveries,
    delivery_commands,
    intake,
    jobs,
    models,
    quarantine,
    rehearsals,
    verdicts,
)
from dicomnode.ledger.engine import Database, ledger_path, require_file, require_head, schema_version
from dicomnode.ledger.removals import Removals
from dicomnode.ledger.schema import boot, create_ledger, instance, node, series
from dicomnode.ledger.statements import bind_values, bound
from dicomnode.ledger.states import DeliveryState, JobState
from dicomnode.ledger.transaction import NODE, LedgerTransaction
from dicomnode.ledger.values import (
    NOBODY,
    Alert,
    ArchivedInstance,
    BootId,
    BootReport,
    Commitment,
    Condition,
    Delivery,
    DeliveryItem,
    Examined,
    Finding,
    Forward,
    ImportedModel,
    Job,
    KnownInstance,
    ModelId,
    NotSelected,
    PlannedJob,
    QuarantinedFile,
    QuarantineReason,
    ReceivingSeries,
    Selected,
    SettledSeries,
    StoredInstance,
    StoreOutcome,
    StudySeries,
    Unexamined,
)
from dicomnode.seams import SYSTEM_CLOCK, Clock

LEASE_S: Final = 60.0  # renewed every third of it (docs/protocol.md#leases)
CHECKED_AT_START_BYTES: Final = 64 << 20  # a third of a second's work; a larger ledger is checked after the start

# By the index of the paths: "0" is what comes after "/".
_FILES_IN: Final = select(instance.c.file).where(
    instance.c.file > bound("first"), instance.c.file < bound("beyond"), instance.c.removed_at.is_(None)
)


def open_ledger(url: str, *, clock: Clock = SYSTEM_CLOCK, create: bool = True) -> Ledger:
    """Open the ledger, or make an empty one where ``create`` allows it.

    Raises LedgerError for an older, a newer and a damaged ledger, and for a missing one that may not be made.
    """
    if not create:
        require_file(ledger_path(url))
    database = Database(url)
    try:
        with database.transaction("open") as connection:
            version = schema_version(connection)
            if version is None:
                create_ledger(connection, clock.now())
            else:
                require_head(version, database.path)
            own = uuid.UUID(connection.execute(select(node.c.uuid)).scalar_one())
    except BaseException:
        database.close()
        raise
    return Ledger(database, own, clock)


class Ledger:
    """The open ledger, which every thread of this process may use."""

    def __init__(self, database: Database, node_uuid: uuid.UUID, clock: Clock) -> None:
        self.node_uuid = node_uuid  # namespace of the UIDs that this node derives
        self.removals = Removals(database, clock)
        self._database = database
        self._clock = clock

    def close(self) -> None:
        """Fold the write-ahead log into the file."""
        self._database.close()

    # The service itself.

    def begin_boot(self, *, pid: int, host: str) -> BootReport:
        """Record that a service starts, and take back every lease: no other holder is alive.

        Raises LedgerError where the file is damaged, as far as that is looked for: ``is_checked`` in the report says
        whether ``check`` still has to be called.
        """
        is_checked = self._database.size_bytes() <= CHECKED_AT_START_BYTES
        if is_checked:
            self.check()
        with self._transaction("begin_boot") as transaction:
            last = transaction.connection.execute(select(boot).order_by(boot.c.id.desc()).limit(1)).one_or_none()
            stopped = select(boot.c.ended_at).where(boot.c.ended_at.is_not(None)).order_by(boot.c.id.desc()).limit(1)
            last_clean_stop = transaction.connection.execute(stopped).scalar_one_or_none()
            made = boots.begin(transaction, pid=pid, host=host)
            ended_cleanly = last is None or last.ended_at is not None
            detail = "the service ended" if ended_cleanly else "the service was killed"
            if not ended_cleanly:
                intake.mark_cut_off(transaction)
            return BootReport(
                boot=made,
                ended_cleanly=ended_cleanly,
                last_clean_stop=last_clean_stop,
                is_checked=is_checked,
                returned_jobs=jobs.return_all(transaction, detail),
                returned_deliveries=deliveries.return_all(transaction, detail),
                renewed_commitments=commitments.ask_anew(transaction),
            )

    def check(self) -> None:
        """Look at every page of the file. Raises LedgerError where one is damaged, CheckStoppedError when told to."""
        self._database.check()

    def stop_check(self) -> None:
        """End a check that another thread has under way."""
        self._database.stop_check()

    def end_boot(self, ended: BootId) -> None:
        """Record that the service stops in order."""
        with self._transaction("end_boot") as transaction:
            boots.end(transaction, ended)

    def take_settings(
        self, of: BootId, *, file: str | None, sha256: str, restart: Sequence[str] = (), at: datetime
    ) -> None:
        """Record which settings the service uses from now on; ``restart``: keys of the file that need one."""
        with self._transaction("take_settings") as transaction:
            boots.take_settings(transaction, of, file=file, sha256=sha256, restart=restart, at=at)

    def refuse_settings(self, of: BootId, *, fault: str, at: datetime) -> None:
        """Record why the service did not take what it read, and goes on with the settings that it has."""
        with self._transaction("refuse_settings") as transaction:
            boots.refuse_settings(transaction, of, fault=fault, at=at)

    def note(self, kind: str, *, table: str, row: int, detail: str = "", by: str = NODE) -> None:
        """Write down something that an operator may want to read, at the row that it happened to."""
        with self._transaction("note", by) as transaction:
            transaction.note(kind, table=table, row=row, detail=detail)

    def restored(self, detail: str, by: str) -> None:
        """Record that this ledger was put back from a backup; series whose instances still came were cut off."""
        with self._transaction("restored", by) as transaction:
            transaction.note("restored", table=node.name, row=1, detail=detail)
            intake.mark_cut_off(transaction)

    # Receive.

    def series_for(self, series_uid: str, study_uid: str | None = None) -> SeriesId:
        """Return the number of a series, or give it one before its first file is written. ``study_uid``: its study."""
        with self._database.reading() as connection:
            number = intake.series_number(connection, series_uid)
        if number is not None:
            return number
        with self._transaction("series") as transaction:
            return intake.make_series(transaction, series_uid, study_uid)

    def find_series(self, series_uid: str) -> SeriesId | None:
        """Return the number that a series has. None: it has none, and gets none here."""
        with self._database.reading() as connection:
            return intake.series_number(connection, series_uid)

    def find_instance(self, sop_instance_uid: str) -> KnownInstance | None:
        """Return the instance under a SOP Instance UID, without a lock."""
        with self._database.reading() as connection:
            return intake.known_instance(connection, sop_instance_uid)

    def accept(self, instances: Sequence[StoredInstance]) -> list[StoreOutcome]:
        """Give files that are flushed and renamed their rows, all in one transaction; outcomes in the order given."""
        with self._transaction("accept") as transaction:
            return intake.accept(transaction, instances)

    def mark_aborted(self, series_ids: Iterable[SeriesId]) -> None:
        """Record that the association that stored into these series ended without a release."""
        with self._transaction("abort") as transaction:
            for series_id in series_ids:
                intake.mark_aborted(transaction, series_id)

    def record_quarantine(self, file: QuarantinedFile, finding: Finding | None = None) -> QuarantineId:
        """Record a file that lies in the quarantine folder; ``finding``: where it is known at once."""
        with self._transaction("quarantine", file.peer or NODE) as transaction:
            return quarantine.record(transaction, file, finding)

    def file_set_aside(self, kept: InstanceId, sha256: str) -> str | None:
        """Return the name in quarantine of the file with these bytes and the UID of the instance ``kept``."""
        with self._database.reading() as connection:
            return quarantine.file_of(connection, kept, sha256)

    def record_orphans(self, files: Sequence[QuarantinedFile]) -> None:
        """Record files without a row, which the sweep moved to the quarantine folder."""
        with self._transaction("orphans") as transaction:
            for file in files:
                quarantine.record(transaction, file)

    # What the sweep compares the files with.

    def series_numbers(self) -> list[SeriesId]:
        """List the number of every series, the oldest first."""
        with self._database.reading() as connection:
            return [
                SeriesId(number) for number in connection.execute(select(series.c.id).order_by(series.c.id)).scalars()
            ]

    def files_in(self, folder: str) -> set[str]:
        """Return the paths below the archive folder of the files that ought to lie in one folder."""
        with self._database.reading() as connection:
            return set(connection.execute(_FILES_IN, bind_values(first=f"{folder}/", beyond=f"{folder}0")).scalars())

    def aside_in(self, folder: str) -> set[str]:
        """Return the names of the files set aside of a series, which may still lie in the folder of the series."""
        with self._database.reading() as connection:
            return quarantine.files_of(connection, SeriesId(int(folder))) if folder.isdecimal() else set()

    # What was set aside.

    def quarantined_files(self) -> set[str]:
        """Return the names of the files below the quarantine folder that have a row."""
        with self._database.reading() as connection:
            return quarantine.files(connection)

    def quarantine_without_series(self) -> list[tuple[QuarantineId, str, QuarantineReason]]:
        """List the files set aside whose series is not known yet: number, file, reason."""
        with self._database.reading() as connection:
            return quarantine.without_series(connection)

    def quarantine_belongs(self, row: QuarantineId, series: SeriesId | None, otherwise: Examined) -> None:
        """Record the series that a file set aside names, or the finding ``otherwise`` where the ledger knows none."""
        with self._transaction("quarantine_belongs") as transaction:
            quarantine.belong(transaction, row, series, otherwise)

    def waiting_quarantine(self) -> list[SeriesId]:
        """List the judged series of which a file was set aside that is not compared yet."""
        with self._database.reading() as connection:
            return quarantine.waiting_series(connection)

    def unexamined(self, series: SeriesId) -> list[Unexamined]:
        """List the files that were set aside of a series and are to be compared."""
        with self._database.reading() as connection:
            return quarantine.unexamined(connection, series)

    def examined(self, series: SeriesId, found: Sequence[Examined]) -> None:
        """Record the findings on files that were set aside of a series."""
        with self._transaction("examined") as transaction:
            quarantine.examined(transaction, series, found)

    def objections(self, series: SeriesId) -> tuple[str, ...]:
        """Return why a series is not derived as it is: sentences on its unseen files that were set aside."""
        with self._database.reading() as connection:
            return quarantine.objections(connection, series)

    # Settle.

    def receiving_series(self) -> list[ReceivingSeries]:
        """List the series whose instances still come."""
        with self._database.reading() as connection:
            return verdicts.receiving(connection)

    def settle(self, series: SeriesId, revision: int, *, note: str, seen_at: datetime | None = None) -> bool:
        """Freeze a quiet series; with ``seen_at`` only if its ``last_at`` is still the one that was judged quiet."""
        with self._transaction("settle") as transaction:
            return verdicts.settle(transaction, series, revision, note=note, seen_at=seen_at)

    def settled_series(self) -> list[SettledSeries]:
        """List the series that wait for a verdict."""
        with self._database.reading() as connection:
            return verdicts.settled(connection)

    def instances_of(self, series: SeriesId, revision: int) -> list[ArchivedInstance]:
        """List the instances of one revision."""
        with self._database.reading() as connection:
            return verdicts.instances_of(connection, series, revision)

    def series_beside(self, series: SeriesId, *, within_s: float, limit: int) -> list[str]:
        """List one file of each other received series that began within so many seconds of this one."""
        with self._database.reading() as connection:
            return verdicts.series_beside(connection, series, within_s=within_s, limit=limit)

    def keep(
        self,
        series: SeriesId,
        revision: int,
        *,
        reason: str,
        sentence: str,
        alert: bool = False,
        notes: Sequence[str] = (),
        forward: Forward = NOBODY,
    ) -> bool:
        """Record the verdict to archive a series and not to process it. ``forward``: who gets it as it was received."""
        with self._transaction("keep") as transaction:
            return verdicts.keep(
                transaction, series, revision, reason=reason, sentence=sentence, alert=alert, notes=notes,
                forward=forward,
            )  # fmt: skip

    def plan(
        self,
        series: SeriesId,
        revision: int,
        planned: PlannedJob,
        *,
        notes: Sequence[str] = (),
        alert: bool = False,
        forward: Forward = NOBODY,
    ) -> JobId | None:
        """Record the verdict to derive a series by a job. ``forward``: who gets it as it was received."""
        with self._transaction("plan") as transaction:
            return verdicts.plan(transaction, series, revision, planned, notes=notes, alert=alert, forward=forward)

    def series_of_study(self, study_uid: str) -> list[StudySeries]:
        """List the series of a study of which instances came."""
        with self._database.reading() as connection:
            return verdicts.of_study(connection, study_uid)

    def choose(self, chosen: Selected | None, others: Sequence[NotSelected]) -> tuple[JobId | None, list[SeriesId]]:
        """Record the choice of a rule in a study: the job of the chosen series, and which of the others are kept.

        ``chosen``: None where it was chosen before. Nothing is written where a late instance of it came meanwhile.
        """
        with self._transaction("choose") as transaction:
            return verdicts.choose(transaction, chosen, others)

    # Work.

    def claim_job(
        self, owner: str, *, lease_s: float, but: Collection[JobId] = (), models: Collection[str] | None = None
    ) -> Job | None:
        """Claim the next job by priority and waiting time, but none of ``but``, under a lease.

        ``models``: only a job that needs a model with one of these digests. None: any job.
        """
        with self._transaction("claim_job", owner) as transaction:
            return jobs.claim(transaction, owner, transaction.now + timedelta(seconds=lease_s), but, models)

    def is_job_ours(self, job: Job) -> bool:
        """Does the claim hold, as seen without a lock? It ends when its lease is lost or an operator cancels it."""
        with self._database.reading() as connection:
            return jobs.is_ours(connection, job)

    def job_state(self, job: JobId) -> JobState:
        """Return the state of a job."""
        with self._database.reading() as connection:
            return jobs.state_of(connection, job)

    def beat_job(self, job: Job, *, lease_s: float = LEASE_S) -> bool:
        """Renew the lease. False: the holder stops, and discards what it made."""
        with self._transaction("beat_job", is_relaxed=True) as transaction:
            return jobs.beat(transaction, job, transaction.now + timedelta(seconds=lease_s))

    def finish_job(self, job: Job, derived: DerivedSeries) -> bool:
        """End a job whose derived files are flushed and in their folder."""
        with self._transaction("finish_job") as transaction:
            return jobs.finish(transaction, job, derived)

    def return_job(self, job: Job, *, detail: str, counts: bool) -> JobState | None:
        """Give a job back; ``counts``: it cost an attempt. Return its state now; None: it was no longer ours."""
        with self._transaction("return_job") as transaction:
            return jobs.give_back(transaction, job, detail=detail, counts=counts)

    def hold_job(self, job: Job, *, reason: str, sentence: str) -> bool:
        """Hold a job that cannot go on without an operator."""
        with self._transaction("hold_job") as transaction:
            return jobs.hold(transaction, job, reason=reason, sentence=sentence)

    # Push.

    def claim_delivery(self, peer: str, owner: str, *, lease_s: float) -> Delivery | None:
        """Claim the next delivery that is due to this peer, by priority and waiting time, under a lease."""
        with self._transaction("claim_delivery", owner) as transaction:
            return deliveries.claim(transaction, peer, owner, transaction.now + timedelta(seconds=lease_s))

    def is_delivery_ours(self, delivery: Delivery) -> bool:
        """Does the claim hold, as seen without a lock? It ends when its lease is lost or an operator cancels it."""
        with self._database.reading() as connection:
            return deliveries.is_ours(connection, delivery)

    def is_identity_open(self, delivery: Delivery) -> bool:
        """Is the peer to be asked whether it has the study under another patient?"""
        with self._database.reading() as connection:
            return deliveries.is_identity_open(connection, delivery)

    def peer_of_delivery(self, delivery: DeliveryId) -> str:
        """Return the peer of a delivery. Raises InputError where there is no such delivery."""
        with self._database.reading() as connection:
            return delivery_commands.peer_of(connection, delivery)

    def delivery_state(self, delivery: DeliveryId) -> DeliveryState:
        """Return the state of a delivery."""
        with self._database.reading() as connection:
            return deliveries.state_of(connection, delivery)

    def beat_delivery(self, delivery: Delivery, *, lease_s: float = LEASE_S) -> bool:
        """Renew the lease. False: the holder stops."""
        with self._transaction("beat_delivery", is_relaxed=True) as transaction:
            return deliveries.beat(transaction, delivery, transaction.now + timedelta(seconds=lease_s))

    def pending_items(self, delivery: Delivery) -> list[DeliveryItem]:
        """List the items that the peer has still to get, in the order of the slices."""
        with self._database.reading() as connection:
            return deliveries.pending_items(connection, delivery)

    def acknowledge(self, delivery: Delivery, item: DeliveryItem, *, status: int) -> bool:
        """Record that the peer answered success or a warning, before the next instance is sent.

        False: the delivery is no longer ours; nothing more of it may be sent.
        """
        with self._transaction("acknowledge", delivery.peer, is_relaxed=True) as transaction:
            return deliveries.acknowledge(transaction, delivery, item, status)

    def refuse(self, delivery: Delivery, item: DeliveryItem, *, status: int) -> bool:
        """Record that the peer will not take this instance. False means the same as from ``acknowledge``."""
        with self._transaction("refuse", delivery.peer) as transaction:
            return deliveries.refuse(transaction, delivery, item, status)

    def fail_item(self, delivery: Delivery, item: DeliveryItem, *, status: int) -> int:
        """Record that the peer could not take this instance now; return how often that has happened."""
        with self._transaction("fail_item", delivery.peer) as transaction:
            return deliveries.fail_item(transaction, delivery, item, status)

    def defer(self, delivery: Delivery, *, wait_s: float, reason: str, sentence: str) -> bool:
        """Make a delivery due again after a wait, because of a transient failure."""
        with self._transaction("defer") as transaction:
            due_at = transaction.now + timedelta(seconds=wait_s)
            return deliveries.defer(transaction, delivery, due_at=due_at, reason=reason, sentence=sentence)

    def hold_delivery(self, delivery: Delivery, *, reason: str, sentence: str) -> bool:
        """Hold a delivery that cannot go on without an operator."""
        with self._transaction("hold_delivery") as transaction:
            return deliveries.hold(transaction, delivery, reason=reason, sentence=sentence)

    def finish_delivery(self, delivery: Delivery, *, committer: str | None = None) -> DeliveryState | None:
        """End a delivery whose items are all answered: sent, or held where some were refused. None: it was not ours.

        ``committer``: the peer that is to be asked to commit to what was sent. None: no peer.
        """
        with self._transaction("finish_delivery") as transaction:
            return deliveries.finish(transaction, delivery, committer)

    def release_claim(self, delivery: Delivery) -> bool:
        """Make a delivery due at once, without a failure: the service stops between two instances."""
        with self._transaction("release_claim") as transaction:
            return deliveries.release_claim(transaction, delivery)

    def next_due_in(self, peer: str) -> float | None:
        """Return the seconds until the next delivery to this peer may be claimed. None: none waits."""
        with self._database.reading() as connection:
            now = self._clock.now()
            moment = deliveries.next_due_at(connection, peer, now)
        return None if moment is None else max(0.0, (moment - now).total_seconds())

    def deliveries_without_peer(self, reachable: Collection[str]) -> dict[str, int]:
        """Count the due deliveries to each peer that is not among those that can be sent to."""
        with self._database.reading() as connection:
            return deliveries.without_peer(connection, reachable)

    # Proof.

    def next_commitment(self, stored_at: str) -> Commitment | None:
        """Return the request that waits longest, of those on deliveries to this peer that may go on now."""
        with self._database.reading() as connection:
            return commitments.next_one(connection, stored_at, self._clock.now())

    def next_commitment_in(self, stored_at: str) -> float | None:
        """Return the seconds until a request on a delivery to this peer may go on. None: none waits."""
        with self._database.reading() as connection:
            moment = commitments.next_at(connection, stored_at)
        return None if moment is None else max(0.0, (moment - self._clock.now()).total_seconds())

    def commitment_asked(self, one: Commitment, committer: str, *, wait_s: float) -> bool:
        """Record that a request goes out now, before it does. False: it is not to be asked any more."""
        with self._transaction("commitment_asked") as transaction:
            return commitments.ask(transaction, one, committer, transaction.now + timedelta(seconds=wait_s))

    def commitment_waits(self, one: Commitment, *, wait_s: float) -> None:
        """Record that the peer could not be reached; the request goes on after the wait."""
        with self._transaction("commitment_waits") as transaction:
            commitments.postpone(transaction, one, transaction.now + timedelta(seconds=wait_s))

    def commitment_queried(self, one: Commitment, found: Collection[str]) -> int:
        """Record which SOP Instance UIDs a C-FIND showed; return how many instances are to be sent again."""
        with self._transaction("commitment_queried") as transaction:
            return commitments.queried(transaction, one, found)

    def give_up_commitment(self, one: Commitment, why: str) -> None:
        """Record that no proof beyond the acknowledgements can be had."""
        with self._transaction("give_up_commitment") as transaction:
            commitments.give_up(transaction, one, why)

    def give_up_commitments(self, but: Collection[str]) -> int:
        """Record that nobody asks for proof of deliveries to other peers than these; return how many waited."""
        with self._transaction("give_up_commitments") as transaction:
            return commitments.give_up_all(transaction, but)

    def take_report(
        self, transaction_uid: str, *, peer: str, committed: Collection[str], failed: Mapping[str, int]
    ) -> bool:
        """Record what a peer says of a request: which SOP Instance UIDs it keeps, and which not, with reasons.

        False: no request that was asked has this Transaction UID.
        """
        with self._transaction("take_report", peer) as transaction:
            return commitments.take_report(
                transaction, transaction_uid, peer, committed, failed
            ) or rehearsals.take_report(transaction, transaction_uid, committed, failed)

    def ask_in_rehearsal(self, transaction_uid: str, by: str) -> None:
        """Record that a rehearsal is about to ask for commitment, so that a report on it is known."""
        with self._transaction("ask_in_rehearsal", by) as transaction:
            rehearsals.ask(transaction, transaction_uid)

    # The operator.

    def retry_series(self, series: SeriesId, by: str) -> None:
        """Let the current revision be judged again. Raises InputError where its state does not allow that."""
        with self._transaction("retry_series", by) as transaction:
            verdicts.retry(transaction, series)

    def release_series(self, series: SeriesId, by: str) -> None:
        """Let the series go on as it is. Raises InputError where nothing holds it."""
        with self._transaction("release_series", by) as transaction:
            verdicts.release(transaction, series)

    def cancel_series(self, series: SeriesId, by: str) -> tuple[JobId, ...]:
        """Cancel the jobs of a series, the running one too; return their numbers. InputError where it has none."""
        with self._transaction("cancel_series", by) as transaction:
            return verdicts.cancel(transaction, series)

    def retry_delivery(self, delivery: DeliveryId, by: str) -> None:
        """Make a delivery due now, its refused items pending. Raises InputError where its state does not allow that."""
        with self._transaction("retry_delivery", by) as transaction:
            delivery_commands.retry(transaction, delivery)

    def send_delivery_to(self, delivery: DeliveryId, peer: str, by: str) -> DeliveryId:
        """Send the images of a delivery to another peer, and cancel it where it is not sent; return the new delivery.

        Raises InputError where the peer has them already, or is about to get them.
        """
        with self._transaction("send_delivery_to", by) as transaction:
            return delivery_commands.send_to(transaction, delivery, peer)

    def cancel_delivery(self, delivery: DeliveryId, by: str, *, note: str = "") -> None:
        """Send nothing more of a delivery. Raises InputError where it has ended already, or its rejection has no note.

        ``note``: why, in the words of a person.
        """
        with self._transaction("cancel_delivery", by) as transaction:
            delivery_commands.cancel(transaction, delivery, note)

    def release_delivery(self, delivery: DeliveryId, by: str, *, note: str = "") -> None:
        """Make a held delivery due. Raises InputError where it is not held. ``note``: why, in the words of a person."""
        with self._transaction("release_delivery", by) as transaction:
            delivery_commands.release(transaction, delivery, note)

    def see_quarantine(self, rows: Collection[int] | None, by: str) -> int:
        """Record that a person saw these rows, or all; return how many were new. Raises InputError for no such row."""
        with self._transaction("see_quarantine", by) as transaction:
            return quarantine.see(transaction, rows)

    # Models.

    def active_models(self) -> dict[str, ImportedModel]:
        """Return, by name, the imported models that rules get instead of those that came with the node."""
        with self._database.reading() as connection:
            return models.active(connection)

    def model_before(self, name: str) -> ImportedModel | None:
        """Return the imported model to which a rollback of this name goes back. None: there is none."""
        with self._database.reading() as connection:
            return models.before_active(connection, name)

    def import_model(self, imported: ImportedModel, by: str) -> tuple[ModelId, bool]:
        """Record a model whose files are flushed and in their folder. False: the ledger knew it already."""
        with self._transaction("import_model", by) as transaction:
            return models.take_in(transaction, imported)

    def activate_model(self, model: ModelId, by: str) -> bool:
        """Give rules this model under its name, from the next verdict on. False: they got it already."""
        with self._transaction("activate_model", by) as transaction:
            return models.activate(transaction, model)

    def roll_back_model(self, name: str, by: str, *, to: ModelId | None) -> None:
        """Undo the last activation of a name. Raises InputError where ``to`` is not what that leads to."""
        with self._transaction("roll_back_model", by) as transaction:
            models.roll_back(transaction, name, to=to)

    # Alerts.

    def observe_alerts(
        self, destination: str, holding: Sequence[Condition], ended: Collection[str], *, again_s: float
    ) -> None:
        """Raise what began to hold and end what is over, at one destination.

        An alert of which there is more is raised again ``again_s`` after it was sent.
        """
        with self._transaction("observe_alerts") as transaction:
            again_before = transaction.now - timedelta(seconds=again_s)
            alerts.observe(transaction, destination, holding, ended, again_before=again_before)

    def holding_conditions(self, destination: str) -> list[str]:
        """List the names of the conditions that held when they were observed last."""
        with self._database.reading() as connection:
            return alerts.holding_names(connection, destination)

    def alerts_to_send(self, destination: str) -> list[Alert]:
        """List what the destination is to be told, the oldest first."""
        with self._database.reading() as connection:
            return alerts.to_send(connection, destination)

    def alerts_sent(self, told: Sequence[Alert]) -> None:
        """Record that a destination took a message with these alerts."""
        with self._transaction("alerts_sent") as transaction:
            alerts.sent(transaction, told)

    def alerts_not_sent(self, untold: Sequence[Alert], failure: str) -> None:
        """Record that a try to send these alerts failed, and why."""
        with self._transaction("alerts_not_sent") as transaction:
            alerts.not_sent(transaction, untold, failure)

    def write_letter(self, destination: str, *, due_at: datetime | None = None) -> None:
        """Let the weekly letter be sent; with ``due_at`` only where the last one was written before that moment."""
        with self._transaction("write_letter") as transaction:
            alerts.write_letter(transaction, destination, due_at=due_at)

    # What has had its time.

    def old_events(self, after: int, before: datetime) -> int | None:
        """Return the last event of the piece behind ``after``. None: nothing there is older than ``before``."""
        with self._database.reading() as connection:
            return ageing.window(connection, after, before)

    def forget_events(self, after: int, last: int, before: datetime) -> int:
        """Remove the events behind ``after`` up to ``last`` that are older than ``before``; how many there were."""
        with self._transaction("forget_events", is_relaxed=True) as transaction:
            return ageing.forget_events(transaction, after, last, before)

    def forget_alerts(self, before: datetime) -> int:
        """Remove the alerts whose all-clear was sent before that; how many there were."""
        with self._transaction("forget_alerts") as transaction:
            return ageing.forget_alerts(transaction, before)

    @contextmanager
    def _transaction(self, name: str, by: str = NODE, *, is_relaxed: bool = False) -> Iterator[LedgerTransaction]:
        with self._database.transaction(name, is_relaxed=is_relaxed) as connection:
            yield LedgerTransaction(connection=connection, now=self._clock.now(), by=by)
