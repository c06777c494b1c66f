"""A PACS in one folder: it answers C-ECHO, keeps the instances of C-STORE, and lists them by C-FIND.

For the demo and for trying settings without a hospital; it keeps no promise about crashes. Files lie as
``<folder>/<SOP Instance UID>.dcm`` and are found again at the next start.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pynetdicom import AE, _config, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event
from pynetdicom.presentation import AllStoragePresentationContexts
from pynetdicom.transport import ThreadedAssociationServer

from dicomnode import log, wire
from dicomnode.ids import is_uid
from dicomnode.part10 import dataset_sha256

LOGGER = logging.getLogger(__name__)

FIND_MODELS: Final = {
    "1.2.840.10008.5.1.4.1.2.1.1": ("PATIENT", "STUDY", "SERIES", "IMAGE"),  # Patient Root, PS3.4 Annex C.6.1
    "1.2.840.10008.5.1.4.1.2.2.1": ("STUDY", "SERIES", "IMAGE"),  # Study Root, PS3.4 Annex C.6.2
}
UNIQUE_KEYS: Final = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}
_KEPT_KEYWORDS: Final = (
    "SpecificCharacterSet", "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber",
    "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "SeriesDate", "SeriesTime", "Modality",
    "BodyPartExamined", "SOPInstanceUID", "SOPClassUID", "InstanceNumber", "Rows", "Columns", "NumberOfFrames",
)  # fmt: skip
_MATCHED: Final = frozenset(_KEPT_KEYWORDS) - {"SpecificCharacterSet"}

_STORED, _REFUSED, _UNREADABLE = 0x0000, 0xA900, 0xC000
_PENDING, _CANCELLED, _BAD_IDENTIFIER = 0xFF00, 0xFE00, 0xA900  # PS3.4 Table C.4-1


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldInstance:
    """One instance that the PACS holds: its file, its digest, its sender and its header."""

    file: Path
    transfer_syntax_uid: str
    sha256: str  # of the dataset bytes as received
    sent_by: str  # AE title
    header: Dataset

    @property
    def sop_instance_uid(self) -> str:
        """SOP Instance UID (0008,0018)."""
        return str(self.header.SOPInstanceUID)

    @property
    def series_uid(self) -> str:
        """Series Instance UID (0020,000E)."""
        return str(self.header.SeriesInstanceUID)


class Pacs:
    """The PACS: a context manager that listens while it is open."""

    def __init__(self, folder: Path, *, ae_title: str = "PACS", host: str = "127.0.0.1", port: int = 0) -> None:
        self._folder = folder
        self._address = (host, port)
        self._held: dict[str, HeldInstance] = {}
        self._lock = threading.Lock()
        self._server: ThreadedAssociationServer | None = None
        self._sockets: dict[int, socket.socket] = {}  # by the identity of the association
        _config.LOG_HANDLER_LEVEL = "none"  # the library's own handlers would format patient text for its log
        self._entity = AE(ae_title=ae_title)
        self._entity.maximum_pdu_size = wire.MAXIMUM_PDU_BYTES
        self._entity.add_supported_context(wire.VERIFICATION)
        for context in AllStoragePresentationContexts:
            self._entity.add_supported_context(str(context.abstract_syntax), list(wire.TRANSFER_SYNTAXES))
        for model in FIND_MODELS:
            self._entity.add_supported_context(model)

    @property
    def ae_title(self) -> str:
        """The AE title of the PACS, which accepts any called title."""
        return str(self._entity.ae_title)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self._server is not None, "only an open PACS has a port"
        assert self._server.socket is not None, "only an open PACS has a port"
        return int(self._server.socket.getsockname()[1])

    def held(self) -> list[HeldInstance]:
        """All instances, in the order in which they first came."""
        with self._lock:
            return list(self._held.values())

    def start(self) -> None:
        """Read the folder again and listen."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(self._folder.glob("*.dcm")):
            try:
                self._hold(file, file.read_bytes(), sent_by="")
            except (InvalidDicomError, AttributeError):
                log.event(LOGGER, "demo_file_skipped", level=logging.WARNING)
        handlers: list[evt.EventHandlerType] = [
            (evt.EVT_CONN_OPEN, self._open),
            (evt.EVT_CONN_CLOSE, self._close),
            (evt.EVT_C_ECHO, _answer_echo),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_FIND, self._find),
        ]
        self._server = self._entity.start_server(self._address, block=False, evt_handlers=handlers)

    def stop(self) -> None:
        """Stop listening; associations are aborted."""
        self._entity.shutdown()
        while self._sockets:  # sockets of associations that ended during the shutdown
            self._sockets.popitem()[1].close()
        self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _open(self, event: Event) -> None:
        wrapped = event.assoc.dul.socket
        if wrapped is not None and wrapped.socket is not None:
            self._sockets[id(event.assoc)] = wrapped.socket

    def _close(self, event: Event) -> None:
        """Close the socket, which pynetdicom leaves open where the peer closed its end first."""
        if (left := self._sockets.pop(id(event.assoc), None)) is not None:
            left.close()

    def _store(self, event: Event) -> int:
        assert isinstance(event.request, C_STORE)
        uid = str(event.request.AffectedSOPInstanceUID)
        if not is_uid(uid):  # it becomes a file name
            return _REFUSED
        content = event.encoded_dataset()
        file = self._folder / f"{uid}.dcm"
        file.write_bytes(content)
        try:
            self._hold(file, content, sent_by=str(event.assoc.requestor.ae_title))
        except (InvalidDicomError, AttributeError):
            file.unlink()
            return _UNREADABLE
        return _STORED

    def _hold(self, file: Path, content: bytes, *, sent_by: str) -> None:
        """Take an instance into the index; a second one of the same UID replaces it."""
        header = dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=list(_KEPT_KEYWORDS))
        held = HeldInstance(
            file=file,
            transfer_syntax_uid=str(header.file_meta.TransferSyntaxUID),
            sha256=dataset_sha256(BytesIO(content)),
            sent_by=sent_by,
            header=header,
        )
        with self._lock:
            self._held[held.sop_instance_uid] = held

    def _find(self, event: Event) -> Iterator[tuple[int, Dataset | None]]:
        query = event.identifier
        level = str(query.get("QueryRetrieveLevel", ""))
        if level not in FIND_MODELS[str(event.context.abstract_syntax)]:
            yield _BAD_IDENTIFIER, None
            return
        for answer in find(query, level, [held.header for held in self.held()]):
            if event.is_cancelled:
                yield _CANCELLED, None
                return
            answer.RetrieveAETitle = self.ae_title
            yield _PENDING, answer


