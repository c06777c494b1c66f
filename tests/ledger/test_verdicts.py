"""Settling, verdicts, and what the operator's *retry* and *release* of a series do."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dicomnode.errors import InputError
from dicomnode.ids import SeriesId
from tests.ledger.scene import Scene, derived, plan_for


def test_a_series_settles_once(scene: Scene) -> None:
    series = scene.receive()
    assert scene.ledger.settling.settle(series, 1, note="quiet for 30 s")
    assert not scene.ledger.settling.settle(series, 1, note="quiet for 30 s")
    assert [(line.id, line.revision) for line in scene.ledger.settling.settled()] == [(series, 1)]


def test_a_series_that_was_heard_of_since_it_was_judged_quiet_does_not_settle(scene: Scene) -> None:
    series = scene.receive()
    (before,) = scene.ledger.settling.receiving()
    scene.clock.advance(1)
    scene.receive(series, images=1)
    assert not scene.ledger.settling.settle(series, 1, note="quiet", seen_at=before.last_at)
    (after,) = scene.ledger.settling.receiving()
    assert scene.ledger.settling.settle(series, 1, note="quiet", seen_at=after.last_at)


def test_a_stale_revision_does_not_settle(scene: Scene) -> None:
    series = scene.settled()
    scene.receive(series, images=1)
    assert not scene.ledger.settling.settle(series, 1, note="quiet")


def test_a_verdict_is_given_once(scene: Scene) -> None:
    series = scene.settled()
    assert scene.ledger.settling.keep(series, 1, reason="gaps", sentence="Gaps.", notes=["TR varies"])
    assert not scene.ledger.settling.keep(series, 1, reason="gaps", sentence="Gaps.")
    assert scene.ledger.settling.plan(series, 1, plan_for()) is None
    assert scene.ledger.settling.settled() == []


def test_a_planned_series_has_a_job_with_everything_pinned(scene: Scene) -> None:
    series = scene.settled()
    planned = plan_for("pacs", "workstation")
    number = scene.ledger.settling.plan(series, 1, planned, notes=["SliceThickness is missing"])
    job = scene.claim_job()
    assert (job.id, job.series, job.revision) == (number, series, 1)
    assert job.planned == planned
    assert (job.derivation_number, job.attempts, job.created_at) == (1, 0, scene.clock.now())


def test_retry_judges_a_kept_series_again(scene: Scene) -> None:
    series = scene.settled()
    scene.ledger.settling.keep(series, 1, reason="no_rule", sentence="No rule of the settings applies to this series.")
    scene.ledger.operator.retry_series(series, "operator")
    assert [line.id for line in scene.ledger.settling.settled()] == [series]
    assert scene.ledger.settling.plan(series, 1, plan_for("pacs")) is not None
    assert scene.ask("SELECT actor FROM event WHERE kind = 'retry'") == [("operator",)]


@pytest.mark.parametrize("state", ["held", "failed"])
def test_retry_queues_a_stuck_job_anew_with_all_its_attempts(scene: Scene, state: str) -> None:
    series = scene.queued("pacs")
    for _ in range(2):
        scene.ledger.jobs.give_back(scene.claim_job(), detail="died", counts=True)
    first = scene.claim_job()
    if state == "held":
        scene.ledger.jobs.hold(first, reason="input", sentence="no pixels")
    else:
        assert scene.ledger.jobs.give_back(first, detail="died", counts=True) == "failed"
    scene.ledger.operator.retry_series(series, "operator")
    assert scene.ledger.settling.plan(series, 1, plan_for("pacs")) == first.id
    again = scene.claim_job()
    assert (again.id, again.attempts, again.output_series) == (first.id, 0, first.output_series)
    assert again.lease_token == first.lease_token + 1


def test_retry_takes_the_peers_of_the_rule_as_it_is_now(scene: Scene) -> None:
    series = scene.queued("pacs")
    scene.ledger.jobs.hold(scene.claim_job(), reason="input", sentence="x")
    scene.ledger.operator.retry_series(series, "operator")
    scene.ledger.settling.plan(series, 1, plan_for("pacs", "workstation"))
    assert scene.claim_job().planned.deliver_to == ("pacs", "workstation")


def test_retry_after_done_makes_the_next_derivation(scene: Scene) -> None:
    series = scene.queued("pacs")
    first = scene.finish_job()
    scene.ledger.operator.retry_series(series, "operator")
    second = scene.ledger.settling.plan(series, 1, plan_for("pacs"))
    job = scene.claim_job()
    assert job.id == second != first.id
    assert job.derivation_number == 2
    assert job.output_series != first.output_series


def test_a_further_derivation_gives_up_the_earlier_one_that_reached_no_peer(scene: Scene) -> None:
    series = scene.queued("pacs")
    scene.finish_job()
    scene.ledger.operator.retry_series(series, "operator")
    scene.ledger.settling.plan(series, 1, plan_for("pacs"))
    assert scene.states("delivery") == ["due"]
    scene.finish_job()
    assert scene.states("delivery") == ["cancelled", "due"]


def test_a_further_derivation_of_a_delivered_revision_goes_out_since_the_operator_asked(scene: Scene) -> None:
    series = scene.queued("pacs")
    scene.finish_job()
    delivery = scene.claim_delivery()
    scene.send_all(delivery)
    scene.ledger.deliveries.finish(delivery)
    scene.ledger.operator.retry_series(series, "operator")
    scene.ledger.settling.plan(series, 1, plan_for("pacs"))
    scene.finish_job()
    assert scene.states("delivery") == ["sent", "due"]


@pytest.mark.parametrize("state", ["queued", "held", "failed"])
def test_a_new_verdict_that_plans_something_else_cancels_the_old_job(scene: Scene, state: str) -> None:
    series = scene.queued("pacs")
    if state == "held":
        scene.ledger.jobs.hold(scene.claim_job(), reason="input", sentence="x")
    if state == "failed":
        for _ in range(3):
            scene.ledger.jobs.give_back(scene.claim_job(), detail="died", counts=True)
    assert scene.states("job") == [state]
    scene.ledger.operator.retry_series(series, "operator")
    scene.ledger.settling.plan(series, 1, plan_for("pacs", digest_of_model="d2"))
    assert scene.states("job") == ["cancelled", "queued"]
    assert scene.claim_job().derivation_number == 1


def test_a_new_verdict_that_keeps_cancels_the_old_job(scene: Scene) -> None:
    series = scene.queued("pacs")
    scene.ledger.operator.retry_series(series, "operator")
    assert scene.ledger.settling.keep(
        series, 1, reason="no_rule", sentence="No rule of the settings applies to this series."
    )
    assert scene.states("job") == ["cancelled"]
    scene.ledger.operator.retry_series(series, "operator")
    scene.ledger.settling.plan(series, 1, plan_for("pacs"))
    assert scene.states("job") == ["cancelled", "queued"]


def test_a_queued_job_stays_when_the_new_verdict_is_the_old_one(scene: Scene) -> None:
    series = scene.queued("pacs")
    scene.ledger.operator.retry_series(series, "operator")
    assert scene.ledger.settling.plan(series, 1, plan_for("pacs")) == 1
    assert scene.states("job") == ["queued"]


def test_a_job_that_was_claimed_before_the_new_verdict_is_its_answer(scene: Scene) -> None:
    series = scene.queued("pacs")
    scene.ledger.operator.retry_series(series, "operator")
    job = scene.claim_job()
    assert scene.ledger.settling.plan(series, 1, plan_for("pacs", digest_of_model="d2")) == job.id
    assert scene.ledger.jobs.finish(job, derived())
    assert scene.states("delivery") == ["due"]


def test_retry_is_refused_in_words_where_it_means_nothing(scene: Scene) -> None:
    with pytest.raises(InputError, match="no series 99"):
        scene.ledger.operator.retry_series(SeriesId(99), "operator")
    series = scene.receive()
    with pytest.raises(InputError, match="still being received"):
        scene.ledger.operator.retry_series(series, "operator")
    scene.ledger.settling.settle(series, 1, note="quiet")
    with pytest.raises(InputError, match="waits for its verdict"):
        scene.ledger.operator.retry_series(series, "operator")
    scene.ledger.settling.plan(series, 1, plan_for())
    job = scene.claim_job()
    with pytest.raises(InputError, match="is running"):
        scene.ledger.operator.retry_series(series, "operator")
    with pytest.raises(InputError, match="made by this node"):
        scene.ledger.operator.retry_series(job.output_series, "operator")
    assert scene.state("series", series) == "planned"


def test_release_lets_a_held_job_go_on_as_it_is(scene: Scene) -> None:
    series = scene.queued("pacs")
    scene.ledger.jobs.give_back(scene.claim_job(), detail="died", counts=True)
    scene.ledger.jobs.hold(scene.claim_job(), reason="model", sentence="the model is missing")
    scene.ledger.operator.release_series(series, "operator")
    job = scene.claim_job()
    assert job.attempts == 1
    assert scene.state("series", series) == "planned"


def test_release_without_a_held_job_is_refused_in_words(scene: Scene) -> None:
    series = scene.queued()
    with pytest.raises(InputError, match="no held job"):
        scene.ledger.operator.release_series(series, "operator")
    with pytest.raises(InputError, match="no series 99"):
        scene.ledger.operator.release_series(SeriesId(99), "operator")


def test_moments_come_back_as_they_went_in(scene: Scene) -> None:
    scene.clock.advance(0.000123)
    scene.receive(images=1)
    (line,) = scene.ledger.settling.receiving()
    assert line.first_at == scene.clock.now()
    assert line.first_at.utcoffset() == timedelta(0)
