"""The geometry of slices: orientations, positions along the normal, the straight line through them, and its faults.

In: frames, or positions and cosines. Out: numbers, and findings as values; which of them is a reason to refuse a
series, and in what words, the verdict says. Geometry comes from Image Position and Image Orientation (Patient) alone
(PS3.3 C.7.6.2.1.1). Instance Number, Slice Location, file order and arrival order never sort anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomnode.imaging.frame import Frame, Slice
from dicomnode.imaging.volume import Vector

# of a cosine: 0.19 mm at 192 mm radius (docs/derived-objects.md#one-value-over-the-series); OHIF's 0.01 is too lax for
# inference
SAME_ORIENTATION = 1e-3
SAME_POSITION_MM = 0.01  # or ...
SAME_POSITION = 0.05  # ... of the spacing: nearer than that is the same slice again (docs/derived-objects.md#spacing)
PIXEL_SPACING_TOLERANCE = 1e-4  # relative: 0.05 pixel at the edge of 512
RESIDUAL_MM = 0.02  # of a position from the straight line, or ...
# ... of the spacing, whichever is more; the worst of 15 real series was 4.7e-5 mm
# (docs/derived-objects.md#order-of-the-slices)
RESIDUAL = 0.01
RESIDUAL_LIMIT_MM = 0.1  # and never more than that
SHEAR = 0.01  # of the spacing; an MR scanner has no gantry tilt, so shear means mixed or broken geometry
MULTIPLE = 0.02  # a distance so near to a multiple of the spacing is missing slices
THICKEST = 2.1  # × spacing: no 2-D protocol overlaps more; beyond it is a projection's or a reformat's thickness


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SliceLine:
    """Slices sorted along the normal, and the least-squares line p_0 + k·v through their positions."""

    order: tuple[int, ...]  # index into what was given, ascending along the normal
    offsets_mm: NDArray[np.float64]  # position · normal, in that order
    normal: Vector
    origin_mm: Vector  # p_0
    step_mm: Vector  # v
    residual_mm: float  # the farthest position from the line

    @property
    def distances_mm(self) -> NDArray[np.float64]:
        """The distance of each slice from the one before, along the normal."""
        return np.diff(self.offsets_mm)

    @property
    def spacing_mm(self) -> float:
        """Distance of neighbouring centres along the normal."""
        return float(self.step_mm @ self.normal)

    @property
    def shear_mm(self) -> float:
        """The distance by which each slice is shifted sideways against the one before."""
        return float(np.linalg.norm(self.step_mm - self.normal * self.spacing_mm))


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Slices that are not there."""

    count: int
    before: int  # the slice before the widest distance, counted along the normal
    distance_mm: float  # the widest


@dataclass(frozen=True, slots=True, kw_only=True)
class Unevenness:
    """Slices that do not lie evenly on one straight line across them."""

    nearest_mm: float  # the least distance of neighbouring slices, along the normal
    farthest_mm: float
    sideways_mm: float | None  # how far neighbours are shifted, where the distances themselves are even


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """The layout of slices of one orientation, each at a place of its own: two slices at least."""

    line: SliceLine
    frames: tuple[Frame, ...]  # ascending along the normal
    spacing_mm: float  # median distance
    thickness_mm: float | None  # None where it is not to be believed

    @property
    def gap_mm(self) -> float:
        """Unmeasured part of each spacing; 0 where the thickness is not known."""
        return self.spacing_mm - (self.spacing_mm if self.thickness_mm is None else self.thickness_mm)

    @property
    def gap_fraction(self) -> float | None:
        """Unmeasured share of each spacing; None where the thickness is not known."""
        return None if self.thickness_mm is None else self.gap_mm / self.spacing_mm

    @property
    def in_plane_mm(self) -> float:
        """The smaller pixel spacing."""
        return min(self.frames[0].header.pixel_spacing_mm or (0.0,))


def layout_of(frames: Sequence[Frame]) -> Layout:
    """The layout of frames that have been found to share one orientation."""
    line = line_of(frames)
    spacing_mm = float(np.median(line.distances_mm))
    return Layout(
        line=line,
        frames=tuple(frames[k] for k in line.order),
        spacing_mm=spacing_mm,
        thickness_mm=believed_thickness_mm(frames, spacing_mm),
    )


def line_of(frames: Sequence[Frame]) -> SliceLine:
    """The line through the positions of frames that have been found to share one orientation."""
    orientation = np.median([frame.header.orientation or () for frame in frames], axis=0)
    return fit_line([frame.header.position_mm or () for frame in frames], orientation.tolist())


def stacked(slices: Sequence[Slice]) -> list[Frame] | None:
    """The slices as frames of one orientation, each with a position, for rules; None where they are none."""
    placed = [one for one in slices if isinstance(one, Frame) and one.header.position_mm and one.header.orientation]
    orientations = [frame.header.orientation or () for frame in placed]
    if len(placed) < max(len(slices), 2) or not all(map(is_orthonormal, orientations)):
        return None
    return None if count_orientations(orientations) > 1 else placed


def believed_thickness_mm(frames: Sequence[Frame], spacing_mm: float) -> float | None:
    """Median Slice Thickness; None where a slice gives none or the value cannot be that of a slice profile."""
    stated = [frame.header.slice_thickness_mm or 0.0 for frame in frames]
    if min(stated) <= 0:
        return None
    thickness_mm = float(np.median(stated))
    return thickness_mm if thickness_mm <= THICKEST * spacing_mm else None


