"""PDUs and DIMSE messages as bytes: PS3.8 section 9.3 and Annex E. No socket, no clock.

Two halves. ``encode_…`` turn a message or a control PDU into bytes. ``PduReader`` is given bytes as they come and
gives back events: a message, a PDU of the association's beginning or end, or a ``Violation`` with the A-ABORT that
the standard has for it. It holds one message at the most, whatever the peer sends, and never more of it than allowed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum

from dicomnode.dimse.commands import CommandSet, decode_command

MAXIMUM_COMMAND_BYTES = 1 << 16  # a real command set has some hundred
CONTROL_PDU_BYTES = 1 << 16  # every PDU but P-DATA-TF; a request for 128 contexts of seven syntaxes has about 30 kB
SMALLEST_PDU_BYTES = 8  # a fragment of two bytes; of a peer that names less
READ_BYTES = 1 << 16  # taken from the socket at once; the buffer of each association

_PDU = struct.Struct(">BxL")  # type, length of the rest (PS3.8 Table 9-11 and following)
_PDV = struct.Struct(">LBB")  # length of the rest, context, message control header (PS3.8 section 9.3.5.1, Annex E)
_PDV_OVERHEAD = 6  # some peers count it on top of the maximum length, some within (PS3.8 Annex D.1.1)
_IS_COMMAND, _IS_LAST = 0x01, 0x02  # bits of the message control header


class PduType(IntEnum):
    """The types of PDUs (PS3.8 section 9.3.1)."""

    ASSOCIATE_RQ = 1
    ASSOCIATE_AC = 2
    ASSOCIATE_RJ = 3
    P_DATA = 4
    RELEASE_RQ = 5
    RELEASE_RP = 6
    ABORT = 7


@dataclass(frozen=True, slots=True, repr=False)
class Message:
    """One DIMSE message that came."""

    context_id: int
    command: CommandSet
    dataset: bytearray | None  # in the transfer syntax of its context


@dataclass(frozen=True, slots=True, repr=False)
class ControlPdu:
    """A PDU that begins or ends an association; ``body``: what follows its length."""

    kind: PduType
    body: bytes

    @property
    def numbers(self) -> tuple[int, int, int]:
        """Result, source and reason of an A-ASSOCIATE-RJ; of an A-ABORT the first one means nothing."""
        first, second, third = self.body[1:4].ljust(3, b"\0")
        return first, second, third


class Flaw(StrEnum):
    """The ways in which a peer's bytes break the protocol, in words for the log."""

    NO_PDU = "bytes that are no PDU"
    PDU_UNEXPECTED = "a PDU that is not legal here"
    PDU_TOO_LONG = "a PDU that is longer than agreed"
    PDU_MALFORMED = "a PDU whose parts do not fit into it"
    COMMAND_MALFORMED = "a command set that cannot be read"
    COMMAND_TOO_LONG = "a command set that is longer than 64 KiB"
    COMMAND_UNEXPECTED = "a command in the middle of a data set"
    DATASET_UNEXPECTED = "a data set without a command"
    CONTEXT_CHANGED = "a message on two presentation contexts"
    OBJECT_TOO_LARGE = "an object that is larger than allowed"
    REQUEST_MALFORMED = "an association request that cannot be read"
    CONTEXT_UNKNOWN = "a message on a presentation context that was not accepted"
    MESSAGE_UNEXPECTED = "a message that is no request, or that has no Message ID"


UNSPECIFIED, UNRECOGNISED, UNEXPECTED, INVALID_VALUE = 0, 1, 2, 6  # reasons of an A-ABORT (PS3.8 Table 9-26)

_REASONS: Mapping[Flaw, int] = {
    Flaw.NO_PDU: UNRECOGNISED,
    Flaw.PDU_UNEXPECTED: UNEXPECTED,
    Flaw.COMMAND_UNEXPECTED: UNEXPECTED,
    Flaw.DATASET_UNEXPECTED: UNEXPECTED,
    Flaw.CONTEXT_CHANGED: UNEXPECTED,
    Flaw.CONTEXT_UNKNOWN: UNEXPECTED,
    Flaw.MESSAGE_UNEXPECTED: UNEXPECTED,
    Flaw.REQUEST_MALFORMED: UNSPECIFIED,
}  # every other: invalid value of a parameter


@dataclass(frozen=True, slots=True)
class Violation:
    """The peer sent what is not legal: the association is over."""

    flaw: Flaw
    detail: str = ""

    @property
    def reason(self) -> int:
        """The reason that our A-ABORT gives."""
        return _REASONS.get(self.flaw, INVALID_VALUE)

    @property
    def sentence(self) -> str:
        """A noun phrase for "the peer sent …"."""
        return f"{self.flaw}: {self.detail}" if self.detail else str(self.flaw)


