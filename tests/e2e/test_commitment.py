"""Delivered means committed: a real Orthanc commits what the node sends it, and no kill on the way loses a proof."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from tests.support.committing_pacs import CommittingPacs
from tests.support.dcmtk import needs_dcmtk
from tests.support.dicom import storescu
from tests.support.mr_series import write_mr_series
from tests.support.node import AE_TITLE, Node, kill, make_node, running_node
from tests.support.orthanc import needs_orthanc, orthanc
from tests.support.wait import wait_until

pytestmark = needs_dcmtk

SEAMS = ("proof.associated", "proof.asked", "proof.answered", "proof.reported")


def send_series(node: Node, folder: Path) -> None:
    sent = storescu(node.port, write_mr_series(folder), called=AE_TITLE)
    assert sent.returncode == 0, sent.stderr


@needs_orthanc
def test_orthanc_commits_every_delivered_series(tmp_path: Path) -> None:
    with (
        orthanc(tmp_path / "pacs", settings={"DicomAlwaysAllowFind": True}) as pacs,
        running_node(tmp_path / "node", pacs_port=pacs.dicom_port) as node,
    ):
        pacs.register(AE_TITLE, node.port)
        for name in ("first", "second"):
            send_series(node, tmp_path / name)
        node.wait_for_deliveries("sent", 2)
        wait_until(
            lambda: [one.proof for one in node.deliveries()] == ["committed"] * 2, 60, "both series are committed"
        )
        assert sum(one.items for one in node.deliveries()) == len(pacs.sop_instance_uids())
        told = " ".join(node.explain(node.series()[0].id)["sentences"])
        assert "proof: committed (the peer committed to keep every image)." in told


@needs_orthanc
def test_an_orthanc_that_does_not_know_the_node_proves_it_by_a_query_whatever_kills_the_node(tmp_path: Path) -> None:
    settings = {"push": {"commit_wait_s": 1.0}}
    with (
        orthanc(tmp_path / "pacs", settings={"DicomAlwaysAllowFind": True}) as pacs,
        running_node(
            tmp_path / "node", "--kill", "proof.queried", pacs_port=pacs.dicom_port, settings=settings
        ) as node,
    ):
        send_series(node, tmp_path / "series")
        wait_until(lambda: node.is_over, 120, "the node is killed with the answer in hand")
        node.start()
        wait_until(lambda: [one.proof for one in node.deliveries()] == ["queried"], 120, "the series is found")


def test_a_kill_at_each_seam_of_a_proof_loses_none_and_sends_nothing_twice(tmp_path: Path) -> None:
    with CommittingPacs() as pacs:
        node = make_node(tmp_path / "node", pacs_port=pacs.port, pacs={"ae_title": "PACS"})
        pacs.node, pacs.node_title = ("127.0.0.1", node.port), AE_TITLE
        try:
            node.start("--kill", SEAMS[0])
            send_series(node, tmp_path / "series")
            for following in SEAMS[1:]:
                wait_until(lambda: node.is_over, 120, "the node is killed at a seam")
                with suppress(AssertionError):  # it may be killed again before it is seen to listen
                    node.start("--kill", following)
            wait_until(lambda: node.is_over, 120, "the node is killed at the last seam")
            node.start()
            wait_until(lambda: [one.proof for one in node.deliveries()] == ["committed"], 60, "it is committed")
            assert set(pacs.stored.values()) == {1}
            uids = [asked.transaction_uid for asked in pacs.asked]
            assert len(set(uids)) == len(uids), "each request has a Transaction UID of its own"
        finally:
            kill(node)
