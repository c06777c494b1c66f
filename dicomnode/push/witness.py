"""Asks a peer what it has and keeps: by DIMSE where it has an ``address``, by DICOMweb where it has a ``url``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dicomnode.dimse.commitment import Reference, Report
from dicomnode.dimse.outcome import RequestOutcome
from dicomnode.push.answers import Asked, Found, NotOffered, Request, Together, Told, Withdrawn
from dicomnode.push.carriers import Carriers
from dicomnode.push.dimse_witness import DimseWitness
from dicomnode.push.web_witness import WebWitness
from dicomnode.settings.peers import PeerSettings


class Witness:
    """Asks a peer by DIMSE or by DICOMweb. One thread uses it; only ``abort`` may come from another."""

    def __init__(self, carriers: Carriers) -> None:
        self._dimse = DimseWitness(carriers.dimse)
        self._web = WebWitness(carriers.stow)

    def abort(self) -> None:
        """End the association that is open, or the request that is under way, from any thread."""
        self._dimse.abort()
        self._web.abort()

    def ask(
        self,
        committer: PeerSettings,
        transaction_uid: str,
        references: Sequence[Reference],
        *,
        before: Callable[[float | None], bool],
        reported: Callable[[Report | None], int],
    ) -> Asked | Told | Withdrawn | NotOffered | RequestOutcome:
        """Ask for commitment.

        ``before`` records the request, as soon as the peer has it or is about to get it; False: the request is not
        wanted any more. It gets the seconds until the peer is to be asked for the result; None: the peer reports by
        itself. ``reported`` takes a report that comes at once, None: it cannot be read, and returns the status that
        answers it.
        """
        asking = self._web if committer.url else self._dimse
        return asking.ask(committer, transaction_uid, references, before=before, reported=reported)

    def ask_together(
        self,
        committer: PeerSettings,
        requests: Sequence[Request],
        *,
        before: Callable[[str], bool],
        reported: Callable[[Report | None], int],
    ) -> Together | NotOffered | RequestOutcome:
        """Ask a peer with an address for commitment by several requests, and wait once for the reports on them.

        ``before`` records the request of a Transaction UID as soon as the peer is about to get it, as for ``ask``.
        """
        return self._dimse.ask_together(committer, requests, before=before, reported=reported)

    def result(
        self, committer: PeerSettings, transaction_uid: str, *, reported: Callable[[Report], int]
    ) -> Asked | Told | NotOffered | RequestOutcome:
        """Look for the result of a request, at a peer with a url; others report by themselves."""
        return self._web.result(committer, transaction_uid, reported=reported)

    def query(self, peer: PeerSettings, study_uid: str, series_uid: str) -> Found | NotOffered | RequestOutcome:
        """Ask which instances of a series the peer has: by C-FIND, or by QIDO-RS."""
        return (self._web if peer.url else self._dimse).query(peer, study_uid, series_uid)

    def patients(
        self, peer: PeerSettings, study_uid: str, keywords: Sequence[str]
    ) -> list[dict[str, str]] | NotOffered | RequestOutcome:
        """Ask under which patients the peer has a study: these attributes of each match, by keyword."""
        return (self._web if peer.url else self._dimse).patients(peer, study_uid, keywords)
