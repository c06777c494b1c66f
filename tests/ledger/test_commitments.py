"""What the answers to commitment requests make of a delivery: proven, sent again, or held with its reason."""

from __future__ import annotations

import pytest

from dicomnode.ledger.commitments import RESEND_AFTER_S
from dicomnode.ledger.states import DeliveryState
from dicomnode.ledger.values import Commitment
from tests.ledger.scene import Scene

WAIT_S = 3600.0
A_DAY_S = 86_400.0


@pytest.fixture
def sent(scene: Scene) -> Scene:
    """A delivery of three images that is sent, and to be committed."""
    scene.queued("pacs")
    scene.committing(3)
    return scene


def asked(scene: Scene) -> Commitment:
    """The request that waits, once it is recorded as asked."""
    one = scene.ledger.commitments.next_one("pacs")
    assert one is not None
    assert scene.ledger.commitments.ask(one, "pacs", wait_s=WAIT_S)
    return one


def uids(one: Commitment) -> list[str]:
    return [item.sop_instance_uid for item in one.items]


def report(scene: Scene, one: Commitment, *failed: str, reason: int = 0x0112, peer: str = "pacs") -> bool:
    committed = [uid for uid in uids(one) if uid not in failed]
    return scene.ledger.commitments.take_report(
        one.transaction_uid, peer=peer, committed=committed, failed=dict.fromkeys(failed, reason)
    )


def standing(scene: Scene) -> tuple[object, ...]:
    ((*found,),) = scene.ask("SELECT state, proof, reason, resends FROM delivery")
    return tuple(found)


def send_again(scene: Scene) -> int:
    """Deliver what is pending; how many images that were."""
    scene.clock.advance(max(RESEND_AFTER_S))
    delivery = scene.claim_delivery()
    pending = len(scene.ledger.deliveries.pending_items(delivery))
    scene.send_all(delivery)
    assert scene.ledger.deliveries.finish(delivery, committer="pacs") is DeliveryState.SENT
    return pending


def test_only_what_waits_to_be_asked_is_asked_together_the_longest_first(sent: Scene) -> None:
    for _ in range(3):
        sent.clock.advance(1.0)
        sent.queued("pacs")
        sent.committing(1)
    first = asked(sent)
    waiting = sent.ledger.commitments.unasked("pacs", 9)
    assert [one.is_asked for one in waiting] == [False] * 3
    assert first.id not in {one.id for one in waiting}
    assert sorted(waiting, key=lambda one: one.created_at) == list(waiting)
    assert sent.ledger.commitments.unasked("pacs", 2) == waiting[:2]
    assert sent.ledger.commitments.unasked("other", 9) == ()
    sent.ledger.commitments.postpone(waiting[0], wait_s=WAIT_S)
    assert sent.ledger.commitments.unasked("pacs", 9) == waiting[1:]


def test_a_report_on_everything_is_the_strongest_proof(sent: Scene) -> None:
    one = asked(sent)
    assert report(sent, one)
    assert standing(sent) == ("sent", "committed", None, 0)
    assert sent.states("commitment") == ["committed"]
    assert sent.ledger.commitments.next_in("pacs") is None


def test_nobody_is_asked_where_no_peer_is_to_commit(scene: Scene) -> None:
    scene.queued("pacs")
    scene.finish_job(3)
    delivery = scene.claim_delivery()
    scene.send_all(delivery)
    assert scene.ledger.deliveries.finish(delivery) is DeliveryState.SENT
    assert scene.ledger.commitments.next_one("pacs") is None
    assert standing(scene) == ("sent", "acknowledged", None, 0)


def test_what_is_denied_and_only_that_is_sent_again_and_asked_for_under_a_new_uid(sent: Scene) -> None:
    first = asked(sent)
    lost = uids(first)[1]
    assert report(sent, first, lost)
    assert standing(sent) == ("due", None, "not_committed", 1)
    assert send_again(sent) == 1
    second = asked(sent)
    assert uids(second) == [lost]
    assert second.transaction_uid != first.transaction_uid
    assert report(sent, second)
    assert standing(sent)[:2] == ("sent", "committed")


def test_a_peer_that_never_has_it_is_not_sent_to_for_ever(sent: Scene) -> None:
    for _ in RESEND_AFTER_S:
        one = asked(sent)
        assert report(sent, one, uids(one)[0])
        assert send_again(sent) == 1
    one = asked(sent)
    assert report(sent, one, uids(one)[0])
    assert standing(sent)[:3] == ("held", None, "not_committed")
    ((sentence,),) = sent.ask("SELECT sentence FROM delivery")
    assert sentence == (
        "pacs acknowledged every image, but it does not commit to 1 of 3 images (1 x 0112, no such instance). "
        "They were sent again 3 times. Ask its administrator what its log says."
    )


