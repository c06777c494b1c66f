"""A DICOMweb server that answers by script: statuses, failures of single instances, no body, broken connections.

It takes STOW-RS requests as PS3.18 section 10.5 has them, and is strict: a length in advance, the type in quotes. It
writes down all it got, answers searches for what it holds, and speaks through the standard library's HTTP server. It
commits to nothing unless a test gives it ``commitment``.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from types import MappingProxyType, TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from pydicom import dcmread

from dicomnode.ids import digest
from tests.support.web_commitment import CUT, Reply, WebCommitment

_TYPE = re.compile(r'multipart/related; type="application/dicom"; boundary="?([\w\'()+,./:=?-]{1,70})"?')
_COMMITMENT = "/commitment-requests/"
PAGE = 3  # of a search, whatever the client asks for


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """An instance in a request, answered or not."""

    sop_instance_uid: str
    sha256: str  # of the whole file
    request: int  # 1 for the first


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer of the server to one STOW-RS request."""

    status: int = 200
    failed: dict[int, int] = field(default_factory=dict)  # by place in the request: Failure Reason; these are not kept
    warned: dict[int, int] = field(default_factory=dict)  # by place in the request: Warning Reason
    body: bytes | None = None  # in place of what the standard says; None: that
    is_xml: bool = False
    is_kept: bool = True  # what did not fail
    cut: str = ""  # "request": the connection ends before the request is read; "answer": before; "body": within it


