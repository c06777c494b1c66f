"""The beginning of an association, at either end: pynetdicom encodes, decodes and negotiates its PDUs.

Only pure functions of the library are called: it starts no thread, opens no socket and runs no state machine. PS3.8
sections 7.1 and 9.3.2 to 9.3.4, PS3.7 Annex D.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import (
    PresentationContext,
    build_context,
    negotiate_as_acceptor,
    negotiate_as_requestor,
)

from dicomnode import wire
from dicomnode.dimse.items import (
    CALLED,
    CALLING,
    Roles,
    Tidied,
    Unreadable,
    abstract_syntax,
    as_sent,
    completed,
    refusal,
    tidy_acceptance,
    tidy_request,
    title,
)
from dicomnode.dimse.link import Ended, Link
from dicomnode.dimse.messages import INVALID_VALUE, ControlPdu, Flaw, PduType, Phase, ReadLimits, Violation, encode_pdu
from dicomnode.dimse.outcome import RequestOutcome, RequestReason
from dicomnode.ids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, AeTitle
from dicomnode.tls.certificate import is_expected
from dicomnode.tls.connection import objection

RESPONSE_LIMITS = ReadLimits(pdu_bytes=1 << 20, dataset_bytes=1 << 20)  # of what a peer answers: some hundred bytes

_TITLES = slice(4, 36)  # called, then calling AE title
_PDU_HEAD_BYTES = 6  # type and length
_ACCEPTED = 0  # result of a presentation context (PS3.8 Table 9-18)
_TRANSIENT = 2  # result of an A-ASSOCIATE-RJ (PS3.8 Table 9-21)

Ourselves = MaximumLengthNotification | ImplementationClassUIDNotification | ImplementationVersionNameNotification


@dataclass(frozen=True, slots=True)
class Proposal:
    """A presentation context that is proposed, or that an acceptor supports: its transfer syntaxes by preference."""

    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]
    is_provided_by_requestor: bool = False  # the service comes from whoever opens the association (PS3.7 D.3.3.4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """An accepted presentation context."""

    id: int
    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationRequest:
    """The contents of an A-ASSOCIATE-RQ."""

    called: str | None  # None: not an AE title at all (PS3.5 section 6.2)
    calling: str | None
    is_version_1: bool
    titles: bytes  # as they came, to be sent back (PS3.8 Table 9-17)
    tidied: Tidied

    @property
    def application_context(self) -> str:
        """The UID of the application context; empty where there is none."""
        return self.tidied.application.decode("ascii")

    @property
    def abstract_syntaxes(self) -> frozenset[str]:
        """The UIDs of the SOP classes that the requestor proposes."""
        return frozenset(abstract_syntax(context) for context in self.tidied.contexts.values())

    @property
    def left_out(self) -> str:
        """The items that are not of the standard, for the log."""
        return self.tidied.summary

    @property
    def called_as_sent(self) -> str:
        """The called AE title for the log: bytes that are not printable stand as \\xNN."""
        return as_sent(self.titles[:16])

    @property
    def calling_as_sent(self) -> str:
        """The calling AE title for the log, in the same form."""
        return as_sent(self.titles[16:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """The contents of an A-ASSOCIATE-AC, ours or the peer's."""

    pdu: bytes
    contexts: Mapping[int, Context]  # the accepted ones, by id
    maximum_pdu_bytes: int  # the longest PDU that the peer takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Associated:
    """An association that we asked for."""

    link: Link
    contexts: Mapping[int, Context]


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """The TLS with which a peer is called: a certificate of one of these, or any that ``context`` lets through."""

    context: ssl.SSLContext
    fingerprints: tuple[str, ...] = ()
    certificate_names: tuple[str, ...] = ()


def read_request(body: bytes) -> AssociationRequest | Violation:
    """Read an A-ASSOCIATE-RQ, whatever its titles and version are: the listener decides whether it accepts them."""
    tidied = tidy_request(body)
    if isinstance(tidied, Unreadable):
        return Violation(Flaw.REQUEST_MALFORMED, tidied.why)
    return AssociationRequest(
        called=title(body[CALLED]),
        calling=title(body[CALLING]),
        is_version_1=bool(body[1] & 1),  # one bit a version, and only that of version 1 is tested
        titles=body[_TITLES],
        tidied=tidied,
    )


