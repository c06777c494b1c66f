"""The executor of this machine: a spawned child that keeps its models warm, and runs one order after the other.

The child may crash, hang or be killed at any moment; then it is replaced, and what it was doing is given up. Its time
and memory are watched here: a child that goes beyond its limits is killed. The child may have the models run on a
cluster (``Setup.cluster``). It then says which models the cluster offers, and the time that a job waits for a worker of
the cluster does not count.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import replace

from dicomnode import log
from dicomnode.seams import SYSTEM_CLOCK, Clock
from dicomnode.work import orders
from dicomnode.work.child import Setup, child_main
from dicomnode.work.cluster import Outcome
from dicomnode.work.executor import CANCELLED, POLL_S, GivenUp, Progress
from dicomnode.work.process import Ended, WorkerProcess, machine_memory_mb
from dicomnode.worker_thread import doubled_s

LOGGER = logging.getLogger(__name__)

WARM_LIMIT_S = 300.0  # importing torch and reading weights, from a cold and slow disk
RESTART_WAIT_S = (1.0, 60.0)  # before a child that never became warm is tried again: doubled from … to
MEMORY_SHARE = 0.75  # of the machine, where no limit is set
REPLACED_AFTER = (orders.Blame.JOB, orders.Blame.CLUSTER)  # a failure that may have left the child in any state
ASLEEP_S = 5.0  # a longer time between two looks was not the job's: the machine slept, or this process was stopped


class LocalExecutor:
    """An executor that has one child at most. A child ends with the thread that called ``ready``."""

    def __init__(
        self,
        setup: Setup,
        *,
        time_limit_s: float,
        memory_limit_mb: float,
        timed: Callable[[float | None], None] = lambda _reference_s: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """``memory_limit_mb``: 0 for three quarters of the machine.

        ``timed`` is called once with the time that the first child measured of the model ``setup.timed``; None where
        it measured nothing.
        """
        self._setup = setup
        self._timed = timed
        self._time_limit_s = time_limit_s
        self._memory_limit_mb = memory_limit_mb or MEMORY_SHARE * machine_memory_mb()
        self._clock = clock
        self._worker: WorkerProcess | None = None
        self._failed_starts = 0  # in a row
        self._offer: orders.Offer | None = None  # of the cluster; None: the child has not said yet, or there is none
        self._lost_since_s: float | None = None  # on the monotonic clock; None: the cluster offers a model

    @property
    def offered(self) -> Collection[str] | None:
        """The digests of the models that the cluster offered last; None where the child runs its models itself."""
        if self._setup.cluster is None:
            return None
        return () if self._offer is None else self._offer.digests

    def lost(self, for_s: float) -> str:
        """Say why the cluster has offered no model for so many seconds; "" where it offers one or there is no cluster.

        From any thread.
        """
        offer, since_s = self._offer, self._lost_since_s
        if offer is None or since_s is None or self._clock.monotonic() - since_s < for_s:
            return ""
        return offer.sentence

    @property
    def pid(self) -> int | None:
        """The process id of the warm child; None while there is none."""
        worker = self._worker
        return worker.pid if worker else None

    @property
    def memory_mb(self) -> float:
        """Resident memory of the warm child, in MiB; 0 while there is none. From any thread."""
        worker = self._worker
        return worker.resident_mb() if worker else 0.0

    def ready(self, stopping: threading.Event) -> bool:
        """Start a child and wait until it is warm, where there is none; after one that was not, wait twice as long.

        Where the models run on a cluster, it also has to offer one.
        """
        if self._worker is None and not self._start(stopping):
            return False
        wait_s = 0.0
        while self._worker is not None and (said := _receive(self._worker, wait_s)) is not None:
            if isinstance(said, Ended):
                self._lose(said)
            else:
                assert isinstance(said, orders.Offer), f"a child without a job said {said}"
                self._hear(said)
        if self._setup.cluster is None:
            return self._worker is not None or self._start(stopping)
        if not self.offered:
            stopping.wait(POLL_S)
        return self._worker is not None and bool(self.offered)

    def run(self, order: orders.Order, *, progress: Progress, cancel: Callable[[], bool]) -> orders.Answer | GivenUp:
        """Give the order to the child; after anything but a plain answer, the next order gets a new child."""
        assert self._worker is not None, "an order was given to an executor that is not ready"
        try:
            self._worker.send(orders.encode(order))
            answer = self._watch(self._worker, order, progress, cancel)
        except BaseException:
            self.close()
            raise
        if isinstance(answer, GivenUp) or (isinstance(answer, orders.Failed) and answer.blame in REPLACED_AFTER):
            self.close()  # nobody foresaw this: a fresh process is a known state
        return answer

    def close(self) -> None:
        """Kill the child, whatever it does."""
        if self._worker is not None:
            self._worker.kill()
            self._worker = None
            self._offer = None

    def _start(self, stopping: threading.Event) -> bool:
        begun = self._clock.monotonic()
        worker = WorkerProcess(child_main, self._setup)
        said: object = None
        while said is None and not stopping.is_set() and self._clock.monotonic() - begun < WARM_LIMIT_S:
            said = _receive(worker, POLL_S)
        if isinstance(said, orders.Ready):
            log.event(
                LOGGER, "worker_warm", pid=worker.pid, device=said.device, model=", ".join(said.models),
                seconds=self._clock.monotonic() - begun, memory_mb=worker.resident_mb(),
            )  # fmt: skip
            self._worker = worker
            self._failed_starts = 0  # in a row
            self._tell_time(said.reference_s)
            return True
        ended = worker.kill()
        if not stopping.is_set():
            self._tell_time(None)
            why = ended.sentence if said else f"the worker was not ready after {WARM_LIMIT_S:g} s"
            wait_s = doubled_s(*RESTART_WAIT_S, self._failed_starts)
            log.event(LOGGER, "worker_not_warm", level=logging.ERROR, sentence=_capitalised(why), wait_s=wait_s)
            stopping.wait(wait_s)
            self._failed_starts += 1
        return False

    def _tell_time(self, reference_s: float | None) -> None:
        if self._setup.timed:
            self._setup = replace(self._setup, timed=None)
            self._timed(reference_s)

    def _watch(
        self, worker: WorkerProcess, order: orders.Order, progress: Progress, cancel: Callable[[], bool]
    ) -> orders.Answer | GivenUp:
        """Wait for the child's answer, and look at its time and memory meanwhile."""
        stage = "start"
        peak_mb = spent_s = 0.0
        last = self._clock.monotonic()
        while True:
            said = _receive(worker, POLL_S)
            now = self._clock.monotonic()
            if stage != orders.QUEUE:
                spent_s += min(now - last, ASLEEP_S)
            last = now
            match said:
                case orders.Finished() | orders.Refused() | orders.Failed() if said.job == order.job:
                    return said
                case orders.StageReport():
                    stage = said.stage
                    progress(stage, said.share)
                case orders.CallReport():
                    _log_call(said)
                case Ended():
                    self._lose(said)
                    peak = f"{said.sentence}, having taken {peak_mb:.0f} MiB of memory"
                    return GivenUp(sentence=_at(stage, peak), counts=True)
                case orders.Offer():
                    self._hear(said)
                case None:
                    pass
                case _:
                    raise AssertionError(f"the child said {said}")
            peak_mb = max(peak_mb, worker.resident_mb())
            if peak_mb > self._memory_limit_mb:
                limit = f"{self._memory_limit_mb:.0f} MiB (work.memory_limit_mb)"
                too_much = f"the worker took {peak_mb:.0f} MiB of memory, more than {limit}"
                return GivenUp(sentence=_at(stage, too_much), counts=True)
            if spent_s > self._time_limit_s:
                limit = f"{self._time_limit_s:g} s (work.time_limit_s)"
                return GivenUp(sentence=_at(stage, f"the job took longer than {limit}"), counts=True)
            if cancel():
                return CANCELLED

    def _hear(self, offer: orders.Offer) -> None:
        """Keep what the cluster offers, and log when that is nothing any more, or something again."""
        had = bool(self.offered)
        self._offer = offer
        if not offer.digests:
            self._lost_since_s = self._clock.monotonic() if self._lost_since_s is None else self._lost_since_s
            log.event(LOGGER, "cluster_lost", level=logging.WARNING, sentence=offer.sentence)
            return
        self._lost_since_s = None
        if not had:
            log.event(LOGGER, "cluster_back", count=len(offer.digests))

    def _lose(self, ended: Ended) -> None:
        log.event(LOGGER, "worker_ended", level=logging.ERROR, sentence=_capitalised(ended.sentence))
        self._worker = None
        self._offer = None


def _log_call(call: orders.CallReport) -> None:
    level = logging.INFO if call.outcome in (Outcome.MADE, Outcome.REFUSED) else logging.WARNING
    log.event(
        LOGGER, "cluster_call", level=level, job=call.job, address=call.worker, state=call.outcome,
        seconds=call.seconds, memory_mb=call.memory_mb,
    )  # fmt: skip


def _receive(worker: WorkerProcess, timeout_s: float) -> orders.Message | Ended | None:
    said = worker.receive(timeout_s)
    return orders.decode(said) if isinstance(said, bytes) else said


def _at(stage: str, what: str) -> str:
    return _capitalised(f"{what}, while the job was at “{stage}”.")


def _capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
