"""What the node adds between verdict and delivery: queue, worker, derivation, archive, ledger, push.

    python bench/overhead.py          30 slices of 256 × 256 at ratio 4, five rounds to storescp and to Orthanc
    python bench/overhead.py --toy    small and short, to see that it still runs

A real ``dicomnode serve`` with a warm worker gets the series by ``storescu``. The time runs from the verdict to the
last acknowledgement of the PACS, both as the ledger's events have them. The reference, in the same round: the same
derived files written anew with one fdatasync each, then sent to the same PACS by one ``storescu`` with TCP_NODELAY=1,
process start included. Bar: time <= the generator's own time + 1.5 x reference, by the median of the rounds.

storescp only writes, without a flush: the fastest PACS there is, and the hardest to keep up with.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.dcmtk import environment, find_program, free_port, is_listening, program, storescp
from tests.support.mr_series import write_mr_series
from tests.support.orthanc import orthanc
from tests.support.wait import wait_until

ROOT = Path(__file__).resolve().parents[1]
BAR = 1.5
LIMIT_S = 300.0

CONFIG = """
[node]
listen = "127.0.0.1:{port}"
data = "{data}"
[log]
level = "debug"
[settle]
quiet_s = 0.5
[[peer]]
name = "scanner"
ae_title = "STORESCU"
networks = ["127.0.0.1/32"]
[[peer]]
name = "pacs"
ae_title = "PACS"
address = "127.0.0.1:{pacs_port}"
[[rule]]
name = "every series"
model = "{model}"
deliver_to = ["pacs"]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One series: what it took, and what the plain way took."""

    total_s: float  # verdict → last acknowledgement
    generator_s: float
    reference_s: float
    stages: str

    @property
    def ratio(self) -> float:
        return (self.total_s - self.generator_s) / self.reference_s


class Node:
    """A running service."""

    def __init__(self, folder: Path, pacs_port: int, model: str) -> None:
        folder.mkdir(parents=True)
        self.data = folder / "data"
        self.log = folder / "service.log"
        self.port = free_port()
        config = folder / "node.toml"
        config.write_text(CONFIG.format(port=self.port, data=self.data, pacs_port=pacs_port, model=model))
        with self.log.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dicomnode", "serve", "--config", str(config)],
                cwd=ROOT,
                stdout=said,
                stderr=said,
            )
        wait_until(lambda: is_listening(self.port), LIMIT_S, "the node listens")
        wait_until(lambda: "worker_warm" in self.log.read_text(), LIMIT_S, "the worker is warm")

    def query(self, question: str) -> list[tuple[str, ...]]:
        with closing(sqlite3.connect(self.data / "ledger.sqlite", timeout=30)) as connection:
            return connection.execute(question).fetchall()

    def derive(self, paths: Sequence[Path]) -> None:
        """Send a series and wait until all that was derived is sent."""
        before = len(self.sent())
        storescu(self.port, paths)
        wait_until(lambda: len(self.sent()) > before, LIMIT_S, "the derived series is sent")

    def sent(self) -> list[tuple[str, ...]]:
        return self.query("SELECT id FROM delivery WHERE state = 'sent' ORDER BY id")

    def last(self) -> tuple[float, float, str, list[Path]]:
        """Read the last delivery: verdict to last acknowledgement, the generator's time, all stages, its files."""
        ((planned_at, acknowledged_at, series),) = self.query(
            "SELECT (SELECT max(at) FROM event WHERE table_name = 'series' AND row_id = j.series_id "
            "AND to_state = 'planned'), (SELECT max(at) FROM event e JOIN delivery_item t ON t.id = e.row_id "
            "WHERE e.table_name = 'delivery_item' AND e.to_state = 'acknowledged' AND t.delivery_id = d.id), "
            "j.output_series_id FROM delivery d JOIN job j ON j.id = d.job_id ORDER BY d.id DESC LIMIT 1"
        )
        total_s = (datetime.fromisoformat(acknowledged_at) - datetime.fromisoformat(planned_at)).total_seconds()
        stages = re.findall(r'"job_stages".*"detail": "([^"]*)"', self.log.read_text())[-1]
        generator_s = float(re.findall(r"generate ([\d.]+) s", stages)[0])
        return total_s, generator_s, stages, sorted((self.data / "archive" / str(series)).glob("*.dcm"))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def storescu(port: int, paths: Sequence[Path], *, called: str = "DICOMNODE") -> None:
    command = [program("storescu"), "-aec", called, "127.0.0.1", str(port), *map(str, paths)]
    subprocess.run(command, env=environment(), check=True, stdout=subprocess.DEVNULL, timeout=LIMIT_S)


