"""A cluster on this machine: scheduler and workers as their users run them, over mutual TLS, and nodes that use it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dicomnode.archive.store import Archive
from dicomnode.ids import SeriesId
from dicomnode.ledger.queries import Reader, open_reader
from dicomnode.ledger.store import Ledger, open_ledger
from dicomnode.ledger.views import JobLine
from dicomnode.work.child import Setup
from dicomnode.work.cluster import Cluster
from dicomnode.work.local import LocalExecutor
from tests.support.certificates import Authority, Issued
from tests.support.dcmtk import free_port, is_listening
from tests.support.mr_series import mr_datasets
from tests.support.node import CHECKOUT
from tests.support.stored import plan, store
from tests.support.supervised import Supervised, running
from tests.support.wait import wait_until

START_LIMIT_S = 120.0
STOP_LIMIT_S = 60.0
JOB_LIMIT_S = 150.0

Entry = dict[str, Any]  # a line of a log


@dataclass(kw_only=True)
class Machine:
    """A process of the cluster, with its settings and its log."""

    command: str  # worker or scheduler
    port: int
    config: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def log_file(self) -> Path:
        """The log of the process, over all its starts."""
        return self.config.with_suffix(".log")

    def start(self, *faults: str, module: str = "dicomnode") -> None:
        """Run it; ``faults`` as ``tests.support.checkpoints`` takes them."""
        words = ["tests.support.checkpoints", *faults, "--"] if faults else [module]
        command = [sys.executable, "-m", *words, self.command, "--config", str(self.config)]
        with self.log_file.open("ab") as said:
            self.process = subprocess.Popen(command, cwd=CHECKOUT, stdout=said, stderr=said)

    def events(self, name: str) -> list[Entry]:
        """The lines of the log with this event."""
        lines = self.log_file.read_text("utf-8").splitlines() if self.log_file.exists() else []
        entries = [json.loads(line) for line in lines if line.startswith("{")]
        return [entry for entry in entries if entry["event"] == name]

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, and to it alone."""
        assert self.process is not None
        self.process.send_signal(number)

    def children(self) -> list[int]:
        """The process ids of its children."""
        assert self.process is not None
        return children(self.process.pid)

    def child(self) -> int:
        """The process id of its only child."""
        (found,) = self.children()
        return found

    def wait(self) -> int:
        """The exit code, once it has ended."""
        assert self.process is not None
        return self.process.wait(STOP_LIMIT_S)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(STOP_LIMIT_S)

    def __str__(self) -> str:
        """The whole log, for a failed test."""
        return self.log_file.read_text("utf-8") if self.log_file.exists() else "no log"


@dataclass(kw_only=True)
class TestCluster:
    """The machines, and the certificates of all."""

    __test__ = False

    folder: Path
    scheduler: Machine
    authority: Authority
    cert: Issued
    workers: list[Machine] = field(default_factory=list)

    @property
    def address(self) -> str:
        """The address of the scheduler."""
        return f"tls://127.0.0.1:{self.scheduler.port}"

    @property
    def files(self) -> dict[str, str]:
        """The certificate files by the names of their settings."""
        return {
            "ca": str(self.authority.certificate), "cert": str(self.cert.certificate), "key": str(self.cert.key)
        }  # fmt: skip

    @property
    def cluster(self) -> Cluster:
        """The cluster in the settings of a node."""
        return Cluster(address=self.address, device="cpu", **self.files)

    def tables(self) -> dict[str, dict[str, object]]:
        """The settings of a node that uses it."""
        work: dict[str, object] = {"executor": "dask", "cluster": self.address, "device": "cpu"}
        return {"work": work, "cluster": dict(self.files)}

    def node_config(self) -> Path:
        """The settings of a node that uses it, in a file."""
        file = self.folder / "node.toml"
        _write(file, self.tables())
        return file

    def worker(
        self, *faults: str, models: Sequence[str] = (), module: str = "dicomnode", wait: bool = True, **work: object
    ) -> Machine:
        """Start one more worker, and wait until it is registered."""
        port = free_port()
        tables = self.tables()
        tables["work"] |= {"executor": "local", **work}
        tables["worker"] = {"listen": f"127.0.0.1:{port}", "models": list(models)}
        machine = _machine(self.folder, "worker", port, tables)
        machine.start(*faults, module=module)
        self.workers.append(machine)
        if wait:
            self.wait_for(machine)
        return machine

    def wait_for(self, machine: Machine, count: int = 1) -> None:
        """Wait until a worker has registered so many times."""
        try:
            wait_until(lambda: len(machine.events("worker_registered")) >= count, START_LIMIT_S, "a worker registers")
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{machine}") from exc

    def start_scheduler(self) -> None:
        """Start it, or start it again."""
        self.scheduler.start()
        wait_until(lambda: is_listening(self.scheduler.port), START_LIMIT_S, f"{self.scheduler}")

    def close(self) -> None:
        """End every process."""
        for machine in (*self.workers, self.scheduler):
            machine.kill()


