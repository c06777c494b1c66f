"""Measures start, commands and receiving of a node with a large archive against one with an empty data folder.

    python bench/archive_size.py                10^6 instances: 5,000 series of 40 received, 5,000 of 160 derived
    python bench/archive_size.py --series 500   a tenth of it
    python bench/archive_size.py --toy          a few, to see that it still runs
    python bench/archive_size.py --keep FOLDER  fill FOLDER once and use it again at the next run

The ledger is filled through its own acts (accept, settle, plan, claim, finish, deliver), without flushes; only the
acknowledgements of the peer are set a series at a time. The archive has a real name for every row, all of them hard
links to a few small files. The node of the full and of the empty folder then take turns: time from the start of the
process to READY=1 after a clean stop and after ``kill -9``, of ``status`` and ``series list``, and of receiving a
series of 1,000 instances of 0.13 MB right after READY, while the archive is looked through, and after that. Both nodes
receive one after the other, the full one stopped (SIGSTOP) while the empty one does, and the one that begins changes.
Bars: READY 3 s later at the most, the commands 1 s, receiving 1.10 times as long, by the median of the ratios of such
pairs. Every folder that it made is removed in the end, but for one to keep.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine, event

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dicomnode.archive.store import Archive
from dicomnode.derivation import DerivationParameters, DerivedInstance, DerivedSeries
from dicomnode.ids import InstanceId, SeriesId, file_stem, new_instance_id
from dicomnode.ledger.store import Ledger, open_ledger
from dicomnode.ledger.values import PlannedJob, StoredInstance
from dicomnode.sweep import PAUSE_LIMIT_S
from tests.support.dcmtk import environment, find_program, free_port, program
from tests.support.dicom import write_series

ROOT = Path(__file__).resolve().parents[1]
SLICES, RATIO = 40, 4
SENT, PAIRS = 1_000, 2  # instances of a series that is received, and how often both nodes get one in each round
TOY_SENT, TOY_PAIRS = 12, 1
RESUMED_S = PAUSE_LIMIT_S + 1.0  # until a node that was stopped for a while looks through its archive again
READY_BAR_S, COMMAND_BAR_S, RECEIVE_BAR = 3.0, 1.0, 1.10
LINKS = 30_000  # names of one file; ext4 allows 65,000
LIMIT_S = 900.0
MR_IMAGE, EXPLICIT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.1"

CONFIG = """
[node]
listen = "127.0.0.1:{port}"
data = "{data}"
[log]
format = "json"
[archive]
refuse_free_percent = 0.0
[settle]
quiet_s = 3600
max_wait_s = 7200
[[peer]]
name = "scanner"
ae_title = "*"
networks = ["127.0.0.1/32"]
[[peer]]
name = "pacs"
ae_title = "PACS"
address = "127.0.0.1:{pacs_port}"
[[rule]]
name = "all"
model = "cubic-dc"
deliver_to = ["pacs"]
"""


@dataclass(kw_only=True)
class Clock:
    """The past, an instance every few seconds: the moments of the rows."""

    moment: datetime = field(default_factory=lambda: datetime.now(UTC) - timedelta(days=400))

    def now(self) -> datetime:
        """A little later than the last time."""
        self.moment += timedelta(milliseconds=1)
        return self.moment

    def monotonic(self) -> float:
        """This clock times nothing here."""
        return time.monotonic()


class Links:
    """Names in the archive, made of a few small files: real names, no bytes."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._made = 0
        self._source = Path()

    def add(self, series: int, names: Sequence[str]) -> None:
        """A series' folder with these names in it."""
        folder = self._archive.folder_of(SeriesId(series))
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            if self._made % LINKS == 0:
                self._source = folder / name
                self._source.write_bytes(b"stands for an instance")
            else:
                os.link(self._source, folder / name)
            self._made += 1