def other_pixel_spacing(frames: Sequence[Frame]) -> Frame | None:
    """The first frame whose pixels lie farther apart, or nearer, than those of the others."""
    spacings = np.array([frame.header.pixel_spacing_mm for frame in frames])
    usual_mm = np.median(spacings, axis=0)
    differs = (np.abs(spacings - usual_mm) > PIXEL_SPACING_TOLERANCE * usual_mm).any(axis=1)
    return next((frame for frame, other in zip(frames, differs, strict=True) if other), None)


def missing_slices(layout: Layout) -> Missing | None:
    """Slices that are not there, where all distances are whole multiples of the usual one; None where one is not."""
    distances = layout.line.distances_mm
    steps = np.rint(distances / layout.spacing_mm)
    off_mm = np.abs(distances - steps * layout.spacing_mm)
    if steps.max() < 2 or (off_mm > MULTIPLE * steps * layout.spacing_mm).any():
        return None
    widest = int(np.argmax(distances))
    return Missing(count=int((steps - 1).sum()), before=widest, distance_mm=float(distances[widest]))


def unevenness(layout: Layout) -> Unevenness | None:
    """Measure how the slices deviate from even steps on a straight line across them; None where they do not."""
    line = layout.line
    residual_limit_mm = min(max(RESIDUAL_MM, RESIDUAL * layout.spacing_mm), RESIDUAL_LIMIT_MM)
    if line.residual_mm <= residual_limit_mm and line.shear_mm <= SHEAR * layout.spacing_mm:
        return None
    distances = line.distances_mm
    is_even = float(np.ptp(distances)) <= residual_limit_mm
    return Unevenness(
        nearest_mm=float(distances.min()),
        farthest_mm=float(distances.max()),
        sideways_mm=max(line.shear_mm, line.residual_mm) if is_even else None,
    )


def directions(orientation: Sequence[float]) -> tuple[Vector, Vector]:
    """Row and column direction as unit vectors at a right angle, from six cosines as written."""
    row = np.asarray(orientation[:3], dtype=np.float64)
    column = np.asarray(orientation[3:], dtype=np.float64)
    row = row / np.linalg.norm(row)
    column = column - row * (column @ row)
    return row, column / np.linalg.norm(column)


def is_orthonormal(orientation: Sequence[float]) -> bool:
    """Are the six cosines two unit vectors at a right angle?"""
    row, column = np.asarray(orientation[:3]), np.asarray(orientation[3:])
    faults = (float(np.linalg.norm(row)) - 1.0, float(np.linalg.norm(column)) - 1.0, float(row @ column))
    return all(abs(fault) <= SAME_ORIENTATION for fault in faults)


def count_orientations(orientations: Sequence[Sequence[float]]) -> int:
    """Count the different orientations; 1 when none deviates from the median by more than the tolerance."""
    cosines = np.asarray(orientations, dtype=np.float64)
    if np.abs(cosines - np.median(cosines, axis=0)).max() <= SAME_ORIENTATION:
        return 1
    groups: list[NDArray[np.float64]] = []
    for candidate in cosines:
        if not any(np.abs(candidate - group).max() <= 2 * SAME_ORIENTATION for group in groups):
            groups.append(candidate)
    return max(len(groups), 2)  # a slow drift across the tolerance is more than one orientation, too


def fit_line(positions: Sequence[Sequence[float]], orientation: Sequence[float]) -> SliceLine:
    """Sort by position along the normal and fit; at least one position.

    >>> line = fit_line([(0, 0, 6), (0, 0, 0), (0, 0, 3)], (1, 0, 0, 0, 1, 0))
    >>> line.order, line.spacing_mm, line.residual_mm
    ((1, 2, 0), 3.0, 0.0)
    """
    row, column = directions(orientation)
    normal = np.cross(row, column)
    points = np.asarray(positions, dtype=np.float64)
    order = np.argsort(points @ normal, kind="stable")
    points = points[order]
    index = np.arange(len(points), dtype=np.float64)
    centred = index - index.mean()
    step = centred @ points / max(float(centred @ centred), 1.0)
    origin = points.mean(axis=0) - step * index.mean()
    residual = points - (origin + index[:, None] * step)
    return SliceLine(
        order=tuple(int(k) for k in order),
        offsets_mm=points @ normal,
        normal=normal,
        origin_mm=origin,
        step_mm=step,
        residual_mm=float(np.linalg.norm(residual, axis=1).max()),
    )


def distinct_spacing_mm(offsets_mm: NDArray[np.float64]) -> float | None:
    """Median distance of sorted offsets, repeated positions apart; None where all lie at one place."""
    steps = np.diff(offsets_mm)
    steps = steps[steps >= SAME_POSITION_MM]
    return float(np.median(steps)) if len(steps) else None


def count_repeated(offsets_mm: NDArray[np.float64]) -> int:
    """Count the positions that occur more than once among sorted offsets."""
    spacing_mm = distinct_spacing_mm(offsets_mm)
    tolerance_mm = SAME_POSITION_MM if spacing_mm is None else max(SAME_POSITION_MM, SAME_POSITION * spacing_mm)
    same = np.concatenate([[False], np.diff(offsets_mm) < tolerance_mm])
    return int(np.count_nonzero(same[1:] & ~same[:-1]))


def number_direction(numbers: Sequence[int | None]) -> int:
    """+1 where Instance Numbers rise along the normal, -1 where they fall; numbers in order of position."""
    known = [(k, number) for k, number in enumerate(numbers) if number is not None]
    if not known:
        return 1
    middle = sum(k for k, _ in known) / len(known)
    return -1 if sum((k - middle) * number for k, number in known) < 0 else 1
