"""Requests and responses on an established association, straight over its socket: PS3.8 section 9.3, PS3.7 section 9.3.

The library negotiates; what follows is three kinds of PDU, and its two threads, which look for work every so often
and hand each message from one to the other, would be half of what an instance takes. Here the thread that sends is
the one that waits: one write, one read, no polling. Every wait has a limit, and nothing here raises for what a peer
does or fails to do.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.datadict import keyword_for_tag
from pydicom.tag import Tag

from dicomnode.push.outcome import Outcome, Reason

C_STORE_RQ, C_ECHO_RQ = 0x0001, 0x0030  # PS3.7 Annex E.1
_RESPONSE = 0x8000  # set in the command field of a response
_NO_DATASET, _DATASET = 0x0101, 0x0001  # (0000,0800)
_MEDIUM = 0x0000  # (0000,0700)
_MESSAGE_IDS = 0xFFFF  # PS3.7 section 9.1.1.1: 16 bits

_P_DATA, _RELEASE_RQ, _RELEASE_RP, _ABORT = 0x04, 0x05, 0x06, 0x07  # PS3.8 Table 9-1 and following
_PDU = struct.Struct(">BxL")
_PDV = struct.Struct(">LBB")  # length of the rest, context, control header (PS3.8 Annex E)
_IS_COMMAND, _IS_LAST = 0x01, 0x02
_ELEMENT = struct.Struct("<HHL")  # of a command set: implicit VR little endian, whatever was agreed
_SMALLEST_FRAGMENT = 64  # of a peer that asks for less than a command set
_PDU_LIMIT_BYTES = 2**20  # of what a peer sends; a response has a hundred bytes
_COMMAND_LIMIT_BYTES = 2**16
_ABORT_WAIT_S = 0.2  # for a write that is about to end
_WRITE_BYTES = 2**18  # PDUs of 16 KiB, as many peers want them, go out so many at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pdu:
    kind: int
    content: bytes


class Exchange:
    """An association after its negotiation. One thread uses it; only ``abort`` may come from another."""

    def __init__(self, connected: socket.socket, *, maximum_pdu_bytes: int, response_timeout_s: float) -> None:
        """``maximum_pdu_bytes``: the longest that the peer takes, by the count of PS3.8 Annex D.1."""
        self._socket = connected
        # Even, since a fragment of odd length is not allowed (PS3.8 Annex E.2 by PS3.5 section 7.1).
        self._fragment_bytes = max(maximum_pdu_bytes - 6, _SMALLEST_FRAGMENT) & ~1
        self._timeout_s = response_timeout_s
        self._message_id = 0
        self._ended: Outcome | None = None
        self._in_use = threading.Lock()  # by a request
        self._writing = threading.Lock()
        connected.settimeout(response_timeout_s)

    def request(
        self,
        field: int,
        context_id: int,
        sop_class_uid: str,
        *,
        instance_uid: str = "",
        dataset: memoryview | None = None,
    ) -> Outcome:
        """Send a C-STORE or C-ECHO and wait for its response; once the association has ended, say how."""
        with self._in_use:
            return self._request(field, context_id, sop_class_uid, instance_uid, dataset)

    def _request(
        self, field: int, context_id: int, sop_class_uid: str, instance_uid: str, dataset: memoryview | None
    ) -> Outcome:
        if self._ended is None and (came := self._unasked()) is not None:
            self._end(came)
        if self._ended is not None:
            return self._ended
        self._message_id = self._message_id % _MESSAGE_IDS + 1
        command = _command(field, self._message_id, sop_class_uid, instance_uid, has_dataset=dataset is not None)
        began_s = time.monotonic()
        try:
            with self._writing:
                self._write(context_id, command, dataset)
            answer = self._answer(field, until_s=time.monotonic() + self._timeout_s)
        except TimeoutError:
            answer = Outcome(reason=Reason.NO_RESPONSE, detail=f"{time.monotonic() - began_s:.0f} s")
        except OSError:
            answer = Outcome(reason=Reason.LOST)
        return answer if answer.status is not None else self._end(answer)

    def release(self, limit_s: float) -> None:
        """End in order; a peer that does not answer within the limit is aborted."""
        if self._ended is not None:
            self._close()
            return
        self._ended = Outcome(reason=Reason.LOST, detail="the node released it")
        until_s = time.monotonic() + limit_s
        try:
            with self._writing:
                self._socket.sendall(_pdu(_RELEASE_RQ))
            while (pdu := self._read(until_s)) is not None and pdu.kind not in (_RELEASE_RP, _ABORT):
                if pdu.kind == _RELEASE_RQ:  # both at once (PS3.8 section 7.2.2.7): the requestor answers first
                    self._socket.sendall(_pdu(_RELEASE_RP))
        except OSError:
            self._send_abort()
        self._close()

    def abort(self) -> None:
        """End at once (A-ABORT 0/0): a request that waits for its response ends too."""
        self._ended = self._ended or Outcome(reason=Reason.LOST, detail="the node ended it")
        self._send_abort()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes whoever reads or writes; closing it would not
        if self._in_use.acquire(blocking=False):  # else it is closed by whoever uses it
            self._close()
            self._in_use.release()

    def _end(self, outcome: Outcome) -> Outcome:
        """The first ending stands; the peer is told of it where it does not know."""
        if self._ended is None:
            self._ended = outcome
            if outcome.reason is not Reason.ABORTED:
                self._send_abort()
        self._close()
        return self._ended

    def _send_abort(self) -> None:
        if self._writing.acquire(timeout=_ABORT_WAIT_S):  # else a PDU is half out, and nothing can be said any more
            try:
                self._socket.settimeout(0)
                self._socket.sendall(_pdu(_ABORT))
            except OSError:
                pass
            finally:
                self._writing.release()

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _unasked(self) -> Outcome | None:
        """What the peer said between two requests: it may release or abort, or be gone."""
        try:
            if not select.select([self._socket], [], [], 0)[0]:
                return None
            pdu = self._read(time.monotonic() + self._timeout_s)
        except (OSError, ValueError):  # ValueError: closed by ``abort``
            return Outcome(reason=Reason.LOST)
        return self._ending(pdu) or _ILLEGAL

    def _ending(self, pdu: _Pdu | None) -> Outcome | None:
        if pdu is None:
            return Outcome(reason=Reason.LOST)
        if pdu.kind == _ABORT:
            source, reason = pdu.content[2:4] if len(pdu.content) >= 4 else (0, 0)
            return Outcome(reason=Reason.ABORTED, detail=f"source {source}, reason {reason}")
        if pdu.kind == _RELEASE_RQ:
            with contextlib.suppress(OSError):
                self._socket.sendall(_pdu(_RELEASE_RP))
            return Outcome(reason=Reason.LOST, detail="the peer released the association")
        return None

    def _write(self, context_id: int, command: bytes, dataset: memoryview | None) -> None:
        self._socket.settimeout(self._timeout_s)
        waiting = bytearray()
        for part in _p_data(context_id, command, self._fragment_bytes, _IS_COMMAND):
            waiting += part
        for part in _p_data(context_id, dataset or b"", self._fragment_bytes, 0):
            waiting += part
            if len(waiting) >= _WRITE_BYTES:
                self._socket.sendall(waiting)
                waiting.clear()
        self._socket.sendall(waiting)

    def _answer(self, field: int, *, until_s: float) -> Outcome:
        command = b""
        while True:
            pdu = self._read(until_s)
            if (ending := self._ending(pdu)) is not None:
                return ending
            assert pdu is not None, "an end of the stream is an ending"
            if pdu.kind != _P_DATA:
                return _ILLEGAL
            is_last = False
            for control, fragment in _fragments(pdu.content):
                if not control & _IS_COMMAND or is_last or len(command) + len(fragment) > _COMMAND_LIMIT_BYTES:
                    return _ILLEGAL
                command += fragment
                is_last = bool(control & _IS_LAST)
            if is_last:
                return self._outcome(_elements(command), field)

    def _outcome(self, elements: dict[int, bytes], field: int) -> Outcome:
        said = {number: _number(elements.get(number, b"")) for number in (0x0100, 0x0120, 0x0900)}
        if said[0x0100] != field | _RESPONSE or said[0x0120] != self._message_id or said[0x0900] is None:
            return _ILLEGAL
        tags = elements.get(0x0901, b"")
        pairs = struct.iter_unpack("<HH", tags[: len(tags) // 4 * 4])
        return Outcome(
            reason=Reason.ANSWERED,
            status=said[0x0900],
            offending=tuple(keyword_for_tag(Tag(group, element)) for group, element in pairs),
        )

    def _read(self, until_s: float) -> _Pdu | None:
        """One PDU; None at the end of the stream. Raises OSError, TimeoutError among it."""
        if (head := self._read_exactly(_PDU.size, until_s)) is None:
            return None
        kind, length = _PDU.unpack(head)
        if length > _PDU_LIMIT_BYTES:
            return _Pdu(kind=0, content=b"")  # no kind that anybody expects
        content = self._read_exactly(length, until_s)
        return None if content is None else _Pdu(kind=kind, content=content)

    def _read_exactly(self, size: int, until_s: float) -> bytes | None:
        parts = bytearray()
        while len(parts) < size:
            self._socket.settimeout(max(until_s - time.monotonic(), 0.001))
            part = self._socket.recv(size - len(parts))
            if not part:
                return None
            parts += part
        return bytes(parts)


_ILLEGAL = Outcome(reason=Reason.LOST, detail="the peer sent a message that is not legal here")


def _command(field: int, message_id: int, sop_class_uid: str, instance_uid: str, *, has_dataset: bool) -> bytes:
    """The command set of a request (PS3.7 Tables 9.3-1 and 9.3-12)."""
    elements = [
        _element(0x0002, _uid(sop_class_uid)),
        _element(0x0100, struct.pack("<H", field)),
        _element(0x0110, struct.pack("<H", message_id)),
    ]
    if field == C_STORE_RQ:
        elements.append(_element(0x0700, struct.pack("<H", _MEDIUM)))
    elements.append(_element(0x0800, struct.pack("<H", _DATASET if has_dataset else _NO_DATASET)))
    if field == C_STORE_RQ:
        elements.append(_element(0x1000, _uid(instance_uid)))
    command = b"".join(elements)
    return _element(0x0000, struct.pack("<L", len(command))) + command


def _element(number: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0x0000, number, len(value)) + value


def _uid(uid: str) -> bytes:
    text = uid.encode("ascii")
    return text + b"\0" * (len(text) % 2)


def _pdu(kind: int, content: bytes = bytes(4)) -> bytes:
    return _PDU.pack(kind, len(content)) + content


def _p_data(context_id: int, message: bytes | memoryview, fragment_bytes: int, control: int) -> Iterator[bytes]:
    """One part of a message as P-DATA-TF PDUs of one fragment each (PS3.8 section 9.3.5)."""
    for at in range(0, len(message), fragment_bytes):
        fragment = message[at : at + fragment_bytes]
        last = _IS_LAST if at + fragment_bytes >= len(message) else 0
        head = _PDU.pack(_P_DATA, len(fragment) + _PDV.size) + _PDV.pack(len(fragment) + 2, context_id, control | last)
        yield b"".join((head, fragment))


def _fragments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Control header and bytes of each fragment; what does not add up is left out, and the message never complete."""
    at = 0
    while at + _PDV.size <= len(content):
        length, _, control = _PDV.unpack_from(content, at)
        if length < 2:
            return
        yield control, content[at + _PDV.size : at + 4 + length]
        at += 4 + length


def _elements(command: bytes) -> dict[int, bytes]:
    """The values of a command set, by element number of group 0000."""
    elements: dict[int, bytes] = {}
    at = 0
    while at + _ELEMENT.size <= len(command):
        group, number, length = _ELEMENT.unpack_from(command, at)
        at += _ELEMENT.size
        if group == 0x0000:
            elements[number] = command[at : at + length]
        at += length
    return elements


def _number(value: bytes) -> int | None:
    return int.from_bytes(value[:2], "little") if len(value) >= 2 else None
