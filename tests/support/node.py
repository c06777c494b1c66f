"""The node as its users run it: ``python -m dicomnode serve`` with a settings file, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dicomnode.ledger.queries import Reader, open_reader
from dicomnode.ledger.views import DeliveryLine, JobLine, SeriesLine
from tests.support.dcmtk import free_port, is_listening
from tests.support.wait import wait_until

AE_TITLE = "NODE"
CHECKOUT = Path(__file__).resolve().parents[2]
START_LIMIT_S = 120.0
STOP_LIMIT_S = 120.0
COMMAND_LIMIT_S = 120.0
WORK_LIMIT_S = 300.0  # the worker is nice: on a loaded machine it gets little

Row = dict[str, Any]  # an object of a command's JSON
Answer = TypeVar("Answer")


@dataclass(kw_only=True)
class Node:
    """A node's settings file and, while it runs, its process."""

    folder: Path
    port: int
    config: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        """Its data folder."""
        return self.folder / "data"

    @property
    def log_file(self) -> Path:
        """The log of the node: what it wrote to standard output and error, over all its starts."""
        return self.folder / "node.log"

    def start(self, *faults: str) -> None:
        """Serve; ``faults`` as ``tests.support.checkpoints`` takes them. Returns once it listens, or is killed."""
        module = ["tests.support.checkpoints", *faults, "--"] if faults else ["dicomnode"]
        command = [sys.executable, "-m", *module, "serve", "--config", str(self.config)]
        with self.log_file.open("ab") as said:
            self.process = subprocess.Popen(command, cwd=CHECKOUT, stdout=said, stderr=said)
        wait_until(lambda: is_listening(self.port) or self.is_over, START_LIMIT_S, "the node listens")
        # A kill may strike as soon as the first loops run, before anybody looks.
        is_killed = bool(faults) and self.process.poll() == -signal.SIGKILL
        assert is_killed or not self.is_over, self.log_file.read_text()

    @property
    def is_over(self) -> bool:
        """Has the process ended?"""
        return self.process is None or self.process.poll() is not None

    def stop(self, number: signal.Signals = signal.SIGTERM, limit_s: float = STOP_LIMIT_S) -> int:
        """Send the signal, wait for the end; the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(limit_s)

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command beside the service."""
        command = [sys.executable, "-m", "dicomnode", *words, "--config", str(self.config)]
        return subprocess.run(
            command, cwd=CHECKOUT, capture_output=True, text=True, check=check, timeout=COMMAND_LIMIT_S
        )

    def ask(self, *words: str) -> Any:
        """The JSON that a command prints."""
        return json.loads(self.run(*words, "--json").stdout)

    def explain(self, series_id: int) -> Row:
        """The JSON of ``series explain``."""
        row: Row = self.ask("series", "explain", str(series_id))
        return row

    def read(self, question: Callable[[Reader], Answer]) -> Answer:
        """Ask the ledger now, beside the service: a hundred times faster than a command."""
        reader = open_reader(f"sqlite:///{self.data / 'ledger.sqlite'}")
        try:
            return question(reader)
        finally:
            reader.close()

    def series(self) -> list[SeriesLine]:
        """The received series, the oldest first."""
        return self.read(lambda reader: reader.series_list()[::-1])

    def job(self, series_id: int) -> JobLine:
        """The last job of a series."""
        return self.read(lambda reader: reader.series_show(series_id).jobs[-1])

    def deliveries(self) -> list[DeliveryLine]:
        """All deliveries, the oldest first."""
        return self.read(lambda reader: reader.deliveries_list()[::-1])

    def events(self, name: str) -> list[Row]:
        """The lines of the log with this event."""
        lines = self.log_file.read_text("utf-8").splitlines()
        entries = [json.loads(line) for line in lines if line.startswith("{")]
        return [entry for entry in entries if entry["event"] == name]

    def worker_pid(self) -> int:
        """The process id of the last worker that became warm."""
        warm = wait_until(lambda: self.events("worker_warm"), START_LIMIT_S, "a worker is warm")
        return int(warm[-1]["pid"])

    def wait_for_verdicts(self, count: int, limit_s: float = WORK_LIMIT_S) -> list[SeriesLine]:
        """The received series, once so many have a verdict and none is without."""

        def decided() -> list[SeriesLine]:
            rows = self.series()
            return rows if len(rows) >= count and all(row.state in ("kept", "planned") for row in rows) else []

        return wait_until(decided, limit_s, f"{count} series have a verdict")

    def wait_for_jobs(self, state: str, count: int = 1, limit_s: float = WORK_LIMIT_S) -> list[SeriesLine]:
        """The received series whose last job is in the state, once there are so many."""

        def reached() -> list[SeriesLine]:
            rows = [row for row in self.series() if row.job_state == state]
            return rows if len(rows) >= count else []

        return wait_until(reached, limit_s, f"{count} jobs are {state}")

    def wait_for_deliveries(self, state: str, count: int = 1, limit_s: float = WORK_LIMIT_S) -> list[DeliveryLine]:
        """The deliveries in the state, once there are so many."""

        def reached() -> list[DeliveryLine]:
            rows = [row for row in self.deliveries() if row.state == state]
            return rows if len(rows) >= count else []

        return wait_until(reached, limit_s, f"{count} deliveries are {state}")


