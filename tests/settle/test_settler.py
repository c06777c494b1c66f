"""Decisions on a series that counts as complete."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from dicomnode import rules
from dicomnode.archive.store import Archive
from dicomnode.catalog import NotChosenYet
from dicomnode.errors import ModelError
from dicomnode.generators.model_dir import ModelFacts, model_facts
from dicomnode.ids import SeriesId
from dicomnode.imaging.judge import judge
from dicomnode.imaging.verdict import Limits, Verdict
from dicomnode.ledger.queries import Reader, open_reader
from dicomnode.ledger.store import Ledger, open_ledger
from dicomnode.own_output import PRODUCT
from dicomnode.settings.load import parse
from dicomnode.settings.models import SettleSettings
from dicomnode.settle import reading
from dicomnode.settle.judging import NOT_JUDGED
from dicomnode.settle.settler import Settler
from tests.settle.hand_clock import HandClock
from tests.support.enhanced import EnhancedPhantom
from tests.support.mounts import unreachable, unreadable
from tests.support.mr_series import mr_datasets
from tests.support.phantom import Phantom
from tests.support.stored import archived_files, store
from tests.support.wait import wait_until

SETTINGS = SettleSettings(quiet_s=30, aborted_wait_s=300, max_wait_s=1800)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A data folder with its ledger and the clock that both go by."""

    ledger: Ledger
    archive: Archive
    reader: Reader
    clock: HandClock

    def settler(
        self,
        *rules: Mapping[str, object],
        peers: Sequence[Mapping[str, object]] = (),
        planned: Callable[[], None] = lambda: None,
        open_series: Callable[[], frozenset[SeriesId]] = frozenset,
        model_of: Callable[[str | None], ModelFacts] = lambda _name: model_facts("cubic-dc"),
        enhanced_kept: Collection[str] = (),
    ) -> Settler:
        """One whose turns the test takes itself."""
        return Settler(
            SETTINGS,
            parse({"rule": list(rules) or [{"name": "all"}], **({"peer": list(peers)} if peers else {})}).rule,
            self.ledger,
            self.archive,
            model_of=model_of,
            open_series=open_series,
            planned=planned,
            enhanced_kept=enhanced_kept,
            clock=self.clock,
        )

    def settle(self, settler: Settler) -> None:
        """Let enough time pass that everything is quiet."""
        settler.turn()
        self.clock.elapsed_s += 30
        settler.turn()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    clock = HandClock()
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    ledger = open_ledger(url, clock=clock)
    reader = open_reader(url)
    yield Bench(ledger=ledger, archive=Archive(tmp_path), reader=reader, clock=clock)
    reader.close()
    ledger.close()


def test_a_quiet_series_gets_a_job_with_everything_pinned_that_decides_its_result(bench: Bench) -> None:
    series = store(bench.ledger, bench.archive, mr_datasets(slices=6, slice_spacing_mm=4.0))
    woken: list[bool] = []
    rules = (
        {"name": "very thick", "match": {"slice_spacing_mm": ">= 8"}},
        {"name": "thick", "model": "cubic-dc", "target_mm": 1.3},
    )
    bench.settle(bench.settler(*rules, planned=lambda: woken.append(True)))
    explanation = bench.reader.series_explain(series)
    assert (explanation.state, woken) == ("planned", [True])
    job = explanation.job
    assert job is not None
    assert (job.rule, job.model, job.model_digest, job.ratio) == ("thick", "cubic-dc", "cubic-dc/1", 3)
    assert '"target_mm":1.3' in job.parameters
    assert '"utc_offset_min":' in job.parameters, "the time zone in which the job's moment is written"
    assert explanation.notes[0].startswith("Rule very thick does not apply: slice_spacing_mm is to be >= 8")


def test_an_urgent_series_that_came_last_is_claimed_first_and_an_offpeak_one_last(bench: Bench) -> None:
    rules = (
        {"name": "stroke", "match": {"SeriesDescription": "*stroke*"}, "model": "cubic-dc", "priority": "urgent"},
        {"name": "research", "match": {"SeriesDescription": "*study*"}, "model": "cubic-dc", "priority": "offpeak"},
        {"name": "others", "model": "cubic-dc"},
    )
    for description in ("a study", "knee", "STROKE protocol"):
        store(bench.ledger, bench.archive, mr_datasets(attributes={"SeriesDescription": description}))
    bench.settle(bench.settler(*rules))
    claimed = [bench.ledger.jobs.claim("test", lease_s=60) for _ in range(3)]
    assert [job.planned.parameters.rule for job in claimed if job] == ["stroke", "others", "research"]


