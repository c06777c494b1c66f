"""What hostile, broken and slow clients cost: a closed socket, and nobody else notices."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicomnode.ids import AeTitle
from dicomnode.receive.listener import CONNECTIONS_PER_ASSOCIATION
from dicomnode.seams import set_checkpoint_hook
from dicomnode.settings.peers import PeerSettings
from tests.receive.receiving_node import LOOPBACK, SCANNER, ReceivingNode, receiving_node
from tests.support.dicom import made
from tests.support.pdu import (
    ABORT,
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    MR_IMAGE,
    RawClient,
    associate_rq,
    c_store_rq,
    command,
    p_data,
    pdu,
    raw_client,
    store_pdus,
)
from tests.support.thorough import times
from tests.support.wait import wait_until

QUICK: dict[str, Any] = {"associate_timeout_s": 1.0, "pdu_timeout_s": 1.0, "idle_timeout_s": 15.0}
LOADED_S = 12.0  # what a loaded machine may take for what takes a second: less than the idle time


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ReceivingNode]:
    """A receiver with short timers, so that a test can wait for them."""
    with receiving_node(tmp_path / "data", **QUICK) as running:
        yield running


def threads() -> int:
    return sum(one.name.startswith("association-") for one in threading.enumerate())


def wait_until_quiet() -> None:
    wait_until(lambda: threads() == 0, what="every thread of an association has ended")


def test_a_connection_from_no_peers_network_is_closed_without_a_pdu(node: ReceivingNode) -> None:
    with raw_client(node.port, source="127.0.0.2") as client:
        client.send(associate_rq())
        assert client.is_closed()
    assert node.receiver.associations() == 0


@pytest.mark.parametrize("content", [b"", b"\x01\0\0", b"\x01\0\0\0\0\xff", associate_rq()[:50]])
def test_a_client_that_does_not_finish_its_request_is_closed_in_time(node: ReceivingNode, content: bytes) -> None:
    with raw_client(node.port) as client:
        client.send(content)
        began = time.monotonic()
        assert client.is_closed()
        assert time.monotonic() - began < LOADED_S
    wait_until_quiet()


def test_three_bytes_inside_an_association_end_it_in_time(node: ReceivingNode) -> None:
    with raw_client(node.port) as client:
        client.associate()
        client.send(b"\x04\0\0")
        answer = client.receive()
        assert answer is not None
        assert (answer.kind, answer.code) == (ABORT, (2, 0))
        assert client.is_closed()
    wait_until_quiet()


def test_bytes_that_drip_do_not_move_the_deadline(node: ReceivingNode) -> None:
    with raw_client(node.port) as client:
        client.associate()
        began = time.monotonic()
        with pytest.raises(ConnectionError):  # noqa: PT012 - at one of them
            for byte in p_data(3, c_store_rq(MR_IMAGE, "1.2.3"), is_command=True):
                client.send(bytes([byte]))
                threading.Event().wait(0.05)
        assert time.monotonic() - began < LOADED_S
    wait_until_quiet()


@pytest.mark.parametrize("kind", [1, 4])
def test_a_huge_pdu_is_aborted_from_its_header_alone(node: ReceivingNode, kind: int) -> None:
    before = psutil.Process().memory_info().rss
    with raw_client(node.port) as client:
        if kind == 4:
            client.associate()
        client.send(struct.pack(">BxL", kind, 1 << 30))
        answer = client.receive()
        assert answer is not None
        assert (answer.kind, answer.code) == (ABORT, (2, 6))
    assert psutil.Process().memory_info().rss - before < 32 << 20
    wait_until_quiet()


def test_a_pdu_of_the_agreed_length_passes_and_one_byte_more_does_not(node: ReceivingNode) -> None:
    one = made(1, size=512)
    with raw_client(node.port) as client:
        client.associate()
        assert client.store(MR_IMAGE, one.sop_instance_uid, one.dataset, pdv_bytes=131072 - 6) == 0x0000
        client.send(store_pdus(MR_IMAGE, one.sop_instance_uid, one.dataset, pdv_bytes=131072 + 1)[:200_000])
        answer = client.receive()
        assert answer is not None
        assert (answer.kind, answer.code) == (ABORT, (2, 6))


def test_a_command_without_end_is_stopped(tmp_path: Path) -> None:
    with receiving_node(tmp_path / "data", max_instance_mb=1) as node, raw_client(node.port) as client:
        client.associate()
        fragment = p_data(3, bytes(60000), is_command=True, is_last=False)
        with pytest.raises((ConnectionError, TimeoutError)):  # noqa: PT012 - somewhere in this stream
            for _ in range(1000):
                client.send(fragment)
        wait_until_quiet()


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: node\r\n\r\n", (2, 1)),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", (2, 1)),  # the hello of TLS
        (pdu(4, b"\0\0\0\2\1\3"), (2, 2)),  # data before an association
        (pdu(5, bytes(4)), (2, 2)),
        (pdu(1, b"short"), (2, 0)),
    ],
)
def test_garbage_is_aborted_and_its_slot_is_free_at_once(
    node: ReceivingNode, content: bytes, code: tuple[int, ...]
) -> None:
    with raw_client(node.port) as client:
        client.send(content)
        answer = client.receive()
        assert answer is not None
        assert (answer.kind, answer.code) == (ABORT, code)
    wait_until_quiet()


@pytest.mark.parametrize(
    "content",
    [
        p_data(3, command((0x100, b"\x99\x99")), is_command=True),  # unknown command
        p_data(3, b"\xff" * 40, is_command=True),
        p_data(3, b"", is_command=True),
        p_data(99, c_store_rq(MR_IMAGE, "1.2.3"), is_command=True),
        pdu(4, struct.pack(">L", 0)),
        pdu(4, struct.pack(">L", 1 << 30) + b"\1\3"),
        associate_rq(),
        pdu(2, bytes(100)),
    ],
)
def test_nonsense_inside_an_association_ends_it_and_nothing_else(
    node: ReceivingNode, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with raw_client(node.port) as bystander, raw_client(node.port) as client:
        bystander.associate()
        client.associate()
        with suppress(OSError):  # the node may have closed by then
            client.send(content)
            client.connection.shutdown(socket.SHUT_WR)
        while client.receive() is not None:
            pass
        assert bystander.echo() == 0x0000
    wait_until_quiet()
    assert "Traceback" not in capfd.readouterr().err


def test_a_pipelining_sender_is_held_back_by_tcp(node: ReceivingNode) -> None:
    """While the first object is being stored, at most one more is read: the rest stays with the sender."""
    gate = threading.Event()

    def wait_at_the_gate(name: str) -> None:
        if name == "durable.written":
            gate.wait(20)

    set_checkpoint_hook(wait_at_the_gate)
    objects = [made(number, size=512) for number in range(40)]
    before = psutil.Process().memory_info().rss
    try:
        with raw_client(node.port) as client:
            client.associate()
            content = b"".join(
                store_pdus(MR_IMAGE, one.sop_instance_uid, one.dataset, message=number + 1)
                for number, one in enumerate(objects)
            )
            grown_by_ourselves = psutil.Process().memory_info().rss - before
            sender = threading.Thread(target=client.send, args=(content,))
            sender.start()
            sender.join(1.0)
            assert sender.is_alive(), "20 MB fitted into the buffers"
            assert psutil.Process().memory_info().rss - before - grown_by_ourselves < 16 << 20
            gate.set()
            assert [client.status() for _ in objects] == [0x0000] * len(objects)
            sender.join(30)
            client.release()
    finally:
        gate.set()
        set_checkpoint_hook(None)


def test_idle_visitors_do_not_take_the_place_of_associations(tmp_path: Path) -> None:
    with receiving_node(tmp_path / "data", max_associations=2, max_per_address=2) as node, ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(raw_client(node.port))  # silent
        clients = [stack.enter_context(raw_client(node.port)) for _ in range(2)]
        for client in clients:
            answer = client.associate()
            assert answer is not None
            assert answer.kind == ASSOCIATE_AC


def test_the_limits_of_all_and_of_one_address_are_answered(tmp_path: Path) -> None:
    other = PeerSettings(name="b", ae_title=AeTitle("B"), networks=(ip_network("127.0.0.2"),))
    limits: dict[str, Any] = {"max_associations": 3, "max_per_address": 2}
    with receiving_node(tmp_path / "data", peers=[SCANNER, other], **limits) as node, ExitStack() as stack:

        def ask(source: str, calling: bytes) -> tuple[int, ...] | None:
            client = stack.enter_context(raw_client(node.port, source=source))
            answer = client.associate(associate_rq(calling=calling))
            assert answer is not None
            return answer.code if answer.kind == ASSOCIATE_RJ else None

        assert [ask("127.0.0.1", b"TEST") for _ in range(3)] == [None, None, (2, 3, 2)]
        assert [ask("127.0.0.2", b"B") for _ in range(2)] == [None, (2, 3, 2)]


def test_sockets_beyond_any_reason_are_closed_at_accept(tmp_path: Path) -> None:
    with receiving_node(tmp_path / "data", max_per_address=2) as node, ExitStack() as stack:
        silent = [stack.enter_context(raw_client(node.port)) for _ in range(CONNECTIONS_PER_ASSOCIATION * 2)]
        wait_until(lambda: len(node.receiver._live()) == len(silent))
        assert stack.enter_context(raw_client(node.port)).is_closed()


def test_an_idle_association_is_ended(tmp_path: Path) -> None:
    with receiving_node(tmp_path / "data", idle_timeout_s=0.5) as node, raw_client(node.port) as client:
        client.associate()
        answer = client.receive()
        assert answer is not None
        assert (answer.kind, answer.code) == (ABORT, (2, 0))
        wait_until_quiet()


@pytest.mark.alone
def test_an_idle_association_costs_no_processor(tmp_path: Path) -> None:
    """The library's threads alone take 2 % of a core for each."""
    with receiving_node(tmp_path / "data", max_per_address=32) as node, ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(raw_client(node.port)).associate()
        before = time.process_time()
        threading.Event().wait(2.0)
        assert time.process_time() - before < 0.2


