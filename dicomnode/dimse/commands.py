"""Command sets of DIMSE messages as bytes: PS3.7 sections 6.3, 9.3 and 10.3 and Annex E.

The table ``FIELDS`` lists the elements of each command; a new DIMSE service is a new row of it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

_ELEMENT = struct.Struct("<HHL")  # implicit VR little endian, whatever was agreed (PS3.7 section 6.3.1)
_NO_DATASET, _DATASET = 0x0101, 0x0001  # Command Data Set Type


class Command(IntEnum):
    """Command Field (PS3.7 Annex E.1)."""

    C_STORE_RQ = 0x0001
    C_GET_RQ = 0x0010
    C_FIND_RQ = 0x0020
    C_MOVE_RQ = 0x0021
    C_ECHO_RQ = 0x0030
    N_EVENT_REPORT_RQ = 0x0100
    N_ACTION_RQ = 0x0130
    C_CANCEL_RQ = 0x0FFF
    C_STORE_RSP = 0x8001
    C_GET_RSP = 0x8010
    C_FIND_RSP = 0x8020
    C_MOVE_RSP = 0x8021
    C_ECHO_RSP = 0x8030
    N_EVENT_REPORT_RSP = 0x8100
    N_ACTION_RSP = 0x8130


RESPONSE = 0x8000  # set in the command field of every response


class Field(IntEnum):
    """Element number of a command element (0000,xxxx) (PS3.7 Annex E.1)."""

    GROUP_LENGTH = 0x0000
    AFFECTED_SOP_CLASS_UID = 0x0002
    REQUESTED_SOP_CLASS_UID = 0x0003
    COMMAND = 0x0100
    MESSAGE_ID = 0x0110
    MESSAGE_ID_RESPONDED_TO = 0x0120
    MOVE_DESTINATION = 0x0600
    PRIORITY = 0x0700
    DATA_SET_TYPE = 0x0800
    STATUS = 0x0900
    OFFENDING_ELEMENT = 0x0901
    AFFECTED_SOP_INSTANCE_UID = 0x1000
    REQUESTED_SOP_INSTANCE_UID = 0x1001
    EVENT_TYPE_ID = 0x1002
    ACTION_TYPE_ID = 0x1008
    REMAINING = 0x1020
    COMPLETED = 0x1021
    FAILED = 0x1022
    WARNING = 0x1023


_CLASS, _INSTANCE = Field.AFFECTED_SOP_CLASS_UID, Field.AFFECTED_SOP_INSTANCE_UID
_ASKED_CLASS, _ASKED_INSTANCE = Field.REQUESTED_SOP_CLASS_UID, Field.REQUESTED_SOP_INSTANCE_UID

FIELDS: Mapping[Command, tuple[Field, ...]] = {
    Command.C_STORE_RQ: (_CLASS, Field.MESSAGE_ID, Field.PRIORITY, _INSTANCE),
    Command.C_STORE_RSP: (_CLASS, Field.MESSAGE_ID_RESPONDED_TO, Field.STATUS, _INSTANCE),
    Command.C_ECHO_RQ: (_CLASS, Field.MESSAGE_ID),
    Command.C_ECHO_RSP: (_CLASS, Field.MESSAGE_ID_RESPONDED_TO, Field.STATUS),
    Command.C_FIND_RQ: (_CLASS, Field.MESSAGE_ID, Field.PRIORITY),
    Command.C_GET_RQ: (_CLASS, Field.MESSAGE_ID, Field.PRIORITY),
    Command.C_MOVE_RQ: (_CLASS, Field.MESSAGE_ID, Field.PRIORITY, Field.MOVE_DESTINATION),
    Command.C_CANCEL_RQ: (Field.MESSAGE_ID_RESPONDED_TO,),
    Command.N_ACTION_RQ: (_ASKED_CLASS, Field.MESSAGE_ID, _ASKED_INSTANCE, Field.ACTION_TYPE_ID),
    Command.N_ACTION_RSP: (_CLASS, Field.MESSAGE_ID_RESPONDED_TO, Field.STATUS, _INSTANCE, Field.ACTION_TYPE_ID),
    Command.N_EVENT_REPORT_RQ: (_CLASS, Field.MESSAGE_ID, _INSTANCE, Field.EVENT_TYPE_ID),
    Command.N_EVENT_REPORT_RSP: (
        _CLASS, Field.MESSAGE_ID_RESPONDED_TO, Field.STATUS, _INSTANCE, Field.EVENT_TYPE_ID,
    ),
}  # fmt: skip
"""The elements of each command that we send, beside Command Field, Data Set Type and group length (PS3.7 9.3, 10.3).

