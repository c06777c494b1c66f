"""Statistics of one value for each subject: mean and spread, a bootstrap interval, a paired test.

Volumes, planes and ratios of one person are not independent, so they are averaged first: the unit is the person
everywhere. With few persons an interval is wide and a test cannot say anything; both then say why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

RESAMPLES = 10_000
CONFIDENCE = 0.95
FEWEST_FOR_INTERVAL = 2
# Two-sided Wilcoxon: with n pairs the smallest p is 2 / 2ⁿ, so five subjects could never reach 0.05 (0.0625).
FEWEST_FOR_TEST = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The estimate from all subjects; ``sd`` and the interval are None where there are too few."""

    subjects: int
    mean: float
    sd: float | None  # of the subjects (n − 1)
    low: float | None  # of the 95 % interval of the mean: percentile bootstrap over subjects
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The comparison of two methods on the same subjects."""

    subjects: int
    mean_difference: float
    better_on: int  # subjects where the first is above the second
    p: float | None  # two-sided Wilcoxon signed-rank
    why: str  # no p; empty where there is one


def mean_per_subject(rows: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Subject → mean of its finite values, in order of appearance; a subject without any is left out."""
    values: dict[str, list[float]] = {}
    for subject, value in rows:
        if math.isfinite(value):
            values.setdefault(subject, []).append(value)
    return {subject: math.fsum(own) / len(own) for subject, own in values.items()}


def estimate(values: Sequence[float], *, seed: int) -> Estimate:
    """Estimate the mean from one value for each subject; there must be at least one."""
    assert values, "an estimate has a subject"
    sample = np.asarray(values, dtype=np.float64)
    mean = float(sample.mean())
    if len(sample) < FEWEST_FOR_INTERVAL:
        return Estimate(subjects=1, mean=mean, sd=None, low=None, high=None)
    low, high = bootstrap_interval(sample, seed=seed)
    return Estimate(subjects=len(sample), mean=mean, sd=float(sample.std(ddof=1)), low=low, high=high)


def bootstrap_interval(values: NDArray[np.float64], *, seed: int) -> tuple[float, float]:
    """Percentiles of the means of ``RESAMPLES`` draws with replacement; the same for the same seed."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
    tail = (1.0 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return float(low), float(high)


def compare(first: Mapping[str, float], second: Mapping[str, float]) -> Comparison:
    """Compare two methods, subject → value, on the subjects that have both."""
    subjects = [subject for subject in first if subject in second]
    assert subjects, "a comparison has a subject"
    difference = np.array([first[subject] - second[subject] for subject in subjects])
    p, why = None, ""
    if len(subjects) < FEWEST_FOR_TEST:
        named = "1 subject" if len(subjects) == 1 else f"{len(subjects)} subjects"
        why = f"no test: {named}, and fewer than {FEWEST_FOR_TEST} cannot reach p < 0.05"
    elif not difference.any():
        why = "no test: no subject differs"
    else:
        p = float(stats.wilcoxon(difference).pvalue)
    return Comparison(
        subjects=len(subjects),
        mean_difference=float(difference.mean()),
        better_on=int((difference > 0).sum()),
        p=p,
        why=why,
    )
