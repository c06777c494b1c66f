"""A delivery by DICOMweb and its proof, against a server that commits (PS3.18 section 13), and that does so oddly."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.ids import AeTitle
from dicomnode.ledger import commitments
from dicomnode.push import proof_loop
from dicomnode.settings.models import PushSettings
from dicomnode.settings.peers import PeerSettings
from tests.support.committing_pacs import CommittingPacs
from tests.support.dicomweb import DicomwebServer
from tests.support.due_delivery import Node
from tests.support.node import CHECKOUT
from tests.support.proving_node import PATIENT, SOON, ProvingNode
from tests.support.wait import wait_until
from tests.support.web_commitment import CUT, WebCommitment


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ProvingNode]:
    node = ProvingNode(tmp_path / "node")
    yield node
    node.close()


@pytest.fixture
def server() -> Iterator[DicomwebServer]:
    with DicomwebServer() as server:
        server.commitment = WebCommitment()
        yield server


def begin(node: ProvingNode, server: DicomwebServer, *, push: PushSettings = PATIENT, **keys: str) -> WebCommitment:
    """Deliver to the server, which commits."""
    node.serve(PeerSettings.model_validate({"name": "pacs", "url": server.url, **keys}), push=push)
    assert server.commitment is not None
    return server.commitment


def searches(server: DicomwebServer) -> int:
    return sum(one.startswith("GET /studies") for one in server.requests)


def test_a_server_that_commits_at_once_is_asked_once(node: ProvingNode, server: DicomwebServer) -> None:
    derived = node.derive("pacs")
    asked = begin(node, server)
    sent = node.wait_for_proof("committed")
    assert (sent.state, sent.commitment, searches(server)) == ("sent", "committed", 0)
    (references,) = asked.knows.values()
    assert [uid for _, uid in references] == list(derived.sha256)
    assert {sop_class for sop_class, _ in references} == {"1.2.840.10008.5.1.4.1.1.4"}
    assert not asked.looks


def test_a_server_that_works_on_it_is_looked_at_until_it_is_done(node: ProvingNode, server: DicomwebServer) -> None:
    node.derive("pacs")
    server.commitment = WebCommitment(works_for=3)
    asked = begin(node, server)
    node.wait_for_proof("committed")
    assert (len(asked.asked), sum(asked.looks.values()), searches(server)) == (1, 3, 0)


def test_the_server_says_when_it_wants_to_be_asked_again(node: ProvingNode, server: DicomwebServer) -> None:
    node.derive("pacs")
    server.commitment = WebCommitment(works_for=1, retry_after="2")
    begin(node, server)
    node.wait_for_request("asked")
    began_s = time.monotonic()
    node.wait_for_proof("committed")
    assert time.monotonic() - began_s > 1, "it would be asked after 0.05 s otherwise"


def test_a_result_that_comes_too_late_turns_queried_into_committed(
    node: ProvingNode, server: DicomwebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof_loop, "LATE_S", 0.5)
    monkeypatch.setattr(proof_loop, "POLL_S", 0.2)
    node.derive("pacs")
    server.commitment = WebCommitment(is_working=True)
    asked = begin(node, server, push=SOON)
    assert node.wait_for_proof("queried").commitment == "queried"
    asked.is_working = False
    late = node.wait_for_proof("committed")
    assert (late.resends, late.commitment, len(asked.asked)) == (0, "committed", 1)


@pytest.mark.parametrize("status", [400, 403, 404, 405, 415, 500, 501])
def test_a_server_that_does_not_offer_it_is_searched(node: ProvingNode, server: DicomwebServer, status: int) -> None:
    node.derive("pacs")
    assert server.commitment is not None
    server.commitment.statuses.append(status)
    asked = begin(node, server)
    sent = node.wait_for_proof("queried")
    assert (sent.commitment, len(asked.asked), sum(asked.looks.values())) == ("queried", 1, 0)


def test_a_request_that_was_never_taken_is_not_asked_anew_after_a_restart(
    tmp_path: Path, server: DicomwebServer
) -> None:
    server.commitment = None
    first = ProvingNode(tmp_path / "restarted")
    first.derive("pacs")
    first.serve(PeerSettings(name="pacs", url=server.url))
    first.wait_for_proof("queried")
    first.close()
    second = ProvingNode(tmp_path / "restarted")
    assert second.boot.renewed_commitments == 0
    second.close()


def test_a_server_that_forgot_the_request_is_searched(node: ProvingNode, server: DicomwebServer) -> None:
    node.derive("pacs")
    server.commitment = WebCommitment(works_for=1)
    server.commitment.look_statuses.append(404)
    asked = begin(node, server)
    node.wait_for_proof("queried")
    assert (len(asked.asked), sum(asked.looks.values())) == (1, 1)


def test_a_server_that_cannot_answer_now_is_asked_again(node: ProvingNode, server: DicomwebServer) -> None:
    node.derive("pacs")
    assert server.commitment is not None
    server.commitment.statuses.extend([503, 503])
    server.commitment.works_for = 1
    server.commitment.look_statuses.extend([503, 502])
    asked = begin(node, server)
    node.wait_for_proof("committed")
    assert (len(asked.asked), len(set(asked.asked)), searches(server)) == (3, 1, 0)


def test_an_answer_that_is_lost_with_its_connection_is_looked_for(node: ProvingNode, server: DicomwebServer) -> None:
    node.derive("pacs")
    assert server.commitment is not None
    server.commitment.statuses.append(CUT)
    asked = begin(node, server)
    node.wait_for_proof("committed")
    assert len(asked.asked) == 2, "the second one is answered with 409"
    assert (len(asked.knows), sum(asked.looks.values())) == (1, 1)


def test_what_the_server_lost_and_only_that_is_sent_again(node: ProvingNode, server: DicomwebServer) -> None:
    derived = node.derive("pacs")
    lost = list(derived.sha256)[1]
    server.commitment = WebCommitment(is_working=True)
    asked = begin(node, server)
    node.wait_for_request("asked")
    server.held.pop(lost)
    asked.is_working = False
    again = node.wait_for_proof("committed")
    assert (again.resends, again.state) == (1, "sent")
    assert [one.sop_instance_uid for one in server.arrivals[len(derived.sha256) :]] == [lost]
    assert len(asked.knows) == 2, "a request of its own for what was sent again"


def test_a_server_that_keeps_losing_it_holds_the_delivery_with_its_reason(
    node: ProvingNode, server: DicomwebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitments, "RESEND_AFTER_S", (0.0, 0.0))

    node.derive("pacs", instances=2)
    server.commitment = WebCommitment(loses_all=True)
    begin(node, server)
    held = node.wait_for("held")
    assert (held.reason, held.resends) == ("not_committed", 2)
    assert "2 of 2 images (2 x 0112, no such instance)" in held.sentence


def test_a_result_that_names_a_part_is_not_the_whole(node: ProvingNode, server: DicomwebServer) -> None:
    node.derive("pacs", instances=4)
    server.commitment = WebCommitment(names=3)
    asked = begin(node, server)
    wait_until(lambda: sum(asked.looks.values()) > 1, what="the result is looked for again")
    assert node.delivery().proof == "acknowledged"
    asked.names = None
    node.wait_for_proof("committed")


def test_a_result_that_never_names_all_ends_in_a_search(node: ProvingNode, server: DicomwebServer) -> None:
    node.derive("pacs", instances=4)
    server.commitment = WebCommitment(names=3)
    begin(node, server, push=SOON)
    assert node.wait_for_proof("queried").resends == 0


def test_nobody_is_asked_where_the_settings_say_so(node: ProvingNode, server: DicomwebServer) -> None:
    node.derive("pacs")
    asked = begin(node, server, commitment="off")
    assert (node.wait_for("sent").proof, asked.asked) == ("acknowledged", [])


def test_an_archive_with_a_url_commits_to_what_a_pacs_got_by_dicom(node: ProvingNode, server: DicomwebServer) -> None:
    with CommittingPacs() as pacs:
        derived = node.derive("pacs")
        server.held.update(dict.fromkeys(derived.sha256, b""))
        address = f"127.0.0.1:{pacs.port}"
        node.serve(
            PeerSettings(name="pacs", ae_title=AeTitle("PACS"), address=address, commitment="vna"),
            PeerSettings(name="vna", url=server.url),
        )
        node.wait_for_proof("committed")
        assert pacs.asked == []


def test_a_stop_ends_a_look_that_hangs(node: ProvingNode, server: DicomwebServer) -> None:
    node.derive("pacs")
    server.commitment = WebCommitment(hangs_s=20)
    begin(node, server)
    wait_until(lambda: any("/commitment-requests/" in one for one in server.requests), what="it is asked")
    began_s = time.monotonic()
    assert node.proofs[0].stop(0.2)
    assert time.monotonic() - began_s < 5


SEAMS = ("proof.associated", "proof.answered", "proof.asked", "proof.reported")


@pytest.mark.faults
def test_a_kill_at_each_seam_of_a_proof_loses_none_and_sends_nothing_twice(
    tmp_path: Path, server: DicomwebServer
) -> None:
    folder = tmp_path / "node"
    node = Node(folder)
    derived = node.derive("pacs")
    node.close()
    command = [sys.executable, "-m", "tests.support.checkpoints"]
    module = ["--module", "tests.push.lone_prover", "--", str(folder), server.url]
    for seam in SEAMS:
        ended = subprocess.run([*command, "--kill", seam, *module], cwd=CHECKOUT, check=False, timeout=120)
        assert ended.returncode < 0, f"it did not die at {seam}"
    ended = subprocess.run([*command, *module], cwd=CHECKOUT, check=False, timeout=120)
    assert ended.returncode == 0
    assert sorted(one.sop_instance_uid for one in server.arrivals) == sorted(derived.sha256), "each was sent once"
    assert server.commitment is not None
    assert len(server.commitment.knows) >= 2, "a request whose answer may be lost is made anew after a restart"
