"""A peer that is asked by C-FIND, and brings instances by C-MOVE to ``node.pull_ae_title``, or by C-GET.

C-MOVE is the normal case: few peers offer C-GET. A peer that does not offer C-MOVE, or refuses one since it does not
know our door, is asked by C-GET, on an association on which we are to be the provider of storage; its instances are
handed over at our own door. Peers say that they do not know a destination with whatever status: A801, C000 (Orthanc).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dicomnode import wire
from dicomnode.dimse.associate import RESPONSE_LIMITS, Associated, Context, Proposal
from dicomnode.dimse.commands import Field
from dicomnode.dimse.identifiers import IMAGE, SERIES, Values, encode_identifier, read_match
from dicomnode.dimse.messages import Message, ReadLimits
from dicomnode.dimse.outcome import RequestOutcome, RequestReason
from dicomnode.dimse.requestor import Requestor
from dicomnode.part10 import file_meta
from dicomnode.pull.handover import Handover
from dicomnode.pull.source import MOST_MATCHES, Match
from dicomnode.push.dimse_carrier import RELEASE_TIMEOUT_S, DimseCarrier
from dicomnode.settings.peers import PeerSettings

MOST_INSTANCE_BYTES = 512 << 20

_SUCCESS = 0x0000
_NO_FAILURE = (_SUCCESS, 0xB000)  # B000: complete, some sub-operations failed (PS3.4 section C.4.2.1.5)


class DimseSource:
    """One association for questions and one for C-GET, and a new one where one has ended."""

    def __init__(
        self, carrier: DimseCarrier, peer: PeerSettings, handover: Handover, *, most_bytes: int = MOST_INSTANCE_BYTES
    ) -> None:
        """``most_bytes``: of an instance that comes by C-GET. The peer has to know where our own door is for C-MOVE."""
        self._carrier = carrier
        self._peer = peer
        self._handover = handover
        self._limits = ReadLimits(pdu_bytes=RESPONSE_LIMITS.pdu_bytes, dataset_bytes=most_bytes)
        self._requestor: Requestor | None = None
        self._getter: Requestor | None = None
        self._is_got = False  # C-GET works, and C-MOVE does not
        self._offers_get = True  # as long as nothing is known

    def find(self, level: str, values: Mapping[str, str]) -> list[Match] | RequestOutcome:
        """Search by C-FIND."""
        context = self._context(wire.STUDY_ROOT_FIND)
        if isinstance(context, RequestOutcome):
            return context
        found: list[Match] = []

        def matched(dataset: bytes) -> bool:
            if (match := read_match(dataset, context.transfer_syntax, list(values))) is not None:
                found.append(match)
            return len(found) < MOST_MATCHES

        assert self._requestor is not None, "it has a context"
        identifier = encode_identifier(level, values, context.transfer_syntax)
        outcome = self._seen(self._requestor.find(context.id, identifier, matched))
        return found if outcome.status == _SUCCESS else outcome

    def fetch_series(self, study_uid: str, series_uid: str, sop_instance_uids: Sequence[str]) -> RequestOutcome:
        """Have the series brought by C-MOVE at SERIES level, or by C-GET."""
        assert sop_instance_uids, "an empty series is not fetched"
        return self._fetch(SERIES, {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid})

    def fetch_one(self, study_uid: str, series_uid: str, sop_instance_uid: str) -> RequestOutcome:
        """Have the instance brought by C-MOVE at IMAGE level, or by C-GET."""
        values = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid, "SOPInstanceUID": sop_instance_uid}
        return self._fetch(IMAGE, values)

    def close(self) -> None:
        """Release the associations."""
        for requestor in (self._requestor, self._getter):
            if requestor is not None:
                requestor.release(RELEASE_TIMEOUT_S)
        self._requestor = self._getter = None

    def _fetch(self, level: str, values: Values) -> RequestOutcome:
        if self._is_got:
            return self._get(level, values)
        moved = self._move(level, values)
        is_refused = moved.reason is RequestReason.NO_CONTEXT or moved.status not in (None, *_NO_FAILURE)
        if not is_refused or not self._offers_get:
            return moved
        got = self._get(level, values)
        self._is_got = got.status in _NO_FAILURE
        self._offers_get = got.reason is not RequestReason.NO_CONTEXT
        return got if self._offers_get else moved

    def _move(self, level: str, values: Values) -> RequestOutcome:
        context = self._context(wire.STUDY_ROOT_MOVE)
        if isinstance(context, RequestOutcome):
            return context
        assert self._requestor is not None, "it has a context"
        identifier = encode_identifier(level, values, context.transfer_syntax)
        return self._seen(self._requestor.move(context.id, identifier, self._handover.myself.ae_title))

    def _get(self, level: str, values: Values) -> RequestOutcome:
        if self._getter is None:
            storage = [
                Proposal(sop_class, (syntax,), is_provided_by_requestor=True)
                for sop_class in wire.SOP_CLASSES
                for syntax in wire.TRANSFER_SYNTAXES
            ]
            asking = [Proposal(wire.STUDY_ROOT_GET, (syntax,)) for syntax in wire.UNCOMPRESSED]
            associated = self._carrier.associate(self._peer, [*asking, *storage], limits=self._limits)
            if isinstance(associated, RequestOutcome):
                return associated
            timeout_s = self._carrier.push.response_timeout_s
            self._getter = Requestor(associated, response_timeout_s=timeout_s, brought=self._bring)
        context = _offered(self._getter, wire.STUDY_ROOT_GET)
        if context is None or all(_offered(self._getter, uid) is None for uid in wire.SOP_CLASSES):
            detail = "it offers neither C-MOVE nor C-GET with the role of a provider for us"
            return RequestOutcome(reason=RequestReason.NO_CONTEXT, detail=detail)
        outcome = self._getter.get(context.id, encode_identifier(level, values, context.transfer_syntax))
        if outcome.status is None:  # the association has ended
            self._getter = None
        return outcome

    def _bring(self, context: Context, message: Message) -> int:
        """Hand over an instance that comes on the association of the C-GET; return the status for the peer."""
        meta = file_meta(
            sop_class_uid=message.command.text(Field.AFFECTED_SOP_CLASS_UID),
            sop_instance_uid=message.command.text(Field.AFFECTED_SOP_INSTANCE_UID),
            transfer_syntax_uid=context.transfer_syntax,
        )
        outcome = self._handover.store(meta, message.dataset or b"")
        return wire.Answer.NO_RESOURCES if outcome.status is None else outcome.status

    def _context(self, sop_class_uid: str) -> Context | RequestOutcome:
        """Return the context of a service, explicit VR if possible, on the association, which is opened if need be."""
        if self._requestor is None:
            services = (wire.STUDY_ROOT_FIND, wire.STUDY_ROOT_MOVE)
            proposed = [Proposal(service, (syntax,)) for service in services for syntax in wire.UNCOMPRESSED]
            associated = self._carrier.associate(self._peer, proposed)
            if not isinstance(associated, Associated):
                return associated
            timeout_s = self._carrier.push.response_timeout_s
            self._requestor = Requestor(associated, response_timeout_s=timeout_s)
        context = _offered(self._requestor, sop_class_uid)
        if context is None:
            service = "C-FIND" if sop_class_uid == wire.STUDY_ROOT_FIND else "C-MOVE"
            return RequestOutcome(reason=RequestReason.NO_CONTEXT, detail=f"it does not offer {service} to us")
        return context

    def _seen(self, outcome: RequestOutcome) -> RequestOutcome:
        if outcome.status is None:  # the association has ended
            self._requestor = None
        return outcome


def _offered(requestor: Requestor, sop_class_uid: str) -> Context | None:
    """Return the context of a service, explicit VR if possible; None: the peer does not offer it to us."""
    offered = [one for one in requestor.contexts.values() if one.abstract_syntax == sop_class_uid]
    return min(offered, key=lambda one: one.transfer_syntax != wire.UNCOMPRESSED[0], default=None)
