"""Jobs whose model runs on a cluster: the same files as here, nothing but arrays on the wire, and who gets a call."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import pytest
from distributed import Client
from numpy.typing import NDArray
from pydicom import dcmread

from dicomnode.ids import SeriesId
from dicomnode.ledger.values import PlannedJob
from dicomnode.work.job import Models
from dicomnode.work.remote import Link
from tests.support.cluster import ClusterNode, Machine, TestCluster, running_cluster
from tests.support.model_folders import random_thin, write_thin
from tests.support.mr_series import mr_datasets
from tests.support.stored import archived_files, pinned, store
from tests.support.thorough import times
from tests.support.wait import wait_until

pytestmark = pytest.mark.faults

SHARP = 0.3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with two sets of weights."""
    return write_thin(
        tmp_path_factory.mktemp("model") / "small", net=random_thin(seed=1), adversarial=random_thin(seed=2),
        sharpness=0.7,
    )  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[TestCluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as made:
        made.worker(models=[str(model)])
        yield made


@pytest.fixture
def node(tmp_path: Path, cluster: TestCluster) -> Iterator[ClusterNode]:
    made = ClusterNode(tmp_path / "remote", cluster)
    yield made
    made.close()


def _derived(node: ClusterNode, series: SeriesId) -> list[NDArray[Any]]:
    files = archived_files(node.archive, SeriesId(node.wait_for(series, "done").output_series or 0))
    made = sorted((dcmread(file) for file in files), key=lambda one: int(one.InstanceNumber))
    return [one.pixel_array for one in made]


@pytest.mark.parametrize("how", [{"sharpness": SHARP}, {"uncertainty": True}][: times(1, 2)], ids=str)
def test_a_series_is_derived_to_the_same_pixels_as_here(
    tmp_path: Path, node: ClusterNode, model: Path, how: dict[str, Any]
) -> None:
    here = ClusterNode(tmp_path / "here", None)
    pixels, notes = [], []
    for one in (node, here):
        series = store(one.ledger, one.archive, mr_datasets(slices=6, size=24))
        assert one.ledger.settling.settle(series, 1, note="")
        parameters = replace(pinned(str(model)), model=str(model), **how)
        _import(one, model, parameters.model_digest)
        parameters = replace(parameters, model="small")
        assert one.ledger.settling.plan(
            series, 1, PlannedJob(parameters=parameters, deliver_to=(), sentence="by a test")
        )
        with one.supervised():
            pixels.append(_derived(one, series))
            assert one.job(series).attempts == 0
        notes.append(one.job(series).notes)
    here.close()
    assert len(pixels[0]) == 18
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(*pixels, strict=True))
    assert notes[0] == notes[1], "the uncertainty among them"


