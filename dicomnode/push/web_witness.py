"""Asks a DICOMweb server about its instances and studies: storage commitment (PS3.18 section 13), QIDO-RS.

In: peers of the settings with a ``url``, and our own UIDs. Out: the answer as a value. Nothing here raises for what a
server does or fails to do, and nothing here decides what follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dicomnode.dimse.commitment import Reference, Report
from dicomnode.dimse.outcome import RequestOutcome
from dicomnode.push.answers import MOST_STUDIES, Asked, Found, NotOffered, Told, Withdrawn
from dicomnode.push.stow_carrier import StowCarrier
from dicomnode.seams import checkpoint
from dicomnode.settings.peers import PeerSettings
from dicomnode.stow.commitment import NoCommitment, Working
from dicomnode.stow.server import NoSearch, Server

_STUDY_UID = "StudyInstanceUID"


class WebWitness:
    """Asks servers. One thread uses it; only ``abort`` may come from another."""

    def __init__(self, carrier: StowCarrier) -> None:
        self._carrier = carrier
        self._current: Server | None = None

    def abort(self) -> None:
        """End the request that is under way, from any thread."""
        if (current := self._current) is not None:
            current.abort()

    def ask(
        self,
        committer: PeerSettings,
        transaction_uid: str,
        references: Sequence[Reference],
        *,
        before: Callable[[float | None], bool],
        reported: Callable[[Report], int],
    ) -> Asked | Told | Withdrawn | NotOffered | RequestOutcome:
        """Ask for commitment.

        A server that does not commit says so in its answer, and few do commit. So ``before`` is called once a server
        has the request; the same request again, after a crash before that, is answered as one that it has.
        """
        server = self._at(committer)
        if (failed := server.connect()) is not None:
            return failed
        checkpoint("proof.associated")
        answer = server.commit(transaction_uid, references)
        checkpoint("proof.answered")
        if isinstance(answer, Report | Working):
            if not before(answer.after_s if isinstance(answer, Working) else 0.0):
                return Withdrawn()
            checkpoint("proof.asked")
        return _taken(answer, reported)

    def result(
        self, committer: PeerSettings, transaction_uid: str, *, reported: Callable[[Report], int]
    ) -> Asked | Told | NotOffered | RequestOutcome:
        """Look for the result of a request that the server has."""
        return _taken(self._at(committer).result(transaction_uid), reported)

    def query(self, peer: PeerSettings, study_uid: str, series_uid: str) -> Found | NotOffered | RequestOutcome:
        """Ask which instances of a series the server has."""
        shown = self._at(peer).search(study_uid, series_uid)
        if isinstance(shown, NoSearch):
            return _no_search(shown)
        return shown if isinstance(shown, RequestOutcome) else Found(shown)

    def patients(
        self, peer: PeerSettings, study_uid: str, keywords: Sequence[str]
    ) -> list[dict[str, str]] | NotOffered | RequestOutcome:
        """Ask under which patients the server has a study: these attributes of each match, by keyword."""
        asked = {_STUDY_UID: study_uid, **dict.fromkeys(keywords, "")}
        shown = self._at(peer).matches("/studies", asked, most=MOST_STUDIES)
        if isinstance(shown, NoSearch):
            return _no_search(shown)
        if isinstance(shown, RequestOutcome):
            return shown
        # A server that ignores the UID would show other patients' studies.
        return [{keyword: one[keyword] for keyword in keywords} for one in shown if one[_STUDY_UID] == study_uid]

    def _at(self, peer: PeerSettings) -> Server:
        """Return the server of a peer; from now on ``abort`` ends its request."""
        self._current = server = self._carrier.server(peer)
        return server


def _taken(
    answer: Report | Working | NoCommitment | RequestOutcome, reported: Callable[[Report], int]
) -> Asked | Told | NotOffered | RequestOutcome:
    match answer:
        case Report():
            reported(answer)
            return Told()
        case Working():
            return Asked(answer.after_s)
        case NoCommitment():
            return NotOffered(f"it does not offer storage commitment by DICOMweb ({answer.why})")
        case RequestOutcome():
            return answer


def _no_search(shown: NoSearch) -> NotOffered:
    return NotOffered(f"it does not offer a search by QIDO-RS ({shown.why})")
