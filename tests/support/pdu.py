"""The upper layer and DIMSE by hand, so that a test can send what no library would (PS3.8 section 9.3, PS3.7 E.1)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
VERIFICATION = "1.2.840.10008.1.1"
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"

ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RP, ABORT = 2, 3, 4, 6, 7
RELEASE_RQ_BYTES = b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00"
ABORT_BYTES = b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00"
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pdu:
    """A PDU that came: its type and what follows its length."""

    kind: int
    body: bytes

    @property
    def code(self) -> tuple[int, ...]:
        """The numbers of a rejection (result, source, reason) or of an abort (source, reason)."""
        return tuple(self.body[1:4]) if self.kind == ASSOCIATE_RJ else tuple(self.body[2:4])


Context = tuple[int, str, Sequence[str]]
STANDARD_CONTEXTS: Sequence[Context] = (
    (1, VERIFICATION, [IMPLICIT]),
    (3, MR_IMAGE, [EXPLICIT]),
    (5, MR_IMAGE, [IMPLICIT]),
)


def associate_rq(
    *,
    called: bytes = b"DICOMNODE",
    calling: bytes = b"TEST",
    contexts: Sequence[Context] = STANDARD_CONTEXTS,
    version: int = 1,
    application_context: bytes = APPLICATION_CONTEXT,
    maximum_length: int = 16384,
    pad: bytes = b" ",
    more_items: bytes = b"",
    more_user_items: bytes = b"",
) -> bytes:
    """An A-ASSOCIATE-RQ; what is ``more`` goes in between as it is."""
    items = item(0x10, application_context) + more_items
    for number, abstract, syntaxes in contexts:
        inner = item(0x30, abstract.encode()) + b"".join(item(0x40, one.encode()) for one in syntaxes)
        items += item(0x20, bytes([number, 0, 0, 0]) + inner)
    items += item(0x50, more_user_items + item(0x51, struct.pack(">L", maximum_length)) + item(0x52, b"1.2.3.4"))
    fixed = struct.pack(">HH", version, 0) + called.ljust(16, pad) + calling.ljust(16, pad) + bytes(32)
    return pdu(1, fixed + items)


def pdu(kind: int, body: bytes) -> bytes:
    """Any PDU."""
    return struct.pack(">BxL", kind, len(body)) + body


def p_data(context: int, content: bytes, *, is_command: bool, is_last: bool = True) -> bytes:
    """A P-DATA-TF with one presentation data value."""
    return pdu(4, struct.pack(">LBB", len(content) + 2, context, is_command | is_last << 1) + content)


def command(*elements: tuple[int, bytes]) -> bytes:
    """A command set: implicit little endian, group length first (PS3.7 section 6.3.1)."""
    body = b"".join(struct.pack("<HHL", 0, number, len(value)) + value for number, value in elements)
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def uid_bytes(uid: str) -> bytes:
    """A UID padded to even length."""
    raw = uid.encode()
    return raw + b"\0" * (len(raw) % 2)


def c_echo_rq(message: int = 1) -> bytes:
    """The command set of a C-ECHO request."""
    return command((2, uid_bytes(VERIFICATION)), (0x100, _us(0x30)), (0x110, _us(message)), (0x800, _us(0x0101)))


def c_store_rq(
    sop_class: str,
    sop_instance: str,
    *,
    message: int = 1,
    has_dataset: bool = True,
    instead: Mapping[int, bytes | None] | None = None,
) -> bytes:
    """The command set of a C-STORE request; ``instead``: other values of elements, None for none at all."""
    values: dict[int, bytes | None] = {
        2: uid_bytes(sop_class),
        0x100: _us(1),
        0x110: _us(message),
        0x700: _us(0),
        0x800: _us(0 if has_dataset else 0x0101),
        0x1000: uid_bytes(sop_instance),
    }
    values |= instead or {}
    return command(*((number, value) for number, value in sorted(values.items()) if value is not None))


class RawClient:
    """A connection that sends whatever it likes and reads whole PDUs."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def send(self, content: bytes) -> None:
        """Raw bytes."""
        self.connection.sendall(content)

    def receive(self) -> Pdu | None:
        """The next PDU; nothing when the node closed the connection."""
        try:
            head = self._exactly(6)
            kind, length = struct.unpack(">BxL", head)
            return Pdu(kind=kind, body=self._exactly(length))
        except (ConnectionError, EOFError):
            return None

    def is_closed(self) -> bool:
        """Has the node closed without a PDU? Waits for whichever comes."""
        return self.receive() is None

    def associate(self, request: bytes | None = None) -> Pdu | None:
        """Ask for an association; the answer."""
        self.send(associate_rq() if request is None else request)
        return self.receive()

    def echo(self) -> int:
        """C-ECHO; its status."""
        self.send(p_data(1, c_echo_rq(), is_command=True))
        return self.status()

    def store(
        self, sop_class: str, sop_instance: str, dataset: bytes, *, context: int = 3, pdv_bytes: int = 16000
    ) -> int:
        """C-STORE; its status."""
        self.send(store_pdus(sop_class, sop_instance, dataset, context=context, pdv_bytes=pdv_bytes))
        return self.status()

    def status(self) -> int:
        """The status of the next response."""
        answer = self.receive()
        assert answer is not None, "the node closed the connection"
        assert answer.kind == P_DATA, f"PDU type {answer.kind}, code {answer.code}"
        at = answer.body.index(struct.pack("<HHL", 0, 0x900, 2))
        return int(struct.unpack_from("<H", answer.body, at + 8)[0])

    def release(self) -> None:
        """End the association in order."""
        self.send(RELEASE_RQ_BYTES)
        answer = self.receive()
        assert answer is not None
        assert answer.kind == RELEASE_RP
        self.connection.close()

    def _exactly(self, count: int) -> bytes:
        content = b""
        while len(content) < count:
            more = self.connection.recv(count - len(content))
            if not more:
                raise EOFError
            content += more
        return content


def store_pdus(
    sop_class: str, sop_instance: str, dataset: bytes, *, context: int = 3, pdv_bytes: int = 16000, message: int = 1
) -> bytes:
    """A whole C-STORE request as it goes over the wire."""
    parts = [p_data(context, c_store_rq(sop_class, sop_instance, message=message), is_command=True)]
    starts = range(0, max(len(dataset), 1), pdv_bytes)
    for start in starts:
        is_last = start == starts[-1]
        parts.append(p_data(context, dataset[start : start + pdv_bytes], is_command=False, is_last=is_last))
    return b"".join(parts)


@contextmanager
def raw_client(port: int, *, source: str = "127.0.0.1", timeout_s: float = TIMEOUT_S) -> Iterator[RawClient]:
    """A connection from an address of this machine; all of 127.0.0.0/8 is."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s, source_address=(source, 0)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield RawClient(connection)


def item(kind: int, content: bytes) -> bytes:
    """An item or sub-item of an association PDU."""
    return struct.pack(">BxH", kind, len(content)) + content


def _us(value: int) -> bytes:
    return struct.pack("<H", value)
