"""The first rule that matches wins, and each that did not says why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from dicomnode.derivation import DerivationParameters, RuleLimits
from dicomnode.errors import SettingsError
from dicomnode.generators.model_dir import model_facts
from dicomnode.imaging.frame import Frame
from dicomnode.imaging.headers import read_header
from dicomnode.imaging.profile import MIN_RATIO, TARGET_SPACING_MM
from dicomnode.rules import Reception, choose_rule, model_wanted, parameters_of
from dicomnode.settings.load import parse
from dicomnode.settings.rules import RuleSettings
from tests.support.mr_series import mr_datasets, write_mr_series, write_series


def _rules(*tables: Mapping[str, object]) -> tuple[RuleSettings, ...]:
    return parse({"rule": list(tables)}).rule


def _frames(paths: Iterable[Path]) -> list[Frame]:
    return [Frame(header=read_header(path)) for path in paths]


def test_a_glob_ignores_case_and_must_hold_in_every_instance(tmp_path: Path) -> None:
    datasets = mr_datasets(slices=6)
    frames = _frames(write_series(tmp_path / "all", datasets))
    rules = _rules({"name": "thick T2", "match": {"SeriesDescription": "*t2*"}})
    assert choose_rule(frames, rules).rule == rules[0]
    datasets[4].SeriesDescription = "T1 TSE TRA"
    frames = _frames(write_series(tmp_path / "all but one", datasets))
    choice = choose_rule(frames, rules)
    assert choice.rule is None
    assert choice.passed_over == (
        "Rule thick T2 does not apply: SeriesDescription is to be “*t2*”, and is not in 1 of 6 instances.",
    )


def test_the_first_rule_that_matches_wins_and_those_before_it_say_why_they_did_not(tmp_path: Path) -> None:
    frames = _frames(write_mr_series(tmp_path, slice_spacing_mm=4.0))
    rules = _rules(
        {"name": "very thick", "match": {"slice_spacing_mm": ">= 5"}},
        {"name": "head", "match": {"SeriesDescription": "*T2*", "BodyPartExamined": "HEAD"}},
        {"name": "thick", "match": {"slice_spacing_mm": ">= 2, < 4.5"}},
        {"name": "all"},
    )
    choice = choose_rule(frames, rules)
    assert choice.rule == rules[2]
    assert choice.passed_over == (
        "Rule very thick does not apply: slice_spacing_mm is to be >= 5, and the slices are 4 mm apart.",
        "Rule head does not apply: BodyPartExamined is to be “HEAD”, and is not in 6 of 6 instances.",
    )


@pytest.mark.parametrize(
    ("comparison", "holds"),
    [(">= 3", True), ("> 3", False), ("<= 3", True), ("< 3", False), ("= 3", True), ("> 2.9, < 3.1", True)],
)
def test_a_measured_spacing_meets_the_number_that_the_console_shows(
    tmp_path: Path, comparison: str, holds: bool
) -> None:
    frames = _frames(write_mr_series(tmp_path, slice_spacing_mm=2.9999))
    choice = choose_rule(frames, _rules({"name": "r", "match": {"slice_spacing_mm": comparison}}))
    assert (choice.rule is not None) == holds


def test_a_series_without_a_common_spacing_meets_no_comparison(tmp_path: Path) -> None:
    datasets = mr_datasets()
    del datasets[2].ImagePositionPatient
    frames = _frames(write_series(tmp_path, datasets))
    choice = choose_rule(frames, _rules({"name": "thick", "match": {"slice_spacing_mm": ">= 2"}}))
    assert choice.passed_over == (
        "Rule thick does not apply: slice_spacing_mm is to be >= 2, and the slices have no common spacing.",
    )


def test_an_absent_attribute_is_the_empty_text_and_several_values_are_joined_by_a_backslash(tmp_path: Path) -> None:
    frames = _frames(write_mr_series(tmp_path, slices=5))
    rules = _rules(
        {"name": "bodyless", "match": {"BodyPartExamined": "?*"}},
        {"name": "image type", "match": {"ImageType": "*\\PRIMARY\\*", "BodyPartExamined": "*"}},
    )
    choice = choose_rule(frames, rules)
    assert choice.rule == rules[1]


@pytest.mark.parametrize(
    ("test", "holds"),
    [
        (">= 80", True), ("> 80", False), (">= 80, < 100", True), ("< 60", False), (["< 60", "> 100"], False),
        (["< 60", ">= 80"], True), ("!>= 80", False), (["!< 60", "!> 100"], True), ("80*", True),
    ],
)  # fmt: skip
def test_numbers_are_compared_with_what_the_console_shows(tmp_path: Path, test: str | list[str], holds: bool) -> None:
    frames = _frames(write_mr_series(tmp_path, attributes={"EchoTime": "79.998"}))
    if test == "80*":  # a pattern looks at the text, as it always did
        frames = _frames(write_mr_series(tmp_path / "text", attributes={"EchoTime": "80.0"}))
    assert (choose_rule(frames, _rules({"name": "r", "match": {"EchoTime": test}})).rule is not None) == holds


def test_numbers_that_differ_within_a_series_are_named(tmp_path: Path) -> None:
    datasets = mr_datasets(slices=6)
    for number, dataset in enumerate(datasets):
        dataset.EchoTime = "20" if number < 2 else "90"
    del datasets[5].EchoTime
    frames = _frames(write_series(tmp_path, datasets))
    choice = choose_rule(frames, _rules({"name": "late", "match": {"EchoTime": ">= 80"}}))
    assert choice.passed_over == (
        "Rule late does not apply: EchoTime is to be >= 80, and is not in 3 of 6 instances "
        "(90 in 3, 20 in 2, no number in 1).",
    )


def test_no_number_of_the_patient_is_shown(tmp_path: Path) -> None:
    frames = _frames(write_mr_series(tmp_path, attributes={"PatientWeight": "61.5"}))
    choice = choose_rule(frames, _rules({"name": "heavy", "match": {"PatientWeight": ">= 80"}}))
    assert choice.passed_over == (
        "Rule heavy does not apply: PatientWeight is to be >= 80, and is not in 6 of 6 instances.",
    )


@pytest.mark.parametrize(
    ("description", "holds"), [("T2 TSE", True), ("pd tse", True), ("T2 FLAIR", False), ("DWI", False)]
)
def test_of_a_list_one_pattern_must_hold_and_no_excluding_one(tmp_path: Path, description: str, holds: bool) -> None:
    frames = _frames(write_mr_series(tmp_path, attributes={"SeriesDescription": description}))
    rules = _rules({"name": "r", "match": {"SeriesDescription": ["*T2*", "*PD*", "!*FLAIR*"]}})
    choice = choose_rule(frames, rules)
    assert (choice.rule is not None) == holds
    if not holds:
        assert "SeriesDescription is to be “*T2*” or “*PD*” and is not to be “*FLAIR*”" in choice.passed_over[0]


@pytest.mark.parametrize(
    ("orientation", "plane"),
    [
        ((1, 0, 0, 0, 1, 0), "axial"), ((1, 0, 0, 0, 0, -1), "coronal"), ((0, 1, 0, 0, 0, -1), "sagittal"),
        ((1, 0, 0, 0, 0.8, 0.6), "axial"),
    ],
)  # fmt: skip
def test_the_plane_is_the_one_that_the_slices_lie_nearest_to(
    tmp_path: Path, orientation: tuple[float, ...], plane: str
) -> None:
    datasets = mr_datasets(slices=6)
    normal = np.cross(orientation[:3], orientation[3:])
    for number, dataset in enumerate(datasets):
        dataset.ImageOrientationPatient = list(orientation)
        dataset.ImagePositionPatient = [float(f"{value:.6g}") for value in 3.0 * number * normal]
    frames = _frames(write_series(tmp_path, datasets))
    others = [other for other in ("axial", "coronal", "sagittal") if other != plane]
    rules = _rules(
        {"name": "another", "match": {"plane": others}},
        {"name": "excluded", "match": {"plane": f"!{plane}"}},
        {"name": "right", "match": {"plane": plane}},
    )
    choice = choose_rule(frames, rules)
    assert choice.rule == rules[2]
    assert choice.passed_over[0].endswith(f"plane is to be “{others[0]}” or “{others[1]}”, and the slices are {plane}.")


def test_slices_of_two_orientations_have_no_plane(tmp_path: Path) -> None:
    datasets = mr_datasets(slices=6)
    datasets[0].ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    choice = choose_rule(_frames(write_series(tmp_path, datasets)), _rules({"name": "r", "match": {"plane": "axial"}}))
    assert choice.passed_over == (
        "Rule r does not apply: plane is to be “axial”, and the slices do not lie in one plane.",
    )


def test_no_sentence_holds_text_from_a_header(tmp_path: Path) -> None:
    frames = _frames(
        write_mr_series(tmp_path, attributes={"SeriesDescription": "Smith^Anna knee", "PatientName": "Smith^Anna"})
    )
    rules = _rules({"name": "a", "match": {"SeriesDescription": "*T2*"}}, {"name": "b", "match": {"PatientName": "x"}})
    choice = choose_rule(frames, rules)
    assert len(choice.passed_over) == 2
    assert "Smith" not in " ".join(choice.passed_over)


def test_a_rule_decides_every_limit_of_a_derivation_and_its_model_the_model() -> None:
    given = {
        "target_mm": 0.8, "min_ratio": 2.0, "max_gap_fraction": 0.25, "derived": "keep", "allow_lossy": True,
        "refuse_terms": ["X*"], "sharpness": 0.4, "uncertainty": True,
    }  # fmt: skip
    rule = _rules({"name": "r", "match": {"Modality": "MR"}, **given})[0]
    limits = RuleLimits(
        target_mm=0.8, min_ratio=2.0, max_gap_fraction=0.25, derived="keep", allow_lossy=True, refuse_terms=("X*",)
    )
    model = model_facts("cubic-dc")
    expected = DerivationParameters(
        rule="r", model="cubic-dc", model_digest=model.digest, limits=limits, sharpness=0.4, uncertainty=True
    )
    assert parameters_of(rule, model) == expected


def test_a_rule_that_says_nothing_has_the_limits_that_hold_without_a_rule() -> None:
    parameters = parameters_of(_rules({"name": "r"})[0], model_facts("cubic-dc"))
    assert parameters.limits == RuleLimits(target_mm=TARGET_SPACING_MM, min_ratio=MIN_RATIO) == RuleLimits()


def test_a_rule_that_states_a_sharpness_asks_for_the_model_that_may_have_one() -> None:
    rules = _rules({"name": "a"}, {"name": "b", "model": "knee"}, {"name": "c", "sharpness": 0.4})
    assert [model_wanted(rule) for rule in (*rules, None)] == [None, "knee", "thin", None]


NIGHT = datetime(2026, 3, 4, 23, 30).astimezone()


def _received(*titles: str | None, at: datetime = NIGHT) -> list[Reception]:
    return [Reception(called_ae=title, at=at + timedelta(hours=number)) for number, title in enumerate(titles)]


def test_one_node_with_two_titles_has_two_rules_and_a_series_that_came_to_both_meets_neither(tmp_path: Path) -> None:
    frames = _frames(write_mr_series(tmp_path, slices=3))
    rules = parse(
        {
            "node": {"ae_title": "NODE", "ae_titles": ["NODE_URGENT"]},
            "rule": [
                {"name": "urgent", "match": {"called_ae": "NODE_URGENT"}},
                {"name": "usual", "match": {"called_ae": "NODE"}},
            ],
        }
    ).rule
    for title, name in (("NODE_URGENT", "urgent"), ("NODE", "usual")):
        chosen = choose_rule(frames, rules, _received(title, title, title)).rule
        assert chosen is not None
        assert chosen.name == name
    both = choose_rule(frames, rules, _received("NODE", "NODE", "NODE_URGENT"))
    assert both.rule is None
    assert both.passed_over[0] == (
        "Rule urgent does not apply: called_ae is to be “NODE_URGENT”, and the sender called “NODE” in 2 of 3 "
        "instances and “NODE_URGENT” in 1 of 3 instances."
    )
    old = choose_rule(frames, rules, _received("NODE", None, "NODE"))
    assert old.passed_over[1].endswith("and it is not known which AE title was called.")
    any_title = _rules({"name": "any", "match": {"called_ae": "*"}})
    assert choose_rule(frames, any_title, _received("NODE", "NODE", "NODE_URGENT")).conflicts == (
        "The sender called “NODE” in 2 of 3 instances and “NODE_URGENT” in 1 of 3 instances within this series.",
    )


def test_a_rule_for_a_title_that_the_node_does_not_have_is_a_mistake() -> None:
    with pytest.raises(SettingsError, match=r"rule\.0\.match\.called_ae: no AE title in node\.ae_title or"):
        parse({"rule": [{"name": "urgent", "match": {"called_ae": "dicomnode"}}]})
    parse({"rule": [{"name": "others", "match": {"called_ae": "!DICOMNODE"}}]})


@pytest.mark.parametrize(
    ("window", "hour", "holds"),
    [
        ("22:00-06:00", 22, True), ("22:00-06:00", 5, True), ("22:00-06:00", 6, False), ("22:00-06:00", 12, False),
        ("08:00-12:00", 8, True), ("08:00-12:00", 12, False), ("!08:00-12:00", 12, True),
        (["00:00-04:00", "20:00-23:00"], 21, True),
    ],
)  # fmt: skip
def test_a_window_of_the_day_may_go_over_midnight_and_ends_before_its_end(
    tmp_path: Path, window: str | list[str], hour: int, *, holds: bool
) -> None:
    frames = _frames(write_mr_series(tmp_path, slices=2))
    rules = _rules({"name": "r", "match": {"time_of_day": window}})
    received = _received("NODE", "NODE", at=NIGHT.replace(hour=hour, minute=0))
    assert (choose_rule(frames, rules, received).rule is not None) == holds


def test_the_first_instance_tells_the_time_by_the_clocks_of_the_zone(tmp_path: Path) -> None:
    frames = _frames(write_mr_series(tmp_path, slices=2))
    rules = _rules({"name": "night", "match": {"time_of_day": "22:00-06:00 Asia/Tokyo"}})
    noon = datetime(2026, 3, 4, 3, 15, tzinfo=UTC)  # in Tokyo
    assert choose_rule(frames, rules, _received("NODE", "NODE", at=noon + timedelta(hours=10))).rule is not None
    assert choose_rule(frames, rules, _received("NODE", "NODE", at=noon)).passed_over == (
        "Rule night does not apply: time_of_day is to be “22:00-06:00 Asia/Tokyo”, and the first instance came at "
        "12:15.",
    )


@pytest.mark.parametrize("window", ["22:00", "24:00-06:00", "06:00-06:00", "22:00-06:00 Mars/Base", ">= 22:00"])
def test_what_is_no_window_of_the_day_is_a_mistake(window: str) -> None:
    with pytest.raises(SettingsError, match=r'expected a part of the day such as "22:00-06:00"'):
        _rules({"name": "r", "match": {"time_of_day": window}})


def test_values_that_differ_within_a_series_are_named_where_its_rule_takes_it_all_the_same(tmp_path: Path) -> None:
    datasets = mr_datasets(slices=6)
    for number, dataset in enumerate(datasets):
        dataset.EchoTime = "20" if number < 2 else "80.0" if number < 4 else "80"
        dataset.SeriesDescription = f"T2 of Jane Doe {number % 2}"
        dataset.PatientWeight = str(60 + number)
    frames = _frames(write_series(tmp_path, datasets))
    match = {"EchoTime": ">= 10", "SeriesDescription": "T2*", "PatientWeight": "> 1", "Modality": "MR"}
    assert choose_rule(frames, _rules({"name": "r", "match": match})).conflicts == (
        "EchoTime is 20 and 80 in this series.",
        "SeriesDescription has 2 different values in this series.",
        "PatientWeight has 6 different values in this series.",
    )
