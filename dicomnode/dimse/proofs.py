"""The data sets of storage commitment (PS3.4 Annex J): the request, and the report in which a peer says what it keeps.

In: our UIDs, or the bytes that a peer sent, with their transfer syntax. Out: bytes, or what the node reads of a report.
Nothing here raises for what a peer sent: what cannot be read is None.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset

from dicomnode.dimse.commitment import Reference, Report
from dicomnode.dimse.identifiers import decoded, encoded
from dicomnode.ids import is_harmless_uid

ALL_COMMITTED, SOME_FAILED = 1, 2  # Event Type ID (PS3.4 section J.3.3)
REQUEST = 1  # Action Type ID (PS3.4 section J.3.2)
NO_REASON = 0x0110  # of a failure that the peer gives no reason for: processing failure


def encode_request(transaction_uid: str, references: Sequence[Reference], transfer_syntax: str) -> bytes:
    """Encode the Action Information of a commitment request (PS3.4 Table J.3-1)."""
    content = Dataset()
    content.TransactionUID = transaction_uid
    content.ReferencedSOPSequence = [_item(one) for one in references]
    return encoded(content, transfer_syntax)


def read_report(dataset: bytes | bytearray, transfer_syntax: str) -> Report | None:
    """Read the Event Information of a report (PS3.4 Table J.3-2).

    The Event Type ID is not read: some peers send the wrong one, and the two sequences say the same exactly.
    """
    content = decoded(dataset, transfer_syntax)
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


def _item(one: Reference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.sop_class_uid, one.sop_instance_uid
    return item


def _uids(sequence: Sequence[Dataset] | None) -> list[str]:
    return [str(one.get("ReferencedSOPInstanceUID", "")) for one in sequence or ()]
