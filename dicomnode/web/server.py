"""The server of the page: threads for the answers, and limits so that slow or silent clients keep nobody out.

A connection costs a thread only while its answer is made. A request that is not complete in time is cut, also one of
which single bytes keep coming. Nothing here touches the service: this is a process of its own.
"""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import FrameType
from typing import Any, Final, NoReturn

import waitress
from waitress.channel import HTTPChannel

from dicomnode import log
from dicomnode.errors import cannot_listen
from dicomnode.web import render
from dicomnode.web.application import Application
from dicomnode.web.current import Current
from dicomnode.web.exchange import BODY_LIMIT_BYTES

LOGGER = logging.getLogger(__name__)

THREADS: Final = 8
PLACES: Final = 512  # connections, the slow ones among them
SILENCE_S: Final = 15  # limit for sending a request, and for taking in an answer
LOOKED_S: Final = 5  # late connections are looked for so often
BACKLOG: Final = 256
HEADER_LIMIT_BYTES: Final = 16_384


class _Channel(HTTPChannel):  # type: ignore[misc]  # waitress has no types
    """A connection. Bytes of an incomplete request do not lengthen its time."""

    _active_at = 0.0

    @property
    def last_activity(self) -> float:
        """The moment from which its silence counts."""
        return self._active_at

    @last_activity.setter
    def last_activity(self, at: float) -> None:
        if getattr(self, "request", None) is None:  # no request is incomplete
            self._active_at = at


def serve(current: Current) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises SettingsError where it cannot listen, KeyboardInterrupt after Ctrl-C."""

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        asked.append(number)
        raise SystemExit

    asked: list[int] = []
    web = current.settings.web
    with opened(current) as (server, port):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
        host = f"[{web.host}]" if ":" in web.host else web.host
        log.event(LOGGER, "web_listening", sentence=f"The page is at http://{host}:{port}/", port=port)
        server.run()
        log.event(LOGGER, "web_stopped")
    if signal.SIGINT in asked:
        raise KeyboardInterrupt


@contextmanager
def opened(current: Current) -> Iterator[tuple[Any, int]]:
    """Listen as long as the block runs, and yield the server, whose ``run`` serves, and the port.

    Raises SettingsError where it cannot listen there, or the token file cannot be used.
    """
    web = current.settings.web
    with closing(Application(current)) as application, closing(_listening(web.listen, web.host, web.port)) as place:
        server = waitress.create_server(
            application,
            sockets=[place],
            threads=THREADS,
            connection_limit=PLACES,
            channel_timeout=SILENCE_S,
            cleanup_interval=LOOKED_S,
            max_request_header_size=HEADER_LIMIT_BYTES,
            max_request_body_size=BODY_LIMIT_BYTES,
            backlog=BACKLOG,
            asyncore_use_poll=True,  # select knows no descriptor above 1023
            ident=None,
        )
        server.channel_class = _Channel
        render.prepare()
        try:
            yield server, int(place.getsockname()[1])
        finally:
            server.close()


def _listening(listen: str, host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        place = socket.socket(family, kind, protocol)
        try:
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            place.bind(address)
        except BaseException:
            place.close()
            raise
    except OSError as exc:
        raise cannot_listen("web.listen", listen, exc) from exc
    return place
