"""Where slices lie: orientations, positions along the normal, and the straight line through them.

Geometry comes from Image Position and Image Orientation (Patient) alone (PS3.3 C.7.6.2.1.1). Instance Number, Slice
Location, file order and arrival order never sort anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomnode.imaging.volume import Vector

SAME_ORIENTATION = 1e-3  # of a cosine: 0.19 mm at 192 mm radius (DERIVED §1.1); OHIF's 0.01 is too lax for inference
SAME_POSITION_MM = 0.01  # or ...
SAME_POSITION = 0.05  # ... of the spacing: nearer than that is the same slice again (DERIVED §1.2)


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
    def spacing_mm(self) -> float:
        """Distance of neighbouring centres along the normal."""
        return float(self.step_mm @ self.normal)

    @property
    def shear_mm(self) -> float:
        """How far each slice is shifted sideways against the one before."""
        return float(np.linalg.norm(self.step_mm - self.normal * self.spacing_mm))


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
    """How many different orientations, 1 when none deviates from the median by more than the tolerance."""
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
    """How many positions occur more than once among sorted offsets."""
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
