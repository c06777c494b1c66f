"""A series is forwarded as it was received: to whom, which instances, and what a late instance changes."""

from __future__ import annotations

from contextlib import closing

import pytest

from dicomnode.ids import DeliveryId, SeriesId
from dicomnode.ledger.queries import open_reader
from dicomnode.ledger.states import DeliveryState
from dicomnode.ledger.values import Delivery, Examined, Finding, Forward, Priority
from tests.ledger.scene import LEASE_S, Scene, plan_for, stored

PACS = Forward(peers=("pacs",))


def keep(scene: Scene, series: SeriesId, revision: int = 1, forward: Forward = PACS) -> None:
    assert scene.ledger.settling.keep(
        series, revision, reason="gaps", sentence="The gaps are too large.", forward=forward
    )


def kept(scene: Scene, images: int = 3, forward: Forward = PACS) -> SeriesId:
    series = scene.settled(images)
    keep(scene, series, forward=forward)
    return series


def received(scene: Scene, series: SeriesId) -> set[str]:
    return {str(uid) for (uid,) in scene.ask("SELECT sop_instance_uid FROM instance WHERE series_id = ?", series)}


def brought(scene: Scene, delivery: Delivery) -> set[str]:
    return {item.sop_instance_uid for item in scene.ledger.deliveries.pending_items(delivery)}


def send(scene: Scene, delivery: Delivery, *, committer: str | None = None) -> None:
    scene.send_all(delivery)
    assert scene.ledger.deliveries.finish(delivery, committer=committer) is DeliveryState.SENT


def later_revision(scene: Scene, series: SeriesId, revision: int, images: int = 1) -> None:
    scene.receive(series, images=images)
    assert scene.ledger.settling.settle(series, revision, note="quiet")
    keep(scene, series, revision)


def test_a_kept_series_is_forwarded_with_all_its_instances(scene: Scene) -> None:
    series = kept(scene)
    delivery = scene.claim_delivery()
    assert delivery.job is None
    assert brought(scene, delivery) == received(scene, series)
    send(scene, delivery)
    with closing(open_reader(f"sqlite:///{scene.path}")) as reader:
        (line,) = reader.deliveries_list()
        told = " ".join(reader.series_explain(series).sentences)
    assert (line.content, line.series, line.revision, line.job, line.state) == ("originals", series, 1, None, "sent")
    assert "Delivery 1 of the received images to pacs was sent" in told


def test_a_planned_series_is_forwarded_before_it_is_derived_and_the_result_goes_by_itself(scene: Scene) -> None:
    series = scene.settled()
    scene.ledger.settling.plan(
        series, 1, plan_for("pacs"), forward=Forward(peers=("pacs", "pacs"), priority=Priority.URGENT)
    )
    assert scene.ask("SELECT state, job_id, priority FROM delivery") == [("due", None, 0)]
    scene.finish_job()
    assert scene.ask("SELECT state, job_id FROM delivery ORDER BY id") == [("due", None), ("due", 1)]


def test_a_new_verdict_on_the_same_revision_forwards_to_new_peers_only(scene: Scene) -> None:
    series = kept(scene)
    scene.ledger.operator.cancel_delivery(DeliveryId(1), "operator")
    scene.ledger.operator.retry_series(series, "operator")
    keep(scene, series, forward=Forward(peers=("pacs", "other")))
    assert scene.ask("SELECT peer, state FROM delivery ORDER BY id") == [("pacs", "cancelled"), ("other", "due")]
    scene.ledger.operator.retry_delivery(DeliveryId(1), "operator")
    assert brought(scene, scene.claim_delivery()) == received(scene, series)


@pytest.mark.parametrize("is_sent", [False, True])
def test_a_late_instance_brings_only_itself_and_leaves_what_waits_alone(scene: Scene, is_sent: bool) -> None:
    series = kept(scene)
    early = received(scene, series)
    if is_sent:
        send(scene, scene.claim_delivery())
    later_revision(scene, series, 2)
    assert scene.states("delivery") == (["sent", "due"] if is_sent else ["due", "due"])
    got: set[str] = set()
    while delivery := scene.ledger.deliveries.claim("pacs", "o", lease_s=LEASE_S):
        assert not got & brought(scene, delivery), "nothing is sent twice"
        got |= brought(scene, delivery)
        send(scene, delivery)
    assert got == received(scene, series) - (early if is_sent else set())


