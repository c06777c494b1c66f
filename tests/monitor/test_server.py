"""The monitor's server answers a scraper whatever other clients do, and nothing else."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry, Gauge

from dicomnode.errors import SettingsError
from dicomnode.monitor.server import PLACES, serving


@pytest.fixture
def complaints() -> list[str]:
    return []


@pytest.fixture
def port(complaints: list[str]) -> Iterator[int]:
    registry = CollectorRegistry()
    Gauge("answer", "Of everything.", registry=registry).set(42)
    with serving("127.0.0.1", 0, live=lambda: [], ready=lambda: complaints, registry=registry) as port:
        yield port


def _get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_each_page_and_no_other(port: int, complaints: list[str]) -> None:
    assert _get(port, "/live") == (200, "live\n")
    assert _get(port, "/ready?since=1") == (200, "ready\n")
    assert "answer 42.0" in _get(port, "/metrics")[1]
    complaints += ["The disk is full.", "The listener has ended."]
    assert _get(port, "/ready") == (503, "The disk is full.\nThe listener has ended.\n")
    for path in ("/", "/etc/passwd", "/metrics/../live", "//", "/<script>alert(1)</script>"):
        status, text = _get(port, path)
        assert (status, text) == (404, "/live, /ready or /metrics\n"), path
    assert _get(port, "/metrics", "POST")[0] == 501


def test_a_client_s_words_reach_no_log(port: int, capfd: pytest.CaptureFixture[str]) -> None:
    assert _get(port, "/SECRET^NAME")[0] == 404
    with socket.create_connection(("127.0.0.1", port)) as rude:
        rude.sendall(b"\x16\x03\x01 SECRET^NAME\r\n\r\n")
        rude.recv(1 << 16)
    assert "SECRET" not in "".join(capfd.readouterr())


def test_two_hundred_clients_that_say_nothing_keep_no_scraper_out(port: int) -> None:
    with ExitStack() as silent:
        for number in range(200):
            client = silent.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            client.sendall(b"GET /met" if number % 2 else b"")
        took_s = []
        for _ in range(2 * PLACES):
            began_s = time.monotonic()
            assert _get(port, "/metrics")[0] == 200
            took_s.append(time.monotonic() - began_s)
    assert sorted(took_s)[-2] < 1.0, took_s


def test_an_address_that_is_taken_is_a_sentence_that_names_the_key(port: int) -> None:
    with (
        pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1:{port}") as refused,
        serving("127.0.0.1", port, live=list, ready=list, registry=CollectorRegistry()),
    ):
        pytest.fail("both listen")
    assert "metrics.listen" in refused.value.hint


def test_it_stops_though_a_client_says_nothing() -> None:
    with ExitStack() as parts:
        port = parts.enter_context(serving("127.0.0.1", 0, live=list, ready=list, registry=CollectorRegistry()))
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert _get(port, "/live")[0] == 200
            began_s = time.monotonic()
            parts.close()
            assert time.monotonic() - began_s < 4.0
            client.settimeout(5)
            assert client.recv(10) == b"", "it was cut"