def make_node(
    folder: Path,
    *,
    pacs_port: int | None = None,
    settings: Mapping[str, Mapping[str, object]] | None = None,
    rules: Sequence[Mapping[str, object]] | None = None,
    other_objects: str = "store",
    pacs: Mapping[str, object] | None = None,
) -> Node:
    """A node that listens on a free port to everyone of this machine; with a PACS it delivers everything there.

    ``pacs``: more keys of that peer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    tables: dict[str, dict[str, object]] = {
        "node": {"ae_title": AE_TITLE, "listen": f"127.0.0.1:{port}", "data": str(folder / "data")},
        "log": {"format": "json", "level": "debug"},
        "settle": {"quiet_s": 1.0, "aborted_wait_s": 2.0, "max_wait_s": 120.0},
        "push": {"backoff_min_s": 0.5, "backoff_max_s": 2.0},
        "archive": {"refuse_free_percent": 0.0},
    }
    for name, table in (settings or {}).items():
        tables.setdefault(name, {}).update(table)
    peers: list[dict[str, object]] = [
        {"name": "scanner", "ae_title": "*", "networks": ["127.0.0.1/32"], "other_objects": other_objects}
    ]
    if pacs_port is not None:
        peers.append({"name": "pacs", "ae_title": "ORTHANC", "address": f"127.0.0.1:{pacs_port}", **(pacs or {})})
    if rules is None:
        deliver_to = ["pacs"] if pacs_port is not None else []
        rules = [{"name": "every series", "model": "cubic-dc", "deliver_to": deliver_to}]
    config = folder / "node.toml"
    config.write_text(_toml(tables, peers, rules), "utf-8")
    return Node(folder=folder, port=port, config=config)


@contextlib.contextmanager
def running_node(folder: Path, *faults: str, **wanted: Any) -> Iterator[Node]:
    """A started node (``make_node``); killed afterwards if it still runs."""
    node = make_node(folder, **wanted)
    try:
        node.start(*faults)
        yield node
    finally:
        kill(node)


def kill(node: Node) -> None:
    """End the node's process as a power cut would."""
    if node.process is not None and node.process.poll() is None:
        node.process.kill()
        node.process.wait(STOP_LIMIT_S)


def is_running(pid: int) -> bool:
    """Is there such a process, and is it more than a name in the table?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def _toml(
    tables: Mapping[str, Mapping[str, object]],
    peers: Sequence[Mapping[str, object]],
    rules: Sequence[Mapping[str, object]],
) -> str:
    sections = [_section(f"[{name}]", table) for name, table in tables.items()]
    sections += [_section("[[peer]]", peer) for peer in peers]
    sections += [_section("[[rule]]", rule) for rule in rules]
    return "\n".join(sections)


def _section(heading: str, table: Mapping[str, object]) -> str:
    return "\n".join([heading, *(f"{key} = {_value(value)}" for key, value in table.items()), ""])


def _value(value: object) -> str:
    """A TOML value; JSON writes all but tables alike."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)