class DicomwebServer:
    """Listens while it is open; without a script it stores everything."""

    def __init__(self, *, context: ssl.SSLContext | None = None, token: str = "") -> None:
        self.answers: deque[Answer] = deque()
        self.arrivals: list[Arrival] = []
        self.held: dict[str, bytes] = {}  # SOP Instance UID → the whole file
        self.requests: list[str] = []  # "POST /studies" and the like
        self.authorizations: list[str] = []
        self.lengths: list[int] = []
        self.token = token  # none: everyone may come in
        self.refusing: Callable[[], object] = lambda: None  # called before it answers 401
        self.most_bytes = 1 << 40  # of a request
        self.has_search = True
        self.commitment: WebCommitment | None = None
        self.clock_is_off_s = 0.0
        self.ignores_study = False  # a search for a study shows every study
        self.is_paged = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._scheme = "http" if context is None else "https"
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="dicomweb")

    @property
    def url(self) -> str:
        """The root of its service."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}/dicom-web"

    @property
    def requests_to_store(self) -> int:
        """The number of STOW-RS requests that came."""
        return self.requests.count("POST /studies")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def date_time_string(self, timestamp: float | None = None) -> str:
                return super().date_time_string((timestamp or time.time()) + double.clock_is_off_s)

            def log_message(self, *_: Any) -> None:
                """Nothing is printed."""

            def do_POST(self) -> None:
                double._note(self)
                (double._commit if _COMMITMENT in self.path else double._store)(self)

            def do_GET(self) -> None:
                double._note(self)
                (double._commit if _COMMITMENT in self.path else double._search)(self)

        return Handler

    def _note(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append(f"{handler.command} {urlsplit(handler.path).path.removeprefix('/dicom-web')}")
        self.authorizations.append(handler.headers.get("Authorization", ""))

    def _store(self, handler: BaseHTTPRequestHandler) -> None:
        answer = self.answers.popleft() if self.answers else Answer()
        if answer.cut == "request":
            handler.rfile.read(1000)
            _cut(handler)
            return
        length = int(handler.headers["Content-Length"])
        self.lengths.append(length)
        content = handler.rfile.read(length)
        boundary = _TYPE.fullmatch(handler.headers["Content-Type"])
        if self.token and handler.headers.get("Authorization") != f"Bearer {self.token}":
            self.refusing()
            _say(handler, 401, b"")
        elif boundary is None or handler.path != "/dicom-web/studies":
            _say(handler, 400, b"")
        elif length > self.most_bytes:
            _say(handler, 413, b"<html>too large</html>")
        else:
            self._take(handler, answer, _parts(content, boundary[1].encode()))

    def _take(self, handler: BaseHTTPRequestHandler, answer: Answer, parts: Sequence[bytes]) -> None:
        number, uids = self.requests_to_store, []
        for place, part in enumerate(parts):
            uids.append(str(dcmread(BytesIO(part), specific_tags=["SOPInstanceUID"]).SOPInstanceUID))
            self.arrivals.append(Arrival(sop_instance_uid=uids[-1], sha256=digest(part), request=number))
            if answer.is_kept and place not in answer.failed:
                self.held[uids[-1]] = part
        body = answer.body
        if body is None:
            body = (_xml if answer.is_xml else _json)(uids, answer)
        if answer.cut == "answer":
            _cut(handler)
        elif answer.cut == "body":
            _say(handler, answer.status, body, missing=len(body) // 2)
            _cut(handler)
        else:
            _say(handler, answer.status, body)

    def _commit(self, handler: BaseHTTPRequestHandler) -> None:
        content = handler.rfile.read(int(handler.headers.get("Content-Length", "0")))
        transaction_uid = handler.path.partition(_COMMITMENT)[2]
        if self.commitment is None:
            reply = Reply(status=404)
        elif self.token and handler.headers.get("Authorization") != f"Bearer {self.token}":
            reply = Reply(status=401)
        elif handler.command == "GET":
            reply = self.commitment.look(transaction_uid, self.held)
        else:
            kind = handler.headers.get("Content-Type", "")
            reply = self.commitment.request(transaction_uid, kind, content, self.held)
        if reply.status == CUT:
            _cut(handler)
        else:
            _say(handler, reply.status, reply.body, headers=reply.headers)

    def _search(self, handler: BaseHTTPRequestHandler) -> None:
        if not self.has_search:
            _say(handler, 404, b"")
            return
        if self.token and handler.headers.get("Authorization") != f"Bearer {self.token}":
            _say(handler, 401, b"")
            return
        parts = urlsplit(handler.path)
        wanted = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path.endswith("/dicom-web/studies"):
            fields = parse_qs(parts.query).get("includefield", [])
            study_uid = "" if self.ignores_study else wanted["StudyInstanceUID"]
            studies = [study for file in self.held.values() if (study := _study(file, study_uid, fields))]
            begin = int(wanted.get("offset", "0"))
            _say(handler, 200, json.dumps(studies[begin:]).encode())
            return
        found = [uid for uid, file in sorted(self.held.items()) if _is_of(file, parts.path, wanted)]
        if self.is_paged:
            begin = int(wanted.get("offset", "0"))
            found = found[begin : begin + PAGE]
        _say(handler, 200 if found else 204, json.dumps([{"00080018": _value("UI", uid)} for uid in found]).encode())


def _is_of(file: bytes, path: str, wanted: dict[str, str]) -> bool:
    header = dcmread(BytesIO(file), specific_tags=["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
    if (uid := wanted.get("SOPInstanceUID")) is not None:
        return str(header.SOPInstanceUID) == uid
    return path.endswith(f"/studies/{header.StudyInstanceUID}/series/{header.SeriesInstanceUID}/instances")


def _study(file: bytes, study_uid: str, fields: Sequence[str]) -> dict[str, object]:
    """The study of an instance as a match, with these attributes; nothing: it is another study."""
    header = dcmread(BytesIO(file), specific_tags=["SpecificCharacterSet", "StudyInstanceUID", *fields])
    if study_uid not in ("", header.StudyInstanceUID):
        return {}
    header.pop("SpecificCharacterSet", None)  # JSON is UTF-8
    match: dict[str, object] = header.to_json_dict()
    return match


def _parts(content: bytes, boundary: bytes) -> list[bytes]:
    """The parts of the body, by RFC 2046 section 5.1: what the boundary delimits, without the headers of each."""
    assert content.endswith(b"\r\n--" + boundary + b"--\r\n")
    pieces = (b"\r\n" + content).split(b"\r\n--" + boundary)[1:-1]
    found = []
    for piece in pieces:
        head, blank, part = piece.partition(b"\r\n\r\n")
        assert (head.strip(), blank) == (b"Content-Type: application/dicom", b"\r\n\r\n")
        found.append(part)
    return found


def _value(vr: str, value: object) -> dict[str, object]:
    return {"vr": vr, "Value": [value]}


def _json(uids: Sequence[str], answer: Answer) -> bytes:
    stored, failed = [], []
    for place, uid in enumerate(uids):
        item = {"00081150": _value("UI", "1.2.840.10008.5.1.4.1.1.4"), "00081155": _value("UI", uid)}
        if place in answer.failed:
            failed.append(item | {"00081197": _value("US", answer.failed[place])})
        else:
            stored.append(item | ({"00081196": _value("US", answer.warned[place])} if place in answer.warned else {}))
    sequences = {"00081198": failed, "00081199": stored}
    return json.dumps({tag: {"vr": "SQ", "Value": items} for tag, items in sequences.items() if items}).encode()


def _xml(uids: Sequence[str], answer: Answer) -> bytes:
    def attribute(tag: str, value: object) -> str:
        return f'<DicomAttribute tag="{tag}" vr="UI"><Value number="1">{value}</Value></DicomAttribute>'

    items: dict[str, list[str]] = {"00081198": [], "00081199": []}
    for place, uid in enumerate(uids):
        tag = "00081198" if place in answer.failed else "00081199"
        reason = attribute("00081197", answer.failed[place]) if place in answer.failed else ""
        items[tag].append(f'<Item number="{len(items[tag]) + 1}">{attribute("00081155", uid)}{reason}</Item>')
    sequences = "".join(
        f'<DicomAttribute tag="{tag}" vr="SQ">{"".join(found)}</DicomAttribute>'
        for tag, found in items.items()
        if found
    )
    model = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
    head = '<?xml version="1.0" encoding="UTF-8"?>'
    return f'{head}<NativeDicomModel xmlns="{model}">{sequences}</NativeDicomModel>'.encode()


def _say(
    handler: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    *,
    missing: int = 0,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) - missing])
    handler.wfile.flush()


def _cut(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, at once
    with suppress(OSError):
        handler.connection.shutdown(socket.SHUT_RDWR)