def test_every_association_gives_its_descriptors_back(node: ReceivingNode) -> None:
    def visit() -> None:
        with raw_client(node.port) as client:
            client.associate()
            client.echo()
            client.release()
        with raw_client(node.port) as client:
            client.associate(associate_rq(called=b"WRONG"))
        with raw_client(node.port) as client:
            client.send(b"GET / HTTP/1.1\r\n")
        wait_until_quiet()

    visit()
    before = psutil.Process().num_fds()
    for _ in range(5):
        visit()
    assert psutil.Process().num_fds() <= before


@pytest.mark.faults
@pytest.mark.timeout(times(900, 1800))
@settings(max_examples=times(40, 1_000), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.lists(st.binary(max_size=300), max_size=3), is_associated=st.booleans(), kind=st.integers(0, 9))
def test_random_bytes_end_their_own_connection_only(
    fuzzed: ReceivingNode, content: list[bytes], is_associated: bool, kind: int
) -> None:
    with raw_client(fuzzed.port) as client:
        if is_associated:
            client.associate()
        with suppress(OSError):  # the node may have closed by then
            for part in content:
                client.send(pdu(kind, part) if kind else part)
            client.connection.shutdown(socket.SHUT_WR)
        while client.receive() is not None:
            pass
    with raw_client(fuzzed.port) as client:
        client.associate()
        assert client.echo() == 0x0000


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReceivingNode]:
    """One node for all examples: it must survive every one of them."""
    with receiving_node(tmp_path_factory.mktemp("fuzzed") / "data", **QUICK) as running:
        yield running
        assert not running.files()