def test_what_a_cancelled_delivery_did_not_bring_comes_with_the_next_revision(scene: Scene) -> None:
    series = kept(scene)
    delivery = scene.claim_delivery()
    first = scene.ledger.deliveries.pending_items(delivery)[0]
    scene.ledger.deliveries.acknowledge(delivery, first, status=0)
    scene.ledger.operator.cancel_delivery(delivery.id, "operator")
    later_revision(scene, series, 2)
    assert brought(scene, scene.claim_delivery()) == received(scene, series) - {first.sop_instance_uid}


def test_a_result_takes_the_place_of_no_originals(scene: Scene) -> None:
    series = scene.settled()
    scene.ledger.settling.plan(series, 1, plan_for("pacs"), forward=PACS)
    scene.finish_job()
    scene.ledger.operator.retry_series(series, "operator")
    scene.replan_first(series, "pacs")
    scene.finish_job()
    assert scene.ask("SELECT job_id, state FROM delivery ORDER BY id") == [(None, "due"), (1, "cancelled"), (2, "due")]


def test_originals_that_were_sent_do_not_hold_the_result_of_the_next_revision(scene: Scene) -> None:
    series = kept(scene)
    send(scene, scene.claim_delivery())
    scene.receive(series, images=1)
    scene.replan(series, 2, "pacs")
    scene.finish_job()
    assert scene.ask("SELECT state, job_id FROM delivery WHERE job_id IS NOT NULL") == [("due", 1)]


def test_a_peer_does_not_get_back_what_it_sent(scene: Scene) -> None:
    series = scene.receive(images=2)
    scene.ledger.intake.accept([stored(series, at=scene.clock.now(), peer="pacs")])
    assert scene.ledger.settling.settle(series, 1, note="quiet")
    keep(scene, series, forward=Forward(peers=("pacs", "other")))
    assert scene.ask(
        "SELECT peer, count(*) FROM delivery JOIN delivery_item ON delivery_id = delivery.id GROUP BY peer"
    ) == [("other", 3), ("pacs", 2)]


def test_originals_wait_while_a_file_of_the_series_that_was_set_aside_is_unseen(scene: Scene) -> None:
    series = scene.receive(images=2)
    uid = sorted(received(scene, series))[0]
    assert scene.ledger.settling.settle(series, 1, note="quiet")
    scene.ledger.intake.accept([stored(series, uid=uid, content="other", at=scene.clock.now())])
    (aside,) = scene.ledger.quarantine.unexamined(series)
    scene.ledger.quarantine.examined(series, [Examined(id=aside.id, finding=Finding.OTHER_CONTENT)])
    keep(scene, series)
    assert scene.ask("SELECT state, reason FROM delivery") == [("held", "set_aside")]
    scene.ledger.operator.release_series(series, "operator")
    assert scene.states("delivery") == ["due"]


def test_originals_wait_as_soon_as_a_file_is_set_aside_also_of_a_series_that_receives_again(scene: Scene) -> None:
    series = kept(scene)
    uid = sorted(received(scene, series))[0]
    scene.receive(series, images=1)
    assert scene.states("delivery") == ["due"]
    scene.ledger.intake.accept([stored(series, uid=uid, content="other", at=scene.clock.now())])
    assert scene.ask("SELECT state, reason FROM delivery") == [("held", "set_aside")]
    assert scene.ledger.settling.settle(series, 2, note="quiet")
    (aside,) = scene.ledger.quarantine.unexamined(series)
    scene.ledger.quarantine.examined(series, [Examined(id=aside.id, finding=Finding.SAME)])
    keep(scene, series, 2)
    assert scene.states("delivery") == ["due", "due"], "it was no harm"


def test_originals_go_to_another_peer_by_hand(scene: Scene) -> None:
    series = kept(scene)
    there = scene.ledger.operator.send_delivery_to(DeliveryId(1), "other", "operator")
    assert scene.ask("SELECT peer, state, job_id FROM delivery ORDER BY id") == [
        ("pacs", "cancelled", None),
        ("other", "due", None),
    ]
    assert brought(scene, scene.claim_delivery("other")) == received(scene, series)
    assert there == 2


def test_originals_that_a_peer_lost_are_sent_again(scene: Scene) -> None:
    kept(scene)
    send(scene, scene.claim_delivery(), committer="pacs")
    (request,) = [one for one in [scene.ledger.commitments.next_one("pacs")] if one]
    assert len(request.items) == 3
    assert scene.ledger.commitments.queried(request, {request.items[0].sop_instance_uid}) == 2
    assert len(scene.ledger.deliveries.pending_items(scene.claim_delivery())) == 2
