"""Killed at each seam between the last instance and the PACS: the next start ends what was begun, once.

The acceptance is always the same: one derived series of the right count at the PACS, every instance of it with one
digest, and no file or row left over.
"""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path

import pytest

from tests.support.dcmtk import needs_dcmtk
from tests.support.dicom import storescu
from tests.support.misbehaving_pacs import MisbehavingPacs
from tests.support.mr_series import write_mr_series
from tests.support.node import AE_TITLE, WORK_LIMIT_S, Node, is_running, running_node
from tests.support.wait import wait_until

pytestmark = [needs_dcmtk, pytest.mark.faults]

SLICES, RATIO = 6, 4

SERVICE_SEAMS = (
    "settle.settled", "ledger.judged_written", "ledger.judged_committed", "settle.planned", "work.claimed",
    "work.child_done", "archive.cleared", "archive.published",
    "work.published", "ledger.finish_job_written", "work.committed", "push.claimed", "push.concluded",
)  # fmt: skip
WORKER_SEAMS = ("job.begun", "job.file_written:5", "job.written")


def _send(node: Node, folder: Path) -> None:
    sent = storescu(node.port, write_mr_series(folder, slices=SLICES), called=AE_TITLE)
    assert sent.returncode == 0, sent.stderr


def _assert_delivered_once(node: Node, pacs: MisbehavingPacs) -> None:
    (delivery,) = node.wait_for_deliveries("sent")
    digests = pacs.digests()
    assert delivery.items == delivery.acknowledged == len(digests) == SLICES * RATIO
    assert all(len(found) == 1 for found in digests.values()), "the same UID came with other bytes"
    archive = node.data / "archive"
    files = {str(path.relative_to(archive)) for path in archive.rglob("*") if path.is_file()}
    shown = node.read(lambda r: [r.series_show(line.id) for line in r.series_list(derived=True)])
    assert files == {line.file for detail in shown for line in detail.files}
    assert len(shown) == 2
    (protocol,) = node.read(lambda r: r.protocols(datetime(2020, 1, 1, tzinfo=UTC)))
    assert protocol.series == 1, "what a verdict tells of its scanner is neither lost nor told twice"


@pytest.mark.parametrize(
    "seams",
    [SERVICE_SEAMS, *(pytest.param((seam,), marks=pytest.mark.thorough) for seam in SERVICE_SEAMS)],
    ids=lambda seams: " ".join(seams) if len(seams) == 1 else "all in turn",
)
def test_a_service_killed_at_its_seams_ends_the_work_once_after_its_next_start(
    tmp_path: Path, seams: tuple[str, ...]
) -> None:
    """One series, whose service is killed at each seam in the order in which the series passes them.

    `make test-faults` also gives each seam a series of its own.
    """
    with MisbehavingPacs() as pacs, running_node(tmp_path / "node", "--kill", seams[0], pacs_port=pacs.port) as node:
        _send(node, tmp_path / "thick")
        for seam, following in zip_longest(seams, seams[1:]):
            wait_until(lambda: node.is_over, WORK_LIMIT_S, f"the service is killed at {seam}")
            node.start(*(("--kill", following) if following else ()))
        _assert_delivered_once(node, pacs)
        assert node.stop() == 0


def test_a_service_killed_while_it_chooses_a_series_of_a_study_chooses_once(tmp_path: Path) -> None:
    rule = {"name": "one", "model": "cubic-dc", "select": "most_slices", "deliver_to": []}
    settle = {"settle": {"study_quiet_s": 1.0}}
    with running_node(tmp_path / "node", "--kill", "ledger.choose_written", rules=[rule], settings=settle) as node:
        for name, slices in (("few", 6), ("most", 9)):
            files = write_mr_series(tmp_path / name, slices=slices, attributes={"StudyInstanceUID": "1.2.3"})
            assert storescu(node.port, files, called=AE_TITLE).returncode == 0
        wait_until(lambda: node.is_over, WORK_LIMIT_S, "the service is killed before it has chosen")
        node.start("--kill", "settle.chosen")
        wait_until(lambda: node.is_over, WORK_LIMIT_S, "the service is killed once it has chosen")
        node.start()
        few, most = node.wait_for_verdicts(2)
        assert [(one.state, one.reason) for one in (few, most)] == [("kept", "not_selected"), ("planned", "process")]
        assert [line.id for line in node.series() if line.job is not None] == [most.id]
        assert len(node.read(lambda reader: reader.series_show(most.id)).jobs) == 1
        assert node.stop() == 0


