"""A peer that is asked by C-FIND, and has instances brought by C-MOVE to ``node.pull_ae_title``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dicomnode import wire
from dicomnode.dimse.associate import Associated, Context, Proposal
from dicomnode.dimse.identifiers import IMAGE, SERIES, Values, encode_identifier, read_match
from dicomnode.dimse.outcome import RequestOutcome, RequestReason
from dicomnode.dimse.requestor import Requestor
from dicomnode.pull.source import MOST_MATCHES, Match
from dicomnode.push.dimse_carrier import RELEASE_TIMEOUT_S, DimseCarrier
from dicomnode.settings.models import PeerSettings

_SUCCESS = 0x0000


class DimseSource:
    """One association for everything, and a new one where it has ended."""

    def __init__(self, carrier: DimseCarrier, peer: PeerSettings, destination: str) -> None:
        """``destination``: the AE title that instances are brought to; the peer has to know its address."""
        self._carrier = carrier
        self._peer = peer
        self._destination = destination
        self._requestor: Requestor | None = None

    def find(self, level: str, values: Mapping[str, str]) -> list[Match] | RequestOutcome:
        """C-FIND."""
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
        """C-MOVE at SERIES level."""
        assert sop_instance_uids, "an empty series is not fetched"
        return self._move(SERIES, {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid})

    def fetch_one(self, study_uid: str, series_uid: str, sop_instance_uid: str) -> RequestOutcome:
        """C-MOVE at IMAGE level."""
        values = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid, "SOPInstanceUID": sop_instance_uid}
        return self._move(IMAGE, values)

    def close(self) -> None:
        """Release the association."""
        if self._requestor is not None:
            self._requestor.release(RELEASE_TIMEOUT_S)
            self._requestor = None

    def _move(self, level: str, values: Values) -> RequestOutcome:
        context = self._context(wire.STUDY_ROOT_MOVE)
        if isinstance(context, RequestOutcome):
            return context
        assert self._requestor is not None, "it has a context"
        identifier = encode_identifier(level, values, context.transfer_syntax)
        return self._seen(self._requestor.move(context.id, identifier, self._destination))

    def _context(self, sop_class_uid: str) -> Context | RequestOutcome:
        """The context of a service on the association, which is opened first if need be; explicit VR if possible."""
        if self._requestor is None:
            services = (wire.STUDY_ROOT_FIND, wire.STUDY_ROOT_MOVE)
            proposed = [Proposal(service, (syntax,)) for service in services for syntax in wire.UNCOMPRESSED]
            associated = self._carrier.associate(self._peer, proposed)
            if not isinstance(associated, Associated):
                return associated
            timeout_s = self._carrier.push.response_timeout_s
            self._requestor = Requestor(associated, response_timeout_s=timeout_s)
        offered = [one for one in self._requestor.contexts.values() if one.abstract_syntax == sop_class_uid]
        if not offered:
            service = "C-FIND" if sop_class_uid == wire.STUDY_ROOT_FIND else "C-MOVE"
            return RequestOutcome(reason=RequestReason.NO_CONTEXT, detail=f"it does not offer {service} to us")
        return min(offered, key=lambda one: wire.UNCOMPRESSED.index(one.transfer_syntax))

    def _seen(self, outcome: RequestOutcome) -> RequestOutcome:
        if outcome.status is None:  # the association has ended
            self._requestor = None
        return outcome
