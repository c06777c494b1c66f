"""A connection with limits: time, memory, another thread's abort, and TLS."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from dicomnode.dimse.budget import EXEMPT_BYTES, ByteBudget
from dicomnode.dimse.link import Ended, Link
from dicomnode.dimse.messages import ControlPdu, Message, PduType, Phase, ReadLimits
from dicomnode.wire import MR_IMAGE
from tests.support.certificates import Authority, caller, listener
from tests.support.pdu import RELEASE_RQ_BYTES, associate_rq, store_pdus
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


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a server, and of a client that trusts it."""
    authority = Authority(tmp_path_factory.mktemp("tls"))
    return listener(authority, authority.issue("node")), caller(authority)


@contextmanager
def secured(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], *, budget: ByteBudget | None = None
) -> Iterator[tuple[Link, ssl.SSLSocket]]:
    """An established association under TLS: our end, and the peer's as its library has it."""
    server, client = contexts
    ours, plain = socket.socketpair()
    link = Link(ours, Phase.ESTABLISHED, LIMITS, budget=budget)
    link.maximum_pdu_bytes = 16384
    shaken: list[object] = []
    shaking = threading.Thread(target=lambda: shaken.append(link.secure(server, soon(), is_server=True)))
    shaking.start()
    plain.settimeout(10)
    with client.wrap_socket(plain, suppress_ragged_eofs=False) as theirs:
        shaking.join(30)
        assert shaken == [None]
        yield link, theirs
    link.close()


Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


def test_two_pdus_in_one_record_of_tls_are_two_events(contexts: Contexts) -> None:
    """The kernel has nothing more to say for the second: whoever asks it alone would wait for ever."""
    with secured(contexts) as (link, theirs):
        theirs.sendall(store_pdus(MR_IMAGE, "1.2.3", bytes(100)) + RELEASE_RQ_BYTES)
        assert isinstance(link.next_event(soon()), Message)
        assert link.has_input()
        event = link.next_event(soon())
        assert isinstance(event, ControlPdu)
        assert event.kind is PduType.RELEASE_RQ
        assert link.send(RELEASE_RQ_BYTES, soon()) is None
        assert theirs.recv(100) == RELEASE_RQ_BYTES


def test_what_tls_sends_for_itself_is_no_input(contexts: Contexts) -> None:
    """A server of TLS 1.3 sends session tickets after the handshake: whoever waits for a PDU then waits in vain."""
    server, client = contexts
    plain, ours = socket.socketpair()
    shaken: list[ssl.SSLSocket] = []
    shaking = threading.Thread(target=lambda: shaken.append(server.wrap_socket(plain, server_side=True)))
    shaking.start()
    link = Link(ours, Phase.ESTABLISHED, LIMITS)
    assert link.secure(client, soon(), is_server=False, host="localhost") is None
    shaking.join(30)
    with shaken[0] as theirs:
        assert not link.has_input()
        theirs.sendall(RELEASE_RQ_BYTES[:2])
        wait_until(link.has_input)
        theirs.sendall(RELEASE_RQ_BYTES[2:])
        assert isinstance(link.next_event(soon()), ControlPdu)
    link.close()


def test_records_may_end_anywhere_in_a_pdu(contexts: Contexts) -> None:
    content = store_pdus(MR_IMAGE, "1.2.3", bytes(range(256)) * 4, pdv_bytes=200)
    with secured(contexts) as (link, theirs):
        for at in range(0, len(content), 67):
            theirs.sendall(content[at : at + 67])
        event = link.next_event(soon())
        assert isinstance(event, Message)
        assert event.dataset == bytearray(range(256)) * 4


@pytest.mark.parametrize("content", [b"", b"\x04\0\0"])
def test_a_silent_peer_under_tls_ends_at_the_time_given(contexts: Contexts, content: bytes) -> None:
    with secured(contexts) as (link, theirs):
        if content:
            theirs.sendall(content)
        began_s = time.monotonic()
        assert link.next_event(soon(0.3), pdu_timeout_s=0.3) is Ended.TIMED_OUT
        assert time.monotonic() - began_s < 9


@pytest.mark.parametrize("is_announced", [True, False])
def test_a_peer_that_closes_with_or_without_a_notice_has_closed(contexts: Contexts, is_announced: bool) -> None:
    with secured(contexts) as (link, theirs):
        theirs.sendall(RELEASE_RQ_BYTES[:3])
        theirs.setblocking(False)
        if is_announced:
            with suppress(ssl.SSLWantReadError):
                theirs.unwrap()
        socket.socket.shutdown(theirs, socket.SHUT_WR)
        assert link.next_event(soon()) is Ended.CLOSED


def test_our_own_end_is_announced(contexts: Contexts) -> None:
    with secured(contexts) as (link, theirs):
        link.tell_abort(2, 1)
        lingering = threading.Thread(target=link.linger)
        lingering.start()
        assert theirs.recv(100) == bytes.fromhex("07 00 00000004 0000 02 01")
        assert theirs.recv(100) == b"", "an end without a notice would be an error now"
        theirs.close()
        lingering.join(30)


def test_another_thread_may_end_it_while_a_peer_sends_under_tls(contexts: Contexts) -> None:
    """What is still encrypted in the kernel is never taken for a PDU."""
    for _ in range(20):
        with secured(contexts) as (link, theirs):
            found: list[object] = []

            def read(link: Link, found: list[object]) -> None:
                while isinstance(event := link.next_event(soon(60)), Message):
                    pass
                found.append(event)

            def send(theirs: ssl.SSLSocket) -> None:
                with suppress(OSError):
                    for _ in range(1000):
                        theirs.sendall(store_pdus(MR_IMAGE, "1.2.3", bytes(100_000)))

            threads = [threading.Thread(target=read, args=(link, found)), threading.Thread(target=send, args=(theirs,))]
            for thread in threads:
                thread.start()
            threading.Event().wait(0.02)
            link.abort(0, 0)
            for thread in threads:
                thread.join(30)
            assert found == [Ended.ABORTED_HERE]


def test_the_budget_holds_under_tls(contexts: Contexts) -> None:
    budget = ByteBudget(1 << 20, turn_s=20)
    assert budget.hold(0, 2 << 20, 0)  # somebody else's, which never gives back
    with secured(contexts, budget=budget) as (link, theirs):
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


def test_a_handshake_that_stands_still_ends_at_the_time_given_or_when_it_is_cut(contexts: Contexts) -> None:
    for content in (b"", b"\x16\x03\x01"):
        ours, theirs = socket.socketpair()
        link = Link(ours, Phase.AWAITING_REQUEST, LIMITS)
        with theirs:
            theirs.sendall(content)
            assert link.secure(contexts[0], soon(0.2), is_server=True) is Ended.TIMED_OUT
        link.close()
    ours, theirs = socket.socketpair()
    link = Link(ours, Phase.AWAITING_REQUEST, LIMITS)
    found: list[object] = []
    shaking = threading.Thread(target=lambda: found.append(link.secure(contexts[0], soon(60), is_server=True)))
    shaking.start()
    threading.Event().wait(0.1)
    link.cut()
    shaking.join(10)
    assert found[0] in (Ended.ABORTED_HERE, Ended.LOST)
    link.close()
    theirs.close()


def test_what_is_not_tls_is_said_in_words(contexts: Contexts) -> None:
    ours, theirs = socket.socketpair()
    link = Link(ours, Phase.AWAITING_REQUEST, LIMITS)
    with theirs:
        theirs.sendall(associate_rq())
        assert link.secure(contexts[0], soon(), is_server=True) is Ended.LOST
    assert link.tls_failure == "what the peer sent is not TLS"
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