Event = Message | ControlPdu | Violation


class Phase(Enum):
    """The phases of an association, each with the PDUs that are legal in it (PS3.8 section 9.2)."""

    AWAITING_REQUEST = frozenset({PduType.ASSOCIATE_RQ, PduType.ABORT})
    AWAITING_ANSWER = frozenset({PduType.ASSOCIATE_AC, PduType.ASSOCIATE_RJ, PduType.ABORT})
    ESTABLISHED = frozenset({PduType.P_DATA, PduType.RELEASE_RQ, PduType.ABORT})
    RELEASING = frozenset({PduType.P_DATA, PduType.RELEASE_RQ, PduType.RELEASE_RP, PduType.ABORT})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLimits:
    """The most that a peer may send at once."""

    pdu_bytes: int  # of a P-DATA-TF, as we told it in the negotiation
    dataset_bytes: int
    empty_fragments: int = 0  # of one message, its end apart; some senders begin with one


class PduReader:
    """Bytes in, events out. Give it bytes by ``free`` and ``received``; take events until there is none."""

    def __init__(self, phase: Phase, limits: ReadLimits) -> None:
        self.phase = phase
        self._limits = limits
        self._buffer = bytearray(READ_BYTES)
        self._begin = 0  # where the bytes begin that are not read yet
        self._end = 0
        self.pdus = 0  # number of PDUs that came whole
        self._kind: PduType | None = None  # of the PDU that has begun
        self._pdu_left = 0  # bytes of it that are still to come
        self._body = bytearray()  # of a control PDU
        self._fragment_left: int | None = None  # bytes of the fragment that has begun; None: between two
        self._control = 0  # its message control header
        self._empty_fragments = 0  # of the message that has begun
        self._context_id: int | None = None  # of the message that has begun
        self._command = bytearray()
        self._command_set: CommandSet | None = None  # whole: its data set follows
        self._dataset = bytearray()

    @property
    def is_inside_pdu(self) -> bool:
        """Has a PDU begun that is not whole yet?"""
        return self._kind is not None or self._end > self._begin

    @property
    def held_bytes(self) -> int:
        """The bytes of the data set that is being received."""
        return len(self._dataset)

    def free(self) -> memoryview:
        """Return the free part of the buffer, for the next bytes; never empty."""
        if self._begin:
            rest = self._buffer[self._begin : self._end]
            self._buffer[: len(rest)] = rest
            self._begin, self._end = 0, len(rest)
        assert self._end < len(self._buffer), "headers are read at once, bodies are taken out"
        return memoryview(self._buffer)[self._end :]

    def received(self, size: int) -> None:
        """Take note that so many bytes were put into the buffer."""
        self._end += size

    def next_event(self) -> Event | None:
        """Return the next event; None: more bytes are needed. After a Violation it must not be called again."""
        while True:
            if self._kind is None:
                if self._end - self._begin < _PDU.size:
                    return self._early_violation()
                if (violation := self._open_pdu()) is not None:
                    return violation
            elif self._kind is not PduType.P_DATA:
                return self._control_pdu()
            elif self._fragment_left is not None:
                if (event := self._take_fragment()) is not None:
                    return event
                if self._fragment_left is not None:
                    return None
            elif self._pdu_left < _PDV.size:
                return Violation(Flaw.PDU_MALFORMED)
            elif self._end - self._begin < _PDV.size:
                return None
            elif (violation := self._open_fragment()) is not None:
                return violation

    def _early_violation(self) -> Violation | None:
        """Report a first byte that begins no legal PDU (as of an HTTP client) at once, without waiting for a length."""
        return self._illegal(self._buffer[self._begin]) if self._end > self._begin else None

    def _illegal(self, kind: int) -> Violation | None:
        if kind not in PduType.__members__.values():
            return Violation(Flaw.NO_PDU)
        if kind not in self.phase.value:
            return Violation(Flaw.PDU_UNEXPECTED, f"type {kind:02X}H")
        return None

    def _open_pdu(self) -> Violation | None:
        kind, length = _PDU.unpack_from(self._buffer, self._begin)
        if (violation := self._illegal(kind)) is not None:
            return violation
        is_data = kind == PduType.P_DATA
        most = self._limits.pdu_bytes + _PDV_OVERHEAD if is_data else CONTROL_PDU_BYTES
        if length > most:
            return Violation(Flaw.PDU_TOO_LONG, f"{length} bytes")
        if is_data and length < _PDV.size:
            return Violation(Flaw.PDU_MALFORMED)
        self._begin += _PDU.size
        self._kind, self._pdu_left = PduType(kind), length
        return None

    def _control_pdu(self) -> ControlPdu | None:
        self._body += self._take(self._pdu_left)
        if self._pdu_left:
            return None
        assert self._kind is not None
        whole = ControlPdu(self._kind, bytes(self._body))
        self._kind, self.pdus = None, self.pdus + 1
        self._body.clear()
        return whole

    def _open_fragment(self) -> Violation | None:
        """Open a fragment. Those of a message share one context, those of its command come first (PS3.8 Annex E.2)."""
        length, context_id, control = _PDV.unpack_from(self._buffer, self._begin)
        self._begin += _PDV.size
        self._pdu_left -= _PDV.size
        size = length - 2
        is_command = bool(control & _IS_COMMAND)
        if size < 0 or size > self._pdu_left:
            return Violation(Flaw.PDU_MALFORMED)
        if size == 0 and not control & _IS_LAST:  # else a peer that sends nothing but these would never end
            self._empty_fragments += 1
            if self._empty_fragments > self._limits.empty_fragments:
                return Violation(Flaw.PDU_MALFORMED)
        if self._context_id is None:
            self._context_id = context_id
        if context_id != self._context_id:
            return Violation(Flaw.CONTEXT_CHANGED)
        if is_command and self._command_set is not None:
            return Violation(Flaw.COMMAND_UNEXPECTED)
        if not is_command and self._command_set is None:
            return Violation(Flaw.DATASET_UNEXPECTED)
        if is_command and len(self._command) + size > MAXIMUM_COMMAND_BYTES:
            return Violation(Flaw.COMMAND_TOO_LONG)
        if not is_command and len(self._dataset) + size > self._limits.dataset_bytes:
            return Violation(Flaw.OBJECT_TOO_LARGE)
        self._control, self._fragment_left = control, size
        return None

    def _take_fragment(self) -> Message | Violation | None:
        """Move the bytes of the fragment that have come to its message; return the message when it is whole."""
        assert self._fragment_left is not None
        part = self._take(self._fragment_left)
        self._fragment_left -= len(part)
        (self._command if self._control & _IS_COMMAND else self._dataset).extend(part)
        if self._fragment_left:
            return None
        self._fragment_left = None
        if not self._pdu_left:
            self._kind, self.pdus = None, self.pdus + 1
        if not self._control & _IS_LAST:
            return None
        if self._control & _IS_COMMAND:
            self._command_set = decode_command(self._command)
            if self._command_set is None:
                return Violation(Flaw.COMMAND_MALFORMED)
            if self._command_set.has_dataset:
                return None
        assert self._command_set is not None
        assert self._context_id is not None
        dataset = self._dataset if self._command_set.has_dataset else None
        message = Message(self._context_id, self._command_set, dataset)
        self._context_id, self._command_set, self._dataset = None, None, bytearray()
        self._empty_fragments = 0
        self._command.clear()
        return message

    def _take(self, most: int) -> memoryview:
        """Take up to ``most`` bytes of the PDU out of the buffer."""
        size = min(most, self._end - self._begin)
        part = memoryview(self._buffer)[self._begin : self._begin + size]
        self._begin += size
        self._pdu_left -= size
        return part


