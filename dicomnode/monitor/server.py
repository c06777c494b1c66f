"""The server for monitoring programs: ``/live``, ``/ready`` and ``/metrics``, by GET, on an address of its own.

In: requests of HTTP. Out: for ``/live`` and ``/ready`` 200, or 503 with a sentence for each thing that is wrong; for
``/metrics`` the text format of Prometheus. Nothing that a client sends is logged, kept or given back.

A client that is slow, or sends nothing, keeps nobody out: where all places are taken, the connection that is open
longest is cut. Nothing here touches the receiver.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest

from dicomnode import log
from dicomnode.errors import cannot_listen

LOGGER = logging.getLogger(__name__)

PLACES: Final = 16
SILENCE_S: Final = 5.0

Complaints = Callable[[], list[str]]  # a sentence for each thing that is wrong


@contextmanager
def serving(host: str, port: int, *, live: Complaints, ready: Complaints, registry: CollectorRegistry) -> Iterator[int]:
    """Serve as long as the block runs, and yield the port. Raises SettingsError where it cannot listen there."""
    pages = {
        "/live": lambda: _judged("live", live()),
        "/ready": lambda: _judged("ready", ready()),
        "/metrics": lambda: (HTTPStatus.OK, CONTENT_TYPE_PLAIN_0_0_4, generate_latest(registry)),
    }
    try:
        server = _Server((host, port), pages)
    except OSError as exc:
        raise cannot_listen("metrics.listen", f"{host}:{port}", exc) from exc
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, name="monitor", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        server.cut()
        thread.join()


_Page = Callable[[], tuple[HTTPStatus, str, bytes]]


def _judged(word: str, complaints: list[str]) -> tuple[HTTPStatus, str, bytes]:
    status = HTTPStatus.SERVICE_UNAVAILABLE if complaints else HTTPStatus.OK
    return status, "text/plain; charset=utf-8", ("\n".join(complaints or [word]) + "\n").encode()


class _Server(ThreadingHTTPServer):
    """A server with a thread for each connection, and a limit on the number of connections."""

    request_queue_size = 128  # with socketserver's 5, a scraper would wait for seconds beside many clients
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], pages: dict[str, _Page]) -> None:
        self.pages = pages
        self._open: dict[socket.socket, None] = {}  # in the order in which they came
        self._lock = threading.Lock()
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Take the connection; where all places are taken, cut the oldest."""
        with self._lock:
            if len(self._open) >= PLACES:
                _cut(next(iter(self._open)))
                del self._open[next(iter(self._open))]
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close the connection and give its place back."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an error without the bytes of the client. A client that went away is no error of ours."""
        del request, client_address
        if not isinstance(sys.exception(), OSError):
            log.failure(LOGGER, "monitor_failed")

    def cut(self) -> None:
        """Cut every connection."""
        with self._lock:
            for request in self._open:
                _cut(request)


class _Handler(BaseHTTPRequestHandler):
    """One request. The connection is closed after it."""

    server: _Server
    server_version, sys_version = "dicomnode", ""
    timeout = SILENCE_S

    def do_GET(self) -> None:
        """Answer with the page, or with 404."""
        page = self.server.pages.get(self.path.partition("?")[0])
        unknown = (HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"/live, /ready or /metrics\n")
        status, content_type, body = page() if page is not None else unknown
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the line would quote what the client sent."""


def _cut(connected: socket.socket) -> None:
    with suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)