def find(query: Dataset, level: str, headers: Iterable[Dataset]) -> Iterator[Dataset]:
    """Answer a C-FIND at this level: one data set for each patient, study, series or image that matches.

    It matches the keys that are kept of a header, by list of UIDs, wildcard, or date range (PS3.4 Annex C.2.2.2); an
    empty key matches everything. The numbers of related series and instances are counted on request.
    """
    matching: dict[str, list[Dataset]] = {}
    for header in headers:
        if all(
            _matches(element.value, header.get(element.keyword)) for element in query if element.keyword in _MATCHED
        ):
            matching.setdefault(str(header.get(UNIQUE_KEYS[level], "")), []).append(header)
    for group in matching.values():
        yield _answer(query, level, group)


def _answer(query: Dataset, level: str, group: Sequence[Dataset]) -> Dataset:
    counted: Mapping[str, int] = {
        "NumberOfStudyRelatedSeries": len({header.SeriesInstanceUID for header in group}),
        "NumberOfStudyRelatedInstances": len(group),
        "NumberOfSeriesRelatedInstances": len(group),
    }
    answer = Dataset()
    for element in query:
        keyword = element.keyword
        if keyword == "ModalitiesInStudy":
            answer.ModalitiesInStudy = sorted({str(header.get("Modality", "")) for header in group})
        elif keyword in counted:
            setattr(answer, keyword, counted[keyword])
        elif keyword in group[0]:
            answer[keyword] = group[0][keyword]
        elif keyword:
            setattr(answer, keyword, None)
    answer.QueryRetrieveLevel = level
    if "SpecificCharacterSet" in group[0]:
        answer["SpecificCharacterSet"] = group[0]["SpecificCharacterSet"]
    return answer


def _matches(wanted: object, found: object) -> bool:
    if isinstance(wanted, MultiValue | list):
        return str(found) in [str(one) for one in wanted]
    text, value = str(wanted or ""), str("" if found is None else found)
    if not text:
        return True
    first, dash, last = text.partition("-")
    if dash and (first or last) and (first + last).isdigit():
        return (first or value) <= value <= (last or value)
    return fnmatchcase(value, text.replace("[", "[[]"))  # brackets are no wildcard here


def _answer_echo(event: Event) -> int:
    del event
    return _STORED
