"""A delivery and its proof, over real sockets, against a PACS that commits, and against one that does so oddly."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.ids import AeTitle
from dicomnode.ledger import commitments
from dicomnode.settings.models import PushSettings
from dicomnode.settings.peers import PeerSettings
from tests.support.committing_pacs import Asked, CommittingPacs
from tests.support.proving_node import PATIENT, SOON, ProvingNode
from tests.support.wait import wait_until


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ProvingNode]:
    node = ProvingNode(tmp_path / "node")
    yield node
    node.close()


@pytest.fixture
def pacs() -> Iterator[CommittingPacs]:
    with CommittingPacs() as pacs:
        yield pacs


def peer_of(pacs: CommittingPacs, name: str = "pacs", *, title: str = "PACS", commitment: str = "auto") -> PeerSettings:
    """A peer that can be sent to, and comes from no network."""
    return PeerSettings(name=name, ae_title=AeTitle(title), address=f"127.0.0.1:{pacs.port}", commitment=commitment)


def begin(node: ProvingNode, pacs: CommittingPacs, *, push: PushSettings = PATIENT) -> None:
    """Serve one peer, and tell the PACS where the node listens."""
    node.serve(peer_of(pacs), push=push)
    pacs.node = node.address


def test_a_report_on_a_new_association_commits_the_delivery(node: ProvingNode, pacs: CommittingPacs) -> None:
    derived = node.derive("pacs")
    begin(node, pacs)
    sent = node.wait_for_proof("committed")
    assert (sent.state, sent.commitment) == ("sent", "committed")
    assert pacs.asked[0].uids == tuple(derived.sha256)
    wait_until(lambda: pacs.answers == [0x0000], what="the report is answered")
    assert pacs.finds == 0


def test_a_report_on_the_same_association_commits_it_too(node: ProvingNode, pacs: CommittingPacs) -> None:
    pacs.report = pacs.on_the_same_association
    node.derive("pacs")
    begin(node, pacs)
    node.wait_for_proof("committed")
    wait_until(lambda: pacs.answers == [0x0000], what="the report is answered")


def test_who_may_report_may_not_store(node: ProvingNode, pacs: CommittingPacs) -> None:
    from pynetdicom import AE

    from dicomnode.wire import COMMITMENT, MR_IMAGE, VERIFICATION

    begin(node, pacs)
    entity = AE("PACS")
    for uid in (VERIFICATION, MR_IMAGE, COMMITMENT):
        entity.add_requested_context(uid)
    association = entity.associate(*node.address, ae_title="DICOMNODE")
    assert {str(one.abstract_syntax) for one in association.accepted_contexts} == {VERIFICATION, COMMITMENT}
    assert association.send_c_echo().Status == 0x0000
    association.release()
    stranger = AE("OTHER")
    stranger.add_requested_context(COMMITMENT)
    assert not stranger.associate(*node.address, ae_title="DICOMNODE").is_established


def test_without_a_report_a_query_proves_it_and_a_late_report_commits_it(
    node: ProvingNode, pacs: CommittingPacs
) -> None:
    pacs.report = pacs.never
    node.derive("pacs")
    begin(node, pacs, push=SOON)
    queried = node.wait_for_proof("queried")
    assert (queried.state, queried.commitment, pacs.finds) == ("sent", "queried", 1)
    assert pacs.tell(pacs.asked[0]) == 0x0000
    assert node.wait_for_proof("committed").resends == 0
    assert set(pacs.stored.values()) == {1}


def test_what_the_peer_lost_and_only_that_is_sent_again(node: ProvingNode, pacs: CommittingPacs) -> None:
    pacs.loses = 2
    derived = node.derive("pacs")
    begin(node, pacs)
    again = node.wait_for_proof("committed")
    assert (again.resends, again.state) == (1, "sent")
    assert [pacs.stored[uid] for uid in derived.sha256] == [2, 2, 1, 1]
    assert pacs.held == set(derived.sha256)
    assert len({asked.transaction_uid for asked in pacs.asked}) == 2


def test_what_the_query_lacks_is_sent_again(node: ProvingNode, pacs: CommittingPacs) -> None:
    pacs.report, pacs.loses = pacs.never, 1
    derived = node.derive("pacs")
    begin(node, pacs, push=SOON)
    assert node.wait_for_proof("queried").resends == 1
    assert [pacs.stored[uid] for uid in derived.sha256] == [2, 1, 1, 1]


def test_a_peer_that_keeps_losing_it_holds_the_delivery_with_its_reason(
    node: ProvingNode, pacs: CommittingPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitments, "RESEND_AFTER_S", (0.0, 0.0, 0.0))
    pacs.loses = 1000
    derived = node.derive("pacs", instances=2)
    begin(node, pacs)
    held = node.wait_for("held")
    assert (held.reason, held.proof, held.resends) == ("not_committed", None, 3)
    assert "2 of 2 images (2 x 0112, no such instance)" in held.sentence
    assert [pacs.stored[uid] for uid in derived.sha256] == [4, 4]


def test_a_report_twice_and_for_an_unknown_request_changes_nothing(node: ProvingNode, pacs: CommittingPacs) -> None:
    node.derive("pacs")
    begin(node, pacs)
    node.wait_for_proof("committed")
    assert pacs.tell(pacs.asked[0]) == 0x0000
    assert pacs.tell(pacs.asked[0], transaction_uid="2.25.4711") == 0x0110
    assert node.wait_for_proof("committed").resends == 0


def test_a_report_without_a_role_and_in_parts_is_taken(node: ProvingNode, pacs: CommittingPacs) -> None:
    pacs.report = pacs.never
    node.derive("pacs")
    begin(node, pacs)
    asked = pacs.wait_for_request()
    node.wait_for_request("asked")
    assert pacs.tell(asked, only=2, with_role=False) == 0x0000
    assert node.delivery().proof == "acknowledged"
    assert pacs.tell(Asked(asked.transaction_uid, asked.uids[2:])) == 0x0000
    node.wait_for_proof("committed")


def test_another_application_of_the_pacs_commits(node: ProvingNode, pacs: CommittingPacs) -> None:
    with CommittingPacs(ae_title="STGCMT") as archive:
        archive.held = pacs.held
        node.derive("pacs")
        node.serve(peer_of(pacs, commitment="archive"), peer_of(archive, "archive", title="STGCMT"))
        archive.node = node.address
        node.wait_for_proof("committed")
        assert (len(archive.asked), pacs.asked) == (1, [])


def test_a_peer_that_refuses_the_request_is_asked_what_it_has(node: ProvingNode, pacs: CommittingPacs) -> None:
    pacs.action_status = 0x0110
    node.derive("pacs")
    begin(node, pacs)
    assert node.wait_for_proof("queried").commitment == "queried"


def test_a_peer_without_commitment_shows_what_it_has_or_is_taken_at_its_word(node: ProvingNode) -> None:
    with CommittingPacs(commits=False) as finding, CommittingPacs(commits=False, finds=False) as plain:
        node.derive("finding", "plain")
        node.serve(peer_of(finding, "finding"), peer_of(plain, "plain"))
        node.wait_for_proof("queried", "finding")
        node.wait_for("sent", "plain")
        node.wait_for_request("unproven", "plain")
        assert node.delivery("plain").proof == "acknowledged"


def test_nobody_is_asked_where_the_settings_say_so(node: ProvingNode, pacs: CommittingPacs) -> None:
    node.derive("pacs")
    node.serve(peer_of(pacs, commitment="off"))
    sent = node.wait_for("sent")
    assert (sent.proof, sent.commitment, pacs.asked) == ("acknowledged", None, [])


def test_a_peer_that_does_not_answer_delays_neither_another_nor_its_own_next_delivery(
    node: ProvingNode, pacs: CommittingPacs
) -> None:
    def hang(_event: object, _asked: Asked) -> None:
        time.sleep(20)

    with CommittingPacs() as slow:
        slow.report = hang
        node.derive("slow", "pacs")
        node.serve(peer_of(slow, "slow"), peer_of(pacs))
        pacs.node = node.address
        slow.wait_for_request()
        began_s = time.monotonic()
        node.wait_for_proof("committed")
        node.derive("slow")
        wait_until(lambda: [one.state for one in node.deliveries() if one.peer == "slow"] == ["sent", "sent"])
        assert time.monotonic() - began_s < 15


def test_a_restart_asks_anew_and_a_report_on_the_old_request_still_counts(tmp_path: Path, pacs: CommittingPacs) -> None:
    pacs.report = pacs.never
    first = ProvingNode(tmp_path / "restarted")
    first.derive("pacs")
    begin(first, pacs)
    pacs.wait_for_request()
    first.close()
    second = ProvingNode(tmp_path / "restarted")
    assert second.boot.renewed_commitments == 1
    begin(second, pacs)
    assert pacs.wait_for_request(2).transaction_uid != pacs.asked[0].transaction_uid
    assert pacs.tell(pacs.asked[0]) == 0x0000
    second.wait_for_proof("committed")
    second.close()
