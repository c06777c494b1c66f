"""A connection with limits: time, memory, another thread's abort, and TLS."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from dicomnode.dimse.budget import EXEMPT_BYTES, ByteBudget
from dicomnode.dimse.link import Ended, Link
from dicomnode.dimse.messages import ControlPdu, Message, PduType, Phase, ReadLimits
from dicomnode.wire import MR_IMAGE
from tests.support.certificates import self_signed
from tests.support.pdu import RELEASE_RQ_BYTES, store_pdus
from tests.support.wait import wait_until

LIMITS = ReadLimits(pdu_bytes=131072, dataset_bytes=64 << 20)
Pair = tuple[Link, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    link = Link(ours, Phase.ESTABLISHED, LIMITS)
    with theirs:
        yield link, theirs
    link.close()


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


def test_a_silent_peer_ends_at_the_time_given(pair: Pair) -> None:
    began_s = time.monotonic()
    assert pair[0].next_event(soon(0.3)) is Ended.TIMED_OUT
    assert 0.3 <= time.monotonic() - began_s < 9


def test_each_pdu_has_its_own_time_and_no_byte_moves_it(pair: Pair) -> None:
    link, theirs = pair
    stop = threading.Event()
    whole = store_pdus(MR_IMAGE, "1.2.3", bytes(2000), pdv_bytes=100)

    def drip() -> None:
        while not stop.wait(0.05):
            theirs.sendall(drops.pop(0))

    drops = [bytes([byte]) for byte in whole]
    dripping = threading.Thread(target=drip)
    dripping.start()
    began_s = time.monotonic()
    assert link.next_event(soon(60), pdu_timeout_s=0.4) is Ended.TIMED_OUT
    assert time.monotonic() - began_s < 30
    stop.set()
    dripping.join(30)


def test_a_long_object_in_many_pdus_may_take_longer_than_one_pdu(pair: Pair) -> None:
    link, theirs = pair
    content = store_pdus(MR_IMAGE, "1.2.3", bytes(1000), pdv_bytes=100)
    pieces = [content[at : at + 112] for at in range(0, len(content), 112)]
    pause = threading.Event()

    def send() -> None:
        for piece in pieces:
            theirs.sendall(piece)
            pause.wait(0.2)

    sending = threading.Thread(target=send)
    sending.start()
    event = link.next_event(soon(60), pdu_timeout_s=1.5)
    sending.join(30)
    assert isinstance(event, Message)
    assert event.dataset == bytearray(1000)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_peer_that_goes_is_an_ending(pair: Pair, how: str) -> None:
    link, theirs = pair
    theirs.sendall(store_pdus(MR_IMAGE, "1.2.3", bytes(1000))[:300])
    if how == "reset":
        theirs.shutdown(socket.SHUT_RDWR)
    theirs.close()
    assert link.next_event(soon()) in (Ended.CLOSED, Ended.LOST)


def test_an_abort_from_another_thread_wakes_the_reader_and_reaches_the_peer(pair: Pair) -> None:
    link, theirs = pair
    found: list[object] = []
    reading = threading.Thread(target=lambda: found.append(link.next_event(soon(60))))
    reading.start()
    link.abort(0, 0)
    reading.join(30)
    assert found == [Ended.ABORTED_HERE]
    assert theirs.recv(100) == bytes.fromhex("07 00 00000004 0000 00 00")


def test_what_was_said_last_arrives_though_the_peer_s_bytes_lie_unread() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    theirs.settimeout(10)
    link = Link(ours, Phase.ESTABLISHED, LIMITS)
    theirs.sendall(bytes(1 << 20))
    link.tell_abort(2, 1)

    def close() -> None:
        link.linger()
        link.close()

    closing = threading.Thread(target=close)
    closing.start()
    assert theirs.recv(100) == bytes.fromhex("07 00 00000004 0000 02 01")
    theirs.close()
    closing.join(30)
    assert not closing.is_alive()


def test_two_pdus_in_one_record_of_tls_are_two_events(tmp_path: Path) -> None:
    """The kernel has nothing more to say for the second: whoever asks it alone would wait for ever."""
    certificate, key = self_signed(tmp_path)
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=str(certificate))
    server.load_cert_chain(certificate, key)
    client.check_hostname = False
    plain = socket.socketpair()
    with ExitStack() as stack:
        theirs: list[socket.socket] = []
        shaking = threading.Thread(target=lambda: theirs.append(client.wrap_socket(plain[1])))
        shaking.start()
        link = Link(server.wrap_socket(plain[0], server_side=True), Phase.ESTABLISHED, LIMITS)
        shaking.join(30)
        stack.enter_context(theirs[0])
        theirs[0].sendall(store_pdus(MR_IMAGE, "1.2.3", bytes(100)) + RELEASE_RQ_BYTES)
        assert isinstance(link.next_event(soon()), Message)
        assert link.has_input()
        event = link.next_event(soon())
        assert isinstance(event, ControlPdu)
        assert event.kind is PduType.RELEASE_RQ
        link.maximum_pdu_bytes = 16384
        assert link.send(RELEASE_RQ_BYTES, soon()) is None
        assert theirs[0].recv(100) == RELEASE_RQ_BYTES
        link.close()


def test_large_objects_share_one_budget_and_the_oldest_always_goes_on() -> None:
    """Three senders of 4 MiB each over a budget of 6: nobody is refused, nobody stands still, two wait."""
    budget = ByteBudget(6 << 20, turn_s=20)
    objects = 3
    pairs = [socket.socketpair() for _ in range(objects)]
    links = [Link(ours, Phase.ESTABLISHED, LIMITS, budget=budget) for ours, _ in pairs]
    content = store_pdus(MR_IMAGE, "1.2.3", bytes(4 << 20), pdv_bytes=100_000)
    began, going_on = threading.Event(), threading.Event()
    received: list[int] = []

    def send(theirs: socket.socket) -> None:
        theirs.sendall(content)

    def receive(link: Link) -> None:
        event = link.next_event(soon(60), pdu_timeout_s=1.0)
        assert isinstance(event, Message), event
        received.append(len(event.dataset or b""))
        began.set()
        going_on.wait(10)
        link.close()  # gives the bytes back

    threads = [threading.Thread(target=send, args=(theirs,)) for _, theirs in pairs]
    threads += [threading.Thread(target=receive, args=(link,)) for link in links]
    for thread in threads:
        thread.start()
    assert began.wait(10)
    assert not going_on.wait(1.5), "longer than a PDU may take: who waits for memory is not blamed"
    assert budget.held_bytes <= (6 << 20) + (4 << 20)
    assert len(received) < objects
    going_on.set()
    for thread in threads:
        thread.join(20)
    assert received == [4 << 20] * objects
    wait_until(lambda: budget.held_bytes == 0)
    for _, theirs in pairs:
        theirs.close()


def test_small_objects_never_ask_the_budget() -> None:
    budget = ByteBudget(64 << 20, turn_s=20)
    assert budget.hold(1, EXEMPT_BYTES, 0)
    assert budget.held_bytes == 0


def test_a_link_that_waits_for_memory_can_be_ended() -> None:
    budget = ByteBudget(1 << 20, turn_s=20)
    assert budget.hold(0, 2 << 20, 0)  # the oldest, which never gives back
    ours, theirs = socket.socketpair()
    link = Link(ours, Phase.ESTABLISHED, LIMITS, budget=budget)
    found: list[object] = []
    reading = threading.Thread(target=lambda: found.append(link.next_event(soon(60))))

    def send() -> None:
        with suppress(OSError):
            theirs.sendall(store_pdus(MR_IMAGE, "1.2.3", bytes(3 << 20)))

    sending = threading.Thread(target=send)
    for thread in (reading, sending):
        thread.start()
    wait_until(lambda: budget.waiting == 1)
    link.cut()
    theirs.close()
    for thread in (reading, sending):
        thread.join(10)
    assert found == [Ended.ABORTED_HERE]
    link.close()
