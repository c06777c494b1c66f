"""A delivery and its proof, over real sockets, against a PACS that commits, and against one that does so oddly."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom.events import Event

from dicomnode.dimse.commitment import Reference, Report
from dicomnode.ids import AeTitle
from dicomnode.ledger import commitments
from dicomnode.push import answers
from dicomnode.push.answers import NotOffered, Request, Together, Withdrawn
from dicomnode.push.dimse_witness import LISTEN_S
from dicomnode.push.witness import Witness
from dicomnode.settings.models import PushSettings
from dicomnode.settings.peers import PeerSettings
from tests.support.committing_pacs import Asked, CommittingPacs
from tests.support.due_delivery import SWIFT, carriers_with
from tests.support.pdu import MR_IMAGE
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


def all_are(node: ProvingNode, *proofs: str) -> None:
    """Wait until each delivery has one of these proofs."""
    wait_until(lambda: all(one.proof in proofs for one in node.deliveries()), 120, f"every delivery is {proofs}")


def on_each(pacs: CommittingPacs) -> list[int]:
    """Return the number of requests on each association, in their order."""
    return list(Counter(map(id, pacs.asked_on)).values())


def test_many_deliveries_share_one_wait_for_reports_that_come_elsewhere(
    node: ProvingNode, pacs: CommittingPacs
) -> None:
    """Each association waits two seconds for a report, so their number is what the time depends on."""
    many = 40
    for _ in range(many):
        node.derive("pacs", instances=1)
    began_s = time.monotonic()
    begin(node, pacs)
    all_are(node, "committed")
    took_s = time.monotonic() - began_s
    counts = on_each(pacs)
    assert (sum(counts), counts[0]) == (many, 1), "the first one shows where the peer reports"
    assert len(counts) <= many // 4
    assert took_s < many * LISTEN_S, "in far less than two seconds each"
    assert len({asked.transaction_uid for asked in pacs.asked}) == many


def test_a_peer_that_reports_on_the_same_association_gets_one_request_at_a_time(
    node: ProvingNode, pacs: CommittingPacs
) -> None:
    pacs.report = pacs.on_the_same_association
    for _ in range(4):
        node.derive("pacs", instances=1)
    begin(node, pacs)
    all_are(node, "committed")
    assert on_each(pacs) == [1, 1, 1, 1]
    wait_until(lambda: pacs.answers == [0x0000] * 4, what="the reports are answered")


def asked_together(pacs: CommittingPacs, *, withdrawn: int | None = None) -> tuple[Together, list[str]]:
    """Send three requests on one association; the answers, and the Transaction UIDs that were reported on it."""
    requests = [Request(f"2.25.{number}", [Reference(MR_IMAGE, f"1.2.{number}")]) for number in range(3)]
    pacs.held = {one.references[0].sop_instance_uid for one in requests}
    told: list[str] = []

    def reported(report: Report | None) -> int:
        assert report is not None
        told.append(report.transaction_uid)
        return 0x0000

    unwanted = None if withdrawn is None else f"2.25.{withdrawn}"
    answer = Witness(carriers_with(SWIFT)).ask_together(
        peer_of(pacs), requests, before=lambda uid: uid != unwanted, reported=reported
    )
    assert isinstance(answer, Together)
    return answer, told


def test_every_report_on_a_shared_association_is_taken_and_ends_the_wait(pacs: CommittingPacs) -> None:
    def report(event: Event, _asked: Asked) -> None:
        def tell() -> None:
            for one in (*pacs.asked[1:], pacs.asked[0]):
                pacs.tell_on(event.assoc, one)

        if len(pacs.asked) == 3:
            pacs.later(tell)

    pacs.report = report
    answer, told = asked_together(pacs)
    assert told == ["2.25.1", "2.25.2", "2.25.0"]
    assert pacs.answers == [0x0000] * 3
    assert (list(answer.answers.values()), answer.is_told_here, answer.is_cut) == ([answers.Asked()] * 3, True, False)


def test_a_request_that_is_withdrawn_or_refused_leaves_the_others(pacs: CommittingPacs) -> None:
    pacs.report = pacs.never
    answer, _ = asked_together(pacs, withdrawn=1)
    assert [one.transaction_uid for one in pacs.asked] == ["2.25.0", "2.25.2"]
    assert list(answer.answers.values()) == [answers.Asked(), Withdrawn(), answers.Asked()]
    pacs.action_status = 0x0110
    answer, _ = asked_together(pacs)
    assert [type(one) for one in answer.answers.values()] == [NotOffered] * 3


def test_what_did_not_go_out_on_an_association_that_was_cut_is_not_answered(pacs: CommittingPacs) -> None:
    pacs.takes, pacs.report = 1, pacs.never
    answer, _ = asked_together(pacs)
    assert (answer.answers, answer.is_cut) == ({"2.25.0": answers.Asked(), "2.25.1": answers.Asked()}, True)


def test_a_peer_that_takes_one_request_on_an_association_proves_all(node: ProvingNode, pacs: CommittingPacs) -> None:
    """The request at which it breaks off is looked for by C-FIND; from then on each has an association of its own."""
    pacs.takes = 1
    for _ in range(6):
        node.derive("pacs", instances=1)
    begin(node, pacs, push=PATIENT.model_copy(update={"commit_wait_s": 8.0}))
    all_are(node, "committed", "queried")
    assert max(on_each(pacs)) == 1
