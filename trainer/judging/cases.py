"""The cases that methods are judged on: thick stacks whose thin truth is known.

Thin volumes are averaged into thick slices along each of their three axes. Thick series have no thin truth: their own
slices serve as one and are averaged by twos (docs/science.md#other-anatomy-and-contrast). Ranges and masks are those of
docs/science.md#metrics: one scale per case, from the truth, for all methods.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import InputError
from dicomnode.imaging import metrics
from dicomnode.imaging.body import body_box, body_mask, body_scale
from dicomnode.imaging.profile import Matrix, ProfileKind, choose_ratio, profile_matrix
from dicomnode.imaging.volume import Volume
from trainer.data.sources import Source, Split
from trainer.data.volumes import volume_of

FloatArray = NDArray[np.float32]

VALIDATION_RATIOS = (3, 4, 5)
PLANES = (0, 1, 2)
RETHICKENED_RATIO = 2  # more would leave too few slices
MISMATCHES = ((ProfileKind.GAUSSIAN, 1.0), (ProfileKind.BOX, 0.8))  # true profiles, t/s; judged at …
MISMATCH_RATIO, MISMATCH_PLANE = 4, 0
FEWEST_SLABS = 4  # a spline through fewer is hardly one


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A selection of cases; the defaults are those that models are compared on."""

    planes: tuple[int, ...] = PLANES
    ratios: tuple[int, ...] = VALIDATION_RATIOS
    subjects: tuple[str, ...] = ()  # or labels; all where empty
    mismatches: bool = True  # also cases whose true profile is not the box that methods assume


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """A thin truth in scale units, slice axis first, cropped to the body and to whole slabs."""

    label: str
    subject: str
    split: Split
    licence: str
    plane: int
    ratio: int
    profile: ProfileKind = ProfileKind.BOX  # the true one; methods assume a box
    thickness_over_spacing: float = 1.0
    is_rethickened: bool = False  # the truth is a thick series' own slices
    scale: float  # raw value of 1.0
    voxel_mm: tuple[float, float, float]  # of the truth: across the slices, between rows, between columns
    axes: NDArray[np.float64]  # (3, 3): unit vectors in LPS of rising slice, row and column index
    truth: FloatArray  # (n·ratio, H, W)
    mask: metrics.Mask

    @property
    def is_nominal(self) -> bool:
        """Is the true profile the one that methods assume?"""
        return (self.profile, self.thickness_over_spacing) == (ProfileKind.BOX, 1.0)

    @property
    def true_profile(self) -> Matrix:
        """(n, n·ratio)."""
        return profile_matrix(
            len(self.truth) // self.ratio,
            self.ratio,
            kind=self.profile,
            thickness_over_spacing=self.thickness_over_spacing,
        )

    @property
    def name(self) -> str:
        """The name of the case in progress lines and reports."""
        profile = "" if self.is_nominal else f", {self.profile} of {self.thickness_over_spacing:g} × spacing"
        return f"{self.label}, plane {self.plane}, ratio {self.ratio}{profile}"

    def thick_volume(self) -> Volume:
        """The thick stack in scale units, as the node would hand it to a generator; its place in space is made up."""
        across_mm, row_spacing_mm, column_spacing_mm = self.voxel_mm
        spacing_mm = across_mm * self.ratio
        return Volume(
            voxels=np.tensordot(self.true_profile.astype(np.float32), self.truth, axes=1),
            origin_mm=np.zeros(3),
            row_direction=np.array([1.0, 0.0, 0.0]),
            column_direction=np.array([0.0, 1.0, 0.0]),
            slice_step_mm=np.array([0.0, 0.0, spacing_mm]),
            row_spacing_mm=row_spacing_mm,
            column_spacing_mm=column_spacing_mm,
            slice_thickness_mm=self.thickness_over_spacing * spacing_mm,
        )

    def placed(self, voxels: FloatArray) -> Volume:
        """A thick or thin stack of this case where it lies in the patient, for showing it.

        Slices taken along another axis than the scanner's may form a left-handed stack, which is turned round here.
        """
        across_mm = self.voxel_mm[0] * len(self.truth) / len(voxels)
        across, down, along = self.axes
        is_left_handed = float(np.cross(along, down) @ across) < 0
        return Volume(
            voxels=voxels[::-1] if is_left_handed else voxels,
            origin_mm=np.zeros(3),
            row_direction=along,
            column_direction=down,
            slice_step_mm=across * (-across_mm if is_left_handed else across_mm),
            row_spacing_mm=self.voxel_mm[1],
            column_spacing_mm=self.voxel_mm[2],
            slice_thickness_mm=across_mm,
        )


