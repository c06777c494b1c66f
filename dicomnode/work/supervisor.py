"""Takes queued jobs one by one, has the child do each, and writes what became of it.

The supervisor holds the lease, watches time and memory, and is the only one here that touches the ledger. The child
is a process that may crash, hang or be killed at any moment: nothing it does counts until its files are published
and ``finish_job`` is committed.

    claim ─ begin output folder ─ order ──▶ child ──▶ Finished ─ publish folder ─ finish_job
                                              ├─────▶ Refused ─ hold_job         (input, model, altered file)
                                              ├─────▶ Failed ─ return_job        (counts as an attempt; a disk's
                                              └ dies, hangs, too large ─ return_job   fault and our stop do not)

A disk that takes nothing more stops all work for a while; one that does not give back the files of one job only
that job, for the others may lie on sound ground.

A job is claimed only once a child is warm, so a child that cannot start costs no job an attempt.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from typing import TypeVar

from dicomnode import log
from dicomnode.archive import Archive
from dicomnode.errors import LedgerError, NodeError, StorageError
from dicomnode.ids import AeTitle, JobId
from dicomnode.ledger.rows import DerivedSeries, Job, QuarantinedFile, QuarantineReason
from dicomnode.ledger.states import JobState
from dicomnode.ledger.store import Ledger
from dicomnode.seams import SYSTEM_CLOCK, Clock, checkpoint
from dicomnode.settings.models import WorkSettings
from dicomnode.work import orders
from dicomnode.work.child import Setup
from dicomnode.work.process import Ended, WorkerProcess, machine_memory_mb

LOGGER = logging.getLogger(__name__)

T = TypeVar("T")

LEASE_S = 60.0  # a third of it between two heartbeats (NODE 5.4)
TICK_S = 5.0  # the longest wait when no wake comes; as soon is an operator's cancel of the running job seen
POLL_S = 0.5  # how often a running child's time and memory are looked at
WARM_LIMIT_S = 300.0  # importing torch and reading weights, from a cold and slow disk
RESTART_WAIT_S = (1.0, 60.0)  # before a child that never became warm is tried again: doubled from … to
PAUSE_S = 10.0  # after the ledger refused, which another try at once would only meet again
DISK_WAIT_S = (10.0, 300.0)  # before the next try after a disk refused: doubled from … to
KILL_MARGIN_S = 15.0  # for killing the child and returning the job, once the limit of ``stop`` has passed
MEMORY_SHARE = 0.75  # of the machine, where no limit is set


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp:
    """The attempt came to no answer: why, and whether that counts against the job."""

    sentence: str
    counts: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rest:
    """A job whose files could not be read, and when it is tried again. A restart forgets it: it is tried at once."""

    until_s: float  # on the monotonic clock
    wait_s: float


class _NotOurs(Exception):
    """An operator cancelled the job, or another holder took it; what our child makes of it is dropped."""


class _NotWritten(Exception):
    """The service stops while the ledger takes nothing: what was to be written is not, and is found anew later."""


class Supervisor:
    """One thread and, at any time, at most one child."""

    def __init__(
        self,
        settings: WorkSettings,
        ledger: Ledger,
        archive: Archive,
        *,
        ae_title: AeTitle,
        setup: Setup,
        owner: str,
        finished: Callable[[], None],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._archive = archive
        self._ae_title = ae_title
        self._setup = setup
        self._owner = owner
        self._finished = finished
        self._clock = clock
        self._memory_limit_mb = settings.memory_limit_mb or MEMORY_SHARE * machine_memory_mb()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._stop_at = float("inf")
        self._worker: WorkerProcess | None = None
        self._restart_wait_s = RESTART_WAIT_S[0]
        self._disk_wait_s = DISK_WAIT_S[0]
        self._rests: dict[JobId, _Rest] = {}
        self._thread = threading.Thread(target=self._run, name="work")

    def start(self) -> None:
        """Spawn a child and begin to take jobs."""
        self._thread.start()

    def wake(self) -> None:
        """There may be a job."""
        self._wake.set()

    def stop(self, limit_s: float) -> None:
        """Take no further job; the running one may end within the limit, else it goes back to the queue."""
        self._stop_at = self._clock.monotonic() + limit_s
        self._stopping.set()
        self._wake.set()
        self._thread.join(limit_s + KILL_MARGIN_S)
        if self._thread.is_alive():
            log.event(LOGGER, "work_not_stopped", level=logging.ERROR)

    @property
    def worker_pid(self) -> int | None:
        """The warm child's process id."""
        worker = self._worker
        return worker.pid if worker else None

    def _run(self) -> None:
        """Border: the node without its worker would look alive and derive nothing, so the loop goes on."""
        try:
            while not self._stopping.is_set():
                try:
                    self._turn()
                except NodeError as exc:
                    log.event(LOGGER, "work_paused", level=logging.ERROR, code=exc.code, sentence=exc.sentence)
                    self._pause(PAUSE_S)
                except Exception:  # noqa: BLE001 (border: work loop)
                    log.failure(LOGGER, "work_failed")
                    self._discard_worker()
                    self._pause(PAUSE_S)
        finally:
            self._discard_worker()

    def _turn(self) -> None:
        worker = self._worker or self._start_worker()
        if worker is None:
            return
        job = self._ledger.claim_job(self._owner, lease_s=LEASE_S, but=self._resting())
        if job is not None:
            self._do(job, worker)
            return
        self._wake.wait(TICK_S)
        self._wake.clear()
        ended = worker.receive(0)
        if ended is not None:
            self._lose_worker(ended)

    def _start_worker(self) -> WorkerProcess | None:
        """A warm child; None when it did not become warm, after a wait that doubles each time."""
        begun = self._clock.monotonic()
        worker = WorkerProcess(self._setup)
        said: object = None
        while said is None and not self._stopping.is_set() and self._clock.monotonic() - begun < WARM_LIMIT_S:
            said = worker.receive(POLL_S)
        if isinstance(said, orders.Ready):
            log.event(
                LOGGER, "worker_warm", pid=worker.pid, device=said.device, model=", ".join(said.models),
                seconds=self._clock.monotonic() - begun, memory_mb=worker.resident_mb(),
            )  # fmt: skip
            self._worker = worker
            self._restart_wait_s = RESTART_WAIT_S[0]
            return worker
        ended = worker.kill()
        if not self._stopping.is_set():
            why = ended.sentence if said else f"the worker was not ready after {WARM_LIMIT_S:g} s"
            log.event(
                LOGGER, "worker_not_warm", level=logging.ERROR, sentence=_capitalised(why),
                wait_s=self._restart_wait_s,
            )  # fmt: skip
            self._pause(self._restart_wait_s)
            self._restart_wait_s = min(2 * self._restart_wait_s, RESTART_WAIT_S[1])
        return None

    def _do(self, job: Job, worker: WorkerProcess) -> None:
        checkpoint("work.claimed")
        log.event(
            LOGGER, "job_claimed", job=job.id, series=job.series, revision=job.revision, attempts=job.attempts,
            model=job.planned.model, ratio=job.planned.ratio,
        )  # fmt: skip
        try:
            self._attempt(job, worker)
        except _NotWritten:
            log.event(
                LOGGER, "job_not_written", level=logging.WARNING, job=job.id, series=job.series,
                sentence="The service stopped before the ledger took the end of the job; the next start does it again.",
            )  # fmt: skip

    def _attempt(self, job: Job, worker: WorkerProcess) -> None:
        try:
            order = self._order(job)
            worker.send(order)
            outcome = self._watch(job, worker)
            if not isinstance(outcome, orders.Failed):
                self._rests.pop(job.id, None)
            checkpoint("work.child_done")
            match outcome:
                case orders.Finished():
                    self._finish(job, outcome)
                case orders.Refused():
                    self._hold(job, order, outcome)
                case orders.Failed():
                    self._fail(job, outcome)
                case GivenUp():
                    self._return(job, outcome.sentence, counts=outcome.counts)
        except _NotOurs:
            self._discard_worker()
            self._drop(job)
        except _NotWritten:
            raise
        except NodeError as exc:  # the disk or the ledger, so not the job's fault
            self._return(job, exc.sentence, counts=False)
        except Exception as exc:
            self._return(
                job, f"The supervisor failed ({type(exc).__name__}); the log holds the traceback.", counts=True
            )
            raise

    def _drop(self, job: Job) -> None:
        """A job that is not ours any more: whose it is decides what becomes of the files."""
        if self._ledger.job_state(job.id) is JobState.CANCELLED:
            self._archive.discard_output(job.output_series)
            log.event(LOGGER, "job_cancelled", job=job.id, series=job.series)
        else:
            log.event(LOGGER, "job_lease_lost", level=logging.WARNING, job=job.id, series=job.series)

    def _order(self, job: Job) -> orders.Order:
        planned = job.planned
        instances = self._ledger.instances_of(job.series, job.revision)
        return orders.Order(
            job=job.id,
            files=tuple(orders.SourceFile(instance=one.id, file=one.file, sha256=one.sha256) for one in instances),
            output=str(self._archive.begin_output(job.output_series)),
            node_uuid=str(self._ledger.node_uuid),
            ae_title=self._ae_title,
            rule=planned.rule,
            model=planned.model,
            model_digest=planned.model_digest,
            ratio=planned.ratio,
            parameters=planned.parameters,
            derivation_number=job.derivation_number,
            created_at=job.created_at.astimezone(UTC).isoformat(),
        )

    def _watch(self, job: Job, worker: WorkerProcess) -> orders.Finished | orders.Refused | orders.Failed | GivenUp:
        """Wait for the child's answer; beat the lease, and kill the child where it goes beyond its limits.

        Seconds are counted while we watch: time in which the machine slept, or this process was stopped, is not
        the job's.
        """
        stage = "start"
        peak_mb = spent_s = 0.0
        last = beaten = looked = self._clock.monotonic()
        while True:
            said = worker.receive(POLL_S)
            now = self._clock.monotonic()
            spent_s += min(now - last, TICK_S)
            last = now
            match said:
                case orders.Finished() | orders.Refused() | orders.Failed() if said.job == job.id:
                    return said
                case orders.Stage():
                    if said.stage != stage:
                        log.event(LOGGER, "job_stage", level=logging.DEBUG, job=job.id, stage=said.stage)
                    stage = said.stage
                case Ended():
                    self._lose_worker(said)
                    peak = f"{said.sentence}, having taken {peak_mb:.0f} MiB of memory"
                    return GivenUp(sentence=_at(stage, peak), counts=True)
                case None:
                    pass
                case _:
                    raise AssertionError(f"the child said {said}")
            peak_mb = max(peak_mb, worker.resident_mb())
            if peak_mb > self._memory_limit_mb:
                self._discard_worker()
                limit = f"{self._memory_limit_mb:.0f} MiB (work.memory_limit_mb)"
                too_much = f"the worker took {peak_mb:.0f} MiB of memory, more than {limit}"
                return GivenUp(sentence=_at(stage, too_much), counts=True)
            if spent_s > self._settings.time_limit_s:
                self._discard_worker()
                limit = f"{self._settings.time_limit_s:g} s (work.time_limit_s)"
                return GivenUp(sentence=_at(stage, f"the job took longer than {limit}"), counts=True)
            if now > self._stop_at:
                self._discard_worker()
                return GivenUp(sentence="The service stopped before the job was done.", counts=False)
            if now - beaten > LEASE_S / 3:
                beaten = looked = now
                self._insist(job, lambda: self._ledger.beat_job(job, lease_s=LEASE_S))
            elif now - looked > TICK_S:
                looked = now
                self._insist(job, lambda: self._ledger.is_job_ours(job))

    def _insist(self, job: Job, ask: Callable[[], bool]) -> None:
        try:
            is_ours = ask()
        except LedgerError as exc:  # locked by a backup, say; nobody else can take the job meanwhile either
            log.event(LOGGER, "beat_failed", level=logging.WARNING, job=job.id, sentence=exc.sentence)
            return
        if not is_ours:
            raise _NotOurs

    def _finish(self, job: Job, made: orders.Finished) -> None:
        folder = self._archive.publish_output(job.output_series)
        names = {path.name for path in folder.iterdir()}
        assert names == {one.file_name for one in made.instances}, "the manifest is not what lies in the folder"
        checkpoint("work.published")
        derived = DerivedSeries(
            series_uid=made.series_uid, instances=made.instances, notes=made.notes, seconds=made.seconds
        )
        if not self._persist(lambda: self._ledger.finish_job(job, derived)):
            raise _NotOurs
        checkpoint("work.committed")
        self._disk_wait_s = DISK_WAIT_S[0]
        log.event(
            LOGGER, "job_done", job=job.id, series=job.series, instances=len(made.instances), seconds=made.seconds
        )
        self._finished()

    def _hold(self, job: Job, order: orders.Order, refused: orders.Refused) -> None:
        if refused.instance is not None and refused.found_sha256 is not None:
            self._quarantine(order, refused)
        if not self._persist(lambda: self._ledger.hold_job(job, reason=refused.cause, sentence=refused.sentence)):
            raise _NotOurs
        log.event(
            LOGGER, "job_held", level=logging.WARNING, job=job.id, series=job.series, reason=refused.cause,
            sentence=refused.sentence,
        )  # fmt: skip

    def _quarantine(self, order: orders.Order, refused: orders.Refused) -> None:
        """Set an altered file aside: it is evidence, and nobody may take it for the instance again."""
        assert refused.found_sha256 is not None
        source = next(one for one in order.files if one.instance == refused.instance)
        try:
            name = self._archive.quarantine_file(source.file)
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
        self._persist(lambda: self._ledger.record_quarantine(entry))

    def _fail(self, job: Job, failed: orders.Failed) -> None:
        match failed.blame:
            case orders.Blame.JOB:  # nobody foresaw this exception: a fresh process is a known state
                self._discard_worker()
                self._return(job, failed.sentence, counts=True)
            case orders.Blame.DISK:
                self._return(job, failed.sentence, counts=False)
            case orders.Blame.SOURCE:
                before = self._rests.get(job.id)
                wait_s = DISK_WAIT_S[0] if before is None else min(2 * before.wait_s, DISK_WAIT_S[1])
                self._rests[job.id] = _Rest(until_s=self._clock.monotonic() + wait_s, wait_s=wait_s)
                self._give_back(job, failed.sentence, counts=False, wait_s=wait_s)

    def _resting(self) -> list[JobId]:
        """Jobs that are not to be tried now."""
        now_s = self._clock.monotonic()
        return [job for job, rest in self._rests.items() if now_s < rest.until_s]

    def _return(self, job: Job, sentence: str, *, counts: bool) -> None:
        """Give a job back; where it is not to blame, nothing else is tried for a while either."""
        wait_s = None if counts else self._disk_wait_s
        self._give_back(job, sentence, counts=counts, wait_s=wait_s)
        if wait_s is not None:  # a full disk is no emptier a moment later
            self._pause(wait_s)
            self._disk_wait_s = min(2 * wait_s, DISK_WAIT_S[1])

    def _give_back(self, job: Job, sentence: str, *, counts: bool, wait_s: float | None) -> None:
        state = self._persist(lambda: self._ledger.return_job(job, detail=sentence, counts=counts))
        if state is None:
            self._drop(job)
            return
        log.event(
            LOGGER, "job_returned", level=logging.WARNING, job=job.id, series=job.series,
            attempts=job.attempts + counts, state=state, sentence=sentence, wait_s=wait_s,
        )  # fmt: skip

    def _persist(self, write: Callable[[], T]) -> T:
        """Write to the ledger, again and again while it is locked or its disk is full.

        What is to be written is true whatever the ledger says; if we are killed meanwhile, the job's lease is
        returned at the next start and the work done once more. Raises _NotWritten when we stop first.
        """
        while True:
            try:
                return write()
            except (LedgerError, StorageError) as exc:
                log.event(LOGGER, "work_paused", level=logging.ERROR, code=exc.code, sentence=exc.sentence)
                if self._stopping.is_set():
                    raise _NotWritten from exc
                self._pause(PAUSE_S)

    def _lose_worker(self, said: object) -> None:
        assert isinstance(said, Ended), f"a child without a job said {said}"
        log.event(LOGGER, "worker_ended", level=logging.ERROR, sentence=_capitalised(said.sentence))
        self._worker = None

    def _discard_worker(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    def _pause(self, seconds: float) -> None:
        self._stopping.wait(seconds)


def _at(stage: str, what: str) -> str:
    return _capitalised(f"{what}, while the job was at “{stage}”.")


def _capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
