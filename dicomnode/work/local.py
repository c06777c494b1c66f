"""The executor of this machine: a spawned child that keeps its models warm, and runs one order after the other.

The child may crash, hang or be killed at any moment; then it is replaced, and what it was doing is given up. Its time
and memory are watched here: a child that goes beyond its limits is killed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from dicomnode import log
from dicomnode.seams import SYSTEM_CLOCK, Clock
from dicomnode.work import orders
from dicomnode.work.child import Setup
from dicomnode.work.executor import CANCELLED, POLL_S, GivenUp, Progress
from dicomnode.work.process import Ended, WorkerProcess, machine_memory_mb

LOGGER = logging.getLogger(__name__)

WARM_LIMIT_S = 300.0  # importing torch and reading weights, from a cold and slow disk
RESTART_WAIT_S = (1.0, 60.0)  # before a child that never became warm is tried again: doubled from … to
MEMORY_SHARE = 0.75  # of the machine, where no limit is set
ASLEEP_S = 5.0  # a longer time between two looks was not the job's: the machine slept, or this process was stopped


class LocalExecutor:
    """At any time at most one child. A child ends with the thread that called ``ready``."""

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

        ``timed`` is told once what the first child measured of the model that ``setup`` wants to be timed; None where
        it measured nothing.
        """
        self._setup = setup
        self._timed = timed
        self._time_limit_s = time_limit_s
        self._memory_limit_mb = memory_limit_mb or MEMORY_SHARE * machine_memory_mb()
        self._clock = clock
        self._worker: WorkerProcess | None = None
        self._restart_wait_s = RESTART_WAIT_S[0]

    @property
    def pid(self) -> int | None:
        """The process id of the warm child; None while there is none."""
        worker = self._worker
        return worker.pid if worker else None

    def ready(self, stopping: threading.Event) -> bool:
        """Start a child and wait until it is warm, where there is none; after one that was not, wait twice as long."""
        if self._worker is not None:
            said = self._worker.receive(0)
            if said is not None:
                assert isinstance(said, Ended), f"a child without a job said {said}"
                self._lose(said)
        return self._worker is not None or self._start(stopping)

    def run(self, order: orders.Order, *, progress: Progress, cancel: Callable[[], bool]) -> orders.Answer | GivenUp:
        """Give the order to the child; after anything but a plain answer, the next order gets a new child."""
        assert self._worker is not None, "an order was given to an executor that is not ready"
        try:
            self._worker.send(order)
            answer = self._watch(self._worker, order, progress, cancel)
        except BaseException:
            self.close()
            raise
        if isinstance(answer, GivenUp) or (isinstance(answer, orders.Failed) and answer.blame is orders.Blame.JOB):
            self.close()  # nobody foresaw this: a fresh process is a known state
        return answer

    def close(self) -> None:
        """Kill the child, whatever it does."""
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    def _start(self, stopping: threading.Event) -> bool:
        begun = self._clock.monotonic()
        worker = WorkerProcess(self._setup)
        said: object = None
        while said is None and not stopping.is_set() and self._clock.monotonic() - begun < WARM_LIMIT_S:
            said = worker.receive(POLL_S)
        if isinstance(said, orders.Ready):
            log.event(
                LOGGER, "worker_warm", pid=worker.pid, device=said.device, model=", ".join(said.models),
                seconds=self._clock.monotonic() - begun, memory_mb=worker.resident_mb(),
            )  # fmt: skip
            self._worker = worker
            self._restart_wait_s = RESTART_WAIT_S[0]
            self._tell_time(said.reference_s)
            return True
        ended = worker.kill()
        if not stopping.is_set():
            self._tell_time(None)
            why = ended.sentence if said else f"the worker was not ready after {WARM_LIMIT_S:g} s"
            log.event(
                LOGGER, "worker_not_warm", level=logging.ERROR, sentence=_capitalised(why),
                wait_s=self._restart_wait_s,
            )  # fmt: skip
            stopping.wait(self._restart_wait_s)
            self._restart_wait_s = min(2 * self._restart_wait_s, RESTART_WAIT_S[1])
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
            said = worker.receive(POLL_S)
            now = self._clock.monotonic()
            spent_s += min(now - last, ASLEEP_S)
            last = now
            match said:
                case orders.Finished() | orders.Refused() | orders.Failed() if said.job == order.job:
                    return said
                case orders.StageReport():
                    stage = said.stage
                    progress(stage, said.share)
                case Ended():
                    self._lose(said)
                    peak = f"{said.sentence}, having taken {peak_mb:.0f} MiB of memory"
                    return GivenUp(sentence=_at(stage, peak), counts=True)
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

    def _lose(self, ended: Ended) -> None:
        log.event(LOGGER, "worker_ended", level=logging.ERROR, sentence=_capitalised(ended.sentence))
        self._worker = None


def _at(stage: str, what: str) -> str:
    return _capitalised(f"{what}, while the job was at “{stage}”.")


def _capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
