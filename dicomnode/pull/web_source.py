"""A peer that is asked by QIDO-RS; its instances are fetched by WADO-RS and handed over at the node's door.

Each instance is one request (PS3.18 section 10.4), in the encoding in which the server keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dicomnode.dimse.identifiers import IMAGE, SERIES, STUDY
from dicomnode.dimse.outcome import RequestOutcome, RequestReason
from dicomnode.pull.handover import Handover
from dicomnode.pull.source import Match
from dicomnode.stow.server import NoSearch, Server

_PATHS = {
    STUDY: "/studies",
    SERIES: "/studies/{StudyInstanceUID}/series",
    IMAGE: "/studies/{StudyInstanceUID}/series/{SeriesInstanceUID}/instances",
}


class WebSource:
    """Requests to one server."""

    def __init__(self, server: Server, handover: Handover) -> None:
        self._server = server
        self._handover = handover

    def find(self, level: str, values: Mapping[str, str]) -> list[Match] | RequestOutcome:
        """Search by QIDO-RS."""
        found = self._server.matches(_PATHS[level].format(**values), values)
        if isinstance(found, NoSearch):
            return RequestOutcome(reason=RequestReason.NO_SERVICE, detail=found.why)
        return found

    def fetch_series(self, study_uid: str, series_uid: str, sop_instance_uids: Sequence[str]) -> RequestOutcome:
        """Fetch each instance by WADO-RS, until the server cannot be reached."""
        outcome = RequestOutcome(reason=RequestReason.ANSWERED, status=0)
        for uid in sop_instance_uids:
            one = self.fetch_one(study_uid, series_uid, uid)
            if one.status is None:
                return one
            outcome = one if one.status else outcome
        return outcome

    def fetch_one(self, study_uid: str, series_uid: str, sop_instance_uid: str) -> RequestOutcome:
        """Fetch the instance by WADO-RS, then send it to our own door by C-STORE."""
        found = self._server.retrieve(study_uid, series_uid, sop_instance_uid)
        return found if isinstance(found, RequestOutcome) else self._handover.store(found)

    def close(self) -> None:
        """Do nothing: no connection stays open."""
        self._server.close()
