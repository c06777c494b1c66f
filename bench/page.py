"""The web page beside a large ledger, and the node's door beside a page that slow clients flood.

    python bench/page.py                10^6 instances: 5,000 series of 40 received, 5,000 of 160 derived
    python bench/page.py --series 500   a tenth of it
    python bench/page.py --toy          a few, to see that it still runs
    python bench/page.py --keep FOLDER  fill FOLDER once and use it again at the next run

The ledger is filled as ``archive_size`` fills it; its series are then laid over the last half year, with 40 protocols
of 4 scanners and the figures of the result gate. Each page is asked for by a program with the token: its first answer,
for which everything is counted, with the processor time that the page spent on it, and the median of five more. Bars:
with style and script under 100 kB, and the first answer within 0.3 s.

The door: C-ECHO, one after the other, each on an association of its own, to a node that serves with its page. First
alone, then while 200 clients hold connections to the page open, drip into them and come back when they are cut, and
while four ask for pages without end. Bar: p95 of an echo under 1 s, none refused or failed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from archive_size import fill  # noqa: E402
from door import echo  # noqa: E402

from dicomnode.derivation import GateFigure  # noqa: E402
from dicomnode.ledger.judgements import week_of  # noqa: E402
from tests.support.dcmtk import free_port, is_listening  # noqa: E402
from tests.support.wait import wait_until  # noqa: E402

SERIES = 5000
PROTOCOLS, SCANNERS = 40, 4
DAYS = 180
BYTES_BAR, SECONDS_BAR, P95_BAR_S = 100_000, 0.3, 1.0
ASKED_AGAIN = 5
TOKEN = "t" * 24
PAGES = ("/", "/series", "/series?state=kept&from=2026-01-01", "/deliveries", "/series/1", "/scanners", "/scanners/1",
         "/models", "/first")  # fmt: skip
ASSETS = ("/page.css", "/page.js", "/page.svg")
CHECKS = ("finite", "values", "encoded_averages", "sharpness", "noise", "edges")
DRIP = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "


def lay_out(ledger: Path) -> None:
    """Lay the series over the last half year, with what verdicts and the result gate would have told."""
    now = datetime.now(UTC)
    with closing(sqlite3.connect(ledger)) as connection, connection:
        numbers = [row[0] for row in connection.execute("SELECT id FROM series WHERE origin = 'received' ORDER BY id")]
        if connection.execute("SELECT count(*) FROM judgement").fetchone()[0]:
            return
        connection.executemany(
            "INSERT INTO protocol (id, peer, station, serial, name) VALUES (?, ?, ?, ?, ?)",
            [
                (
                    one + 1,
                    f"mr{one % SCANNERS}",
                    f"MRC{one % SCANNERS}",
                    f"{4711 + one % SCANNERS}",
                    f"protocol {one:02}",
                )
                for one in range(PROTOCOLS)
            ],
        )
        for place, number in enumerate(numbers):
            at = now - timedelta(days=DAYS * (len(numbers) - 1 - place) / len(numbers))
            text = at.strftime("%Y-%m-%d %H:%M:%S.%f")
            protocol = place % PROTOCOLS
            spacing_mm = 5.0 + (protocol % 3) + (0.5 if protocol == 7 and place > len(numbers) / 2 else 0.0)
            connection.execute(
                "INSERT INTO judgement VALUES (?, ?, ?, ?, ?, 40, 0, ?, 5.0, ?)",
                (number, protocol + 1, text, week_of(at), "process", spacing_mm, -200.0 - place % 50),
            )
            connection.execute(
                "UPDATE series SET created_at = ?, first_at = ?, last_at = ? WHERE id = ?", (text, text, text, number)
            )
            figures = [
                {name: getattr(_figure(check, place), name) for name in GateFigure.__dataclass_fields__}
                for check in CHECKS
            ]
            connection.execute(
                "UPDATE job SET finished_at = ?, figures = ? WHERE series_id = ?", (text, json.dumps(figures), number)
            )


def _figure(check: str, place: int) -> GateFigure:
    share = 0.2 + (place % 60) / 100
    return GateFigure(check=check, measured=share / 2, limit=0.5, is_least=False, share=share, holds=False)


@contextmanager
def served(folder: Path, data: Path, *words: str) -> Iterator[tuple[int, int, psutil.Process]]:
    """Node and page, or the page alone, in processes of their own; the ports of both, and the process."""
    port, web_port = free_port(), free_port()
    token = folder / "token"
    token.write_text(TOKEN)
    os.chmod(token, 0o640)  # noqa: PTH101
    config = folder / "dicomnode.toml"
    config.write_text(
        f'[node]\nae_title = "DICOMNODE"\nlisten = "127.0.0.1:{port}"\ndata = "{data}"\n'
        f'[web]\nlisten = "127.0.0.1:{web_port}"\ntoken_file = "{token}"\n'
        '[[peer]]\nname = "scanner"\nae_title = "TEST"\nnetworks = ["127.0.0.1/32"]\n'
    )
    with (folder / "log").open("wb") as said:
        process = subprocess.Popen([sys.executable, "-m", "dicomnode", *words, "--config", str(config)], stderr=said)
    try:
        ports = (web_port,) if "web" in words else (web_port, port)
        wait_until(lambda: all(map(is_listening, ports)) or process.poll() is not None, 120.0, "node and page listen")
        assert process.poll() is None, (folder / "log").read_text()
        yield port, web_port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def ask(port: int, path: str) -> tuple[float, int]:
    """Seconds and bytes of one answer."""
    began = time.perf_counter()
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}", "Accept": "text/html"})
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200, (path, response.status, body[:300])
    return time.perf_counter() - began, len(body)


def measure_pages(folder: Path, data: Path) -> Iterator[dict[str, object]]:
    """One line a page."""
    with served(folder, data, "web") as (_, port, process):
        beside = sum(ask(port, path)[1] for path in ASSETS)
        for path in PAGES:
            spent_s = sum(process.cpu_times()[:2])
            first_s, size = ask(port, path)
            spent_s = sum(process.cpu_times()[:2]) - spent_s
            again = [ask(port, path)[0] for _ in range(ASKED_AGAIN)]
            is_kept = first_s < SECONDS_BAR and size + beside < BYTES_BAR
            yield {
                "page": path,
                "bytes": size + beside,
                "first_s": round(first_s, 3),
                "first_cpu_s": round(spent_s, 2),
                "again_s": round(statistics.median(again), 3),
                "bar": f"< {BYTES_BAR} bytes, < {SECONDS_BAR} s",
                "bars": "kept" if is_kept else "missed",
            }


def flood(port: int, slow: int, until: float) -> None:
    """Slow clients that drip and come back, and four that ask without end."""

    def drip() -> None:
        while time.time() < until:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                client.sendall(DRIP)
                while time.time() < until:
                    client.sendall(b".")
                    client.settimeout(1.0)
                    with suppress(TimeoutError):
                        if not client.recv(4096):
                            break

    def hurry() -> None:
        while time.time() < until:
            with suppress(OSError, http.client.HTTPException, AssertionError):
                ask(port, "/")

    threads = [threading.Thread(target=drip) for _ in range(slow)] + [threading.Thread(target=hurry) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def measure_door(folder: Path, data: Path, slow: int, seconds: float) -> Iterator[dict[str, object]]:
    """Echoes alone, then beside the flood, of the same node."""
    with served(folder, data, "serve", "--web") as (port, web_port, _):
        for _ in range(20):
            echo(port)
        for clients in (0, slow):
            until = time.time() + seconds
            attacker = multiprocessing.get_context("spawn").Process(target=flood, args=(web_port, clients, until))
            if clients:
                attacker.start()
            taken: list[float | None] = []
            while time.time() < until:
                taken.append(echo(port))
                time.sleep(0.02)
            if clients:
                attacker.join(60)
            yield _echoes(clients, taken)


def _echoes(clients: int, taken: Sequence[float | None]) -> dict[str, object]:
    good = sorted(one for one in taken if one is not None)
    p95 = good[int(0.95 * (len(good) - 1))] if good else float("inf")
    return {
        "slow_clients_of_the_page": clients,
        "echoes": len(good),
        "failed": len(taken) - len(good),
        "median_s": round(statistics.median(good), 4) if good else None,
        "p95_s": round(p95, 4),
        "bar": f"< {P95_BAR_S} s",
        "bars": "kept" if p95 < P95_BAR_S and len(good) == len(taken) else "missed",
    }


def main() -> None:
    """Print one JSON line for each page, and one for each kind of echoes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--series", type=int, default=SERIES)
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = given.keep or work / "data"
        if not (data / "ledger.sqlite").is_file():
            data.mkdir(parents=True, exist_ok=True)
            fill(data, 5 if given.toy else given.series)
        lay_out(data / "ledger.sqlite")
        for line in measure_pages(work, data):
            print(json.dumps(line), flush=True)
        for line in measure_door(work, data, 20 if given.toy else 200, 2.0 if given.toy else 12.0):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
