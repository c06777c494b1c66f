"""Claims queued jobs one by one, lets an executor run each, and records the result in the ledger.

The supervisor holds the lease of the job. No other part of ``work/`` uses the ledger. The executor decides in which
process an order runs. A result counts only after its files are published and ``jobs.finish`` is committed.

    claim ─ begin output folder ─ order ──▶ executor ──▶ Finished ─ publish folder ─ finish
                                               ├───────▶ Refused ─ hold          (input, model, altered file)
                                               ├───────▶ Failed ─ give back      (counts as an attempt, unless the
                                               └───────▶ GivenUp ─ give back      disk failed or the service stops)

If the disk cannot be written, no job is tried for a while. If only the files of one job cannot be read, or a cluster
lost one job, only that job waits.

A job is claimed only when the executor is ready and can run the job's model, so an executor that cannot start uses up
no attempt. After each claim the job is run once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from typing import TypeVar

from dicomnode import log
from dicomnode.archive.store import Archive
from dicomnode.errors import LedgerError, NodeError, StorageError
from dicomnode.ids import AeTitle, JobId
from dicomnode.ledger.states import JobState
from dicomnode.ledger.store import Ledger
from dicomnode.ledger.values import Job, Priority, QuarantinedFile, QuarantineReason
from dicomnode.seams import SYSTEM_CLOCK, Clock, checkpoint
from dicomnode.settings.match import Window
from dicomnode.work import orders
from dicomnode.work.executor import Executor, GivenUp, Progress
from dicomnode.worker_thread import WorkerThread, doubled_s

LOGGER = logging.getLogger(__name__)

T = TypeVar("T")

LEASE_S = 60.0  # renewed when a third of it has passed (docs/protocol.md#leases)
TICK_S = 5.0  # the longest wait between two looks into the ledger: for a new job, or for a cancel of the running one
PAUSE_S = 10.0  # after an error of the ledger
DISK_WAIT_S = (10.0, 300.0)  # wait after an error of the disk: from the first value, doubled each time, to the second
KILL_MARGIN_S = 15.0  # for ending the run and returning the job after the limit of ``stop``
STOPPED = GivenUp(sentence="The service stopped before the job was done.", counts=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rest:
    """When a job that waits for its files or for the cluster is tried again. After a restart it is tried at once."""

    until_s: float  # on the monotonic clock
    failures: int  # in a row


class _NotOurs(Exception):
    """An operator cancelled the job, or another worker has claimed it. The result of this run is discarded."""


class _NotWritten(Exception):
    """The service stops while the ledger cannot be written. The end of the job is not recorded, and it is run again."""


class Supervisor:
    """One thread that has its executor run one order at a time."""

    def __init__(
        self,
        ledger: Ledger,
        archive: Archive,
        executor: Executor,
        *,
        ae_title: AeTitle,
        owner: str,
        finished: Callable[[], None],
        offpeak: Window | None = None,
        least_free_percent: float = 0.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """``finished``: called when a job is done. ``offpeak``: when off-peak jobs may begin; None: at any time.

        ``least_free_percent``: of the archive's disk; no job begins below it.
        """
        self._ledger = ledger
        self._archive = archive
        self._executor = executor
        self._ae_title = ae_title
        self._owner = owner
        self._finished = finished
        self._offpeak = offpeak
        self._least_free_percent = least_free_percent
        self._has_room = True
        self._clock = clock
        self._stop_at = float("inf")
        self._disk_failures = 0  # in a row
        self._rests: dict[JobId, _Rest] = {}
        self._thread = WorkerThread(
            self._turn, name="work", events="work", logger=LOGGER, pause_s=PAUSE_S, ended=executor.close
        )

    def start(self) -> None:
        """Start the thread: it makes the executor ready and begins to claim jobs."""
        self._thread.start()

    def wake(self) -> None:
        """Look into the ledger now, because there may be a job."""
        self._thread.wake()

    def stop(self, limit_s: float) -> None:
        """Claim no further job. The running one goes back to the queue if it does not end within ``limit_s``."""
        self._stop_at = self._clock.monotonic() + limit_s
        if not self._thread.stop(limit_s + KILL_MARGIN_S):
            log.event(LOGGER, "work_not_stopped", level=logging.ERROR)

    def _turn(self) -> float:
        """Run the next job; return how long to wait for another: not at all after one."""
        if not self._executor.ready(self._thread.stopping):
            return 0.0
        if not self._finds_room():
            return TICK_S
        is_offpeak = self._offpeak is None or self._offpeak.holds(self._clock.now())
        job = self._ledger.jobs.claim(
            self._owner, lease_s=LEASE_S, but=self._resting(), models=self._executor.offered,
            least=Priority.OFF_PEAK if is_offpeak else Priority.NORMAL,
        )  # fmt: skip
        if job is None:
            return TICK_S
        self._do(job)
        return 0.0

    def _finds_room(self) -> bool:
        """Tell whether the disk has room for a result; log each change.

        The last of the disk belongs to the ledger: what ends a shortage, such as the proof after which images may
        leave the disk, has to be recorded there.
        """
        has_room = self._archive.data_folder.free_percent() >= self._least_free_percent
        if has_room and not self._has_room:
            log.event(LOGGER, "work_has_room")
        elif self._has_room and not has_room:
            mark = f"Less than {self._least_free_percent:g} % of the disk are free: no job begins until there is room."
            log.event(LOGGER, "work_without_room", level=logging.WARNING, sentence=mark)
        self._has_room = has_room
        return has_room

    def _do(self, job: Job) -> None:
        checkpoint("work.claimed")
        log.event(
            LOGGER, "job_claimed", job=job.id, series=job.series, revision=job.revision, attempts=job.attempts,
            model=job.planned.parameters.model, ratio=job.planned.parameters.ratio,
        )  # fmt: skip
        try:
            self._attempt(job)
        except _NotWritten:
            log.event(
                LOGGER, "job_not_written", level=logging.WARNING, job=job.id, series=job.series,
                sentence="The service stopped before the ledger took the end of the job; the next start does it again.",
            )  # fmt: skip

    def _attempt(self, job: Job) -> None:
        try:
            order = self._order(job)
            answer = self._run_order(job, order)
            if not isinstance(answer, orders.Failed):
                self._rests.pop(job.id, None)
            checkpoint("work.child_done")
            match answer:
                case orders.Finished():
                    self._finish(job, answer)
                case orders.Refused():
                    self._hold(job, order, answer)
                case orders.Failed():
                    self._fail(job, answer)
                case GivenUp():
                    self._return(job, answer.sentence, counts=answer.counts)
        except _NotOurs:
            self._drop(job)
        except _NotWritten:
            raise
        except NodeError as exc:  # an error of the disk or the ledger, not of the job
            self._return(job, exc.sentence, counts=False)
        except Exception as exc:
            self._return(
                job, f"The supervisor failed ({type(exc).__name__}); the log holds the traceback.", counts=True
            )
            raise

    def _drop(self, job: Job) -> None:
        """Discard the files of a cancelled job; leave those of a job that another worker has claimed."""
        if self._ledger.jobs.state_of(job.id) is JobState.CANCELLED:
            self._archive.outputs.discard(job.output_series)
            log.event(LOGGER, "job_cancelled", job=job.id, series=job.series)
        else:
            log.event(LOGGER, "job_lease_lost", level=logging.WARNING, job=job.id, series=job.series)

    def _order(self, job: Job) -> orders.Order:
        instances = self._ledger.jobs.sources(job)
        return orders.Order(
            job=job.id,
            token=job.lease_token,
            archive=str(self._archive.root),
            files=tuple(orders.SourceFile(instance=one.id, file=one.file, sha256=one.sha256) for one in instances),
            output=str(self._archive.outputs.begin(job.output_series)),
            node_uuid=str(self._ledger.node_uuid),
            ae_title=self._ae_title,
            parameters=job.planned.parameters,
            derivation_number=job.derivation_number,
            created_at=job.created_at.astimezone(UTC).isoformat(),
            patient=self._patient(job),
        )

    def _patient(self, job: Job) -> str | None:
        """The path of the file with the patient that the job pins; None: it pins none, or the file is gone."""
        if (pinned := job.planned.parameters.patient) is None:
            return None
        name = self._ledger.refreshes.file_of(job.series, pinned)
        return None if name is None else str(self._archive.quarantine.path(name))

    def _run_order(self, job: Job, order: orders.Order) -> orders.Answer | GivenUp:
        """Have the order run, and renew the lease meanwhile. Raises _NotOurs if the lease is lost."""
        lease = _Lease(job, self._ledger, self._clock, lambda: self._stop_at)
        answer = self._executor.run(order, progress=_stage_log(job), cancel=lease.is_over)
        if lease.is_lost:
            raise _NotOurs
        return STOPPED if isinstance(answer, GivenUp) and lease.is_too_late else answer

    def _finish(self, job: Job, made: orders.Finished) -> None:
        derived = made.series
        folder = self._archive.outputs.publish(job.output_series)
        names = {path.name for path in folder.iterdir()}
        assert names == {one.file_name for one in derived.instances}, "the manifest is not what lies in the folder"
        checkpoint("work.published")
        if not self._persist(lambda: self._ledger.jobs.finish(job, derived)):
            raise _NotOurs
        checkpoint("work.committed")
        self._disk_failures = 0
        log.event(
            LOGGER,
            "job_done",
            job=job.id,
            series=job.series,
            instances=len(derived.instances),
            seconds=derived.seconds,
        )
        if derived.objections:
            log.event(
                LOGGER, "result_held", level=logging.WARNING, job=job.id, series=job.series,
                sentence="; ".join(derived.objections),
            )  # fmt: skip
        self._finished()

    def _hold(self, job: Job, order: orders.Order, refused: orders.Refused) -> None:
        if refused.instance is not None and refused.found_sha256 is not None:
            self._quarantine(order, refused)
        if not self._persist(lambda: self._ledger.jobs.hold(job, reason=refused.cause, sentence=refused.sentence)):
            raise _NotOurs
        log.event(
            LOGGER, "job_held", level=logging.WARNING, job=job.id, series=job.series, reason=refused.cause,
            sentence=refused.sentence,
        )  # fmt: skip

    def _quarantine(self, order: orders.Order, refused: orders.Refused) -> None:
        """Move an altered file to quarantine: it must not be used as the instance again, and may show what happened."""
        assert refused.found_sha256 is not None
        source = next(one for one in order.files if one.instance == refused.instance)
        try:
            name = self._archive.set_aside(source.file)
        except OSError as exc:
            raise StorageError(f"An altered file could not be moved to quarantine: {exc.strerror}.") from exc
        entry = QuarantinedFile(
            file=name,
            reason=QuarantineReason.ALTERED,
            sha256=refused.found_sha256,
            peer="",
            instance=source.instance,
            kept_sha256=source.sha256,
        )
        self._persist(lambda: self._ledger.quarantine.record(entry))

    def _fail(self, job: Job, failed: orders.Failed) -> None:
        match failed.blame:
            case orders.Blame.JOB:
                self._return(job, failed.sentence, counts=True)
            case orders.Blame.DISK:
                self._return(job, failed.sentence, counts=False)
            case orders.Blame.SOURCE | orders.Blame.CLUSTER:
                before = self._rests.get(job.id)
                failures = 0 if before is None else before.failures
                wait_s = doubled_s(*DISK_WAIT_S, failures)
                self._rests[job.id] = _Rest(until_s=self._clock.monotonic() + wait_s, failures=failures + 1)
                self._give_back(job, failed.sentence, counts=False, wait_s=wait_s)

    def _resting(self) -> list[JobId]:
        """Return the jobs that are not to be tried now."""
        now_s = self._clock.monotonic()
        return [job for job, rest in self._rests.items() if now_s < rest.until_s]

    def _return(self, job: Job, sentence: str, *, counts: bool) -> None:
        """Return a job to the queue. If the job is not the cause of the failure, try no job at all for a while."""
        wait_s = None if counts else doubled_s(*DISK_WAIT_S, self._disk_failures)
        self._give_back(job, sentence, counts=counts, wait_s=wait_s)
        if wait_s is not None:  # a full disk is still full a moment later
            self._thread.pause(wait_s)
            self._disk_failures += 1

    def _give_back(self, job: Job, sentence: str, *, counts: bool, wait_s: float | None) -> None:
        self._discard_attempt(job)
        state = self._persist(lambda: self._ledger.jobs.give_back(job, detail=sentence, counts=counts))
        if state is None:
            self._drop(job)
            return
        log.event(
            LOGGER, "job_returned", level=logging.WARNING, job=job.id, series=job.series,
            attempts=job.attempts + counts, state=state, sentence=sentence, wait_s=wait_s,
        )  # fmt: skip

    def _discard_attempt(self, job: Job) -> None:
        """Make room before the ledger is written, while the claim holds: the folder may then be another worker's."""
        try:
            if self._ledger.jobs.is_ours(job):
                self._archive.outputs.discard_attempt(job.output_series)
        except NodeError as exc:
            log.event(LOGGER, "attempt_not_removed", level=logging.ERROR, code=exc.code, sentence=exc.sentence)

    def _persist(self, write: Callable[[], T]) -> T:
        """Write to the ledger; try again while it is locked or its disk is full.

        If the service is killed meanwhile, the job goes back to the queue at the next start and is run once more.
        Raises _NotWritten if the service stops first.
        """
        while True:
            try:
                return write()
            except (LedgerError, StorageError) as exc:
                log.event(LOGGER, "work_paused", level=logging.ERROR, code=exc.code, sentence=exc.sentence)
                if self._thread.stopping.is_set():
                    raise _NotWritten from exc
                self._thread.pause(PAUSE_S)


