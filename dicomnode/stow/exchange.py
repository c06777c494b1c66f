"""One HTTP request and its answer, on a connection of its own.

In: where the server is, and what to ask. Out: its answer, or a ``RequestOutcome`` that says why there is none. Nothing
is followed (no redirection, no proxy), and nothing is asked twice. One thread uses an exchange; only ``abort`` may come
from another.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from dicomnode.dimse.outcome import RequestOutcome, RequestReason
from dicomnode.tls.connection import why

MOST_BYTES = 8 << 20  # of an answer that describes instances: a hundred take some 30 KB
HTTPS_PORT, HTTP_PORT = 443, 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The answer of the server."""

    status: int
    body: bytes  # as much as came; empty where it was longer than allowed
    content_type: str = ""
    retry_after: str = ""  # as the server sent it
    date: str = ""  # the server's time, as it sent it


class Exchange:
    """A connection to the server of a URL, for one request."""

    def __init__(
        self, url: str, context: ssl.SSLContext | None, *, connect_timeout_s: float, response_timeout_s: float
    ) -> None:
        """``url``: the root of the service; ``context``: needed for one that begins with https."""
        parts = urlsplit(url)
        assert parts.hostname, "the settings demand a host"
        self._is_tls = parts.scheme == "https"
        assert context is not None or not self._is_tls, "https needs TLS"
        self._host, self._root = parts.hostname, parts.path
        self._port = parts.port or (HTTPS_PORT if self._is_tls else HTTP_PORT)
        self._context = context
        self._connect_timeout_s, self._response_timeout_s = connect_timeout_s, response_timeout_s
        self._socket: socket.socket | None = None
        self._is_aborted = self._is_late = False
        self.is_sent = False  # the whole request went out

    def connect(self) -> RequestOutcome | None:
        """Connect, under TLS where the URL says so; None: the connection stands."""
        try:
            connected = socket.create_connection((self._host, self._port), self._connect_timeout_s)
        except socket.gaierror:
            return RequestOutcome(reason=RequestReason.UNRESOLVED)
        except OSError as exc:
            detail = f"none within {self._connect_timeout_s:g} s" if isinstance(exc, TimeoutError) else exc.strerror
            where = f"{self._host}:{self._port}, {detail or 'refused'}"
            return RequestOutcome(reason=RequestReason.UNREACHABLE, detail=where)
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None and self._is_tls:
                connected = self._context.wrap_socket(connected, server_hostname=self._host)
        except (OSError, ValueError) as exc:
            connected.close()
            text = why(exc, trusted="`peer.ca`", place="`url`") if isinstance(exc, ssl.SSLError) else ""
            return RequestOutcome(reason=RequestReason.TLS, detail=text)
        self._socket = connected
        if self._is_aborted:
            self.close()
            return self._ended()
        return None

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        blocks: Iterable[bytes] = (),
        *,
        most_bytes: int = MOST_BYTES,
    ) -> Reply | RequestOutcome:
        """Send the request, ``path`` below the root of the service, and read the answer; the connection is closed then.

        Raises StorageError where ``blocks`` does.
        """
        assert self._socket is not None, "an exchange is connected before it asks"
        protocol = http.client.HTTPSConnection if self._is_tls else http.client.HTTPConnection
        connection = protocol(self._host, self._port)
        connection.sock, connection.auto_open = self._socket, 0
        self._socket.settimeout(self._response_timeout_s)  # for each piece that the server takes
        late = threading.Timer(self._response_timeout_s, self._end_late)
        late.daemon = True
        try:
            connection.putrequest(method, self._root + path, skip_accept_encoding=True)
            for name, value in {**headers, "Connection": "close"}.items():
                connection.putheader(name, value)
            self._send(connection, blocks)
            late.start()
            with contextlib.closing(connection.getresponse()) as response:
                return Reply(
                    status=response.status,
                    body=self._read(response, most_bytes),
                    content_type=response.headers.get("Content-Type", ""),
                    retry_after=response.headers.get("Retry-After", ""),
                    date=response.headers.get("Date", ""),
                )
        except (OSError, http.client.HTTPException) as exc:
            return self._broken(exc)
        finally:
            late.cancel()
            connection.close()

    def close(self) -> None:
        """Close a connection on which nothing is to be asked."""
        if self._socket is not None:
            self._socket.close()

    def abort(self) -> None:
        """End the connection at once, from any thread."""
        self._is_aborted = True
        self._shut()

    def _send(self, connection: http.client.HTTPConnection, blocks: Iterable[bytes]) -> None:
        """Send head and body. A server may refuse before it has read all of it: then its answer is there to be read."""
        try:
            connection.endheaders()
        except TimeoutError:
            raise
        except OSError:
            return
        for block in blocks:  # raises outside the try: a file that cannot be read is not the server's refusal
            try:
                connection.send(block)
            except TimeoutError:
                raise
            except OSError:
                return
        self.is_sent = True

    def _read(self, response: http.client.HTTPResponse, most_bytes: int) -> bytes:
        """Read the body as far as it comes, empty if too long. The status is known, so a cut body does no harm."""
        came = bytearray()
        with contextlib.suppress(OSError, http.client.HTTPException):
            while len(came) <= most_bytes and (block := response.read(1 << 16)):
                came += block
        return bytes(came) if len(came) <= most_bytes else b""

    def _end_late(self) -> None:
        self._is_late = True
        self._shut()

    def _shut(self) -> None:
        if (connected := self._socket) is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connected, socket.SHUT_RDWR)  # SSLSocket's would take the encryption away

    def _broken(self, exc: Exception) -> RequestOutcome:
        if self._is_aborted:
            return self._ended()
        if self._is_late or isinstance(exc, TimeoutError):
            detail = f"nothing within {self._response_timeout_s:g} s"
            return RequestOutcome(reason=RequestReason.NO_RESPONSE, detail=detail)
        if isinstance(exc, ssl.SSLError):  # TLS 1.3: that our certificate is not taken is said after the handshake
            if said := why(exc, trusted="`peer.ca`", place="`url`"):
                return RequestOutcome(reason=RequestReason.TLS, detail=said)
            return RequestOutcome(reason=RequestReason.LOST)
        if isinstance(exc, OSError):
            return RequestOutcome(reason=RequestReason.LOST, detail=exc.strerror or "")
        return RequestOutcome(reason=RequestReason.LOST, detail="what it answered is not HTTP")

    def _ended(self) -> RequestOutcome:
        return RequestOutcome(reason=RequestReason.ENDED)
