"""The operator's cancel, and the way to another peer: at once, nothing taken back, nothing sent that was given up."""

from __future__ import annotations

import pytest

from dicomnode.errors import InputError
from dicomnode.ids import DeliveryId, SeriesId
from dicomnode.ledger.values import Delivery
from tests.ledger.scene import LEASE_S, Scene, derived

FIRST = DeliveryId(1)


@pytest.fixture
def due(scene: Scene) -> Scene:
    """One delivery of three images to pacs."""
    scene.queued("pacs")
    scene.finish_job(images=3)
    return scene


def _items(scene: Scene, delivery: int) -> list[str]:
    rows = scene.ask("SELECT state FROM delivery_item WHERE delivery_id = ? ORDER BY id", delivery)
    return [str(state) for (state,) in rows]


def _held(scene: Scene) -> Delivery:
    """The delivery to pacs: one image acknowledged, one refused, held."""
    delivery = scene.claim_delivery()
    first, second, _ = scene.ledger.deliveries.pending_items(delivery)
    assert scene.ledger.deliveries.acknowledge(delivery, first, status=0)
    assert scene.ledger.deliveries.refuse(delivery, second, status=0xA900)
    assert scene.ledger.deliveries.hold(delivery, reason="no_context", sentence="Nothing accepted.")
    return delivery


# Jobs.


@pytest.mark.parametrize("state", ["queued", "running", "held", "failed"])
def test_a_job_that_is_not_done_is_cancelled_in_any_state_and_never_claimed_again(scene: Scene, state: str) -> None:
    series = scene.queued("pacs")
    job = None if state == "queued" else scene.claim_job()
    if job is not None and state == "held":
        scene.ledger.jobs.hold(job, reason="input", sentence="x")
    while job is not None and state == "failed" and scene.state("job", job.id) != "failed":
        scene.ledger.jobs.give_back(job, detail="died", counts=True)
        job = scene.claim_job() if scene.state("job", job.id) == "queued" else job
    assert scene.states("job") == [state]
    assert scene.ledger.operator.cancel_series(series, "operator:ann") == (1,)
    assert scene.ask("SELECT state, reason, sentence FROM job") == [
        ("cancelled", "operator", "An operator cancelled it.")
    ]
    assert scene.ask("SELECT actor FROM event WHERE table_name = 'job' AND kind = 'cancel'") == [("operator:ann",)]
    scene.clock.advance(LEASE_S + 1)
    assert scene.ledger.jobs.claim("o", lease_s=LEASE_S) is None


def test_the_result_of_a_cancelled_job_opens_no_delivery_and_its_holder_is_told(scene: Scene) -> None:
    series = scene.queued("pacs")
    job = scene.claim_job()
    scene.ledger.operator.cancel_series(series, "operator")
    assert not scene.ledger.jobs.is_ours(job)
    assert not scene.ledger.jobs.beat(job, lease_s=LEASE_S)
    assert not scene.ledger.jobs.finish(job, derived())
    assert not scene.ledger.jobs.hold(job, reason="input", sentence="x")
    assert scene.ledger.jobs.give_back(job, detail="died", counts=True) is None
    assert (scene.states("job"), scene.states("delivery")) == (["cancelled"], [])
    assert scene.ask("SELECT count(*) FROM instance WHERE origin = 'derived'") == [(0,)]


def test_a_restart_does_not_bring_a_cancelled_job_back(scene: Scene) -> None:
    series = scene.queued("pacs")
    scene.claim_job()
    scene.ledger.operator.cancel_series(series, "operator")
    assert scene.ledger.boots.begin(pid=2, host="h").returned_jobs == 0
    assert scene.states("job") == ["cancelled"]


def test_after_a_cancel_a_retry_of_the_series_plans_a_new_job(scene: Scene) -> None:
    series = scene.queued("pacs")
    scene.ledger.operator.cancel_series(series, "operator")
    scene.ledger.operator.retry_series(series, "operator")
    scene.replan_first(series, "pacs")
    assert scene.states("job") == ["cancelled", "queued"]
    scene.finish_job()
    assert scene.states("delivery") == ["due"]


def test_a_new_verdict_that_keeps_the_series_still_lets_a_running_job_end(scene: Scene) -> None:
    """Only an operator ends what runs."""
    series = scene.queued("pacs")
    scene.ledger.operator.retry_series(series, "operator")
    job = scene.claim_job()
    assert scene.ledger.settling.keep(series, 1, reason="gaps", sentence="Gaps.")
    assert scene.states("job") == ["running"]
    assert scene.ledger.jobs.finish(job, derived())


