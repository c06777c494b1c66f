"""The seam below the supervisor: another executor than the child of this machine, with nothing else changed.

``InThread`` runs the same orders with a real generator in a thread of this process, which no product should: a thread
cannot be killed. It is what a second executor has to be written against, and it shows what the supervisor leaves to it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest

from dicomnode.archive.store import Archive
from dicomnode.derivation import DerivationParameters
from dicomnode.ids import AeTitle, SeriesId
from dicomnode.ledger.queries import Reader, open_reader
from dicomnode.ledger.store import Ledger, open_ledger
from dicomnode.ledger.values import PlannedJob
from dicomnode.ledger.views import JobLine
from dicomnode.work import job, orders
from dicomnode.work import supervisor as supervisor_module
from dicomnode.work.executor import CANCELLED, Executor, GivenUp, Progress
from dicomnode.work.supervisor import Supervisor
from tests.support.mr_series import mr_datasets
from tests.support.stored import archived_files, pinned, plan, store
from tests.support.supervised import LIMIT_S, running
from tests.support.wait import wait_until

POLL_S = 0.02


class _Ended(BaseException):
    """Ends the thread of a run from inside; no border of a job catches it."""


class InThread:
    """Runs orders in a thread of this process, one after the other."""

    def __init__(self, data: Path) -> None:
        self.runs: Counter[tuple[int, int]] = Counter()  # by job and token
        self.overlaps = 0
        self.is_ready = threading.Event()
        self.is_ready.set()
        self.gate = threading.Event()  # a run goes no further than its first stage before this is set
        self.gate.set()
        self.began = threading.Event()
        self._models = job.Models(data)
        self._busy = threading.Lock()

    def ready(self, stopping: threading.Event) -> bool:
        """As told by the test."""
        if not self.is_ready.is_set():
            stopping.wait(POLL_S)
        return self.is_ready.is_set()

    @property
    def offered(self) -> None:
        """It runs the model of any order."""

    def run(self, order: orders.Order, *, progress: Progress, cancel: Callable[[], bool]) -> orders.Answer | GivenUp:
        """In a new thread, while this one asks whether to go on."""
        self.runs[order.job, order.token] += 1
        self.overlaps += not self._busy.acquire(blocking=False)
        ending = threading.Event()
        answers: list[orders.Answer] = []

        def tell(stage: str, share: float) -> None:
            self.began.set()
            while not self.gate.wait(POLL_S):
                if ending.is_set():
                    raise _Ended
            if ending.is_set():
                raise _Ended
            progress(stage, share)

        def work() -> None:
            with suppress(_Ended):
                answers.append(job.answer(order, device="cpu", models=self._models, progress=tell))

        thread = threading.Thread(target=work, name="run")
        thread.start()
        while thread.is_alive():
            thread.join(POLL_S)
            if cancel():
                ending.set()
                thread.join()
        self._busy.release()
        return answers[0] if answers else CANCELLED

    def close(self) -> None:
        """There is nothing to keep warm."""


class House:
    """A data folder with its ledger, and a supervisor over an executor of this process."""

    def __init__(self, folder: Path) -> None:
        url = f"sqlite:///{folder / 'ledger.sqlite'}"
        self.ledger: Ledger = open_ledger(url)
        self.reader: Reader = open_reader(url)
        self.archive = Archive(folder)
        self.executor = InThread(folder)

    def planned(self, slices: int = 6) -> SeriesId:
        series = store(self.ledger, self.archive, mr_datasets(slices=slices))
        plan(self.ledger, series)
        return series

    def job(self, series: SeriesId) -> JobLine:
        return self.reader.series_show(series).jobs[-1]

    def wait_for(self, series: SeriesId, state: str) -> JobLine:
        wait_until(lambda: self.job(series).state == state, LIMIT_S, f"the job of series {series} is {state}")
        return self.job(series)

    def supervised(self, *, least_free_percent: float = 0.0) -> AbstractContextManager[Supervisor]:
        executor: Executor = self.executor  # what mypy holds it to
        return running(
            Supervisor(
                self.ledger, self.archive, executor, ae_title=AeTitle("NODE"), owner="1:test:1",
                finished=lambda: None, least_free_percent=least_free_percent,
            )
        )  # fmt: skip

    def close(self) -> None:
        self.reader.close()
        self.ledger.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    opened = House(tmp_path)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, logger="dicomnode.work")
    return caplog


def test_jobs_are_done_one_after_the_other_and_each_claim_is_run_once(
    house: House, log: pytest.LogCaptureFixture
) -> None:
    wanted = [house.planned() for _ in range(3)]
    with house.supervised():
        made = [house.wait_for(series, "done").output_series for series in wanted]
    assert [len(archived_files(house.archive, SeriesId(series or 0))) for series in made] == [18, 18, 18]
    assert list(house.executor.runs.values()) == [1, 1, 1]
    assert house.executor.overlaps == 0
    assert log.messages.count("job_done") == 3
    assert log.messages.count("job_stage") == 3 * 5, "verify, read, generate, derive, write: each once"


def test_no_job_is_claimed_before_the_executor_is_ready(house: House) -> None:
    house.executor.is_ready.clear()
    series = house.planned()
    with house.supervised() as supervisor:
        supervisor.wake()
        assert house.job(series).state == "queued"
        house.executor.is_ready.set()
        assert house.wait_for(series, "done").attempts == 0


def test_the_lease_is_beaten_as_long_as_the_run_goes_on(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "LEASE_S", 3.0)
    series = house.planned()
    house.executor.gate.clear()
    with house.supervised():
        assert house.executor.began.wait(LIMIT_S)
        first = house.job(series)
        begun = time.monotonic()
        while time.monotonic() - begun < 1.5 * 3.0:
            assert house.ledger.jobs.claim("2:other:2", lease_s=60) is None
            threading.Event().wait(0.05)
        house.executor.gate.set()
        assert house.wait_for(series, "done").id == first.id
    assert list(house.executor.runs.values()) == [1]


def test_a_run_whose_lease_is_lost_is_ended_and_writes_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    """Another holder may have the job by then: whatever the run made is dropped, even where it came to its end."""
    monkeypatch.setattr(supervisor_module, "LEASE_S", 0.0)  # run out as soon as it was given
    monkeypatch.setattr(supervisor_module, "TICK_S", 0.05)
    series = house.planned()
    house.executor.gate.clear()
    with house.supervised():
        assert house.executor.began.wait(LIMIT_S)
        monkeypatch.setattr(supervisor_module, "LEASE_S", 60.0)
        wait_until(lambda: house.ledger.jobs.claim("2:other:2", lease_s=60), LIMIT_S, "another took the job")
        wait_until(lambda: "job_lease_lost" in log.messages, LIMIT_S)
        assert house.job(series).state == "running", "the other's"
    assert not {"job_done", "job_returned", "job_held"} & set(log.messages)
    assert list(house.executor.runs.values()) == [1]


def test_an_operators_cancel_ends_the_run_and_its_files_are_gone(
    house: House, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor_module, "TICK_S", 0.05)
    series = house.planned()
    house.executor.gate.clear()
    with house.supervised():
        assert house.executor.began.wait(LIMIT_S)
        house.ledger.operator.cancel_series(series, "operator")
        wait_until(lambda: "job_cancelled" in log.messages, LIMIT_S)
    assert house.job(series).state == "cancelled"
    assert [path.name for path in house.archive.root.iterdir()] == [str(series)]


def test_a_run_that_the_stop_of_the_service_ends_goes_back_and_counts_for_nothing(house: House) -> None:
    series = house.planned()
    house.executor.gate.clear()
    with house.supervised() as supervisor:
        assert house.executor.began.wait(LIMIT_S)
        supervisor.stop(0.1)
    found = house.job(series)
    assert (found.state, found.attempts) == ("queued", 0)
    assert found.sentence == "The service stopped before the job was done."
    assert [path.name for path in house.archive.root.iterdir()] == [str(series)], "an attempt that ended leaves nothing"


def test_no_job_begins_on_a_disk_without_room(
    house: House, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor_module, "TICK_S", 0.05)
    free_percent = [1.4]
    monkeypatch.setattr(house.archive.data_folder, "free_percent", lambda: free_percent[0])
    series = house.planned()
    with house.supervised(least_free_percent=1.5):
        wait_until(lambda: "work_without_room" in log.messages, LIMIT_S)
        assert not house.executor.began.wait(0.5)
        assert (house.job(series).state, house.job(series).attempts) == ("queued", 0)
        free_percent[0] = 1.5
        house.wait_for(series, "done")
    assert [name for name in log.messages if name in ("work_without_room", "work_has_room")] == [
        "work_without_room",
        "work_has_room",
    ]


def test_a_refusal_holds_the_job_and_an_unforeseen_exception_costs_an_attempt(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    altered, broken = house.planned(), house.planned()
    archived_files(house.archive, altered)[0].unlink()
    real = job.run

    def run(order: orders.Order, **how: object) -> orders.Finished:
        if order.files[0].file.startswith(f"{broken}/") and not broken_once:
            broken_once.append(True)
            raise ZeroDivisionError
        return real(order, **how)  # type: ignore[arg-type]  # passed on

    broken_once: list[bool] = []
    monkeypatch.setattr(job, "run", run)
    with house.supervised():
        assert house.wait_for(altered, "held").reason == "altered"
        assert house.wait_for(broken, "done").attempts == 1
    assert list(house.executor.runs.values()) == [1, 1, 1]
    assert len({token for _, token in house.executor.runs}) == 2, "each claim of a job has a token of its own"


def test_a_job_that_a_later_version_planned_is_held_with_a_sentence_and_the_others_go_on(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = DerivationParameters.text
    monkeypatch.setattr(DerivationParameters, "text", lambda self: text(self).replace("{", '{"gain":1,'))
    later = house.planned()
    monkeypatch.undo()
    ours = house.planned()
    with house.supervised():
        assert house.wait_for(ours, "done").attempts == 0
        held = house.wait_for(later, "held")
    assert held.reason == "parameters"
    assert held.sentence.startswith("The job was planned with gain, which this version of the node does not know.")
    house.ledger.operator.retry_series(later, "operator")
    assert house.ledger.settling.plan(later, 1, PlannedJob(parameters=pinned(), deliver_to=(), sentence="planned anew"))
    assert [line.state for line in house.reader.series_show(later).jobs] == ["cancelled", "queued"]