@event.listens_for(Engine, "connect")
def _without_flushes(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA synchronous = OFF")  # of this process, which only fills


def fill(data: Path, series: int) -> None:
    """A ledger and an archive, as this many received, derived and delivered series leave them."""
    archive = Archive(data)
    archive.root.mkdir(parents=True)
    links = Links(archive)
    url = f"sqlite:///{data / 'ledger.sqlite'}"
    with closing(open_ledger(url, clock=Clock())) as ledger, closing(_items(data)) as items:
        boot = ledger.boots.begin(pid=1, host="bench")
        for number in range(series):
            received = ledger.intake.series_for(f"2.25.{10**20 + number}")
            names = _receive(ledger, received, number)
            links.add(received, names)
            output, names = _derive(ledger, received, number)
            links.add(output, names)
            _deliver(ledger, items)
        ledger.boots.end(boot.boot)


def _items(data: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(data / "ledger.sqlite", isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def _receive(ledger: Ledger, series: SeriesId, number: int) -> list[str]:
    at = datetime.now(UTC) - timedelta(days=400)
    ids = [new_instance_id() for _ in range(SLICES)]
    ledger.intake.accept(
        [
            StoredInstance(
                id=one,
                series=series,
                sop_class_uid=MR_IMAGE,
                sop_instance_uid=f"2.25.{10**20 + number}.{index}",
                transfer_syntax_uid=EXPLICIT,
                size_bytes=22,
                sha256=f"{one:064x}",
                file=f"{series}/{file_stem(one)}.dcm",
                peer="scanner",
                received_at=at,
            )
            for index, one in enumerate(ids)
        ]
    )
    return [f"{file_stem(one)}.dcm" for one in ids]


def _derive(ledger: Ledger, series: SeriesId, number: int) -> tuple[SeriesId, list[str]]:
    assert ledger.settling.settle(series, 1, note="")
    planned = PlannedJob(
        parameters=DerivationParameters(rule="all", model="cubic-dc", model_digest="0" * 64, ratio=RATIO),
        deliver_to=("pacs",),
        sentence=f"{SLICES} slices, 4 mm apart, 4 mm thick → {SLICES * RATIO} slices of 1 mm by rule all.",
    )
    ledger.settling.plan(series, 1, planned)
    job = ledger.jobs.claim("bench", lease_s=60.0)
    assert job is not None
    instances = tuple(_derived(new_instance_id(), number, index) for index in range(SLICES * RATIO))
    made = DerivedSeries(series_uid=f"2.25.{2 * 10**20 + number}", instances=instances, notes=(), seconds=1.0)
    assert ledger.jobs.finish(job, made)
    return job.output_series, [one.file_name for one in instances]


def _derived(own_id: InstanceId, number: int, index: int) -> DerivedInstance:
    return DerivedInstance(
        id=own_id,
        file_name=f"{file_stem(own_id)}.dcm",
        sop_instance_uid=f"2.25.{2 * 10**20 + number}.{index}",
        sop_class_uid=MR_IMAGE,
        transfer_syntax_uid=EXPLICIT,
        size_bytes=22,
        sha256=f"{own_id:064x}",
    )


def _deliver(ledger: Ledger, items: sqlite3.Connection) -> None:
    delivery = ledger.deliveries.claim("pacs", "bench", lease_s=60.0)
    assert delivery is not None
    items.execute(
        "UPDATE delivery_item SET state = 'acknowledged', state_cause = 'acknowledge', state_by = 'pacs', "
        "state_detail = '0000', status = 0, attempt = 1 WHERE delivery_id = ?",
        (delivery.id,),
    )
    assert ledger.deliveries.finish(delivery)


class Node:
    """``dicomnode serve`` on one data folder, started as systemd does."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.data = data
        self.port = free_port()
        self.config = folder / f"{data.name}.toml"
        self.config.write_text(CONFIG.format(port=self.port, data=data, pacs_port=free_port()))
        self.log = folder / f"{data.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Seconds until it said READY=1."""
        with tempfile.TemporaryDirectory() as short, closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as heard:
            heard.bind(f"{short}/notify")
            heard.settimeout(LIMIT_S)
            variables = {**os.environ, "PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": f"{short}/notify"}
            began = time.perf_counter()
            with self.log.open("wb") as said:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "dicomnode", "serve", "--config", str(self.config)],
                    env=variables, stdout=said, stderr=said,
                )  # fmt: skip
            while heard.recv(100) != b"READY=1":
                pass
            return time.perf_counter() - began

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop the node in order, or as a power cut does it."""
        if self._process is not None:
            self._process.send_signal(number)
            code = self._process.wait(LIMIT_S)
            self._process = None
            assert code == (0 if number == signal.SIGTERM else -number), self.log.read_text()

    def ask(self, *words: str) -> float:
        """Seconds that a command takes."""
        began = time.perf_counter()
        command = [sys.executable, "-m", "dicomnode", *words, "--config", str(self.config), "--json"]
        subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began

    def receive(self, folder: Path, sent: int) -> float:
        """Seconds until a sender has brought a new series of so many instances."""
        files = write_series(folder, sent, size=256)
        os.sync()  # the files of the sender are not to be written at the receiver's expense
        command = [program("storescu"), "-xe", "-aec", "DICOMNODE", "127.0.0.1", str(self.port), *map(str, files)]
        began = time.perf_counter()
        subprocess.run(command, env=environment(), check=True)
        seconds = time.perf_counter() - began
        shutil.rmtree(folder)
        return seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It does nothing meanwhile, as if it were not there, and afterwards what it did before."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)
            time.sleep(RESUMED_S)

    def said(self, name: str) -> dict[str, object]:
        """Wait for an event in the node's log and return it."""
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            for line in self.log.read_text().splitlines():
                if f'"{name}"' in line:
                    found: dict[str, object] = json.loads(line)
                    return found
            time.sleep(0.2)
        raise TimeoutError(f"the node did not log {name} in time")


@contextmanager
def stopped_in_the_end(nodes: Sequence[Node]) -> Iterator[None]:
    """A block after which no process is left, whatever happens in it."""
    try:
        yield
    finally:
        for node in nodes:
            node.stop(signal.SIGKILL)


def measure(
    work: Path, full: Node, empty: Node, *, rounds: int, sent: int, pairs: int
) -> dict[str, dict[str, list[float]]]:
    """The seconds of the full and of the empty node for each thing that was timed, taking turns."""
    taken: dict[str, dict[str, list[float]]] = {}

    def note(what: str, node: Node, seconds: float) -> None:
        taken.setdefault(what, {"full": [], "empty": []})["full" if node is full else "empty"].append(seconds)

    def receive_in_turns(what: str) -> None:
        for pair in range(pairs):
            for node in (empty, full) if pair % 2 == 0 else (full, empty):
                with full.paused() if node is empty else nullcontext():  # the empty one has nothing to do
                    note(what, node, node.receive(work / "files", sent))

    with stopped_in_the_end((full, empty)):
        for number in range(rounds):
            for pair in range(pairs):
                for node in (empty, full) if pair % 2 == 0 else (full, empty):
                    note("ready_s", node, node.start())
                    note("receive_at_start_s", node, node.receive(work / "files", sent))
                    node.stop()
            for node in (empty, full):
                node.start()
            for node in (empty, full):
                node.said("archive_sweep_begun")
            receive_in_turns("receive_while_swept_s")
            for node in (empty, full):
                note("sweep_s", node, float(str(node.said("archive_swept")["seconds"])))
            for node in (empty, full):
                note("status_s", node, node.ask("status"))
                note("series_list_s", node, node.ask("series", "list"))
            receive_in_turns("receive_s")
            for node in (empty, full):
                node.stop(signal.SIGKILL)
            for node in (empty, full) if number % 2 == 0 else (full, empty):
                note("ready_after_kill_s", node, node.start())
                node.stop()
    return taken


def report(taken: dict[str, dict[str, list[float]]]) -> Iterator[dict[str, float | str]]:
    """A line for each thing that was timed: medians, and what has the bar."""
    for what, of in taken.items():
        full, empty = statistics.median(of["full"]), statistics.median(of["empty"])
        line: dict[str, float | str] = {"what": what, "full_s": round(full, 3), "empty_s": round(empty, 3)}
        if what.startswith("receive"):
            ratios = sorted(mine / other for mine, other in zip(of["full"], of["empty"], strict=True))
            spread = f"{ratios[0]:.3f} to {ratios[-1]:.3f} in {len(ratios)} pairs"
            yield line | {"ratio": round(statistics.median(ratios), 3), "spread": spread, "bar": f"<= {RECEIVE_BAR}"}
        elif what == "sweep_s":
            yield line
        else:
            bar_s = READY_BAR_S if what.startswith("ready") else COMMAND_BAR_S
            yield line | {"more_s": round(full - empty, 3), "bar": f"<= {bar_s}"}


def main() -> None:
    """Print one JSON line for each thing that was timed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=5_000, help="received ones, and as many derived")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the full archive is, or is to stay")
    options = parser.parse_args()
    if find_program("storescu") is None:
        sys.exit("DCMTK's storescu is not installed")
    series, rounds, sent = (5, 1, TOY_SENT) if options.toy else (options.series, options.rounds, SENT)
    pairs = TOY_PAIRS if options.toy else PAIRS
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="archive-size-") as folder:
        work = Path(folder)
        data = options.keep or work / "full"
        if not data.exists():
            began = time.perf_counter()
            try:
                fill(data, series)
            except BaseException:
                shutil.rmtree(data, ignore_errors=True)  # half an archive is not to be measured at the next run
                raise
            print(json.dumps({"what": "filled", "series": 2 * series, "seconds": round(time.perf_counter() - began)}))
        size_mb = round((data / "ledger.sqlite").stat().st_size / 2**20)
        instances = series * SLICES * (1 + RATIO)
        print(json.dumps({"what": "archive", "instances": instances, "ledger_mb": size_mb}), flush=True)
        nodes = Node(work, data), Node(work, work / "empty")
        for line in report(measure(work, *nodes, rounds=rounds, sent=sent, pairs=pairs)):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
