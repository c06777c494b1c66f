"""Jobs from the queue through a real child: done, held, returned, failed, and never two at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from pydicom import dcmread

from dicomnode.archive.store import Archive
from dicomnode.generators.model_dir import model_facts
from dicomnode.ids import JobId, SeriesId
from dicomnode.ledger.queries import Reader, open_reader
from dicomnode.ledger.store import Ledger, open_ledger
from dicomnode.ledger.values import Priority
from dicomnode.ledger.views import JobLine
from dicomnode.settings.match import Window
from dicomnode.work import local
from dicomnode.work import supervisor as supervisor_module
from tests.support.mounts import unreadable
from tests.support.mr_series import mr_datasets
from tests.support.node import is_running
from tests.support.stored import archived_files, plan, store
from tests.support.supervised import LIMIT_S, Supervised, supervised, warm_pid
from tests.support.wait import wait_until


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A data folder with its ledger, and a way to start supervisors on it."""

    ledger: Ledger
    archive: Archive
    reader: Reader

    def planned(
        self, *, slices: int = 6, size: int = 16, priority: Priority = Priority.NORMAL
    ) -> tuple[SeriesId, JobId]:
        """A series whose job waits."""
        series = store(self.ledger, self.archive, mr_datasets(slices=slices, size=size))
        return series, plan(self.ledger, series, priority=priority)

    def job(self, series: SeriesId) -> JobLine:
        """The last job of the series."""
        return self.reader.series_show(series).jobs[-1]

    def wait_for(self, series: SeriesId, state: str) -> JobLine:
        """The last job of the series, once it is in the state."""
        wait_until(lambda: self.job(series).state == state, LIMIT_S, f"the job of series {series} is {state}")
        return self.job(series)

    def supervisor(
        self, finished: Callable[[], None] = lambda: None, *, offpeak: Window | None = None, **limits: float
    ) -> AbstractContextManager[Supervised]:
        """A running supervisor, stopped at once afterwards."""
        return supervised(self.ledger, self.archive, finished, offpeak=offpeak, **limits)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    ledger = open_ledger(url)
    reader = open_reader(url)
    yield Bench(ledger=ledger, archive=Archive(tmp_path), reader=reader)
    reader.close()
    ledger.close()


def test_a_job_becomes_an_archived_series_of_n_times_ratio_slices_that_the_ledger_knows(bench: Bench) -> None:
    series, _ = bench.planned(slices=6)
    finished: list[bool] = []
    with bench.supervisor(lambda: finished.append(True)):
        job = bench.wait_for(series, "done")
        wait_until(lambda: finished, what="those who deliver are woken")
    assert job.output_series is not None
    files = archived_files(bench.archive, SeriesId(job.output_series))
    assert len(files) == 18
    assert {f"{file.parent.name}/{file.name}" for file in files} == bench.ledger.upkeep.files_in(str(job.output_series))
    spacings = {float(dcmread(file).SpacingBetweenSlices) for file in files}
    assert list(spacings) == [pytest.approx(4 / 3, abs=1e-5)]
    assert not bench.archive.outputs.folder(SeriesId(job.output_series)).exists()


def test_one_child_does_one_job_after_the_other(bench: Bench) -> None:
    first, _ = bench.planned()
    with bench.supervisor() as supervisor:
        bench.wait_for(first, "done")
        pid = warm_pid(supervisor)
        second, _ = bench.planned()
        supervisor.wake()
        bench.wait_for(second, "done")
        assert supervisor.worker_pid == pid
    assert not is_running(pid)


def test_a_job_whose_child_is_killed_goes_back_and_a_new_child_does_it(bench: Bench) -> None:
    series, _ = bench.planned(slices=60, size=256)
    with bench.supervisor() as supervisor:
        pid = warm_pid(supervisor)
        wait_until(lambda: bench.job(series).state == "running", LIMIT_S)
        os.kill(pid, signal.SIGKILL)
        job = bench.wait_for(series, "done")
        assert supervisor.worker_pid != pid
    assert job.attempts == 1
    history = [event.detail for event in bench.reader.series_explain(series).events if event.kind == "return"]
    assert len(history) == 1
    assert "killed by SIGKILL, having taken" in history[0]


