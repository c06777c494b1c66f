"""A mail server and a webhook that are really there: sockets of this machine, TLS by a certificate of the tests.

The mail server speaks what a client needs of SMTP (RFC 5321): EHLO, STARTTLS, AUTH PLAIN, MAIL, RCPT, DATA,
RSET, QUIT. It keeps each message that it took.
"""

from __future__ import annotations

import base64
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from tests.support.certificates import Authority, listener

IDLE_S = 30.0


@dataclass(kw_only=True)
class MailServer:
    """A mail server: what it took, and how it behaves."""

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    senders: list[str] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    was_encrypted: list[bool] = field(default_factory=list)
    password: str = "open sesame"  # noqa: S105 (of this double alone)
    data_answer: bytes = b"250 taken"

    @property
    def texts(self) -> list[str]:
        """The text of each mail."""
        return [mail.get_content() for mail in self.mails]


@contextmanager
def mail_server(
    authority: Authority, *, tls: str = "starttls", offers_starttls: bool = True, port: int = 0
) -> Iterator[MailServer]:
    """A mail server on a port of 127.0.0.1; ``tls``: starttls, or tls from the first byte."""
    context = listener(authority, authority.issue("mail"))
    server = MailServer()
    stopping = threading.Event()
    with socket.create_server(("127.0.0.1", port)) as listening:
        listening.settimeout(0.05)
        server.port = listening.getsockname()[1]

        def serve() -> None:
            while not stopping.is_set():
                try:
                    connected, _ = listening.accept()
                except TimeoutError:
                    continue
                connected.settimeout(IDLE_S)
                with suppress(OSError):
                    if tls == "tls":
                        connected = context.wrap_socket(connected, server_side=True)
                    talk = _Talk(server, connected, context if offers_starttls and tls == "starttls" else None)
                    try:
                        talk.run()
                    finally:
                        talk.close()
                connected.close()

        thread = threading.Thread(target=serve, name="mail server")
        thread.start()
        try:
            yield server
        finally:
            stopping.set()
            thread.join()


class _Talk:
    """One connection of a client."""

    def __init__(self, server: MailServer, connected: socket.socket, context: ssl.SSLContext | None) -> None:
        self._server = server
        self._socket = connected
        self._context = context
        self._file = connected.makefile("rb")
        self._sender = ""
        self._recipients: list[str] = []

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def run(self) -> None:
        self._say(b"220 ready")
        while line := self._file.readline():
            word, _, rest = line.decode("ascii").strip().partition(" ")
            match word.upper():
                case "EHLO":
                    more = [b"STARTTLS"] if self._context else []
                    for feature in (b"here", *more, b"AUTH PLAIN"):
                        self._say(b"250-" + feature)
                    self._say(b"250 8BITMIME")
                case "STARTTLS" if self._context:
                    self._say(b"220 go on")
                    self._file.close()
                    self._socket = self._context.wrap_socket(self._socket, server_side=True)
                    self._file = self._socket.makefile("rb")
                    self._context = None
                case "AUTH":
                    user, password = base64.b64decode(rest.partition(" ")[2]).decode().split("\0")[1:]
                    self._server.logins.append(user)
                    is_right = password == self._server.password
                    self._say(b"235 welcome" if is_right else b"535 no")
                case "MAIL":
                    self._sender = rest
                    self._say(b"250 ok")
                case "RCPT":
                    self._recipients.append(rest.removeprefix("TO:").strip("<>"))
                    self._say(b"250 ok")
                case "DATA":
                    self._say(b"354 go on")
                    self._take()
                case "RSET" | "NOOP":
                    self._say(b"250 ok")
                case "QUIT":
                    self._say(b"221 bye")
                    return
                case _:
                    self._say(b"502 unknown")

    def _take(self) -> None:
        lines = []
        while (line := self._file.readline()) not in (b".\r\n", b""):
            lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
        if self._server.data_answer.startswith(b"250"):
            message = message_from_bytes(b"".join(lines), policy=policy.default)
            assert isinstance(message, EmailMessage)
            self._server.mails.append(message)
            self._server.senders.append(self._sender)
            self._server.recipients.append(self._recipients)
            self._server.was_encrypted.append(isinstance(self._socket, ssl.SSLSocket))
        self._recipients = []
        self._say(self._server.data_answer)

    def _say(self, line: bytes) -> None:
        self._socket.sendall(line + b"\r\n")


@dataclass(kw_only=True)
class HookServer:
    """A webhook: what was posted to it, and what it answers."""

    port: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    status: int = 204


@contextmanager
def hook_server(authority: Authority) -> Iterator[HookServer]:
    """An HTTPS server on a port of 127.0.0.1."""
    took = HookServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            took.bodies.append(json.loads(body))
            took.paths.append(self.path)
            self.send_response(took.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_words: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.socket = listener(authority, authority.issue("hook")).wrap_socket(server.socket, server_side=True)
    took.port = server.server_port
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.05), name="webhook")
    thread.start()
    try:
        yield took
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