def test_a_rule_pins_what_happens_with_its_result(bench: Bench) -> None:
    rules = ({"name": "trial", "model": "cubic-dc", "release": "shadow"},)
    store(bench.ledger, bench.archive, mr_datasets())
    bench.settle(bench.settler(*rules))
    job = bench.ledger.jobs.claim("test", lease_s=60)
    assert job is not None
    assert (job.planned.release, job.planned.late) == ("shadow", "hold")


def test_a_matching_series_is_forwarded_whatever_its_verdict_and_no_other_one(bench: Bench) -> None:
    rules = [
        {"name": "all", "match": {"SeriesDescription": "knee*"}, "model": "cubic-dc", "forward_originals": ["pacs"]}
    ]
    for description, slices in (("knee", 8), ("knee short", 2), ("head", 8)):
        store(bench.ledger, bench.archive, mr_datasets(slices=slices, attributes={"SeriesDescription": description}))
    bench.settle(bench.settler(*rules, peers=[{"name": "pacs", "ae_title": "PACS", "address": "127.0.0.1:104"}]))
    assert [row.reason for row in bench.reader.series_list()] == ["no_rule", "too_few", "process"]
    lines = bench.reader.deliveries_list()
    assert [(line.series, line.content, line.items) for line in lines] == [(2, "originals", 2), (1, "originals", 8)]


def test_what_we_derived_ourselves_is_never_forwarded(bench: Bench) -> None:
    store(bench.ledger, bench.archive, mr_datasets(slices=8, attributes={"Manufacturer": PRODUCT}))
    rules = [{"name": "all", "model": "cubic-dc", "forward_originals": ["pacs"]}]
    bench.settle(bench.settler(*rules, peers=[{"name": "pacs", "ae_title": "PACS", "address": "127.0.0.1:104"}]))
    assert [row.reason for row in bench.reader.series_list()] == ["own_output"]
    assert bench.reader.deliveries_list() == []


def test_nothing_is_decided_before_the_series_is_quiet(bench: Bench) -> None:
    series = store(bench.ledger, bench.archive, mr_datasets())
    settler = bench.settler()
    settler.turn()
    bench.clock.elapsed_s += 29
    settler.turn()
    assert bench.reader.series_explain(series).state == "receiving"


def test_an_association_that_breaks_off_between_two_looks_does_not_settle_its_series(bench: Bench) -> None:
    """From then on the receiver counts it as closed, and the row of the series says that it was aborted."""
    series = store(bench.ledger, bench.archive, mr_datasets())
    is_lost: list[bool] = []

    def open_series() -> frozenset[SeriesId]:
        if is_lost:
            bench.ledger.intake.mark_aborted([series])
            return frozenset()
        return frozenset({series})

    settler = bench.settler(open_series=open_series)
    settler.turn()
    bench.clock.elapsed_s += 30
    is_lost.append(True)
    settler.turn()
    assert bench.reader.series_explain(series).state == "receiving"


def test_a_series_that_was_pulled_is_kept_until_an_operator_releases_it(bench: Bench) -> None:
    series = store(bench.ledger, bench.archive, mr_datasets(slices=6, slice_spacing_mm=4.0), is_pulled=True)
    settler = bench.settler()
    bench.settle(settler)
    explanation = bench.reader.series_explain(series)
    assert (explanation.state, explanation.job) == ("kept", None)
    assert f"`dicomnode series release {series}`" in " ".join(explanation.sentences)
    (line,) = bench.reader.series_list()
    assert (line.origin, line.reason, line.alert) == ("pulled", "pulled", False)
    bench.ledger.operator.release_series(series, "operator")
    settler.turn()
    assert bench.reader.series_explain(series).state == "planned"


def test_a_series_of_which_a_peer_sent_one_instance_is_taken_by_the_rules(bench: Bench) -> None:
    datasets = mr_datasets(slices=6, slice_spacing_mm=4.0)
    series = store(bench.ledger, bench.archive, datasets[:5], is_pulled=True)
    settler = bench.settler()
    bench.settle(settler)
    assert bench.reader.series_explain(series).state == "kept"
    store(bench.ledger, bench.archive, datasets[5:])
    bench.settle(settler)
    assert bench.reader.series_explain(series).state == "planned"


