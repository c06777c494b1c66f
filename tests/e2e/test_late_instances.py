"""A slice that comes late: before anything was delivered, in the middle of a delivery, and after it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.support.dcmtk import needs_dcmtk
from tests.support.dicom import storescu
from tests.support.misbehaving_pacs import MisbehavingPacs, Trick
from tests.support.mr_series import write_mr_series
from tests.support.node import AE_TITLE, WORK_LIMIT_S, Node, running_node
from tests.support.wait import wait_until

pytestmark = needs_dcmtk

SLICES, RATIO = 8, 4  # all but the last slice come first: 7 · 4 = 28 thin slices, then 8 · 4 = 32


def _send(node: Node, files: Sequence[Path]) -> None:
    sent = storescu(node.port, files, called=AE_TITLE)
    assert sent.returncode == 0, sent.stderr


def _wait_for_revision(node: Node, revision: int, job_state: str) -> None:
    def reached() -> bool:
        (line,) = node.series()
        job = node.job(line.id)  # one look for both: between two, the job of the next revision may be planned
        return (job.revision, job.state) == (revision, job_state)

    wait_until(reached, WORK_LIMIT_S, f"the job of revision {revision} is {job_state}")


def test_before_a_delivery_began_only_the_new_revision_goes_out(tmp_path: Path) -> None:
    files = write_mr_series(tmp_path / "thick", slices=SLICES)
    faults = ("--delay", "work.child_done:1:6")  # time for the late slice to come while the first job runs
    with MisbehavingPacs() as pacs, running_node(tmp_path, *faults, pacs_port=pacs.port) as node:
        _send(node, files[:-1])
        node.wait_for_jobs("running")
        _send(node, files[-1:])
        node.wait_for_deliveries("sent")
        (delivery,) = node.deliveries()
        assert (delivery.revision, delivery.items) == (2, SLICES * RATIO)
        assert len(pacs.digests()) == SLICES * RATIO
        explanation = node.explain(1)
    assert "not_delivered" in {event["kind"] for event in explanation["events"]}


def test_in_the_middle_of_a_delivery_the_old_revision_is_finished_and_the_new_one_waits_for_the_operator(
    tmp_path: Path,
) -> None:
    files = write_mr_series(tmp_path / "thick", slices=SLICES)
    with MisbehavingPacs() as pacs, running_node(tmp_path, pacs_port=pacs.port) as node:
        pacs.answers.extend([0, 0, Trick.HANG])
        _send(node, files[:-1])
        wait_until(lambda: len(pacs.arrivals) == 3, WORK_LIMIT_S, "the delivery hangs at its third instance")
        _send(node, files[-1:])
        _wait_for_revision(node, 2, "done")
        pacs.let_go.set()
        node.wait_for_deliveries("sent")
        first, second = node.deliveries()
        assert (first.revision, first.state) == (1, "sent")
        assert (second.revision, second.state) == (2, "held")
        # The third instance was asked for twice at most; the PACS holds the whole older series and nothing else.
        assert len(pacs.digests()) == (SLICES - 1) * RATIO
        node.run("deliveries", "release", str(second.id))
        node.wait_for_deliveries("sent", 2)
        assert len(pacs.digests()) == (SLICES - 1) * RATIO + SLICES * RATIO


def test_after_a_delivery_the_new_revision_waits_and_the_operator_reads_why(tmp_path: Path) -> None:
    files = write_mr_series(tmp_path / "thick", slices=SLICES)
    with MisbehavingPacs() as pacs, running_node(tmp_path, pacs_port=pacs.port) as node:
        _send(node, files[:-1])
        node.wait_for_deliveries("sent")
        _send(node, files[-1:])
        _wait_for_revision(node, 2, "done")
        (held,) = node.wait_for_deliveries("held")
        assert held.revision == 2
        assert len(pacs.digests()) == (SLICES - 1) * RATIO
        said = " ".join(node.explain(1)["sentences"])
    assert "evision 2" in said
    assert "+1 image from scanner" in said
