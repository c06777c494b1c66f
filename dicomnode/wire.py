"""Tables of the SOP classes, transfer syntaxes, rejections and statuses that the node uses on the wire: no behaviour.

Sections are those of the DICOM standard. ``receive`` answers by these tables, and ``push`` acts by them; both only look
up here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum

from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom.presentation import AllStoragePresentationContexts

VERIFICATION = "1.2.840.10008.1.1"
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4.1"
COMMITMENT = "1.2.840.10008.1.20.1"  # Storage Commitment Push Model (PS3.4 Annex J)
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"  # its well-known instance (PS3.4 section J.3.5)
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"  # PS3.7 Annex A, the only one there is

SOP_CLASSES = (MR_IMAGE, ENHANCED_MR_IMAGE)
"""The classes that every peer that may send may store; Enhanced MR only without ``enhanced = "refuse"``."""

OTHER_SOP_CLASSES = tuple(
    uid for context in AllStoragePresentationContexts if (uid := str(context.abstract_syntax)) not in SOP_CLASSES
)
"""The classes that a peer with ``other_objects = "store"`` may store besides: those of PS3.4 Annex B.5."""

TRANSFER_SYNTAXES = (
    str(ExplicitVRLittleEndian),
    str(ImplicitVRLittleEndian),
    str(JPEGLosslessSV1),
    str(JPEGLossless),
    str(JPEGLSLossless),
    str(JPEG2000Lossless),
    str(RLELossless),
)
"""The transfer syntaxes that the receiver accepts, in its order of preference (PS3.8 section 9.3.3.2 allows any).

Never deflated (a small message may expand without limit), never big endian (retired), nothing lossy.
"""

IMPLICIT = str(ImplicitVRLittleEndian)
UNCOMPRESSED = (str(ExplicitVRLittleEndian), IMPLICIT)
"""The transfer syntaxes proposed for derived objects, each in its own context: a context yields one syntax only."""

MAXIMUM_PDU_BYTES = 131072  # our limit for a peer that sets none (its maximum length is 0)
MAXIMUM_CONTEXTS = 128  # PS3.8 section 9.3.2.2: odd ids from 1 to 255


class Answer(IntEnum):
    """The status with which the receiver answers a C-STORE (PS3.4 Annex B.2.3, PS3.7 Annex C)."""

    STORED = 0x0000
    FAILED = 0x0110
    CLASS_NOT_SUPPORTED = 0x0122
    NO_RESOURCES = 0xA700
    MISMATCH = 0xA900
    NOT_UNDERSTOOD = 0xC000


UNRECOGNISED_OPERATION = 0x0211  # the answer to a request of a service that we do not offer (PS3.7 Annex C.5.24)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """The three numbers of an A-ASSOCIATE-RJ (PS3.8 Table 9-21) and their meaning for the operator of either side."""

    result: int  # 1 = permanent, 2 = transient
    source: int  # 1 = service user, 2 = provider (ACSE), 3 = provider (presentation)
    reason: int
    sentence: str

    @property
    def code(self) -> str:
        """The result as people write it: ``1/1/7``."""
        return f"{self.result}/{self.source}/{self.reason}"


CONGESTED = Rejection(result=2, source=3, reason=1, sentence="the receiver is busy, full or stopping; try again later")
OVER_LIMIT = Rejection(result=2, source=3, reason=2, sentence="too many associations are open; try again later")
CALLED_UNKNOWN = Rejection(
    result=1, source=1, reason=7, sentence="the called AE title is not the receiver's: correct it at the sender"
)
CALLING_UNKNOWN = Rejection(
    result=1,
    source=1,
    reason=3,
    sentence="the calling AE title is not known at the receiver, or not from this address: register it there",
)
NO_CERTIFICATE = replace(
    CALLING_UNKNOWN, sentence="the peer has to come in with its certificate: let the sender use TLS and its port"
)
CERTIFICATE_UNKNOWN = replace(
    CALLING_UNKNOWN, sentence="the certificate is none of those that the receiver knows for this AE title"
)
CONTEXT_UNKNOWN = Rejection(result=1, source=1, reason=2, sentence="the application context name is not that of DICOM")
PROTOCOL_UNKNOWN = Rejection(
    result=1, source=2, reason=2, sentence="the protocol version of the upper layer is not version 1"
)

REJECTIONS = {
    (one.result, one.source, one.reason): one
    for one in (CONGESTED, OVER_LIMIT, CALLED_UNKNOWN, CALLING_UNKNOWN, CONTEXT_UNKNOWN, PROTOCOL_UNKNOWN)
}


def rejection(result: int, source: int, reason: int) -> Rejection:
    """Find the meaning of a peer's A-ASSOCIATE-RJ, in words; the numbers stay as it sent them."""
    known = REJECTIONS.get((result, source, reason))
    sentence = known.sentence if known else "the receiver gave no reason that the standard names"
    return Rejection(result=result, source=source, reason=reason, sentence=sentence)