def encode_pdu(kind: PduType, body: bytes = bytes(4)) -> bytes:
    """Encode any PDU; the default body is the four reserved bytes of a release."""
    return _PDU.pack(kind, len(body)) + body


def encode_abort(source: int, reason: int) -> bytes:
    """Encode an A-ABORT: source 0 is the service user, 2 the provider (PS3.8 Table 9-26)."""
    return encode_pdu(PduType.ABORT, bytes((0, 0, source, reason)))


def encode_message(
    context_id: int, command: bytes, dataset: bytes | bytearray | memoryview | None, *, maximum_pdu_bytes: int
) -> Iterator[bytes]:
    """Encode a message as P-DATA-TF PDUs of one fragment each, none longer than the peer takes (PS3.8 Annex D.1)."""
    # Even: a fragment of odd length is not allowed (PS3.8 Annex E.2 by PS3.5 section 7.1).
    most = max(maximum_pdu_bytes, SMALLEST_PDU_BYTES) - _PDV.size & ~1
    parts: Sequence[tuple[bytes | bytearray | memoryview, int]] = [(command, _IS_COMMAND)]
    if dataset is not None:
        parts = [*parts, (dataset, 0)]
    for content, kind in parts:
        for at in range(0, max(len(content), 1), most):
            fragment = content[at : at + most]
            last = _IS_LAST if at + most >= len(content) else 0
            size = len(fragment)
            head = _PDU.pack(PduType.P_DATA, size + _PDV.size) + _PDV.pack(size + 2, context_id, kind | last)
            yield b"".join((head, fragment))
