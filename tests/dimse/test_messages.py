"""PDUs and messages, bytes against events: no socket, and the library as the second opinion (PS3.8 section 9.3)."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomnode.dimse.commands import Field
from dicomnode.dimse.messages import (
    READ_BYTES,
    ControlPdu,
    Event,
    Flaw,
    Message,
    PduReader,
    PduType,
    Phase,
    ReadLimits,
    Violation,
    encode_abort,
    encode_pdu,
)
from dicomnode.wire import MR_IMAGE
from tests.support.pdu import associate_rq, c_store_rq, p_data, pdu, store_pdus
from tests.support.thorough import times

LIMITS = ReadLimits(pdu_bytes=16384, dataset_bytes=100_000)


def feed(reader: PduReader, content: bytes, *, piece: int = READ_BYTES) -> list[Event]:
    """Every event of these bytes, given a piece at a time; ends at a violation."""
    events: list[Event] = []
    view = memoryview(content)
    while True:
        while (event := reader.next_event()) is not None:
            events.append(event)
            if isinstance(event, Violation):
                return events
        if not view:
            return events
        free = reader.free()
        size = min(len(free), len(view), piece)
        free[:size] = view[:size]
        free.release()
        reader.received(size)
        view = view[size:]


def events_of(content: bytes, phase: Phase = Phase.ESTABLISHED, **how: int) -> list[Event]:
    return feed(PduReader(phase, LIMITS), content, **how)


def code_of(content: bytes, phase: Phase = Phase.ESTABLISHED) -> tuple[Flaw, int]:
    last = events_of(content, phase)[-1]
    assert isinstance(last, Violation), last
    return last.flaw, last.reason


@pytest.mark.faults
@settings(max_examples=times(50, 5_000), deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40_000), min_size=1, max_size=4),
    piece=st.integers(1, 70_000),
    pdv=st.integers(200, 16_000),
)
def test_messages_are_the_same_in_whatever_pieces_their_bytes_come(sizes: list[int], piece: int, pdv: int) -> None:
    datasets = [bytes(range(256)) * (size // 256) + bytes(size % 256) for size in sizes]
    content = b"".join(
        store_pdus(MR_IMAGE, "1.2.3", dataset, message=number + 1, pdv_bytes=pdv)
        for number, dataset in enumerate(datasets)
    )
    events = events_of(content + pdu(5, bytes(4)), piece=piece)
    assert isinstance(events[-1], ControlPdu)
    messages = [event for event in events if isinstance(event, Message)]
    assert [bytes(one.dataset or b"") for one in messages] == datasets
    assert [one.command.number(Field.MESSAGE_ID) for one in messages] == list(range(1, len(sizes) + 1))
    assert [one.command.text(Field.AFFECTED_SOP_CLASS_UID) for one in messages] == [MR_IMAGE] * len(sizes)


@pytest.mark.faults
@settings(max_examples=times(100, 20_000), deadline=None)
@given(content=st.binary(max_size=400), piece=st.integers(1, 50), phase=st.sampled_from(list(Phase)))
def test_no_bytes_raise(content: bytes, piece: int, phase: Phase) -> None:
    events_of(content, phase, piece=piece)


def test_several_fragments_in_one_pdu_are_one_message() -> None:
    command = c_store_rq(MR_IMAGE, "1.2.3")
    parts = ((command[:40], 1), (command[40:], 3), (b"abcd", 0), (b"efgh", 2))
    body = b"".join(struct.pack(">LBB", len(part) + 2, 3, control) + part for part, control in parts)
    (message,) = events_of(pdu(4, body))
    assert isinstance(message, Message)
    assert (message.context_id, message.dataset) == (3, bytearray(b"abcdefgh"))


def test_a_reader_holds_one_message_while_more_of_them_wait() -> None:
    reader = PduReader(Phase.ESTABLISHED, LIMITS)
    one = store_pdus(MR_IMAGE, "1.2.3", bytes(1000))
    free = reader.free()
    free[: len(one) * 3] = one * 3
    free.release()
    reader.received(len(one) * 3)
    for _ in range(3):
        assert isinstance(reader.next_event(), Message)
        assert reader.held_bytes == 0
    assert reader.next_event() is None
    assert not reader.is_inside_pdu


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"GET / HTTP/1.1", (Flaw.NO_PDU, 1)),
        (b"\x16\x03\x01", (Flaw.NO_PDU, 1)),  # the hello of TLS, from its first byte
        (associate_rq(), (Flaw.PDU_UNEXPECTED, 2)),
        (struct.pack(">BxL", 4, 16384 + 7), (Flaw.PDU_TOO_LONG, 6)),
        (struct.pack(">BxL", 7, 1 << 30), (Flaw.PDU_TOO_LONG, 6)),
        (pdu(4, b""), (Flaw.PDU_MALFORMED, 6)),
        (pdu(4, struct.pack(">LBB", 1, 3, 3)), (Flaw.PDU_MALFORMED, 6)),
        (pdu(4, struct.pack(">LBB", 99, 3, 3) + bytes(10)), (Flaw.PDU_MALFORMED, 6)),
        (p_data(3, b"", is_command=True, is_last=False), (Flaw.PDU_MALFORMED, 6)),
        (p_data(3, b"", is_command=True), (Flaw.COMMAND_MALFORMED, 6)),
        (p_data(3, bytes(100), is_command=False), (Flaw.DATASET_UNEXPECTED, 2)),
        (p_data(3, b"ab", is_command=True, is_last=False) + p_data(5, b"", is_command=True), (Flaw.CONTEXT_CHANGED, 2)),
        (p_data(3, c_store_rq(MR_IMAGE, "1.2"), is_command=True) * 2, (Flaw.COMMAND_UNEXPECTED, 2)),
        (p_data(3, bytes(16000), is_command=True, is_last=False) * 5, (Flaw.COMMAND_TOO_LONG, 6)),
        (store_pdus(MR_IMAGE, "1.2.3", bytes(100_001)), (Flaw.OBJECT_TOO_LARGE, 6)),
    ],
)  # fmt: skip
def test_what_is_not_legal_has_its_code_and_the_abort_of_the_standard(content: bytes, code: tuple[Flaw, int]) -> None:
    assert code_of(content) == code


def test_a_pdu_of_the_agreed_length_and_the_overhead_that_some_peers_add_is_legal() -> None:
    assert isinstance(events_of(store_pdus(MR_IMAGE, "1.2.3", bytes(50_000), pdv_bytes=16384))[0], Message)
    assert isinstance(events_of(store_pdus(MR_IMAGE, "1.2.3", bytes(100_000), pdv_bytes=16000))[0], Message)


def test_a_few_empty_fragments_are_passed_over_where_that_is_allowed_and_no_stream_of_them() -> None:
    limits = ReadLimits(pdu_bytes=16384, dataset_bytes=100_000, empty_fragments=2)
    empty = p_data(3, b"", is_command=True, is_last=False)
    whole = store_pdus(MR_IMAGE, "1.2.3", bytes(1000))
    for count in (1, 2, 3):
        events = feed(PduReader(Phase.ESTABLISHED, limits), (empty * count + whole) * 2)
        assert [type(one) for one in events] == ([Message] * 2 if count < 3 else [Violation])


@pytest.mark.parametrize("phase", list(Phase))
def test_each_phase_takes_its_pdus_and_no_other(phase: Phase) -> None:
    for kind in PduType:
        if kind is PduType.P_DATA:
            continue
        found = events_of(encode_pdu(kind), phase)[0]
        assert isinstance(found, ControlPdu) is (kind in phase.value), kind


def test_an_abort_tells_source_and_reason_and_a_short_one_does_not_raise() -> None:
    (event,) = events_of(encode_abort(2, 6))
    assert isinstance(event, ControlPdu)
    assert event.numbers[1:] == (2, 6)
    (event,) = events_of(encode_pdu(PduType.ABORT, b""))
    assert isinstance(event, ControlPdu)
    assert event.numbers == (0, 0, 0)
