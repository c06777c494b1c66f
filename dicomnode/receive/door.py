"""Who may come in at all: addresses, counts, and nothing that a silent client could make wait.

An address of no peer is closed at accept; addresses and sockets are counted, because each costs two threads. Who the
visitor is, and whether the disk has room for him, is ``admission``'s matter; what he may take, ``visitor``'s.
"""

from __future__ import annotations

import errno
import gc
import logging
import socket
import threading
import time
from collections.abc import Callable
from ssl import SSLContext
from typing import Any, ClassVar

from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationServer, RequestHandler

from dicomnode import log
from dicomnode.receive.throttle import Throttle
from dicomnode.receive.visitor import (
    DoorAssociation,
    DoorMessages,
    DoorProvider,
    DoorSocket,
    Limits,
    address_of,
)
from dicomnode.receive.wakeful import Bell

LOGGER = logging.getLogger(__name__)

OVERBOOKING = 2  # sockets that have not asked for anything yet do not take the place of associations
GARBAGE_INTERVAL_S = 30.0
RECOVERY_S = 0.1  # out of file descriptors: accept would fail again at once


class DoorHandler(RequestHandler):
    """Makes the association of one accepted connection, with our classes in place of the library's."""

    server: Door
    _CLASSES: ClassVar[tuple[type, ...]] = (DoorAssociation, DoorProvider, DoorMessages, DoorSocket)

    def handle(self) -> None:
        """Start the association's threads, and count it."""
        association = self._create_association()
        association.start()
        self.server.opened(association)

    def _create_association(self) -> DoorAssociation:
        association: Any = super()._create_association()
        parts = (association, association.dul, association.dimse, association.dul.socket)
        for part, ours in zip(parts, self._CLASSES, strict=True):
            part.__class__ = ours
        assert isinstance(association, DoorAssociation)
        assert isinstance(association.dul, DoorProvider)
        assert isinstance(association.dul.socket, DoorSocket)
        bell = Bell()
        association.guard(self.server.closed)
        association.dul.guard(bell)
        association.dul.socket.guard(self.server.limits, self.request, bell)
        return association


class Door(AssociationServer):
    """The listening socket. Associations are begun on its own thread: nothing in that waits for the peer."""

    request_queue_size = 128

    def __init__(
        self,
        ae: ApplicationEntity,
        address: tuple[str, int],
        ae_title: str,
        contexts: list[PresentationContext],
        ssl_context: SSLContext | None = None,
        evt_handlers: list[evt.EventHandlerType] | None = None,
        *,
        limits: Limits,
        is_near: Callable[[str], bool],
        on_closed: Callable[[DoorAssociation], None],
    ) -> None:
        self.limits = limits
        self._is_near = is_near
        self._on_closed = on_closed
        self._associations: list[DoorAssociation] = []
        self._associations_lock = threading.Lock()
        self._throttle = Throttle()
        self._collected_at = time.monotonic()
        super().__init__(ae, address, ae_title, contexts, ssl_context, evt_handlers, request_handler=DoorHandler)

    @property
    def port(self) -> int:
        """The port that the system gave, where 0 was asked for."""
        return int(self.server_address[1])

    def live(self) -> list[DoorAssociation]:
        """Every association whose thread runs, established or not."""
        with self._associations_lock:
            self._associations = [one for one in self._associations if one.is_alive()]
            return list(self._associations)

    def opened(self, association: DoorAssociation) -> None:
        """Count an association whose thread has begun."""
        with self._associations_lock:
            self._associations.append(association)

    def closed(self, association: DoorAssociation) -> None:
        """Called on the thread of an association, as its last act."""
        self._on_closed(association)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept, and nothing that a silent client could make wait."""
        assert self.socket is not None
        try:
            connection, address = self.socket.accept()
        except OSError as exc:
            if exc.errno in (errno.EMFILE, errno.ENFILE):
                self._say("no_descriptors", "accept")
                time.sleep(RECOVERY_S)
            raise
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 - the library's signature
        """May this connection cost us two threads? A stranger's may not, nor one too many of a peer's."""
        address = str(client_address[0])
        if not self._is_near(address):
            self._say("stranger_closed", address)
            return False
        live = self.live()
        from_there = sum(address_of(one) == address for one in live)
        if from_there >= OVERBOOKING * self.limits.per_address or len(live) >= OVERBOOKING * self.limits.associations:
            self._say("connections_exhausted", address)
            return False
        return True

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the library's signature
        """The library prints a traceback to stderr."""
        log.failure(LOGGER, "connection_failed", address=str(client_address[0]))

    def service_actions(self) -> None:
        """Collect the cycles of ended associations, by time: the library counts its polls of any length."""
        now = time.monotonic()
        if now - self._collected_at > GARBAGE_INTERVAL_S:
            self._collected_at = now
            gc.collect()

    def shutdown(self) -> None:
        """Stop listening; associations go on. (The library's also takes itself off a list it never was on.)"""
        super(AssociationServer, self).shutdown()
        self.server_close()

    def _say(self, name: str, address: str) -> None:
        if count := self._throttle.count(f"{name} {address}"):
            log.event(LOGGER, name, level=logging.WARNING, address=address, count=count)
