"""Rows are summed up here: means of each subject, then of all subjects of a group.

Cases whose true profile is not the assumed one are left out, and re-thickened series never share a mean with volumes
that have a thin truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trainer.data.sources import Split
from trainer.judging.judge import Row
from trainer.judging.methods import BASELINE
from trainer.judging.statistics import Comparison, Estimate, compare, estimate, mean_per_subject

# The measures that are averaged over subjects: name → words and value; None: not computed.
MEASURES: dict[str, tuple[str, Callable[[Row], float | None]]] = {
    "psnr": ("PSNR, dB", lambda row: row.scores.psnr),
    "gain": ("PSNR gain over cubic-dc, dB", lambda row: row.gain),
    "worst_phase_psnr": ("PSNR of the worst slice position, dB", lambda row: row.scores.worst_phase_psnr),
    "ssim": ("SSIM (3-D)", lambda row: row.scores.ssim),
    "haarpsi": ("HaarPSI (both reformats)", lambda row: row.scores.haarpsi),
    "feature_distance": ("feature distance", lambda row: row.scores.feature_distance),
    "lpips": ("LPIPS (both reformats)", lambda row: row.scores.lpips),
    "dists": ("DISTS (both reformats)", lambda row: row.scores.dists),
    "mse": ("MSE, raw units²", lambda row: row.scores.mse),
    "mse_table": ("MSE as the paper's table counts, Σ ÷ rows", lambda row: row.scores.mse_table),
    "gradient_error": ("gradient error along z", lambda row: row.scores.gradient_error),
    "z_detail": ("z-detail, share of the truth's", lambda row: row.scores.z_detail),
    "edge_width": ("edge width 10–90 %, thin slices", lambda row: row.scores.edge_width),
    "noise_spread": ("slice noise, worst phase over mean − 1", lambda row: row.scores.noise_spread),
    "residual": ("consistency residual, σ of the thick noise", lambda row: row.scores.residual),
    "blobs": ("blobs that are not in the truth", lambda row: row.scores.blobs),
    "ceiling_share": ("gain ÷ (noise ceiling − cubic-dc)", lambda row: row.ceiling_share),
}
COMPARED = ("psnr", "haarpsi")  # with cubic-dc, by a paired test where there are subjects enough


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectRow:
    """One method on the nominal cases of one subject: means, and the smallest gain."""

    subject: str
    split: Split
    group: str
    method: str
    cases: int
    smallest_gain: float
    means: dict[str, float | None]  # by the keys of MEASURES


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodRow:
    """One measure of one method over the subjects of a group."""

    group: str
    method: str
    measure: str
    estimate: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRow:
    """A method against cubic-dc over the subjects of a group."""

    group: str
    method: str
    measure: str
    comparison: Comparison


def subject_rows(rows: Sequence[Row]) -> list[SubjectRow]:
    """The mean of each group, subject and method, in the order of the rows; only nominal profiles are counted.

    Cases of one person (volumes, planes, ratios) are averaged.
    """
    own: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row.case.is_nominal:
            own.setdefault((row.case.group, row.case.subject, row.method), []).append(row)
    return [
        SubjectRow(
            subject=subject,
            split=found[0].case.split,
            group=group,
            method=method,
            cases=len(found),
            smallest_gain=min(row.gain for row in found),
            means={name: mean_of([measure(row) for row in found]) for name, (_, measure) in MEASURES.items()},
        )
        for (group, subject, method), found in own.items()
    ]


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are numbers; None without any."""
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    return math.fsum(numbers) / len(numbers) if numbers else None


def method_rows(subjects: Sequence[SubjectRow], *, seed: int) -> list[MethodRow]:
    """Every measure of every method over the subjects."""
    found = []
    for group, method in dict.fromkeys((row.group, row.method) for row in subjects):
        for name in MEASURES:
            values = _values(subjects, group, method, name)
            if values:
                found.append(
                    MethodRow(
                        group=group, method=method, measure=name, estimate=estimate(list(values.values()), seed=seed)
                    )
                )
    return found


def comparison_rows(subjects: Sequence[SubjectRow]) -> list[ComparisonRow]:
    """Every other method against cubic-dc."""
    found = []
    for group, method in dict.fromkeys((row.group, row.method) for row in subjects):
        for name in COMPARED:
            base, own = _values(subjects, group, BASELINE, name), _values(subjects, group, method, name)
            if method != BASELINE and base.keys() & own.keys():
                found.append(ComparisonRow(group=group, method=method, measure=name, comparison=compare(own, base)))
    return found


def _values(subjects: Sequence[SubjectRow], group: str, method: str, measure: str) -> dict[str, float]:
    return mean_per_subject(
        [
            (row.subject, value)
            for row in subjects
            if (row.group, row.method) == (group, method) and (value := row.means[measure]) is not None
        ]
    )
