"""Command sets, bytes against values, and the library as the second opinion (PS3.7 section 9.3)."""

from __future__ import annotations

import struct

import pytest
from pynetdicom.dimse_messages import C_FIND_RQ, C_STORE_RQ, N_ACTION_RQ, N_EVENT_REPORT_RSP, DIMSEMessage
from pynetdicom.pdu import P_DATA_TF

from dicomnode.dimse.commands import FIELDS, Command, Field, decode_command, encode_command, encode_refusal
from dicomnode.dimse.messages import encode_message

VALUES: dict[Field, str | int] = {
    Field.AFFECTED_SOP_CLASS_UID: "1.2.840.10008.1.1",
    Field.REQUESTED_SOP_CLASS_UID: "1.2.840.10008.1.20.1",
    Field.MESSAGE_ID: 7,
    Field.MESSAGE_ID_RESPONDED_TO: 7,
    Field.MOVE_DESTINATION: "NODE1",
    Field.PRIORITY: 0,
    Field.STATUS: 0xFF00,
    Field.AFFECTED_SOP_INSTANCE_UID: "1.2.3",
    Field.REQUESTED_SOP_INSTANCE_UID: "1.2.3.44",
    Field.EVENT_TYPE_ID: 2,
    Field.ACTION_TYPE_ID: 1,
}


@pytest.mark.parametrize("command", list(FIELDS))
def test_every_command_of_the_table_is_read_back_as_it_was_written(command: Command) -> None:
    values = {field: VALUES[field] for field in FIELDS[command]}
    read = decode_command(encode_command(command, values, has_dataset=True))
    assert read is not None
    assert read.number(Field.COMMAND) == command
    without = {Command.C_ECHO_RQ, Command.C_ECHO_RSP, Command.C_STORE_RSP, Command.C_CANCEL_RQ}
    assert read.has_dataset is (command not in without), "whatever their Data Set Type says"
    for field, value in values.items():
        assert (read.text(field) if isinstance(value, str) else read.number(field)) == value


@pytest.mark.parametrize(
    ("command", "library"),
    [
        (Command.C_STORE_RQ, C_STORE_RQ),
        (Command.C_FIND_RQ, C_FIND_RQ),
        (Command.N_ACTION_RQ, N_ACTION_RQ),
        (Command.N_EVENT_REPORT_RSP, N_EVENT_REPORT_RSP),
    ],
)
def test_the_library_reads_what_we_write(command: Command, library: type[DIMSEMessage]) -> None:
    values = {field: VALUES[field] for field in FIELDS[command]}
    content = encode_command(command, values, has_dataset=False)
    (part,) = encode_message(1, content, None, maximum_pdu_bytes=16384)
    read = P_DATA_TF()
    read.decode(part)
    message = library()
    assert message.decode_msg(read.to_primitive())
    names = {
        Field.AFFECTED_SOP_CLASS_UID: "AffectedSOPClassUID", Field.MESSAGE_ID: "MessageID", Field.STATUS: "Status",
        Field.REQUESTED_SOP_CLASS_UID: "RequestedSOPClassUID", Field.ACTION_TYPE_ID: "ActionTypeID",
        Field.REQUESTED_SOP_INSTANCE_UID: "RequestedSOPInstanceUID", Field.EVENT_TYPE_ID: "EventTypeID",
        Field.AFFECTED_SOP_INSTANCE_UID: "AffectedSOPInstanceUID", Field.PRIORITY: "Priority",
        Field.MESSAGE_ID_RESPONDED_TO: "MessageIDBeingRespondedTo",
    }  # fmt: skip
    assert {field: message.command_set[names[field]].value for field in values} == values


def test_a_request_that_nobody_knows_is_refused_in_its_own_kind() -> None:
    read = decode_command(encode_refusal(0x0140, 9, 0x0211))
    assert read is not None
    assert [read.number(one) for one in (Field.COMMAND, Field.MESSAGE_ID_RESPONDED_TO, Field.STATUS)] == [
        0x8140,
        9,
        0x0211,
    ]


def test_odd_values_are_read_as_far_as_they_go() -> None:
    odd = struct.pack("<HHL", 0, Field.COMMAND, 2) + b"\1\0"
    odd += struct.pack("<HHL", 0, Field.PRIORITY, 0)
    odd += struct.pack("<HHL", 0, Field.AFFECTED_SOP_INSTANCE_UID, 8) + b"1.2\0\xff\0  "
    odd += struct.pack("<HHL", 0, 0x5190, 2) + b"??"
    odd += struct.pack("<HHL", 0x0009, 0x0001, 2) + b"??"
    read = decode_command(odd)
    assert read is not None
    assert read.number(Field.PRIORITY) is None
    assert read.text(Field.AFFECTED_SOP_INSTANCE_UID) == "1.2"
    assert read.has_dataset, "a C-STORE has one unless it says that it has none"
    assert decode_command(odd[:-1]) is None
    assert decode_command(b"") is None