class _Lease:
    """The lease of the job that runs. It is renewed until it is lost or the time limit of a stop has passed."""

    def __init__(self, job: Job, ledger: Ledger, clock: Clock, stop_at: Callable[[], float]) -> None:
        self.is_lost = False  # an operator cancelled the job, or another worker has claimed it
        self.is_too_late = False  # the time limit of ``Supervisor.stop`` has passed
        self._job = job
        self._ledger = ledger
        self._clock = clock
        self._stop_at = stop_at
        self._beaten = self._looked = clock.monotonic()

    def is_over(self) -> bool:
        """Return whether the run is to end. Renews the lease when a third of its time has passed."""
        now = self._clock.monotonic()
        if self.is_lost:
            return True
        if now > self._stop_at():
            self.is_too_late = True
        elif now - self._beaten > LEASE_S / 3:
            self._beaten = self._looked = now
            self._ask(lambda: self._ledger.jobs.beat(self._job, lease_s=LEASE_S))
        elif now - self._looked > TICK_S:
            self._looked = now
            self._ask(lambda: self._ledger.jobs.is_ours(self._job))
        return self.is_lost or self.is_too_late

    def _ask(self, is_ours: Callable[[], bool]) -> None:
        try:
            self.is_lost = not is_ours()
        except LedgerError as exc:  # locked by a backup, for example; no other worker can claim the job meanwhile
            log.event(LOGGER, "beat_failed", level=logging.WARNING, job=self._job.id, sentence=exc.sentence)


def _stage_log(job: Job) -> Progress:
    """Log each stage of a job once."""
    at = "start"

    def progress(stage: str, _share: float) -> None:
        nonlocal at
        if stage != at:
            log.event(LOGGER, "job_stage", level=logging.DEBUG, job=job.id, stage=stage)
        at = stage

    return progress
