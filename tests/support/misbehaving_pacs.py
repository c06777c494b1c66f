"""A PACS that answers by script: given statuses, silence, aborts, lost answers, rejections; it writes down all it got.

It speaks DICOM through pynetdicom's acceptor. What no DICOM library can be brought to do (not to read, not to answer
at all) stands below as bare sockets.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event

from dicomnode.ids import digest
from dicomnode.wire import MAXIMUM_PDU_BYTES, MR_IMAGE, UNCOMPRESSED, VERIFICATION
from tests.support.pdu import ASSOCIATE_AC, EXPLICIT, P_DATA, RELEASE_RP, command, item, p_data, pdu

HANG_LIMIT_S = 60.0
SETTLE_S = 1.0
RELEASE_RQ = 5


class Trick(StrEnum):
    """Things that the PACS does in place of an answer."""

    HANG = "hang"  # until ``let_go``
    ABORT = "abort"
    LOSE_ANSWER = "lose_answer"  # it stored the instance, then the connection breaks
    HALF_ANSWER = "half_answer"  # three bytes of a PDU, then silence until ``let_go``


Answer = int | Dataset | Trick


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A C-STORE request, answered or not."""

    sop_instance_uid: str
    transfer_syntax_uid: str
    sha256: str
    dataset: bytes
    association: int  # 1 for the first


