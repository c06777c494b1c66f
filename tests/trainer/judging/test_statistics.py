"""What few subjects allow to be said: against scipy's own bootstrap and textbook values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from trainer.judging.statistics import bootstrap_interval, compare, estimate, mean_per_subject

SIX = [1.0, 1.4, 0.9, 1.8, 1.1, 1.6]


def test_volumes_of_one_person_are_averaged_and_what_is_no_number_left_out() -> None:
    rows = [("a", 1.0), ("b", 5.0), ("a", 3.0), ("b", math.nan), ("c", math.inf)]
    assert mean_per_subject(rows) == {"a": 2.0, "b": 5.0}


def test_an_estimate_has_the_sample_deviation_and_the_interval_of_a_bootstrap() -> None:
    found = estimate(SIX, seed=3)
    assert found.subjects == 6
    assert [found.mean, found.sd] == pytest.approx([np.mean(SIX), np.std(SIX, ddof=1)])
    by_scipy = stats.bootstrap((np.array(SIX),), np.mean, method="percentile", n_resamples=10_000, rng=1)
    assert found.low == pytest.approx(by_scipy.confidence_interval.low, abs=0.02)
    assert found.high == pytest.approx(by_scipy.confidence_interval.high, abs=0.02)


def test_the_interval_is_the_same_for_the_same_seed() -> None:
    values = np.random.default_rng(0).random(9)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_one_subject_has_neither_spread_nor_interval() -> None:
    found = estimate([2.5], seed=0)
    assert (found.mean, found.sd, found.low, found.high) == (2.5, None, None, None)


def test_six_subjects_that_agree_are_the_first_that_a_test_can_tell() -> None:
    """All six differ the same way: the two-sided p is 2 / 2⁶."""
    better = {f"s{k}": value for k, value in enumerate(SIX)}
    worse = {subject: 0.5 for subject in better}
    found = compare(better, worse)
    assert found.p == pytest.approx(2 / 2**6)
    assert (found.better_on, found.why) == (6, "")
    five = compare(dict(list(better.items())[:5]), worse)
    assert five.p is None
    assert five.why == "no test: 5 subjects, and fewer than 6 cannot reach p < 0.05"
    assert five.mean_difference == pytest.approx(np.mean(SIX[:5]) - 0.5)


def test_methods_that_are_equal_everywhere_are_not_tested() -> None:
    same = {f"s{k}": 1.0 for k in range(8)}
    assert compare(same, same).p is None
    assert compare(same, same).why == "no test: no subject differs"
