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
from dicomnode.push.answers import MOST_STUDIES, Asked, Found, NotOffered, Request, Together, Withdrawn
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
        """Ask for commitment; the arguments are those of ``ask_together``."""
        request = Request(transaction_uid, references)
        done = self.ask_together(committer, [request], before=lambda _: before(None), reported=reported)
        return done.answers[transaction_uid] if isinstance(done, Together) else done

    def ask_together(
        self,
        committer: PeerSettings,
        requests: Sequence[Request],
        *,
        before: Callable[[str], bool],
        reported: Callable[[Report | None], int],
    ) -> Together | NotOffered | RequestOutcome:
        """Ask for commitment by several requests on one association, then wait once for the reports on all of them.

        ``before`` is called with the Transaction UID of each request before it goes out; False: do not send it.
        ``reported``: takes a report that comes on this association and returns the status that answers it.
        """
        answers: dict[str, Asked | Withdrawn | NotOffered] = {}
        awaited: set[str] = set()  # Transaction UIDs on which a report may come here
        is_told_here = is_cut = False

        def take(context: Context, message: Message) -> int:
            nonlocal is_told_here
            is_told_here = True
            report = read_report(message.dataset or b"", context.transfer_syntax)
            awaited.discard(report.transaction_uid if report else "")
            return reported(report)

        requestor = self._open(committer, wire.COMMITMENT, take)
        if not isinstance(requestor, Requestor):
            return requestor
        try:
            checkpoint("proof.associated")
            context = _preferred(requestor)
            for request in requests:
                uid = request.transaction_uid
                if not before(uid):
                    answers[uid] = Withdrawn()
                    continue
                checkpoint("proof.asked")
                awaited.add(uid)
                content = encode_request(uid, request.references, context.transfer_syntax)
                outcome = requestor.act(context.id, wire.COMMITMENT_INSTANCE, REQUEST, content)
                checkpoint("proof.answered")
                answers[uid] = Asked()  # also without an answer: the peer may have the request
                if outcome.status is None:
                    is_cut = True
                    break
                if outcome.status != _SUCCESS:
                    awaited.discard(uid)
                    answers[uid] = NotOffered(
                        f"it answered the request for commitment with status {outcome.status:04X}"
                    )
            requestor.listen(LISTEN_S, lambda: not awaited)
            requestor.release(RELEASE_TIMEOUT_S)
        except BaseException:
            requestor.abort()
            raise
        finally:
            self._current = None
        return Together(answers, is_told_here, is_cut)

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
