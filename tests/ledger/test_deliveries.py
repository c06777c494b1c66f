"""Deliveries: claimed by one loop, resumed where they stopped, ended by the peer's answers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from dicomnode.errors import InputError
from dicomnode.ids import DeliveryId
from dicomnode.ledger.values import Priority
from tests.ledger.scene import LEASE_S, Scene, derived


@pytest.fixture
def due(scene: Scene) -> Scene:
    """One delivery of three images to pacs."""
    scene.queued("pacs")
    scene.finish_job(images=3)
    return scene


def test_a_delivery_is_claimed_by_its_own_peer_only(due: Scene) -> None:
    assert due.ledger.deliveries.claim("workstation", "o", lease_s=LEASE_S) is None
    delivery = due.claim_delivery()
    assert (delivery.peer, delivery.attempts, delivery.failures) == ("pacs", 1, 0)
    assert due.ledger.deliveries.claim("pacs", "o", lease_s=LEASE_S) is None


def test_a_delivery_takes_the_priority_of_its_job_and_is_claimed_by_it(scene: Scene) -> None:
    jobs = []
    for priority in (Priority.OFF_PEAK, Priority.NORMAL, Priority.URGENT, Priority.URGENT):
        scene.set_priority(scene.queued("pacs"), priority)
        jobs.append(scene.finish_job(images=1).id)
        scene.clock.advance(1)
    assert scene.ask("SELECT priority FROM delivery ORDER BY id") == [(2,), (1,), (0,), (0,)]
    assert [scene.claim_delivery().job for _ in jobs] == [jobs[place] for place in (2, 3, 1, 0)]


def test_a_delivery_that_is_due_does_not_wait_for_a_more_urgent_one_that_is_not(scene: Scene) -> None:
    for priority in (Priority.URGENT, Priority.NORMAL):
        scene.set_priority(scene.queued("pacs"), priority)
        scene.finish_job(images=1)
    urgent = scene.claim_delivery()
    assert scene.ledger.deliveries.defer(urgent, wait_s=5, reason="no_answer", sentence="pacs did not answer.")
    assert scene.claim_delivery().id != urgent.id
    assert scene.ledger.deliveries.next_due_in("pacs") == 5


def test_a_delivery_to_another_peer_keeps_the_priority(scene: Scene) -> None:
    scene.set_priority(scene.queued("pacs"), Priority.URGENT)
    scene.finish_job(images=1)
    scene.ledger.operator.send_delivery_to(scene.claim_delivery().id, "workstation", "operator")
    assert scene.ask("SELECT priority FROM delivery") == [(0,), (0,)]


def test_items_come_in_the_order_of_the_slices(due: Scene) -> None:
    delivery = due.claim_delivery()
    expected = [file for (file,) in due.ask("SELECT file FROM instance WHERE origin = 'derived' ORDER BY number")]
    assert [item.file for item in due.ledger.deliveries.pending_items(delivery)] == expected


def test_all_acknowledged_is_sent_with_its_proof(due: Scene) -> None:
    delivery = due.claim_delivery()
    due.send_all(delivery)
    assert due.ledger.deliveries.finish(delivery)
    assert due.ask("SELECT state, proof, failures FROM delivery") == [("sent", "acknowledged", 0)]
    assert due.ledger.deliveries.next_due_in("pacs") is None


def test_a_warning_is_acknowledged_and_its_status_kept(due: Scene) -> None:
    delivery = due.claim_delivery()
    assert due.ledger.deliveries.acknowledge(delivery, due.ledger.deliveries.pending_items(delivery)[0], status=0xB000)
    assert due.ask("SELECT state, status FROM delivery_item ORDER BY id LIMIT 1") == [("acknowledged", 0xB000)]


def test_an_item_is_acknowledged_once(due: Scene) -> None:
    delivery = due.claim_delivery()
    item = due.ledger.deliveries.pending_items(delivery)[0]
    assert due.ledger.deliveries.acknowledge(delivery, item, status=0)
    assert not due.ledger.deliveries.acknowledge(delivery, item, status=0)
    assert not due.ledger.deliveries.refuse(delivery, item, status=0xA900)


def test_a_deferred_delivery_resumes_with_what_is_left(due: Scene) -> None:
    delivery = due.claim_delivery()
    first, *others = due.ledger.deliveries.pending_items(delivery)
    due.ledger.deliveries.acknowledge(delivery, first, status=0)
    assert due.ledger.deliveries.defer(delivery, wait_s=5, reason="no_answer", sentence="pacs did not answer.")
    assert due.ledger.deliveries.next_due_in("pacs") == 5
    assert due.ledger.deliveries.claim("pacs", "o", lease_s=LEASE_S) is None
    due.clock.advance(5)
    assert due.ledger.deliveries.next_due_in("pacs") == 0
    again = due.claim_delivery()
    assert (again.id, again.attempts) == (delivery.id, 2)
    assert [item.id for item in due.ledger.deliveries.pending_items(again)] == [item.id for item in others]


def test_failures_in_a_row_are_counted_and_progress_ends_the_row(due: Scene) -> None:
    failures = []
    for attempt in range(4):
        delivery = due.claim_delivery()
        if attempt == 2:
            due.ledger.deliveries.acknowledge(delivery, due.ledger.deliveries.pending_items(delivery)[0], status=0)
        due.ledger.deliveries.defer(delivery, wait_s=1, reason="no_answer", sentence="x")
        failures += [number for (number,) in due.ask("SELECT failures FROM delivery")]
        due.clock.advance(1)
    assert failures == [1, 2, 1, 2]


def test_a_clock_set_back_an_hour_delays_nothing(due: Scene) -> None:
    due.ledger.deliveries.defer(due.claim_delivery(), wait_s=900, reason="no_answer", sentence="x")
    due.clock.step(-3600)
    assert due.ledger.deliveries.next_due_in("pacs") == 0
    assert due.claim_delivery().attempts == 2


def test_a_claim_released_at_a_stop_is_due_at_once_and_no_failure(due: Scene) -> None:
    assert due.ledger.deliveries.release_claim(due.claim_delivery())
    again = due.claim_delivery()
    assert (again.attempts, again.failures) == (2, 0)


def test_a_processing_failure_is_counted_per_item(due: Scene) -> None:
    delivery = due.claim_delivery()
    item = due.ledger.deliveries.pending_items(delivery)[0]
    assert [due.ledger.deliveries.fail_item(delivery, item, status=0x0110) for _ in range(3)] == [1, 2, 3]
    assert due.ledger.deliveries.pending_items(delivery)[0].tries == 3


def test_refused_items_hold_the_delivery_and_are_listed(due: Scene) -> None:
    delivery = due.claim_delivery()
    first, second, third = due.ledger.deliveries.pending_items(delivery)
    due.ledger.deliveries.refuse(delivery, first, status=0xA900)
    due.ledger.deliveries.acknowledge(delivery, second, status=0)
    due.ledger.deliveries.refuse(delivery, third, status=0xC000)
    assert due.ledger.deliveries.finish(delivery) == "held"
    assert due.ask("SELECT state, reason, sentence FROM delivery") == [
        ("held", "refused", "pacs refused 2 of 3 images: 1 x status A900, 1 x status C000.")
    ]


def test_a_delivery_with_pending_items_is_not_finished(due: Scene) -> None:
    delivery = due.claim_delivery()
    with pytest.raises(AssertionError):
        due.ledger.deliveries.finish(delivery)
    assert due.states("delivery") == ["sending"]


def test_a_held_delivery_waits_for_the_operator(due: Scene) -> None:
    assert due.ledger.deliveries.hold(due.claim_delivery(), reason="no_context", sentence="Nothing accepted.")
    due.clock.advance(10_000)
    assert due.ledger.deliveries.claim("pacs", "o", lease_s=LEASE_S) is None
    assert due.ledger.deliveries.next_due_in("pacs") is None
    due.ledger.operator.release_delivery(DeliveryId(1), "operator")
    assert due.ask("SELECT state, reason, sentence FROM delivery") == [("due", None, "")]
    assert due.ask("SELECT actor FROM event WHERE kind = 'release'") == [("operator",)]


def test_release_leaves_refused_items_refused(due: Scene) -> None:
    delivery = due.claim_delivery()
    for item in due.ledger.deliveries.pending_items(delivery):
        due.ledger.deliveries.refuse(delivery, item, status=0xA900)
    due.ledger.deliveries.finish(delivery)
    due.ledger.operator.release_delivery(delivery.id, "operator")
    again = due.claim_delivery()
    assert due.ledger.deliveries.pending_items(again) == []
    assert due.ledger.deliveries.finish(again) == "held"


def test_retry_makes_refused_items_pending_again_with_fresh_tries(due: Scene) -> None:
    delivery = due.claim_delivery()
    first, second, third = due.ledger.deliveries.pending_items(delivery)
    due.ledger.deliveries.acknowledge(delivery, first, status=0)
    due.ledger.deliveries.fail_item(delivery, second, status=0x0110)
    due.ledger.deliveries.refuse(delivery, third, status=0xA900)
    due.ledger.deliveries.hold(delivery, reason="refused", sentence="x")
    due.ledger.operator.retry_delivery(delivery.id, "operator")
    again = due.claim_delivery()
    assert [(item.id, item.tries) for item in due.ledger.deliveries.pending_items(again)] == [
        (second.id, 0),
        (third.id, 0),
    ]


def test_retry_ends_a_backoff(due: Scene) -> None:
    delivery = due.claim_delivery()
    due.ledger.deliveries.defer(delivery, wait_s=900, reason="no_answer", sentence="x")
    due.ledger.operator.retry_delivery(delivery.id, "operator")
    assert due.ledger.deliveries.next_due_in("pacs") == 0
    assert due.claim_delivery().failures == 0
    assert "retry" in due.kinds("delivery", delivery.id)


def test_operators_are_refused_in_words_where_it_means_nothing(due: Scene) -> None:
    with pytest.raises(InputError, match="no delivery 9"):
        due.ledger.operator.retry_delivery(DeliveryId(9), "operator")
    with pytest.raises(InputError, match="due already"):
        due.ledger.operator.release_delivery(DeliveryId(1), "operator")
    delivery = due.claim_delivery()
    with pytest.raises(InputError, match="being sent"):
        due.ledger.operator.retry_delivery(delivery.id, "operator")
    due.send_all(delivery)
    due.ledger.deliveries.finish(delivery)
    for verb in (due.ledger.operator.retry_delivery, due.ledger.operator.release_delivery):
        with pytest.raises(InputError, match="sent already"):
            verb(delivery.id, "operator")


def test_who_lost_the_lease_changes_nothing(due: Scene) -> None:
    old = due.claim_delivery()
    item = due.ledger.deliveries.pending_items(old)[0]
    due.clock.advance(LEASE_S + 1)
    new = due.claim_delivery()
    before = due.ask("SELECT * FROM delivery"), due.ask("SELECT * FROM delivery_item"), due.ask("SELECT * FROM event")
    assert not due.ledger.deliveries.acknowledge(old, item, status=0)
    assert not due.ledger.deliveries.refuse(old, item, status=0xA900)
    assert due.ledger.deliveries.fail_item(old, item, status=0x0110) == 0
    assert not due.ledger.deliveries.beat(old, lease_s=LEASE_S)
    assert not due.ledger.deliveries.defer(old, wait_s=5, reason="x", sentence="x")
    assert not due.ledger.deliveries.hold(old, reason="x", sentence="x")
    assert not due.ledger.deliveries.release_claim(old)
    after = due.ask("SELECT * FROM delivery"), due.ask("SELECT * FROM delivery_item"), due.ask("SELECT * FROM event")
    assert before == after
    due.send_all(new)
    assert not due.ledger.deliveries.finish(old)
    assert due.ledger.deliveries.finish(new)


def test_a_heartbeat_keeps_the_lease(due: Scene) -> None:
    delivery = due.claim_delivery()
    for _ in range(6):
        due.clock.advance(LEASE_S / 3)
        assert due.ledger.deliveries.beat(delivery, lease_s=LEASE_S)
    assert due.ledger.deliveries.claim("pacs", "o", lease_s=LEASE_S) is None


def test_a_restart_makes_what_was_being_sent_due_and_keeps_what_was_acknowledged(due: Scene) -> None:
    delivery = due.claim_delivery()
    due.ledger.deliveries.acknowledge(delivery, due.ledger.deliveries.pending_items(delivery)[0], status=0)
    report = due.ledger.boots.begin(pid=2, host="h")
    assert report.returned_deliveries == 1
    again = due.claim_delivery()
    assert len(due.ledger.deliveries.pending_items(again)) == 2
    assert (again.attempts, again.failures) == (2, 0)


def test_each_peer_has_a_delivery_of_its_own(scene: Scene) -> None:
    scene.queued("pacs", "workstation")
    scene.finish_job()
    first, second = scene.claim_delivery("pacs"), scene.claim_delivery("workstation")
    scene.send_all(first)
    assert scene.ledger.deliveries.finish(first)
    assert len(scene.ledger.deliveries.pending_items(second)) == 3


def test_threads_claim_each_delivery_once(scene: Scene) -> None:
    for _ in range(16):
        scene.queued("pacs")
        scene.finish_job(images=1)
    start = threading.Barrier(4)

    def drain() -> list[DeliveryId]:
        start.wait(60)
        found = []
        while (delivery := scene.ledger.deliveries.claim("pacs", "o", lease_s=LEASE_S)) is not None:
            found.append(delivery.id)
        return found

    with ThreadPoolExecutor(4) as pool:
        claimed = [number for future in [pool.submit(drain) for _ in range(4)] for number in future.result(60)]
    assert sorted(claimed) == list(range(1, 17))


OBJECTIONS = ("a thin slice differs from the next one by 3 (limit 1)", "the grain is 2 (limit 1)")


def test_what_the_result_gate_objects_to_waits_for_the_operator_and_is_then_sent(scene: Scene) -> None:
    scene.queued("pacs", "workstation")
    job = scene.claim_job()
    assert scene.ledger.jobs.finish(job, replace(derived(2), objections=OBJECTIONS))
    assert scene.ask("SELECT state FROM job") == [("done",)]
    assert scene.ask("SELECT state, reason FROM delivery") == [("held", "gate")] * 2
    ((sentence,), _) = scene.ask("SELECT sentence FROM delivery")
    assert all(objection in str(sentence) for objection in OBJECTIONS)
    assert scene.ledger.deliveries.claim("pacs", "o", lease_s=LEASE_S) is None
    scene.ledger.operator.release_delivery(DeliveryId(1), "operator")
    delivery = scene.claim_delivery()
    for item in scene.ledger.deliveries.pending_items(delivery):
        scene.ledger.deliveries.acknowledge(delivery, item, status=0)
    assert scene.ledger.deliveries.finish(delivery) == "sent"
    assert scene.ask("SELECT state, reason FROM delivery") == [("sent", None), ("held", "gate")]
    ((notes,),) = scene.ask("SELECT notes FROM job")
    assert OBJECTIONS[0] in str(notes), "the job keeps what was found when nothing is held any more"


def test_the_gate_is_named_first_where_an_earlier_revision_holds_a_delivery_too(scene: Scene) -> None:
    series = scene.queued("pacs")
    scene.finish_job()
    scene.claim_delivery()
    scene.receive(series)
    scene.replan(series, 2, "pacs")
    assert scene.ledger.jobs.finish(scene.claim_job(), replace(derived(), objections=OBJECTIONS))
    ((state, reason, sentence),) = scene.ask("SELECT state, reason, sentence FROM delivery WHERE id = 2")
    assert (state, reason) == ("held", "gate")
    assert "A delivery of revision 1" in str(sentence)
