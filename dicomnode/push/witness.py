"""What a peer says of its instances and studies: storage commitment (PS3.4 Annex J), C-FIND, a search by QIDO-RS.

In: peers of the settings and our own UIDs. Out: a value with what came of it. Each call has an association of its own,
beside those that instances go out on. Nothing here raises for what a peer does or fails to do, and nothing here decides
what follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dicomnode import wire
from dicomnode.dimse.associate import Associated, Context, Proposal
from dicomnode.dimse.identifiers import IMAGE, STUDY, encode_identifier, read_match
from dicomnode.dimse.messages import Message
from dicomnode.dimse.outcome import RequestOutcome, RequestReason
from dicomnode.dimse.proofs import REQUEST, Reference, encode_request
from dicomnode.dimse.requestor import Requestor
from dicomnode.push.dimse_carrier import RELEASE_TIMEOUT_S, DimseCarrier
from dicomnode.push.stow_carrier import StowCarrier
from dicomnode.seams import checkpoint
from dicomnode.settings.peers import PeerSettings
from dicomnode.stow.server import NoSearch, Server

LISTEN_S = 2.0  # after the response to a request: many a peer reports on the same association, at once
MOST_MATCHES = 1 << 16  # of a series of ours, which has some hundred instances
MOST_STUDIES = 64  # under one Study Instance UID; a peer that ignores the UID would send all it has

_SUCCESS = 0x0000
_UID, _STUDY_UID = "SOPInstanceUID", "StudyInstanceUID"


@dataclass(frozen=True, slots=True)
class NotOffered:
    """The peer does not offer the service, or not to us."""

    why: str


@dataclass(frozen=True, slots=True)
class Asked:
    """The request went out; a report may come."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The request is not to go out any more."""


@dataclass(frozen=True, slots=True)
class Found:
    """The SOP Instance UIDs of the series that the peer shows."""

    uids: frozenset[str]


class Witness:
    """Asks peers under our AE title. One thread uses it; only ``abort`` may come from another."""

    def __init__(self, carrier: DimseCarrier, web: StowCarrier | None = None) -> None:
        """``web``: needed for peers with a url."""
        self._carrier = carrier
        self._web = web
        self._current: Requestor | Server | None = None

    def abort(self) -> None:
        """End the association that is open, or the request that is under way, from any thread."""
        if (current := self._current) is not None:
            current.abort()

    def ask(
        self,
        committer: PeerSettings,
        transaction_uid: str,
        references: Sequence[Reference],
        *,
        before: Callable[[], bool],
        reported: Callable[[bytes | bytearray, str], int],
    ) -> Asked | Withdrawn | NotOffered | RequestOutcome:
        """Ask for commitment. ``before`` records the request once there is an association; False: send nothing.

        ``reported``: takes the data set of a report that comes on this association, with its transfer syntax, and
        returns the status that answers it.
        """
        if committer.url:
            return NotOffered("a server that is reached by DICOMweb is not asked to commit")
        came = False

        def take(context: Context, message: Message) -> int:
            nonlocal came
            came = True
            return reported(message.dataset or b"", context.transfer_syntax)

        requestor = self._open(committer, wire.COMMITMENT, take)
        if not isinstance(requestor, Requestor):
            return requestor
        try:
            checkpoint("proof.associated")
            if not before():
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
        """Ask which instances of a series the peer has: by C-FIND, or by QIDO-RS where it has a url."""
        if peer.url:
            return self._search(peer, study_uid, series_uid)
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
        if peer.url:
            return NotOffered("a server that is reached by DICOMweb is not asked for its studies")
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

    def _search(self, peer: PeerSettings, study_uid: str, series_uid: str) -> Found | NotOffered | RequestOutcome:
        assert self._web is not None, "a peer with a url is asked by DICOMweb"
        self._current = server = self._web.server(peer)
        try:
            shown = server.search(study_uid, series_uid)
        finally:
            self._current = None
        if isinstance(shown, NoSearch):
            return NotOffered(f"it does not offer a search by QIDO-RS ({shown.why})")
        return shown if isinstance(shown, RequestOutcome) else Found(shown)

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
    """Explicit VR where the peer accepts it."""
    contexts = requestor.contexts.values()
    return min(contexts, key=lambda one: wire.UNCOMPRESSED.index(one.transfer_syntax))
