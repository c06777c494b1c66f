"""One visitor: his socket, his two threads, and what he may take of us.

pynetdicom reads a PDU of any length into memory, waits for the rest of one without end, and queues as many objects as
a peer cares to send (measured on 3.0.4). Here a PDU is whole within a deadline and no longer than agreed, a dataset
has a largest size, and a peer that does not wait for answers is stopped by TCP, all of it before the first valid PDU
as well as after.

The library creates its objects itself: ``door`` exchanges their classes for these right after, which is the one place
that leans on its insides. ``tests/receive/test_door.py`` fails where a new version changes them.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import queue
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import C_STORE, DimseServiceType
from pynetdicom.dul import DULServiceProvider
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.transport import AssociationSocket

from dicomnode import log
from dicomnode.ids import SeriesId
from dicomnode.receive.wakeful import TICK_S, AnnouncedQueue, Bell
from dicomnode.settings import PeerSettings
from dicomnode.wire import VERIFICATION

LOGGER = logging.getLogger(__name__)

CONTROL_PDU_BYTES = 65536  # every PDU but P-DATA-TF; a request for 128 contexts of seven syntaxes has about 30 kB
WAITING_OBJECTS = 1  # besides the one being stored: enough to keep a pipelining peer busy, two objects in memory
JOIN_S = 5.0  # for a thread that only has to see that it is over

_HEADER_BYTES = 6  # PDU type, reserved, 32-bit length (PS3.8 section 9.3.1)
_PDU_TYPES = range(1, 8)
_ASSOCIATE_RQ, _P_DATA = 1, 4
_PDV_HEADER_BYTES = 6  # some peers count it on top of the maximum length, some within (PS3.8 Annex D.1.1)

# A-ABORT with source and reason (PS3.8 Table 9-26). Source 0 is the operator's stop; all else is the provider's.
_ABORT_BY_USER = b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00"
_ABORT_UNSPECIFIED = b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x00"
_ABORT_UNRECOGNISED = b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x01"
_ABORT_UNEXPECTED = b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x02"
_ABORT_INVALID = b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x06"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one visitor, and all together, may take."""

    pdu_bytes: int
    instance_bytes: int
    associations: int
    per_address: int
    associate_timeout_s: float
    pdu_timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociateRequest:
    """What a visitor says of himself, from the bytes: the library drops letters that are not ASCII from a title."""

    called: str | None  # None: not an AE title at all (PS3.5 section 6.2)
    calling: str | None
    is_version_1: bool