def test_what_leaves_the_node_holds_nothing_that_the_headers_say(
    tmp_path: Path, cluster: TestCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    scatter: Any = Client.scatter
    submit: Any = Client.submit

    def spied_scatter(client: Client, data: Any, **how: Any) -> Any:
        sent.append(pickle.dumps((data, how["workers"])))
        return scatter(client, data, **how)

    def spied_submit(client: Client, call: Any, text: str, data: Any, **how: Any) -> Any:
        sent.append(pickle.dumps((text, how)))
        return submit(client, call, text, data, **how)

    monkeypatch.setattr(Client, "scatter", spied_scatter)
    monkeypatch.setattr(Client, "submit", spied_submit)
    node = ClusterNode(tmp_path, cluster)
    datasets = mr_datasets()
    series = store(node.ledger, node.archive, datasets)
    order = _order(node, series)
    link = Link(cluster.cluster)
    link.begin(order, lambda _stage, _share: None)
    from dicomnode.work import job

    job.run(order, device="cpu", models=Models(remote=link.generator), progress=lambda _stage, _share: None)
    link.close()
    node.close()
    assert len(sent) >= 2
    words = {str(element.value) for dataset in datasets for element in dataset if element.VR != "OW"}
    words |= {order.node_uuid, str(tmp_path), order.files[0].file, "Phantom"}
    found = {word for word in words if len(word) > 3 and any(word.encode() in what for what in sent)}
    assert found == set()


@pytest.mark.thorough
def test_a_job_waits_without_an_attempt_until_a_worker_offers_its_model_in_this_version(
    tmp_path: Path, cluster: TestCluster, node: ClusterNode
) -> None:
    other = write_thin(tmp_path / "other", net=random_thin(seed=5), name="other")
    cluster.worker(models=[str(other)], module="tests.support.other_version")
    series = store(node.ledger, node.archive, mr_datasets())
    assert node.ledger.settling.settle(series, 1, note="")
    parameters = pinned(str(other))
    _import(node, other, parameters.model_digest, name="other")
    parameters = replace(parameters, model="other")
    assert node.ledger.settling.plan(series, 1, PlannedJob(parameters=parameters, deliver_to=(), sentence="by a test"))
    ours = node.planned()
    with node.supervised() as supervisor:
        node.wait_for(ours, "done")
        supervisor.wake()
        waiting = node.job(series)
        assert (waiting.state, waiting.attempts) == ("queued", 0)
        assert node.details(series, "claim") == [], "nobody has touched it"
        joined = cluster.worker(models=[str(other)])
        node.wait_for(series, "done", limit_s=20)
        assert node.job(series).attempts == 0
    joined.kill()


@pytest.mark.thorough
def test_two_nodes_take_turns(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "cluster") as cluster:
        workers = [cluster.worker("--delay", "warm.begun:1+:0.5", wait=False) for _ in range(2)]
        for worker in workers:
            cluster.wait_for(worker)
        first, second = ClusterNode(tmp_path / "a", cluster), ClusterNode(tmp_path / "b", cluster)
        many = [first.planned() for _ in range(6)]
        few = [second.planned() for _ in range(2)]
        with first.supervised(), first.supervised(), second.supervised():
            for node, planned in ((first, many), (second, few)):
                for series in planned:
                    node.wait_for(series, "done")
        ended = sorted((one["at"], one["call"]) for worker in workers for one in worker.events("call_ended"))
        jobs = list(dict.fromkeys(name.rpartition("/")[0].rpartition("/")[0] for _, name in ended))
        nodes = [job.partition("/")[0] for job in jobs]
        counts = {node: nodes.count(node) for node in set(nodes)}
        assert sorted(counts.values()) == [2, 6]
        late = next(node for node, count in counts.items() if count == 2)
        assert late in nodes[:4], nodes
        first.close()
        second.close()


def test_nothing_of_a_call_is_left_on_the_cluster(cluster: TestCluster, node: ClusterNode) -> None:
    series = node.planned()
    with node.supervised():
        node.wait_for(series, "done")
    link = Link(cluster.cluster)
    client = link._connected()
    wait_until(lambda: not any(client.has_what().values()), what="the workers hold no array")
    link.close()


@pytest.mark.thorough
def test_two_hundred_jobs_leave_neither_memory_nor_files(tmp_path: Path) -> None:
    before = set(Path(gettempdir()).glob("dicomnode-*"))
    with running_cluster(tmp_path / "cluster", workers=2) as cluster:
        node = ClusterNode(tmp_path / "node", cluster)
        machines = [cluster.scheduler, *cluster.workers]
        grown: list[list[float]] = []
        with node.supervised() as first, node.supervised() as second:
            for count in (50, 150):  # what is loaded and cached at first is no leak
                planned = [node.planned() for _ in range(count)]
                first.wake()
                second.wake()
                for series in planned:
                    assert node.wait_for(series, "done", limit_s=600).attempts == 0
                grown.append([_resident_mb(machine) for machine in machines])
        node.close()
        folders = set(Path(gettempdir()).glob("dicomnode-worker-*")) - before
        assert len(folders) >= 2, "those of the running workers"
        assert sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()) < 10_000
    for early, late in zip(*grown, strict=True):
        assert late < 1.1 * early, grown


def _resident_mb(machine: Machine) -> float:
    """Of the process and of its child."""
    assert machine.process is not None
    pids = [machine.process.pid, *machine.children()]
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _import(node: ClusterNode, folder: Path, digest: str, name: str = "small") -> None:
    from dicomnode.generators import model_dir

    model_dir.copy_model(folder, model_dir.imported_folder(node.archive.data, name, digest))


def _order(node: ClusterNode, series: SeriesId) -> Any:
    from dicomnode.ids import JobId
    from dicomnode.work import orders

    return orders.Order(
        job=JobId(1),
        token=1,
        archive=str(node.archive.root),
        files=tuple(
            orders.SourceFile(instance=one.id, file=one.file, sha256=one.sha256)
            for one in node.ledger.settling.instances_of(series, 1)
        ),
        output=str(node.archive.outputs.begin(SeriesId(99))),
        node_uuid=str(node.ledger.node_uuid),
        ae_title="NODE",
        parameters=pinned(),
        derivation_number=1,
        created_at="2026-01-02T03:04:05+00:00",
    )