def judged_sources(found: Sequence[Source], selection: Selection) -> tuple[Source, ...]:
    """The sources that nothing was trained on and that were asked for; InputError where none is left."""
    held_out = [source for source in found if source.split is not Split.TRAIN]
    if not held_out:
        raise InputError(
            "Every source is to be trained on; there is nothing to judge on.",
            hint="Give some the split validation or unseen.",
        )
    wanted = set(selection.subjects)
    known = {word for source in held_out for word in (source.label, source.subject)}
    if unknown := sorted(wanted - known):
        raise InputError(
            f"No source to judge on is called {unknown[0]}.", hint=f"There are: {', '.join(sorted(known))}."
        )
    return tuple(source for source in held_out if not wanted or wanted & {source.label, source.subject})


def cases(found: Sequence[Source], selection: Selection | None = None) -> Iterator[Case]:
    """Every case of the sources, one volume in memory at a time."""
    for source in judged_sources(found, selection or Selection()):
        yield from cases_of(source, volume_of(source), selection or Selection())


def cases_of(source: Source, volume: Volume, selection: Selection) -> Iterator[Case]:
    """Planes × ratios of a thin volume and some with another profile; of a thick one its re-thickened self."""
    body = _find_body(volume)
    if not is_thin(volume):
        case = _cut(source, body, plane=0, ratio=RETHICKENED_RATIO)
        if _is_tall(case):
            yield replace(case, is_rethickened=True)
        return
    for plane in selection.planes:
        for ratio in selection.ratios:
            case = _cut(source, body, plane=plane, ratio=ratio)
            if _is_tall(case):
                yield case
    if selection.mismatches and MISMATCH_PLANE in selection.planes and MISMATCH_RATIO in selection.ratios:
        nominal = _cut(source, body, plane=MISMATCH_PLANE, ratio=MISMATCH_RATIO)
        for kind, thickness in MISMATCHES if _is_tall(nominal) else ():
            yield replace(nominal, profile=kind, thickness_over_spacing=thickness)


def is_thin(volume: Volume) -> bool:
    """Would the node keep it as already thin, so that it can be a truth?"""
    return choose_ratio(volume.slice_spacing_mm, min(volume.row_spacing_mm, volume.column_spacing_mm)) is None


def prepare(source: Source, volume: Volume, *, plane: int, ratio: int) -> Case:
    """Scale, mask, crop, and put axis ``plane`` first; slices beyond the last whole slab are left out."""
    return _cut(source, _find_body(volume), plane=plane, ratio=ratio)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Body:
    """A volume in scale units, cropped; the same for all planes and ratios."""

    scale: float
    scaled: FloatArray
    mask: metrics.Mask
    steps_mm: NDArray[np.float64]  # (3, 3): from one voxel to the next along each array axis, LPS


def _find_body(volume: Volume) -> _Body:
    scale = body_scale(volume.voxels)
    scaled = volume.voxels / np.float32(scale)
    mask = body_mask(scaled)
    box = body_box(mask)
    return _Body(scale=scale, scaled=scaled[box], mask=mask[box], steps_mm=volume.affine[:3, :3].T)


def _cut(source: Source, body: _Body, *, plane: int, ratio: int) -> Case:
    truth, mask = np.moveaxis(body.scaled, plane, 0), np.moveaxis(body.mask, plane, 0)
    whole = len(truth) // ratio * ratio
    steps_mm = body.steps_mm[[plane, *(axis for axis in PLANES if axis != plane)]]
    lengths_mm = np.linalg.norm(steps_mm, axis=1)
    return Case(
        label=source.label,
        subject=source.subject,
        split=source.split,
        licence=source.licence,
        plane=plane,
        ratio=ratio,
        scale=body.scale,
        voxel_mm=(float(lengths_mm[0]), float(lengths_mm[1]), float(lengths_mm[2])),
        axes=steps_mm / lengths_mm[:, None],
        truth=np.ascontiguousarray(truth[:whole]),
        mask=np.ascontiguousarray(mask[:whole]),
    )


def _is_tall(case: Case) -> bool:
    return len(case.truth) >= FEWEST_SLABS * case.ratio