class DoorSocket(AssociationSocket):
    """Reads whole PDUs: bounded in length and time, and only while there is room for another object."""

    limits: Limits
    request: AssociateRequest | None
    connection: socket.socket
    bell: Bell
    _deadline: float
    _pdu_type: int | None

    def guard(self, limits: Limits, connection: socket.socket, bell: Bell) -> None:
        """Set up what the library's constructor knows nothing of."""
        self.limits = limits
        self.request = None
        self.connection = connection  # the library forgets its own when it closes, even where closing failed
        self.bell = bell
        self._deadline = time.monotonic() + limits.associate_timeout_s
        self._pdu_type = None
        connection.settimeout(limits.pdu_timeout_s)

    @property
    def ready(self) -> bool:
        """Wait for something to read while there is room for it; if there is none, TCP holds the peer back."""
        has_room = self.assoc.dimse.msg_queue.qsize() < WAITING_OBJECTS
        limit_s = TICK_S if self.event_queue.empty() else 0.0  # an event of before is still to be acted on
        try:
            return self.bell.wait(self.connection if has_room and self._is_connected else None, limit_s)
        except (OSError, ValueError):  # closed by another thread of ours
            self.event_queue.put("Evt17")
            return False

    def recv(self, nr_bytes: int) -> bytearray:
        """The next part of a PDU: the library asks for the six bytes of the header first, then for the rest."""
        if self._pdu_type is None:
            if self.request is not None:
                self._deadline = time.monotonic() + self.limits.pdu_timeout_s
            header = self._read(nr_bytes)
            if len(header) == _HEADER_BYTES:
                self._pdu_type = self._expected_type(header[0])
            return header
        pdu_type, self._pdu_type = self._pdu_type, None
        self._refuse_beyond_limits(pdu_type, nr_bytes)
        body = self._read(nr_bytes)
        if pdu_type == _ASSOCIATE_RQ and self.request is None:
            self.request = _take_request(body)
        return body

    def send(self, bytestream: bytes) -> None:
        """Send a PDU; the library aborts as if the operator had, whatever the cause."""
        is_dismissed = isinstance(self.assoc, DoorAssociation) and self.assoc.is_dismissed
        super().send(_ABORT_UNSPECIFIED if bytestream == _ABORT_BY_USER and not is_dismissed else bytestream)

    def cut(self) -> None:
        """End the connection now, whatever a thread is reading or writing."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _expected_type(self, pdu_type: int) -> int:
        """The type of a PDU that may come now; raises OSError, the peer having been told, for any other."""
        if pdu_type not in _PDU_TYPES:
            self.tell(_ABORT_UNRECOGNISED)
            raise OSError(errno.EPROTO, "not a PDU")
        if self.request is None and pdu_type != _ASSOCIATE_RQ:
            self.tell(_ABORT_UNEXPECTED)
            raise OSError(errno.EPROTO, "a PDU before the association")
        return pdu_type

    def tell(self, pdu: bytes) -> None:
        """Send a last PDU past the state machine, if the peer still listens."""
        with contextlib.suppress(OSError):
            self.connection.sendall(pdu)

    def _refuse_beyond_limits(self, pdu_type: int, length: int) -> None:
        message = self.assoc.dimse.message
        held = message.encoded_command_set.tell() if message else 0
        if message and message.data_set:
            held += message.data_set.tell()
        most = self.limits.pdu_bytes + _PDV_HEADER_BYTES if pdu_type == _P_DATA else CONTROL_PDU_BYTES
        if length <= most and held <= self.limits.instance_bytes:
            return
        self.tell(_ABORT_INVALID)
        what = "pdu_too_long" if length > most else "object_too_large"
        log.event(LOGGER, what, level=logging.WARNING, bytes=max(length, held), address=address_of(self.assoc))
        raise OSError(errno.EMSGSIZE, "a PDU or object is longer than agreed")

    def _read(self, nr_bytes: int) -> bytearray:
        """So many bytes, or fewer where the peer closed; raises TimeoutError at the deadline."""
        content = bytearray(nr_bytes)
        view = memoryview(content)
        got = 0
        try:
            while got < nr_bytes:
                left_s = self._deadline - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError("a PDU was not whole within its time")
                self.connection.settimeout(left_s)
                count = self.connection.recv_into(view[got:])
                if not count:
                    break
                got += count
        finally:
            view.release()
            self.connection.settimeout(self.limits.pdu_timeout_s)
        del content[got:]
        return content


class DoorProvider(DULServiceProvider):
    """The library's reading thread, which must not die with a traceback for what a peer sent."""

    bell: Bell

    def guard(self, bell: Bell) -> None:
        """Set up what the library's constructor knows nothing of."""
        self.bell = bell
        self._run_loop_delay = 0.0  # ``DoorSocket.ready`` waits instead
        self.to_provider_queue = AnnouncedQueue(bell.ring)
        self.to_user_queue = AnnouncedQueue(self._wake_association)

    def kill_dul(self) -> None:
        """End the thread soon."""
        super().kill_dul()
        self.bell.ring()

    def stop_dul(self) -> bool:
        """End the thread if the connection is idle, and wait for that; True if it was."""
        if self.state_machine.current_state != "Sta1":
            return False
        self.kill_dul()
        self.join(JOIN_S)
        return not self.is_alive()

    def run(self) -> None:
        """Run until the connection ends; tell the association's thread, which would wait for its timer otherwise."""
        try:
            super().run()
        except Exception as exc:  # noqa: BLE001 - a border: the state machine raises what a peer's bytes made it raise
            error = type(exc).__name__
            log.event(LOGGER, "association_broken", level=logging.WARNING, error=error, address=address_of(self.assoc))
            if isinstance(self.socket, DoorSocket):
                self.socket.tell(_ABORT_INVALID)
        finally:
            self.to_user_queue.put(None)  # "no primitive came", as after its time-out

    def _wake_association(self) -> None:
        self.assoc.dimse.msg_queue.put((None, None))