def test_a_peer_that_resets_does_not_disturb(node: ReceivingNode) -> None:
    client: RawClient
    with raw_client(node.port) as client:
        client.associate()
        client.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with raw_client(node.port) as client:
        client.associate()
        assert client.echo() == 0x0000
    wait_until(lambda: node.receiver.associations() <= 1)


def test_networks_of_ipv4_are_kept(tmp_path: Path) -> None:
    peer = PeerSettings(name="a", ae_title=AeTitle("TEST"), networks=(*LOOPBACK, ip_network("127.0.0.16/28")))
    with receiving_node(tmp_path / "data", peers=[peer]) as node:
        for source, is_in in [("127.0.0.17", True), ("127.0.0.33", False)]:
            with raw_client(node.port, source=source) as client:
                client.send(associate_rq())
                assert (client.receive() is not None) is is_in


def test_stopping_ends_whoever_has_not_asked_or_sends_half_a_pdu(tmp_path: Path) -> None:
    with ExitStack() as stack:
        with receiving_node(tmp_path / "data") as node:
            silent, half = (stack.enter_context(raw_client(node.port)) for _ in range(2))
            half.associate()
            half.send(b"\x04\0\0\0\xff\0abc")
            wait_until(lambda: len(node.receiver._live()) == 2)
            began = time.monotonic()
            node.receiver.stop(0.0)
            assert time.monotonic() - began < LOADED_S
        assert silent.is_closed()
        wait_until_quiet()
