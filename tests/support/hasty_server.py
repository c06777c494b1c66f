"""A server under TLS that hangs up on a certificate that it does not take, while our request is on its way.

Under TLS 1.3 the alert goes out behind the handshake. Whoever closes with bytes unread resets the connection, and the
reset takes the alert away from who has not read it yet.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def hasty_server(context: ssl.SSLContext) -> Iterator[int]:
    """A server that reads nothing after a handshake that failed, and closes once our request lies there."""

    def serve(server: socket.socket) -> None:
        while True:
            try:
                connected, _ = server.accept()
            except OSError:
                return
            with connected:
                connected.settimeout(10)
                with (
                    suppress(OSError),
                    context.wrap_socket(connected, server_side=True, do_handshake_on_connect=False) as secured,
                ):
                    with suppress(ssl.SSLError):
                        secured.do_handshake()
                    waiting = select.poll()
                    waiting.register(secured, select.POLLIN)
                    waiting.poll(500)

    with socket.create_server(("127.0.0.1", 0)) as server:
        serving = threading.Thread(target=serve, args=(server,))
        serving.start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
        serving.join(30)