class Action(StrEnum):
    """The actions of the sender on an instance, and on its delivery, after the answer to its C-STORE."""

    ACCEPT = "accept"  # acknowledged
    WARN = "warn"  # acknowledged, the status is kept and shown
    BACK_OFF = "back_off"  # pending; release the association and try again later
    RETRY = "retry"  # pending; up to three tries, then refused
    DUPLICATE = "duplicate"  # acknowledged only if this digest was sent there before, else refused
    REFUSE = "refuse"  # refused; send the others, then hold with all refusals listed
    HOLD = "hold"  # refused; hold at once: an operator's matter, the same for every other instance
    HOLD_PENDING = "hold_pending"  # pending; hold at once: nothing is wrong with the instance
    REASSOCIATE = "reassociate"  # pending; abort, a new association once, then hold


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRange:
    """The statuses from ``first`` to ``last``: their meaning, the sender's action, and advice for the operator."""

    first: int
    last: int
    action: Action
    meaning: str
    remedy: str = ""


def _one(status: int, action: Action, meaning: str, remedy: str = "") -> StatusRange:
    return StatusRange(first=status, last=status, action=action, meaning=meaning, remedy=remedy)


def _range(first: int, last: int, action: Action, meaning: str, remedy: str = "") -> StatusRange:
    return StatusRange(first=first, last=last, action=action, meaning=meaning, remedy=remedy)


_ASK_PEER = "Ask the peer's administrator what its log says about this object."
_FREE_SPACE = "Nothing to do here: the node tries again; the peer needs free space."
_REGISTER_CLASS = "Let the peer accept MR Image Storage, or deliver elsewhere."
_COERCED = "Compare patient and study at the peer with the source series."

STATUSES = (
    _one(0x0000, Action.ACCEPT, "stored"),
    _one(0x0001, Action.WARN, "stored, some attributes were not supported"),
    _one(0x0105, Action.REFUSE, "refused: no such attribute", _ASK_PEER),
    _one(0x0106, Action.REFUSE, "refused: invalid attribute value", _ASK_PEER),
    _one(0x0107, Action.WARN, "stored, an attribute list error was reported"),
    _one(0x0110, Action.RETRY, "processing failure at the peer", _ASK_PEER),
    _one(0x0111, Action.DUPLICATE, "the peer already holds an instance with this UID", "See what the peer holds."),
    _range(0x0112, 0x0115, Action.REFUSE, "refused: invalid instance or argument", _ASK_PEER),
    _one(0x0116, Action.WARN, "stored, an attribute value was out of range"),
    _one(0x0117, Action.REFUSE, "refused: invalid instance UID", _ASK_PEER),
    _one(0x0118, Action.HOLD, "refused: no such SOP class", _REGISTER_CLASS),
    _range(0x0119, 0x0121, Action.REFUSE, "refused: conflict of class, or missing attribute", _ASK_PEER),
    _one(0x0122, Action.HOLD, "refused: SOP class not supported", _REGISTER_CLASS),
    _one(0x0124, Action.HOLD_PENDING, "refused: not authorised", "Let the peer accept storage from our AE title."),
    _range(0x0210, 0x0212, Action.REASSOCIATE, "protocol error reported by the peer", _ASK_PEER),
    _one(0x0213, Action.BACK_OFF, "the peer is short of resources", _FREE_SPACE),
    _range(0xA700, 0xA7FF, Action.BACK_OFF, "the peer is out of resources", _FREE_SPACE),
    _range(0xA900, 0xA9FF, Action.REFUSE, "refused: data set does not match its SOP class", _ASK_PEER),
    _one(0xB000, Action.WARN, "stored, the peer changed elements", _COERCED),
    _one(0xB006, Action.WARN, "stored, the peer discarded elements"),
    _one(0xB007, Action.WARN, "stored, data set does not match its SOP class"),
    _range(0xC000, 0xCFFF, Action.REFUSE, "refused: the peer cannot understand the object", _ASK_PEER),
)
"""Every C-STORE status of the standard, sorted, without overlap (PS3.4 Annex B.2.3, PS3.7 Annex C)."""


def status_of(status: int) -> StatusRange:
    """Find the meaning of a C-STORE status and the action on it; an illegal one counts as a processing failure.

    >>> status_of(0xA701).action, status_of(0xFF00).action
    (<Action.BACK_OFF: 'back_off'>, <Action.RETRY: 'retry'>)
    """
    for entry in STATUSES:
        if entry.first <= status <= entry.last:
            return entry
    return _one(status, Action.RETRY, "a status that the standard does not allow here", _ASK_PEER)


STATUS_IDENTITY_COERCED = 0xB000
"""The warning after which the sender checks whether the peer changed patient or study."""