def test_a_series_that_no_rule_matches_is_kept_and_each_rule_says_why(bench: Bench) -> None:
    series = store(bench.ledger, bench.archive, mr_datasets())
    bench.settle(bench.settler({"name": "knee", "match": {"BodyPartExamined": "KNEE"}}))
    explanation = bench.reader.series_explain(series)
    assert (explanation.state, explanation.reason) == ("kept", "no_rule")
    assert explanation.notes == (
        "Rule knee does not apply: BodyPartExamined is to be “KNEE”, and is not in 6 of 6 instances.",
    )


def test_a_late_slice_that_closes_a_gap_turns_a_kept_series_into_a_job(bench: Bench) -> None:
    datasets = mr_datasets(slices=7)
    series = store(bench.ledger, bench.archive, datasets[:3] + datasets[4:])
    settler = bench.settler()
    bench.settle(settler)
    first = bench.reader.series_explain(series)
    assert (first.reason, first.sentences[0]) == (
        "missing", "1 slice(s) missing: 8 mm between slices 3 and 5, 4 mm elsewhere.",
    )  # fmt: skip
    store(bench.ledger, bench.archive, datasets[3:4])
    bench.settle(settler)
    second = bench.reader.series_explain(series)
    assert (second.revision, second.state) == (2, "planned")


def parts_of(count: int) -> list[Dataset]:
    """One Enhanced object in so many parts."""
    return EnhancedPhantom(phantom=Phantom(slices=12, rows=16, columns=16), parts=count).datasets()


@pytest.mark.parametrize("first_came", [0, 1], ids=["the second part is absent", "the first frames are absent"])
def test_a_concatenation_waits_for_its_parts_and_is_kept_when_none_comes(bench: Bench, first_came: int) -> None:
    series = store(bench.ledger, bench.archive, [parts_of(2)[first_came]])
    settler = bench.settler()
    bench.settle(settler)
    waiting = bench.reader.series_explain(series)
    assert (waiting.state, waiting.reason) == ("settled", None)
    assert waiting.sentences[0] == (
        "1 of 2 parts of a multi-frame object are here; the series is judged again when another one arrives. Without "
        "one it is kept 300 s later (settle.parts_wait_s)."
    )
    bench.clock.elapsed_s += 299
    settler.turn()
    assert bench.reader.series_explain(series).state == "settled"
    bench.clock.elapsed_s += 1
    settler.turn()
    kept = bench.reader.series_explain(series)
    assert (kept.state, kept.reason) == ("kept", "parts")
    assert [event.kind for event in kept.events].count("waits_for_parts") == 1
    bench.ledger.operator.retry_series(series, "operator")
    settler.turn()
    assert bench.reader.series_explain(series).reason == "parts", "who asks for a new verdict gets it at once"


def test_each_part_that_comes_begins_the_wait_anew_and_the_last_one_makes_the_job(bench: Bench) -> None:
    parts = parts_of(3)
    series = store(bench.ledger, bench.archive, parts[2:])
    settler = bench.settler()
    bench.settle(settler)
    bench.clock.elapsed_s += 250
    assert store(bench.ledger, bench.archive, parts[:1]) == series
    bench.settle(settler)
    bench.clock.elapsed_s += 250
    settler.turn()
    assert bench.reader.series_explain(series).state == "settled", "250 s after the second part"
    store(bench.ledger, bench.archive, parts[1:2])
    bench.settle(settler)
    assert bench.reader.series_explain(series).state == "planned"


def test_a_concatenation_becomes_a_job_when_its_last_part_has_come(bench: Bench) -> None:
    parts = parts_of(2)
    series = store(bench.ledger, bench.archive, parts[1:])
    settler = bench.settler()
    bench.settle(settler)
    bench.clock.elapsed_s += 300
    settler.turn()
    first = bench.reader.series_explain(series)
    assert (first.reason, first.sentences[0]) == (
        "parts",
        "1 of 2 parts of a multi-frame object are here; the series is judged again when another one arrives.",
    )
    store(bench.ledger, bench.archive, parts[:1])
    bench.settle(settler)
    assert bench.reader.series_explain(series).state == "planned"


