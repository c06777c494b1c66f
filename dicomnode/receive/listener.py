"""The listening socket: which connections get a thread that reads an association from them.

A connection from an address in no peer's network is closed at once. Connections are counted, in all and for each
address, because each takes a thread. Which peer the requestor is, and whether its association is accepted, is decided
in ``admission``. The thread that accepts never waits for a peer.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import threading
import time
from collections.abc import Callable

from dicomnode import log
from dicomnode.dimse.budget import ByteBudget
from dicomnode.receive.association import Association, Handlers, Limits
from dicomnode.receive.throttle import Throttle

LOGGER = logging.getLogger(__name__)

BACKLOG = 128
CONNECTIONS_PER_ASSOCIATION = 2  # a connection without a request takes no place of an association
LARGEST_IN_FLIGHT = 2  # objects of the largest size, over all associations; one has room for a usual series
RECOVERY_S = 0.1  # out of file descriptors: accept would fail again at once
JOIN_S = 5.0  # for the thread that only has to see that its socket is closed


class Listener:
    """Accepts connections on a thread of its own until it is closed."""

    def __init__(
        self, host: str, port: int, limits: Limits, handlers: Handlers, *, is_near: Callable[[str], bool]
    ) -> None:
        """Bind and listen. ``is_near``: is an address in a peer's network? Raises OSError."""
        self._limits = limits
        self._handlers = handlers
        self._is_near = is_near
        self.budget = ByteBudget(LARGEST_IN_FLIGHT * limits.instance_bytes, turn_s=limits.pdu_timeout_s)
        self._throttle = Throttle()
        self._associations: list[Association] = []
        self._lock = threading.Lock()
        self._is_closing = False
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        is_both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()  # "::" is every address, of IPv4 too
        self._socket = socket.create_server(address[:2], family=family, backlog=BACKLOG, dualstack_ipv6=is_both)
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)

    @property
    def port(self) -> int:
        """The port that the system gave, where 0 was asked for."""
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Begin to accept."""
        self._thread.start()

    def live(self) -> list[Association]:
        """Every association whose thread runs, established or not."""
        with self._lock:
            self._associations = [one for one in self._associations if one.is_alive()]
            return list(self._associations)

    def close(self) -> None:
        """Stop listening; associations go on."""
        self._is_closing = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, which closing would not
        if self._thread.ident is not None:
            self._thread.join(JOIN_S)
        self._socket.close()

    def _run(self) -> None:
        while not self._is_closing:
            try:
                connected, address = self._socket.accept()
            except OSError as exc:
                if self._is_closing:
                    return
                if exc.errno in (errno.EMFILE, errno.ENFILE):
                    self._say("no_descriptors", "accept")
                    time.sleep(RECOVERY_S)
                continue
            try:
                self._begin(connected, str(address[0]))
            except Exception:  # noqa: BLE001 (border: one connection)
                log.failure(LOGGER, "connection_failed", address=str(address[0]))
                connected.close()

    def _begin(self, connected: socket.socket, address: str) -> None:
        """Start an association on this connection, or close it: an unknown address, or too many connections."""
        if not self._is_near(address):
            self._say("stranger_closed", address)
            connected.close()
            return
        live = self.live()
        from_there = sum(one.address == address for one in live)
        if (
            from_there >= CONNECTIONS_PER_ASSOCIATION * self._limits.per_address
            or len(live) >= CONNECTIONS_PER_ASSOCIATION * self._limits.associations
        ):
            self._say("connections_exhausted", address)
            connected.close()
            return
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        association = Association(connected, address, self._limits, self.budget, self._handlers)
        with self._lock:  # an association that is served and not known would not be counted, nor waited for at a stop
            association.start()
            self._associations.append(association)

    def _say(self, name: str, address: str) -> None:
        if count := self._throttle.count(f"{name} {address}"):
            log.event(LOGGER, name, level=logging.WARNING, address=address, count=count)
