"""Decide whether an association is accepted: match its request to the configured peers, or reject it with a code.

The decision is pure: no socket, no library object. The order is that of docs/protocol.md#association-negotiation: first
the causes that pass by themselves (a full node does not check titles), then those that an administrator must correct.
An association to ``node.pull_ae_title`` brings instances that we asked for: the peers that we can ask may bring them,
and so may this node itself, which hands over what it fetched by DICOMweb.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache

from dicomnode.dimse.associate import AssociationRequest, Proposal
from dicomnode.settings.peers import PeerSettings
from dicomnode.tls.certificate import Certificate, is_expected
from dicomnode.wire import (
    APPLICATION_CONTEXT,
    CALLED_UNKNOWN,
    CALLING_UNKNOWN,
    CERTIFICATE_UNKNOWN,
    COMMITMENT,
    CONGESTED,
    CONTEXT_UNKNOWN,
    ENHANCED_MR_IMAGE,
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
    """The facts beside the request: the state of the node at this moment, and the address of the requestor."""

    is_refusing: bool  # stopping, or on a disk that cannot be written
    is_over_limit: bool
    address: str
    is_full: bool = False  # without room for images
    reporting: frozenset[str] = frozenset()  # the peers at this address that may report what they keep
    asked: Sequence[PeerSettings] = ()  # the peers at this address that may bring what we ask them for
    certificate: Certificate | None = None  # verified; None: the connection is not under TLS


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """The peer of an accepted association, and its rights; C-ECHO is always allowed."""

    peer: PeerSettings
    may_store: bool
    reporter: str | None  # the name of the peer that it may report as; None: it may not report
    is_pulled: bool = False  # true: we asked for the instances that it stores


def admit(
    request: AssociationRequest,
    context: AdmissionContext,
    *,
    ae_titles: Collection[str],
    peers: Sequence[PeerSettings],
    pull_ae_title: str = "",
) -> Admitted | Rejection:
    """Find the peer that a request comes from, or the rejection that answers it."""
    if context.is_refusing or (context.is_full and not _only_reports(request)):
        return CONGESTED
    if context.is_over_limit:
        return OVER_LIMIT
    is_pulled = bool(pull_ae_title) and request.called == pull_ae_title
    if request.called not in ae_titles and not is_pulled:
        return CALLED_UNKNOWN
    calling = request.calling
    known = [one for one in peers if calling is not None and one.may_send(calling, context.address)]
    reporters = [one for one in peers if one.name in context.reporting and one.ae_title == calling]
    if is_pulled:
        known, reporters = [one for one in context.asked if one.ae_title == calling], []
    if not known and not reporters:
        return CALLING_UNKNOWN
    sender = next((one for one in known if _is_proven(one, context.certificate)), None)
    reporter = next((one for one in reporters if _is_proven(one, context.certificate)), None)
    peer = sender or reporter
    if peer is None:
        return NO_CERTIFICATE if context.certificate is None else CERTIFICATE_UNKNOWN
    if request.application_context != APPLICATION_CONTEXT:
        return CONTEXT_UNKNOWN
    if not request.is_version_1:
        return PROTOCOL_UNKNOWN
    return Admitted(
        peer=peer, may_store=sender is not None, reporter=reporter.name if reporter else None, is_pulled=is_pulled
    )


def _only_reports(request: AssociationRequest) -> bool:
    """Tell whether the requestor wants to report what it keeps, and cannot store anything.

    On a full disk these reports are the way out: images may leave the disk only once their recipient keeps them.
    """
    return COMMITMENT in request.abstract_syntaxes <= {COMMITMENT, VERIFICATION}


def _is_proven(peer: PeerSettings, certificate: Certificate | None) -> bool:
    """Tell whether the certificate fits the peer. A peer that is bound to one needs it; any other passes without."""
    if not peer.is_bound:
        return True
    return certificate is not None and is_expected(
        certificate, fingerprints=peer.fingerprints, names=peer.certificate_names
    )


def contexts_for(admitted: Admitted) -> tuple[Proposal, ...]:
    """Return the contexts that may be proposed: verification, MR, what the settings add to it, and reports."""
    return _contexts(
        stores=admitted.may_store,
        stores_enhanced=admitted.peer.enhanced != "refuse",
        stores_others=admitted.peer.other_objects == "store",
        reports=admitted.reporter is not None,
    )


@cache
def _contexts(*, stores: bool, stores_enhanced: bool, stores_others: bool, reports: bool) -> tuple[Proposal, ...]:
    storage = SOP_CLASSES + OTHER_SOP_CLASSES if stores_others else SOP_CLASSES
    return (
        Proposal(VERIFICATION, UNCOMPRESSED),
        *(
            Proposal(uid, TRANSFER_SYNTAXES)
            for uid in storage
            if stores and (stores_enhanced or uid != ENHANCED_MR_IMAGE)
        ),
        *([Proposal(COMMITMENT, UNCOMPRESSED, is_provided_by_requestor=True)] if reports else []),
    )