def test_a_series_of_too_few_slices_says_how_many_of_its_name_came_with_it(bench: Bench) -> None:
    """Canon sends a stack as series of one slice each, Siemens a time series as one series for each volume."""
    slices = mr_datasets(slices=6)
    for dataset in slices:
        dataset.SeriesInstanceUID = generate_uid()
    siblings = [store(bench.ledger, bench.archive, [dataset]) for dataset in slices]
    other_name = mr_datasets(slices=1, attributes={"SeriesDescription": "T1"})[0]
    other_name.StudyInstanceUID = slices[0].StudyInstanceUID
    stranger = store(bench.ledger, bench.archive, [other_name])
    store(bench.ledger, bench.archive, mr_datasets(slices=1))  # of the same name, in another study
    bench.settle(bench.settler())
    found = bench.reader.series_explain(siblings[0])
    assert (found.reason, found.sentences[0]) == (
        "too_few",
        "Only 1 slices; at least 5 are needed. Of the same study and with the same description, 5 other series began "
        "within a minute of it; have the scanner send them as one.",
    )
    assert bench.reader.series_explain(stranger).sentences[0] == "Only 1 slices; at least 5 are needed."


def test_enhanced_objects_of_a_peer_that_are_only_to_be_stored_are_kept(bench: Bench) -> None:
    """The two have one sender, and only one class is kept for it."""
    (dataset,) = EnhancedPhantom(phantom=Phantom(slices=12, rows=16, columns=16)).datasets()
    enhanced = store(bench.ledger, bench.archive, [dataset])
    classic = store(bench.ledger, bench.archive, mr_datasets())
    bench.settle(bench.settler(enhanced_kept={"scanner"}))
    found = bench.reader.series_explain(enhanced)
    assert (found.state, found.reason) == ("kept", "enhanced")
    assert bench.reader.series_explain(classic).state == "planned"
    bench.ledger.operator.retry_series(enhanced, "an operator")
    bench.settler(enhanced_kept={"other"}).turn()
    assert bench.reader.series_explain(enhanced).state == "planned"


def test_a_series_that_brings_the_judge_down_is_kept_and_does_not_stop_the_next_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = store(bench.ledger, bench.archive, mr_datasets(slices=5))
    sound = store(bench.ledger, bench.archive, mr_datasets(slices=6))

    def trip(headers: Sequence[object], limits: Limits, *, rule_matched: bool) -> Verdict:
        if len(headers) == 5:
            raise ZeroDivisionError
        return judge(headers, limits, rule_matched=rule_matched)  # type: ignore[arg-type]

    monkeypatch.setattr(rules, "judge", trip)
    bench.settle(bench.settler())
    explanation = bench.reader.series_explain(poison)
    assert (explanation.state, explanation.reason) == ("kept", NOT_JUDGED)
    assert "ZeroDivisionError" in explanation.sentences[0]
    assert bench.reader.series_explain(sound).state == "planned"


def test_a_file_that_is_gone_makes_its_slice_unusable(bench: Bench) -> None:
    series = store(bench.ledger, bench.archive, mr_datasets())
    archived_files(bench.archive, series)[2].unlink()
    bench.settle(bench.settler())
    explanation = bench.reader.series_explain(series)
    assert explanation.reason == "unusable"
    assert "its file is missing from the archive" in explanation.sentences[0]


def test_an_instance_that_comes_after_the_others_were_removed_is_no_series_by_itself(bench: Bench) -> None:
    datasets = mr_datasets(slices=7)
    series = store(bench.ledger, bench.archive, datasets[:3])
    settler = bench.settler()
    bench.settle(settler)
    removed = bench.ledger.removals.erase(series, bench.ledger.upkeep.files_in(str(series)), "operator")
    bench.archive.remove(removed.files)
    store(bench.ledger, bench.archive, datasets[3:])
    bench.settle(settler)
    explanation = bench.reader.series_explain(series)
    assert (explanation.state, explanation.reason) == ("kept", "removed")
    assert "3 of its 7 images had been removed" in explanation.sentences[0]
    store(bench.ledger, bench.archive, datasets[:3])
    bench.ledger.operator.retry_series(series, "operator")
    bench.settle(settler)
    assert bench.reader.series_explain(series).state == "planned"


@pytest.mark.parametrize("disk", [unreadable, unreachable])
def test_a_disk_that_cannot_be_read_says_nothing_of_the_series_which_is_judged_when_it_can(
    bench: Bench, disk: Callable[[Path], AbstractContextManager[None]]
) -> None:
    poor = store(bench.ledger, bench.archive, mr_datasets(slices=5))
    sound = store(bench.ledger, bench.archive, mr_datasets(slices=6))
    settler = bench.settler()
    with disk(archived_files(bench.archive, poor)[2]):
        bench.settle(settler)
        settler.turn()
        waiting = bench.reader.series_explain(poor)
        assert waiting.state == "settled"
        told = [event for event in waiting.events if event.kind == "judge_failed"]
        assert [event.count for event in told] == [1], "it is said once, not at every look"
        assert "could not be read" in told[0].detail or "cannot be read" in told[0].detail
        assert bench.reader.series_explain(sound).state == "planned"
    settler.turn()
    assert bench.reader.series_explain(poor).state == "planned"


