"""The page as a process: served, stopped, and not to be kept from others by clients that are slow."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.dcmtk import free_port, is_listening
from tests.support.page_node import PageNode
from tests.support.wait import wait_until

LIMIT_S = 60.0


@contextmanager
def _served(folder: Path, *words: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The page of the data folder as a process, and its port."""
    port = free_port()
    config = folder / "dicomnode.toml"
    config.write_text(
        f'[node]\ndata = "{folder / "data"}"\nlisten = "127.0.0.1:{free_port()}"\n[web]\nlisten = "127.0.0.1:{port}"\n'
    )
    command = [sys.executable, "-m", "dicomnode", *words, "--config", str(config)]
    with (folder / "page.log").open("wb") as said:
        process = subprocess.Popen(command, stderr=said)
    try:
        wait_until(lambda: is_listening(port) or process.poll() is not None, LIMIT_S, "the page listens")
        assert process.poll() is None, (folder / "page.log").read_text()
        yield port, process
    finally:
        process.kill()
        process.wait(10)


def _get(port: int, path: str = "/") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers={"Accept": "text/html"})
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def test_it_is_served_until_it_is_told_to_stop_and_logs_nothing_of_a_client(node: PageNode, tmp_path: Path) -> None:
    del node
    with _served(tmp_path, "web") as (port, process):
        assert _get(port) == 200
        assert _get(port, "/SECRET^NAME?x=SECRET") == 404
        with socket.create_connection(("127.0.0.1", port)) as rude:
            rude.sendall(b"\x16\x03\x01 SECRET\r\n\r\n")
            rude.recv(1 << 16)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    lines = [json.loads(line) for line in (tmp_path / "page.log").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["web_listening", "web_stopped"]
    assert lines[0]["sentence"] == f"The page is at http://127.0.0.1:{port}/"


def test_two_hundred_slow_clients_keep_nobody_out_and_are_cut(node: PageNode, tmp_path: Path) -> None:
    del node
    with _served(tmp_path, "web") as (port, _), ExitStack() as slow:
        clients = [
            slow.enter_context(socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)) for _ in range(200)
        ]
        for number, client in enumerate(clients):
            client.sendall(
                (b"", b"GET / HTTP/1.1\r\nHost: 127", b"POST /enter HTTP/1.1\r\nContent-Length: 9\r\n\r\nx")[number % 3]
            )
        took_s = []
        for _ in range(10):
            began_s = time.monotonic()
            assert _get(port) == 200
            took_s.append(time.monotonic() - began_s)
        assert sorted(took_s)[-2] < 2.0, took_s

        def is_cut() -> bool:
            """One client that drips is cut all the same."""
            try:
                clients[1].sendall(b".")
                clients[1].settimeout(0.2)
                return clients[1].recv(1 << 16) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        wait_until(is_cut, LIMIT_S, "the client that drips is cut")


def test_it_comes_and_goes_with_the_service(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with _served(tmp_path, "serve", "--web") as (port, service):
        wait_until(lambda: _get(port) == 200, LIMIT_S, "the ledger is there")
        tasks = Path(f"/proc/{service.pid}/task").iterdir()
        children = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
        page = next(pid for pid in children if b"dicomnode.web" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(page, signal.SIGKILL)
        wait_until(lambda: not is_listening(port), LIMIT_S, "the page is gone")
        wait_until(lambda: is_listening(port), LIMIT_S, "the page is there again")
        assert service.poll() is None
        service.kill()
        service.wait(10)
        wait_until(lambda: not is_listening(port), LIMIT_S, "the page ends with the service")
