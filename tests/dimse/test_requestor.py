"""Our side of an association's requests, against a peer that writes its bytes by hand (PS3.8 section 9.3)."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise

import pytest
from pydicom.filereader import read_dataset
from pynetdicom.dimse_messages import C_STORE_RQ as CStoreRequest
from pynetdicom.pdu import P_DATA_TF

from dicomnode.dimse.associate import RESPONSE_LIMITS, Associated, Context
from dicomnode.dimse.link import Link
from dicomnode.dimse.messages import Phase
from dicomnode.dimse.outcome import RequestOutcome, RequestReason
from dicomnode.dimse.requestor import Requestor
from dicomnode.wire import IMPLICIT, MR_IMAGE, VERIFICATION

CONTEXT, VERIFYING = 3, 1
TIMEOUT_S = 0.4
ABORTED_BY_US = bytes.fromhex("07 00 00000004 00000000")
RELEASE_RQ, RELEASE_RP = bytes.fromhex("05 00 00000004 00000000"), bytes.fromhex("06 00 00000004 00000000")

Pair = tuple[Requestor, socket.socket]


def requestor(ours: socket.socket, *, response_timeout_s: float = TIMEOUT_S) -> Requestor:
    link = Link(ours, Phase.ESTABLISHED, RESPONSE_LIMITS)
    link.maximum_pdu_bytes = 16384
    contexts = {
        number: Context(id=number, abstract_syntax=sop_class, transfer_syntax=IMPLICIT)
        for number, sop_class in ((CONTEXT, MR_IMAGE), (VERIFYING, VERIFICATION))
    }
    return Requestor(Associated(link=link, contexts=contexts), response_timeout_s=response_timeout_s)


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(30)
    with theirs:
        yield requestor(ours), theirs
    ours.close()


def response(message_id: int = 1, *, field: int = 0x8030, status: int = 0, control: int = 3) -> bytes:
    """A P-DATA-TF with the command set of a response."""
    values = [(0x0100, field), (0x0120, message_id), (0x0800, 0x0101), (0x0900, status)]
    command = b"".join(struct.pack("<HHLH", 0, number, 2, value) for number, value in values)
    fragment = struct.pack(">LBB", len(command) + 2, CONTEXT, control) + command
    return struct.pack(">BxL", 4, len(fragment)) + fragment


def echo(pair: Pair, answer: bytes) -> RequestOutcome:
    asking, theirs = pair

    def reply() -> None:
        theirs.recv(4096)
        theirs.sendall(answer)

    peer = threading.Thread(target=reply)
    peer.start()
    outcome = asking.echo(VERIFYING)
    peer.join(30)
    return outcome


def left_over(theirs: socket.socket) -> bytes:
    """What we said until we closed the connection."""
    said = b""
    while part := theirs.recv(65536):
        said += part
    return said


@pytest.mark.parametrize("size", [0, 2, 16376, 16378, 16380, 100_000, 700_001])
def test_an_instance_is_what_the_library_reads_and_no_pdu_is_longer_than_the_peer_allows(pair: Pair, size: int) -> None:
    asking, theirs = pair
    dataset = bytes(range(256)) * (size // 256) + bytes(size % 256)
    came = bytearray()
    reader = threading.Thread(target=lambda: came.extend(left_over(theirs)))
    reader.start()
    asking.store(CONTEXT, "1.2.34", memoryview(dataset))
    reader.join(30)
    message = CStoreRequest()
    at, lengths, is_whole = 0, [], False
    while not is_whole and came[at] == 4:
        end = at + 6 + int.from_bytes(came[at + 2 : at + 6], "big")
        pdu = P_DATA_TF()
        pdu.decode(bytes(came[at:end]))
        lengths.append(end - at - 6)
        is_whole = message.decode_msg(pdu.to_primitive())
        at = end
    assert message.data_set is not None
    assert message.data_set.getvalue() == dataset
    assert message.command_set.AffectedSOPInstanceUID == "1.2.34"
    assert message.command_set.AffectedSOPClassUID == MR_IMAGE
    assert max(lengths) <= 16384
    assert bytes(came[at:]) == ABORTED_BY_US  # nobody answered


def test_message_ids_go_on_and_the_status_of_each_response_comes_back(pair: Pair) -> None:
    answers = [echo(pair, response(number, status=status)) for number, status in ((1, 0), (2, 0xA700))]
    assert [(one.reason, one.status) for one in answers] == [
        (RequestReason.ANSWERED, 0),
        (RequestReason.ANSWERED, 0xA700),
    ]


def test_a_response_in_many_small_pieces_is_one(pair: Pair) -> None:
    whole = response()
    command = whole[12:]
    pieces = b""
    for begin, end in pairwise(range(0, len(command) + 8, 8)):
        part = command[begin:end]
        control = 3 if end >= len(command) else 1
        fragment = struct.pack(">LBB", len(part) + 2, CONTEXT, control) + part
        pieces += struct.pack(">BxL", 4, len(fragment)) + fragment
    assert echo(pair, pieces).status == 0


ILLEGAL: dict[str, bytes] = {
    "answer to another request": response(7),
    "answer of another kind": response(field=0x8001),
    "a request": response(field=0x0030),
    "a dataset": response(control=2),
    "an empty fragment that is not the last": bytes.fromhex("04 00 00000006 00000002 03 01"),
    "a fragment longer than its PDU": bytes.fromhex("04 00 00000006 00000009 03 03"),
    "a PDU of one byte": bytes.fromhex("04 00 00000001 00"),
    "a PDU of 4 GB": bytes.fromhex("04 00 ffffffff"),
    "an unknown PDU": bytes.fromhex("63 00 00000004 00000000"),
    "an A-ASSOCIATE-AC": bytes.fromhex("02 00 00000004 00000000"),
    "HTTP": b"HTTP/1",
}


@pytest.mark.parametrize("answer", ILLEGAL.values(), ids=ILLEGAL)
def test_what_is_no_answer_to_us_ends_the_association_with_an_abort(pair: Pair, answer: bytes) -> None:
    outcome = echo(pair, answer)
    assert outcome.reason is RequestReason.ILLEGAL
    said = left_over(pair[1])
    assert (said[:9], len(said)) == (bytes.fromhex("07 00 00000004 0000 02"), 10)
    assert pair[0].echo(VERIFYING) == outcome


@pytest.mark.parametrize("answer", [b"", response()[:9], bytes.fromhex("04 00 00000009 00"), response(control=1)])
def test_an_answer_that_never_becomes_whole_ends_at_the_time_limit(pair: Pair, answer: bytes) -> None:
    began_s = time.monotonic()
    assert echo(pair, answer).reason is RequestReason.NO_RESPONSE
    assert TIMEOUT_S <= time.monotonic() - began_s < 30


def test_an_answer_that_trickles_in_does_not_stretch_the_time_limit(pair: Pair) -> None:
    asking, theirs = pair
    is_over = threading.Event()

    def trickle() -> None:
        for byte in response():
            if is_over.wait(TIMEOUT_S / 8):
                return
            theirs.sendall(bytes([byte]))

    peer = threading.Thread(target=trickle)
    peer.start()
    outcome = asking.echo(VERIFYING)
    is_over.set()
    peer.join(30)
    assert outcome.reason is RequestReason.NO_RESPONSE


def test_an_abort_tells_its_source_and_reason(pair: Pair) -> None:
    outcome = echo(pair, bytes.fromhex("07 00 00000004 0000 02 06"))
    assert (outcome.reason, outcome.detail) == (RequestReason.ABORTED, "source 2, reason 6")


def test_a_peer_that_releases_in_place_of_an_answer_gets_its_release(pair: Pair) -> None:
    outcome = echo(pair, RELEASE_RQ)
    assert (outcome.reason, outcome.detail) == (RequestReason.LOST, "the peer released the association")
    assert left_over(pair[1]).startswith(RELEASE_RP)


@pytest.mark.parametrize("answer", [RELEASE_RP, response() + RELEASE_RP, RELEASE_RQ + RELEASE_RP])
def test_a_release_ends_with_the_peers_answer_whatever_comes_before_it(pair: Pair, answer: bytes) -> None:
    asking, theirs = pair
    theirs.sendall(answer)
    asking.release(5)
    said = left_over(theirs)
    assert said == RELEASE_RQ + (RELEASE_RP if answer.startswith(RELEASE_RQ) else b"")


def test_a_release_that_nobody_answers_becomes_an_abort(pair: Pair) -> None:
    pair[0].release(0.1)
    assert left_over(pair[1]) == RELEASE_RQ + ABORTED_BY_US


def test_an_abort_from_another_thread_ends_the_wait_and_reaches_the_peer() -> None:
    ours, theirs = socket.socketpair()
    asking_side = requestor(ours, response_timeout_s=30)
    found: list[RequestOutcome] = []
    asking = threading.Thread(target=lambda: found.append(asking_side.echo(VERIFYING)))
    asking.start()
    with theirs:
        assert theirs.recv(4096)
        asking_side.abort()
        asking.join(30)
        assert left_over(theirs) == ABORTED_BY_US
    assert [one.sentence for one in found] == ["The node ended the association."]
    assert ours.fileno() == -1


def test_a_command_set_is_what_pydicom_reads(pair: Pair) -> None:
    asking, theirs = pair
    asking.echo(VERIFYING)
    said = left_over(theirs)
    command = read_dataset(BytesIO(said[12 : 6 + int.from_bytes(said[2:6], "big")]), True, True)
    assert command.CommandGroupLength == len(said) - 12 - 12 - len(ABORTED_BY_US)
    assert (command.AffectedSOPClassUID, command.CommandField, command.MessageID, command.CommandDataSetType) == (
        VERIFICATION, 0x0030, 1, 0x0101,
    )  # fmt: skip
