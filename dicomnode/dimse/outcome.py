"""A request to a peer ends as a value with its reason, in DICOM as by DICOMweb, and never as an exception."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class RequestReason(StrEnum):
    """The kinds of end of a request: it was answered, or a reason for which there is no answer."""

    ANSWERED = "answered"
    UNRESOLVED = "unresolved"
    UNREACHABLE = "unreachable"
    UNANSWERED = "unanswered"
    TLS = "tls"
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
    UNAUTHORISED = "unauthorised"
    NO_SERVICE = "no_service"
    OCCUPIED = "occupied"
    TOO_LARGE = "too_large"


SENTENCES = {
    RequestReason.ANSWERED: "The peer answered{detail}.",
    RequestReason.UNRESOLVED: "The peer's host name has no address{detail}.",
    RequestReason.UNREACHABLE: "No connection to the peer{detail}.",
    RequestReason.UNANSWERED: "The peer took the connection but did not answer the association request{detail}.",
    RequestReason.TLS: "There is no TLS connection with the peer{detail}.",
    RequestReason.REJECTED: "The peer rejected the association{detail}.",
    RequestReason.BUSY: "The peer rejected the association for now{detail}.",
    RequestReason.NO_CONTEXT: "The peer accepted no presentation context for what is to be sent{detail}.",
    RequestReason.ABORTED: "The peer aborted the association{detail}.",
    RequestReason.ILLEGAL: "The node aborted the association, since it could not accept what the peer sent{detail}.",
    RequestReason.ENDED: "The node ended the association{detail}.",
    RequestReason.LOST: "The connection to the peer was lost{detail}.",
    RequestReason.NO_RESPONSE: "The peer did not answer in time{detail}.",
    RequestReason.UNREADABLE: "The file could not be read{detail}.",
    RequestReason.NOT_ENCODABLE: (
        "The object cannot be encoded in implicit VR little endian, which is all that the peer accepts{detail}."
    ),
    RequestReason.UNAUTHORISED: "The server does not let the node in{detail}.",
    RequestReason.NO_SERVICE: "There is no such DICOMweb service at the peer's `url`{detail}.",
    RequestReason.OCCUPIED: "The server cannot take requests for now{detail}.",
    RequestReason.TOO_LARGE: "The server takes no request of the size that a single object needs{detail}.",
}

HINTS = {
    RequestReason.UNRESOLVED: "Correct the host in the peer's `address` or `url`, or the name service.",
    RequestReason.UNREACHABLE: "Check that the peer runs, its `address` or `url`, and the firewall between.",
    RequestReason.UNANSWERED: (
        "Check that a DICOM service listens at the peer's `address`, and that it speaks TLS there if `peer.tls` is "
        "true, and none if it is false."
    ),
    RequestReason.TLS: (
        "`dicomnode check` shows our certificate; docs/operations.md says how to look at the peer's, and which keys "
        "decide whether it is taken."
    ),
    RequestReason.REJECTED: "Compare our AE title and the peer's with what is registered there.",
    RequestReason.BUSY: "Nothing to do here unless it lasts: the node tries again.",
    RequestReason.NO_CONTEXT: "Let the peer accept MR Image Storage in explicit or implicit VR little endian.",
    RequestReason.ABORTED: "See the peer's log.",
    RequestReason.ILLEGAL: "See the peer's log; its vendor may need to know what DICOM PS3.8 says of such an answer.",
    RequestReason.LOST: "Check the network between the node and the peer; see the peer's log.",
    RequestReason.NO_RESPONSE: "See the peer's log; `push.response_timeout_s` is how long the node waits.",
    RequestReason.UNREADABLE: "Check that the file is DICOM with file meta (PS3.10) and may be read.",
    RequestReason.NOT_ENCODABLE: (
        "Let the peer accept explicit VR little endian, or have the object mended where it was made."
    ),
    RequestReason.UNAUTHORISED: (
        "Put a token that the server takes into the peer's `token_file`, or have our certificate registered there."
    ),
    RequestReason.NO_SERVICE: "Compare the peer's `url` with what the server's documentation calls its DICOMweb root.",
    RequestReason.OCCUPIED: "Nothing to do here unless it lasts: the node tries again.",
    RequestReason.TOO_LARGE: "Let the server, and a proxy before it, take larger requests.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOutcome:
    """The end of a request: a status where the peer gave one, else the reason why there is none."""

    reason: RequestReason
    status: int | None = None
    detail: str = ""  # ours, never the peer's free text: that may quote the patient
    offending: tuple[str, ...] = ()  # keywords of the elements that the peer complains about

    @property
    def sentence(self) -> str:
        """A sentence for an operator that says what happened."""
        return SENTENCES[self.reason].format(detail=f": {self.detail}" if self.detail else "")

    @property
    def hint(self) -> str:
        """A hint for an operator on what to do; empty where there is none."""
        return HINTS.get(self.reason, "")