def accept(
    request: AssociationRequest, supported: Sequence[Proposal], *, maximum_pdu_bytes: int
) -> Acceptance | Violation:
    """Negotiate the contexts, and answer. ``maximum_pdu_bytes``: the longest PDU that we take.

    The library gets only the contexts of classes that are supported: it needs a quarter of a millisecond for each,
    and many senders propose all classes there are, 128 contexts.
    """
    proposed = {number: (abstract_syntax(one), one) for number, one in request.tidied.contexts.items()}
    asked_for = {uid for uid, _ in proposed.values()}
    common = [one for one in supported if one.abstract_syntax in asked_for]
    negotiable = {one.abstract_syntax for one in common}
    ours = {number: context for number, (uid, context) in proposed.items() if uid in negotiable}
    refusals = {number: refusal(context) for number, (_, context) in proposed.items() if number not in ours}
    pdu = A_ASSOCIATE_RQ()
    try:
        pdu.decode(encode_pdu(PduType.ASSOCIATE_RQ, replace(request.tidied, contexts=ours).body))
        asked = pdu.to_primitive()
        results, _ = negotiate_as_acceptor(
            asked.presentation_context_definition_list, [_for_library(one) for one in common]
        )
    except Exception as exc:  # noqa: BLE001 (border: the library raises whatever a peer's bytes made it raise)
        return Violation(Flaw.REQUEST_MALFORMED, type(exc).__name__)
    answer = A_ASSOCIATE()
    answer.application_context_name = UID(wire.APPLICATION_CONTEXT)
    answer.called_ae_title, answer.calling_ae_title = asked.called_ae_title, asked.calling_ae_title
    answer.result, answer.result_source = 0, 1
    answer.presentation_context_definition_results_list = results
    answer.user_information.extend(_ourselves(maximum_pdu_bytes))
    providers = {one.abstract_syntax for one in common if one.is_provided_by_requestor}
    roles = {
        uid: Roles(is_user=False, is_provider=proposal.is_provider)
        for uid, proposal in request.tidied.roles.items()
        if uid in providers
    }
    body = bytearray(completed(A_ASSOCIATE_AC(answer).encode()[_PDU_HEAD_BYTES:], refusals, roles))
    body[_TITLES] = request.titles
    accepted = encode_pdu(PduType.ASSOCIATE_AC, bytes(body))
    return Acceptance(pdu=accepted, contexts=_accepted(results), maximum_pdu_bytes=_longest(asked))


def reject(rejection: wire.Rejection) -> bytes:
    """Encode an A-ASSOCIATE-RJ."""
    return encode_pdu(PduType.ASSOCIATE_RJ, bytes((0, rejection.result, rejection.source, rejection.reason)))


def associate(
    address: tuple[str, int],
    proposed: Sequence[Proposal],
    *,
    calling: AeTitle,
    called: AeTitle,
    connect_timeout_s: float,
    security: Security | None = None,
    limits: ReadLimits = RESPONSE_LIMITS,
) -> Associated | RequestOutcome:
    """Connect and ask for an association with these contexts, or say why there is none.

    A context that we are to provide is accepted only together with the role. The answer, with the handshake of TLS
    before it, may take as long as the connection.
    """
    where = "{}:{}".format(*address)
    link = _connect(address, where, connect_timeout_s, limits)
    if isinstance(link, RequestOutcome):
        return link
    began_s = time.monotonic()
    until_s = began_s + connect_timeout_s
    if security is not None and (failure := _secure(link, security, address[0], where, until_s)) is not None:
        link.close()
        return failure
    request = _request(proposed, calling=calling, called=called)
    answer = link.send(A_ASSOCIATE_RQ(request).encode(), until_s) or link.next_event(until_s)
    outcome: Associated | RequestOutcome
    match answer:
        case ControlPdu(kind=PduType.ASSOCIATE_AC):
            outcome = _begin(link, answer.body, request, proposed)
        case ControlPdu(kind=PduType.ASSOCIATE_RJ):
            rejection = wire.rejection(*answer.numbers)
            reason = RequestReason.BUSY if rejection.result == _TRANSIENT else RequestReason.REJECTED
            titles = f"(we are {calling}, the peer is {called})"
            outcome = RequestOutcome(reason=reason, detail=f"{rejection.code}, {rejection.sentence} {titles}")
        case ControlPdu():
            outcome = aborted(answer)
        case Ended.TIMED_OUT:
            outcome = RequestOutcome(
                reason=RequestReason.UNANSWERED, detail=f"{where}, after {time.monotonic() - began_s:.1f} s"
            )
        case Violation():
            link.tell_abort(2, answer.reason)
            outcome = RequestOutcome(reason=RequestReason.ILLEGAL, detail=f"in place of an answer, {answer.sentence}")
        case _:
            outcome = RequestOutcome(
                reason=RequestReason.LOST, detail=f"{where}, after {time.monotonic() - began_s:.1f} s"
            )
            # In TLS 1.3 a peer verifies our certificate after we end the handshake.
            failure_of_tls = link.tls_failure or (
                objection(address, security.context, address[0].rstrip(".")) if security is not None else ""
            )
            if failure_of_tls:
                outcome = RequestOutcome(reason=RequestReason.TLS, detail=f"{where}, {failure_of_tls}")
    if isinstance(outcome, RequestOutcome):
        link.close()
    return outcome


