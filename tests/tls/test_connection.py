"""A read of a connection under TLS returns all bytes that are there, and those before a failure first."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.settings.models import TlsSettings
from dicomnode.tls.connection import TlsSocket
from dicomnode.tls.identity import Identity
from tests.support.certificates import Authority, caller
from tests.support.wait import wait_until

RECORD = 1 << 14
LIMIT_S = 20.0


class Pair:
    """Our end, and the peer's below which a test can write whatever it wants."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder)
        ours = authority.issue("node")
        identity = Identity(
            TlsSettings(
                listen="127.0.0.1:1", certificate=str(ours.certificate), key=str(ours.key),
                ca=str(authority.certificate),
            )
        )  # fmt: skip
        here, there = socket.socketpair()
        for one in (here, there):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.ours = TlsSocket(here, identity.listening(), is_server=True, host=None)
        context = caller(authority, authority.issue("mr1"))
        connected: list[ssl.SSLSocket] = []
        calling = threading.Thread(target=lambda: connected.append(context.wrap_socket(there)))
        calling.start()
        wait_until(self._is_secured, LIMIT_S, "the handshake is over")
        calling.join(LIMIT_S)
        (self.theirs,) = connected

    def _is_secured(self) -> bool:
        try:
            self.ours.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        return True

    def readable(self) -> None:
        """Wait until something of the peer's lies there."""
        waiting = select.poll()
        waiting.register(self.ours, select.POLLIN)
        assert waiting.poll(LIMIT_S * 1000)

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    yield pair
    pair.close()


def test_all_records_that_are_there_come_with_one_read(pair: Pair) -> None:
    content = bytes(range(256)) * (5 * RECORD // 256)
    for at in range(0, len(content), 1000):
        pair.theirs.send(content[at : at + 1000])
    buffer = bytearray(4 * RECORD)
    assert pair.ours.recv_into(buffer) == len(buffer)
    assert buffer == content[: len(buffer)]
    assert pair.ours.recv_into(buffer) == len(content) - len(buffer)
    assert buffer[: len(content) - len(buffer)] == content[len(buffer) :]
    with pytest.raises(ssl.SSLWantReadError):
        pair.ours.recv_into(buffer)


def test_what_came_before_a_broken_record_is_given_out_before_the_failure(pair: Pair) -> None:
    pair.theirs.send(b"whole")
    socket.socket.send(pair.theirs, b"\x17\x03\x03\x00\x20" + bytes(32))
    pair.readable()
    buffer = bytearray(RECORD)
    assert pair.ours.recv_into(buffer) == 5
    with pytest.raises(ssl.SSLError) as failed:
        pair.ours.recv_into(buffer)
    assert failed.value.reason == "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"


@pytest.mark.parametrize("is_announced", [True, False])
def test_the_end_comes_after_the_last_bytes_and_again(pair: Pair, *, is_announced: bool) -> None:
    pair.theirs.send(b"last")
    if is_announced:
        pair.theirs.setblocking(False)
        with pytest.raises(ssl.SSLWantReadError):
            pair.theirs.unwrap()
    else:
        socket.socket.shutdown(pair.theirs, socket.SHUT_WR)
    pair.readable()
    buffer = bytearray(RECORD)
    assert [pair.ours.recv_into(buffer) for _ in range(3)] == [4, 0, 0]
