"""A delivery that the loop does not hold any more: cancelled, or taken by another; and what the log calls it."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from dicomnode.ids import DeliveryId
from dicomnode.ledger import engine
from dicomnode.seams import set_checkpoint_hook
from tests.support.due_delivery import SWIFT, Node
from tests.support.misbehaving_pacs import MisbehavingPacs, Trick
from tests.support.wait import wait_until


@pytest.fixture
def pacs() -> Iterator[MisbehavingPacs]:
    with MisbehavingPacs() as running:
        yield running


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    opened = Node(tmp_path / "node")
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="dicomnode.push")
    return caplog


@contextmanager
def _at(seam: str, act: Callable[[], object], *, hits: int = 1) -> Iterator[None]:
    """Do something once, at the n-th time that a checkpoint is reached."""
    count = 0

    def hook(name: str) -> None:
        nonlocal count
        count += name == seam
        if name == seam and count == hits:
            act()

    set_checkpoint_hook(hook)
    try:
        yield
    finally:
        set_checkpoint_hook(None)


def _told(log: pytest.LogCaptureFixture, name: str) -> Callable[[], bool]:
    return lambda: name in log.messages


def test_a_cancel_lets_the_image_on_its_way_end_and_no_other_goes(
    node: Node, pacs: MisbehavingPacs, log: pytest.LogCaptureFixture
) -> None:
    node.derive("pacs", instances=4)
    pacs.answers.extend([0x0000, Trick.HANG])
    node.push_to("pacs", pacs.port)
    wait_until(lambda: len(pacs.arrivals) == 2)
    node.ledger.operator.cancel_delivery(DeliveryId(1), "operator")
    pacs.let_go.set()
    wait_until(_told(log, "delivery_cancelled"))
    given_up = node.delivery()
    assert (given_up.state, given_up.reason, given_up.acknowledged) == ("cancelled", "operator", 2)
    assert len(pacs.arrivals) == 2
    assert not {"delivery_held", "delivery_lease_lost", "delivery_deferred"} & set(log.messages)


@pytest.mark.parametrize("status", [0xA900, 0x0110])
def test_a_cancel_is_seen_after_an_answer_that_is_no_success_too(
    node: Node, pacs: MisbehavingPacs, log: pytest.LogCaptureFixture, status: int
) -> None:
    node.derive("pacs", instances=3)
    pacs.answers.extend([status] * 3)
    with _at("push.sent", lambda: node.ledger.operator.cancel_delivery(DeliveryId(1), "operator")):
        node.push_to("pacs", pacs.port)
        wait_until(_told(log, "delivery_cancelled"))
    assert len(pacs.arrivals) == 1
    assert [answer.status for answer in node.delivery().answers] == [f"{status:04X}"]


def test_a_cancel_while_the_association_is_being_made_sends_nothing(
    node: Node, pacs: MisbehavingPacs, log: pytest.LogCaptureFixture
) -> None:
    node.derive("pacs", instances=3)
    with _at("push.associated", lambda: node.ledger.operator.cancel_delivery(DeliveryId(1), "operator")):
        node.push_to("pacs", pacs.port)
        wait_until(_told(log, "delivery_cancelled"))
    assert pacs.arrivals == []


def test_a_delivery_in_the_middle_goes_on_whole_to_another_peer(node: Node, pacs: MisbehavingPacs) -> None:
    derived = node.derive("pacs", instances=3)
    pacs.answers.extend([0x0000, Trick.HANG])
    node.push_to("pacs", pacs.port, SWIFT.model_copy(update={"response_timeout_s": 60.0}))
    wait_until(lambda: len(pacs.arrivals) == 2)
    with MisbehavingPacs() as archive:
        node.push_to("archive", archive.port)
        node.ledger.operator.send_delivery_to(DeliveryId(1), "archive", "operator")
        assert node.wait_for("sent", "archive").acknowledged == 3
        assert {one.sop_instance_uid: one.sha256 for one in archive.arrivals} == derived.sha256
    pacs.let_go.set()
    wait_until(lambda: node.delivery().acknowledged == 2, what="the answer on its way is written down")
    assert len(pacs.arrivals) == 2


def _take_over(node: Node) -> None:
    """As another service would, that thinks this one dead."""
    node.ledger.boots.begin(pid=1, host="other")
    assert node.ledger.deliveries.claim("pacs", "other", lease_s=60) is not None


@pytest.mark.parametrize(
    ("seam", "hits", "answers"),
    [
        ("push.acknowledged", 2, []),  # all is answered: the end would be "sent"
        ("push.acknowledged", 2, [0xA900, 0xA900]),  # all is refused: the end would be "held"
        ("push.sent", 1, [0x0124]),  # not authorised: held at once
        ("push.sent", 1, [0xA700]),  # no room: due again later
        ("push.sent", 1, [Trick.ABORT]),
    ],
)
def test_a_lost_lease_is_called_so_whatever_the_attempt_came_to(
    node: Node, pacs: MisbehavingPacs, log: pytest.LogCaptureFixture, seam: str, hits: int, answers: list[int | Trick]
) -> None:
    node.derive("pacs", instances=2)
    pacs.answers.extend(answers)
    with _at(seam, lambda: _take_over(node), hits=hits):
        node.push_to("pacs", pacs.port)
        wait_until(_told(log, "delivery_lease_lost"))
    assert not {"delivery_held", "delivery_sent", "delivery_deferred", "delivery_stopped"} & set(log.messages)
    assert node.delivery().state == "sending", "the other's"


def test_refused_images_are_told_as_a_hold_with_its_reason(
    node: Node, pacs: MisbehavingPacs, log: pytest.LogCaptureFixture
) -> None:
    node.derive("pacs", instances=2)
    pacs.answers.append(0xA900)
    node.push_to("pacs", pacs.port)
    wait_until(_told(log, "delivery_held"))
    (record,) = [one for one in log.records if one.message == "delivery_held"]
    assert record.__dict__["dicomnode_fields"]["reason"] == "refused"


def test_a_locked_ledger_is_a_pause_and_no_failure_of_the_push(
    tmp_path: Path, pacs: MisbehavingPacs, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_S", 0.1)
    with closing(Node(tmp_path / "busy")) as node:
        node.derive("pacs")
        with closing(sqlite3.connect(tmp_path / "busy" / "ledger.sqlite", isolation_level=None)) as backup:
            backup.execute("BEGIN IMMEDIATE")
            node.push_to("pacs", pacs.port)
            wait_until(_told(log, "push_paused"))
            backup.execute("ROLLBACK")
        node.wait_for("sent")
    assert "push_failed" not in log.messages
