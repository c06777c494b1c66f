"""Peers that send for ever, or never all of it: each wait of the node has an end, and its memory has one too."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from dicomnode.dimse.outcome import RequestReason
from dicomnode.ids import AeTitle
from dicomnode.push import dimse_carrier
from dicomnode.push.carrier import InstanceFormat
from dicomnode.push.dimse_carrier import DimseCarrier
from dicomnode.push.send_files import send_files
from dicomnode.receive.listener import LARGEST_IN_FLIGHT
from dicomnode.receive.scp import MEBIBYTE
from dicomnode.seams import set_checkpoint_hook
from dicomnode.settings.models import PushSettings
from dicomnode.settings.peers import PeerSettings
from dicomnode.wire import IMPLICIT, VERIFICATION
from tests.receive.receiving_node import ReceivingNode, receiving_node, said
from tests.support.dicom import Made, made
from tests.support.misbehaving_pacs import Script, scripted_pacs
from tests.support.mr_series import write_mr_series
from tests.support.pdu import ABORT, MR_IMAGE, RawClient, c_store_rq, p_data, pdu, raw_client, store_pdus
from tests.support.wait import wait_until

HASTY = DimseCarrier(ae_title=AeTitle("NODE"), push=PushSettings(connect_timeout_s=0.5, response_timeout_s=0.5))
LIMIT_S = 30.0  # on a busy machine; without an end it would be for ever


def peer(port: int) -> PeerSettings:
    return PeerSettings(name="pacs", ae_title=AeTitle("PACS"), address=f"127.0.0.1:{port}")


@contextmanager
def in_time() -> Iterator[None]:
    began_s = time.monotonic()
    yield
    assert time.monotonic() - began_s < LIMIT_S


def test_a_stream_of_empty_fragments_does_not_keep_the_thread_that_sends(tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path, slices=1)
    flood = p_data(1, b"", is_command=True, is_last=False) * 100
    with scripted_pacs(Script(flood=flood)) as pacs, in_time():
        (sent,) = send_files(HASTY, peer(pacs.port), paths)
    assert sent.outcome.reason is RequestReason.ILLEGAL


def test_a_stream_of_pdus_does_not_keep_a_release_and_its_abort_is_a_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, logger="dicomnode")
    monkeypatch.setattr(dimse_carrier, "RELEASE_TIMEOUT_S", 0.5)
    script = Script(refuses_release=True, flood=p_data(1, b"", is_command=True, is_last=False) * 100)
    with scripted_pacs(script) as pacs:
        verification = InstanceFormat(sop_class_uid=VERIFICATION, transfer_syntax_uid=IMPLICIT)
        session = HASTY.open(peer(pacs.port), [verification])
        assert isinstance(session, dimse_carrier.DimseSession)
        with in_time():
            session.close()
    assert [line["peer"] for line in said(caplog, "association_aborted")] == ["pacs"]


def test_an_answer_to_the_request_that_drips_does_not_keep_the_thread_that_asked() -> None:
    with scripted_pacs(Script(drip=b"\2")) as pacs, in_time():
        outcome = HASTY.echo(peer(pacs.port))
    assert outcome.reason in (RequestReason.UNANSWERED, RequestReason.ILLEGAL)


def test_a_longer_answer_that_drips_does_not_either() -> None:
    """The header claims 60 kB, which would come in twenty minutes."""
    with scripted_pacs(Script(answer=b"\2\0\0\0\xea\x60\0")) as pacs, in_time():
        outcome = HASTY.echo(peer(pacs.port))
    assert outcome.reason is RequestReason.UNANSWERED


@pytest.fixture
def small(tmp_path: Path) -> Iterator[ReceivingNode]:
    """A node that takes objects of 1 MiB, and so holds 2 MiB of them."""
    with receiving_node(tmp_path / "data", max_instance_mb=1, pdu_timeout_s=1.0, idle_timeout_s=3.0) as running:
        yield running


def begin(client: RawClient, one: Made, count: int) -> bytes:
    """Send the first bytes of an object; the rest of its PDUs."""
    client.associate()
    content = store_pdus(one.sop_class_uid, one.sop_instance_uid, one.dataset)
    sending = content[:count]
    client.send(sending)
    return content[count:]


def test_an_object_of_the_largest_size_is_stored_and_a_byte_more_is_aborted(
    small: ReceivingNode, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="dicomnode")
    one = made(1, size=720)
    room = MEBIBYTE - len(one.dataset)
    assert room > 8
    padding = b"\xfc\xff\xfc\xffOB\0\0" + (room - 12).to_bytes(4, "little")  # Data Set Trailing Padding
    whole = one.dataset + padding + bytes(room - 12)
    assert len(whole) == MEBIBYTE
    with raw_client(small.port) as client:
        client.associate()
        assert client.store(one.sop_class_uid, one.sop_instance_uid, whole) == 0x0000
        client.send(store_pdus(one.sop_class_uid, one.sop_instance_uid, whole + b"\0"))
        answer = client.receive()
        assert answer is not None
        assert (answer.kind, answer.code) == (ABORT, (2, 6))
    small.wait_until_empty()
    assert not small.quarantined()
    wait_until(lambda: bool(said(caplog, "association_ended")), what="the line")
    assert [line["detail"] for line in said(caplog, "association_ended")] == [
        "an object that is larger than receive.max_instance_mb"
    ]


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[ReceivingNode]:
    """The same with the time limits of a real one: a busy machine is not a slow peer."""
    with receiving_node(tmp_path / "data", max_instance_mb=1) as running:
        yield running


def test_twelve_senders_share_the_memory_of_two_objects_and_all_is_stored(patient: ReceivingNode) -> None:
    """Each holds back the last PDU of an object: more than the budget if all of it were read."""
    assert patient.receiver._listener is not None
    held = patient.receiver._listener.budget
    objects = [made(number, size=700) for number in range(12)]
    with ExitStack() as stack:
        clients = [stack.enter_context(raw_client(patient.port)) for _ in objects]
        rests: list[bytes] = [b""] * len(objects)

        def send(number: int) -> None:
            rests[number] = begin(clients[number], objects[number], 900_000)

        senders = [threading.Thread(target=send, args=(number,)) for number in range(len(objects))]
        for sender in senders:
            sender.start()
        wait_until(lambda: held.waiting > 0, what="the budget is full")
        most = 0
        statuses: list[int] = []

        def finish(number: int) -> None:
            senders[number].join()
            clients[number].send(rests[number])
            statuses.append(clients[number].status())
            clients[number].release()

        finishing = [threading.Thread(target=finish, args=(number,)) for number in range(len(objects))]
        for thread in finishing:
            thread.start()
        while any(thread.is_alive() for thread in finishing):
            most = max(most, held.held_bytes)
            finishing[0].join(0.001)
            for thread in finishing:
                thread.join(0.001)
        assert statuses == [0x0000] * len(objects)
        assert most <= (LARGEST_IN_FLIGHT + 1) * MEBIBYTE + len(objects) * patient.limits.max_pdu_bytes
    assert held.held_bytes == 0
    assert len(patient.files()) == len(objects)


def test_peers_that_begin_objects_and_stop_do_not_keep_the_others_out(small: ReceivingNode) -> None:
    one = made(1, size=700)
    with ExitStack() as stack:
        for number in range(3):
            begin(stack.enter_context(raw_client(small.port)), made(2 + number, size=700), 900_000)
        with raw_client(small.port) as client:
            client.associate()
            assert client.store(one.sop_class_uid, one.sop_instance_uid, one.dataset) == 0x0000
            client.release()


def test_a_peer_that_drips_while_others_wait_loses_its_association(
    small: ReceivingNode, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="dicomnode")
    one = made(1, size=700)
    is_over = threading.Event()

    def drip(client: RawClient) -> None:
        begin(client, made(2, size=700), 0)
        fragment = p_data(3, b"\0\0", is_command=False, is_last=False)
        client.send(p_data(3, c_store_rq(MR_IMAGE, "1.2.3"), is_command=True))
        client.send(p_data(3, bytes(16000), is_command=False, is_last=False) * 60)
        with suppress(OSError):
            while not is_over.wait(0.1):
                client.send(fragment)

    with ExitStack() as stack:
        slow = [stack.enter_context(raw_client(small.port)) for _ in range(3)]
        dripping = [threading.Thread(target=drip, args=(client,)) for client in slow]
        for thread in dripping:
            thread.start()
        assert small.receiver._listener is not None
        held = small.receiver._listener.budget
        wait_until(lambda: held.waiting > 0, what="it is full")
        with raw_client(small.port) as client:
            client.associate()
            assert client.store(one.sop_class_uid, one.sop_instance_uid, one.dataset) == 0x0000
            client.release()
        is_over.set()
        for thread in dripping:
            thread.join(10)
    wait_until(lambda: len(said(caplog, "association_ended")) >= 2, what="the lines")
    assert any("too slow" in str(line["detail"]) for line in said(caplog, "association_ended"))


def test_a_peer_that_we_keep_waiting_is_not_idle(tmp_path: Path) -> None:
    """Storing takes longer than the idle time: the peer waits for our answer, and sends the next object after it."""

    def take_long(name: str) -> None:
        if name == "durable.written":
            threading.Event().wait(1.5)

    set_checkpoint_hook(take_long)
    try:
        with receiving_node(tmp_path / "data", idle_timeout_s=1.0) as node, raw_client(node.port) as client:
            client.associate()
            objects = [made(1), made(2)]
            for one in objects:
                client.send(store_pdus(one.sop_class_uid, one.sop_instance_uid, one.dataset))
            assert [client.status(), client.status()] == [0x0000] * 2
            assert client.echo() == 0x0000
            client.release()
    finally:
        set_checkpoint_hook(None)


def test_two_messages_in_one_pdu_are_both_answered(small: ReceivingNode) -> None:
    empty = c_store_rq(MR_IMAGE, "1.2.3", has_dataset=False)
    with raw_client(small.port) as client:
        client.associate()
        client.send(
            pdu(
                4,
                (p_data(3, empty, is_command=True) * 2)[6 : 6 + len(empty) + 6] + p_data(3, empty, is_command=True)[6:],
            )
        )
        assert [client.status(), client.status()] == [0xC000] * 2
        client.release()
