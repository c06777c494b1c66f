"""Storage commitment by DICOMweb (PS3.18 section 13): the body of a request, and the meaning of each answer.

In: our instances, or the answer of a server to the request (section 13.4) or to the look for its result (section 13.5).
Out: bytes, or a value. The two transactions share the statuses:

    200: the server is done, and its body says of each instance whether it keeps it
    202: it works on it; to be asked again, after ``Retry-After`` if that was sent
    409: it has this Transaction UID already, so an earlier request reached it whose answer did not reach us
    503 and its kin: it cannot say now
    all others: it does not commit, or not to us; of a look for a result also that it does not know the request any more

Nothing here raises for what a server sent.
"""

from __future__ import annotations

import email.utils
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus

from pydicom.dataset import Dataset

from dicomnode import wire
from dicomnode.dimse.commitment import Reference, Report
from dicomnode.dimse.outcome import RequestOutcome, RequestReason
from dicomnode.stow.answer import read_statuses
from dicomnode.stow.exchange import Reply
from dicomnode.stow.status import closed_by, in_words

JSON = "application/dicom+json"
LONGEST_WAIT_S = 3600.0  # whatever ``Retry-After`` says

_KEPT = (wire.Action.ACCEPT, wire.Action.WARN)


@dataclass(frozen=True, slots=True)
class Working:
    """The server has the request and no result yet."""

    after_s: float  # the time after which to ask the server again; 0: it did not say


@dataclass(frozen=True, slots=True)
class NoCommitment:
    """The server does not commit, or not to us, or does not know the request."""

    why: str


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """The body of a request: the Storage Commitment Request Module (PS3.18 Table J.1-1) in JSON."""

    references: Sequence[Reference]

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the request that describe its body: Content-Type and Content-Length."""
        return {"Content-Type": JSON, "Content-Length": str(len(self._content))}

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes of the body."""
        yield self._content

    @property
    def _content(self) -> bytes:
        content = Dataset()
        content.ReferencedSOPSequence = []
        for one in self.references:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.sop_class_uid, one.sop_instance_uid
            content.ReferencedSOPSequence.append(item)
        return content.to_json().encode()


def judge(reply: Reply, transaction_uid: str, now: datetime) -> Report | Working | NoCommitment | RequestOutcome:
    """Turn an answer into a value. ``now``: an aware moment, for a ``Retry-After`` that is a date."""
    if reply.status == HTTPStatus.OK:
        statuses = read_statuses(reply.body)
        if not statuses:
            return NoCommitment(f"{in_words(reply.status)}, which says nothing of the instances")
        failed = {uid: status for uid, status in statuses.items() if wire.status_of(status).action not in _KEPT}
        return Report(
            transaction_uid=transaction_uid, committed=frozenset(statuses.keys() - failed.keys()), failed=failed
        )
    if reply.status in (HTTPStatus.ACCEPTED, HTTPStatus.CONFLICT):
        return Working(_seconds(reply.retry_after, now))
    closed = closed_by(reply.status)
    if closed is not None and closed.reason is RequestReason.OCCUPIED:
        return closed
    return NoCommitment(in_words(reply.status))


def _seconds(retry_after: str, now: datetime) -> float:
    """Read ``Retry-After`` (RFC 9110 section 10.2.3): seconds, or the date of HTTP. 0: it is neither.

    >>> from datetime import UTC
    >>> moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    >>> [_seconds(text, moment) for text in ("120", "Fri, 02 Jan 2026 03:05:05 GMT", "soon", "-3", "9" * 40)]
    [120.0, 60.0, 0.0, 0.0, 3600.0]
    """
    text = retry_after.strip()
    if text.isdecimal():
        return min(float(text), LONGEST_WAIT_S)
    try:
        moment = email.utils.parsedate_to_datetime(text)
        return min(max((moment - now).total_seconds(), 0.0), LONGEST_WAIT_S)
    except (TypeError, ValueError, OverflowError):
        return 0.0
