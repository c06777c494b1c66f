"""STOW-RS as a carrier: a request holds many instances, the answer has a status for each.

The files go out as they lie. What an answer to the whole request means for its instances is decided here; what follows
for the delivery from the status of an instance is not (``wire.STATUSES``, ``attempt``):

    200, 202, 409: each instance as the body says; an instance that it does not name is looked up by QIDO-RS
    400, 413, 415, 422, 500 and others: the request is sent in halves, down to the instance that is refused
    401, 403, 404, 503 and their kin, or no answer: the request as a whole has failed
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import groupby

from dicomnode import log
from dicomnode.dimse.outcome import RequestOutcome, RequestReason
from dicomnode.imaging.dicom_file import read_values
from dicomnode.push.carrier import InstanceFormat, OutgoingInstance
from dicomnode.settings.models import PushSettings, TlsSettings
from dicomnode.settings.peers import PeerSettings
from dicomnode.stow.answer import PROCESSING_FAILURE, read_statuses
from dicomnode.stow.body import Body
from dicomnode.stow.exchange import Reply
from dicomnode.stow.server import NoSearch, Server
from dicomnode.stow.status import closed_by, in_words

LOGGER = logging.getLogger(__name__)

MOST_BYTES = 32 << 20  # of one request: what proxies and servers are set to take is often a little more
MOST_INSTANCES = 100  # of one request

_NOT_UNDERSTOOD = 0xC000  # PS3.4 Annex B.2.3
_SYNTAX_REFUSED = 0xC122  # Referenced Transfer Syntax Not Supported (PS3.18 section 10.5.3)


@dataclass(frozen=True, slots=True)
class StowCarrier:
    """Requests to the DICOMweb servers of the settings."""

    push: PushSettings
    tls: TlsSettings
    _most_bytes: dict[str, int] = field(default_factory=dict)  # by peer, where it took less than ``MOST_BYTES``

    def open(
        self,
        peer: PeerSettings,
        formats: Collection[InstanceFormat],  # noqa: ARG002 (whether it takes one, a server says of each instance)
    ) -> StowSession | RequestOutcome:
        """Connect to the server, or say why that cannot be. Raises SettingsError of a file that the settings name."""
        server = self.server(peer)
        failed = server.connect()
        return failed if failed is not None else StowSession(server, peer=peer.name, most_bytes=self._most_bytes)

    def server(self, peer: PeerSettings) -> Server:
        """The server of a peer, for requests of another kind."""
        return Server(peer, self.push, self.tls)


class StowSession:
    """Requests to one server, each on a connection of its own; the first one stands."""

    def __init__(self, server: Server, *, peer: str, most_bytes: dict[str, int]) -> None:
        """``peer``: its name. ``most_bytes``: by peer, the size of request learned so far; the caller keeps it."""
        self._server = server
        self._peer = peer
        self._most_bytes = most_bytes

    def refusal(self, formats: Collection[InstanceFormat]) -> RequestOutcome | None:  # noqa: ARG002 (as in ``open``)
        """Return None: nothing is negotiated before an instance is sent."""
        return None

    def batch(self, instances: Sequence[OutgoingInstance]) -> int:
        """Return how many instances the size limit of one request allows, at least 1."""
        most, size_bytes = self._most_bytes.get(self._peer, MOST_BYTES), 0
        for count, instance in enumerate(instances[:MOST_INSTANCES]):
            size_bytes += instance.size_bytes
            if size_bytes > most and count:
                return count
        return min(len(instances), MOST_INSTANCES)

    def store(self, instances: Sequence[OutgoingInstance]) -> list[RequestOutcome]:
        """Send instances in one request, or in several where the server does not take them together."""
        reply, is_sent = self._server.store(Body(instances))
        if isinstance(reply, RequestOutcome):
            if reply.reason is RequestReason.LOST and not is_sent:
                # Many a server closes the connection on a request that is too large for it, and says nothing.
                self._take_less(instances)
            return [reply] * len(instances)
        if (closed := closed_by(reply.status)) is not None:
            return [closed] * len(instances)
        if reply.status < 300 or reply.status == HTTPStatus.CONFLICT:
            statuses = read_statuses(reply.body)
            if statuses or reply.status != HTTPStatus.CONFLICT:
                return self._each(instances, statuses or {}, is_success=reply.status == HTTPStatus.OK)
        log.event(
            LOGGER, "stow_refused", level=logging.WARNING, peer=self._peer, detail=in_words(reply.status),
            instances=len(instances),
        )  # fmt: skip
        return self._refused(instances, reply)

    def close(self) -> None:
        """Close the connection that was not used, if any; nothing else is open between requests."""
        self._server.close()

    def abort(self) -> None:
        """End the request that is under way, from any thread."""
        self._server.abort()

    def _refused(self, instances: Sequence[OutgoingInstance], reply: Reply) -> list[RequestOutcome]:
        """Send a refused request again in halves: one instance must not lose the others. One alone gets its outcome."""
        if len(instances) > 1:
            if reply.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                self._take_less(instances)
            half = len(instances) // 2
            first = self.store(instances[:half])
            broken = next((one for one in first if one.status is None), None)
            return first + ([broken] * (len(instances) - half) if broken else self.store(instances[half:]))
        if reply.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return [RequestOutcome(reason=RequestReason.TOO_LARGE, detail=in_words(reply.status))]
        if reply.status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
            return [_answered(_SYNTAX_REFUSED)]
        return [_answered(PROCESSING_FAILURE if reply.status >= 500 else _NOT_UNDERSTOOD)]

    def _take_less(self, instances: Sequence[OutgoingInstance]) -> None:
        """Remember that a request of this size was too large."""
        self._most_bytes[self._peer] = max(1, sum(one.size_bytes for one in instances) // 2)

    def _each(
        self, instances: Sequence[OutgoingInstance], statuses: dict[str, int], *, is_success: bool
    ) -> list[RequestOutcome]:
        """Return the outcome of each instance: its status in the answer, else by a search for it on the server."""
        unsaid = [one for one in instances if one.sop_instance_uid not in statuses]
        looked_up = self._look_up(unsaid, is_success=is_success)
        return [
            _answered(statuses[uid]) if (uid := one.sop_instance_uid) in statuses else looked_up[uid]
            for one in instances
        ]

    def _look_up(self, instances: Iterable[OutgoingInstance], *, is_success: bool) -> dict[str, RequestOutcome]:
        """Ask the server which of these instances it has; ``is_success``: it said that it stored everything."""
        found: dict[str, RequestOutcome] = {}
        placed = sorted(((_series_of(one), one.sop_instance_uid) for one in instances), key=lambda pair: pair[0])
        for series, group in groupby(placed, key=lambda pair: pair[0]):
            shown = self._server.search(*series) if all(series) else NoSearch("the file names no series")
            for _, uid in group:
                if isinstance(shown, RequestOutcome):
                    found[uid] = shown
                elif isinstance(shown, NoSearch):
                    found[uid] = _answered(0 if is_success else PROCESSING_FAILURE)
                else:
                    found[uid] = _answered(0 if uid in shown else PROCESSING_FAILURE)
        return found


def _answered(status: int) -> RequestOutcome:
    return RequestOutcome(reason=RequestReason.ANSWERED, status=status)


def _series_of(instance: OutgoingInstance) -> tuple[str, str]:
    """Return Study and Series Instance UID as the file has them; empty where it has none."""
    found = read_values(instance.path, ["StudyInstanceUID", "SeriesInstanceUID"]) or {}
    return found.get("StudyInstanceUID", ""), found.get("SeriesInstanceUID", "")
