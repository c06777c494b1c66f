"""Which sharpness is fit to be a default, and why others are not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest

from tests.trainer.judging.test_summary import row
from trainer.judging.dial import DialRow, default_sharpness, dial_rows
from trainer.judging.judge import Row
from trainer.judging.probes import Probe

NAMES = {0.0: "net at 0", 0.4: "net at 0.4"}
PLAIN: dict[str, float | None] = {"psnr": 25.0, "haarpsi": 0.8, "feature_distance": 0.1, "z_detail": 0.5}
SHARP: dict[str, float | None] = {"psnr": 24.9, "haarpsi": 0.799, "feature_distance": 0.08, "z_detail": 0.62}


def scored(method: str, scores: Mapping[str, float | None], *, plane: int = 0) -> Row:
    found = row("a", method, 0.0, plane=plane, label="a/1")
    return replace(found, scores=replace(found.scores, **scores))  # type: ignore[arg-type]


def probes_of(method: str, *, lesion: float = 0.6) -> list[Probe]:
    return [Probe(what="bright lesion, 1 × slice spacing long", label="a/1", method=method, cubic_dc=0.6, model=lesion)]


def judged(rows: list[Row], probes: list[Probe]) -> DialRow:
    (found,) = dial_rows("net", NAMES, rows, probes)
    return found


BOTH = [scored(NAMES[0.0], PLAIN), scored(NAMES[0.4], SHARP)]
PROBES = [*probes_of(NAMES[0.0]), *probes_of(NAMES[0.4])]


def test_a_sharper_picture_that_loses_little_is_fit() -> None:
    found = judged(BOTH, PROBES)
    assert [condition.what for condition in found.conditions if not condition.holds] == []
    assert default_sharpness([found]) == 0.4


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"feature_distance": 0.095}, "feature distance"),
        ({"feature_distance": None}, "feature distance"),
        ({"z_detail": 0.55}, "z-detail"),
        ({"z_detail": 1.45}, "z-detail"),  # beyond the truth is not nearer to it
        ({"psnr": 24.7}, "PSNR"),
        ({"haarpsi": 0.79}, "HaarPSI"),
        ({"blobs": 3}, "no more blobs"),
    ],
)
def test_each_condition_is_needed(changes: dict[str, float | None], what: str) -> None:
    found = judged([BOTH[0], scored(NAMES[0.4], {**SHARP, **changes})], PROBES)
    (broken,) = (condition for condition in found.conditions if not condition.holds)
    assert broken.what.startswith(what)
    assert default_sharpness([found]) == 0.0


def test_a_lost_lesion_counts() -> None:
    found = judged(BOTH, [*probes_of(NAMES[0.0]), *probes_of(NAMES[0.4], lesion=0.5)])
    (broken,) = (condition for condition in found.conditions if not condition.holds)
    assert broken.what.startswith("lesions keep")


def test_what_was_not_measured_does_not_hold() -> None:
    found = judged(BOTH, [])
    broken = {condition.where for condition in found.conditions if not condition.holds}
    assert broken == {"not measured"}
    assert any(math.isnan(condition.worst) for condition in found.conditions)


def test_the_worst_subject_and_plane_decide_not_their_mean() -> None:
    better = [scored(NAMES[0.0], PLAIN, plane=1), scored(NAMES[0.4], {**SHARP, "psnr": 26.0}, plane=1)]
    worse = [scored(NAMES[0.0], PLAIN, plane=2), scored(NAMES[0.4], {**SHARP, "psnr": 24.6}, plane=2)]
    found = judged([*BOTH, *better, *worse], PROBES)
    (broken,) = (condition for condition in found.conditions if not condition.holds)
    assert broken.where == "a/1, plane 2"
    assert broken.worst == pytest.approx(-0.4)


def test_cases_of_another_profile_and_rethickened_ones_are_not_counted() -> None:
    odd = [replace(one, case=replace(one.case, is_rethickened=True)) for one in BOTH]
    spoiled = replace(odd[1], scores=replace(odd[1].scores, psnr=1.0))
    assert judged([*BOTH, odd[0], spoiled], PROBES).holds
