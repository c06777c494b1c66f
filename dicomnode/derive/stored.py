"""Thin voxels → stored values: in the source's pixel format, with the averages over the thick slices kept.

A derived slice holds nothing below the source's least value (a magnitude image has nothing under its air, where a
spline swings beside an edge) and nothing that its words cannot hold. To cut such voxels off would move the average
over their thick slice, beside bright skin by 7 % of the range. So what is cut off is taken from, or given to, the
other thin voxels of that slice: of all values within the range that have the average, the nearest are stored. What
rounding then moves an average by is half a step of the stored values at most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomnode.derive.decimals import decimal_text
from dicomnode.imaging.profile import assumed_thickness_over_spacing, profile_matrix
from dicomnode.imaging.stack import Stack
from dicomnode.imaging.volume import Volume

Slab = NDArray[np.float64]  # (r, H, W): rows of the thin slices of one thick slice, in stored values
Plane = NDArray[np.float64]  # (H, W)

ONE_BIT = (
    2.01  # what a scale from zero, or a network's outlier, may cost the rest; 1 % for the odd count of signed words
)
ROWS = 32  # of a slab that are fitted at once, in float64: a whole one would take more memory than the thin stack


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Storage:
    """The scale and the range of the stored values of a derived series."""

    slope: float  # modality unit = slope · stored + intercept
    intercept: float
    lowest: int  # stored value below which nothing may lie
    highest: int
    weights: NDArray[np.float64]  # (r,): the part of each thin slice in the average; 0 within a gap
    consistency: bool  # are the averages those that were measured, or the generator's own?

    def values(self, voxels: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Modality units as stored values, neither rounded nor fitted into the range.

        In float64, a few slices at a time: float32 would lose the last bit of 16-bit values with an intercept.
        """
        stored = voxels.astype(np.float64)
        assert np.isfinite(stored).all(), "a generator returned what is no number"
        stored -= self.intercept
        stored /= self.slope
        return stored

    def average(self, slab: Slab) -> Plane:
        """Average thin slices over their thick one, in a fixed order: every machine gets the same bits."""
        total = np.zeros(slab.shape[1:])
        for weight, plane in zip(self.weights, slab, strict=True):
            total += weight * plane
        return total

    def slab(self, stack: Stack, thin: Volume, owner: int) -> NDArray[np.int32]:
        """Stored values (r, H, W) of the thin slices of a thick one: within the range, half rounded to even."""
        ratio = len(self.weights)
        slab, measured = thin.voxels[owner * ratio : (owner + 1) * ratio], stack.measured(owner)
        stored = np.empty(slab.shape, dtype=np.int32)
        for start in range(0, slab.shape[1], ROWS):
            rows = slice(start, start + ROWS)
            stored[:, rows] = self._strip(self.values(slab[:, rows]), self.values(measured[rows]))
        if stack.padding is not None and stack.padding_value is not None:
            stored[:, stack.padding[owner]] = stack.padding_value
        return stored

    def _strip(self, slab: Slab, measured: Plane) -> Slab:
        average = measured if self.consistency else self.average(slab)
        stored = np.rint(self._fitted(slab, average.clip(self.lowest, self.highest)))
        if self.consistency:
            assert np.abs(self.average(stored) - average).max() <= 1.0, "the average of a thick slice was lost"
        return stored

    def _fitted(self, slab: Slab, average: Plane) -> Slab:
        """The slab within the range that has this average and is nearest to ``slab``."""
        gain = self.weights / sum(weight * weight for weight in self.weights)
        fitted: Slab = slab + gain[:, None, None] * (average - self.average(slab))
        outside = np.flatnonzero(((fitted < self.lowest) | (fitted > self.highest)).any(axis=0))
        columns, averages = slab.reshape(len(slab), -1)[:, outside], average.reshape(-1)[outside]
        fitted.reshape(len(slab), -1)[:, outside] = self._shared_out(columns, averages)
        return fitted

    def _shared_out(self, slab: NDArray[np.float64], average: NDArray[np.float64]) -> NDArray[np.float64]:
        """``clip(column + share · weights)`` of columns (r, P) and their averages (P,), the share found exactly.

        That is the nearest column with the average within the range (Karush–Kuhn–Tucker). Its average rises with the
        share, along a line between any two shares at which some voxel reaches the lowest or highest value.
        """
        within = self.weights > 0
        column, weights = slab[within], self.weights[within][:, None]
        bends = np.sort(np.concatenate([(bound - column) / weights for bound in (self.lowest, self.highest)]), axis=0)
        reached = np.zeros_like(bends)
        for weight, values in zip(self.weights[within], column, strict=True):
            reached += weight * (values + weight * bends).clip(self.lowest, self.highest)
        after = (reached < average).sum(axis=0).clip(1, len(bends) - 1)[None, :]
        (low, high), (start, end) = (
            [np.take_along_axis(table, place, axis=0)[0] for place in (after - 1, after)] for table in (reached, bends)
        )
        rise = np.where(high > low, high - low, 1.0)
        share = start + (end - start) * ((average - low) / rise).clip(0.0, 1.0)
        fitted: NDArray[np.float64] = (slab + self.weights[:, None] * share).clip(self.lowest, self.highest)
        return fitted


