"""DIMSE as a carrier: a session is one association, each instance a C-STORE, its data set byte for byte as it lies.

A peer that accepts an uncompressed class only in implicit VR little endian gets the data set encoded anew. What
follows from a status is not decided here (``wire.STATUSES``, ``attempt``).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from dicomnode import log, wire
from dicomnode.dimse.associate import RESPONSE_LIMITS, Associated, Proposal, Security, associate, in_words
from dicomnode.dimse.messages import ReadLimits
from dicomnode.dimse.outcome import RequestOutcome, RequestReason
from dicomnode.dimse.requestor import Requestor
from dicomnode.ids import AeTitle
from dicomnode.push.carrier import InstanceFormat, OutgoingInstance
from dicomnode.push.implicit_vr import implicit_dataset
from dicomnode.settings.models import PushSettings, Settings
from dicomnode.settings.peers import PeerSettings
from dicomnode.tls.identity import Identity

LOGGER = logging.getLogger(__name__)

RELEASE_TIMEOUT_S = 10.0  # docs/protocol.md#time-limits

_VERIFICATION = InstanceFormat(sop_class_uid=wire.VERIFICATION, transfer_syntax_uid=wire.IMPLICIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class DimseCarrier:
    """Associations that the node opens under its own AE title."""

    ae_title: AeTitle
    push: PushSettings
    identity: Identity | None = None  # needed for a peer that is called with TLS

    def open(self, peer: PeerSettings, formats: Collection[InstanceFormat]) -> DimseSession | RequestOutcome:
        """Ask the peer for an association that proposes these formats, or say why there is none."""
        associated = self.associate(peer, proposals(formats))
        if isinstance(associated, RequestOutcome):
            return associated
        return DimseSession(Requestor(associated, response_timeout_s=self.push.response_timeout_s), peer=peer.name)

    def associate(
        self, peer: PeerSettings, proposed: Sequence[Proposal], *, limits: ReadLimits = RESPONSE_LIMITS
    ) -> Associated | RequestOutcome:
        """Ask the peer for an association that proposes these contexts, or say why there is none."""
        return associate(
            (peer.host, peer.port),
            proposed,
            calling=self.ae_title,
            called=peer.ae_title,
            connect_timeout_s=self.push.connect_timeout_s,
            security=self._security(peer),
            limits=limits,
        )

    def echo(self, peer: PeerSettings) -> RequestOutcome:
        """C-ECHO to a peer, over an association of its own."""
        session = self.open(peer, [_VERIFICATION])
        if isinstance(session, RequestOutcome):
            return session
        outcome = session.echo()
        session.close()
        return outcome

    def _security(self, peer: PeerSettings) -> Security | None:
        if not peer.tls:
            return None
        assert self.identity is not None, "the settings demand tls.ca where peer.tls is set"
        return Security(
            context=self.identity.sending(is_host_checked=not peer.is_bound),
            fingerprints=peer.fingerprints,
            certificate_names=peer.certificate_names,
        )


def carrier_of(settings: Settings) -> DimseCarrier:
    """Return the carrier for a command. Raises SettingsError where a file of ``[tls]`` cannot be used."""
    identity = Identity(settings.tls) if settings.uses_tls else None
    return DimseCarrier(ae_title=settings.node.ae_title, push=settings.push, identity=identity)


class DimseSession:
    """An established association."""

    def __init__(self, requestor: Requestor, *, peer: str) -> None:
        """``peer``: its name, for the log."""
        self._peer = peer
        self._requestor = requestor
        self._context_ids = {
            InstanceFormat(sop_class_uid=context.abstract_syntax, transfer_syntax_uid=context.transfer_syntax): number
            for number, context in requestor.contexts.items()
        }

    def refusal(self, formats: Collection[InstanceFormat]) -> RequestOutcome | None:
        """Say which formats have neither a context of their own nor one in implicit VR little endian."""
        refused = [one for one in formats if self._chosen(one) is None]
        if not refused:
            return None
        return RequestOutcome(reason=RequestReason.NO_CONTEXT, detail=in_words(proposals(refused)))

    def batch(self, instances: Sequence[OutgoingInstance]) -> int:
        """Return 1: each instance is a request of its own."""
        assert instances, "only what there is can be sent"
        return 1

    def store(self, instances: Sequence[OutgoingInstance]) -> list[RequestOutcome]:
        """C-STORE one instance. Blocks until the response, about ``push.response_timeout_s`` at most."""
        (instance,) = instances
        return [self._store(instance)]

    def echo(self) -> RequestOutcome:
        """C-ECHO: is there a DICOM application that answers?"""
        return self._requestor.echo(self._context_ids[_VERIFICATION])

    def close(self) -> None:
        """Release the association; a peer that does not answer the release within 10 s is aborted."""
        if not self._requestor.release(RELEASE_TIMEOUT_S):
            detail = "no answer to the release"
            log.event(LOGGER, "association_aborted", peer=self._peer, detail=detail, limit=RELEASE_TIMEOUT_S)

    def abort(self) -> None:
        """Abort the association (A-ABORT 0/0)."""
        self._requestor.abort()

    def _store(self, instance: OutgoingInstance) -> RequestOutcome:
        chosen = self._chosen(instance.format)
        if chosen is None:
            refusal = self.refusal([instance.format])
            assert refusal is not None, "a format without a context is refused"
            return refusal
        dataset = instance.read_dataset()
        content = dataset if chosen == instance.format else implicit_dataset(dataset)
        if isinstance(content, RequestOutcome):
            return content
        return self._requestor.store(self._context_ids[chosen], instance.sop_instance_uid, memoryview(content))

    def _chosen(self, wanted: InstanceFormat) -> InstanceFormat | None:
        """Return the format in which an instance of this format is sent; None: the peer accepts none for it."""
        if wanted in self._context_ids:
            return wanted
        implicit = _implicit(wanted)
        return implicit if implicit in self._context_ids else None


def proposals(formats: Collection[InstanceFormat]) -> list[Proposal]:
    """Propose a context for each SOP class and transfer syntax: a context yields one syntax (PS3.8 section 9.3.3.2).

    Implicit VR little endian is proposed beside uncompressed data, as PS3.5 section 10.1 asks.
    """
    wanted = set(formats)
    wanted |= {implicit for one in wanted if (implicit := _implicit(one)) is not None}
    assert 0 < len(wanted) <= wire.MAXIMUM_CONTEXTS, "an association proposes 1 to 128 presentation contexts"
    return [Proposal(one.sop_class_uid, (one.transfer_syntax_uid,)) for one in sorted(wanted)]


def _implicit(wanted: InstanceFormat) -> InstanceFormat | None:
    """Return the same class in implicit VR little endian, in which uncompressed data may be encoded anew."""
    if wanted.transfer_syntax_uid not in wire.UNCOMPRESSED:
        return None
    return InstanceFormat(sop_class_uid=wanted.sop_class_uid, transfer_syntax_uid=wire.IMPLICIT)
