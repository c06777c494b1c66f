"""The rule of the result gate: the limit of each figure, its unit, and a finding in words.

In: the figures that ``measure``, ``own_slices`` and ``reread`` take of a derived series. Out: findings, each with its
figure, its limit, and one sentence for an operator. The gate holds nothing back itself: the pipeline hands the
findings on, and the ledger holds the deliveries of a series with a finding beyond its limit. It reads no settings.

Most figures are in units of the *step*, the rms difference of neighbouring thick slices. It grows with the contrast,
the anatomy and the noise of the series, and needs no knowledge of any of them. The limits were set on good series and
on generators that were spoilt on purpose (docs/derived-objects.md#result-gate).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dicomnode.derivation import GateFigure
from dicomnode.imaging.volume import Volume


class Check(StrEnum):
    """The checks of the gate, in the order in which they are made."""

    RANGE = "range"
    AVERAGES = "averages"
    PUT_BACK = "put_back"
    AMOUNT = "amount"
    SYMMETRY = "symmetry"
    LEAN = "lean"
    JUMP = "jump"
    GRAIN = "grain"
    EDGES = "edges"
    OWN_SLICES = "own_slices"
    PLACE = "place"
    HEADER = "header"
    VALUES = "values"
    ENCODED_AVERAGES = "encoded_averages"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The limit of one check."""

    at: float
    sentence: str  # with places for the figure and the limit
    of_noise: float = 0.0  # the limit is at least so many times the noise of the series
    is_least: bool = False  # the figure has to reach the limit; else it may not exceed it
    best: float = 0.0  # the figure of a result without a fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check of one derived series."""

    check: Check
    measured: float
    limit: float
    is_least: bool
    holds: bool  # is the figure beyond the limit?
    sentence: str  # with the figure and the limit

    @property
    def share(self) -> float:
        """The used share of what the limit allows: 0 is nothing, and above 1 the finding holds the series."""
        if math.isnan(self.measured):
            return math.inf
        if self.is_least:
            return self.limit / self.measured if self.measured > 0 else math.inf
        best = LIMITS[self.check].best
        if self.measured <= best:
            return 0.0
        return (self.measured - best) / (self.limit - best) if self.limit > best else math.inf

    @property
    def figure(self) -> GateFigure:
        """The finding as the ledger keeps it."""
        return GateFigure(
            check=self.check,
            measured=_kept(self.measured),
            limit=self.limit,
            is_least=self.is_least,
            share=_kept(self.share),
            holds=self.holds,
        )


# A vessel that fills a quarter of a slab is diluted in the thick slice, so a thin one may be brighter. The sharpest
# good network went 13 % of the range beyond it.
RANGE_MARGIN: Final = 0.25  # of the range of the thick series