class MisbehavingPacs:
    """Listens while it is open; without a script it stores everything."""

    def __init__(
        self,
        *,
        ae_title: str = "PACS",
        accepts: Sequence[tuple[str, Sequence[str]]] = ((MR_IMAGE, UNCOMPRESSED),),
        maximum_pdu_bytes: int = MAXIMUM_PDU_BYTES,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._tls = tls
        self.answers: deque[Answer] = deque()  # one for each C-STORE; then success
        self.rejections: deque[tuple[int, int, int]] = deque()  # one for each association; then acceptance
        self.hangs_up = False  # at every association request
        self.requested = 0  # associations
        self.arrivals: list[Arrival] = []
        self.let_go = threading.Event()
        self._port = port
        self._lock = threading.Lock()
        self._numbers: dict[int, int] = {}  # association's identity → its number
        self._sockets: dict[int, socket.socket] = {}
        self._entity = AE(ae_title=ae_title)
        self._entity.maximum_pdu_size = maximum_pdu_bytes
        self._entity.add_supported_context(VERIFICATION)
        for sop_class, syntaxes in accepts:
            self._entity.add_supported_context(sop_class, list(syntaxes))

    @property
    def port(self) -> int:
        """The port that it listens on, or listened on before it was closed."""
        return self._port

    def start(self) -> None:
        """Listen; after ``stop`` on the same port."""
        handlers: list[evt.EventHandlerType] = [
            (evt.EVT_CONN_OPEN, self._open),
            (evt.EVT_CONN_CLOSE, self._close),
            (evt.EVT_REQUESTED, self._request),
            (evt.EVT_C_ECHO, lambda _event: 0x0000),
            (evt.EVT_C_STORE, self._store),
        ]
        server = self._entity.start_server(
            ("127.0.0.1", self._port), block=False, evt_handlers=handlers, ssl_context=self._tls
        )
        assert server is not None
        assert server.socket is not None
        self._port = int(server.socket.getsockname()[1])

    def stop(self) -> None:
        """Stop listening, as a PACS that is switched off."""
        self.let_go.set()
        self._entity.shutdown()
        while self._sockets:  # of associations that ended while it was shut down
            self._sockets.popitem()[1].close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.let_go.set()
        until_s = time.monotonic() + SETTLE_S
        while not self.is_idle() and time.monotonic() < until_s:  # the library fails where it ends what is ending
            threading.Event().wait(0.01)
        self.stop()

    def release_all(self) -> None:
        """Ask for the release of every open association, as a PACS that closes idle ones."""
        for association in self._entity.active_associations:
            association.acse.send_release(is_response=False)

    def is_idle(self) -> bool:
        """Is no association open, so that nothing more can arrive?"""
        return not self._entity.active_associations

    def digests(self) -> dict[str, set[str]]:
        """SOP Instance UID → the digests under which it came."""
        with self._lock:
            found: dict[str, set[str]] = {}
            for arrival in self.arrivals:
                found.setdefault(arrival.sop_instance_uid, set()).add(arrival.sha256)
            return found

    def _open(self, event: Event) -> None:
        wrapped = event.assoc.dul.socket
        if wrapped is not None and wrapped.socket is not None:
            self._sockets[id(event.assoc)] = wrapped.socket

    def _close(self, event: Event) -> None:
        """The library leaves the socket open where the peer closed its end first."""
        if (left := self._sockets.pop(id(event.assoc), None)) is not None:
            left.close()

    def _request(self, event: Event) -> None:
        with self._lock:
            self.requested += 1
            self._numbers[id(event.assoc)] = self.requested
            rejection = self.rejections.popleft() if self.rejections else None
        if self.hangs_up:
            self.let_go.wait(HANG_LIMIT_S)
        if rejection is not None:
            event.assoc.acse.send_reject(*rejection)
            event.assoc.kill()  # else the socket is shut before the PDU leaves

    def _store(self, event: Event) -> int | Dataset:
        request = event.request
        assert isinstance(request, C_STORE)
        assert request.DataSet is not None
        content = request.DataSet.getvalue()
        arrival = Arrival(
            sop_instance_uid=str(request.AffectedSOPInstanceUID),
            transfer_syntax_uid=str(event.context.transfer_syntax),
            sha256=digest(content),
            dataset=content,
            association=self._numbers[id(event.assoc)],
        )
        with self._lock:
            self.arrivals.append(arrival)
            answer = self.answers.popleft() if self.answers else 0x0000
        match answer:
            case Trick():
                self._play(event, answer)
                return 0x0000
            case _:
                return answer

    def _play(self, event: Event, trick: Trick) -> None:
        wrapped = event.assoc.dul.socket
        assert wrapped is not None
        assert wrapped.socket is not None
        match trick:
            case Trick.HANG:
                self.let_go.wait(HANG_LIMIT_S)
            case Trick.ABORT:
                event.assoc.abort()
            case Trick.LOSE_ANSWER:
                wrapped.socket.shutdown(socket.SHUT_RDWR)
            case Trick.HALF_ANSWER:
                wrapped.socket.sendall(b"\x04\x00\x00")
                self.let_go.wait(HANG_LIMIT_S)


@contextmanager
def silent_listener() -> Iterator[int]:
    """Takes connections and says nothing; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@contextmanager
def stalling_relay(target_port: int, *, after_bytes: int) -> Iterator[int]:
    """Hands everything on to a real peer, but reads nothing more after so many bytes of the caller; its port."""
    done = threading.Event()
    sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def hand_on(source: socket.socket, target: socket.socket, limit_bytes: int | None) -> None:
        handed = 0
        while limit_bytes is None or handed < limit_bytes:
            try:
                chunk = source.recv(4096)
                target.sendall(chunk)
            except OSError:
                return
            handed += len(chunk)
            if not chunk:
                return
        done.wait(HANG_LIMIT_S)

    def listen() -> None:
        try:
            caller, _ = listener.accept()
        except OSError:
            return
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer = socket.create_connection(("127.0.0.1", target_port))
        sockets.extend((caller, peer))
        for source, target, limit_bytes in ((caller, peer, after_bytes), (peer, caller, None)):
            threads.append(threading.Thread(target=hand_on, args=(source, target, limit_bytes)))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        threads.append(threading.Thread(target=listen))
        threads[0].start()
        try:
            yield listener.getsockname()[1]
        finally:
            done.set()
            listener.shutdown(socket.SHUT_RDWR)
            for one in sockets:
                with one, suppress(OSError):  # wakes the thread that reads from it
                    one.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """The script of a PACS by hand: what it says that no library would."""

    answer: bytes | None = None  # to the association request, in place of an acceptance; then silence
    titles: bytes = b"PACS".ljust(16) + b"NODE".ljust(16)
    more_items: bytes = b""
    more_user_items: bytes = b""
    rejected_result: int = 4  # of every context but those of explicit VR little endian and of verification
    flood: bytes = b""  # after a request, without a pause and for as long as it is read, in place of a response
    drip: bytes = b""  # in place of the answer to the association request, a byte at a time, over and over
    refuses_release: bool = False  # and floods in place of the answer to it


class ScriptedPacs:
    """Serves one connection after the other by a script."""

    def __init__(self, script: Script, listener: socket.socket) -> None:
        self.port: int = listener.getsockname()[1]
        self.is_over = threading.Event()
        self._script = script
        self._listener = listener

    def serve(self) -> None:
        """Serve until ``is_over``."""
        while not self.is_over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, suppress(OSError, EOFError):
                connection.settimeout(HANG_LIMIT_S)
                self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        script, body = self._script, pdu_from(connection)[1]
        if script.drip:
            while not self.is_over.wait(0.02):
                connection.sendall(script.drip[:1])
        if script.answer is not None:
            connection.sendall(script.answer)
            pdu_from(connection)
            return
        connection.sendall(self._acceptance(body))
        message = b""
        while True:
            kind, body = pdu_from(connection)
            if kind == RELEASE_RQ and not script.refuses_release:
                connection.sendall(pdu(RELEASE_RP, bytes(4)))
                return
            if kind not in (P_DATA, RELEASE_RQ):
                return
            while script.flood and (kind == RELEASE_RQ or not script.refuses_release):
                connection.sendall(script.flood)
            message += body[6:] if body[5] & 1 else b""
            if body[5] in (2, 3) and (body[5] == 2 or struct.pack("<HHLH", 0, 0x800, 2, 0x0101) in message):
                number = message[message.index(struct.pack("<HHL", 0, 0x110, 2)) + 8 :][:2]
                field = message[message.index(struct.pack("<HHL", 0, 0x100, 2)) + 8 :][:2]
                response = command(
                    (0x100, bytes([field[0], 0x80])), (0x120, number), (0x800, b"\1\1"), (0x900, b"\0\0")
                )
                connection.sendall(p_data(body[4], response, is_command=True))
                message = b""

    def _acceptance(self, request: bytes) -> bytes:
        script = self._script
        items = item(0x10, b"1.2.840.10008.3.1.1.1") + script.more_items
        for kind, content in _items(request[68:]):
            if kind == 0x20:
                syntax = next(value for inner, value in _items(content[4:]) if inner == 0x40)
                is_taken = syntax == EXPLICIT.encode() or VERIFICATION.encode() in content
                result = 0 if is_taken else script.rejected_result
                items += item(0x21, bytes([content[0], 0, result, 0]) + item(0x40, syntax))
        items += item(0x50, script.more_user_items + item(0x51, struct.pack(">L", 16384)))
        return pdu(ASSOCIATE_AC, b"\0\1\0\0" + script.titles + bytes(32) + items)


@contextmanager
def scripted_pacs(script: Script) -> Iterator[ScriptedPacs]:
    """A PACS by hand on a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pacs = ScriptedPacs(script, listener)
        thread = threading.Thread(target=pacs.serve)
        thread.start()
        try:
            yield pacs
        finally:
            pacs.is_over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def pdu_from(connection: socket.socket) -> tuple[int, bytes]:
    """Type and content of the next PDU; raises EOFError at the end."""
    head = _exactly(connection, 6)
    kind, length = struct.unpack(">BxL", head)
    return kind, _exactly(connection, length)


def _exactly(connection: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        if not (part := connection.recv(count - len(content))):
            raise EOFError
        content += part
    return content


def _items(content: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(content):
        kind, length = struct.unpack_from(">BxH", content, at)
        yield kind, content[at + 4 : at + 4 + length]
        at += 4 + length
