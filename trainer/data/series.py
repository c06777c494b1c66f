"""What the headers of a source tell: what the node would do with it, and who may be its partner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from dicomnode.imaging.frame import Frame, read_frames
from dicomnode.imaging.geometry import line_of
from dicomnode.imaging.judge import judge
from dicomnode.imaging.profile import choose_ratio
from dicomnode.imaging.studies import shown_name
from dicomnode.imaging.verdict import Limits, Verdict, VerdictReason
from trainer.data import nifti
from trainer.data.people import alike_of, person_of
from trainer.data.sources import Source

# Attributes by which two series of one place look alike or not; ``contrast`` compares them.
CONTRAST = (
    "EchoTime", "RepetitionTime", "InversionTime", "FlipAngle", "ScanningSequence", "SequenceVariant", "ScanOptions",
    "MRAcquisitionType", "ContrastBolusAgent", "SeriesDescription", "SequenceName",
)  # fmt: skip


class Form(StrEnum):
    """The forms that the files of a series can have."""

    CLASSIC = "classic"  # a file for each slice
    ENHANCED = "enhanced"  # multi-frame (Enhanced MR) objects
    NIFTI = "NIfTI"


class Role(StrEnum):
    """The roles that a series can have in a pair."""

    THIN = "thin"  # the node would keep it as already thin: a truth
    THICK = "thick"  # the node would process it: an input
    UNUSABLE = "unusable"  # the node would keep it for another reason, which its sentence says


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Series:
    """A source with what its headers tell: enough to find its partner without decoding a pixel."""

    source: Source
    role: Role
    sentence: str  # the node's verdict
    reason: VerdictReason | None = None  # of that verdict; None for NIfTI, on which the node has none
    slices: int
    form: Form
    series_number: int | None = None
    rows: int = 0
    columns: int = 0
    pixel_spacing_mm: tuple[float, float] = (0.0, 0.0)  # between rows, between columns
    slice_spacing_mm: float | None = None  # None as far as the verdict did not come
    slice_thickness_mm: float | None = None  # None: unknown or not believed
    orientation: tuple[float, ...] = ()  # six cosines, LPS; () where positions make no stack of one direction
    positions_mm: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 3)))  # ascending along the normal
    frame_of_reference_uid: str = field(default="", repr=False)
    person: str = field(default="", repr=False)  # digest
    alike: str = field(default="", repr=False)  # digest, the same for people who may be one; "" where nobody knows
    image_type: tuple[str, ...] = ()
    contrast: Mapping[str, str] = field(default_factory=dict, repr=False)  # of CONTRAST, those that are stated

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector across the slices."""
        return np.cross(self.orientation[:3], self.orientation[3:])

    @property
    def offsets_mm(self) -> NDArray[np.float64]:
        """Position of each slice along the normal."""
        return np.asarray(self.positions_mm @ self.normal)


def describe(source: Source) -> Series:
    """Read the headers of a source, and what the node would do with it; never raises for what is in its files."""
    return _describe_nifti(source) if source.is_nifti else _describe_dicom(source)


def _describe_dicom(source: Source) -> Series:
    slices = read_frames(source.paths)
    verdict = judge(slices, Limits())
    role = role_of(verdict)
    frames = [one for one in slices if isinstance(one, Frame)]
    if source.fault:
        verdict = replace(verdict, reason=VerdictReason.UNUSABLE, sentence=source.fault)
        role = Role.UNUSABLE
    is_enhanced = any(frame.number is not None for frame in frames)
    form = Form.ENHANCED if is_enhanced else Form.CLASSIC
    if not frames:
        return Series(
            source=source, role=role, sentence=verdict.sentence, reason=verdict.reason, slices=len(slices), form=form
        )
    first = frames[0].header
    series = Series(
        form=form,
        source=source,
        role=role,
        sentence=verdict.sentence,
        reason=verdict.reason,
        slices=len(slices),
        series_number=first.series_number,
        rows=first.rows or 0,
        columns=first.columns or 0,
        pixel_spacing_mm=first.pixel_spacing_mm or (0.0, 0.0),
        slice_spacing_mm=verdict.slice_spacing_mm,
        slice_thickness_mm=verdict.slice_thickness_mm,
        frame_of_reference_uid=first.frame_of_reference_uid,
        person=person_of(first),
        alike=alike_of(first),
        image_type=first.image_type,
        contrast={keyword: text for keyword in CONTRAST if (text := first.text(keyword))},
    )
    if verdict.slice_spacing_mm is None:  # the verdict did not find one stack
        return series
    line = line_of(frames)
    return replace(
        series,
        orientation=tuple(np.median([frame.header.orientation or () for frame in frames], axis=0).tolist()),
        positions_mm=np.array([frames[k].header.position_mm for k in line.order], dtype=np.float64),
    )


def _describe_nifti(source: Source) -> Series:
    """Describe a NIfTI file. It has no Frame of Reference and no person: it is in no real pair.

    Thin, it is a truth for simulated pairs; thick, its rows and columns may be one. ``person`` is the digest of its
    content: equal where the picture is the same.
    """
    read = nifti.read_nifti(source.paths[0])
    if isinstance(read, str):
        sentence = f"{shown_name(source.paths[0])} cannot be used: {read}."
        return Series(source=source, role=Role.UNUSABLE, sentence=sentence, slices=0, form=Form.NIFTI)
    volume = read.volume
    in_plane = (volume.row_spacing_mm, volume.column_spacing_mm)
    spacings = (volume.slice_spacing_mm, *in_plane)
    if choose_ratio(max(spacings), min(spacings)) is None:
        role, words = Role.THIN, "are thin in every direction"
    elif choose_ratio(max(in_plane), min(in_plane)) is None:
        role, words = Role.THICK, "are thick in one direction: its rows and columns are of use (--in-plane)"
    else:
        role, words = Role.UNUSABLE, "are of use in no direction"
    size = f"Voxels of {' × '.join(f'{spacing:.3g}' for spacing in spacings)} mm"
    return Series(
        source=source,
        role=role,
        sentence=f"{size} {words}.",
        slices=len(volume.voxels),
        form=Form.NIFTI,
        rows=volume.voxels.shape[1],
        columns=volume.voxels.shape[2],
        pixel_spacing_mm=(volume.row_spacing_mm, volume.column_spacing_mm),
        slice_spacing_mm=volume.slice_spacing_mm,
        person=read.content,
    )


def role_of(verdict: Verdict) -> Role:
    """Return the role that the node's verdict gives a series."""
    return {VerdictReason.PROCESS: Role.THICK, VerdictReason.ALREADY_THIN: Role.THIN}.get(verdict.reason, Role.UNUSABLE)
