"""From rows to subjects to all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dicomnode.imaging.profile import ProfileKind
from trainer.data.sources import Split
from trainer.judging.judge import CaseFacts, Row, Scores
from trainer.judging.summary import comparison_rows, mean_of, method_rows, subject_rows

FACTS = CaseFacts(
    label="a/1", subject="a", split=Split.VALIDATION, licence="CC0-1.0", plane=0, ratio=3, profile=ProfileKind.BOX,
    thickness_over_spacing=1.0, is_rethickened=False, thick_slices=12, noise_sigma=0.01, ceiling_psnr=40.0,
    truth_edge_width=2.0, truth_phase_noise=(0.01, 0.01, 0.01),
)  # fmt: skip
SCORES = Scores(
    psnr=25.0, worst_phase_psnr=24.0, ssim=0.8, haarpsi=0.7, feature_distance=None, lpips=None, dists=None,
    mse=100.0, mse_table=5e4, gradient_error=0.1, z_detail=0.4, edge_width=3.0, phase_noise=(0.01, 0.01, 0.01),
    noise_spread=0.0, residual=0.0, blobs=2,
)  # fmt: skip


def row(subject: str, method: str, psnr: float, **facts: object) -> Row:
    """A row with cubic-dc at 20 dB."""
    return Row(
        case=replace(FACTS, subject=subject, **facts),  # type: ignore[arg-type]
        method=method,
        digest=method,
        gain=psnr - 20.0,
        ceiling_share=(psnr - 20.0) / 20.0,
        scores=replace(SCORES, psnr=psnr),
    )


def test_a_subject_is_summarised_by_mean_and_smallest_gain() -> None:
    rows = [row("a", "net", psnr, ratio=ratio) for psnr, ratio in ((21.0, 3), (23.0, 4))]
    rows.append(row("a", "net", 29.0, profile=ProfileKind.GAUSSIAN))  # told apart
    (found,) = subject_rows(rows)
    assert (found.subject, found.cases, found.smallest_gain) == ("a", 2, 1.0)
    assert found.means["gain"] == pytest.approx(2.0)
    assert found.means["feature_distance"] is None, "not computed is not zero"


def test_rethickened_series_never_share_a_mean_with_a_thin_truth() -> None:
    rows = [row("a", "net", 21.0), row("a", "net", 30.0, is_rethickened=True)]
    assert [(found.group, found.cases) for found in subject_rows(rows)] == [("thin truth", 1), ("re-thickened", 1)]
    assert {found.group for found in method_rows(subject_rows(rows), seed=0)} == {"thin truth", "re-thickened"}


def test_the_mean_over_subjects_counts_each_person_once() -> None:
    """Three cases of one person, one of another."""
    rows = [row("a", "net", 21.0, plane=plane) for plane in range(3)] + [row("b", "net", 25.0)]
    (psnr,) = (found.estimate for found in method_rows(subject_rows(rows), seed=0) if found.measure == "psnr")
    assert (psnr.subjects, psnr.mean) == (2, 23.0)
    assert psnr.low is not None


def test_methods_are_compared_with_cubic_dc_and_tested_only_with_six_subjects() -> None:
    rows = []
    for number in range(6):
        rows += [row(f"s{number}", "cubic-dc", 20.0), row(f"s{number}", "net", 21.0 + number)]
    (found,) = (one for one in comparison_rows(subject_rows(rows)) if one.measure == "psnr")
    assert found.comparison.p == pytest.approx(2 / 2**6)
    (few,) = (one for one in comparison_rows(subject_rows(rows[:4])) if one.measure == "psnr")
    assert (few.comparison.p, few.comparison.subjects) == (None, 2)


def test_a_mean_leaves_out_what_is_no_number() -> None:
    assert mean_of([1.0, None, float("inf"), 3.0]) == 2.0
    assert mean_of([None, float("nan")]) is None