def test_a_child_that_hangs_is_killed_at_the_time_limit_and_the_job_fails_after_three_attempts(bench: Bench) -> None:
    series, _ = bench.planned(slices=60, size=512)  # more than a second of work, wherever the signal finds it
    with bench.supervisor(time_limit_s=1.0) as supervisor:
        for _ in range(3):
            pid = warm_pid(supervisor)
            wait_until(lambda: bench.job(series).state == "running", LIMIT_S)
            with suppress(ProcessLookupError):  # on a busy machine the limit may have passed without our help
                os.kill(pid, signal.SIGSTOP)
            wait_until(lambda pid=pid: not is_running(pid), LIMIT_S, "the hung child is gone")  # type: ignore[misc]
        job = bench.wait_for(series, "failed")
    assert job.attempts == 3
    assert job.sentence.startswith("The job took longer than 1 s (work.time_limit_s), while the job was at")


def test_a_child_beyond_the_memory_limit_is_killed_and_the_queue_goes_on(bench: Bench) -> None:
    series, _ = bench.planned(slices=60, size=512)
    with bench.supervisor(memory_limit_mb=60) as supervisor:
        job = bench.wait_for(series, "failed")
        assert "of memory, more than 60 MiB (work.memory_limit_mb)" in job.sentence
        supervisor.stop(0)
    other, _ = bench.planned()
    with bench.supervisor():
        bench.wait_for(other, "done")


def test_an_altered_file_goes_to_quarantine_and_the_job_is_held_with_both_digests(bench: Bench) -> None:
    series, _ = bench.planned()
    victim = archived_files(bench.archive, series)[3]
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    with bench.supervisor():
        job = bench.wait_for(series, "held")
    expected = next(line for line in bench.reader.series_show(series).files if line.file.endswith(victim.name)).sha256
    (quarantined,) = bench.reader.quarantine_list()
    assert job.reason == "altered"
    assert expected in job.sentence
    assert quarantined.sha256 in job.sentence
    assert (quarantined.reason, quarantined.kept_sha256) == ("altered", expected)
    assert not victim.exists()
    assert (bench.archive.quarantine.folder / quarantined.file).read_bytes() == content


def test_a_missing_file_holds_the_job_and_names_the_file(bench: Bench) -> None:
    series, _ = bench.planned()
    victim = archived_files(bench.archive, series)[0]
    victim.unlink()
    with bench.supervisor():
        job = bench.wait_for(series, "held")
    assert job.reason == "altered"
    assert f"Archived file {series}/{victim.name} is missing; expected sha256" in job.sentence


def test_pixels_that_cannot_be_decoded_hold_the_job_with_a_sentence(bench: Bench) -> None:
    datasets = mr_datasets()
    datasets[2].PixelData = datasets[2].PixelData[:100]
    series = store(bench.ledger, bench.archive, datasets)
    plan(bench.ledger, series)
    with bench.supervisor():
        job = bench.wait_for(series, "held")
    assert job.reason == "input"
    assert job.sentence.startswith("Slice 3 cannot be used")