def plain_way(files: Sequence[Path], folder: Path, pacs_port: int) -> float:
    """Seconds for the same files with one flush each and one storescu."""
    contents = [file.read_bytes() for file in files]
    folder.mkdir()
    began_s = time.perf_counter()
    paths = []
    for number, content in enumerate(contents):
        path = folder / f"{number:04}.dcm"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o640)
        os.write(descriptor, content)
        os.fdatasync(descriptor)
        os.close(descriptor)
        paths.append(path)
    storescu(pacs_port, paths, called="PACS")
    return time.perf_counter() - began_s


def measure(
    folder: Path, pacs_port: int, empty_pacs: Callable[[], None], *, model: str, rounds: int, slices: int, size: int
) -> list[Round]:
    """Measure so many rounds, after one that only warms up."""
    node = Node(folder, pacs_port, model)
    try:
        found = []
        for number in range(rounds + 1):
            node.derive(write_mr_series(folder / f"series{number}", slices=slices, size=size))
            total_s, generator_s, stages, files = node.last()
            assert len(files) == 4 * slices, f"{len(files)} derived files"
            empty_pacs()  # a PACS that has an instance already does less
            reference_s = plain_way(files, folder / f"plain{number}", pacs_port)
            found.append(Round(total_s=total_s, generator_s=generator_s, reference_s=reference_s, stages=stages))
        return found[1:]
    finally:
        node.stop()


@contextmanager
def storescp_pacs(folder: Path) -> Iterator[tuple[int, Callable[[], None]]]:
    def empty() -> None:
        for path in (folder / "kept").iterdir():
            path.unlink()

    with storescp(folder / "kept") as port:
        yield port, empty


@contextmanager
def orthanc_pacs(folder: Path) -> Iterator[tuple[int, Callable[[], None]]]:
    with orthanc(folder, settings={"DicomAet": "PACS"}) as running:

        def empty() -> None:
            series = running.get("/series")
            assert isinstance(series, list)
            for one in series:
                url = f"http://127.0.0.1:{running.http_port}/series/{one}"
                urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=30).close()

        yield running.dicom_port, empty


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true", help="8 slices of 16 × 16, one round; says nothing")
    parser.add_argument("--model", default="cubic-dc")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=256, help="rows and columns of a slice")
    parser.add_argument("--keep", type=Path, help="a folder to work in, kept afterwards")
    options = parser.parse_args()
    if find_program("storescu") is None:
        print("skipped: DCMTK is not installed")
        return 0
    slices, size, rounds = (8, 16, 1) if options.toy else (30, options.size, options.rounds)
    kinds = {"storescp": storescp_pacs} | ({"Orthanc": orthanc_pacs} if shutil.which("Orthanc") else {})
    is_passed = True
    with nullcontext(options.keep) if options.keep else tempfile.TemporaryDirectory(prefix="overhead-") as name:
        for kind, pacs in kinds.items():
            with pacs(Path(name) / kind) as (port, empty):
                found = measure(
                    Path(name) / f"node-{kind}",
                    port,
                    empty,
                    model=options.model,
                    rounds=rounds,
                    slices=slices,
                    size=size,
                )
            for one in found:
                print(
                    f"{kind:9} verdict to last acknowledgement {one.total_s:.2f} s, generator {one.generator_s:.2f} s, "
                    f"reference {one.reference_s:.2f} s, ratio {one.ratio:.2f} ({one.stages})"
                )
            ratio = statistics.median(one.ratio for one in found)
            is_passed &= ratio <= BAR or options.toy
            print(f"{kind:9} ratio {ratio:.2f} (bar {BAR}) {'pass' if ratio <= BAR else 'FAIL'}")
    return 0 if is_passed else 1


if __name__ == "__main__":
    sys.exit(main())
