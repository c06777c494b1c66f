"""Slice pairs for training: which thin slice shows what a thick one shows, by the published rule or by ours.

Real pairs come from two series that ``partners`` has found to belong together; simulated ones from a thin volume and
what a slice profile makes of it. Both leave as ``SlicePairs``, which say what they are. Slices are counted along the
thick series' normal; motion is undone on the thin side, the thick slices stay as the scanner made them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import InputError
from dicomnode.imaging.body import body_scale
from dicomnode.imaging.profile import ProfileKind, profile_matrix
from trainer.data.register import Registration, resample
from trainer.data.series import Series
from trainer.data.sources import Source
from trainer.data.volumes import volume_of

FloatArray = NDArray[np.float32]
Matches = tuple[tuple[int, int], ...]  # (thick slice, thin slice)

WINDOW = 10  # thin slices that the published rule looks at (docs/paper.md#pairing)
ROUNDING_MM = 1e-6  # distances that differ by less are equal
NEVER = -(1 << 60)


class Origin(StrEnum):
    """Were both sides measured, or the thick one computed?"""

    REAL = "real"
    SIMULATED = "simulated"


class Pairing(StrEnum):
    """The rule by which slices find each other."""

    MONOTONE = "monotone"  # by position along the normal, one to one, not farther than half of both spacings
    PAPER = "paper"  # the published greedy rule: window, 3-D distance of corners, no limit


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SlicePairs:
    """Slices to train on; raw value = value × scale of its side."""

    subject: str
    origin: Origin
    thick: FloatArray  # (n, H, W)
    thin: FloatArray  # (m, H, W), on the rows and columns of the thick slices
    thick_scale: float
    thin_scale: float
    matches: Matches


@dataclass(frozen=True, slots=True, kw_only=True)
class Distances:
    """The distances between the slices of the pairs of one pairing, mm."""

    pairs: int
    normal_median_mm: float  # along the normal: what matters
    normal_max_mm: float
    corner_median_mm: float  # of Image Position (Patient) in space, as published: the fields of view are in it
    corner_max_mm: float


def match(thick: Series, thin: Series, pairing: Pairing, *, window: int = WINDOW) -> Matches:
    """The slice pairs of two series by one rule, slices counted along the thick normal.

    Raises InputError where the published rule runs out of thin slices.
    """
    if pairing is Pairing.PAPER:
        return published_pairing(thick.positions_mm, _along(thick, thin), window=window)
    assert thick.slice_spacing_mm is not None
    assert thin.slice_spacing_mm is not None
    cap_mm = (thick.slice_spacing_mm + thin.slice_spacing_mm) / 2
    return monotone_pairing(thick.offsets_mm, _along(thick, thin) @ thick.normal, cap_mm=cap_mm)


def _along(thick: Series, thin: Series) -> NDArray[np.float64]:
    """Positions (m, 3) of the thin slices in the order of the thick normal."""
    return thin.positions_mm if float(thick.normal @ thin.normal) > 0 else thin.positions_mm[::-1]


def published_pairing(
    thick_positions: NDArray[np.float64], thin_positions: NDArray[np.float64], *, window: int = WINDOW
) -> Matches:
    """The published greedy rule on positions (n, 3) and (m, 3), in the order given (docs/paper.md#pairing).

    Each thick slice takes, of the next ``window`` thin slices after the last one taken, the nearest in space. Raises
    InputError where none is left, at which the published code raised ``ValueError`` (``remove(inf)``).

    >>> line = np.array([[0.0, 0.0, 1.0]])
    >>> published_pairing(np.array([[0.0], [3.0]]) * line, np.arange(6.0)[:, None] * line)
    ((0, 0), (1, 3))
    """
    matches = []
    first = 0
    for i, position in enumerate(thick_positions):
        near = np.linalg.norm(thin_positions[first : first + window] - position, axis=1)
        if not len(near):
            raise InputError(
                f"The published pairing has no thin slice left for thick slice {i} of {len(thick_positions)}.",
                hint="The thick stack is longer than the thin one; the pairing monotone leaves such slices out.",
            )
        j = first + int(np.argmin(near))
        matches.append((i, j))
        first = j + 1
    return tuple(matches)


def monotone_pairing(
    thick_offsets_mm: NDArray[np.float64], thin_offsets_mm: NDArray[np.float64], *, cap_mm: float
) -> Matches:
    """One to one, both rising, none farther apart than the cap: the most pairs, and of those the nearest in sum.

    Offsets ascend along one normal. Of two equally near thin slices the first is taken.

    >>> monotone_pairing(np.array([0.0, 3.0, 9.0]), np.array([0.2, 1.0, 2.9, 4.0]), cap_mm=2.0)
    ((0, 0), (1, 2))
    """
    # Whole nanometres, so that equal sums are equal; a pair is worth more than all distances together.
    distances = np.rint(np.abs(thick_offsets_mm[:, None] - thin_offsets_mm[None, :]) / ROUNDING_MM).astype(np.int64)
    cap = round(cap_mm / ROUNDING_MM)
    reward = np.where(distances <= cap, (len(thick_offsets_mm) + 1) * (cap + 1) - distances, NEVER)
    best = np.zeros((len(thick_offsets_mm) + 1, len(thin_offsets_mm) + 1), dtype=np.int64)  # of the first i and j
    for i in range(len(thick_offsets_mm)):
        taken = np.concatenate([[0], best[i, :-1] + reward[i]])
        best[i + 1] = np.maximum.accumulate(np.maximum(best[i], taken))
    matches = []
    i, j = len(thick_offsets_mm), len(thin_offsets_mm)
    while i and j:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            matches.append((i, j))
    return tuple(reversed(matches))


def distances(thick: Series, thin: Series, pairing: Pairing, *, window: int = WINDOW) -> Distances | str:
    """Measure how far the slices of each pair lie apart by one rule; the rule's sentence where it fails."""
    try:
        matches = match(thick, thin, pairing, window=window)
    except InputError as error:
        return error.sentence
    if not matches:
        return "No slice has another within reach."
    thick_index, thin_index = np.array(matches).T
    apart = thick.positions_mm[thick_index] - _along(thick, thin)[thin_index]
    normal, corner = np.abs(apart @ thick.normal), np.linalg.norm(apart, axis=1)
    return Distances(
        pairs=len(matches),
        normal_median_mm=float(np.median(normal)),
        normal_max_mm=float(normal.max()),
        corner_median_mm=float(np.median(corner)),
        corner_max_mm=float(corner.max()),
    )


def load_pairs(
    thick: Source, thin: Source, *, matches: Matches, registration: Registration | None = None
) -> SlicePairs:
    """Decode two series; the thin one is brought onto the thick rows and columns, moved as the registration says.

    What the thin series does not show is 0; a pair whose thin slice the motion took out of it altogether is dropped.
    """
    thick_volume, thin_volume = volume_of(thick), volume_of(thin)
    moved = resample(thin_volume, registration, onto=thick_volume)
    thick_scale, thin_scale = body_scale(thick_volume.voxels), body_scale(thin_volume.voxels)
    return SlicePairs(
        subject=thick.subject,
        origin=Origin.REAL,
        thick=thick_volume.voxels / np.float32(thick_scale),
        thin=moved / np.float32(thin_scale),
        thick_scale=thick_scale,
        thin_scale=thin_scale,
        matches=tuple((i, j) for i, j in matches if moved[j].any()),
    )


def simulated_pairs(
    voxels: FloatArray,
    subject: str,
    *,
    plane: int,
    ratio: int,
    kind: ProfileKind = ProfileKind.BOX,
    thickness_over_spacing: float = 1.0,
    offset: float = 0.0,
    pairing: Pairing = Pairing.MONOTONE,
    window: int = WINDOW,
    scale: float | None = None,
) -> SlicePairs:
    """Thick slices averaged from a thin volume along one of its axes, matched by place as real ones are.

    Slices beyond the last whole block of ``ratio`` are left out. ``offset`` moves the thin grid, in thick spacings.
    ``scale`` is that of the body in ``voxels`` unless it is known from elsewhere.
    """
    thin = np.moveaxis(voxels, plane, 0)
    blocks = len(thin) // ratio
    if blocks < 1:
        raise InputError(f"{subject} has {len(thin)} slices along axis {plane}, too few for a ratio of {ratio}.")
    scale = body_scale(voxels) if scale is None else scale
    thin = np.ascontiguousarray(thin[: blocks * ratio]) / np.float32(scale)
    profile = profile_matrix(blocks, ratio, kind=kind, thickness_over_spacing=thickness_over_spacing, offset=offset)
    thick_place = np.arange(blocks, dtype=np.float64)
    thin_place = (np.arange(blocks * ratio) + 0.5) / ratio - 0.5 + offset
    if pairing is Pairing.PAPER:
        normal = np.array([[0.0, 0.0, 1.0]])
        matches = published_pairing(thick_place[:, None] * normal, thin_place[:, None] * normal, window=window)
    else:
        matches = monotone_pairing(thick_place, thin_place, cap_mm=(1.0 + 1.0 / ratio) / 2)
    return SlicePairs(
        subject=subject,
        origin=Origin.SIMULATED,
        thick=np.tensordot(profile.astype(np.float32), thin, axes=1),
        thin=thin,
        thick_scale=scale,
        thin_scale=scale,
        matches=matches,
    )
