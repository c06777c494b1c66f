"""The listening sockets: they accept connections, and give each a thread that reads an association from it.

One socket is for plain DICOM, another for DICOM under TLS; each has a thread that accepts. A connection from an address
in no peer's network is closed at once. Connections are counted, in all and for each address, because each takes a
thread. ``admission`` decides which peer the requestor is, and whether its association is accepted. A thread that
accepts never waits for a peer: the thread of the association does the handshake of TLS, too, so that a handshake that
stands still counts like any other connection.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dicomnode import log
from dicomnode.dimse.budget import ByteBudget
from dicomnode.receive.association import Association, Handlers, Limits
from dicomnode.receive.throttle import Throttle

LOGGER = logging.getLogger(__name__)

BACKLOG = 128
CONNECTIONS_PER_ASSOCIATION = 2  # so that connections without a request take no place of an association
LARGEST_IN_FLIGHT = 2  # objects of the largest size, in all associations; the room of one holds a usual series
RECOVERY_S = 0.1  # wait when file descriptors are out: accept would fail again at once
JOIN_S = 5.0  # wait for the thread, which only has to notice that its socket is closed


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """A socket that listens, and the TLS context, asked for at each connection, with which a peer has to begin."""

    socket: socket.socket
    tls: Callable[[], ssl.SSLContext] | None  # None: plain DICOM

    @property
    def port(self) -> int:
        """The port of the socket, also where the system chose it (port 0)."""
        return int(self.socket.getsockname()[1])


def open_door(host: str, port: int, *, tls: Callable[[], ssl.SSLContext] | None) -> Door:
    """Open a socket that listens at an address. Raises OSError."""
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    is_both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()  # "::" is every address, of IPv4 too
    listening = socket.create_server(address[:2], family=family, backlog=BACKLOG, dualstack_ipv6=is_both)
    return Door(socket=listening, tls=tls)


class Listener:
    """Accepts connections, on a thread for each door, until it is closed."""

    def __init__(
        self, doors: Sequence[Door], limits: Limits, handlers: Handlers, *, is_near: Callable[[str], bool]
    ) -> None:
        """Take over open doors. ``is_near`` tells whether an address is in a peer's network."""
        self._limits = limits
        self._handlers = handlers
        self._is_near = is_near
        self.budget = ByteBudget(LARGEST_IN_FLIGHT * limits.instance_bytes, turn_s=limits.pdu_timeout_s)
        self._throttle = Throttle()
        self._associations: list[Association] = []
        self._lock = threading.RLock()
        self._is_closing = False
        self._doors = tuple(doors)
        self._threads = [
            threading.Thread(target=self._run, args=(door,), name="listener", daemon=True) for door in doors
        ]

    def start(self) -> None:
        """Begin to accept."""
        for thread in self._threads:
            thread.start()

    def live(self) -> list[Association]:
        """List every association whose thread runs, established or not."""
        with self._lock:
            self._associations = [one for one in self._associations if one.is_alive()]
            return list(self._associations)

    def close(self) -> None:
        """Stop listening; associations go on."""
        self._is_closing = True
        for door in self._doors:
            with contextlib.suppress(OSError):
                door.socket.shutdown(socket.SHUT_RDWR)  # this wakes the thread, which closing would not
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(JOIN_S)
        for door in self._doors:
            door.socket.close()

    def _run(self, door: Door) -> None:
        while not self._is_closing:
            try:
                connected, address = door.socket.accept()
            except OSError as exc:
                if self._is_closing:
                    return
                if exc.errno in (errno.EMFILE, errno.ENFILE):
                    self._say("no_descriptors", "accept")
                    time.sleep(RECOVERY_S)
                continue
            try:
                self._begin(connected, str(address[0]), door)
            except Exception:  # noqa: BLE001 (border: one connection)
                log.failure(LOGGER, "connection_failed", address=str(address[0]))
                connected.close()

    def _begin(self, connected: socket.socket, address: str, door: Door) -> None:
        """Start an association on this connection, or close it: an unknown address, or too many connections."""
        if not self._is_near(address):
            self._say("stranger_closed", address)
            connected.close()
            return
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        tls = door.tls() if door.tls is not None else None
        # Counted and begun in one step: two doors cannot both give the last place away. And an association that runs
        # without being listed would not be counted, nor waited for at a stop.
        with self._lock:
            is_full = self._is_full(address) and not self._drop_handshake(address)
            if not is_full:
                association = Association(connected, address, self._limits, self.budget, self._handlers, tls=tls)
                association.start()
                self._associations.append(association)
        if is_full:
            self._say("connections_exhausted", address)
            connected.close()

    def _is_full(self, address: str) -> bool:
        live = self.live()
        from_there = sum(one.address == address for one in live)
        return (
            from_there >= CONNECTIONS_PER_ASSOCIATION * self._limits.per_address
            or len(live) >= CONNECTIONS_PER_ASSOCIATION * self._limits.associations
        )

    def _drop_handshake(self, address: str) -> bool:
        """End the handshake of TLS that began first, and return whether there is room now.

        A handshake takes milliseconds. One that stands still must not keep out a peer, whose own handshake is over
        before it is the oldest. Handshakes from the same address are ended first.
        """
        shaking = [one for one in self._associations if one.is_shaking_hands]
        if not shaking:
            return False
        dropped = min(shaking, key=lambda one: one.address != address)
        dropped.cut()
        self._associations.remove(dropped)  # its thread ends by itself
        self._say("handshake_dropped", dropped.address)
        return not self._is_full(address)

    def _say(self, name: str, address: str) -> None:
        if count := self._throttle.count(f"{name} {address}"):
            log.event(LOGGER, name, level=logging.WARNING, address=address, count=count)
