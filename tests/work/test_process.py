"""A worker process: it becomes warm, it ends when it is told to, and never outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dicomnode.derivation import DerivationParameters, DerivedInstance, DerivedSeries, GateFigure, RuleLimits
from dicomnode.ids import InstanceId, JobId
from dicomnode.work import orders
from dicomnode.work.child import Setup, child_main
from dicomnode.work.process import PARENT_GONE, Ended, WorkerProcess, machine_memory_mb
from tests.support.node import CHECKOUT, is_running
from tests.support.wait import wait_until

WARM_LIMIT_S = 300.0

ORDER = orders.Order(
    job=JobId(4),
    token=2,
    archive="/nowhere",
    files=(orders.SourceFile(instance=InstanceId(5), file="1/0000000000000005.dcm", sha256="0" * 64),),
    output="/nowhere",
    node_uuid="6ba7b810-9dad-11d1-80b4-00c04fd430c8",
    ae_title="NODE",
    parameters=DerivationParameters(
        rule="every series",
        model="cubic-dc",
        model_digest="cubic-dc/1",
        ratio=3,
        limits=RuleLimits(refuse_terms=("X*",)),
        utc_offset_min=60,
    ),
    derivation_number=1,
    created_at="2026-01-02T03:04:05+00:00",
)


def _setup(folder: Path, *models: str) -> Setup:
    return Setup(data=folder, device="cpu", models=models, log_level="debug", log_format="json")


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[WorkerProcess]:
    """A process that was started and may not be warm yet."""
    process = WorkerProcess(child_main, _setup(tmp_path, "cubic-dc"))
    yield process
    process.kill()


def _warm(worker: WorkerProcess) -> orders.Ready:
    said = _said(worker, WARM_LIMIT_S)
    assert isinstance(said, orders.Ready), said
    return said


def _said(worker: WorkerProcess, limit_s: float = 60.0) -> orders.Message:
    said = worker.receive(limit_s)
    assert isinstance(said, bytes), said
    return orders.decode(said)


@pytest.mark.parametrize(
    "message",
    [
        ORDER,
        orders.Ready(models=("cubic-dc",), device="cpu"),
        orders.Ready(models=("thin",), device="cpu", reference_s=35.5),
        orders.Offer(digests=("cubic-dc/1",), sentence=""),
        orders.StageReport(job=JobId(4), stage="generate", share=0.25),
        orders.Finished(
            job=JobId(4),
            series=DerivedSeries(
                series_uid="2.25.1",
                instances=(
                    DerivedInstance(
                        id=InstanceId(2**62),
                        file_name="4000000000000000.dcm",
                        sop_instance_uid="2.25.2",
                        sop_class_uid="1.2",
                        transfer_syntax_uid="1.2.3",
                        size_bytes=7,
                        sha256="0" * 64,
                    ),
                ),
                notes=("größer",),
                figures=(GateFigure(check="header", measured=None, limit=0.0, is_least=False, share=None, holds=True),),
                seconds=0.5,
            ),
        ),
        orders.Refused(job=JobId(4), cause=orders.Cause.ALTERED, sentence="x", instance=InstanceId(5)),
        orders.Failed(job=JobId(4), stage="write", sentence="x", blame=orders.Blame.DISK),
    ],
    ids=lambda message: type(message).__name__,
)
def test_every_message_comes_out_of_the_pipe_as_it_went_in(message: orders.Message) -> None:
    assert orders.decode(orders.encode(message)) == message


def test_what_is_no_message_of_ours_is_an_error_and_not_an_object() -> None:
    for text in (b"", b"\x80\x04}.", b"[]", b'{"kind":"Ready"}', b'{"kind":"Popen","args":"id"}', b'{"job":1}'):
        with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
            orders.decode(text)


def test_a_worker_is_warm_once_it_says_so_and_its_memory_can_be_read(worker: WorkerProcess) -> None:
    assert _warm(worker).models == ("cubic-dc",)
    assert 10 < worker.resident_mb() < machine_memory_mb()


def test_a_model_that_cannot_be_loaded_does_not_keep_the_worker_from_being_warm(tmp_path: Path) -> None:
    worker = WorkerProcess(child_main, _setup(tmp_path, "no-such-model", "cubic-dc"))
    try:
        assert _warm(worker).models == ("cubic-dc",)
    finally:
        worker.kill()


@pytest.mark.parametrize(("timed", "is_measured"), [("cubic-dc", True), ("no-such-model", False), (None, False)])
def test_a_worker_measures_the_model_that_is_to_be_timed_before_it_is_warm(
    tmp_path: Path, timed: str | None, is_measured: bool
) -> None:
    worker = WorkerProcess(child_main, replace(_setup(tmp_path, "cubic-dc"), timed=timed))
    try:
        measured_s = _warm(worker).reference_s
    finally:
        worker.kill()
    assert (measured_s is not None) == is_measured
    assert measured_s is None or measured_s > 0


def test_a_worker_that_is_killed_says_by_which_signal(worker: WorkerProcess) -> None:
    _warm(worker)
    os.kill(worker.pid, signal.SIGSEGV)
    ended = worker.receive(60)
    assert isinstance(ended, Ended)
    assert ended.sentence == "the worker process was killed by SIGSEGV"
    assert worker.kill() == ended


def test_a_stopped_worker_can_be_killed(worker: WorkerProcess) -> None:
    _warm(worker)
    os.kill(worker.pid, signal.SIGSTOP)
    assert worker.receive(0.2) is None
    assert worker.kill().exit_code == -signal.SIGKILL


def test_a_worker_whose_pipe_is_closed_ends_by_itself(worker: WorkerProcess) -> None:
    """What ends it where the kernel does not: a machine without PR_SET_PDEATHSIG."""
    _warm(worker)
    worker._connection.close()
    wait_until(lambda: not is_running(worker.pid), what="the worker has ended")
    assert worker.kill().exit_code == PARENT_GONE


def test_a_worker_does_not_end_by_the_signals_that_stop_the_service(worker: WorkerProcess) -> None:
    _warm(worker)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid, number)
    worker.send(orders.encode(ORDER))
    answer = _said(worker)
    while isinstance(answer, orders.StageReport):
        answer = _said(worker)
    assert isinstance(answer, orders.Refused), answer
    assert answer.cause is orders.Cause.ALTERED
    assert answer.found_sha256 is None


@pytest.mark.parametrize("is_stopped", [False, True], ids=["idle", "stopped"])
def test_no_worker_outlives_its_parent(tmp_path: Path, is_stopped: bool) -> None:
    """A parent that is killed with SIGKILL cannot clean up; a stopped child cannot watch its pipe."""
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            from pathlib import Path
            from dicomnode.work.child import Setup, child_main
            from dicomnode.work.process import WorkerProcess

            if __name__ == "__main__":
                data = Path({str(tmp_path)!r})
                worker = WorkerProcess(
                    child_main,
                    Setup(data=data, device="cpu", models=(), log_level="info", log_format="json"),
                )
                worker.receive({WARM_LIMIT_S})
                print(worker.pid, flush=True)
                sys.stdin.read()
            """
        )
    )
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_running(child)
        if is_stopped:
            os.kill(child, signal.SIGSTOP)
        parent.kill()
        wait_until(lambda: not is_running(child), what="the child has ended")
