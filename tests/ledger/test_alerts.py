"""The rows of alerts: one for a condition at a destination, told once, again when there is more, then closed."""

from __future__ import annotations

from contextlib import closing

import pytest

from dicomnode.ledger.queries import Reader, open_reader
from dicomnode.ledger.values import Condition
from tests.ledger.scene import Scene

DISK = Condition(name="disk", sentence="The disk fills.", number=1, is_error=True)
AGAIN_S = 100.0


def jobs(number: int) -> Condition:
    return Condition(name="job failed", sentence=f"{number} jobs failed.", number=number, is_error=True)


def observe(scene: Scene, *holding: Condition, ended: tuple[str, ...] = (), destination: str = "mail") -> list[str]:
    """What the destination is to be told then."""
    scene.clock.advance(1)
    scene.ledger.alerts.observe(destination, holding, ended, again_s=AGAIN_S)
    return [f"{one.name} {one.number} {one.state}" for one in scene.ledger.alerts.to_send(destination)]


def tell(scene: Scene, destination: str = "mail") -> None:
    scene.ledger.alerts.sent(scene.ledger.alerts.to_send(destination))


def test_each_destination_is_told_by_itself(scene: Scene) -> None:
    assert observe(scene, DISK) == observe(scene, DISK, destination="webhook") == ["disk 1 raised"]
    tell(scene, "webhook")
    assert observe(scene, DISK, destination="webhook") == []
    assert observe(scene, DISK) == ["disk 1 raised"]


def test_a_condition_that_returns_before_its_all_clear_was_sent_is_raised_under_the_same_row(scene: Scene) -> None:
    observe(scene, DISK)
    tell(scene)
    assert observe(scene, ended=("disk",)) == ["disk 1 ended"]
    assert observe(scene, DISK) == ["disk 1 raised"]
    tell(scene)
    observe(scene, ended=("disk",))
    tell(scene)
    observe(scene, DISK)
    assert scene.states("alert") == ["closed", "raised"]


def test_what_comes_after_some_were_settled_is_more(scene: Scene) -> None:
    observe(scene, jobs(3))
    tell(scene)
    scene.clock.advance(AGAIN_S)
    assert observe(scene, jobs(2)) == []
    assert observe(scene, jobs(3)) == ["job failed 3 raised"]


def test_what_came_between_composing_and_recording_a_message_is_not_taken_for_told(scene: Scene) -> None:
    observe(scene, jobs(1))
    composed = scene.ledger.alerts.to_send("mail")
    observe(scene, jobs(2))
    scene.ledger.alerts.sent(composed)
    scene.clock.advance(AGAIN_S)
    assert observe(scene, jobs(2)) == ["job failed 2 raised"]


def test_since_when_a_destination_cannot_be_told_is_kept_until_it_is(scene: Scene) -> None:
    observe(scene, DISK)
    with closing(open_reader(f"sqlite:///{scene.path}")) as reader:
        assert reader.undelivered() == ()
        scene.ledger.alerts.not_sent(scene.ledger.alerts.to_send("mail"), "Refused.")
        first = scene.clock.now()
        scene.clock.advance(60)
        scene.ledger.alerts.not_sent(scene.ledger.alerts.to_send("mail"), "Silent.")
        (line,) = reader.undelivered()
        assert (line.since, line.failure) == (first, "Silent.")
        tell(scene)
        assert reader.undelivered() == ()


@pytest.fixture
def reader(scene: Scene) -> Reader:
    return open_reader(f"sqlite:///{scene.path}", peers=["pacs"])


def test_an_alert_counts_the_rows_that_status_names(scene: Scene, reader: Reader) -> None:
    """Held, failed and superseded jobs, a held delivery, one without a peer, an alert of a series."""
    for reason in ("input", "input", "model"):
        scene.queued("pacs")
        scene.ledger.jobs.hold(scene.claim_job(), reason=reason, sentence="x")
    late = scene.queued("pacs")
    scene.ledger.jobs.hold(scene.claim_job(), reason="input", sentence="x")
    scene.receive(late)
    scene.queued("pacs", "gone")
    scene.finish_job()
    scene.ledger.deliveries.hold(scene.claim_delivery("pacs"), reason="refused", sentence="x")
    scene.ledger.settling.keep(scene.settled(), 1, reason="disagree", sentence="x", alert=True)
    with closing(reader):
        counted = {(one.table, one.state, one.reason, one.peer): one.rows for one in reader.waiting()}
        named = [(line.table, line.state, line.reason) for line in reader.status().attention]
    assert counted == {
        ("job", "held", "input", ""): 2,
        ("job", "held", "model", ""): 1,
        ("delivery", "held", "refused", "pacs"): 1,
        ("delivery", "due", "no_peer", "gone"): 1,
        ("series", "kept", "disagree", ""): 1,
    }
    assert sorted(named) == sorted(key[:3] for key, rows in counted.items() for _ in range(rows))
