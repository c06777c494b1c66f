"""Who is let in, and the exact code for who is not (docs/protocol.md#association-negotiation)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_network

import pytest

from dicomnode.dimse.associate import AssociationRequest
from dicomnode.dimse.items import Tidied
from dicomnode.ids import AeTitle
from dicomnode.receive.admission import AdmissionContext, Admitted, admit, contexts_for
from dicomnode.settings.peers import PeerSettings
from dicomnode.tls.certificate import Certificate
from dicomnode.wire import APPLICATION_CONTEXT, COMMITMENT, MR_IMAGE, TRANSFER_SYNTAXES, VERIFICATION, Rejection

MR1 = PeerSettings(name="mr1", ae_title=AeTitle("MR1"), networks=(ip_network("10.1.2.0/24"),))
MR2 = PeerSettings(name="mr2", ae_title=AeTitle("MR2"), networks=(ip_network("10.1.3.0/24"),), other_objects="store")
PACS = PeerSettings(name="pacs", ae_title=AeTitle("PACS"), address="10.1.2.9:104")
REQUEST = AssociationRequest(
    called="NODE",
    calling="MR1",
    is_version_1=True,
    titles=bytes(32),
    tidied=Tidied(
        fixed=b"", application=APPLICATION_CONTEXT.encode(), context_kind=0x20, contexts={}, maximum_length=0
    ),
)
USUAL = AdmissionContext(is_refusing=False, is_over_limit=False, address="10.1.2.5")


def in_context(uid: str) -> AssociationRequest:
    return replace(REQUEST, tidied=replace(REQUEST.tidied, application=uid.encode()))


def decide(request: AssociationRequest, context: AdmissionContext) -> str:
    admitted = admit(request, context, ae_titles=("NODE", "NODE2"), peers=(MR1, MR2, PACS))
    return admitted.code if isinstance(admitted, Rejection) else admitted.peer.name


def test_a_known_peer_from_its_network_comes_in() -> None:
    assert decide(REQUEST, USUAL) == "mr1"
    assert decide(REQUEST, replace(USUAL, address="::ffff:10.1.2.5")) == "mr1"


@pytest.mark.parametrize(
    ("request_", "context", "code"),
    [
        (REQUEST, replace(USUAL, is_refusing=True), "2/3/1"),
        (REQUEST, replace(USUAL, is_over_limit=True), "2/3/2"),
        (replace(REQUEST, called="node"), USUAL, "1/1/7"),  # case matters
        (replace(REQUEST, called=None), USUAL, "1/1/7"),
        (replace(REQUEST, calling="mr1"), USUAL, "1/1/3"),
        (replace(REQUEST, calling=None), USUAL, "1/1/3"),
        (replace(REQUEST, calling="MR2"), USUAL, "1/1/3"),  # known, but not from there
        (replace(REQUEST, calling="PACS"), replace(USUAL, address="10.1.2.9"), "1/1/3"),  # only sent to
        (in_context("1.2.3"), USUAL, "1/1/2"),
        (replace(REQUEST, is_version_1=False), USUAL, "1/2/2"),
    ],
)
def test_each_obstacle_has_its_code(request_: AssociationRequest, context: AdmissionContext, code: str) -> None:
    assert decide(request_, context) == code


def proposing(*sop_classes: str) -> AssociationRequest:
    """A request of the PACS, with a presentation context for each class (PS3.8 Table 9-13)."""
    items = [b"\x30\x00" + struct.pack(">H", len(uid)) + uid.encode() for uid in sop_classes]
    contexts = {2 * number + 1: bytes([2 * number + 1, 0, 0, 0]) + item for number, item in enumerate(items)}
    return replace(REQUEST, calling="PACS", tidied=replace(REQUEST.tidied, contexts=contexts))


@pytest.mark.parametrize(
    ("sop_classes", "decision"),
    [
        ((COMMITMENT,), "pacs"),
        ((VERIFICATION, COMMITMENT), "pacs"),
        ((COMMITMENT, MR_IMAGE), "2/3/1"),
        ((VERIFICATION,), "2/3/1"),
        ((), "2/3/1"),
    ],
)
def test_a_full_node_still_takes_reports_of_what_a_peer_keeps(sop_classes: Sequence[str], decision: str) -> None:
    """They are what makes room: without proof nothing may leave the disk."""
    full = replace(USUAL, address="10.1.2.9", is_full=True, reporting=frozenset({"pacs"}))
    assert decide(proposing(*sop_classes), full) == decision
    assert decide(proposing(*sop_classes), replace(full, is_refusing=True)) == "2/3/1"


def test_the_first_obstacle_of_the_order_is_named() -> None:
    request = replace(in_context("1"), called="X", calling="X", is_version_1=False)
    context = AdmissionContext(is_refusing=True, is_over_limit=True, address="9.9.9.9")
    assert decide(request, context) == "2/3/1"
    context = replace(context, is_refusing=False)
    assert decide(request, context) == "2/3/2"
    context = replace(context, is_over_limit=False)
    assert decide(request, context) == "1/1/7"
    request = replace(request, called="NODE")
    assert decide(request, context) == "1/1/3"
    request, context = replace(request, calling="MR1"), replace(context, address="10.1.2.5")
    assert decide(request, context) == "1/1/2"
    assert decide(replace(request, tidied=REQUEST.tidied), context) == "1/2/2"


def test_only_a_peer_that_may_is_offered_other_objects() -> None:
    mr_only = [str(one.abstract_syntax) for one in contexts_for(Admitted(peer=MR1, may_store=True, reporter=None))]
    assert mr_only == ["1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"]
    everything = contexts_for(Admitted(peer=MR2, may_store=True, reporter=None))
    assert len(everything) > 100
    assert [str(one) for one in everything[-1].transfer_syntaxes] == list(TRANSFER_SYNTAXES)


@pytest.mark.parametrize("other_objects", ["refuse", "store"])
def test_a_peer_whose_enhanced_objects_are_refused_is_not_offered_the_class(other_objects: str) -> None:
    def offered(enhanced: str) -> set[str]:
        peer = MR1.model_copy(update={"enhanced": enhanced, "other_objects": other_objects})
        return {str(one.abstract_syntax) for one in contexts_for(Admitted(peer=peer, may_store=True, reporter=None))}

    assert offered("process") == offered("store")
    assert offered("store") - offered("refuse") == {"1.2.840.10008.5.1.4.1.1.4.1"}


def test_a_peer_that_is_bound_to_a_certificate_comes_in_with_it_only() -> None:
    shown = Certificate(
        names=("mr1.example.org",),
        fingerprint="ab" * 32,
        not_before=datetime(2026, 1, 1, tzinfo=UTC),
        not_after=datetime(2027, 1, 1, tzinfo=UTC),
    )
    by_print = MR1.model_copy(update={"fingerprints": ("ab" * 32,)})
    by_name = MR1.model_copy(update={"name": "mr1b", "certificate_names": ("mr1.example.org",)})

    def said(certificate: Certificate | None, *peers: PeerSettings) -> str:
        context = replace(USUAL, certificate=certificate)
        admitted = admit(REQUEST, context, ae_titles=["NODE"], peers=peers)
        return f"{admitted.code} {admitted.sentence}" if isinstance(admitted, Rejection) else admitted.peer.name

    assert said(shown, by_print) == "mr1"
    assert said(shown, by_name) == "mr1b"
    assert said(shown, MR1) == "mr1", "one that is bound to none comes in with any that the authority signed"
    stranger = replace(shown, fingerprint="cd" * 32, names=("mr2.example.org",))
    assert said(stranger, by_print, by_name).startswith("1/1/3 the certificate is none of those")
    assert said(stranger, by_print, replace_name(by_name, "mr2.example.org")) == "mr1b", "of two peers with one title"
    assert said(None, by_print).startswith("1/1/3 the peer has to come in with its certificate")


def replace_name(peer: PeerSettings, name: str) -> PeerSettings:
    return peer.model_copy(update={"certificate_names": (name,)})


def test_what_we_asked_for_comes_to_its_own_title_from_those_that_we_ask() -> None:
    request = replace(REQUEST, called="PULLED", calling="PACS")
    context = replace(USUAL, address="10.1.0.5", asked=(PACS,))

    def said(request: AssociationRequest, context: AdmissionContext, title: str = "PULLED") -> str:
        admitted = admit(request, context, ae_titles=["NODE"], peers=(MR1, MR2, PACS), pull_ae_title=title)
        if isinstance(admitted, Rejection):
            return admitted.code
        assert admitted.may_store
        return f"{admitted.peer.name} {'pulled' if admitted.is_pulled else 'sent'}"

    assert said(request, context) == "pacs pulled"
    assert said(request, context, title="") == "1/1/7", "nothing is pulled without the key"
    assert said(request, replace(context, asked=())) == "1/1/3", "from elsewhere"
    assert said(replace(request, calling="MR1"), replace(USUAL, asked=(PACS,))) == "1/1/3", "one that we do not ask"
    assert said(replace(request, called="NODE"), context) == "1/1/3", "as a sender it is no more known than before"
    assert said(REQUEST, USUAL) == "mr1 sent"