def test_a_series_waits_for_its_verdict_while_the_default_model_is_being_chosen(bench: Bench) -> None:
    is_chosen: list[bool] = []

    def model_of(_name: str | None) -> ModelFacts:
        if not is_chosen:
            raise NotChosenYet
        return replace(model_facts("cubic-dc"), why="Model thin would be late.")

    series = store(bench.ledger, bench.archive, mr_datasets())
    settler = bench.settler(model_of=model_of)
    bench.settle(settler)
    settler.turn()
    assert bench.reader.series_explain(series).state == "settled"
    is_chosen.append(True)
    settler.turn()
    explanation = bench.reader.series_explain(series)
    assert explanation.state == "planned"
    assert explanation.notes == ("Model thin would be late.",)


def test_a_series_beyond_all_measure_is_kept_without_reading_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "INSTANCES_LIMIT", 5)
    series = store(bench.ledger, bench.archive, mr_datasets(slices=6))
    bench.settle(bench.settler())
    explanation = bench.reader.series_explain(series)
    assert explanation.reason == NOT_JUDGED
    assert explanation.sentences[0] == "6 instances are more than the 5 that are judged."


def test_each_verdict_asks_anew_which_model_a_rule_gets_and_pins_its_digest(bench: Bench) -> None:
    facts = model_facts("cubic-dc")
    now = [facts, replace(facts, digest="another")]
    settler = bench.settler(model_of=lambda _name: now[0])
    first = store(bench.ledger, bench.archive, mr_datasets())
    bench.settle(settler)
    now.pop(0)
    second = store(bench.ledger, bench.archive, mr_datasets())
    bench.settle(settler)
    planned = [bench.reader.series_explain(series).job for series in (first, second)]
    assert [job.model_digest for job in planned if job] == [facts.digest, "another"]


def test_a_rule_whose_model_was_rolled_back_to_none_gets_no_other_and_its_series_waits_for_the_operator(
    bench: Bench,
) -> None:
    gone = {"knee"}

    def model_of(name: str | None) -> ModelFacts:
        if name in gone:
            raise ModelError(f"There is no model named {name}.")
        return model_facts("cubic-dc")

    rules = ({"name": "knees", "match": {"BodyPartExamined": "KNEE"}, "model": "knee"}, {"name": "all"})
    settler = bench.settler(*rules, model_of=model_of)
    knee = store(bench.ledger, bench.archive, mr_datasets(attributes={"BodyPartExamined": "KNEE"}))
    other = store(bench.ledger, bench.archive, mr_datasets())
    bench.settle(settler)
    explanation = bench.reader.series_explain(knee)
    assert (explanation.state, explanation.reason) == ("kept", NOT_JUDGED)
    assert explanation.sentences[0] == (
        f"There is no model named knee. Activate one, then `dicomnode series retry {knee}`."
    )
    assert bench.reader.series_explain(other).state == "planned"
    assert [line.id for line in bench.reader.status().attention] == [knee]
    gone.clear()
    bench.ledger.operator.retry_series(knee, "an operator")
    settler.turn()
    assert bench.reader.series_explain(knee).state == "planned"


def test_a_retry_judges_the_same_revision_again(bench: Bench) -> None:
    series = store(bench.ledger, bench.archive, mr_datasets())
    bench.settle(bench.settler({"name": "knee", "match": {"BodyPartExamined": "KNEE"}}))
    bench.ledger.operator.retry_series(series, "an operator")
    bench.settler({"name": "all"}).turn()
    explanation = bench.reader.series_explain(series)
    assert (explanation.revision, explanation.state) == (1, "planned")


def test_the_thread_takes_its_turns_by_itself_and_ends_when_told(bench: Bench) -> None:
    series = store(bench.ledger, bench.archive, mr_datasets())
    settler = bench.settler()

    def is_planned() -> bool:
        bench.clock.elapsed_s += 10
        settler.wake()
        return bench.reader.series_explain(series).state == "planned"

    settler.start()
    wait_until(is_planned, 30)
    settler.stop(10)
