"""The checks of a series whose slices lie each at a place of its own, all in one orientation, in their order.

A check returns the verdict to keep the series, or None where it has no objection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dicomnode.imaging.geometry import Layout, missing_slices, unevenness
from dicomnode.imaging.headers import InstanceHeader
from dicomnode.imaging.image_type import sum_value
from dicomnode.imaging.profile import choose_ratio
from dicomnode.imaging.series_checks import Case, answer
from dicomnode.imaging.verdict import SHEARED, Verdict, VerdictReason
from dicomnode.imaging.words import plain, short

OVERLAP = 1.05  # × spacing: thickness beyond it is more than rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A series of single slices, each at a place of its own, all in one orientation."""

    case: Case
    layout: Layout

    @property
    def headers(self) -> list[InstanceHeader]:
        """The headers of the slices, ascending along the normal."""
        return [frame.header for frame in self.layout.frames]

    @property
    def target_mm(self) -> float:
        """The thin spacing that the rule aims at (docs/science.md#grid-and-ratio)."""
        return max(self.layout.in_plane_mm, self.case.limits.target_mm)


def _slabs(stack: Stack) -> Verdict | None:
    """Refuse a mean or a sum over slabs that overlap: it is a projection."""
    stated_mm = float(np.median([header.slice_thickness_mm or 0.0 for header in stack.headers]))
    if stated_mm <= OVERLAP * stack.layout.spacing_mm:
        return None
    for header in stack.headers:
        if (value := sum_value(header.image_type)) is not None:
            return answer(stack.case, VerdictReason.TERM, term=plain(value))
    return None


def _missing(stack: Stack) -> Verdict | None:
    """Name the missing slices. They are never filled: no viewer would show that they were."""
    found = missing_slices(stack.layout)
    if found is None:
        return None
    around = stack.layout.frames[found.before : found.before + 2]
    first, second = sorted(map(stack.case.number, around))
    refusal = answer(
        stack.case,
        VerdictReason.MISSING,
        k=found.count,
        gap=short(found.distance_mm),
        i=first,
        j=second,
        s=short(stack.layout.spacing_mm),
    )
    return replace(refusal, missing_slices=found.count)


def _irregular(stack: Stack) -> Verdict | None:
    found = unevenness(stack.layout)
    if found is None:
        return None
    nearest, farthest = short(found.nearest_mm), short(found.farthest_mm)
    refusal = answer(stack.case, VerdictReason.IRREGULAR, a=nearest, b=farthest)
    if found.sideways_mm is None:
        return refusal
    return replace(refusal, sentence=SHEARED.format(x=short(found.sideways_mm)))


def _gaps(stack: Stack) -> Verdict | None:
    gap_mm, spacing_mm = stack.layout.gap_mm, stack.layout.spacing_mm
    if gap_mm <= stack.case.limits.max_gap_fraction * spacing_mm:
        return None
    return answer(stack.case, VerdictReason.GAPS, g=short(gap_mm), s=short(spacing_mm))


def _already_thin(stack: Stack) -> Verdict | None:
    if ratio_of(stack) is not None:
        return None
    limits = stack.case.limits
    least_mm = limits.min_ratio * stack.target_mm
    return answer(
        stack.case,
        VerdictReason.ALREADY_THIN,
        s=short(stack.layout.spacing_mm),
        name=limits.rule_name,
        t=short(least_mm),
    )


def _out_of_range(stack: Stack) -> Verdict | None:
    ratio, (lowest, highest) = ratio_of(stack), stack.case.limits.ratios
    if ratio is None or lowest <= ratio <= highest:
        return None
    return answer(stack.case, VerdictReason.RATIO, r=ratio, lo=lowest, hi=highest, m=stack.case.limits.model)


STACK_CHECKS: tuple[Callable[[Stack], Verdict | None], ...] = (
    _slabs, _missing, _irregular, _gaps, _already_thin, _out_of_range,
)  # fmt: skip


def ratio_of(stack: Stack) -> int | None:
    """Return how many thin slices replace each thick one. None: the series is thin already."""
    limits = stack.case.limits
    layout = stack.layout
    return choose_ratio(layout.spacing_mm, layout.in_plane_mm, target_mm=limits.target_mm, min_ratio=limits.min_ratio)