@pytest.mark.parametrize("verb", ["cancel_series", "retry_series"])
def test_series_verbs_are_refused_in_words_where_they_mean_nothing(scene: Scene, verb: str) -> None:
    with pytest.raises(InputError, match="no series 99"):
        getattr(scene.ledger.operator, verb)(SeriesId(99), "operator")


def test_a_series_without_a_job_that_could_be_cancelled_says_so(scene: Scene) -> None:
    for series in (scene.receive(), scene.settled()):
        with pytest.raises(InputError, match="nothing to cancel"):
            scene.ledger.operator.cancel_series(series, "operator")
    done = scene.queued("pacs")
    job = scene.finish_job()
    for _ in range(2):
        with pytest.raises(InputError, match="nothing to cancel"):
            scene.ledger.operator.cancel_series(done, "operator")
    with pytest.raises(InputError, match="was made by this node"):
        scene.ledger.operator.cancel_series(job.output_series, "operator")


# Deliveries.


def test_a_due_delivery_that_is_cancelled_is_never_claimed(due: Scene) -> None:
    due.ledger.operator.cancel_delivery(FIRST, "operator:ann")
    assert due.ask("SELECT state, reason, sentence FROM delivery") == [
        ("cancelled", "operator", "An operator cancelled it.")
    ]
    assert due.ledger.deliveries.claim("pacs", "o", lease_s=LEASE_S) is None
    assert due.ledger.deliveries.next_due_in("pacs") is None
    assert due.ask("SELECT actor FROM event WHERE kind = 'cancel'") == [("operator:ann",)]


def test_a_held_delivery_that_is_cancelled_cannot_be_released(due: Scene) -> None:
    _held(due)
    due.ledger.operator.cancel_delivery(FIRST, "operator")
    with pytest.raises(InputError, match="cancelled, by an operator"):
        due.ledger.operator.release_delivery(FIRST, "operator")
    assert _items(due, FIRST) == ["acknowledged", "refused", "pending"], "what the peer has is not taken back"


def test_of_a_delivery_that_is_being_sent_the_answer_on_its_way_is_kept_and_no_other_image_goes(due: Scene) -> None:
    delivery = due.claim_delivery()
    first, second, _ = due.ledger.deliveries.pending_items(delivery)
    assert due.ledger.deliveries.is_ours(delivery)
    due.ledger.operator.cancel_delivery(FIRST, "operator")
    assert not due.ledger.deliveries.is_ours(delivery)
    assert not due.ledger.deliveries.acknowledge(delivery, first, status=0), "nothing more may be sent"
    assert _items(due, FIRST) == ["acknowledged", "pending", "pending"], "but the peer has this one"
    assert not due.ledger.deliveries.refuse(delivery, second, status=0xA900)
    assert due.ledger.deliveries.finish(delivery) is None
    assert not due.ledger.deliveries.defer(delivery, wait_s=1, reason="x", sentence="x")
    assert not due.ledger.deliveries.release_claim(delivery)
    assert due.states("delivery") == ["cancelled"]


def test_an_answer_that_comes_after_something_newer_took_the_place_changes_nothing(scene: Scene) -> None:
    """As against an operator's cancel: here the lease was lost before."""
    series = scene.queued("pacs")
    scene.finish_job()
    old = scene.claim_delivery()
    item = scene.ledger.deliveries.pending_items(old)[0]
    scene.ledger.boots.begin(pid=2, host="h")
    scene.receive(series, images=1)
    assert scene.states("delivery") == ["cancelled"]
    assert not scene.ledger.deliveries.acknowledge(old, item, status=0)
    assert _items(scene, FIRST) == ["pending"] * 3


@pytest.mark.parametrize("state", ["sent", "cancelled"])
def test_what_has_ended_is_not_cancelled(due: Scene, state: str) -> None:
    if state == "sent":
        delivery = due.claim_delivery()
        due.send_all(delivery)
        assert due.ledger.deliveries.finish(delivery) == "sent"
    else:
        due.ledger.operator.cancel_delivery(FIRST, "operator")
    with pytest.raises(InputError, match=state):
        due.ledger.operator.cancel_delivery(FIRST, "operator")
    with pytest.raises(InputError, match="no delivery 9"):
        due.ledger.operator.cancel_delivery(DeliveryId(9), "operator")


def test_a_retry_takes_a_cancel_back_and_goes_on_with_what_the_peer_has_not(due: Scene) -> None:
    _held(due)
    due.ledger.operator.cancel_delivery(FIRST, "operator")
    due.ledger.operator.retry_delivery(FIRST, "operator")
    assert due.ask("SELECT state, reason, sentence FROM delivery") == [("due", None, "")]
    again = due.claim_delivery()
    assert len(due.ledger.deliveries.pending_items(again)) == 2
    due.send_all(again)
    assert due.ledger.deliveries.finish(again) == "sent"


