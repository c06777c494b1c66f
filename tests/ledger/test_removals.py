"""Which images may go by their age, which never do, and what the ledger still knows of those that went."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest

from dicomnode.derivation import GateFigure
from dicomnode.errors import InputError
from dicomnode.ids import DeliveryId, QuarantineId, SeriesId, digest
from dicomnode.ledger import old_images
from dicomnode.ledger import removed as removed_rows
from dicomnode.ledger.erasure import ERASED_SENTENCE
from dicomnode.ledger.old_images import OldSeries
from dicomnode.ledger.queries import open_reader
from dicomnode.ledger.removed import Removed
from dicomnode.ledger.states import DeliveryState
from dicomnode.ledger.values import (
    NOBODY,
    Examined,
    Finding,
    Forward,
    QuarantinedFile,
    QuarantineReason,
    Release,
    StoreOutcome,
)
from tests.ledger.scene import IMPLICIT, Scene, derived, new_uid, plan_for, stored

DAYS = 90


def old(scene: Scene, days: float = DAYS) -> dict[SeriesId, OldSeries]:
    found, last = scene.ledger.removals.old_series(scene.clock.now() - timedelta(days=days), 0)
    assert last == (found[-1].id if found else None)
    return {one.id: one for one in found}


def remove(scene: Scene, series: SeriesId, days: float = DAYS) -> Removed | None:
    return scene.ledger.removals.remove_old(series, scene.clock.now() - timedelta(days=days))


def days_pass(scene: Scene, days: float = DAYS + 1) -> None:
    scene.clock.advance(timedelta(days=days).total_seconds())


def kept(scene: Scene, *, alert: bool = False) -> SeriesId:
    series = scene.settled()
    assert scene.ledger.settling.keep(series, 1, reason="too_few", sentence="Only 5 slices.", alert=alert)
    return series


def sent(scene: Scene, *, committer: str | None = None) -> SeriesId:
    series = scene.queued("pacs")
    scene.finish_job()
    delivery = scene.claim_delivery()
    scene.send_all(delivery)
    assert scene.ledger.deliveries.finish(delivery, committer=committer) is DeliveryState.SENT
    return series


def removed_sent(scene: Scene) -> SeriesId:
    series = sent(scene)
    days_pass(scene)
    assert remove(scene, series) is not None
    return series


def test_what_was_delivered_and_what_was_kept_goes_with_all_that_was_derived_from_it(scene: Scene) -> None:
    delivered, only_kept = sent(scene), kept(scene)
    days_pass(scene)
    found = old(scene)
    assert {number: one.stays for number, one in found.items()} == {delivered: None, only_kept: None}
    (derived,) = found[delivered].derived
    assert (found[delivered].instances, found[only_kept].instances) == (5 + 3, 5)
    files = scene.ledger.upkeep.files_in(str(delivered)) | scene.ledger.upkeep.files_in(str(derived))
    removed = remove(scene, delivered)
    assert removed is not None
    assert (set(removed.files), removed.instances) == (files, 8)
    assert removed.size_bytes == found[delivered].size_bytes
    assert scene.ledger.upkeep.files_in(str(delivered)) == scene.ledger.upkeep.files_in(str(derived)) == set()
    assert scene.ledger.removals.files_in(str(delivered)) | scene.ledger.removals.files_in(str(derived)) == files
    assert scene.ask("SELECT count(*) FROM instance") == [(13,)], "every row stays"
    assert scene.kinds("series", delivered)[-1] == "removed"
    assert old(scene).keys() == {only_kept}
    assert remove(scene, delivered) is None


def test_nothing_goes_before_its_time_counted_from_the_last_thing_that_happened(scene: Scene) -> None:
    series = scene.queued("pacs")
    scene.finish_job()
    days_pass(scene, 80)  # the PACS was down for so long
    delivery = scene.claim_delivery()
    scene.send_all(delivery)
    scene.ledger.deliveries.finish(delivery)
    days_pass(scene, 80)
    assert old(scene) == {}
    assert remove(scene, series) is None
    days_pass(scene, 11)
    assert old(scene)[series].stays is None


def nothing(scene: Scene) -> SeriesId:
    return scene.receive()


def waits_for_verdict(scene: Scene) -> SeriesId:
    return scene.settled()


@pytest.mark.parametrize("begin", [nothing, waits_for_verdict])
def test_a_series_without_a_verdict_is_never_old(scene: Scene, begin: Callable[[Scene], SeriesId]) -> None:
    series = begin(scene)
    days_pass(scene)
    assert old(scene) == {}
    assert remove(scene, series) is None


def with_alert(scene: Scene) -> SeriesId:
    return kept(scene, alert=True)


def queued(scene: Scene) -> SeriesId:
    return scene.queued("pacs")


def held_job(scene: Scene) -> SeriesId:
    series = scene.queued("pacs")
    scene.ledger.jobs.hold(scene.claim_job(), reason="missing", sentence="A file is missing.")
    return series


def failed_job(scene: Scene) -> SeriesId:
    series = scene.queued("pacs")
    for _ in range(3):
        scene.ledger.jobs.give_back(scene.claim_job(), detail="It died.", counts=True)
    return series


def due(scene: Scene) -> SeriesId:
    series = scene.queued("pacs")
    scene.finish_job()
    return series


def sending(scene: Scene) -> SeriesId:
    series = due(scene)
    scene.claim_delivery()
    return series


def held_delivery(scene: Scene) -> SeriesId:
    series = due(scene)
    scene.ledger.deliveries.hold(scene.claim_delivery(), reason="refused", sentence="It was refused.")
    return series


def one_of_two_peers(scene: Scene) -> SeriesId:
    series = scene.queued("pacs", "second")
    scene.finish_job()
    delivery = scene.claim_delivery()
    scene.send_all(delivery)
    scene.ledger.deliveries.finish(delivery)
    return series


def commitment_to_come(scene: Scene) -> SeriesId:
    return sent(scene, committer="pacs")


def commitment_asked(scene: Scene) -> SeriesId:
    series = sent(scene, committer="pacs")
    one = scene.ledger.commitments.next_one("pacs")
    assert one is not None
    assert scene.ledger.commitments.ask(one, "pacs", wait_s=1)
    return series


def originals_due(scene: Scene) -> SeriesId:
    """Kept, and forwarded as it was received: nothing was derived, and the PACS has nothing yet."""
    series = scene.settled()
    forward = Forward(peers=("pacs",))
    assert scene.ledger.settling.keep(series, 1, reason="too_few", sentence="Only 5 slices.", forward=forward)
    return series


def delivered_nowhere(scene: Scene) -> SeriesId:
    series = scene.queued()
    scene.finish_job()
    return series


def set_aside(scene: Scene) -> SeriesId:
    series = kept(scene)
    ((uid,),) = scene.ask("SELECT sop_instance_uid FROM instance WHERE series_id = ? LIMIT 1", series)
    other = stored(series, uid=str(uid), content="other pixels")
    assert scene.ledger.intake.accept([other]) == [StoreOutcome.CONFLICT]
    return series


def set_aside_of_another_series(scene: Scene) -> SeriesId:
    series = kept(scene)
    ((uid,),) = scene.ask("SELECT sop_instance_uid FROM instance WHERE series_id = ? LIMIT 1", series)
    another = scene.ledger.intake.series_for(new_uid())
    assert scene.ledger.intake.accept([stored(another, uid=str(uid), content="other")]) == [StoreOutcome.CONFLICT]
    return series


def other_encoding_not_compared(scene: Scene) -> SeriesId:
    series = kept(scene)
    ((uid,),) = scene.ask("SELECT sop_instance_uid FROM instance WHERE series_id = ? LIMIT 1", series)
    assert scene.ledger.intake.accept([stored(series, uid=str(uid), content="x", syntax=IMPLICIT)]) == [
        StoreOutcome.OTHER_ENCODING
    ]
    return series


@pytest.mark.parametrize(
    ("begin", "why"),
    [
        (with_alert, "alert"),
        (queued, "job"),
        (held_job, "job"),
        (failed_job, "job"),
        (due, "delivery"),
        (sending, "delivery"),
        (held_delivery, "delivery"),
        (one_of_two_peers, "delivery"),
        (commitment_to_come, "delivery"),
        (commitment_asked, "delivery"),
        (originals_due, "delivery"),
        (delivered_nowhere, "undelivered"),
        (set_aside, "set_aside"),
        (set_aside_of_another_series, "set_aside"),
        (other_encoding_not_compared, "set_aside"),
    ],
)
def test_what_waits_for_a_worker_a_proof_or_a_person_stays_however_old_it_is(
    scene: Scene, begin: Callable[[Scene], SeriesId], why: str
) -> None:
    series = begin(scene)
    days_pass(scene, 10 * DAYS)
    assert {number: one.stays for number, one in old(scene).items()} == {series: why}
    assert remove(scene, series) is None
    assert scene.ask("SELECT count(*) FROM instance WHERE removed_at IS NOT NULL") == [(0,)]


def test_what_other_series_have_says_nothing_of_a_result_that_went_nowhere(scene: Scene) -> None:
    nowhere, delivered = delivered_nowhere(scene), sent(scene)
    days_pass(scene)
    assert {number: one.stays for number, one in old(scene).items()} == {nowhere: "undelivered", delivered: None}


def test_the_last_result_counts_for_what_was_derived_more_than_once(scene: Scene) -> None:
    series = sent(scene)
    scene.ledger.operator.retry_series(series, "operator")
    scene.replan_first(series)
    scene.finish_job()
    days_pass(scene)
    assert old(scene)[series].stays == "undelivered"


def test_a_proof_or_a_persons_word_lets_it_go(scene: Scene) -> None:
    committed = commitment_asked(scene)
    scene.clock.advance(2)
    one = scene.ledger.commitments.next_one("pacs")
    assert one is not None
    scene.ledger.commitments.give_up(one, "The peer answers no C-FIND.")
    cancelled = held_delivery(scene)
    ((number,),) = scene.ask("SELECT max(id) FROM delivery")
    scene.ledger.operator.cancel_delivery(DeliveryId(int(str(number))), "operator")
    rejected = scene.settled()
    assert scene.ledger.settling.plan(rejected, 1, replace(plan_for("pacs"), release=Release.REVIEW)) is not None
    scene.finish_job()
    ((number,),) = scene.ask("SELECT max(id) FROM delivery")
    scene.ledger.operator.cancel_delivery(DeliveryId(int(str(number))), "operator", note="motion")
    seen = set_aside(scene)
    scene.ledger.operator.see_quarantine(None, "operator")
    ended = with_alert(scene)
    scene.ledger.operator.release_series(ended, "operator")
    days_pass(scene)
    stays = {number: one.stays for number, one in old(scene).items()}
    assert stays.pop(seen) == "set_aside", "nobody has compared the file with what was kept"
    assert stays == dict.fromkeys((committed, cancelled, rejected, ended))


def shadow(scene: Scene, *, forward: Forward = NOBODY) -> SeriesId:
    """A series whose result is measured and never sent."""
    series = scene.settled()
    assert scene.ledger.settling.plan(series, 1, replace(plan_for("pacs"), release=Release.SHADOW), forward=forward)
    scene.finish_job()
    return series


def test_a_shadow_result_goes_with_its_series_and_its_figures_stay(scene: Scene) -> None:
    """Its term begins with the end of its job, however long ago its images came."""
    series = scene.settled()
    assert scene.ledger.settling.plan(series, 1, replace(plan_for("pacs"), release=Release.SHADOW))
    days_pass(scene)
    assert old(scene)[series].stays == "job"
    figure = GateFigure(check="residual", measured=0.2, limit=0.5, is_least=False, share=0.4, holds=False)
    assert scene.ledger.jobs.finish(scene.claim_job(), replace(derived(3), figures=(figure,)))
    days_pass(scene, DAYS - 1)
    assert old(scene) == {}
    days_pass(scene, 2)
    with closing(open_reader(f"sqlite:///{scene.path}")) as reader:
        ((job,),) = scene.ask("SELECT id FROM job")
        before = reader.figures(int(str(job))), reader.week(scene.clock.now() - timedelta(days=2 * DAYS))
        assert old(scene)[series].stays is None
        removed = remove(scene, series)
        assert removed is not None
        assert removed.instances == 5 + 3
        after = reader.figures(int(str(job))), reader.week(scene.clock.now() - timedelta(days=2 * DAYS))
    assert before == after
    assert (after[1].derived, after[1].shadow, len(after[0])) == (1, 1, 1)


def test_the_source_of_a_shadow_result_waits_for_its_own_delivery(scene: Scene) -> None:
    series = shadow(scene, forward=Forward(peers=("pacs",)))
    days_pass(scene)
    assert old(scene)[series].stays == "delivery"
    assert remove(scene, series) is None
    delivery = scene.claim_delivery()
    scene.send_all(delivery)
    scene.ledger.deliveries.finish(delivery, committer="pacs")
    days_pass(scene)
    assert old(scene)[series].stays == "delivery", "the peer was asked to commit"


def test_a_shadow_result_that_was_derived_again_to_be_sent_waits_for_its_delivery(scene: Scene) -> None:
    series = shadow(scene)
    scene.ledger.operator.retry_series(series, "operator")
    assert scene.ledger.settling.plan(series, 1, plan_for())
    scene.finish_job()
    days_pass(scene)
    assert old(scene)[series].stays == "undelivered"


def test_what_may_go_is_looked_at_again_in_the_transaction_that_marks_it(scene: Scene) -> None:
    series = sent(scene)
    days_pass(scene)
    assert old(scene)[series].stays is None
    scene.receive(series, images=1)  # a late instance
    assert remove(scene, series) is None
    assert scene.ledger.removals.files_in(str(series)) == set()


def test_pieces_together_are_the_whole_list(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(old_images, "PIECE", 2)
    monkeypatch.setattr(removed_rows, "_PIECE", 2)
    numbers = [kept(scene) for _ in range(5)]
    days_pass(scene)
    with closing(open_reader(f"sqlite:///{scene.path}")) as reader:
        found = reader.old_series(scene.clock.now() - timedelta(days=DAYS))
    assert [one.id for one in found] == numbers
    assert remove(scene, numbers[0], days=DAYS) is not None, "more images than a piece"
    assert scene.ledger.upkeep.files_in(str(numbers[0])) == set()


# A copy that returns.


def test_a_copy_of_what_was_removed_is_stored_again_under_its_row_and_its_age_begins_anew(scene: Scene) -> None:
    series = scene.settled(images=1)
    scene.ledger.settling.keep(series, 1, reason="too_few", sentence="Only 1 slice.")
    ((own, uid, before),) = scene.ask("SELECT id, sop_instance_uid, file FROM instance")
    days_pass(scene)
    assert remove(scene, series) is not None
    again = stored(series, uid=str(uid), at=scene.clock.now(), peer="mr2")
    assert scene.ledger.intake.accept([again]) == [StoreOutcome.STORED]
    assert scene.ask("SELECT id, file, removed_at FROM instance") == [(own, again.file, None)]
    assert again.file != before, "whoever still removes the old file must not meet the new one"
    assert scene.kinds("instance", int(str(own))) == ["returned"]
    assert scene.state("series", series) == "kept"
    assert old(scene) == {}
    days_pass(scene)
    assert old(scene)[series].stays is None
    assert scene.ledger.intake.accept([stored(series, uid=str(uid))]) == [StoreOutcome.DUPLICATE]


def test_other_bytes_under_a_removed_uid_are_set_aside_as_ever(scene: Scene) -> None:
    series = scene.settled(images=1)
    scene.ledger.settling.keep(series, 1, reason="too_few", sentence="Only 1 slice.")
    ((uid,),) = scene.ask("SELECT sop_instance_uid FROM instance")
    days_pass(scene)
    assert remove(scene, series) is not None
    assert scene.ledger.intake.accept([stored(series, uid=str(uid), content="other")]) == [StoreOutcome.CONFLICT]
    ((removed,),) = scene.ask("SELECT count(*) FROM instance WHERE removed_at IS NOT NULL")
    assert removed == 1


# What an operator may still do.


def test_a_command_that_needs_the_images_is_refused_with_what_happened_and_what_to_do(scene: Scene) -> None:
    series = removed_sent(scene)
    for act in (
        lambda: scene.ledger.operator.retry_series(series, "operator"),
        lambda: scene.ledger.operator.retry_delivery(DeliveryId(1), "operator"),
        lambda: scene.ledger.operator.send_delivery_to(DeliveryId(1), "second", "operator"),
    ):
        with pytest.raises(InputError, match=r"images of (series|delivery) 1 were removed .*2026-06-03") as caught:
            act()
        assert "sent again" in caught.value.hint
    assert scene.state("series", series) == "planned"
    assert scene.states("delivery") == ["sent"]


def test_once_every_image_has_returned_the_series_is_judged_again(scene: Scene) -> None:
    series = removed_sent(scene)
    uids = [str(uid) for (uid,) in scene.ask("SELECT sop_instance_uid FROM instance WHERE series_id = ?", series)]
    scene.ledger.intake.accept([stored(series, uid=uid) for uid in uids[:-1]])
    with pytest.raises(InputError, match="1 of the 5 images"):
        scene.ledger.operator.retry_series(series, "operator")
    scene.ledger.intake.accept([stored(series, uid=uids[-1])])
    scene.ledger.operator.retry_series(series, "operator")
    assert scene.state("series", series) == "settled"


def test_explain_and_show_say_that_the_images_are_gone(scene: Scene) -> None:
    series = removed_sent(scene)
    with closing(open_reader(f"sqlite:///{scene.path}")) as reader:
        said = reader.series_explain(series)
        assert (
            "5 of the 5 images of series 1 were removed from the archive at 2026-06-03 05:06:07 UTC." in said.sentences
        )
        assert all(file.removed_at == scene.clock.now() for file in reader.series_show(series).files)
        assert reader.archived_digests() == {}
        assert len(reader.removed_files()) == 8
        assert reader.status().instances == 5


def test_a_peer_that_denies_what_was_removed_here_holds_the_delivery(scene: Scene) -> None:
    series = sent(scene, committer="pacs")
    one = scene.ledger.commitments.next_one("pacs")
    assert one is not None
    assert scene.ledger.commitments.ask(one, "pacs", wait_s=1)
    uids = [item.sop_instance_uid for item in one.items]
    scene.ledger.commitments.queried(one, uids)
    days_pass(scene)
    assert remove(scene, series) is not None
    ((transaction,),) = scene.ask("SELECT transaction_uid FROM commitment")
    assert scene.ledger.commitments.take_report(
        str(transaction), peer="pacs", committed=uids[1:], failed={uids[0]: 0x0112}
    )
    assert scene.states("delivery") == ["held"]
    ((sentence,),) = scene.ask("SELECT sentence FROM delivery")
    assert "were removed here and cannot be sent again" in str(sentence)


# What an operator erases.


def test_erasing_ends_what_waits_and_takes_the_derived_images_with_it(scene: Scene) -> None:
    series = due(scene)
    files = scene.ledger.upkeep.files_in(str(series))
    removed = scene.ledger.removals.erase(series, files, "operator")
    assert removed.instances == 8
    assert scene.states("delivery") == ["cancelled"]
    assert scene.ask("SELECT sentence, notes FROM series WHERE id = ?", series) == [(ERASED_SENTENCE, "[]")]
    assert scene.ledger.removals.receivers([series]) == ()
    again = scene.ledger.removals.erase(series, files, "operator")
    assert (again.instances, set(again.files)) == (0, set(removed.files)), "a second run finishes the first one"


def test_no_proof_is_asked_for_what_was_erased(scene: Scene) -> None:
    series = commitment_to_come(scene)
    scene.ledger.removals.erase(series, scene.ledger.upkeep.files_in(str(series)), "operator")
    assert scene.states("commitment") == ["unproven"]
    assert scene.ledger.commitments.next_in("pacs") is None
    assert scene.states("delivery") == ["sent"]
    assert scene.ledger.removals.receivers([series]) == ("pacs",)


def test_of_a_series_of_two_patients_only_the_named_files_go(scene: Scene) -> None:
    series = kept(scene)
    one, *_ = files = sorted(scene.ledger.upkeep.files_in(str(series)))
    assert scene.ledger.removals.erase(series, {one}, "operator").files == (one,)
    assert scene.ledger.upkeep.files_in(str(series)) == set(files[1:])


def test_what_is_sent_of_another_series_does_not_keep_one_from_being_erased(scene: Scene) -> None:
    series = due(scene)
    delivery = scene.claim_delivery()
    scene.ledger.deliveries.hold(delivery, reason="refused", sentence="It was refused.")
    sending(scene)
    assert scene.ledger.removals.refusal_to_erase(series) is None
    assert scene.ledger.removals.receivers([series]) == ()


@pytest.mark.parametrize("begin", [nothing, waits_for_verdict, sending])
def test_what_is_in_use_is_not_erased(scene: Scene, begin: Callable[[Scene], SeriesId]) -> None:
    series = begin(scene)
    with pytest.raises(InputError, match="nothing of it was erased"):
        scene.ledger.removals.erase(series, scene.ledger.upkeep.files_in(str(series)), "operator")
    assert scene.ask("SELECT count(*) FROM instance WHERE removed_at IS NOT NULL") == [(0,)]


def test_a_file_of_the_quarantine_is_erased_and_counts_as_seen(scene: Scene) -> None:
    file = QuarantinedFile(
        file="q.dcm", reason=QuarantineReason.HEADER, sha256=digest(b"x"), peer="mr1", instance=None, kept_sha256=None
    )
    row = scene.ledger.quarantine.record(file)
    assert scene.ledger.removals.erase_set_aside({"q.dcm", "unknown.dcm"}, "operator") == ["q.dcm"]
    assert scene.ledger.removals.files_aside() == {"q.dcm"}
    with closing(open_reader(f"sqlite:///{scene.path}")) as reader:
        assert reader.quarantine_list() == []
        (line,) = reader.quarantine_list(is_all=True)
    assert (line.state, line.removed_at) == ("seen", scene.clock.now())
    assert scene.kinds("quarantine", row)[-1] == "erased"


def test_what_was_erased_from_the_quarantine_and_comes_again_is_set_aside_anew(scene: Scene) -> None:
    series = set_aside(scene)
    ((uid, aside),) = scene.ask(
        "SELECT sop_instance_uid, quarantine.file FROM quarantine JOIN instance ON instance.id = instance_id"
    )
    again = [stored(series, uid=str(uid), content="other pixels") for _ in range(2)]
    assert scene.ledger.intake.accept(again[:1]) == [StoreOutcome.ASIDE_ALREADY]
    scene.ledger.removals.erase_set_aside({str(aside)}, "operator")
    assert scene.ledger.intake.accept(again[1:]) == [StoreOutcome.CONFLICT]


def test_what_was_set_aside_goes_only_after_a_person_saw_it_and_it_was_compared(scene: Scene) -> None:
    set_aside(scene)
    days_pass(scene)
    before = scene.clock.now() - timedelta(days=DAYS)
    assert scene.ledger.removals.remove_old_set_aside(before) == []
    ((row, file),) = scene.ask("SELECT id, file FROM quarantine")
    scene.ledger.operator.see_quarantine(None, "operator")
    days_pass(scene)
    before = scene.clock.now() - timedelta(days=DAYS)
    assert scene.ledger.removals.remove_old_set_aside(before) == [], "it is still to be compared"
    found = Examined(id=QuarantineId(int(str(row))), finding=Finding.OTHER_CONTENT, details=("pixels",))
    scene.ledger.quarantine.examined(SeriesId(1), [found])
    assert scene.ledger.removals.remove_old_set_aside(scene.clock.now() - timedelta(days=2 * DAYS)) == []
    assert scene.ledger.removals.remove_old_set_aside(before) == [file]
    assert scene.ledger.removals.remove_old_set_aside(before) == []
    assert scene.kinds("quarantine", int(str(row)))[-1] == "removed"