class DoorMessages(DIMSEServiceProvider):
    """The library's queue of messages: its reader waits for the next one, and says when there is room again."""

    def get_msg(self, block: bool = False) -> tuple[None, None] | tuple[int, DimseServiceType]:
        """The next message, or nothing after a tick, a release or an abort."""
        if block:
            return super().get_msg(block)
        try:
            item = self.msg_queue.get(timeout=TICK_S)
        except queue.Empty:
            return None, None
        assert isinstance(self.dul, DoorProvider)
        self.dul.bell.ring()
        return item


class DoorAssociation(Association):
    """One visitor: who he is, and which series he stored into."""

    peer: PeerSettings | None
    series: dict[str, SeriesId]  # of this association, by Series Instance UID
    stored: int  # answers 0000
    is_dismissed: bool  # by an operator who stops the node
    _closed: Callable[[DoorAssociation], None]

    def guard(self, closed: Callable[[DoorAssociation], None]) -> None:
        """Set up what the library's constructor knows nothing of."""
        self.peer = None
        self.series = {}
        self.stored = 0
        self.is_dismissed = False
        self._closed = closed

    def run(self) -> None:
        """Run until the association ends, in whatever way; then say so, once."""
        try:
            super().run()
        finally:
            if isinstance(self.dul.socket, DoorSocket):
                self.dul.socket.connection.close()
                self.dul.socket.bell.close()
            self._closed(self)

    def _serve_request(self, msg: DimseServiceType, context_id: int) -> None:
        """Give every C-STORE on a storage context an answer.

        The library aborts where it does not know the SOP class of the command and is silent where the command lacks
        a UID; either ends the series at the sender.
        """
        context = self._accepted_cx.get(context_id)
        if (
            isinstance(msg, C_STORE)
            and msg.MessageID is not None
            and context is not None
            and context.abstract_syntax != VERIFICATION
        ):
            self._is_paused = True
            StorageServiceClass(self).SCP(msg, context)
            self._is_paused = False
        else:
            super()._serve_request(msg, context_id)


def address_of(association: Association) -> str:
    """Where the visitor comes from."""
    return association.requestor.address_info.address if association.requestor.address_info else ""


def _take_request(body: bytearray) -> AssociateRequest:
    """Read version and titles of an A-ASSOCIATE-RQ, and put harmless ones in their place.

    So the request reaches ``admission`` whatever they are, to be refused there with the right code: the library
    rejects a version with more bits than the lowest (PS3.8 section 9.3.2 has only that one tested) and aborts at an
    empty title.
    """
    if len(body) < 68:  # PS3.8 Table 9-11: the fixed part
        return AssociateRequest(called=None, calling=None, is_version_1=False)
    request = AssociateRequest(
        called=_title(bytes(body[4:20])), calling=_title(bytes(body[20:36])), is_version_1=bool(body[1] & 1)
    )
    body[0:2] = b"\x00\x01"
    if request.called is None:
        body[4:20] = b"?".ljust(16)
    if request.calling is None:
        body[20:36] = b"?".ljust(16)
    return request


def _title(field: bytes) -> str | None:
    if any(byte < 0x20 or byte > 0x7E or byte == 0x5C for byte in field):
        return None
    return field.decode("ascii").strip(" ") or None
