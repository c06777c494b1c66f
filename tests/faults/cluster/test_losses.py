"""Whatever ends or hangs in a cluster: every job is done once, and an attempt counts only where a worker had begun."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from pydicom import dcmread

from dicomnode import log
from dicomnode.ids import SeriesId
from dicomnode.monitor.counters import Counters
from tests.support.cluster import ClusterNode, Machine, TestCluster, running_cluster
from tests.support.node import is_running, kill, make_node
from tests.support.stored import archived_files
from tests.support.supervised import Supervised
from tests.support.wait import wait_until

pytestmark = pytest.mark.faults

JOBS = 20
SLOW = "--delay", "warm.begun:1+:1"  # a call takes a second, so that a fault meets it
HANGS = "--delay", "warm.begun:1:600"  # the first call of a process does not end
LOST_S = 300.0  # a stopped worker is given up after 30 to 60 s; on a loaded machine a process takes as long to start


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[TestCluster]:
    with running_cluster(tmp_path / "cluster") as made:
        yield made


@pytest.fixture
def node(tmp_path: Path, cluster: TestCluster) -> Iterator[ClusterNode]:
    made = ClusterNode(tmp_path / "data", cluster)
    yield made
    made.close()


def _busy(cluster: TestCluster, supervisor: Supervised) -> Machine:
    """The worker that computes, once one does: a call of it has begun that has not ended."""

    def found() -> list[Machine]:
        supervisor.wake()
        return [one for one in cluster.workers if len(one.events("call_begun")) > len(one.events("call_ended"))]

    return wait_until(found, LOST_S, "a worker computes")[0]


def _all_done(node: ClusterNode, wanted: list[SeriesId]) -> list[int]:
    """Wait until each job is done, once, with instances of its own; the attempts that it cost."""
    attempts = []
    uids: list[str] = []
    for series in wanted:
        job = node.wait_for(series, "done")
        attempts.append(job.attempts)
        assert len(node.details(series, "finish")) == 1
        files = archived_files(node.archive, SeriesId(job.output_series or 0))
        assert len(files) == 18
        uids += [str(dcmread(file).SOPInstanceUID) for file in files]
    assert len(set(uids)) == len(uids)
    return attempts


def _kill_worker(_cluster: TestCluster, busy: Machine) -> None:
    busy.kill()
    busy.start(*SLOW)


def _kill_child(_cluster: TestCluster, busy: Machine) -> None:
    os.kill(busy.child(), signal.SIGKILL)


def _restart_scheduler(cluster: TestCluster, _busy: Machine) -> None:
    cluster.scheduler.kill()
    cluster.start_scheduler()


def _stop_worker(_cluster: TestCluster, busy: Machine) -> None:
    busy.send(signal.SIGSTOP)


def _term_worker(_cluster: TestCluster, busy: Machine) -> None:
    busy.send(signal.SIGTERM)
    assert busy.wait() == 0


Fault = Callable[[TestCluster, Machine], None]
FAULTS: list[tuple[Fault, int]] = [  # and how many attempts it costs
    (_kill_worker, 1),
    (_restart_scheduler, 0),
    (_term_worker, 0),
    (_kill_child, 1),
    (_stop_worker, 1),
]


@pytest.mark.thorough
@pytest.mark.parametrize(("fault", "cost"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_every_job_is_done_once_whatever_happens_to_the_worker_that_has_it(
    cluster: TestCluster, node: ClusterNode, fault: Fault, cost: int
) -> None:
    for worker in [cluster.worker(*SLOW, wait=False) for _ in range(2)]:
        cluster.wait_for(worker)
    wanted = [node.planned() for _ in range(JOBS)]
    with node.supervised() as supervisor:
        busy = _busy(cluster, supervisor)
        fault(cluster, busy)
        assert sum(_all_done(node, wanted)) == cost
        if fault is _stop_worker:
            busy.send(signal.SIGCONT)
            cluster.wait_for(busy, count=2)


@pytest.mark.thorough
def test_an_operators_cancel_ends_the_computation_and_the_worker_does_the_next_job(
    cluster: TestCluster, node: ClusterNode
) -> None:
    worker = cluster.worker(*HANGS)
    first = node.planned()
    with node.supervised() as supervisor:
        _busy(cluster, supervisor)
        computing = worker.child()
        node.ledger.operator.cancel_series(first, "operator")
        wait_until(lambda: not is_running(computing), 20, "the computation has ended")
        worker.kill()
        cluster.worker()
        assert _all_done(node, [node.planned()]) == [0]
    assert node.job(first).state == "cancelled"


def test_the_figures_tell_which_worker_did_what_and_which_one_lost_a_call(
    cluster: TestCluster, node: ClusterNode
) -> None:
    registry = CollectorRegistry()
    sound = cluster.worker()
    with log.observed(Counters(registry).count), node.supervised() as supervisor:
        assert _all_done(node, [node.planned(), node.planned()]) == [0, 0]
        sound.kill()
        doomed = cluster.worker(*HANGS)
        lost = node.planned()
        assert _busy(cluster, supervisor) is doomed
        doomed.kill()
        wait_until(lambda: node.job(lost).attempts == 1, LOST_S, "the call is lost")

    def of(name: str, worker: Machine, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"worker": f"127.0.0.1:{worker.port}", **labels})

    assert of("dicomnode_cluster_calls_total", sound, outcome="made") == 2
    assert of("dicomnode_cluster_calls_total", doomed, outcome="lost") == 1
    assert (of("dicomnode_cluster_call_seconds_total", sound) or 0.0) > 0
    assert 20 * 2**20 < (of("dicomnode_cluster_memory_bytes", sound) or 0.0) < 4 * 2**30
    assert of("dicomnode_cluster_calls_total", doomed, outcome="made") is None


def test_nothing_computes_two_seconds_after_the_service_was_killed(
    cluster: TestCluster, node: ClusterNode, tmp_path: Path
) -> None:
    worker = cluster.worker(*HANGS)
    node.planned()
    service = make_node(tmp_path, settings=cluster.tables())
    service.start()
    try:
        wait_until(lambda: worker.events("call_begun"), LOST_S, "the worker computes")
        computing = worker.child()
    finally:
        kill(service)
    wait_until(lambda: not is_running(computing), 2.0, "the computation has ended")
    wait_until(lambda: worker.children(), 60, "the worker is warm again")


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_an_answer_that_is_lost_before_it_was_fetched_costs_no_attempt(
    cluster: TestCluster, node: ClusterNode, tmp_path: Path, number: signal.Signals
) -> None:
    worker = cluster.worker()
    series = node.planned()
    service = make_node(tmp_path, settings=cluster.tables())
    service.start("--delay", "remote.ended:1:3")
    try:
        wait_until(lambda: worker.events("call_ended"), LOST_S, "the answer is made")
        worker.send(number)
        wait_until(lambda: node.details(series, "return"), LOST_S, "the job is returned")
        assert node.job(series).attempts == 0
        cluster.worker()
        assert _all_done(node, [series]) == [0]
    finally:
        kill(service)


@pytest.mark.thorough
def test_the_time_in_which_a_job_waits_for_a_worker_does_not_count(cluster: TestCluster, tmp_path: Path) -> None:
    """Two nodes, one worker: the second node's call waits longer than its job may take."""
    worker = cluster.worker("--delay", "warm.begun:1:20")
    nodes = [ClusterNode(tmp_path / name, cluster) for name in ("a", "b")]
    first, second = (node.planned() for node in nodes)
    with nodes[0].supervised():
        wait_until(lambda: worker.events("call_begun"), LOST_S, "the worker computes")
        with nodes[1].supervised(time_limit_s=15):
            assert nodes[1].wait_for(second, "done").attempts == 0
        assert nodes[0].wait_for(first, "done").attempts == 0
    for node in nodes:
        node.close()


@pytest.mark.thorough
def test_a_call_beyond_the_time_of_the_job_counts(cluster: TestCluster, node: ClusterNode) -> None:
    cluster.worker(*HANGS)
    series = node.planned()
    with node.supervised(time_limit_s=15):
        wait_until(lambda: node.details(series, "return"), LOST_S, "the job is returned")
        assert node.job(series).attempts == 1
    (detail,) = node.details(series, "return")
    assert detail == "The job took longer than 15 s (work.time_limit_s), while the job was at “remote”."