@pytest.mark.parametrize("newer", ["revision", "derivation"])
def test_a_cancelled_delivery_stays_so_once_something_newer_took_its_place(due: Scene, newer: str) -> None:
    due.ledger.operator.cancel_delivery(FIRST, "operator")
    if newer == "revision":
        due.receive(SeriesId(1), images=1)
    else:
        due.ledger.operator.retry_series(SeriesId(1), "operator")
        due.replan_first(SeriesId(1), "pacs")
        due.finish_job()
    before = due.states("delivery")
    for call in (
        lambda: due.ledger.operator.retry_delivery(FIRST, "operator"),
        lambda: due.ledger.operator.send_delivery_to(FIRST, "archive", "operator"),
    ):
        with pytest.raises(InputError, match="newer revision or derivation"):
            call()
    assert due.states("delivery") == before


# To another peer.


def test_to_another_peer_all_images_are_pending_again_and_the_first_delivery_is_cancelled(due: Scene) -> None:
    _held(due)
    made = due.ledger.operator.send_delivery_to(FIRST, "archive", "operator:ann")
    assert due.ask("SELECT id, job_id, peer, state, reason, sentence FROM delivery ORDER BY id") == [
        (1, 1, "pacs", "cancelled", "operator", "An operator sent it to archive instead: delivery 2."),
        (2, 1, "archive", "due", None, ""),
    ]
    assert made == 2
    assert _items(due, FIRST) == ["acknowledged", "refused", "pending"]
    delivery = due.claim_delivery("archive")
    sent = [item.sop_instance_uid for item in due.ledger.deliveries.pending_items(delivery)]
    assert sent == [uid for (uid,) in due.ask("SELECT sop_instance_uid FROM instance WHERE job_id = 1 ORDER BY number")]
    due.send_all(delivery)
    assert due.ledger.deliveries.finish(delivery) == "sent"


def test_what_is_being_sent_goes_to_the_other_peer_too(due: Scene) -> None:
    old = due.claim_delivery()
    assert due.ledger.operator.send_delivery_to(FIRST, "archive", "operator") == 2
    assert not due.ledger.deliveries.is_ours(old)
    assert due.states("delivery") == ["cancelled", "due"]


def test_what_one_peer_has_got_may_go_to_another_and_stays_sent_to_the_first(due: Scene) -> None:
    delivery = due.claim_delivery()
    due.send_all(delivery)
    due.ledger.deliveries.finish(delivery)
    assert due.ledger.operator.send_delivery_to(FIRST, "archive", "operator") == 2
    assert due.states("delivery") == ["sent", "due"]


def test_to_the_same_peer_is_a_plain_retry(due: Scene) -> None:
    due.ledger.deliveries.defer(due.claim_delivery(), wait_s=900, reason="lost", sentence="x")
    assert due.ledger.operator.send_delivery_to(FIRST, "pacs", "operator") == FIRST
    assert due.states("delivery") == ["due"]
    assert due.ledger.deliveries.next_due_in("pacs") == 0


@pytest.mark.parametrize("state", ["due", "sending", "held", "sent"])
def test_a_peer_that_gets_the_images_anyway_is_named_with_its_delivery(scene: Scene, state: str) -> None:
    scene.queued("pacs", "archive")
    scene.finish_job()
    if state != "due":
        delivery = scene.claim_delivery("archive")
        if state == "held":
            scene.ledger.deliveries.hold(delivery, reason="lost", sentence="x")
        if state == "sent":
            scene.send_all(delivery)
            scene.ledger.deliveries.finish(delivery)
    with pytest.raises(InputError, match="Delivery 2 brings the same images to archive") as caught:
        scene.ledger.operator.send_delivery_to(FIRST, "archive", "operator")
    assert "deliveries cancel 1" in caught.value.hint
    assert scene.states("delivery") == ["due", state]


def test_there_and_back_again_takes_up_the_delivery_that_was_cancelled(due: Scene) -> None:
    """There is one delivery of a job and a peer; what that peer has acknowledged it is not sent twice."""
    _held(due)
    assert due.ledger.operator.send_delivery_to(FIRST, "archive", "operator") == 2
    assert due.ledger.operator.send_delivery_to(DeliveryId(2), "pacs", "operator") == FIRST
    assert due.states("delivery") == ["due", "cancelled"]
    assert _items(due, FIRST) == ["acknowledged", "pending", "pending"]


def test_a_delivery_that_is_not_there_goes_nowhere(due: Scene) -> None:
    with pytest.raises(InputError, match="no delivery 9"):
        due.ledger.operator.send_delivery_to(DeliveryId(9), "archive", "operator")
