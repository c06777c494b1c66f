"""One connection of an association: whole events in, whole messages out, every wait with a limit.

One thread reads and writes; only ``abort`` may come from another. The socket does not block: each read and write is
tried first, and only where the kernel (or TLS) has nothing to give the thread sleeps until that changes. So bytes that
TLS has decrypted already are never waited for, and a read of bytes that are there is one system call. Nothing here
raises for what a peer does or fails to do: the end of a connection is an ``Ended``.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from functools import partial

from dicomnode.dimse.budget import LOOK_S, ByteBudget
from dicomnode.dimse.messages import READ_BYTES, Event, PduReader, Phase, ReadLimits, encode_abort, encode_message
from dicomnode.tls.certificate import Certificate
from dicomnode.tls.connection import TlsSocket, why

ABORT_WAIT_S = 0.2  # for a write of the association's own thread that is about to end
LINGER_S = 1.0
LINGER_READS = 256  # of a peer that goes on sending: 16 MiB
_WRITE_BYTES = 1 << 18  # PDUs of 16 KiB, as many peers want them, go out so many at a time


class Ended(StrEnum):
    """Reasons for which an association has no next event."""

    CLOSED = "closed"  # by the peer
    LOST = "lost"  # reset, or reported as broken by the network
    TIMED_OUT = "timed_out"
    TOO_SLOW = "too_slow"  # others wait for the memory that its object holds
    ABORTED_HERE = "aborted_here"  # by ``abort``


class Link:
    """A connected socket that speaks PDUs, plain or, after ``secure``, under TLS."""

    def __init__(
        self, connected: socket.socket, phase: Phase, limits: ReadLimits, *, budget: ByteBudget | None = None
    ) -> None:
        connected.setblocking(False)
        self._socket: socket.socket | TlsSocket = connected
        self.certificate: Certificate | None = None  # the one that the peer presented
        self.tls_failure = ""  # why TLS ended the connection, in words
        self._reader = PduReader(phase, limits)
        self._budget = budget
        self._writing = threading.Lock()
        self._is_aborted = False
        self._pdu_began: tuple[int, float] | None = None  # which PDU, and when its first byte was seen
        self.maximum_pdu_bytes = 0  # the longest that the peer takes; from the negotiation

    @property
    def phase(self) -> Phase:
        """The phase of the association; it decides which PDUs the peer may send."""
        return self._reader.phase

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self._reader.phase = phase

    @property
    def is_inside_pdu(self) -> bool:
        """Has a PDU of the peer's begun that is not whole?"""
        return self._reader.is_inside_pdu

    @property
    def was_aborted(self) -> bool:
        """Did ``abort`` or ``cut`` end the connection?"""
        return self._is_aborted

    def secure(
        self, context: ssl.SSLContext, until_s: float, *, is_server: bool, host: str | None = None
    ) -> Ended | None:
        """Begin TLS before the first PDU; None where the handshake succeeded.

        ``host``: the peer that we called, for its certificate. Of a failure that the peer caused, ``tls_failure`` says
        what it was.
        """
        try:
            self._socket = secured = TlsSocket(self._plain(), context, is_server=is_server, host=host)
        except (OSError, ValueError):
            return Ended.LOST
        if self._is_aborted:  # by ``cut``, which may have shut down the socket that TLS took over
            return Ended.ABORTED_HERE
        done = self._when_ready(secured.do_handshake, select.POLLIN, until_s)
        if isinstance(done, Ended):
            return done
        self.certificate = secured.certificate()
        return None

    def next_event(self, until_s: float, *, pdu_timeout_s: float | None = None) -> Event | Ended:
        """Wait for the next event of the peer, until ``until_s`` of the monotonic clock.

        ``pdu_timeout_s``: a PDU that has begun gets so long from its first byte, whatever ``until_s`` is.
        """
        if self._budget is not None:
            self._budget.give_back(id(self))  # the message before this one is done with
        while (event := self._reader.next_event()) is None:
            if self._is_aborted:
                return Ended.ABORTED_HERE
            if (ended := self._wait_for_room()) is not None:
                return ended
            deadline_s = until_s
            if pdu_timeout_s is not None and self._reader.is_inside_pdu:
                deadline_s = self._seconds_of_pdu() + pdu_timeout_s
            if (ended := self._read(deadline_s)) is not None:
                return ended
        return event

    def has_input(self) -> bool:
        """Is there anything from the peer that was not read yet, its end of the connection included?"""
        if self._reader.is_inside_pdu:
            return True
        if isinstance(self._socket, TlsSocket):
            return self._has_read(self._socket)
        try:
            waiting = select.poll()
            waiting.register(self._socket, select.POLLIN)
            return bool(waiting.poll(0))
        except (OSError, ValueError):
            return True

    def _has_read(self, secured: TlsSocket) -> bool:
        """Read what is there: only TLS can tell bytes of the peer from bytes of its own protocol."""
        try:
            size = secured.recv_into(self._reader.free())
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except (OSError, ValueError) as exc:
            self._note_failure(exc)
            return True  # the next event says that it is over
        self._reader.received(size)
        return True

    def send(self, content: bytes | bytearray, until_s: float) -> Ended | None:
        """Write bytes; None where they are on their way."""
        with self._writing:
            return self._send(content, until_s)

    def send_message(
        self, context_id: int, command: bytes, dataset: bytes | memoryview | None, until_s: float
    ) -> Ended | None:
        """Write one message in PDUs that the peer takes; None where it is on its way."""
        waiting = bytearray()
        with self._writing:
            for part in encode_message(context_id, command, dataset, maximum_pdu_bytes=self.maximum_pdu_bytes):
                waiting += part
                if len(waiting) >= _WRITE_BYTES:
                    if (ended := self._send(waiting, until_s)) is not None:
                        return ended
                    waiting.clear()
            return self._send(waiting, until_s)

    def tell_abort(self, source: int, reason: int) -> None:
        """Send an A-ABORT, if a PDU can still be sent; the reading thread then lingers and closes."""
        if self._writing.acquire(timeout=ABORT_WAIT_S):  # else a PDU is half out, and nothing can be said any more
            try:
                self._send(encode_abort(source, reason), time.monotonic() + ABORT_WAIT_S)
            finally:
                self._writing.release()

    def abort(self, source: int, reason: int) -> None:
        """Send an A-ABORT and end at once, from any thread; a thread that waits for an event or a write is woken."""
        self.tell_abort(source, reason)  # before the other thread is woken, which closes the connection
        self.cut()

    def cut(self) -> None:
        """End at once without an A-ABORT. It wakes a thread that reads or writes, which closing would not."""
        self._is_aborted = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def linger(self) -> None:
        """Wait, after the last PDU, until the peer closes, for a limited time (ARTIM timer, PS3.8 section 9.1.5).

        To close while bytes of the peer lie unread would reset the connection, and what we said last would be lost.
        """
        until_s = time.monotonic() + LINGER_S
        self._say_end()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            unread = bytearray(READ_BYTES)
            for _ in range(LINGER_READS):
                size = self._when_ready(partial(self._socket.recv_into, unread), select.POLLIN, until_s)
                if isinstance(size, Ended) or not size:
                    return

    def close(self) -> None:
        """Close the socket and free the memory; only by the thread that reads."""
        if self._budget is not None:
            self._budget.give_back(id(self))
        self._say_end()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _plain(self) -> socket.socket:
        assert isinstance(self._socket, socket.socket), "under TLS already"
        return self._socket

    def _note_failure(self, error: Exception) -> None:
        if isinstance(error, ssl.SSLError):
            self.tls_failure = self.tls_failure or why(error)

    def _say_end(self) -> None:
        if isinstance(self._socket, TlsSocket):
            self._socket.say_end()

    def _seconds_of_pdu(self) -> float:
        """Return when the PDU began that is not whole yet, by the monotonic clock."""
        if self._pdu_began is None or self._pdu_began[0] != self._reader.pdus:
            self._pdu_began = self._reader.pdus, time.monotonic()
        return self._pdu_began[1]

    def _wait_for_room(self) -> Ended | None:
        """Wait until more of an object may be read. That time does not count against the peer: its PDU begins anew."""
        if self._budget is None or not self._reader.held_bytes:
            return None
        wanted = self._reader.held_bytes + len(self._reader.free())
        if wanted <= self._budget.exempt_bytes:  # without its lock: an ordinary slice never gets beyond
            return None
        if self._budget.is_late(id(self)):
            return Ended.TOO_SLOW
        while not self._budget.hold(id(self), wanted, LOOK_S):
            self._pdu_began = None
            if self._is_aborted:
                return Ended.ABORTED_HERE
        return None

    def _read(self, deadline_s: float) -> Ended | None:
        until_s = deadline_s
        if self._budget is not None and self._reader.held_bytes > self._budget.exempt_bytes:
            until_s = min(deadline_s, time.monotonic() + LOOK_S)
        size = self._when_ready(partial(self._socket.recv_into, self._reader.free()), select.POLLIN, until_s)
        if size is Ended.TIMED_OUT and until_s < deadline_s:
            return None  # to look whether others wait for the memory meanwhile
        if isinstance(size, Ended):
            return size
        if not size:
            return Ended.ABORTED_HERE if self._is_aborted else Ended.CLOSED
        self._reader.received(size)
        return None

    def _send(self, content: bytes | bytearray, until_s: float) -> Ended | None:
        left = memoryview(content)
        while left:
            size = self._when_ready(partial(self._socket.send, left), select.POLLOUT, until_s)
            if isinstance(size, Ended):
                return size
            left = left[size:]
        return None

    def _when_ready(self, operation: Callable[[], int], event: int, until_s: float) -> int | Ended:
        """Do what never blocks, as soon as it can be done; ``event``: what ``poll`` waits for until then."""
        left_s = until_s - time.monotonic()
        while left_s > 0:
            try:
                return operation()
            except BlockingIOError:
                wanted = event
            except ssl.SSLWantReadError:  # TLS may have to read in order to write, and the reverse
                wanted = select.POLLIN
            except ssl.SSLWantWriteError:
                wanted = select.POLLOUT
            except (OSError, ValueError) as exc:  # ValueError: closed
                self._note_failure(exc)
                return Ended.ABORTED_HERE if self._is_aborted else Ended.LOST
            with contextlib.suppress(OSError, ValueError):
                waiting = select.poll()
                waiting.register(self._socket, wanted)
                waiting.poll(left_s * 1000)
            left_s = until_s - time.monotonic()
        return Ended.TIMED_OUT
