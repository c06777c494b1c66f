"""The first rule that matches wins, and each that did not says why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from dicomnode.derivation import DerivationParameters, RuleLimits
from dicomnode.generators.model_dir import model_facts
from dicomnode.imaging.frame import Frame
from dicomnode.imaging.headers import read_header
from dicomnode.imaging.profile import MIN_RATIO, TARGET_SPACING_MM
from dicomnode.rules import choose_rule, model_wanted, parameters_of
from dicomnode.settings.load import parse
from dicomnode.settings.models import RuleSettings
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