def _connect(
    address: tuple[str, int], where: str, connect_timeout_s: float, limits: ReadLimits
) -> Link | RequestOutcome:
    """Open a connection, or say why there is none."""
    try:
        connected = socket.create_connection(address, timeout=connect_timeout_s)
    except (socket.gaierror, UnicodeError) as exc:
        return RequestOutcome(reason=RequestReason.UNRESOLVED, detail=f"{address[0]}, {exc}")
    except OSError as exc:
        return RequestOutcome(reason=RequestReason.UNREACHABLE, detail=f"{where}, {exc.strerror or exc}")
    # No Nagle: a small command PDU before the data costs a delayed ACK on each instance (2 to 6 times).
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Link(connected, Phase.AWAITING_ANSWER, limits)


def _begin(
    link: Link, answer: bytes, request: A_ASSOCIATE, proposed: Sequence[Proposal]
) -> Associated | RequestOutcome:
    """Begin the association that the peer accepted; abort one that cannot be read, or has no context."""
    provided = {one.abstract_syntax for one in proposed if one.is_provided_by_requestor}
    acceptance = _read_acceptance(answer, request, provided)
    if not isinstance(acceptance, Acceptance):
        link.tell_abort(2, INVALID_VALUE)
        return RequestOutcome(reason=RequestReason.ILLEGAL, detail=f"an acceptance that cannot be read: {acceptance}")
    if not acceptance.contexts:
        link.tell_abort(0, 0)
        return RequestOutcome(reason=RequestReason.NO_CONTEXT, detail=in_words(proposed))
    link.phase = Phase.ESTABLISHED
    link.maximum_pdu_bytes = acceptance.maximum_pdu_bytes
    return Associated(link=link, contexts=acceptance.contexts)


def in_words(proposed: Sequence[Proposal]) -> str:
    """Name what was proposed in the standard's words: ``MR Image Storage (Explicit VR Little Endian, …)``."""
    syntaxes: dict[str, list[str]] = {}
    for one in proposed:
        sop_class = UID(one.abstract_syntax).name
        syntaxes.setdefault(sop_class, []).extend(UID(syntax).name for syntax in one.transfer_syntaxes)
    return "; ".join(f"{sop_class} ({', '.join(names)})" for sop_class, names in syntaxes.items())


def aborted(pdu: ControlPdu) -> RequestOutcome:
    """Return the outcome for an A-ABORT of the peer."""
    _, source, reason = pdu.numbers
    return RequestOutcome(reason=RequestReason.ABORTED, detail=f"source {source}, reason {reason}")


