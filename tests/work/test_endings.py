"""A job that ends otherwise than its child thinks: cancelled under its hands, or done while the ledger is locked."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from dicomnode.archive.store import Archive
from dicomnode.ids import SeriesId
from dicomnode.ledger import engine
from dicomnode.ledger.queries import Reader, open_reader
from dicomnode.ledger.store import Ledger, open_ledger
from dicomnode.ledger.views import JobLine
from dicomnode.seams import set_checkpoint_hook
from dicomnode.work import local
from dicomnode.work import supervisor as supervisor_module
from tests.support.mr_series import mr_datasets
from tests.support.node import is_running
from tests.support.stored import archived_files, plan, store
from tests.support.supervised import LIMIT_S, supervised, warm_pid
from tests.support.wait import wait_until


class House:
    """A data folder with one planned series."""

    def __init__(self, folder: Path, *, slices: int, size: int) -> None:
        self.folder = folder
        url = f"sqlite:///{folder / 'ledger.sqlite'}"
        self.ledger: Ledger = open_ledger(url)
        self.reader: Reader = open_reader(url)
        self.archive = Archive(folder)
        self.series: SeriesId = store(self.ledger, self.archive, mr_datasets(slices=slices, size=size))
        plan(self.ledger, self.series)

    def job(self) -> JobLine:
        return self.reader.series_show(self.series).jobs[-1]

    def wait_for(self, state: str) -> JobLine:
        wait_until(lambda: self.job().state == state, LIMIT_S, f"the job is {state}")
        return self.job()

    def output_folders(self) -> list[str]:
        return [path.name for path in self.archive.root.iterdir() if path.name != str(self.series)]

    def close(self) -> None:
        self.reader.close()
        self.ledger.close()


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="dicomnode.work")
    return caplog


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    opened = House(tmp_path, slices=60, size=256)
    yield opened
    opened.close()


@contextmanager
def _at(seam: str, act: Callable[[], object]) -> Iterator[None]:
    """Do something once, when a checkpoint is reached."""
    todo = [act]

    def hook(name: str) -> None:
        if name == seam and todo:
            todo.pop()()

    set_checkpoint_hook(hook)
    try:
        yield
    finally:
        set_checkpoint_hook(None)


def test_an_operator_ends_a_running_job_within_seconds_and_its_files_are_gone(
    house: House, log: pytest.LogCaptureFixture
) -> None:
    with supervised(house.ledger, house.archive) as supervisor:
        pid = warm_pid(supervisor)
        house.wait_for("running")
        os.kill(pid, signal.SIGSTOP)
        house.ledger.operator.cancel_series(house.series, "operator")
        wait_until(lambda: not is_running(pid), supervisor_module.TICK_S + 5, "the child is given up")
        wait_until(lambda: "job_cancelled" in log.messages)
        wait_until(lambda: supervisor.worker_pid not in (None, pid), LIMIT_S, "the next child is warm")
        assert (house.job().state, house.job().reason) == ("cancelled", "operator")
        assert house.output_folders() == []
    assert not {"job_returned", "job_lease_lost", "job_done"} & set(log.messages)


@pytest.mark.parametrize("seam", ["work.child_done", "work.published"])
def test_a_cancel_as_the_child_is_done_leaves_neither_files_nor_a_delivery(
    tmp_path: Path, log: pytest.LogCaptureFixture, seam: str
) -> None:
    house = House(tmp_path, slices=6, size=16)
    with (
        _at(seam, lambda: house.ledger.operator.cancel_series(house.series, "operator")),
        supervised(house.ledger, house.archive),
    ):
        wait_until(lambda: "job_cancelled" in log.messages, LIMIT_S)
    shown = house.reader.series_show(house.series)
    assert ([job.state for job in shown.jobs], shown.deliveries) == (["cancelled"], ())
    assert house.output_folders() == [], "or the next start would move them to quarantine"
    house.close()


@pytest.mark.parametrize("end", ["done", "held"])
def test_a_job_that_ends_while_the_ledger_is_locked_and_the_service_stops_is_said_to_be_unwritten(
    tmp_path: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_S", 0.2)
    house = House(tmp_path, slices=6, size=16)
    if end == "held":
        archived_files(house.archive, house.series)[0].unlink()
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None, check_same_thread=False)) as backup:
        locked = threading.Event()

        def lock() -> None:
            backup.execute("BEGIN IMMEDIATE")
            locked.set()

        with _at("work.child_done", lock), supervised(house.ledger, house.archive) as supervisor:
            assert locked.wait(LIMIT_S)
            supervisor.stop(0)
        backup.execute("ROLLBACK")
    assert "job_not_written" in log.messages
    assert not {"job_lease_lost", "job_held", "job_done", "job_returned", "work_failed"} & set(log.messages)
    assert house.job().state == "running"
    house.ledger.boots.begin(pid=2, host="test")
    with supervised(house.ledger, house.archive):
        house.wait_for(end)
    house.close()


def test_a_lost_lease_is_called_so(
    house: House, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "LEASE_S", 0.2)
    monkeypatch.setattr(local, "POLL_S", 2.0)
    with supervised(house.ledger, house.archive) as supervisor:
        pid = warm_pid(supervisor)
        house.wait_for("running")
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: house.ledger.jobs.claim("2:other:2", lease_s=60), what="the lease ran out")
        wait_until(lambda: "job_lease_lost" in log.messages, 10)
    assert "job_returned" not in log.messages
    assert house.job().state == "running", "the other's"
