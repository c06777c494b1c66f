"""The data sets by which a peer says what it holds: storage commitment (PS3.4 Annex J) and C-FIND (PS3.4 Annex C).

In: our UIDs, or the bytes that a peer sent, with their transfer syntax. Out: bytes, or the few values that the node
reads of a report or a match. Nothing here raises for what a peer sent: what cannot be read is None.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from dicomnode.ids import is_harmless_uid
from dicomnode.wire import IMPLICIT

ALL_COMMITTED, SOME_FAILED = 1, 2  # Event Type ID (PS3.4 section J.3.3)
REQUEST = 1  # Action Type ID (PS3.4 section J.3.2)
NO_REASON = 0x0110  # of a failure that the peer gives no reason for: processing failure
REPORT_BYTES = 1 << 22  # some 30,000 instances; a report that is longer is not read


PATIENT_KEYWORDS = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")  # by which a study is compared


@dataclass(frozen=True, slots=True)
class Reference:
    """An instance by its SOP class and its own UID."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a peer says of one request: the instances that it commits to, and those that it does not, with reasons."""

    transaction_uid: str
    committed: frozenset[str]  # SOP Instance UIDs
    failed: dict[str, int]  # SOP Instance UID → Failure Reason (PS3.3 section C.14.1.1)


def encode_request(transaction_uid: str, references: Sequence[Reference], transfer_syntax: str) -> bytes:
    """The Action Information of a commitment request (PS3.4 Table J.3-1)."""
    content = Dataset()
    content.TransactionUID = transaction_uid
    content.ReferencedSOPSequence = [_item(one) for one in references]
    return _encoded(content, transfer_syntax)


def read_report(dataset: bytes | bytearray, transfer_syntax: str) -> Report | None:
    """Read the Event Information of a report (PS3.4 Table J.3-2).

    The Event Type ID is not asked: some peers send the wrong one, and the two sequences say the same exactly.
    """
    content = _decoded(dataset, transfer_syntax)
    if content is None:
        return None
    try:
        transaction_uid = str(content.get("TransactionUID", "") or "")
        committed = frozenset(_uids(content.get("ReferencedSOPSequence")))
        failed = {
            str(one.get("ReferencedSOPInstanceUID", "")): int(one.get("FailureReason") or NO_REASON)
            for one in content.get("FailedSOPSequence") or ()
        }
    except Exception:  # noqa: BLE001 (border: the library decodes a value when it is asked for, and raises whatever)
        return None
    if not is_harmless_uid(transaction_uid):
        return None
    return Report(transaction_uid=transaction_uid, committed=committed - failed.keys(), failed=failed)


def encode_find(study_uid: str, series_uid: str, transfer_syntax: str) -> bytes:
    """The identifier that asks for the SOP Instance UIDs of a series (PS3.4 sections C.4.1.1.3 and C.6.2)."""
    content = Dataset()
    content.QueryRetrieveLevel = "IMAGE"
    content.StudyInstanceUID = study_uid
    content.SeriesInstanceUID = series_uid
    content.SOPInstanceUID = ""
    return _encoded(content, transfer_syntax)


def encode_study_find(study_uid: str, transfer_syntax: str) -> bytes:
    """The identifier that asks for the patient of a study (PS3.4 sections C.4.1.1.3 and C.6.2)."""
    content = Dataset()
    content.QueryRetrieveLevel = "STUDY"
    content.StudyInstanceUID = study_uid
    for keyword in PATIENT_KEYWORDS:
        setattr(content, keyword, "")
    return _encoded(content, transfer_syntax)


def read_patient(dataset: bytes, study_uid: str, transfer_syntax: str) -> dict[str, str] | None:
    """The attributes of the patient in a match, by keyword; None where the match is of another study or unreadable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values
            content = _decoded(dataset, transfer_syntax)
            if content is None or str(content.get("StudyInstanceUID", "")) != study_uid:
                return None
            return {keyword: str(content.get(keyword, "") or "") for keyword in PATIENT_KEYWORDS}
    except Exception:  # noqa: BLE001 (border: as above)
        return None


def read_match(dataset: bytes, transfer_syntax: str) -> str | None:
    """The SOP Instance UID of a match."""
    content = _decoded(dataset, transfer_syntax)
    try:
        return str(content.get("SOPInstanceUID", "") or "") if content is not None else None
    except Exception:  # noqa: BLE001 (border: as above)
        return None


def _item(one: Reference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.sop_class_uid, one.sop_instance_uid
    return item


def _uids(sequence: Sequence[Dataset] | None) -> list[str]:
    return [str(one.get("ReferencedSOPInstanceUID", "")) for one in sequence or ()]


def _encoded(content: Dataset, transfer_syntax: str) -> bytes:
    written = DicomBytesIO()
    written.is_little_endian, written.is_implicit_VR = True, transfer_syntax == IMPLICIT
    write_dataset(written, content)
    return written.getvalue()


def _decoded(dataset: bytes | bytearray, transfer_syntax: str) -> Dataset | None:
    if len(dataset) > REPORT_BYTES:
        return None
    try:
        return read_dataset(BytesIO(dataset), is_implicit_VR=transfer_syntax == IMPLICIT, is_little_endian=True)
    except Exception:  # noqa: BLE001 (border: the library raises whatever a peer's bytes made it raise)
        return None
