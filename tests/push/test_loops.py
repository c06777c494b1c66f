"""The threads of the peers follow the settings, and no delivery that is being sent notices."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicomnode.ids import AeTitle
from dicomnode.push.loops import PushLoops
from dicomnode.seams import set_checkpoint_hook
from dicomnode.settings.peers import PeerSettings
from tests.support.due_delivery import SWIFT, Node, carriers_with
from tests.support.misbehaving_pacs import MisbehavingPacs
from tests.support.wait import wait_until

CARRIERS = carriers_with(SWIFT)
LIMIT_S = 60.0


def _peer(name: str, port: int, *, commitment: str = "off") -> PeerSettings:
    return PeerSettings(name=name, ae_title=AeTitle("PACS"), address=f"127.0.0.1:{port}", commitment=commitment)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    opened = Node(tmp_path / "node")
    yield opened
    opened.close()


@pytest.fixture
def loops(node: Node) -> Iterator[PushLoops]:
    started = PushLoops(node.ledger, node.archive, "test")
    yield started
    started.stop(LIMIT_S)


@contextmanager
def held_up() -> Iterator[threading.Event]:
    """The first instance that is sent waits for the event before its answer is written down."""
    reached, go_on = threading.Event(), threading.Event()

    def wait(name: str) -> None:
        if name == "push.sent" and not reached.is_set():
            reached.set()
            assert go_on.wait(LIMIT_S)

    set_checkpoint_hook(wait)
    try:
        yield go_on
    finally:
        go_on.set()
        set_checkpoint_hook(None)


def test_a_changed_address_counts_from_the_next_delivery_on(node: Node, loops: PushLoops) -> None:
    with MisbehavingPacs() as old, MisbehavingPacs() as new, held_up() as go_on:
        node.derive("pacs", instances=4)
        loops.take([_peer("pacs", old.port)], SWIFT, CARRIERS)
        wait_until(lambda: old.arrivals, what="the first instance is there")
        loops.take([_peer("pacs", new.port)], SWIFT, CARRIERS)
        go_on.set()
        node.wait_for("sent")
        node.derive("pacs", instances=2)
        wait_until(lambda: [one.state for one in node.deliveries()] == ["sent", "sent"], LIMIT_S, "both are sent")
        assert (len(old.arrivals), len(new.arrivals)) == (4, 2)
        assert loops.names == Counter(["push-pacs"])


def test_a_peer_that_is_gone_gets_the_delivery_that_is_being_sent_and_no_other(node: Node, loops: PushLoops) -> None:
    with MisbehavingPacs() as pacs, MisbehavingPacs() as other, held_up() as go_on:
        node.derive("pacs", instances=3)
        loops.take([_peer("pacs", pacs.port)], SWIFT, CARRIERS)
        wait_until(lambda: pacs.arrivals, what="the first instance is there")
        node.derive("pacs", instances=2)
        node.derive("other", instances=1)
        loops.take([_peer("other", other.port)], SWIFT, CARRIERS)
        assert loops.names == Counter(["push-other"])
        node.wait_for("sent", "other")
        go_on.set()
        wait_until(lambda: "push-pacs" not in _threads(), LIMIT_S, "its thread ends")
        assert [one.state for one in node.deliveries()] == ["sent", "due", "sent"]
        assert len(pacs.arrivals) == 3
        loops.take([_peer("pacs", pacs.port), _peer("other", other.port)], SWIFT, CARRIERS)
        wait_until(lambda: [one.state for one in node.deliveries()] == ["sent"] * 3, LIMIT_S, "it is named again")


def test_proof_is_asked_for_as_long_as_the_settings_say_so(loops: PushLoops) -> None:
    with MisbehavingPacs() as pacs:
        loops.take([_peer("pacs", pacs.port, commitment="auto")], SWIFT, CARRIERS)
        assert loops.names == Counter(["push-pacs", "proof-pacs"])
        loops.take([_peer("pacs", pacs.port)], SWIFT, CARRIERS)
        assert loops.names == Counter(["push-pacs"])
        wait_until(lambda: "proof-pacs" not in _threads(), LIMIT_S, "its thread ends")


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}
