"""What happens with a result: sent, held for a person's review, never sent, or sent as one more revision."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest

from dicomnode.errors import InputError
from dicomnode.ids import DeliveryId, SeriesId
from dicomnode.ledger.queries import open_reader
from dicomnode.ledger.values import Late, Release
from tests.ledger.scene import LEASE_S, Scene, derived, plan_for


def planned(scene: Scene, *peers: str, release: Release = Release.AUTO, late: Late = Late.HOLD) -> SeriesId:
    """A series with a job whose rule says what happens with the result."""
    series = scene.settled()
    assert scene.ledger.settling.plan(series, 1, replace(plan_for(*peers), release=release, late=late)) is not None
    return series


def derive_again(scene: Scene, series: SeriesId, release: Release = Release.REVIEW) -> None:
    """An operator has the series derived anew."""
    scene.ledger.operator.retry_series(series, "operator")
    assert scene.ledger.settling.plan(series, 1, replace(plan_for("pacs", "other"), release=release)) is not None
    scene.finish_job()


@pytest.fixture
def reviewed(scene: Scene) -> tuple[Scene, SeriesId]:
    """Deliveries 1 and 2, to pacs and other, that wait for review."""
    series = planned(scene, "pacs", "other", release=Release.REVIEW)
    scene.finish_job()
    return scene, series


def test_nothing_leaves_under_review_before_a_person_accepts_it(reviewed: tuple[Scene, SeriesId]) -> None:
    scene, _ = reviewed
    assert scene.ask("SELECT state, reason FROM delivery") == [("held", "review")] * 2
    assert scene.ledger.deliveries.claim("pacs", "o", lease_s=LEASE_S) is None
    scene.ledger.operator.release_delivery(DeliveryId(1), "operator:ann (A. Reader)", note="sharp")
    assert scene.claim_delivery("pacs").id == 1
    assert scene.ledger.deliveries.claim("other", "o", lease_s=LEASE_S) is None
    said = scene.ask("SELECT actor, detail FROM event WHERE table_name = 'delivery' AND kind = 'release'")
    assert said == [("operator:ann (A. Reader)", "sharp")]


def test_no_other_command_sends_what_waits_for_review(reviewed: tuple[Scene, SeriesId]) -> None:
    scene, _ = reviewed
    with pytest.raises(InputError, match="waits for review"):
        scene.ledger.operator.retry_delivery(DeliveryId(1), "operator")
    with pytest.raises(InputError, match="waits for review"):
        scene.ledger.operator.send_delivery_to(DeliveryId(1), "third", "operator")
    assert scene.states("delivery") == ["held", "held"]


def test_releasing_the_series_for_what_was_set_aside_accepts_no_result(reviewed: tuple[Scene, SeriesId]) -> None:
    scene, series = reviewed
    with pytest.raises(InputError):
        scene.ledger.operator.release_series(series, "operator")
    assert scene.states("delivery") == ["held", "held"]


def test_a_rejection_needs_a_reason_and_records_it_with_who(reviewed: tuple[Scene, SeriesId]) -> None:
    scene, series = reviewed
    with pytest.raises(InputError, match="reject"):
        scene.ledger.operator.cancel_delivery(DeliveryId(1), "operator")
    scene.ledger.operator.cancel_delivery(DeliveryId(1), "operator:ann", note="blurred")
    assert scene.ask("SELECT state, reason FROM delivery WHERE id = 1") == [("cancelled", "not_accepted")]
    assert ("operator:ann", "blurred") in scene.ask("SELECT actor, detail FROM event WHERE kind = 'cancel'")
    with closing(open_reader(f"sqlite:///{scene.path}")) as reader:
        told = " ".join(reader.series_explain(series).sentences)
    assert "A person rejected the result: blurred" in told
    assert "A person reviews each result of this rule" in told


def test_a_rejected_revision_is_not_sent_after_a_new_derivation(reviewed: tuple[Scene, SeriesId]) -> None:
    scene, series = reviewed
    scene.ledger.operator.cancel_delivery(DeliveryId(1), "operator:ann", note="blurred")
    derive_again(scene, series, Release.AUTO)
    assert scene.ask("SELECT peer, state, reason FROM delivery WHERE id > 2 ORDER BY id") == [
        ("pacs", "cancelled", "not_accepted"),
        ("other", "due", None),
    ]
    derive_again(scene, series)
    assert scene.ask("SELECT peer, state, reason FROM delivery WHERE id > 4 ORDER BY id") == [
        ("pacs", "cancelled", "not_accepted"),
        ("other", "held", "review"),
    ]


def test_a_rejection_is_taken_back_by_a_retry(reviewed: tuple[Scene, SeriesId]) -> None:
    scene, series = reviewed
    scene.ledger.operator.cancel_delivery(DeliveryId(1), "operator:ann", note="blurred")
    derive_again(scene, series)
    with pytest.raises(InputError, match="newer"):
        scene.ledger.operator.retry_delivery(DeliveryId(1), "operator")
    scene.ledger.operator.retry_delivery(DeliveryId(3), "operator")
    assert scene.claim_delivery("pacs").id == 3


def test_a_rejected_revision_says_nothing_of_the_next_one(reviewed: tuple[Scene, SeriesId]) -> None:
    scene, series = reviewed
    scene.ledger.operator.cancel_delivery(DeliveryId(1), "operator:ann", note="a slice is missing")
    scene.receive(series, images=1)
    assert scene.ledger.settling.settle(series, 2, note="quiet")
    assert scene.ledger.settling.plan(series, 2, replace(plan_for("pacs"), release=Release.REVIEW)) is not None
    scene.finish_job()
    assert scene.ask("SELECT state, reason FROM delivery WHERE id = 3") == [("held", "review")]


def test_an_association_that_was_rejected_is_no_rejection_of_the_result(scene: Scene) -> None:
    series = planned(scene, "pacs")
    scene.finish_job()
    scene.ledger.deliveries.hold(scene.claim_delivery(), reason="rejected", sentence="The peer rejected it.")
    derive_again(scene, series, Release.AUTO)
    assert scene.ask("SELECT peer, state FROM delivery ORDER BY id") == [
        ("pacs", "cancelled"),
        ("pacs", "due"),
        ("other", "due"),
    ]


def test_the_gate_is_named_before_the_review_and_one_word_decides_both(scene: Scene) -> None:
    planned(scene, "pacs", release=Release.REVIEW)
    assert scene.ledger.jobs.finish(scene.claim_job(), replace(derived(), objections=("a figure is beyond its limit",)))
    ((reason, sentence),) = scene.ask("SELECT reason, sentence FROM delivery")
    assert reason == "gate"
    assert "review" in str(sentence)
    with pytest.raises(InputError, match="waits for review"):
        scene.ledger.operator.retry_delivery(DeliveryId(1), "operator")
    with pytest.raises(InputError, match="reject"):
        scene.ledger.operator.cancel_delivery(DeliveryId(1), "operator")
    scene.ledger.operator.release_delivery(DeliveryId(1), "operator")
    assert scene.states("delivery") == ["due"]


def test_the_review_is_named_before_an_earlier_revision(reviewed: tuple[Scene, SeriesId]) -> None:
    scene, series = reviewed
    scene.ledger.operator.release_delivery(DeliveryId(1), "operator")
    scene.claim_delivery("pacs")
    scene.receive(series, images=1)
    assert scene.ledger.settling.settle(series, 2, note="quiet")
    assert scene.ledger.settling.plan(series, 2, replace(plan_for("pacs"), release=Release.REVIEW)) is not None
    scene.finish_job()
    ((reason, sentence),) = scene.ask("SELECT reason, sentence FROM delivery WHERE id = 3")
    assert reason == "review"
    assert "A delivery of revision 1 of this series had begun" in str(sentence)


def test_an_accepted_delivery_that_is_held_again_is_cancelled_without_a_rejection(
    reviewed: tuple[Scene, SeriesId],
) -> None:
    scene, _ = reviewed
    scene.ledger.operator.release_delivery(DeliveryId(1), "operator")
    scene.ledger.deliveries.hold(scene.claim_delivery("pacs"), reason="no_context", sentence="It takes no MR.")
    scene.ledger.operator.cancel_delivery(DeliveryId(1), "operator")
    assert scene.ask("SELECT state, reason FROM delivery WHERE id = 1") == [("cancelled", "operator")]


def test_a_shadow_is_derived_and_measured_and_never_sent(scene: Scene) -> None:
    series = planned(scene, "pacs", release=Release.SHADOW)
    assert scene.ledger.jobs.finish(scene.claim_job(), replace(derived(), objections=("a figure is beyond its limit",)))
    assert scene.ask("SELECT count(*) FROM delivery") == [(0,)]
    assert scene.states("job") == ["done"]
    with closing(open_reader(f"sqlite:///{scene.path}")) as reader:
        told = reader.series_explain(series)
        week = reader.week(scene.clock.now())
        waiting = reader.waiting()
    assert any("never sent" in sentence for sentence in told.sentences)
    assert any("a figure is beyond its limit" in note for note in told.notes)
    assert (week.derived, week.shadow, waiting) == (1, 1, [])


def test_a_rule_that_leaves_the_shadow_sends_the_next_derivation(scene: Scene) -> None:
    series = planned(scene, "pacs", release=Release.SHADOW)
    scene.ledger.operator.retry_series(series, "operator")
    assert scene.ledger.settling.plan(series, 1, plan_for("pacs")) is not None
    scene.finish_job()
    assert scene.states("delivery") == ["due"], "the job had not run: it takes the rule of now"


def test_a_later_revision_is_sent_without_asking_where_the_settings_say_so(scene: Scene) -> None:
    series = planned(scene, "pacs")
    scene.finish_job()
    scene.claim_delivery()
    scene.receive(series, images=1)
    assert scene.ledger.settling.settle(series, 2, note="quiet")
    assert scene.ledger.settling.plan(series, 2, replace(plan_for("pacs"), late=Late.NEW_REVISION)) is not None
    scene.finish_job()
    assert scene.states("delivery") == ["sending", "due"]
