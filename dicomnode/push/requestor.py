"""How pynetdicom 3 is brought to negotiate for us, and to leave the association to ``exchange`` then.

Three private names of the library are leaned on, ``AE._create_socket``, ``AssociationSocket._shutdown_socket`` and
``Association._kill``; tests/push/test_scu.py fails when a new version changes them.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from ssl import SSLContext

from pydicom.uid import UID
from pynetdicom import AE, _config
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_RJ
from pynetdicom.pdu_primitives import MaximumLengthNotification
from pynetdicom.transport import AddressInformation, AssociationSocket

from dicomnode import wire
from dicomnode.ids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, AeTitle
from dicomnode.push.exchange import Exchange
from dicomnode.settings import PushSettings

_config.LOG_HANDLER_LEVEL = "none"  # the library's own handlers format every PDU for its log, patient text and all


class Heard:
    """What the peer said before the end; the library keeps it for the shortest of times."""

    def __init__(self) -> None:
        self.abort = ""
        self.rejection: wire.Rejection | None = None

    def listen(self, event: Event) -> None:
        """Runs in the library's thread, before whoever waits for a response is woken."""
        if isinstance(event.pdu, A_ABORT_RQ):
            self.abort = f"source {event.pdu.source}, reason {event.pdu.reason_diagnostic}"
        elif isinstance(event.pdu, A_ASSOCIATE_RJ):
            numbers = event.pdu.result, event.pdu.source, event.pdu.reason_diagnostic
            self.rejection = wire.rejection(*(number or 0 for number in numbers))


class _Socket(AssociationSocket):
    """Remembers why it could not connect, and is closed then too.

    The library logs the reason, shuts down a socket that was never connected, fails, and so never closes it.
    """

    failure: OSError | None = None

    def _shutdown_socket(self) -> None:
        if isinstance(reason := sys.exception(), OSError):
            self.failure = reason
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
            self.socket.close()


class _Entity(AE):
    def _create_socket(
        self, assoc: Association, address: AddressInformation, tls_args: tuple[SSLContext, str] | None
    ) -> AssociationSocket:
        assert tls_args is None, "TLS is not built yet"
        return _Socket(assoc, address=address)


def entity(ae_title: AeTitle, push: PushSettings) -> AE:
    """Our side of an association, with its limits."""
    entity = _Entity(ae_title=ae_title)
    entity.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = push.connect_timeout_s
    entity.acse_timeout = push.connect_timeout_s
    entity.dimse_timeout = push.response_timeout_s
    entity.network_timeout = None  # never idle by accident: between two requests stands one commit of the ledger
    return entity


def set_socket_options(event: Event, response_timeout_s: float) -> None:
    """No Nagle: a small command PDU before the data costs a delayed ACK on each instance (2 to 6 times, NODE 3.5).

    The time limit frees the library's thread from a peer that stops in the middle of a PDU, reading or writing.
    """
    wrapped = event.assoc.dul.socket
    assert wrapped is not None
    assert wrapped.socket is not None
    wrapped.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    wrapped.socket.settimeout(response_timeout_s)


def take_over(association: Association, *, response_timeout_s: float) -> Exchange | None:
    """End both threads of the library on an established association, and talk over its socket from then on.

    The one takes messages off the association that are ours (MEASURED at a load of 8 on two cores: 2 of about 600
    responses), the other looks for work every millisecond. None: the peer ended it in the moment before.
    """
    association._kill = True  # looked at every millisecond; ``kill()`` would end the connection too
    association.join()
    association.dul.kill_dul()
    association.dul.join()
    wrapped = association.dul.socket
    assert wrapped is not None
    if wrapped.socket is None:
        return None
    if association.acse.is_release_requested():
        wrapped.socket.close()
        return None
    return Exchange(
        wrapped.socket, maximum_pdu_bytes=maximum_pdu_bytes(association), response_timeout_s=response_timeout_s
    )


def maximum_pdu_bytes(association: Association) -> int:
    """The longest PDU that the peer takes; one of ours for a peer without limit (0, or none told: PS3.8 Annex D.1)."""
    items = association.acceptor.user_information
    told = next((item for item in items if isinstance(item, MaximumLengthNotification)), None)
    return (told.maximum_length_received if told else 0) or wire.MAXIMUM_PDU_BYTES


def connect_failure(association: Association) -> OSError | None:
    """Why there was no connection; None where there was one."""
    wrapped = association.dul.socket
    return wrapped.failure if isinstance(wrapped, _Socket) else None
