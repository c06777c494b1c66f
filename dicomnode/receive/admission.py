"""Whether an association is accepted: its request against the configured peers, and a rejection with its exact code.

A pure decision: no socket, no library object. The order is that of docs/protocol.md#association-negotiation: first what
passes by itself (a node that is full says nothing about a title), then what an administrator must correct.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from dicomnode.dimse.associate import AssociationRequest, Proposal
from dicomnode.settings.models import PeerSettings
from dicomnode.tls.certificate import Certificate, is_expected
from dicomnode.wire import (
    APPLICATION_CONTEXT,
    CALLED_UNKNOWN,
    CALLING_UNKNOWN,
    CERTIFICATE_UNKNOWN,
    CONGESTED,
    CONTEXT_UNKNOWN,
    NO_CERTIFICATE,
    OTHER_SOP_CLASSES,
    OVER_LIMIT,
    PROTOCOL_UNKNOWN,
    SOP_CLASSES,
    TRANSFER_SYNTAXES,
    UNCOMPRESSED,
    VERIFICATION,
    Rejection,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionContext:
    """What counts beside the request: the state of the node at this moment, and the address of the requestor."""

    is_refusing: bool  # stopping, or without room
    is_over_limit: bool
    address: str
    certificate: Certificate | None = None  # verified; None: the connection is not under TLS


def admit(
    request: AssociationRequest, context: AdmissionContext, *, ae_title: str, peers: Sequence[PeerSettings]
) -> PeerSettings | Rejection:
    """Find the peer that a request comes from, or the rejection that answers it."""
    if context.is_refusing:
        return CONGESTED
    if context.is_over_limit:
        return OVER_LIMIT
    if request.called != ae_title:
        return CALLED_UNKNOWN
    calling = request.calling
    known = [one for one in peers if calling is not None and one.may_send(calling, context.address)]
    if not known:
        return CALLING_UNKNOWN
    peer = next((one for one in known if _is_proven(one, context.certificate)), None)
    if peer is None:
        return NO_CERTIFICATE if context.certificate is None else CERTIFICATE_UNKNOWN
    if request.application_context != APPLICATION_CONTEXT:
        return CONTEXT_UNKNOWN
    if not request.is_version_1:
        return PROTOCOL_UNKNOWN
    return peer


def _is_proven(peer: PeerSettings, certificate: Certificate | None) -> bool:
    """Is the requestor this peer, as far as a certificate can tell? A peer that is bound to one needs it."""
    if not peer.is_bound:
        return True
    return certificate is not None and is_expected(
        certificate, fingerprints=peer.fingerprints, names=peer.certificate_names
    )


def contexts_for(peer: PeerSettings) -> tuple[Proposal, ...]:
    """Return what this peer may propose: verification, MR, and other objects where the settings say so."""
    return _contexts(stores_others=peer.other_objects == "store")


@cache
def _contexts(*, stores_others: bool) -> tuple[Proposal, ...]:
    storage = SOP_CLASSES + OTHER_SOP_CLASSES if stores_others else SOP_CLASSES
    return (
        Proposal(VERIFICATION, UNCOMPRESSED),
        *(Proposal(uid, TRANSFER_SYNTAXES) for uid in storage),
    )
