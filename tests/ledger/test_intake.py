"""What comes in: numbers, instances, copies, quarrels, late ones."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dicomnode.ids import DeliveryId, SeriesId, digest
from dicomnode.ledger.values import QuarantinedFile, QuarantineReason, StoreOutcome
from tests.ledger.scene import IMPLICIT, LEASE_S, Scene, derived, new_uid, plan_for, stored


def test_a_series_has_one_number_for_ever(scene: Scene) -> None:
    uid = new_uid()
    first = scene.ledger.intake.series_for(uid)
    assert scene.ledger.intake.series_for(uid) == first
    assert scene.ledger.intake.series_for(new_uid()) != first


def test_associations_that_open_one_series_at_once_get_one_number(scene: Scene) -> None:
    uids = [new_uid() for _ in range(5)]
    start = threading.Barrier(8)

    def open_all() -> list[SeriesId]:
        start.wait(60)
        return [scene.ledger.intake.series_for(uid) for uid in uids]

    with ThreadPoolExecutor(8) as pool:
        numbers = [future.result(30) for future in [pool.submit(open_all) for _ in range(8)]]
    assert all(one == numbers[0] for one in numbers)


def test_a_number_without_instances_never_settles(scene: Scene) -> None:
    series = scene.ledger.intake.series_for(new_uid())
    scene.ledger.intake.mark_aborted([series])
    assert scene.ledger.settling.receiving() == []
    assert not scene.ledger.settling.settle(series, 1, note="quiet")
    assert scene.kinds("series", series) == ["number"]


def test_one_batch_tells_new_copies_quarrels_and_other_encodings_apart(scene: Scene) -> None:
    series = scene.ledger.intake.series_for(new_uid())
    uid = new_uid()
    first = stored(series, uid=uid)
    batch = [
        first,
        stored(series, uid=uid),
        stored(series, uid=uid, content="other pixels"),
        stored(series, uid=uid, content="the same pixels, implicit", syntax=IMPLICIT),
        stored(series),
    ]
    assert scene.ledger.intake.accept(batch) == [
        StoreOutcome.STORED,
        StoreOutcome.DUPLICATE,
        StoreOutcome.CONFLICT,
        StoreOutcome.OTHER_ENCODING,
        StoreOutcome.STORED,
    ]
    assert scene.kinds("instance", first.id) == ["duplicate", "conflict", "other_encoding"]
    assert scene.ask("SELECT file, reason, series_id FROM quarantine ORDER BY id") == [
        (Path(batch[2].file).name, "conflict", series),
        (Path(batch[3].file).name, "other_encoding", series),
    ]
    assert len(scene.ledger.settling.instances_of(series, 1)) == 2


def test_the_same_file_handed_in_again_after_a_commit_in_doubt_is_stored_not_a_duplicate(scene: Scene) -> None:
    """A receiver deletes the file of a duplicate: here it is the very file of the row."""
    series = scene.ledger.intake.series_for(new_uid())
    one = stored(series)
    assert scene.ledger.intake.accept([one]) == [StoreOutcome.STORED]
    assert scene.ledger.intake.accept([one]) == [StoreOutcome.STORED]
    assert scene.ledger.upkeep.files_in(str(series)) == {one.file}


def test_a_batch_is_accepted_whole_or_not_at_all(scene: Scene) -> None:
    series = scene.ledger.intake.series_for(new_uid())
    with pytest.raises(Exception, match=r"constraint|No row"):
        scene.ledger.intake.accept([stored(series), stored(type(series)(4711))])
    assert scene.ledger.upkeep.files_in(str(series)) == set()


def test_what_we_derived_is_known_when_it_comes_back(scene: Scene) -> None:
    scene.queued()
    job = scene.claim_job()
    made = derived(1)
    scene.ledger.jobs.finish(job, made)
    back = stored(job.output_series, uid=made.instances[0].sop_instance_uid, content="re-encoded", syntax=IMPLICIT)
    assert scene.ledger.intake.accept([back]) == [StoreOutcome.OWN_OUTPUT]
    known = scene.ledger.intake.find_instance(made.instances[0].sop_instance_uid)
    assert known is not None
    assert known.is_derived
    assert scene.state("series", job.output_series) == "kept"


def test_a_foreign_object_under_the_uid_of_a_derived_series_does_not_open_it_again(scene: Scene) -> None:
    """As from a PACS that gives objects UIDs of its own."""
    scene.queued()
    scene.finish_job()
    ((number,),) = scene.ask("SELECT id FROM series WHERE origin = 'derived'")
    assert isinstance(number, int)
    assert scene.ledger.intake.accept([stored(SeriesId(number))]) == [StoreOutcome.OWN_OUTPUT]
    assert scene.ask("SELECT state, revision FROM series WHERE id = ?", number) == [("kept", 1)]
    assert "own_output" in scene.kinds("series", number)


def test_an_unknown_uid_is_not_found(scene: Scene) -> None:
    assert scene.ledger.intake.find_instance(new_uid()) is None


def test_a_receiving_series_says_when_it_was_last_heard_of(scene: Scene) -> None:
    began = scene.clock.now()
    series = scene.receive(images=2)
    scene.clock.advance(7)
    scene.receive(series, images=1)
    (line,) = scene.ledger.settling.receiving()
    assert (line.id, line.revision, line.instances, line.aborted) == (series, 1, 3, False)
    assert (line.first_at, line.last_at) == (began, scene.clock.now())


def test_a_lost_association_is_remembered_until_its_sender_is_back(scene: Scene) -> None:
    series = scene.ledger.intake.series_for(new_uid())
    one = stored(series)
    scene.ledger.intake.accept([one])
    scene.ledger.intake.mark_aborted([series])
    assert scene.ledger.settling.receiving()[0].aborted
    scene.ledger.intake.accept(
        [stored(series, uid=one.sop_instance_uid)]
    )  # a copy: it begins again from the first slice
    assert not scene.ledger.settling.receiving()[0].aborted
    assert "aborted" in scene.kinds("series", series)


def test_an_abort_after_the_series_settled_changes_nothing(scene: Scene) -> None:
    series = scene.settled()
    scene.ledger.intake.mark_aborted([series])
    assert scene.ask("SELECT aborted FROM series") == [(0,)]


def test_a_late_instance_before_the_verdict_opens_the_next_revision(scene: Scene) -> None:
    series = scene.settled(images=5)
    scene.receive(series, images=1)
    assert scene.state("series", series) == "receiving"
    assert len(scene.ledger.settling.instances_of(series, 1)) == 5
    assert len(scene.ledger.settling.instances_of(series, 2)) == 6
    assert not scene.ledger.settling.keep(series, 1, reason="gaps", sentence="the verdict comes too late")


def test_a_whole_late_batch_is_one_revision(scene: Scene) -> None:
    series = scene.settled()
    scene.receive(series, images=4)
    (line,) = scene.ledger.settling.receiving()
    assert (line.revision, line.instances) == (2, 9)
    assert len(scene.ledger.settling.instances_of(series, 2)) == 9


def test_a_copy_is_not_late(scene: Scene) -> None:
    series = scene.ledger.intake.series_for(new_uid())
    one = stored(series)
    scene.ledger.intake.accept([one])
    scene.ledger.settling.settle(series, 1, note="quiet")
    assert scene.ledger.intake.accept([stored(series, uid=one.sop_instance_uid)]) == [StoreOutcome.DUPLICATE]
    assert scene.state("series", series) == "settled"


def test_a_late_instance_forgets_the_verdict_on_the_older_revision(scene: Scene) -> None:
    series = scene.settled()
    scene.ledger.settling.keep(series, 1, reason="missing", sentence="1 slice missing", alert=True, notes=["a note"])
    scene.receive(series, images=1)
    assert scene.ask("SELECT reason, sentence, alert, notes FROM series") == [(None, "", 0, "[]")]


@pytest.mark.parametrize("state", ["queued", "held"])
def test_a_late_instance_supersedes_a_job_that_has_not_begun(scene: Scene, state: str) -> None:
    series = scene.queued("pacs")
    if state == "held":
        scene.ledger.jobs.hold(scene.claim_job(), reason="input", sentence="no pixels")
    scene.receive(series, images=1)
    assert scene.states("job") == ["superseded"]
    assert scene.ledger.jobs.claim("o", lease_s=60) is None


def test_a_job_that_runs_when_a_late_instance_comes_is_finished_but_not_delivered(scene: Scene) -> None:
    series = scene.queued("pacs")
    job = scene.claim_job()
    scene.receive(series, images=1)
    assert scene.ledger.jobs.beat(job, lease_s=LEASE_S)
    assert scene.ledger.jobs.finish(job, derived())
    assert scene.states("job") == ["done"]
    assert scene.states("delivery") == []
    assert "not_delivered" in scene.kinds("job", job.id)


def test_the_next_revision_counts_the_derivation_that_still_runs(scene: Scene) -> None:
    """Both end as series at a viewer, which sorts them by a Series Number made of the derivation number."""
    series = scene.queued("pacs")
    first = scene.claim_job()
    scene.receive(series, images=1)
    scene.replan(series, 2, "pacs")
    assert (first.derivation_number, scene.claim_job().derivation_number) == (1, 2)


@pytest.mark.parametrize("how", ["returned", "held", "lease lost", "restart"])
def test_a_job_of_an_old_revision_that_comes_back_is_superseded(scene: Scene, how: str) -> None:
    series = scene.queued("pacs")
    job = scene.claim_job()
    scene.receive(series, images=1)
    if how == "returned":
        assert scene.ledger.jobs.give_back(job, detail="the child died", counts=True) == "superseded"
    elif how == "held":
        assert scene.ledger.jobs.hold(job, reason="input", sentence="no pixels")
    elif how == "lease lost":
        scene.clock.advance(61)
        assert scene.ledger.jobs.claim("o", lease_s=60) is None
    else:
        scene.ledger.boots.begin(pid=2, host="h")
    assert scene.states("job") == ["superseded"]


def test_before_its_delivery_began_a_late_instance_makes_one_series_at_the_pacs(scene: Scene) -> None:
    series = scene.queued("pacs")
    scene.finish_job()
    scene.receive(series, images=1)
    assert scene.states("delivery") == ["cancelled"]
    scene.replan(series, 2, "pacs")
    scene.finish_job()
    assert scene.states("delivery") == ["cancelled", "due"]


def test_during_its_delivery_a_late_instance_lets_it_finish_and_holds_the_next(scene: Scene) -> None:
    series = scene.queued("pacs")
    scene.finish_job()
    delivery = scene.claim_delivery()
    scene.receive(series, images=1)
    scene.replan(series, 2, "pacs")
    scene.finish_job()
    assert scene.states("delivery") == ["sending", "held"]
    scene.send_all(delivery)
    assert scene.ledger.deliveries.finish(delivery)
    assert scene.states("delivery") == ["sent", "held"]
    assert scene.ask("SELECT reason FROM delivery WHERE id = 2") == [("earlier_revision",)]


def test_after_its_delivery_a_late_instance_makes_a_held_one(scene: Scene) -> None:
    series = scene.queued("pacs")
    scene.finish_job()
    delivery = scene.claim_delivery()
    scene.send_all(delivery)
    scene.ledger.deliveries.finish(delivery)
    scene.receive(series, images=1)
    scene.replan(series, 2, "pacs")
    scene.finish_job()
    assert scene.states("delivery") == ["sent", "held"]
    assert scene.ledger.deliveries.claim("pacs", "o", lease_s=60) is None
    scene.ledger.operator.release_delivery(DeliveryId(2), "operator")
    assert scene.claim_delivery().id == 2


def test_a_delivery_that_waits_to_resume_is_finished_since_half_a_series_is_worse(scene: Scene) -> None:
    series = scene.queued("pacs")
    scene.finish_job()
    delivery = scene.claim_delivery()
    scene.ledger.deliveries.acknowledge(delivery, scene.ledger.deliveries.pending_items(delivery)[0], status=0)
    scene.ledger.deliveries.defer(delivery, wait_s=5, reason="no_answer", sentence="pacs did not answer.")
    scene.receive(series, images=1)
    assert scene.states("delivery") == ["due"]


def test_one_begun_delivery_holds_the_next_revision_at_every_peer(scene: Scene) -> None:
    series = scene.queued("pacs", "workstation")
    scene.finish_job()
    scene.ledger.deliveries.release_claim(scene.claim_delivery("pacs"))
    scene.receive(series, images=1)
    assert scene.states("delivery") == ["cancelled", "cancelled"]
    scene.replan(series, 2, "pacs", "workstation")
    scene.finish_job()
    assert scene.states("delivery")[2:] == ["held", "held"]


def test_a_third_revision_gives_up_the_held_second(scene: Scene) -> None:
    series = scene.queued("pacs")
    scene.finish_job()
    delivery = scene.claim_delivery()
    scene.send_all(delivery)
    scene.ledger.deliveries.finish(delivery)
    for revision in (2, 3):
        scene.receive(series, images=1)
        scene.replan(series, revision, "pacs")
        scene.finish_job()
    assert scene.states("delivery") == ["sent", "cancelled", "held"]
    assert [number for (number,) in scene.ask("SELECT derivation_number FROM job ORDER BY id")] == [1, 2, 3]


def test_a_late_instance_names_its_sender_in_the_events(scene: Scene) -> None:
    series = scene.settled()
    scene.ledger.settling.plan(series, 1, plan_for("pacs"))
    scene.ledger.intake.accept([stored(series, peer="mr2")])
    assert scene.ask("SELECT actor, detail FROM event WHERE kind = 'late_instance'") == [("mr2", "revision 2")]
    assert scene.ask("SELECT actor FROM event WHERE kind = 'supersede'") == [("mr2",)]


def test_a_quarrel_is_kept_with_both_digests(scene: Scene) -> None:
    series = scene.ledger.intake.series_for(new_uid())
    one = stored(series)
    scene.ledger.intake.accept([one])
    number = scene.ledger.quarantine.record(
        QuarantinedFile(
            file="0001.dcm",
            reason=QuarantineReason.CONFLICT,
            sha256=digest(b"other"),
            peer="mr1",
            instance=one.id,
            kept_sha256=one.sha256,
        )
    )
    assert scene.ask("SELECT id, sha256, kept_sha256 FROM quarantine") == [(number, digest(b"other"), one.sha256)]
    assert scene.kinds("instance", one.id) == ["conflict"]


def test_an_orphan_quarrels_with_nobody(scene: Scene) -> None:
    number = scene.ledger.quarantine.record(
        QuarantinedFile(
            file="0002.dcm",
            reason=QuarantineReason.ORPHAN,
            sha256=digest(b""),
            peer="",
            instance=None,
            kept_sha256=None,
        )
    )
    assert scene.kinds("quarantine", number) == ["orphan"]


def test_the_files_of_a_folder_are_those_of_the_ledger_and_of_no_other_folder(scene: Scene) -> None:
    for _ in range(11):
        series = scene.receive(images=2)
    assert series > 9, "a number that begins as another one does"
    for number in range(1, series + 1):
        files = scene.ledger.upkeep.files_in(str(number))
        assert files == {one.file for one in scene.ledger.settling.instances_of(SeriesId(number), 1)}
        assert len(files) == 2
    assert scene.ledger.upkeep.files_in("") == scene.ledger.upkeep.files_in("lost+found") == set()


def test_what_was_derived_lies_in_a_folder_of_its_own(scene: Scene) -> None:
    scene.queued()
    job = scene.claim_job()
    made = derived(2)
    scene.ledger.jobs.finish(job, made)
    assert len(scene.ledger.upkeep.files_in(str(job.series))) == 5
    files = scene.ledger.upkeep.files_in(str(job.output_series))
    assert files == {f"{job.output_series}/{one.file_name}" for one in made.instances}
