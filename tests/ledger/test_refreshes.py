"""A held result whose series is derived anew under the patient of the peer: what is planned, what is given up."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from dicomnode.errors import InputError
from dicomnode.ids import DeliveryId, JobId, SeriesId
from dicomnode.ledger.values import QuarantinedFile, QuarantineReason
from tests.ledger.scene import LEASE_S, Scene, plan_for

BY = "operator:ann (A. Archivist)"


def answer_of(series: SeriesId, sha256: str = "a" * 64) -> QuarantinedFile:
    """Return the row of the file in quarantine that holds the answer of the peer."""
    return QuarantinedFile(
        file=f"{sha256[:16]}.dcm", reason=QuarantineReason.PATIENT, sha256=sha256, peer="pacs", instance=None,
        kept_sha256=None, series=series,
    )  # fmt: skip


@pytest.fixture
def held(scene: Scene) -> tuple[Scene, SeriesId]:
    """Delivery 1 to pacs, held for its patient; delivery 2 to other, due."""
    series = scene.settled()
    assert scene.ledger.settling.plan(series, 1, plan_for("pacs", "other")) is not None
    scene.finish_job()
    claimed = scene.claim_delivery("pacs")
    assert scene.ledger.deliveries.hold(claimed, reason="identity", sentence="another patient")
    return scene, series


def refresh(scene: Scene, series: SeriesId, sha256: str = "a" * 64, delivery: int = 1) -> JobId:
    """A person's command."""
    return scene.ledger.refreshes.begin(DeliveryId(delivery), answer_of(series, sha256), BY, "corrected at the desk")


def test_the_job_pins_the_answer_and_the_old_result_is_never_sent(held: tuple[Scene, SeriesId]) -> None:
    scene, series = held
    made = refresh(scene, series)
    assert scene.ask("SELECT state, reason FROM delivery") == [("cancelled", "refreshed")] * 2
    assert scene.ledger.deliveries.claim("other", "o", lease_s=LEASE_S) is None
    for delivery in (1, 2):
        with pytest.raises(InputError, match=f"Job {made} derives the series anew .* never sent"):
            scene.ledger.operator.retry_delivery(DeliveryId(delivery), "operator")
        with pytest.raises(InputError, match="never sent"):
            scene.ledger.operator.send_delivery_to(DeliveryId(delivery), "third", "operator")
    (first, second) = [json.loads(str(row[0])) for row in scene.ask("SELECT parameters FROM job ORDER BY id")]
    assert "patient" not in first
    assert second["patient"] == "a" * 64
    assert second | {"utc_offset_min": None, "patient": None} == first | {"utc_offset_min": None, "patient": None}
    assert scene.ask("SELECT derivation_number FROM job") == [(1,), (2,)]
    assert scene.ledger.refreshes.file_of(series, "a" * 64) == f"{'a' * 16}.dcm"
    said = scene.ask("SELECT row_id, actor, detail FROM event WHERE kind = 'refreshed'")
    assert said == [(1, BY, f"job {made}: corrected at the desk")]


def test_the_new_result_goes_to_those_who_have_nothing_of_the_old_one(held: tuple[Scene, SeriesId]) -> None:
    scene, series = held
    claimed = scene.claim_delivery("other")
    scene.ledger.deliveries.acknowledge(claimed, scene.ledger.deliveries.pending_items(claimed)[0], status=0)
    refresh(scene, series)
    assert scene.states("delivery") == ["cancelled", "sending"]
    scene.finish_job()
    assert scene.ask("SELECT peer, state FROM delivery WHERE job_id = 2") == [("pacs", "due")]
    for item in scene.ledger.deliveries.pending_items(claimed):
        scene.ledger.deliveries.acknowledge(claimed, item, status=0)
    scene.ledger.deliveries.finish(claimed, committer=None)
    assert scene.states("delivery") == ["cancelled", "sent", "due"]