Received commands are not checked against it: an element that nobody needs may be there, absent or odd.
"""

_NEVER_WITH_DATASET = frozenset({Command.C_ECHO_RQ, Command.C_ECHO_RSP, Command.C_STORE_RSP, Command.C_CANCEL_RQ})
_TEXTS = frozenset({_CLASS, _INSTANCE, _ASKED_CLASS, _ASKED_INSTANCE, Field.MOVE_DESTINATION})  # the rest are US


@dataclass(frozen=True, slots=True)
class CommandSet:
    """The elements of a command set that came, by number. Its ``repr`` shows no values."""

    elements: Mapping[int, bytes]

    def number(self, field: Field) -> int | None:
        """Return the value of an element with VR US; None where it is absent or shorter."""
        value = self.elements.get(field, b"")
        return int.from_bytes(value[:2], "little") if len(value) >= 2 else None

    def text(self, field: Field) -> str:
        """Return the value of an element with VR UI or AE without its padding; what is not ASCII shows escaped."""
        value = self.elements.get(field, b"")
        return value.split(b"\0", 1)[0].decode("ascii", "backslashreplace").strip(" ")

    def tags(self, field: Field) -> tuple[tuple[int, int], ...]:
        """Return the values of an element with VR AT: group and element."""
        value = self.elements.get(field, b"")
        return tuple(struct.iter_unpack("<HH", value[: len(value) // 4 * 4]))

    @property
    def has_dataset(self) -> bool:
        """Tell whether a data set follows: every value but 0101 says so (PS3.7 section 9.3.1.1), where one may."""
        command, told = self.number(Field.COMMAND), self.number(Field.DATA_SET_TYPE)
        if command in _NEVER_WITH_DATASET or told == _NO_DATASET:
            return False
        return told is not None or command == Command.C_STORE_RQ

    def __repr__(self) -> str:
        command = self.number(Field.COMMAND)
        return "CommandSet()" if command is None else f"CommandSet({command:04X})"


def decode_command(content: bytes | bytearray) -> CommandSet | None:
    """Decode the elements of a command set; None where their lengths do not add up or it has no command field."""
    elements: dict[int, bytes] = {}
    at = 0
    while at < len(content):
        if at + _ELEMENT.size > len(content):
            return None
        group, number, length = _ELEMENT.unpack_from(content, at)
        at += _ELEMENT.size
        if at + length > len(content):
            return None
        if group == 0x0000:
            elements[number] = bytes(content[at : at + length])
        at += length
    command = CommandSet(elements)
    return None if command.number(Field.COMMAND) is None else command


def encode_refusal(field: int, message_id: int, status: int) -> bytes:
    """Encode the response to a request whose service is not offered, also one that is not in ``Command``."""
    return _command_set(
        {
            Field.COMMAND: field | RESPONSE,
            Field.MESSAGE_ID_RESPONDED_TO: message_id,
            Field.DATA_SET_TYPE: _NO_DATASET,
            Field.STATUS: status,
        }
    )


def encode_command(command: Command, values: Mapping[Field, str | int], *, has_dataset: bool) -> bytes:
    """Encode a command set: the elements of its row in ``FIELDS``, without those that ``values`` lacks (type 2, U)."""
    assert values.keys() <= set(FIELDS[command]), "an element that this command has not"
    kind = _DATASET if has_dataset else _NO_DATASET
    return _command_set({**values, Field.COMMAND: command, Field.DATA_SET_TYPE: kind})


def report_answer(report: CommandSet, message_id: int, status: int) -> bytes:
    """Encode the response to an N-EVENT-REPORT (PS3.7 section 10.3.1)."""
    values: dict[Field, str | int] = {
        Field.AFFECTED_SOP_CLASS_UID: report.text(Field.AFFECTED_SOP_CLASS_UID),
        Field.MESSAGE_ID_RESPONDED_TO: message_id,
        Field.STATUS: status,
        Field.AFFECTED_SOP_INSTANCE_UID: report.text(Field.AFFECTED_SOP_INSTANCE_UID),
        Field.EVENT_TYPE_ID: report.number(Field.EVENT_TYPE_ID) or 0,
    }
    return encode_command(Command.N_EVENT_REPORT_RSP, values, has_dataset=False)


def _command_set(told: Mapping[Field, str | int]) -> bytes:
    body = b"".join(_element(field, told[field]) for field in sorted(told))
    return _ELEMENT.pack(0, Field.GROUP_LENGTH, 4) + struct.pack("<L", len(body)) + body


def _element(field: Field, value: str | int) -> bytes:
    if field in _TEXTS:
        assert isinstance(value, str)
        raw = value.encode("ascii")
        raw += (b" " if field is Field.MOVE_DESTINATION else b"\0") * (len(raw) % 2)
    else:
        assert isinstance(value, int)
        raw = struct.pack("<H", value)
    return _ELEMENT.pack(0, field, len(raw)) + raw