@contextmanager
def running_cluster(folder: Path, *, workers: int = 0) -> Iterator[TestCluster]:
    """A scheduler, and so many workers that offer ``cubic-dc``; killed afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority(folder)
    port = free_port()
    made = TestCluster(
        folder=folder,
        scheduler=Machine(command="scheduler", port=port, config=folder / "scheduler.toml"),
        authority=authority,
        cert=authority.issue("machine"),
    )
    tables: dict[str, dict[str, object]] = {
        "scheduler": {"listen": f"127.0.0.1:{port}"}, "cluster": made.tables()["cluster"],
    }  # fmt: skip
    _write(made.scheduler.config, tables)
    try:
        made.start_scheduler()
        started = [made.worker(wait=False) for _ in range(workers)]
        for machine in started:
            made.wait_for(machine)
        yield made
    finally:
        made.close()


class ClusterNode:
    """A data folder with its ledger, and supervisors over processes that use the cluster."""

    def __init__(self, folder: Path, cluster: TestCluster | None) -> None:
        """None: the models run in the processes themselves."""
        self._cluster = None if cluster is None else cluster.cluster
        url = f"sqlite:///{folder / 'ledger.sqlite'}"
        folder.mkdir(parents=True, exist_ok=True)
        self.ledger: Ledger = open_ledger(url)
        self.reader: Reader = open_reader(url)
        self.archive = Archive(folder)

    def planned(self, slices: int = 6, *, size: int = 16, model: str = "cubic-dc") -> SeriesId:
        """A series whose job waits."""
        series = store(self.ledger, self.archive, mr_datasets(slices=slices, size=size))
        plan(self.ledger, series, model=model)
        return series

    def job(self, series: SeriesId) -> JobLine:
        """The last job of a series."""
        return self.reader.series_show(series).jobs[-1]

    def wait_for(self, series: SeriesId, state: str, limit_s: float = JOB_LIMIT_S) -> JobLine:
        """The last job of a series, once it is in the state."""
        ends = {state, "failed", "held"}  # no use to wait longer
        wait_until(lambda: self.job(series).state in ends, limit_s, f"the job of series {series} is {state}")
        job = self.job(series)
        assert job.state == state, job
        return job

    def details(self, series: SeriesId, kind: str) -> list[str]:
        """The details of the events of one kind that happened to the jobs of a series."""
        return [one.detail for one in self.reader.series_explain(series).events if one.kind == kind]

    def supervised(
        self, *, time_limit_s: float = 3600.0, models: Sequence[str] = ("cubic-dc",)
    ) -> AbstractContextManager[Supervised]:
        """A running supervisor, stopped at once afterwards."""
        setup = Setup(
            data=self.archive.data, device="cpu", models=tuple(models), log_level="debug", log_format="json",
            cluster=self._cluster,
        )  # fmt: skip
        child = LocalExecutor(setup, time_limit_s=time_limit_s, memory_limit_mb=0)
        return running(Supervised(self.ledger, self.archive, child, lambda: None))

    def close(self) -> None:
        """Close the ledger."""
        self.reader.close()
        self.ledger.close()


def children(pid: int) -> list[int]:
    """The spawned children of a process; multiprocessing's resource tracker is none of them."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has taken; 0 for one that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _machine(folder: Path, command: str, port: int, tables: dict[str, dict[str, object]]) -> Machine:
    machine = Machine(command=command, port=port, config=folder / f"{command}-{port}.toml")
    _write(machine.config, tables)
    return machine


def _write(config: Path, tables: dict[str, dict[str, object]]) -> None:
    tables = {"log": {"format": "json", "level": "debug"}, **tables}
    lines = [f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
             for name, table in tables.items()]  # fmt: skip
    config.write_text("\n".join(lines), "utf-8")