@pytest.mark.parametrize("seam", WORKER_SEAMS)
def test_a_worker_that_dies_each_time_fails_its_job_and_leaves_nothing(tmp_path: Path, seam: str) -> None:
    """Poison: each child is killed at the same place. After the third time the job is failed; the node lives on."""
    with MisbehavingPacs() as pacs, running_node(tmp_path / "node", "--kill", seam, pacs_port=pacs.port) as node:
        _send(node, tmp_path / "thick")
        (line,) = node.wait_for_jobs("failed")
        job = node.job(line.id)
        assert job.attempts == 3
        assert "killed by SIGKILL" in job.sentence
        assert "at “" in job.sentence
        assert node.stop() == 0
        node.start()
        node.run("series", "retry", str(line.id))
        _assert_delivered_once(node, pacs)


def test_a_worker_dies_with_its_service_in_the_middle_of_a_job(tmp_path: Path) -> None:
    with running_node(tmp_path / "node", "--delay", "job.file_written:3:30") as node:
        _send(node, tmp_path / "thick")
        pid = node.worker_pid()
        node.wait_for_jobs("running")
        assert node.process is not None
        assert is_running(pid)
        node.process.kill()
        wait_until(lambda: not is_running(pid), what="the worker is gone")


def test_sigterm_lets_the_running_job_end_and_the_next_start_delivers_it(tmp_path: Path) -> None:
    delay = ("--delay", "job.written:1:2")
    with MisbehavingPacs() as pacs, running_node(tmp_path / "node", *delay, pacs_port=pacs.port) as node:
        _send(node, tmp_path / "thick")
        node.wait_for_jobs("running")
        assert node.stop() == 0
        (line,) = node.series()
        assert line.job_state == "done"
        assert node.deliveries()[0].state == "due"
        node.start()
        _assert_delivered_once(node, pacs)


def test_sigterm_returns_a_job_that_takes_too_long_without_spending_an_attempt(tmp_path: Path) -> None:
    settings = {"receive": {"drain_s": 1.0}}
    with running_node(tmp_path / "node", "--delay", "job.written:1:60", settings=settings) as node:
        _send(node, tmp_path / "thick")
        node.wait_for_jobs("running")
        pid = node.worker_pid()
        assert node.stop() == 0
        assert not is_running(pid)
        job = node.job(1)
        assert (job.state, job.attempts) == ("queued", 0)
        node.start()
        node.wait_for_jobs("done")


def test_the_door_stays_open_while_a_worker_hangs(tmp_path: Path) -> None:
    with running_node(tmp_path / "node", settings={"work": {"time_limit_s": 3.0}}) as node:
        os.kill(node.worker_pid(), signal.SIGSTOP)
        _send(node, tmp_path / "first")
        node.wait_for_jobs("running")
        _send(node, tmp_path / "second")
        node.wait_for_jobs("done", 2)
        assert node.job(1).attempts == 1


def test_a_disk_that_is_full_while_the_worker_writes_costs_no_attempt(tmp_path: Path) -> None:
    """Each child finds the disk full at its first file; the service's own disk has room, as with a quota."""
    with running_node(tmp_path / "node", "--error", "durable.written:7:ENOSPC") as node:
        _send(node, tmp_path / "thick")
        wait_until(lambda: node.events("job_returned"), WORK_LIMIT_S, "the job came back")
        job = node.job(1)
        assert (job.state, job.attempts) == ("queued", 0)
        assert "No space left on device" in node.events("job_returned")[0]["sentence"]
        assert node.stop() == 0
        node.start()
        node.wait_for_jobs("done")
