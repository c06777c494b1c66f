"""The first rule that matches wins, and each that did not says why."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dicomnode.imaging.frame import Frame
from dicomnode.imaging.headers import read_header
from dicomnode.rules import choose_rule, pinned
from dicomnode.settings.load import parse
from dicomnode.settings.models import RuleSettings
from tests.support.mr_series import mr_datasets, write_mr_series, write_series
from tests.support.zone import machine_zone


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
    assert choice.passed_over == ("Rule thick T2 does not apply: SeriesDescription is not “*t2*” in 1 of 6 instances.",)


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
        "Rule head does not apply: BodyPartExamined is not “HEAD” in 6 of 6 instances.",
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


def test_no_sentence_holds_text_from_a_header(tmp_path: Path) -> None:
    frames = _frames(
        write_mr_series(tmp_path, attributes={"SeriesDescription": "Smith^Anna knee", "PatientName": "Smith^Anna"})
    )
    rules = _rules({"name": "a", "match": {"SeriesDescription": "*T2*"}}, {"name": "b", "match": {"PatientName": "x"}})
    choice = choose_rule(frames, rules)
    assert len(choice.passed_over) == 2
    assert "Smith" not in " ".join(choice.passed_over)


def test_what_decides_the_result_is_pinned_as_canonical_json() -> None:
    rule = _rules({"name": "r", "target_mm": 0.8, "refuse_terms": ["X*"], "match": {"Modality": "MR"}})[0]
    with machine_zone("IST-5:30"):
        text = pinned(rule, datetime(2026, 7, 1, tzinfo=UTC))
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert json.loads(text) == {
        "target_mm": 0.8, "min_ratio": 1.5, "max_gap_fraction": 0.5, "derived": "process", "allow_lossy": False,
        "refuse_terms": ["X*"], "utc_offset_min": 330,
    }  # fmt: skip
