"""Limits: what is beyond one, what is no number, and how much of a limit a figure uses."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dicomnode.gate.rule import LIMITS, Check, finding, in_steps, rms


def test_every_check_has_a_limit_and_a_sentence_with_both_numbers() -> None:
    assert list(LIMITS) == list(Check)
    for check in Check:
        sentence = finding(check, 0.123).sentence
        assert "0.123" in sentence
        assert f"limit {LIMITS[check].at:g}" in sentence


@pytest.mark.parametrize(
    ("check", "measured", "share", "holds"),
    [
        (Check.GRAIN, 0.425, 0.5, False),
        (Check.GRAIN, 0.85, 1.0, False),
        (Check.GRAIN, 1.7, 2.0, True),
        (Check.SYMMETRY, 1.0, 0.0, False),
        (Check.SYMMETRY, 1.25, 0.5, False),
        (Check.EDGES, 0.4, 0.25, False),
        (Check.EDGES, 0.05, 2.0, True),
        (Check.EDGES, -0.3, math.inf, True),
        (Check.OWN_SLICES, -0.4, 0.0, False),
        (Check.HEADER, 0, 0.0, False),
        (Check.HEADER, 1, math.inf, True),
    ],
)
def test_a_share_above_one_is_what_holds(check: Check, measured: float, share: float, holds: bool) -> None:
    found = finding(check, measured)
    assert found.share == pytest.approx(share)
    assert found.holds is holds


@pytest.mark.parametrize("check", list(Check))
def test_a_figure_that_is_no_number_is_beyond_every_limit(check: Check) -> None:
    found = finding(check, math.nan)
    assert found.holds
    assert found.share == math.inf


def test_a_noisy_series_may_be_put_back_more_of() -> None:
    assert finding(Check.PUT_BACK, 0.8).holds
    found = finding(Check.PUT_BACK, 0.8, noise=0.5)
    assert (found.holds, found.limit) == (False, 1.0)
    assert finding(Check.AMOUNT, 1.0, noise=9.0).holds, "the noise moves no other limit"


def test_in_a_series_of_equal_slices_every_difference_counts() -> None:
    assert in_steps(0.0, 0.0) == 0.0
    assert in_steps(1e-9, 0.0) == math.inf
    assert rms(np.zeros(0)) == 0.0
