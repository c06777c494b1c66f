"""DCMTK's programs, found and started as foreign peers; pynetdicom installs scripts of the same names."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from tests.support.wait import wait_until

# Without it an instance takes 40 ms more: DCMTK since 3.6.2 leaves Nagle's algorithm on (its FAQ 48).
NODELAY = {"TCP_NODELAY": "1"}


@cache
def find_program(name: str) -> Path | None:
    """DCMTK's program of this name, wherever it stands in the path."""
    for folder in os.get_exec_path():
        program = Path(folder) / name
        if not os.access(program, os.X_OK) or program.is_dir():
            continue
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=30)
        if "OFFIS" in told.stdout or "$dcmtk" in told.stdout:
            return program
    return None


needs_dcmtk = pytest.mark.skipif(find_program("storescp") is None, reason="DCMTK is not installed")


def program(name: str) -> str:
    """The program for ``subprocess``; only in a test that ``needs_dcmtk``."""
    found = find_program(name)
    assert found is not None, "the test is not marked needs_dcmtk"
    return str(found)


def environment() -> dict[str, str]:
    """Our environment, with Nagle's algorithm off."""
    return {**os.environ, **NODELAY}


# Below the ports that the system itself hands out (32768 to 60999): no connection that some other process opens
# takes one between here and its use. Each process begins elsewhere, so that tests beside each other do not meet.
_PORTS = range(10_000, 32_000)
_port_numbers = itertools.count(os.getpid() * 37)


def free_port() -> int:
    """A port that nobody listens on; this process hands out each once before it begins anew."""
    while True:
        port = _PORTS[next(_port_numbers) % len(_PORTS)]
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextmanager
def storescp(folder: Path, *options: str) -> Iterator[int]:
    """A ``storescp`` that writes into the folder, one file an instance; its port."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [program("storescp"), *options, "-od", str(folder), str(port)]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: is_listening(port), what="storescp listens")
        yield port
    finally:
        process.kill()
        process.wait(30)


def is_listening(port: int) -> bool:
    """Does something take connections at this port?"""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