def _secure(link: Link, security: Security, host: str, where: str, until_s: float) -> RequestOutcome | None:
    """Begin TLS and check the peer's certificate; None where it is an expected one."""
    began_s = time.monotonic()
    ended = link.secure(security.context, until_s, is_server=False, host=host.rstrip("."))
    if ended is Ended.TIMED_OUT:
        waited = f"{time.monotonic() - began_s:.1f} s"
        return RequestOutcome(
            reason=RequestReason.UNANSWERED, detail=f"{where}, the handshake of TLS was not over after {waited}"
        )
    if ended is not None and link.tls_failure:
        return RequestOutcome(reason=RequestReason.TLS, detail=f"{where}, {link.tls_failure}")
    if ended is not None:
        detail = f"{where}, during the handshake of TLS; perhaps the peer speaks no TLS there"
        return RequestOutcome(reason=RequestReason.LOST, detail=detail)
    fingerprints, names = security.fingerprints, security.certificate_names
    presented = link.certificate
    if (fingerprints or names) and (
        presented is None or not is_expected(presented, fingerprints=fingerprints, names=names)
    ):
        found = presented.fingerprint if presented else "not readable"
        return RequestOutcome(
            reason=RequestReason.TLS,
            detail=f"{where}, its certificate is none of those that `peer.fingerprints` and `peer.certificate_names` "
            f"name (its SHA-256 is {found})",
        )
    return None


def _request(proposed: Sequence[Proposal], *, calling: AeTitle, called: AeTitle) -> A_ASSOCIATE:
    request = A_ASSOCIATE()
    request.application_context_name = UID(wire.APPLICATION_CONTEXT)
    request.calling_ae_title, request.called_ae_title = calling, called
    contexts = [_for_library(one) for one in proposed]
    for number, context in enumerate(contexts):
        context.context_id = 2 * number + 1  # odd (PS3.8 section 9.3.2.2)
    request.presentation_context_definition_list = contexts
    request.user_information.extend(_ourselves(wire.MAXIMUM_PDU_BYTES))
    for uid in sorted({one.abstract_syntax for one in proposed if one.is_provided_by_requestor}):
        role = SCP_SCU_RoleSelectionNegotiation()
        role.sop_class_uid, role.scu_role, role.scp_role = UID(uid), False, True
        request.user_information.append(role)
    return request


def _read_acceptance(body: bytes, request: A_ASSOCIATE, provided: Collection[str]) -> Acceptance | str:
    """Read the peer's A-ASSOCIATE-AC; a text says why it cannot be read. ``provided``: what we are to provide."""
    tidied = tidy_acceptance(body)
    if isinstance(tidied, Unreadable):
        return tidied.why
    pdu = A_ASSOCIATE_AC()
    try:
        pdu.decode(encode_pdu(PduType.ASSOCIATE_AC, tidied.body))
        primitive = pdu.to_primitive()
        proposed = request.presentation_context_definition_list
        results = negotiate_as_requestor(proposed, primitive.presentation_context_definition_results_list)
    except Exception as exc:  # noqa: BLE001 (border: the library raises whatever a peer's bytes made it raise)
        return type(exc).__name__
    refused = {uid for uid in provided if uid not in tidied.roles or not tidied.roles[uid].is_provider}
    contexts = {number: one for number, one in _accepted(results).items() if one.abstract_syntax not in refused}
    return Acceptance(pdu=body, contexts=contexts, maximum_pdu_bytes=_longest(primitive))


def _for_library(proposal: Proposal) -> PresentationContext:
    return build_context(proposal.abstract_syntax, list(proposal.transfer_syntaxes))


def _accepted(results: Sequence[PresentationContext]) -> dict[int, Context]:
    return {
        one.context_id: Context(
            id=one.context_id, abstract_syntax=str(one.abstract_syntax), transfer_syntax=str(one.transfer_syntax[0])
        )
        for one in results
        if one.result == _ACCEPTED and one.context_id is not None and one.transfer_syntax
    }


def _longest(primitive: A_ASSOCIATE) -> int:
    """Return the longest PDU that the peer takes; ours for a peer without limit (0, or none told: PS3.8 Annex D.1)."""
    told = next((item for item in primitive.user_information if isinstance(item, MaximumLengthNotification)), None)
    return (told.maximum_length_received if told else 0) or wire.MAXIMUM_PDU_BYTES


def _ourselves(maximum_pdu_bytes: int) -> list[Ourselves]:
    longest = MaximumLengthNotification()
    longest.maximum_length_received = maximum_pdu_bytes
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return [longest, implementation, version]