def storage_of(stack: Stack, thin: Volume, ratio: int, *, consistency: bool) -> Storage:
    """The source's own scale where all its slices have one, else one for all that holds the thin voxels too."""
    form = stack.format
    slope, intercept = (form.slope, form.intercept) if form.has_uniform_rescale else _common_scale(stack, thin)
    thickness = assumed_thickness_over_spacing(stack.volume)
    return Storage(
        slope=slope,
        intercept=intercept,
        lowest=max(form.lowest, round((stack.minimum - intercept) / slope)),
        highest=form.highest,
        weights=profile_matrix(1, ratio, thickness_over_spacing=thickness)[0],
        consistency=consistency,
    )


def deviation_storage(stack: Stack, deviation: Volume, ratio: int) -> Storage:
    """A scale from zero to the largest standard deviation, in the source's pixel format."""
    largest = float(deviation.voxels.max())
    return Storage(
        slope=float(decimal_text(largest / stack.format.highest)) if largest > 0 else 1.0,
        intercept=0.0,
        lowest=0,
        highest=stack.format.highest,
        weights=profile_matrix(1, ratio, thickness_over_spacing=assumed_thickness_over_spacing(stack.volume))[0],
        consistency=False,
    )


def clipped_above(storage: Storage, stack: Stack, thin: Volume) -> int:
    """Thin voxels that were brighter than the words can hold, beyond what was at the top of the source already."""
    brightest = storage.highest * storage.slope + storage.intercept
    bright = [frame for frame in thin.voxels if not frame.max() <= brightest]  # NaN too
    clipped = sum(int(np.count_nonzero(np.rint(storage.values(frame)) > storage.highest)) for frame in bright)
    return max(clipped - stack.saturated * len(storage.weights), 0)


def largest_deviation(storage: Storage, stack: Stack, thin: Volume) -> float:
    """The most that an average of the generator's differs from the measured value, in modality units."""
    ratio, largest = len(storage.weights), 0.0
    for owner in range(len(stack.headers)):
        slab = storage.values(thin.voxels[owner * ratio : (owner + 1) * ratio])
        difference = np.abs(storage.average(slab) - storage.values(stack.measured(owner)))
        largest = max(largest, float(difference.max()))
    return largest * storage.slope


def _common_scale(stack: Stack, thin: Volume) -> tuple[float, float]:
    """Slope and intercept that fit the thin voxels into the pixel format, which may be brighter than the thick ones.

    The scale begins at zero, as a scanner's does, unless that costs more than a bit: unsigned words hold nothing
    below zero, and few values lie between 100,000 and 100,100.
    """
    form, least = stack.format, stack.minimum
    span = stack.maximum - least
    brightest = min(max(stack.maximum, float(thin.voxels.max())), least + ONE_BIT * span)
    if span <= 0:
        return 1.0, float(decimal_text(least))
    finest = (brightest - least) / (form.highest - form.lowest)
    from_zero = max(brightest / form.highest, least / form.lowest if form.is_signed else 0.0)
    if (form.is_signed or least >= 0) and from_zero <= ONE_BIT * finest:
        return float(decimal_text(from_zero)), 0.0
    return float(decimal_text(finest)), float(decimal_text(least - form.lowest * finest))