# The comments on the figures of what was added to cubic-dc give the highest one of good series, the sharpest weights
# among them, and then the lowest one of random weights that the check holds.
LIMITS: Final[Mapping[Check, Limit]] = {
    Check.RANGE: Limit(
        at=1e-4,  # of the voxels: a single one may be a bright vessel
        sentence=f"{{}} of the thin voxels lie outside the range of the thick series by more than {RANGE_MARGIN:.0%} "
        "of it (limit {})",
    ),
    Check.AVERAGES: Limit(
        at=0.02,  # steps; the projection leaves about its λ, a thousandth, of what it puts back
        sentence="the thin slices of a slab average to another image than the thick slice, by {} of the difference "
        "between neighbouring thick slices (limit {})",
    ),
    Check.PUT_BACK: Limit(
        # Steps, in any one thick slice. Networks put back up to 0.2 steps of clinical series and 0.34 of a phantom. In
        # a series of pure noise they have to put back all of it, which is 0.7 steps: there the limit is the noise's.
        at=0.7,
        of_noise=2.0,
        sentence="before the projection, the thin slices of a slab missed the thick slice by {} of the difference "
        "between neighbouring thick slices (limit {})",
    ),
    Check.AMOUNT: Limit(
        at=0.9,  # steps, in the worst slab: 0.49, 1.4
        sentence="the detail added to cubic interpolation is as large as {} of the difference between neighbouring "
        "thick slices (limit {})",
    ),
    Check.SYMMETRY: Limit(
        at=1.5,  # ratio: 1.23, 2.2
        best=1.0,
        sentence="the finest added detail at two mirrored places in the slabs differs by a factor of {} (limit {})",
    ),
    Check.LEAN: Limit(
        at=0.18,  # correlation: 0.11, and 0.22 of heads for another ratio
        sentence="what the projection put back follows the detail at the ends of the slabs with a correlation of {} "
        "(limit {})",
    ),
    Check.JUMP: Limit(
        at=1.25,  # steps of the thick slices there: 0.96, 1.5
        sentence="a thin slice differs from the next one by {} of the difference between the thick slices there "
        "(limit {})",
    ),
    Check.GRAIN: Limit(
        at=0.85,  # white noise has 1: 0.76, 1.13
        sentence="the added detail is as fine-grained as noise: {} (noise has 1, limit {})",
    ),
    Check.EDGES: Limit(
        at=0.1,  # correlation; good series have 0.22 and more, random weights less than 0.18
        is_least=True,
        sentence="the added detail follows the edges of the anatomy with a correlation of {} (limit {})",
    ),
    Check.OWN_SLICES: Limit(
        # dB below cubic-dc. Of good series, the worst lost 0.32 dB (0.14 dB were gained with the shipped weights); a
        # model whose detail has the wrong sign, or three times its size, lost 0.73 dB or more of each.
        at=0.5,
        sentence="of the series' own slices, merged two by two, the model brings back less than interpolation, by {} "
        "dB (limit {})",
    ),
    Check.PLACE: Limit(
        at=0.01,  # mm; coordinates are written to 1e-4 mm, and a shift that matters is a tenth of a slice
        sentence="an encoded slice lies {} mm from its place between the thick slices (limit {})",
    ),
    Check.HEADER: Limit(
        at=0.0,
        sentence="{} attributes of the encoded files are not what the source implies (limit {})",
    ),
    Check.VALUES: Limit(
        at=0.01,  # steps, beyond the half of a stored step to which values are rounded
        sentence="the decoded files differ from the computed slices by {} of the difference between neighbouring "
        "thick slices (limit {})",
    ),
    Check.ENCODED_AVERAGES: Limit(
        at=1.0,  # stored steps
        sentence="an average of decoded thin slices is {} stored steps from the thick slice (limit {})",
    ),
}


def finding(check: Check, measured: float, *, noise: float = 0.0, names: Sequence[str] = ()) -> Finding:
    """Compare a figure with its limit. A figure that is no number is beyond every limit.

    ``noise``: of the series, in the unit of the figure. ``names``: attributes that the sentence is to list.
    """
    rule = LIMITS[check]
    limit = max(rule.at, rule.of_noise * noise)
    is_within = measured >= limit if rule.is_least else measured <= limit
    listed = f": {', '.join(names)}" if names else ""
    return Finding(
        check=check,
        measured=measured,
        limit=limit,
        is_least=rule.is_least,
        holds=not is_within,
        sentence=rule.sentence.format(f"{measured:.3g}", f"{limit:.3g}") + listed,
    )


def _kept(figure: float) -> float | None:
    """Four digits of a figure; JSON has no word for what is no finite number."""
    return float(f"{figure:.4g}") if math.isfinite(figure) else None


def step_of(thick: Volume) -> float:
    """Rms difference of neighbouring thick slices."""
    squares = [rms(after - before) ** 2 for before, after in pairwise(thick.voxels)]
    return math.sqrt(sum(squares) / len(squares)) if squares else 0.0


def in_steps(figure: float, step: float) -> float:
    """A figure in units of the step. In a series of equal slices every difference counts."""
    if step > 0:
        return figure / step
    return math.inf if figure > 0 else 0.0


def rms(values: NDArray[np.float32] | NDArray[np.float64]) -> float:
    """Root of the mean square; 0 of nothing."""
    return math.sqrt(float(np.mean(np.square(values)))) if values.size else 0.0
