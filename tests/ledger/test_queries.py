"""What an operator reads: every field from rows, every sentence in its order, no UID unasked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from dicomnode.errors import InputError
from dicomnode.gate.rule import Check
from dicomnode.ids import digest
from dicomnode.ledger.queries import Reader, open_reader
from dicomnode.ledger.values import QuarantinedFile, QuarantineReason
from tests.ledger.scene import ROOT, Scene, derived, figure, new_uid, plan_for, stored

PLANNED = plan_for().sentence


@pytest.fixture
def reader(scene: Scene) -> Iterator[Reader]:
    reader = open_reader(f"sqlite:///{scene.path}")
    yield reader
    reader.close()


def test_the_list_shows_what_was_received_and_ours_when_asked(scene: Scene, reader: Reader) -> None:
    scene.ledger.intake.series_for(new_uid())  # a number alone is no series yet
    kept = scene.settled(images=4)
    scene.ledger.settling.keep(kept, 1, reason="gaps", sentence="Gaps.", alert=True)
    planned = scene.queued("pacs")
    job = scene.finish_job(images=3)
    lines = reader.series_list()[::-1]
    assert [(line.id, line.state, line.revision, line.reason, line.instances) for line in lines] == [
        (kept, "kept", 1, "gaps", 4),
        (planned, "planned", 1, "process", 5),
    ]
    assert (lines[0].alert, lines[0].job, lines[0].source) == (True, None, None)
    assert (lines[1].job, lines[1].job_state) == (job.id, "done")
    ours = reader.series_list(derived=True)[0]
    assert (ours.id, ours.state, ours.reason, ours.origin, ours.source, ours.instances) == (
        job.output_series,
        "kept",
        "own_output",
        "derived",
        planned,
        3,
    )


def test_an_output_that_is_not_finished_is_not_listed(scene: Scene, reader: Reader) -> None:
    scene.queued()
    scene.claim_job()
    assert len(reader.series_list(derived=True)) == 1


def test_a_series_is_shown_with_its_files_jobs_and_deliveries(scene: Scene, reader: Reader) -> None:
    series = scene.queued("pacs")
    scene.finish_job()
    shown = reader.series_show(series)
    assert (shown.instances, len(shown.files), shown.peers) == (5, 5, ("mr1",))
    assert shown.size_bytes == 5 * len("pixels")
    assert [line.state for line in shown.jobs] == ["done"]
    assert [(line.peer, line.items) for line in shown.deliveries] == [("pacs", 3)]


def test_no_uid_is_shown_unasked(scene: Scene, reader: Reader) -> None:
    series = scene.queued("pacs")
    scene.finish_job()
    unasked = (reader.series_show(series), reader.series_explain(series), reader.series_list(), reader.status())
    assert ROOT not in repr(unasked)
    shown = reader.series_show(series, identify=True)
    assert shown.series_uid is not None
    assert shown.series_uid.startswith(ROOT)
    assert all(file.sop_instance_uid is not None for file in shown.files)
    assert reader.series_explain(series, identify=True).series_uid == shown.series_uid


def test_an_unknown_series_is_refused_in_words(reader: Reader) -> None:
    for question in (reader.series_show, reader.series_explain):
        with pytest.raises(InputError, match="no series 9"):
            question(9)


def test_a_result_that_passed_the_gate_is_told_with_its_nearest_figure(scene: Scene, reader: Reader) -> None:
    series = scene.queued("pacs")
    figures = (figure("grain", 0.4), figure("edges", 0.8, is_least=True), figure("lean", 0.0))
    scene.ledger.jobs.finish(scene.claim_job(), replace(derived(), figures=figures))
    told = reader.series_explain(series)
    assert told.gate == figures
    passed = "The result gate passed it: of 3 figures, `edges` came nearest to its limit, with 0.625 of at least 0.5."
    assert passed in told.sentences


@pytest.mark.parametrize(("check", "is_said"), [("averages", True), (Check.PUT_BACK, False)])
def test_it_is_said_when_a_series_was_too_small_for_the_checks_of_detail(
    scene: Scene, reader: Reader, check: str, *, is_said: bool
) -> None:
    series = scene.queued("pacs")
    figures = (figure("range", 0.0), figure(check, 0.1))
    scene.ledger.jobs.finish(scene.claim_job(), replace(derived(), figures=figures))
    told = " ".join(reader.series_explain(series).sentences)
    assert ("too small for the gate's checks of what the model added" in told) == is_said


def test_of_a_result_that_the_gate_held_it_is_not_said_that_it_passed(scene: Scene, reader: Reader) -> None:
    series = scene.queued("pacs")
    figures = (figure("grain", 1.6), replace(figure("header", 1.0), measured=None, share=None, holds=True))
    objections = ("the grain is 0.8 (limit 0.5)",)
    scene.ledger.jobs.finish(scene.claim_job(), replace(derived(), figures=figures, objections=objections))
    told = reader.series_explain(series)
    assert told.gate == figures
    assert not any("passed" in sentence for sentence in told.sentences)
    assert any(objections[0] in sentence for sentence in told.sentences)


def test_a_receiving_series_explains_what_it_waits_for(scene: Scene, reader: Reader) -> None:
    series = scene.receive(images=3)
    assert reader.series_explain(series).sentences == (
        "The series is being received: 3 images so far, the last at 2026-03-04 05:06:07 UTC.",
    )
    scene.ledger.intake.mark_aborted([series])
    assert "the last association broke off" in reader.series_explain(series).sentences[0]
    scene.ledger.settling.settle(series, 1, note="quiet")
    assert reader.series_explain(series).sentences == ("The series is complete and waits for its verdict.",)


def test_a_kept_series_explains_itself_with_its_verdict_and_notes(scene: Scene, reader: Reader) -> None:
    series = scene.settled()
    scene.ledger.settling.keep(
        series, 1, reason="missing", sentence="1 slice(s) missing.", notes=["TR varies"], alert=True
    )
    told = reader.series_explain(series)
    assert told.sentences == ("1 slice(s) missing.", "TR varies")
    assert (told.reason, told.notes, told.job, told.deliveries) == ("missing", ("TR varies",), None, ())


def test_a_derived_series_is_told_from_verdict_to_delivery(scene: Scene, reader: Reader) -> None:
    series = scene.settled()
    scene.ledger.settling.plan(series, 1, plan_for("pacs"), notes=["SliceThickness is missing"])
    job = scene.claim_job()
    scene.ledger.jobs.finish(job, derived(3, notes=("2 voxels clipped",)))
    delivery = scene.claim_delivery()
    first, second, third = scene.ledger.deliveries.pending_items(delivery)
    scene.ledger.deliveries.acknowledge(delivery, first, status=0)
    scene.ledger.deliveries.acknowledge(delivery, second, status=0xB000)
    scene.ledger.deliveries.refuse(delivery, third, status=0xA900)
    scene.ledger.deliveries.finish(delivery)
    told = reader.series_explain(series)
    assert told.sentences == (
        PLANNED,
        "Rule 'thick T2' derives the series with model thin (d1), ratio 4; derivation number 1.",
        f"Job 1 is done: it made series {job.output_series} in 12.5 s.",
        "SliceThickness is missing",
        "2 voxels clipped",
        "Delivery 1 to pacs is held: 2 of 3 acknowledged. pacs refused 1 of 3 images: 1 x status A900. "
        "The peer answered A900 to 1 image, B000 to 1 image.",
    )
    assert told.job is not None
    assert told.job.output_series == job.output_series
    assert [(event.table, event.kind) for event in told.events if event.table != "delivery_item"] == [
        ("series", "number"),
        ("series", "settle"),
        ("series", "plan"),
        ("job", "plan"),
        ("job", "claim"),
        ("job", "finish"),
        ("delivery", "job_done"),
        ("delivery", "claim"),
        ("delivery", "hold"),
    ]


def test_events_of_single_images_are_one_line_with_their_number(scene: Scene, reader: Reader) -> None:
    series = scene.ledger.intake.series_for(new_uid())
    uids = [new_uid() for _ in range(6)]
    scene.ledger.intake.accept([stored(series, uid=uid) for uid in uids])
    scene.ledger.intake.accept([stored(series, uid=uid) for uid in uids])
    (line,) = [event for event in reader.series_explain(series).events if event.kind == "duplicate"]
    assert (line.table, line.row, line.count, line.by) == ("instance", None, 6, "mr1")


def test_a_new_revision_is_told_with_what_was_delivered_before(scene: Scene, reader: Reader) -> None:
    series = scene.queued("pacs")
    scene.finish_job()
    delivery = scene.claim_delivery()
    scene.send_all(delivery)
    scene.ledger.deliveries.finish(delivery)
    scene.receive(series, images=1)
    scene.replan(series, 2, "pacs")
    scene.finish_job()
    sentences = reader.series_explain(series).sentences
    assert "Revision 2: +1 image from mr1; revision 1 was delivered to pacs at 2026-03-04 05:06:07 UTC." in sentences
    assert "Delivery 1 to pacs (revision 1) was sent" in sentences[-2]
    assert (
        "Delivery 2 to pacs is held: 0 of 3 acknowledged. A delivery of revision 1 of this series had begun"
        in sentences[-1]
    )


@pytest.mark.parametrize(
    ("attempts", "sentence"),
    [
        (0, "Job 1 waits for its turn."),
        (1, "Job 1 waits for its turn; it failed once before: The child died."),
        (2, "Job 1 waits for its turn; it failed 2 times before: The child died."),
        (3, "Job 1 failed after 3 attempts; the last one: The child died."),
    ],
)
def test_a_job_tells_of_its_attempts(scene: Scene, reader: Reader, attempts: int, sentence: str) -> None:
    series = scene.queued()
    for _ in range(attempts):
        scene.ledger.jobs.give_back(scene.claim_job(), detail="The child died.", counts=True)
    assert sentence in reader.series_explain(series).sentences


def test_a_job_that_waits_for_a_disk_says_so_although_no_attempt_was_spent(scene: Scene, reader: Reader) -> None:
    series = scene.queued()
    scene.ledger.jobs.give_back(scene.claim_job(), detail="No space left on device.", counts=False)
    assert (
        "Job 1 waits for its turn; the last try is not counted as an attempt: No space left on device."
        in reader.series_explain(series).sentences
    )


def test_deliveries_are_listed_with_their_progress(scene: Scene, reader: Reader) -> None:
    scene.queued("pacs", "workstation")
    scene.finish_job()
    delivery = scene.claim_delivery()
    first, second, _ = scene.ledger.deliveries.pending_items(delivery)
    scene.ledger.deliveries.acknowledge(delivery, first, status=0)
    scene.ledger.deliveries.refuse(delivery, second, status=0xC000)
    scene.ledger.deliveries.defer(delivery, wait_s=5, reason="no_answer", sentence="pacs did not answer.")
    two, one = reader.deliveries_list()
    assert (one.id, one.state, one.peer, one.items, one.acknowledged, one.refused) == (1, "due", "pacs", 3, 1, 1)
    assert one.next_at is not None
    assert (one.next_at - scene.clock.now()).total_seconds() == 5
    assert (one.reason, one.sentence, one.failures) == ("no_answer", "pacs did not answer.", 1)
    assert [(answer.status, answer.state, answer.items) for answer in one.answers] == [
        ("0000", "acknowledged", 1),
        ("C000", "refused", 1),
    ]
    assert (two.peer, two.acknowledged, two.answers) == ("workstation", 0, ())


def test_what_was_set_aside_names_the_file_it_quarrels_with(scene: Scene, reader: Reader) -> None:
    series = scene.ledger.intake.series_for(new_uid())
    one = stored(series)
    scene.ledger.intake.accept([one])
    scene.ledger.quarantine.record(
        QuarantinedFile(
            file="1.dcm",
            reason=QuarantineReason.CONFLICT,
            sha256=digest(b"other"),
            peer="mr1",
            instance=one.id,
            kept_sha256=one.sha256,
        )
    )
    (line,) = reader.quarantine_list()
    assert (line.file, line.reason, line.kept_file, line.series) == ("1.dcm", "conflict", one.file, series)


def test_status_counts_everything_and_names_what_waits_for_a_person(scene: Scene, reader: Reader) -> None:
    scene.ledger.boots.begin(pid=7, host="node1")
    scene.receive()
    alarming = scene.settled()
    scene.ledger.settling.keep(
        alarming, 1, reason="disagree", sentence="Instances disagree on StudyInstanceUID.", alert=True
    )
    held = scene.queued("pacs")
    scene.ledger.jobs.hold(scene.claim_job(), reason="model", sentence="The model is missing.")
    scene.queued("pacs")
    scene.finish_job()
    scene.ledger.deliveries.hold(scene.claim_delivery(), reason="no_context", sentence="Nothing accepted.")
    status = reader.status()
    assert status.boot is not None
    assert (status.boot.pid, status.boot.host, status.boot.ended_at) == (7, "node1", None)
    assert (status.instances, status.derived_instances) == (20, 3)
    assert status.series == {"receiving": 1, "settled": 0, "kept": 1, "planned": 2}
    assert (status.jobs["held"], status.jobs["done"], status.jobs["failed"]) == (1, 1, 0)
    assert status.deliveries["held"] == 1
    assert status.quarantine == {}
    assert [(line.table, line.series, line.reason) for line in status.attention] == [
        ("series", alarming, "disagree"),
        ("job", held, "model"),
        ("delivery", 4 + 1, "no_context"),
    ]
    assert status.waiting_since is None


def test_a_job_that_failed_on_an_older_revision_waits_for_nobody(scene: Scene, reader: Reader) -> None:
    series = scene.queued()
    for _ in range(3):
        scene.ledger.jobs.give_back(scene.claim_job(), detail="died", counts=True)
    assert [line.state for line in reader.status().attention] == ["failed"]
    scene.receive(series, images=1)
    assert reader.status().attention == ()


def test_an_empty_ledger_has_a_status(reader: Reader) -> None:
    status = reader.status()
    assert status.boot is None
    assert sum(status.series.values()) == 0
    assert re.fullmatch(r"\d{4}", status.version)
    assert not reader.series_list()
    assert not reader.deliveries_list()
    assert not reader.quarantine_list()