def test_a_second_refresh_has_to_wait_for_the_first_and_may_then_follow_it(held: tuple[Scene, SeriesId]) -> None:
    scene, series = held
    refresh(scene, series)
    with pytest.raises(InputError, match="only a held one"):
        refresh(scene, series)
    scene.finish_job()
    claimed = scene.claim_delivery("pacs")
    scene.ledger.deliveries.hold(claimed, reason="identity", sentence="another patient")
    refresh(scene, series, "b" * 64, delivery=claimed.id)
    scene.finish_job()
    assert scene.ask("SELECT state FROM delivery WHERE peer = 'pacs'") == [("cancelled",), ("cancelled",), ("due",)]


def test_what_is_being_judged_or_derived_anew_is_not_refreshed(held: tuple[Scene, SeriesId]) -> None:
    scene, series = held
    scene.ledger.operator.retry_series(series, "operator")
    with pytest.raises(InputError, match="being received or judged anew"):
        refresh(scene, series)
    scene.ledger.settling.plan(series, 1, plan_for("pacs", "other"))
    with pytest.raises(InputError, match="waits or runs"):
        refresh(scene, series)
    assert scene.ask("SELECT count(*) FROM quarantine") == [(0,)]
    assert scene.states("delivery") == ["held", "due"]


def test_a_peer_that_has_a_part_gets_the_rest_of_it(held: tuple[Scene, SeriesId]) -> None:
    scene, series = held
    scene.ledger.operator.release_delivery(DeliveryId(1), "operator")
    claimed = scene.claim_delivery("pacs")
    scene.ledger.deliveries.acknowledge(claimed, scene.ledger.deliveries.pending_items(claimed)[0], status=0)
    scene.ledger.deliveries.hold(claimed, reason="not_supported", sentence="no")
    with pytest.raises(InputError, match="has a part"):
        refresh(scene, series)


def test_a_new_verdict_derives_it_under_the_patient_of_its_source(held: tuple[Scene, SeriesId]) -> None:
    """The way back for a person who took the wrong patient."""
    scene, series = held
    refresh(scene, series)
    scene.ledger.operator.retry_series(series, "operator")
    scene.ledger.settling.plan(series, 1, plan_for("pacs", "other"))
    assert scene.states("job") == ["done", "cancelled", "queued"]
    scene.finish_job()
    assert scene.ask("SELECT peer, state FROM delivery WHERE job_id = 3 ORDER BY id") == [
        ("pacs", "due"), ("other", "due"),
    ]  # fmt: skip


@pytest.mark.parametrize("waits", ["queued", "held", "failed"])
def test_the_answer_stays_as_long_as_its_job_may_need_it_however_old_it_is(
    held: tuple[Scene, SeriesId], waits: str
) -> None:
    """Whoever mends what holds the job, a year later, finds the patient that was decided on."""
    scene, series = held
    refresh(scene, series)
    if waits == "held":
        assert scene.ledger.jobs.hold(scene.claim_job(), reason="gone", sentence="The model is not there.")
    while waits == "failed" and scene.states("job")[-1] != waits:
        scene.ledger.jobs.give_back(scene.claim_job(), detail="It ended.", counts=True)
        scene.clock.advance(LEASE_S)
    scene.clock.advance(timedelta(days=365).total_seconds())
    before = scene.clock.now() - timedelta(days=30)
    assert scene.states("job")[-1] == waits
    assert scene.ledger.removals.remove_old_set_aside(before) == []
    assert scene.ledger.refreshes.file_of(series, "a" * 64) is not None
    if waits == "held":
        scene.ledger.operator.release_series(series, "operator")
    if waits == "failed":
        scene.ledger.operator.cancel_series(series, "operator")
    else:
        assert scene.finish_job().planned.parameters.patient == "a" * 64
    assert scene.ledger.removals.remove_old_set_aside(before) == [f"{'a' * 16}.dcm"], "nothing needs it any more"
