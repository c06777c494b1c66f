"""``infer --cluster``: the same pixels by a worker of a real cluster, and a run that goes on when the cluster does."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from dicomnode.offline.state import STATE_FILE
from tests.support.cluster import Machine, TestCluster, running_cluster
from tests.support.mr_series import write_mr_series
from tests.support.wait import wait_until

pytest.importorskip("distributed", reason='the extra "cluster" is not installed')
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    """One worker that offers cubic-dc."""
    with running_cluster(tmp_path_factory.mktemp("cluster"), workers=1) as running:
        yield running


def infer(*words: object) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own, with the model that is always there."""
    command = [sys.executable, "-m", "dicomnode", "infer", *map(str, words), "--model", "cubic-dc", "--json"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def pixels(folder: Path) -> list[np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    """The slices of a derived series, in order."""
    return [dcmread(path).pixel_array for path in sorted(folder.glob("*.dcm"))]


def two_workers(cluster: TestCluster, *faults: str) -> list[Machine]:
    """Two more workers, both registered."""
    workers = [cluster.worker(*faults, wait=False) for _ in range(2)]
    for worker in workers:
        cluster.wait_for(worker)
    return workers


def test_a_worker_makes_the_pixels_that_this_machine_makes(cluster: TestCluster, tmp_path: Path) -> None:
    write_mr_series(tmp_path / "series")
    here = infer(tmp_path / "series", tmp_path / "here")
    there = infer(tmp_path / "series", tmp_path / "there", "--cluster", "--config", cluster.node_config())
    assert (here.returncode, there.returncode) == (0, 0), there.stderr
    assert json.loads(there.stdout)["device"] == "cluster"
    for one, other in zip(pixels(tmp_path / "here"), pixels(tmp_path / "there"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_whose_cluster_is_gone_ends_with_a_sentence_and_goes_on_later(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_mr_series(tmp_path / "archive" / name)
    with running_cluster(tmp_path / "cluster", workers=1) as cluster:
        words = ["--archive", tmp_path / "archive", "--out", tmp_path / "out"]
        words += ["--cluster", "--config", cluster.node_config()]
        cluster.workers[0].send(signal.SIGTERM)
        cluster.workers[0].wait()
        gone = infer(*words)
        assert gone.returncode == 4, gone.stderr
        assert "offers model cubic-dc" in gone.stderr
        assert "Of 2 series: 2 waiting" in gone.stderr
        assert "The same command goes on" in gone.stderr
        cluster.worker()
        done = infer(*words)
    assert done.returncode == 0, done.stderr
    assert [row["state"] for row in json.loads(done.stdout)] == ["derived", "derived"]


def test_an_archive_uses_every_worker_and_an_interrupt_gives_all_series_back(tmp_path: Path) -> None:
    """No call of the first workers ends by itself, however late the other one begins; others go on with the run."""
    archive, out = tmp_path / "archive", tmp_path / "out"
    for number in range(6):
        write_mr_series(archive / f"{number}")
    with running_cluster(tmp_path / "cluster") as cluster:
        workers = two_workers(cluster, "--delay", "warm.begun:1:600")
        words = ["--archive", archive, "--out", out, "--model", "cubic-dc"]
        words += ["--cluster", "--config", cluster.node_config()]
        command = [sys.executable, "-m", "dicomnode", "infer", *map(str, words)]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            wait_until(lambda: all(worker.events("call_begun") for worker in workers), 120, "both compute")
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=120)[1]
        assert process.returncode == 130, said
        assert "Of 6 series: 6 waiting. The same command goes on" in said
        with closing(sqlite3.connect(out / STATE_FILE)) as database:
            assert database.execute("SELECT max(attempts) FROM series").fetchone() == (0,)
        assert not list(out.glob("*/.dicomnode-*")), "nothing half done is left"
        for worker in workers:
            worker.kill()
        workers = two_workers(cluster, "--delay", "warm.begun:1+:3")
        done = infer(*words[:4], *words[6:])
        assert done.returncode == 0, done.stderr
        assert [row["state"] for row in json.loads(done.stdout)] == ["derived"] * 6
        assert all(worker.events("call_ended") for worker in workers)


def test_a_configuration_without_a_cluster_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    write_mr_series(tmp_path / "series")
    (tmp_path / "node.toml").write_text("")
    ran = infer(tmp_path / "series", tmp_path / "out", "--cluster", "--config", tmp_path / "node.toml")
    assert ran.returncode == 2
    assert "needs cluster.ca" in ran.stderr
    assert not (tmp_path / "out").exists()
