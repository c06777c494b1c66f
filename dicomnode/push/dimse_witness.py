"""Asks a peer about its instances and studies by DIMSE: storage commitment (PS3.4 Annex J), C-FIND.

In: peers of the settings and our own UIDs. Out: the answer as a value. Each call has an association of its own, beside
those that instances go out on. Nothing here raises for what a peer does or fails to do, and nothing here decides what
follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dicomnode import wire
from dicomnode.dimse.associate import Associated, Context, Proposal
from dicomnode.dimse.commitment import Reference, Report
from dicomnode.dimse.identifiers import IMAGE, STUDY, encode_identifier, read_match
from dicomnode.dimse.messages import Message
from dicomnode.dimse.outcome import RequestOutcome, RequestReason
from dicomnode.dimse.proofs import REQUEST, encode_request, read_report
from dicomnode.dimse.requestor import Requestor
from dicomnode.push.answers import MOST_STUDIES, Asked, Found, NotOffered, Withdrawn
from dicomnode.push.dimse_carrier import RELEASE_TIMEOUT_S, DimseCarrier
from dicomnode.seams import checkpoint
from dicomnode.settings.peers import PeerSettings

LISTEN_S = 2.0  # after the response to a request: many a peer reports on the same association, at once
MOST_MATCHES = 1 << 16  # of a series of ours, which has some hundred instances

_SUCCESS = 0x0000
_UID, _STUDY_UID = "SOPInstanceUID", "StudyInstanceUID"


class DimseWitness:
    """Asks peers under our AE title. One thread uses it; only ``abort`` may come from another."""

    def __init__(self, carrier: DimseCarrier) -> None:
        self._carrier = carrier
        self._current: Requestor | None = None

    def abort(self) -> None:
        """End the association that is open, from any thread."""
        if (current := self._current) is not None:
            current.abort()

    def ask(
        self,
        committer: PeerSettings,
        transaction_uid: str,
        references: Sequence[Reference],
        *,
        before: Callable[[float | None], bool],
        reported: Callable[[Report | None], int],
    ) -> Asked | Withdrawn | NotOffered | RequestOutcome:
        """Ask for commitment. ``before`` is called once there is an association; False: send nothing.

        ``reported``: takes a report that comes on this association and returns the status that answers it.
        """
        came = False

        def take(context: Context, message: Message) -> int:
            nonlocal came
            came = True
            return reported(read_report(message.dataset or b"", context.transfer_syntax))

        requestor = self._open(committer, wire.COMMITMENT, take)
        if not isinstance(requestor, Requestor):
            return requestor
        try:
            checkpoint("proof.associated")
            if not before(None):
                requestor.release(RELEASE_TIMEOUT_S)
                return Withdrawn()
            checkpoint("proof.asked")
            context = _preferred(requestor)
            content = encode_request(transaction_uid, references, context.transfer_syntax)
            outcome = requestor.act(context.id, wire.COMMITMENT_INSTANCE, REQUEST, content)
            checkpoint("proof.answered")
            if outcome.status == _SUCCESS:
                requestor.listen(LISTEN_S, lambda: came)
            requestor.release(RELEASE_TIMEOUT_S)
        except BaseException:
            requestor.abort()
            raise
        finally:
            self._current = None
        if outcome.status not in (_SUCCESS, None):
            return NotOffered(f"it answered the request for commitment with status {outcome.status:04X}")
        return Asked()  # also without an answer: the peer may have the request

    def query(self, peer: PeerSettings, study_uid: str, series_uid: str) -> Found | NotOffered | RequestOutcome:
        """Ask by C-FIND which instances of a series the peer has."""
        found: set[str] = set()

        def match(dataset: bytes, syntax: str) -> bool:
            found.add((read_match(dataset, syntax, [_UID]) or {}).get(_UID, ""))
            return len(found) < MOST_MATCHES

        asked = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid, _UID: ""}
        outcome = self._find(peer, IMAGE, asked, match)
        if isinstance(outcome, NotOffered) or outcome.status is None:
            return outcome
        if outcome.status != _SUCCESS:
            return NotOffered(f"it answered the query with status {outcome.status:04X}")
        return Found(frozenset(found))

    def patients(
        self, peer: PeerSettings, study_uid: str, keywords: Sequence[str]
    ) -> list[dict[str, str]] | NotOffered | RequestOutcome:
        """Ask by C-FIND under which patients the peer has a study: these attributes of each match, by keyword."""
        found: list[dict[str, str]] = []

        def match(dataset: bytes, syntax: str) -> bool:
            read = read_match(dataset, syntax, [_STUDY_UID, *keywords]) or {}
            if read.pop(_STUDY_UID, "") == study_uid:
                found.append(read)
            return len(found) < MOST_STUDIES

        outcome = self._find(peer, STUDY, {_STUDY_UID: study_uid, **dict.fromkeys(keywords, "")}, match)
        if isinstance(outcome, NotOffered) or outcome.status != _SUCCESS:
            return outcome
        return found

    def _find(
        self, peer: PeerSettings, level: str, asked: Mapping[str, str], match: Callable[[bytes, str], bool]
    ) -> NotOffered | RequestOutcome:
        """Send a C-FIND. ``match`` gets the data set of a match and its transfer syntax; False ends it."""
        requestor = self._open(peer, wire.STUDY_ROOT_FIND, None)
        if not isinstance(requestor, Requestor):
            return requestor
        try:
            context = _preferred(requestor)
            syntax = context.transfer_syntax
            identifier = encode_identifier(level, asked, syntax)
            outcome = requestor.find(context.id, identifier, lambda dataset: match(dataset, syntax))
            requestor.release(RELEASE_TIMEOUT_S)
        except BaseException:
            requestor.abort()
            raise
        finally:
            self._current = None
        return outcome

    def _open(
        self, peer: PeerSettings, sop_class_uid: str, reported: Callable[[Context, Message], int] | None
    ) -> Requestor | NotOffered | RequestOutcome:
        # One context a syntax: some peers accept implicit VR only, and a context yields one syntax.
        proposed = [Proposal(sop_class_uid, (syntax,)) for syntax in wire.UNCOMPRESSED]
        associated = self._carrier.associate(peer, proposed)
        if isinstance(associated, Associated):
            timeout_s = self._carrier.push.response_timeout_s
            self._current = requestor = Requestor(associated, response_timeout_s=timeout_s, reported=reported)
            return requestor
        if associated.reason is RequestReason.NO_CONTEXT:
            return NotOffered(f"it does not offer {associated.detail}")
        return associated


def _preferred(requestor: Requestor) -> Context:
    """Return the context with explicit VR where the peer accepts it, else the other one."""
    contexts = requestor.contexts.values()
    return min(contexts, key=lambda one: wire.UNCOMPRESSED.index(one.transfer_syntax))
