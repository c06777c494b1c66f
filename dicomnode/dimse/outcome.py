"""How an association, or a request on it, ended: a value with its reason, never an exception."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """How an association, or a request on it, ended."""

    ANSWERED = "answered"
    UNRESOLVED = "unresolved"
    UNREACHABLE = "unreachable"
    UNANSWERED = "unanswered"
    REJECTED = "rejected"
    BUSY = "busy"
    NO_CONTEXT = "no_context"
    ABORTED = "aborted"
    ILLEGAL = "illegal"
    ENDED = "ended"
    LOST = "lost"
    NO_RESPONSE = "no_response"
    UNREADABLE = "unreadable"
    NOT_ENCODABLE = "not_encodable"


SENTENCES = {
    Reason.ANSWERED: "The peer answered{detail}.",
    Reason.UNRESOLVED: "The peer's host name has no address{detail}.",
    Reason.UNREACHABLE: "No connection to the peer{detail}.",
    Reason.UNANSWERED: "The peer took the connection but did not answer the association request{detail}.",
    Reason.REJECTED: "The peer rejected the association{detail}.",
    Reason.BUSY: "The peer rejected the association for now{detail}.",
    Reason.NO_CONTEXT: "The peer accepts none of what was offered{detail}.",
    Reason.ABORTED: "The peer aborted the association{detail}.",
    Reason.ILLEGAL: "The node aborted the association, since it could not accept what the peer sent{detail}.",
    Reason.ENDED: "The node ended the association{detail}.",
    Reason.LOST: "The connection to the peer was lost{detail}.",
    Reason.NO_RESPONSE: "The peer did not answer in time{detail}.",
    Reason.UNREADABLE: "The file could not be read{detail}.",
    Reason.NOT_ENCODABLE: (
        "The object cannot be encoded in implicit VR little endian, which is all that the peer accepts{detail}."
    ),
}

HINTS = {
    Reason.UNRESOLVED: "Correct the host in the peer's `address`, or the name service.",
    Reason.UNREACHABLE: "Check that the peer runs, its `address`, and the firewall between.",
    Reason.UNANSWERED: "Check that a DICOM service listens at the peer's `address`, without TLS.",
    Reason.REJECTED: "Compare our AE title and the peer's with what is registered there.",
    Reason.BUSY: "Nothing to do here unless it lasts: the node tries again.",
    Reason.NO_CONTEXT: "Let the peer accept MR Image Storage in explicit or implicit VR little endian.",
    Reason.ABORTED: "See the peer's log.",
    Reason.ILLEGAL: "See the peer's log; its vendor may need to know what DICOM PS3.8 says of such an answer.",
    Reason.LOST: "Check the network between the node and the peer; see the peer's log.",
    Reason.NO_RESPONSE: "See the peer's log; `push.response_timeout_s` is how long the node waits.",
    Reason.UNREADABLE: "Check that the file is DICOM with file meta (PS3.10) and may be read.",
    Reason.NOT_ENCODABLE: "Let the peer accept explicit VR little endian, or have the object mended where it was made.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How it ended: a status where the peer gave one, else the reason why there is none."""

    reason: Reason
    status: int | None = None
    detail: str = ""  # ours, never the peer's free text: that may quote the patient
    offending: tuple[str, ...] = ()  # keywords of the elements that the peer complains about

    @property
    def sentence(self) -> str:
        """What happened, for an operator."""
        return SENTENCES[self.reason].format(detail=f": {self.detail}" if self.detail else "")

    @property
    def hint(self) -> str:
        """What an operator can do."""
        return HINTS.get(self.reason, "")