def test_a_held_one_that_an_operator_retries_is_sent_again_and_has_all_its_tries(sent: Scene) -> None:
    one = asked(sent)
    assert report(sent, one, uids(one)[0], reason=0x0122)
    assert standing(sent)[:3] == ("held", None, "not_committed"), "sending it again cannot help"
    sent.ledger.operator.retry_delivery(one.delivery, "operator")
    assert send_again(sent) == 1
    assert standing(sent) == ("sent", "acknowledged", None, 0)


def test_a_query_after_the_wait_is_a_proof_and_a_late_report_a_better_one(sent: Scene) -> None:
    one = asked(sent)
    assert sent.ledger.commitments.next_one("pacs") is None
    assert sent.ledger.commitments.next_in("pacs") == WAIT_S
    sent.clock.advance(WAIT_S)
    waiting = sent.ledger.commitments.next_one("pacs")
    assert waiting is not None
    assert waiting.is_asked
    assert sent.ledger.commitments.queried(waiting, set(uids(one))) == 0
    assert standing(sent)[:2] == ("sent", "queried")
    sent.clock.advance(6 * A_DAY_S)
    assert report(sent, one)
    assert standing(sent)[:2] == ("sent", "committed")


def test_only_what_a_query_does_not_show_is_sent_again_and_the_old_request_still_counts(sent: Scene) -> None:
    one = asked(sent)
    assert sent.ledger.commitments.queried(one, set(uids(one)[:2])) == 1
    assert standing(sent) == ("due", None, "not_committed", 1)
    assert report(sent, one), "late, on two of three, since the third is pending"
    assert send_again(sent) == 1
    assert uids(asked(sent)) == uids(one)[2:]
    assert report(sent, one)
    assert standing(sent)[:2] == ("sent", "committed")


def test_a_denial_on_a_replaced_request_changes_nothing(sent: Scene) -> None:
    one = asked(sent)
    sent.ledger.boots.begin(pid=1, host="x")
    newer = asked(sent)
    assert newer.transaction_uid != one.transaction_uid
    assert report(sent, one, uids(one)[0])
    assert standing(sent)[:2] == ("sent", "acknowledged")
    assert report(sent, newer)
    assert standing(sent)[:2] == ("sent", "committed")


def test_a_report_in_two_parts_is_whole_with_the_second(sent: Scene) -> None:
    one = asked(sent)
    for part, proof in ((uids(one)[:1], "acknowledged"), (uids(one)[1:], "committed")):
        assert sent.ledger.commitments.take_report(one.transaction_uid, peer="pacs", committed=part, failed={})
        assert standing(sent)[:2] == ("sent", proof)


def test_a_report_twice_or_from_another_peer_is_noted_and_counts_once(sent: Scene) -> None:
    one = asked(sent)
    assert report(sent, one, peer="archive")
    assert report(sent, one, uids(one)[0], peer="pacs"), "what is committed is not taken back"
    assert standing(sent)[:2] == ("sent", "committed")
    assert sent.kinds("commitment", int(one.id)) == [
        "finish", "ask", "report_of_other", "commit", "report_repeated",
    ]  # fmt: skip


def test_a_report_on_a_request_that_nobody_made_is_unknown(sent: Scene) -> None:
    waiting = sent.ledger.commitments.next_one("pacs")
    assert waiting is not None
    assert not report(sent, waiting), "it was not asked yet"
    assert not sent.ledger.commitments.take_report("1.2.3", peer="pacs", committed=uids(waiting), failed={})
    assert standing(sent)[:2] == ("sent", "acknowledged")


def test_a_restart_asks_anew_for_what_is_open_and_for_no_longer_than_a_week(sent: Scene) -> None:
    asked(sent)
    assert sent.ledger.boots.begin(pid=1, host="x").renewed_commitments == 1
    assert sent.states("commitment") == ["replaced", "wanted"]
    assert sent.ledger.boots.begin(pid=2, host="x").renewed_commitments == 0, "it was not asked since"
    asked(sent)
    sent.clock.advance(8 * A_DAY_S)
    assert sent.ledger.boots.begin(pid=3, host="x").renewed_commitments == 0


def test_a_peer_out_of_reach_is_asked_later_and_one_without_the_service_never(sent: Scene) -> None:
    one = sent.ledger.commitments.next_one("pacs")
    assert one is not None
    sent.ledger.commitments.postpone(one, wait_s=60)
    assert sent.ledger.commitments.next_in("pacs") == 60
    sent.clock.advance(60)
    again = sent.ledger.commitments.next_one("pacs")
    assert again is not None
    assert again.failures == 1
    sent.ledger.commitments.give_up(again, "neither commitment nor C-FIND")
    assert sent.ledger.commitments.next_in("pacs") is None
    assert standing(sent)[:2] == ("sent", "acknowledged")


def test_what_the_settings_do_not_ask_for_any_more_is_given_up(sent: Scene) -> None:
    assert sent.ledger.commitments.give_up_all({"pacs", "other"}) == 0
    assert sent.ledger.commitments.give_up_all({"other"}) == 1
    assert sent.states("commitment") == ["unproven"]
