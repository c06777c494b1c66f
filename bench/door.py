"""200 hostile clients beside one configured peer: does the peer notice, and what do they cost?

    python bench/door.py              12 s of attack from 127.0.0.2 to 127.0.0.51
    python bench/door.py --silent 50  20 s with so many associations of the peer on which nothing is sent
    python bench/door.py --toy        short and with fewer clients, to see that it still runs

The peer sends one C-ECHO after the other, each on an association of its own, from 127.0.0.1. The clients, in a process
of their own, connect anew whenever they are closed: silent ones, three bytes and silence, a header that claims 1 GiB
and 3 MB of it, random bytes, HTTP. ``strangers`` come from addresses of no peer; ``peers`` from addresses that are
configured, so that they are let in as far as the limits go. Bars: p95 of an echo (association and release included)
< 1 s, none refused or failed, memory of the node + 64 MB at most. Silent associations: the node uses less than 2 % of
one core for all of them, and each is still served afterwards.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_network
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.dcmtk import free_port, is_listening
from tests.support.pdu import ASSOCIATE_AC, raw_client
from tests.support.wait import wait_until

P95_BAR_S = 1.0
MEMORY_BAR_MB = 64
SILENT_BAR_CORES = 0.02
HOSTILE = [f"127.0.0.{number}" for number in range(2, 52)]
ATTACKS = (
    b"",
    b"\x01\0\0",
    b"\x01\0\x40\0\0\0" + bytes(3 << 20),
    b"GET / HTTP/1.1\r\nHost: node\r\n\r\n",
    os.urandom(4096),
)


def serve(data: Path, port: int, are_peers: bool) -> None:
    """Serve as the receiving half of the node does, with its default limits."""
    from dicomnode import log
    from dicomnode.archive.store import Archive
    from dicomnode.ids import AeTitle
    from dicomnode.ledger.store import open_ledger
    from dicomnode.receive.scp import Receiver
    from dicomnode.settings.models import ArchiveSettings, NodeSettings, ReceiveSettings
    from dicomnode.settings.peers import PeerSettings

    log.start_logging("info", "json")
    addresses = ["127.0.0.1", *(HOSTILE if are_peers else [])]
    networks = tuple(ip_network(address) for address in addresses)
    receiver = Receiver(
        node=NodeSettings(listen=f"127.0.0.1:{port}", data=data),
        receive=ReceiveSettings(),
        disk=ArchiveSettings(refuse_free_percent=0.0),
        peers=[PeerSettings(name="peer", ae_title=AeTitle("TEST"), networks=networks)],
        ledger=open_ledger(f"sqlite:///{data / 'ledger.sqlite'}"),
        archive=Archive(data),
        wake=lambda: None,
    )
    receiver.start()
    while True:
        time.sleep(60)


def attack(port: int, clients: int, until: float) -> None:
    """Run so many clients at once, each coming back as soon as it is closed."""

    def run(number: int) -> None:
        while time.time() < until:
            with suppress(OSError), socket.socket() as connection:
                connection.settimeout(max(0.1, until - time.time()))
                connection.bind((HOSTILE[number % len(HOSTILE)], 0))
                connection.connect(("127.0.0.1", port))
                connection.sendall(ATTACKS[number % len(ATTACKS)])
                while connection.recv(4096):
                    pass
            time.sleep(0.05)  # 200 clients at 20 connections a second each are 4000

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def echo(port: int) -> float | None:
    """Seconds of association, C-ECHO and release; nothing if any of them failed."""
    began = time.perf_counter()
    try:
        with raw_client(port, timeout_s=10.0) as client:
            answer = client.associate()
            if answer is None or answer.kind != ASSOCIATE_AC or client.echo() != 0:
                return None
            client.release()
    except (OSError, AssertionError):
        return None
    return time.perf_counter() - began


@contextmanager
def serving(work: Path, who: str) -> Iterator[tuple[int, psutil.Process]]:
    """The node in a process of its own, warm; its port and the process."""
    port = free_port()
    data = work / who
    data.mkdir()
    with (data / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, __file__, "--serve", str(data), str(port), who], stderr=log)
        try:
            wait_until(lambda: is_listening(port), 30.0, "the node listens")
            for _ in range(20):
                echo(port)
            yield port, psutil.Process(process.pid)
        finally:
            process.kill()
            process.wait()


def measure(work: Path, clients: int, seconds: float, who: str) -> dict[str, float | int | str]:
    """One attack."""
    with serving(work, who) as (port, node):
        before, cpu = node.memory_info().rss, sum(node.cpu_times()[:2])
        until = time.time() + seconds
        attackers = multiprocessing.get_context("spawn").Process(target=attack, args=(port, clients, until))
        attackers.start()
        taken: list[float | None] = []
        most = before
        while time.time() < until:
            taken.append(echo(port))
            most = max(most, node.memory_info().rss)
        attackers.join(30)
        cpu = sum(node.cpu_times()[:2]) - cpu
        return _result(who, clients, taken, (most - before) / (1 << 20), cpu / seconds)


def measure_silence(work: Path, associations: int, seconds: float) -> dict[str, float | int | str]:
    """Open so many associations of the peer, send nothing on them for a while, then see whether each is served."""
    with serving(work, "peers") as (port, node), ExitStack() as stack:
        clients = [
            stack.enter_context(raw_client(port, source=HOSTILE[number % len(HOSTILE)]))
            for number in range(associations)
        ]
        for client in clients:
            answer = client.associate()
            assert answer is not None, "the node closed the connection"
            assert answer.kind == ASSOCIATE_AC, "the node rejected the association"
        cpu = sum(node.cpu_times()[:2])
        time.sleep(seconds)
        cores = (sum(node.cpu_times()[:2]) - cpu) / seconds
        served = sum(client.echo() == 0 for client in clients)
        return {
            "silent": associations,
            "seconds": seconds,
            "served": served,
            "cores": round(cores, 4),
            "bar": f"< {SILENT_BAR_CORES}",
            "bars": "kept" if cores < SILENT_BAR_CORES and served == associations else "missed",
        }


def _result(
    who: str, clients: int, taken: Sequence[float | None], grown_mb: float, cores: float
) -> dict[str, float | int | str]:
    good = sorted(one for one in taken if one is not None)
    p95 = good[int(0.95 * (len(good) - 1))] if good else float("inf")
    is_kept = p95 < P95_BAR_S and len(good) == len(taken) and grown_mb <= MEMORY_BAR_MB
    return {
        "clients": clients,
        "are": who,
        "echoes": len(good),
        "failed": len(taken) - len(good),
        "median_s": round(statistics.median(good), 3) if good else -1,
        "p95_s": round(p95, 3),
        "memory_mb": round(grown_mb, 1),
        "cores": round(cores, 2),
        "bars": "kept" if is_kept else "missed",
    }


def main() -> None:
    """Print one JSON line for each kind of client, or one for the silent associations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--silent", type=int, metavar="ASSOCIATIONS")
    parser.add_argument("--serve", nargs=3, metavar=("FOLDER", "PORT", "WHO"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        folder, port, who = options.serve
        serve(Path(folder), int(port), who == "peers")
        return
    clients, seconds = (20, 2.0) if options.toy else (200, 12.0)
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as folder:
        if options.silent:
            print(json.dumps(measure_silence(Path(folder), options.silent, 1.0 if options.toy else 20.0)), flush=True)
            return
        for who in ("strangers", "peers"):
            print(json.dumps(measure(Path(folder), clients, seconds, who)), flush=True)


if __name__ == "__main__":
    main()