def test_a_job_planned_with_another_model_digest_is_held_with_both_digests(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = store(bench.ledger, bench.archive, mr_datasets())
    facts = model_facts("cubic-dc")
    monkeypatch.setattr("tests.support.stored.model_facts", lambda _name: replace(facts, digest="cubic-dc/0"))
    plan(bench.ledger, series)
    with bench.supervisor():
        job = bench.wait_for(series, "held")
    assert job.reason == "model"
    assert f"expected digest cubic-dc/0, found {facts.digest}" in job.sentence


def test_a_job_in_progress_is_returned_uncounted_when_the_service_stops_before_it_ends(bench: Bench) -> None:
    series, _ = bench.planned(slices=60, size=256)
    with bench.supervisor() as supervisor:
        pid = warm_pid(supervisor)
        wait_until(lambda: bench.job(series).state == "running", LIMIT_S)
        os.kill(pid, signal.SIGSTOP)
        supervisor.stop(0.5)
    job = bench.job(series)
    assert (job.state, job.attempts) == ("queued", 0)
    assert not is_running(pid)


def test_a_job_in_progress_may_end_within_the_limit_when_the_service_stops(bench: Bench) -> None:
    series, _ = bench.planned(slices=60, size=128)
    with bench.supervisor() as supervisor:
        wait_until(lambda: bench.job(series).state == "running", LIMIT_S)
        supervisor.stop(LIMIT_S)
    assert bench.job(series).state == "done"


def test_an_off_peak_job_begins_in_its_hours_only(bench: Bench) -> None:
    """The supervisor asks the clock before each claim: a job that was planned before waits for the next evening."""
    waits, _ = bench.planned(priority=Priority.OFF_PEAK)
    normal, _ = bench.planned()

    def hours(begin_h: int, end_h: int) -> Window:
        now = datetime.now(UTC)
        begin, end = (now + timedelta(hours=begin_h), now + timedelta(hours=end_h))
        return Window(begin=begin.time(), end=end.time(), zone=ZoneInfo("UTC"))

    with bench.supervisor(offpeak=hours(2, 4)):
        bench.wait_for(normal, "done")
        later, _ = bench.planned()
        bench.wait_for(later, "done")
        assert bench.job(waits).state == "queued"
    with bench.supervisor(offpeak=hours(-2, 2)):
        bench.wait_for(waits, "done")


def test_a_job_is_claimed_only_once_a_child_is_warm(bench: Bench) -> None:
    series, _ = bench.planned()
    supervisor_states = []
    with bench.supervisor() as supervisor:
        while supervisor.worker_pid is None:
            supervisor_states.append(bench.job(series).state)
    assert set(supervisor_states) == {"queued"}


def test_a_late_instance_lets_a_running_job_end_and_supersedes_what_waits(bench: Bench) -> None:
    datasets = mr_datasets(slices=61, size=256)
    series = store(bench.ledger, bench.archive, datasets[:60])
    plan(bench.ledger, series)
    with bench.supervisor() as supervisor:
        pid = warm_pid(supervisor)
        wait_until(lambda: bench.job(series).state == "running", LIMIT_S)
        os.kill(pid, signal.SIGSTOP)
        store(bench.ledger, bench.archive, datasets[60:])
        os.kill(pid, signal.SIGCONT)
        bench.wait_for(series, "done")
    detail = bench.reader.series_show(series)
    assert (detail.revision, detail.state, detail.deliveries) == (2, "receiving", ())


def test_the_lease_of_a_long_job_is_renewed_so_that_nobody_else_can_claim_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "LEASE_S", 4.0)
    series, _ = bench.planned(slices=60, size=256)
    with bench.supervisor() as supervisor:
        pid = warm_pid(supervisor)
        wait_until(lambda: bench.job(series).state == "running", LIMIT_S)
        os.kill(pid, signal.SIGSTOP)
        begun = time.monotonic()
        while time.monotonic() - begun < 1.5 * 4.0:
            assert bench.ledger.jobs.claim("2:other:2", lease_s=60) is None
            supervisor.wake()
            threading.Event().wait(0.05)
        os.kill(pid, signal.SIGCONT)
        bench.wait_for(series, "done")


def test_a_job_that_another_owner_took_is_left_to_it_and_our_child_is_killed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "LEASE_S", 0.2)
    monkeypatch.setattr(local, "POLL_S", 2.0)
    series, _ = bench.planned(slices=60, size=256)
    with bench.supervisor() as supervisor:
        pid = warm_pid(supervisor)
        wait_until(lambda: bench.job(series).state == "running", LIMIT_S)
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: bench.ledger.jobs.claim("2:other:2", lease_s=60), what="the lease ran out")
        wait_until(lambda: not is_running(pid), what="our child is gone")
        assert bench.job(series).state == "running"


def test_a_job_whose_file_cannot_be_read_waits_with_its_sentence_and_does_not_stall_the_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that answers with an I/O error says nothing of the image; once it can be read, the job is done."""
    monkeypatch.setattr(supervisor_module, "DISK_WAIT_S", (1.0, 1.0))
    monkeypatch.setattr(supervisor_module, "TICK_S", 0.1)
    poor, _ = bench.planned()
    sound = [bench.planned()[0] for _ in range(2)]
    with bench.supervisor(), unreadable(archived_files(bench.archive, poor)[2]):
        for series in sound:
            bench.wait_for(series, "done")
        wait_until(lambda: _returns(bench, poor) >= 2, LIMIT_S, "the job was tried again")
        job = bench.wait_for(poor, "queued")
        assert job.attempts == 0
        (told,) = [one for one in bench.reader.series_explain(poor).sentences if one.startswith(f"Job {job.id}")]
        assert "could not be read: Input/output error" in told
        assert _returns(bench, poor) < 20, "it is not tried without a pause"
    with bench.supervisor():
        assert bench.wait_for(poor, "done").attempts == 0


def _returns(bench: Bench, series: SeriesId) -> int:
    return sum(event.count for event in bench.reader.series_explain(series).events if event.kind == "return")


def test_a_child_that_cannot_become_warm_costs_no_job_an_attempt(bench: Bench) -> None:
    series, _ = bench.planned()
    with bench.supervisor() as supervisor:
        wait_until(lambda: multiprocessing.active_children(), LIMIT_S, "a child starts")
        os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
        job = bench.wait_for(series, "done")
        assert supervisor.worker_pid is not None
    assert job.attempts == 0
