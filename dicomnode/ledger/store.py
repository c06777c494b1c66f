"""The one writer of the ledger: each method is one business act in one transaction.

Everything durable goes through here, from any thread of the service and from the operator's commands beside it. A
method returns what happened as a value; False or None means that the row was no longer where the caller left it
(its lease was lost, a late instance came) and that nothing was written. How each act changes which rows stands in
``intake``, ``verdicts``, ``jobs``, ``deliveries`` and ``models``; which changes there are at all, in ``states``.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import bindparam, insert, select, update

from dicomnode.derivation import DerivedSeries
from dicomnode.ids import DeliveryId, InstanceId, JobId, QuarantineId, SeriesId
from dicomnode.ledger import deliveries, intake, jobs, models, quarantine, verdicts
from dicomnode.ledger.act import NODE, Act
from dicomnode.ledger.engine import Database, ledger_path, require_file, require_head, schema_version
from dicomnode.ledger.rows import (
    ArchivedInstance,
    BootId,
    BootReport,
    Delivery,
    DeliveryItem,
    Examined,
    Finding,
    ImportedModel,
    Job,
    KnownInstance,
    ModelId,
    PlannedJob,
    QuarantinedFile,
    QuarantineReason,
    ReceivingSeries,
    SettledSeries,
    StoredInstance,
    StoreOutcome,
    Unexamined,
)
from dicomnode.ledger.schema import boot, create_ledger, instance, node, series
from dicomnode.ledger.states import DeliveryState, JobState
from dicomnode.seams import SYSTEM_CLOCK, Clock

LEASE_S: Final = 60.0  # renewed every third of it (NODE 5.4)
CHECKED_AT_START_BYTES: Final = 64 << 20  # a third of a second's work; a larger ledger is checked behind the open door

# From the index of the paths alone, whatever their rows hold: "0" is what comes after "/".
_FILES_IN: Final = select(instance.c.file).where(
    instance.c.file > bindparam("first"), instance.c.file < bindparam("beyond")
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
    """The open ledger, for every thread of this process."""

    def __init__(self, database: Database, node_uuid: uuid.UUID, clock: Clock) -> None:
        self.node_uuid = node_uuid  # namespace of the UIDs that this node derives
        self._database = database
        self._clock = clock

    def close(self) -> None:
        """Fold the write-ahead log into the file."""
        self._database.close()

    # The service itself.

    def begin_boot(self, *, pid: int, host: str) -> BootReport:
        """A service starts: nobody else holds a lease any more.

        Raises LedgerError where the file is damaged, as far as that is looked for: ``is_checked`` in the report says
        whether ``check`` still has to be called.
        """
        is_checked = self._database.size_bytes() <= CHECKED_AT_START_BYTES
        if is_checked:
            self.check()
        with self._act("begin_boot") as act:
            last = act.connection.execute(select(boot).order_by(boot.c.id.desc()).limit(1)).one_or_none()
            stopped = select(boot.c.ended_at).where(boot.c.ended_at.is_not(None)).order_by(boot.c.id.desc()).limit(1)
            last_clean_stop = act.connection.execute(stopped).scalar_one_or_none()
            made = act.connection.execute(
                insert(boot).returning(boot.c.id), {"pid": pid, "host": host, "began_at": act.now}
            ).scalar_one()
            ended_cleanly = last is None or last.ended_at is not None
            detail = "the service ended" if ended_cleanly else "the service was killed"
            if not ended_cleanly:
                intake.mark_cut_off(act)
            return BootReport(
                boot=BootId(made),
                ended_cleanly=ended_cleanly,
                last_clean_stop=last_clean_stop,
                is_checked=is_checked,
                returned_jobs=jobs.return_all(act, detail),
                returned_deliveries=deliveries.return_all(act, detail),
            )

    def check(self) -> None:
        """Look at every page of the file. Raises LedgerError where one is damaged, CheckStoppedError when told to."""
        self._database.check()

    def stop_check(self) -> None:
        """From another thread: end a check that is under way."""
        self._database.stop_check()

    def end_boot(self, ended: BootId) -> None:
        """The service stops in order."""
        with self._act("end_boot") as act:
            act.connection.execute(update(boot).where(boot.c.id == ended).values(ended_at=act.now))

    def note(self, kind: str, *, table: str, row: int, detail: str = "", by: str = NODE) -> None:
        """Write down something that an operator may want to read, at the row that it happened to."""
        with self._act("note", by) as act:
            act.note(kind, table=table, row=row, detail=detail)

    # Receive.

    def series_for(self, series_uid: str) -> SeriesId:
        """The number of a series, handed out before its first file is written."""
        with self._database.reading() as connection:
            number = intake.series_number(connection, series_uid)
        if number is not None:
            return number
        with self._act("series") as act:
            return intake.make_series(act, series_uid)

    def find_series(self, series_uid: str) -> SeriesId | None:
        """The number that a series has; none is handed out."""
        with self._database.reading() as connection:
            return intake.series_number(connection, series_uid)

    def find_instance(self, sop_instance_uid: str) -> KnownInstance | None:
        """What is held under a SOP Instance UID; a look without a lock."""
        with self._database.reading() as connection:
            return intake.known_instance(connection, sop_instance_uid)

    def accept(self, instances: Sequence[StoredInstance]) -> list[StoreOutcome]:
        """The files are flushed and renamed: give them rows, all in one transaction; outcomes in the order given."""
        with self._act("accept") as act:
            return intake.accept(act, instances)

    def mark_aborted(self, series_ids: Iterable[SeriesId]) -> None:
        """The association that stored into these ended without a release."""
        with self._act("abort") as act:
            for series_id in series_ids:
                intake.mark_aborted(act, series_id)

    def record_quarantine(self, file: QuarantinedFile, finding: Finding | None = None) -> QuarantineId:
        """A file lies in the quarantine folder; ``finding``: where it is plain at once."""
        with self._act("quarantine", file.peer or NODE) as act:
            return quarantine.record(act, file, finding)

    def file_set_aside(self, kept: InstanceId, sha256: str) -> str | None:
        """The name in quarantine of an object with these bytes, whose UID an instance has."""
        with self._database.reading() as connection:
            return quarantine.file_of(connection, kept, sha256)

    def record_orphans(self, files: Sequence[QuarantinedFile]) -> None:
        """Files without a row, which the sweep moved to the quarantine folder."""
        with self._act("orphans") as act:
            for file in files:
                quarantine.record(act, file)

    # What the sweep compares the files with.

    def series_numbers(self) -> list[SeriesId]:
        """Every number that was handed out, the oldest first."""
        with self._database.reading() as connection:
            return [
                SeriesId(number) for number in connection.execute(select(series.c.id).order_by(series.c.id)).scalars()
            ]

    def files_in(self, folder: str) -> set[str]:
        """The files in one folder of the archive that have a row, by their paths below the archive folder."""
        with self._database.reading() as connection:
            return set(connection.execute(_FILES_IN, {"first": f"{folder}/", "beyond": f"{folder}0"}).scalars())

    def aside_in(self, folder: str) -> set[str]:
        """Names below the quarantine folder of what has its row there and may still lie in a series' folder."""
        with self._database.reading() as connection:
            return quarantine.files_of(connection, SeriesId(int(folder))) if folder.isdecimal() else set()

    # What was set aside.

    def quarantined_files(self) -> set[str]:
        """The files below the quarantine folder that have a row."""
        with self._database.reading() as connection:
            return quarantine.files(connection)

    def quarantine_without_series(self) -> list[tuple[QuarantineId, str, QuarantineReason]]:
        """Number, file and reason of what a series may lack, while it is not known which."""
        with self._database.reading() as connection:
            return quarantine.without_series(connection)

    def quarantine_belongs(self, row: QuarantineId, series: SeriesId | None, otherwise: Examined) -> None:
        """The series that a file set aside names, if the ledger knows it, or what is to be said instead."""
        with self._act("quarantine_belongs") as act:
            quarantine.belong(act, row, series, otherwise)

    def waiting_quarantine(self) -> list[SeriesId]:
        """Judged series of which something was set aside since."""
        with self._database.reading() as connection:
            return quarantine.waiting_series(connection)

    def unexamined(self, series: SeriesId) -> list[Unexamined]:
        """What was set aside of a series and is to be looked at."""
        with self._database.reading() as connection:
            return quarantine.unexamined(connection, series)

    def examined(self, series: SeriesId, found: Sequence[Examined]) -> None:
        """What the look found."""
        with self._act("examined") as act:
            quarantine.examined(act, series, found)

    def objections(self, series: SeriesId) -> tuple[str, ...]:
        """Why the series is not derived as it is: what was set aside of it, and seen by nobody."""
        with self._database.reading() as connection:
            return quarantine.objections(connection, series)

    # Settle.

    def receiving_series(self) -> list[ReceivingSeries]:
        """The series that may become quiet."""
        with self._database.reading() as connection:
            return verdicts.receiving(connection)

    def settle(self, series: SeriesId, revision: int, *, note: str, seen_at: datetime | None = None) -> bool:
        """Freeze a quiet series; with ``seen_at`` only if its ``last_at`` is still the one that was judged quiet."""
        with self._act("settle") as act:
            return verdicts.settle(act, series, revision, note=note, seen_at=seen_at)

    def settled_series(self) -> list[SettledSeries]:
        """The series that wait for a verdict."""
        with self._database.reading() as connection:
            return verdicts.settled(connection)

    def instances_of(self, series: SeriesId, revision: int) -> list[ArchivedInstance]:
        """The instances of one revision."""
        with self._database.reading() as connection:
            return verdicts.instances_of(connection, series, revision)

    def keep(
        self,
        series: SeriesId,
        revision: int,
        *,
        reason: str,
        sentence: str,
        alert: bool = False,
        notes: Sequence[str] = (),
    ) -> bool:
        """Verdict: archived, not processed."""
        with self._act("keep") as act:
            return verdicts.keep(act, series, revision, reason=reason, sentence=sentence, alert=alert, notes=notes)

    def plan(
        self, series: SeriesId, revision: int, planned: PlannedJob, *, notes: Sequence[str] = (), alert: bool = False
    ) -> JobId | None:
        """Verdict: derived by a job."""
        with self._act("plan") as act:
            return verdicts.plan(act, series, revision, planned, notes=notes, alert=alert)

    # Work.

    def claim_job(self, owner: str, *, lease_s: float, but: Collection[JobId] = ()) -> Job | None:
        """The job that has waited longest, but none of those, under a lease."""
        with self._act("claim_job", owner) as act:
            return jobs.claim(act, owner, act.now + timedelta(seconds=lease_s), but)

    def is_job_ours(self, job: Job) -> bool:
        """Does the claim hold? A look without a lock; no after its lease was lost or an operator cancelled it."""
        with self._database.reading() as connection:
            return jobs.is_ours(connection, job)

    def job_state(self, job: JobId) -> JobState:
        """Where a job stands."""
        with self._database.reading() as connection:
            return jobs.state_of(connection, job)

    def beat_job(self, job: Job, *, lease_s: float = LEASE_S) -> bool:
        """Renew the lease; False: stop, and discard what was made."""
        with self._act("beat_job", is_relaxed=True) as act:
            return jobs.beat(act, job, act.now + timedelta(seconds=lease_s))

    def finish_job(self, job: Job, derived: DerivedSeries) -> bool:
        """What the job made is flushed and in its folder."""
        with self._act("finish_job") as act:
            return jobs.finish(act, job, derived)

    def return_job(self, job: Job, *, detail: str, counts: bool) -> JobState | None:
        """Give the job back; ``counts``: it cost an attempt. Where it stands now; None: it was no longer ours."""
        with self._act("return_job") as act:
            return jobs.give_back(act, job, detail=detail, counts=counts)

    def hold_job(self, job: Job, *, reason: str, sentence: str) -> bool:
        """The job cannot go on without the operator."""
        with self._act("hold_job") as act:
            return jobs.hold(act, job, reason=reason, sentence=sentence)

    # Push.

    def claim_delivery(self, peer: str, owner: str, *, lease_s: float) -> Delivery | None:
        """The delivery to this peer that has been due longest, under a lease."""
        with self._act("claim_delivery", owner) as act:
            return deliveries.claim(act, peer, owner, act.now + timedelta(seconds=lease_s))

    def is_delivery_ours(self, delivery: Delivery) -> bool:
        """Does the claim hold? A look without a lock; no after its lease was lost or an operator cancelled it."""
        with self._database.reading() as connection:
            return deliveries.is_ours(connection, delivery)

    def peer_of_delivery(self, delivery: DeliveryId) -> str:
        """To whom it goes. Raises InputError where there is none."""
        with self._database.reading() as connection:
            return deliveries.peer_of(connection, delivery)

    def delivery_state(self, delivery: DeliveryId) -> DeliveryState:
        """Where a delivery stands."""
        with self._database.reading() as connection:
            return deliveries.state_of(connection, delivery)

    def beat_delivery(self, delivery: Delivery, *, lease_s: float = LEASE_S) -> bool:
        """Renew the lease; False: stop."""
        with self._act("beat_delivery", is_relaxed=True) as act:
            return deliveries.beat(act, delivery, act.now + timedelta(seconds=lease_s))

    def pending_items(self, delivery: Delivery) -> list[DeliveryItem]:
        """What the peer has still to get, in the order of the slices."""
        with self._database.reading() as connection:
            return deliveries.pending_items(connection, delivery)

    def acknowledge(self, delivery: Delivery, item: DeliveryItem, *, status: int) -> bool:
        """The peer answered success or a warning; committed before the next instance is sent.

        False: the delivery is no longer ours; nothing more of it may be sent.
        """
        with self._act("acknowledge", delivery.peer, is_relaxed=True) as act:
            return deliveries.acknowledge(act, delivery, item, status)

    def refuse(self, delivery: Delivery, item: DeliveryItem, *, status: int) -> bool:
        """The peer will not take this instance. False: as of ``acknowledge``."""
        with self._act("refuse", delivery.peer) as act:
            return deliveries.refuse(act, delivery, item, status)

    def fail_item(self, delivery: Delivery, item: DeliveryItem, *, status: int) -> int:
        """The peer could not take this instance now; how often that has happened."""
        with self._act("fail_item", delivery.peer) as act:
            return deliveries.fail_item(act, delivery, item, status)

    def defer(self, delivery: Delivery, *, wait_s: float, reason: str, sentence: str) -> bool:
        """A transient failure: due again after a wait."""
        with self._act("defer") as act:
            due_at = act.now + timedelta(seconds=wait_s)
            return deliveries.defer(act, delivery, due_at=due_at, reason=reason, sentence=sentence)

    def hold_delivery(self, delivery: Delivery, *, reason: str, sentence: str) -> bool:
        """The delivery cannot go on without the operator."""
        with self._act("hold_delivery") as act:
            return deliveries.hold(act, delivery, reason=reason, sentence=sentence)

    def finish_delivery(self, delivery: Delivery) -> DeliveryState | None:
        """Every item is answered: sent, or held with what was refused; None: it was no longer ours."""
        with self._act("finish_delivery") as act:
            return deliveries.finish(act, delivery)

    def release_claim(self, delivery: Delivery) -> bool:
        """The service stops between two instances: due at once, and no failure."""
        with self._act("release_claim") as act:
            return deliveries.release_claim(act, delivery)

    def next_due_in(self, peer: str) -> float | None:
        """Seconds until the next delivery to this peer may be claimed; None: none waits."""
        with self._database.reading() as connection:
            now = self._clock.now()
            moment = deliveries.next_due_at(connection, peer, now)
        return None if moment is None else max(0.0, (moment - now).total_seconds())

    def deliveries_without_peer(self, reachable: Collection[str]) -> dict[str, int]:
        """The peers that are not among those that can be sent to, and how many deliveries are due to each."""
        with self._database.reading() as connection:
            return deliveries.without_peer(connection, reachable)

    # The operator.

    def retry_series(self, series: SeriesId, by: str) -> None:
        """Judge the current revision again. Raises InputError where that means nothing."""
        with self._act("retry_series", by) as act:
            verdicts.retry(act, series)

    def release_series(self, series: SeriesId, by: str) -> None:
        """Let the series go on as it is. Raises InputError where nothing holds it."""
        with self._act("release_series", by) as act:
            verdicts.release(act, series)

    def cancel_series(self, series: SeriesId, by: str) -> tuple[JobId, ...]:
        """Give its jobs up, the running one too; which they were. Raises InputError where there is none."""
        with self._act("cancel_series", by) as act:
            return verdicts.cancel(act, series)

    def retry_delivery(self, delivery: DeliveryId, by: str) -> None:
        """Due now, refused items pending again. Raises InputError where that means nothing."""
        with self._act("retry_delivery", by) as act:
            deliveries.retry(act, delivery)

    def send_delivery_to(self, delivery: DeliveryId, peer: str, by: str) -> DeliveryId:
        """Bring its images to another peer, and give up what is not sent yet; the delivery to that peer.

        Raises InputError where the peer has them already, or is about to get them.
        """
        with self._act("send_delivery_to", by) as act:
            return deliveries.send_to(act, delivery, peer)

    def cancel_delivery(self, delivery: DeliveryId, by: str) -> None:
        """Send no more of it. Raises InputError where it has ended already."""
        with self._act("cancel_delivery", by) as act:
            deliveries.cancel(act, delivery)

    def release_delivery(self, delivery: DeliveryId, by: str) -> None:
        """A held delivery is due. Raises InputError where it is not held."""
        with self._act("release_delivery", by) as act:
            deliveries.release(act, delivery)

    def see_quarantine(self, rows: Collection[int] | None, by: str) -> int:
        """A person has seen these rows of quarantine, or all; how many were new. Raises InputError for no such row."""
        with self._act("see_quarantine", by) as act:
            return quarantine.see(act, rows)

    # Models.

    def active_models(self) -> dict[str, ImportedModel]:
        """By name: the imported model that rules get instead of the one that came with the node."""
        with self._database.reading() as connection:
            return models.active(connection)

    def model_before(self, name: str) -> ImportedModel | None:
        """What a rollback of this name goes back to; None: to what came with the node, or none."""
        with self._database.reading() as connection:
            return models.before_active(connection, name)

    def import_model(self, imported: ImportedModel, by: str) -> tuple[ModelId, bool]:
        """Its files are flushed and in their folder; False: the ledger knew it already."""
        with self._act("import_model", by) as act:
            return models.take_in(act, imported)

    def activate_model(self, model: ModelId, by: str) -> bool:
        """From the next verdict on rules get this model under its name; False: they did already."""
        with self._act("activate_model", by) as act:
            return models.activate(act, model)

    def roll_back_model(self, name: str, by: str, *, to: ModelId | None) -> None:
        """Undo the last activation of a name. Raises InputError where ``to`` is not what that leads to."""
        with self._act("roll_back_model", by) as act:
            models.roll_back(act, name, to=to)

    @contextmanager
    def _act(self, name: str, by: str = NODE, *, is_relaxed: bool = False) -> Iterator[Act]:
        with self._database.transaction(name, is_relaxed=is_relaxed) as connection:
            yield Act(connection=connection, now=self._clock.now(), by=by)
