"""A connection under TLS in any order of pieces: records that end anywhere, bytes that come late, an end at any byte.

The peer is OpenSSL without a socket, so that the machine decides which bytes of which record are on the way. It keeps
the messages that the peer wrote and how many of them have come whole. Whatever the order, the link must give exactly
these, each once, as soon as it is whole, and nothing before.
"""

from __future__ import annotations

import socket
import ssl
import tempfile
import threading
import time
from collections import deque
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from dicomnode.dimse.link import Ended, Link
from dicomnode.dimse.messages import Message, Phase, ReadLimits, encode_message
from dicomnode.wire import MR_IMAGE
from tests.support.certificates import Authority, caller, listener
from tests.support.pdu import c_echo_rq, store_pdus
from tests.support.thorough import times

LIMITS = ReadLimits(pdu_bytes=131072, dataset_bytes=1 << 20)
AT_ONCE_S = 0.01  # for what must not be there
SURELY_S = 30.0  # for what is there
PDU_BYTES = 16384


@cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of the node and of a peer that trusts it; made once."""
    with tempfile.TemporaryDirectory(prefix="link-machine-") as place:
        authority = Authority(Path(place) / "authority")
        return listener(authority, authority.issue("node")), caller(authority)


class LinkMachine(RuleBasedStateMachine):
    """One association under TLS, our end real, the other end a TLS engine whose bytes the machine hands over."""

    def __init__(self) -> None:
        super().__init__()
        ours, self.plain = socket.socketpair()
        self.plain.setblocking(False)
        self.link = Link(ours, Phase.ESTABLISHED, LIMITS)
        self.link.maximum_pdu_bytes = PDU_BYTES
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.wire = b""  # encrypted, and not handed over yet
        self.unwritten = b""  # of messages that are not encrypted yet
        self.coming: deque[tuple[int, bytes]] = deque()  # the last byte of each message, and its data set
        self.spoken = 0  # bytes of messages that were composed
        self.encrypted = 0  # of them
        self.records: deque[tuple[int, int]] = deque()  # where each ends: in the messages, on the wire
        self.ciphered = self.handed = 0  # bytes on the wire: made, handed over
        self.is_closed = False

    @initialize(version=st.sampled_from([ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]))
    def shake_hands(self, version: ssl.TLSVersion) -> None:
        server, client = contexts()
        client.minimum_version = client.maximum_version = version
        self.peer = client.wrap_bio(self.incoming, self.outgoing, server_side=False)
        client.minimum_version, client.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
        until_s = time.monotonic() + SURELY_S
        ended: list[Ended | None] = []
        shaking = threading.Thread(target=lambda: ended.append(self.link.secure(server, until_s, is_server=True)))
        shaking.start()
        is_over = False
        while shaking.is_alive() or not is_over:
            assert time.monotonic() < until_s
            self._take_in()
            try:
                self.peer.do_handshake()
                is_over = True
            except ssl.SSLWantReadError:
                pass
            self.plain.sendall(self.outgoing.read())
            time.sleep(0.0005)
        shaking.join()
        assert ended == [None]

    def teardown(self) -> None:
        self.link.close()
        self.plain.close()

    # The peer.

    @precondition(lambda self: not self.is_closed)
    @rule(size=st.sampled_from([0, 1, 2, 300, 5_000, 40_000]), pdv_bytes=st.sampled_from([1_000, 16_000]))
    def compose(self, size: int, pdv_bytes: int) -> None:
        """Compose a message; nothing of it is on the way yet."""
        content = bytes([self.spoken % 251]) * size
        pdus = store_pdus(MR_IMAGE, "1.2.3", content, pdv_bytes=pdv_bytes)
        self.unwritten += pdus
        self.spoken += len(pdus)
        self.coming.append((self.spoken, content))

    @precondition(lambda self: self.unwritten)
    @rule(size=st.sampled_from([1, 5, 6, 7, 80, 1_000, 16_384, 1 << 20]))
    def encrypt(self, size: int) -> None:
        """Make a record, or several, of the next bytes, wherever they end in a PDU."""
        while self.unwritten and size > 0:
            piece, self.unwritten = self.unwritten[: min(size, 16_384)], self.unwritten[min(size, 16_384) :]
            size -= len(piece)
            assert self.peer.write(piece) == len(piece)
            self.encrypted += len(piece)
            made = self.outgoing.read()
            self.wire += made
            self.ciphered += len(made)
            self.records.append((self.encrypted, self.ciphered))

    @precondition(lambda self: self.wire)
    @rule(size=st.sampled_from([1, 4, 5, 6, 100, 3_000, 1 << 20]))
    def hand_over(self, size: int) -> None:
        """Put the next bytes on the wire, wherever they end in a record; what does not fit waits."""
        try:
            sent = self.plain.send(self.wire[:size])
        except BlockingIOError:
            return
        self.wire = self.wire[sent:]
        self.handed += sent

    @precondition(lambda self: not self.is_closed)
    @rule(is_announced=st.booleans())
    def close(self, is_announced: bool) -> None:
        """End at any byte, with or without a word; what was not handed over never comes."""
        if is_announced and not self.wire:
            with suppress(ssl.SSLWantReadError):
                self.peer.unwrap()
            self.plain.send(self.outgoing.read())
        self.plain.shutdown(socket.SHUT_WR)
        self.is_closed, self.wire, self.unwritten = True, b"", b""

    # Our end.

    @rule()
    def read(self) -> None:
        """The next message where it has come whole, else nothing, however often one asks."""
        if self._is_whole():
            _, content = self.coming.popleft()
            event = self.link.next_event(time.monotonic() + SURELY_S)
            assert isinstance(event, Message)
            assert event.dataset is not None
            assert bytes(event.dataset) == content
        elif self.is_closed:
            ended = self.link.next_event(time.monotonic() + SURELY_S)
            assert ended in (Ended.CLOSED, Ended.LOST)
        else:
            assert self.link.next_event(time.monotonic() + AT_ONCE_S) is Ended.TIMED_OUT

    @precondition(lambda self: self.handed and not self.is_closed)
    @rule()
    def look(self) -> None:
        """Whoever asks whether there is input is never told no while a whole message lies there."""
        assert self.link.has_input() or not self._is_whole()

    @precondition(lambda self: not self.is_closed)
    @rule(size=st.sampled_from([0, 3, 20_000, 60_000]))
    def answer(self, size: int) -> None:
        """A message of ours arrives whole and in order, also while one of the peer's is half there."""
        command, dataset = c_echo_rq(), memoryview(bytes(size))
        wanted = b"".join(encode_message(1, command, dataset, maximum_pdu_bytes=PDU_BYTES))
        ended: list[Ended | None] = []
        until_s = time.monotonic() + SURELY_S
        sending = threading.Thread(target=lambda: ended.append(self.link.send_message(1, command, dataset, until_s)))
        sending.start()
        came = b""
        while len(came) < len(wanted):
            assert time.monotonic() < until_s
            self._take_in()
            try:
                came += self.peer.read(1 << 16)
            except ssl.SSLWantReadError:
                time.sleep(0.0005)
        sending.join()
        assert ended == [None]
        assert came == wanted

    def _is_whole(self) -> bool:
        """Has the first message come whole: is the record with its last byte on the wire, to its own last byte?"""
        if not self.coming:
            return False
        last, _ = self.coming[0]
        return any(plain >= last and wire <= self.handed for plain, wire in self.records)

    def _take_in(self) -> None:
        try:
            while content := self.plain.recv(1 << 16):
                self.incoming.write(content)
        except BlockingIOError:
            return


TestLinkMachine = pytest.mark.faults(pytest.mark.timeout(times(900, 3600))(LinkMachine.TestCase))
TestLinkMachine.settings = settings(
    max_examples=times(15, 2_000),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
