"""Items and values that a receiver has no use for: none of them may cost an association (PS3.8 section 9.3.1).

Seen in the field: private user items, item types newer than the library, implementation version names of 17 and 20
characters, an identity type that the standard does not have, Priority 3. The association was aborted without a word.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.dimse.outcome import RequestReason
from dicomnode.ids import AeTitle
from dicomnode.push.dimse_carrier import DimseCarrier
from dicomnode.push.send_files import send_files
from dicomnode.settings.models import PushSettings
from dicomnode.settings.peers import PeerSettings
from tests.receive.receiving_node import ReceivingNode, receiving_node, said
from tests.support.dicom import made
from tests.support.misbehaving_pacs import Script, scripted_pacs
from tests.support.mr_series import write_mr_series
from tests.support.pdu import (
    ABORT,
    ABORT_BYTES,
    ASSOCIATE_AC,
    EXPLICIT,
    MR_IMAGE,
    RELEASE_RQ_BYTES,
    RawClient,
    associate_rq,
    c_store_rq,
    command,
    item,
    p_data,
    pdu,
    raw_client,
)
from tests.support.wait import wait_until

MR = MR_IMAGE.encode()
LENGTH_OF_MR = struct.pack(">H", len(MR))
CARRIER = DimseCarrier(ae_title=AeTitle("NODE"), push=PushSettings(connect_timeout_s=5.0, response_timeout_s=10.0))

USER_ITEMS = {
    "private 5AH": item(0x5A, b"\0\1private"),
    "private 60H": item(0x60, b"vendor"),
    "type 00H": item(0x00, b""),
    "type FFH": item(0xFF, b"\xff" * 300),
    "version name of 17": item(0x55, b"VERSION_NAME_1234"),
    "version name of 300, not ASCII": item(0x55, b"\xdc" * 300),
    "version name twice": item(0x55, b"A") + item(0x55, b"B"),
    "class UID with letters": item(0x52, b"1.2.x"),
    "class UID of 100": item(0x52, b"1." * 50),
    "identity type 9": item(0x58, b"\11\0" + struct.pack(">H", 5) + b"james" + struct.pack(">H", 0)),
    "identity that ends early": item(0x58, b"\1"),
    "identity answer in a request": item(0x59, b"\0\0"),
    "role 7/9": item(0x54, LENGTH_OF_MR + MR + b"\7\x09"),
    "role that ends early": item(0x54, b"\0"),
    "extended negotiation with a wrong length": item(0x56, b"\xff\xff1.2"),
    "common extended negotiation, empty": item(0x57, b""),
    "asynchronous operations of one byte": item(0x53, b"\1"),
}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ReceivingNode]:
    with receiving_node(tmp_path / "data") as running:
        yield running


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="dicomnode")


def stores(client: RawClient, request: bytes) -> bool:
    """Is the request accepted, an object stored under it, and the release answered?"""
    answer = client.associate(request)
    assert answer is not None
    assert answer.kind == ASSOCIATE_AC, f"PDU type {answer.kind}, code {answer.code}"
    one = made(1)
    status = client.store(one.sop_class_uid, one.sop_instance_uid, one.dataset)
    client.release()
    return status == 0x0000


@pytest.mark.parametrize("items", USER_ITEMS.values(), ids=USER_ITEMS)
def test_a_request_with_an_item_that_we_do_not_use_is_served(node: ReceivingNode, items: bytes) -> None:
    with raw_client(node.port) as client:
        assert stores(client, associate_rq(more_user_items=items))


@pytest.mark.parametrize("kind", [0x00, 0x11, 0x21, 0x40, 0x51, 0x70, 0xFF])
def test_a_request_with_an_unknown_item_at_the_top_is_served(node: ReceivingNode, kind: int) -> None:
    with raw_client(node.port) as client:
        assert stores(client, associate_rq(more_items=item(kind, b"vendor")))


def test_a_context_that_makes_no_sense_does_not_cost_the_others(node: ReceivingNode) -> None:
    odd = [
        item(0x20, bytes([2, 0, 0, 0]) + item(0x30, MR) + item(0x40, EXPLICIT.encode())),
        item(0x20, bytes([7, 0, 0, 0]) + item(0x30, MR)),
        item(0x20, bytes([9, 0, 0, 0]) + item(0x33, b"?") + item(0x40, EXPLICIT.encode())),
        item(0x20, b""),
    ]
    with raw_client(node.port) as client:
        assert stores(client, associate_rq(more_items=b"".join(odd)))


@pytest.mark.parametrize("length", [1, 7, 8, 9, 13])
def test_a_peer_that_takes_next_to_no_pdu_is_still_answered(node: ReceivingNode, length: int) -> None:
    with raw_client(node.port) as client:
        answer = client.associate(associate_rq(maximum_length=length))
        assert answer is not None
        client.send(p_data(3, c_store_rq(MR_IMAGE, "1.2.3", has_dataset=False), is_command=True))
        said_so_far = b""
        while struct.pack("<HHLH", 0, 0x900, 2, 0xC000) not in said_so_far:
            part = client.receive()
            assert part is not None
            assert part.kind == 4
            assert len(part.body) <= max(length, 8)
            said_so_far += part.body[6:]


@pytest.mark.parametrize(
    "request_",
    [
        pdu(1, b"short"),
        associate_rq(more_items=b"\x70\0\xff\xff"),
        associate_rq(more_user_items=b"\x5a\0\xff\xff"),
        associate_rq(contexts=[(1, MR_IMAGE, [EXPLICIT])])[:-1] + b"\1\1",
    ],
    ids=["short", "top item too long", "user item too long", "wrong length of the PDU"],
)
def test_a_request_that_cannot_be_read_is_one_line_of_the_log(
    node: ReceivingNode, request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with raw_client(node.port) as client:
        client.send(request_)
        client.send(RELEASE_RQ_BYTES)
        while (answer := client.receive()) is not None:
            assert answer.kind in (ABORT, ASSOCIATE_AC)
    wait_until(lambda: bool(said(caplog, "association_ended")), what="the line")
    (line,) = said(caplog, "association_ended")
    assert line.get("address", line.get("peer")) in ("127.0.0.1", "mr1")
    assert line["detail"]


@pytest.mark.parametrize(
    "instead",
    [
        {0x700: b"\3\0"},
        {0x700: b""},
        {0x700: b"\xff\xff\xff\xff"},
        {0x1030: b"NOT\xc4SCII"},
        {0x1031: b""},
        {0x1: b"\0\0"},
        {0x110: b"\1\0\2\0"},
        {0x800: None},
    ],
)
def test_a_command_with_a_value_that_nobody_uses_is_served(
    node: ReceivingNode, instead: dict[int, bytes | None]
) -> None:
    one = made(1)
    with raw_client(node.port) as client:
        client.associate()
        odd = c_store_rq(one.sop_class_uid, one.sop_instance_uid, instead=instead)
        client.send(p_data(3, odd, is_command=True) + p_data(3, one.dataset, is_command=False))
        assert client.status() == 0x0000
        assert client.echo() == 0x0000
        client.release()


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (p_data(3, command((0x100, b"\x20\x80"), (0x110, b"\1\0")), is_command=True), "no request"),
        (
            p_data(3, c_store_rq(MR_IMAGE, "1.2", has_dataset=False, instead={0x110: None}), is_command=True),
            "no Message ID",
        ),
        (p_data(3, b"data", is_command=False), "a data set without a command"),
        (p_data(3, c_store_rq(MR_IMAGE, "1.2"), is_command=True) * 2, "a command in the middle of a data set"),
        (p_data(99, c_store_rq(MR_IMAGE, "1.2", has_dataset=False), is_command=True), "that was not accepted"),
        (associate_rq(), "not legal here: type 01H"),
        (pdu(4, b"\0\0"), "whose parts do not fit"),
        (pdu(9, b""), "bytes that are no PDU"),
        (pdu(4, bytes(140000)), "longer than agreed"),
        (b"\x04\0", "not whole within its time"),
        (b"", "receive.idle_timeout_s"),
    ],
)
def test_an_association_that_we_abort_is_one_line_with_the_peer_and_the_reason(
    tmp_path: Path, content: bytes, detail: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        receiving_node(tmp_path / "data", pdu_timeout_s=0.5, idle_timeout_s=1.0) as node,
        raw_client(node.port) as client,
    ):
        client.associate()
        client.send(content)
        answer = client.receive()
        assert answer is None or answer.kind == ABORT
        wait_until(lambda: bool(said(caplog, "association_ended")), what="the line")
        lines = [one for one in caplog.records if one.name.startswith("dicomnode") and one.levelno >= logging.WARNING]
    assert [one.getMessage() for one in lines] == ["association_ended"]
    (line,) = said(caplog, "association_ended")
    assert line["peer"] == "mr1"
    assert detail in str(line["detail"])


@pytest.mark.parametrize("numbers", [b"\0\0", b"\2\0", b"\2\3", b"\1\x09", b"\x63\xff"])
def test_an_abort_with_any_numbers_is_the_peers_abort(
    node: ReceivingNode, numbers: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with raw_client(node.port) as client:
        client.associate()
        client.send(ABORT_BYTES[:8] + numbers)
        assert client.is_closed()
    node.wait_until_empty()
    wait_until(lambda: bool(said(caplog, "association_ended")), what="the line")
    (line,) = said(caplog, "association_ended")
    assert line["detail"] == f"the peer aborted it: source {numbers[0]}, reason {numbers[1]}"


def peer(port: int) -> PeerSettings:
    return PeerSettings(name="pacs", ae_title=AeTitle("PACS"), address=f"127.0.0.1:{port}")


@pytest.mark.parametrize("items", USER_ITEMS.values(), ids=USER_ITEMS)
def test_a_pacs_whose_acceptance_holds_an_item_that_we_do_not_use_is_sent_to(tmp_path: Path, items: bytes) -> None:
    paths = write_mr_series(tmp_path, slices=2)
    with scripted_pacs(Script(more_user_items=items)) as pacs:
        sent = list(send_files(CARRIER, peer(pacs.port), paths))
    assert [one.outcome.status for one in sent] == [0x0000] * 2, sent[0].outcome.sentence


@pytest.mark.parametrize(
    "script",
    [
        Script(titles=bytes(range(128, 160))),
        Script(titles=bytes(32)),
        Script(more_items=item(0x77, b"vendor") + item(0x20, b"")),
        Script(more_items=item(0x21, bytes([2, 0, 0, 0]))),
        Script(more_items=item(0x21, bytes([99, 0, 200, 0]) + item(0x44, b"?"))),
        Script(rejected_result=200),
    ],
)
def test_a_pacs_with_an_odd_acceptance_is_sent_to(tmp_path: Path, script: Script) -> None:
    paths = write_mr_series(tmp_path, slices=2)
    with scripted_pacs(script) as pacs:
        sent = list(send_files(CARRIER, peer(pacs.port), paths))
    assert [one.outcome.status for one in sent] == [0x0000] * 2, sent[0].outcome.sentence


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (pdu(2, b"short"), "an acceptance that cannot be read: it is shorter than its fixed part"),
        (
            pdu(2, bytes(68) + b"\x50\0\0\x99"),
            "an acceptance that cannot be read: an item in it is longer than what holds it",
        ),
        (pdu(5, bytes(4)), "in place of an answer, a PDU that is not legal here: type 05H"),
        (pdu(9, bytes(4)), "bytes that are no PDU"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "bytes that are no PDU"),
        (struct.pack(">BxL", 2, 1 << 31), "longer than agreed"),
    ],
)
def test_an_answer_that_we_cannot_accept_is_never_called_a_lost_connection(answer: bytes, detail: str) -> None:
    with scripted_pacs(Script(answer=answer)) as pacs:
        outcome = CARRIER.echo(peer(pacs.port))
    assert outcome.reason is RequestReason.ILLEGAL
    assert detail in outcome.sentence
    assert outcome.sentence.startswith("The node aborted the association")


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        (b"\1\1\7", RequestReason.REJECTED),
        (b"\1\2\x63", RequestReason.REJECTED),
        (b"\1\x09\0", RequestReason.REJECTED),
        (b"\0\0\0", RequestReason.REJECTED),
        (b"\2\3\7", RequestReason.BUSY),
    ],
)
def test_a_rejection_with_any_numbers_is_said_at_once(numbers: bytes, reason: RequestReason) -> None:
    with scripted_pacs(Script(answer=pdu(3, b"\0" + numbers))) as pacs:
        outcome = CARRIER.echo(peer(pacs.port))
    assert outcome.reason is reason
    assert "/".join(str(one) for one in numbers) in outcome.sentence


@pytest.mark.parametrize("numbers", [b"\0\0", b"\2\3", b"\x63\xff"])
def test_an_abort_in_place_of_an_answer_is_the_peers(numbers: bytes) -> None:
    with scripted_pacs(Script(answer=pdu(7, b"\0\0" + numbers))) as pacs:
        outcome = CARRIER.echo(peer(pacs.port))
    assert outcome.reason is RequestReason.ABORTED
    assert outcome.detail == f"source {numbers[0]}, reason {numbers[1]}"
