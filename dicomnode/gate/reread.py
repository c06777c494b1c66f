"""Figures of the encoded files, read again: place, identity, values and averages.

In: the whole Part 10 files, one by one and in any order. Out: findings. The expected values are computed here from the
source alone, and not by the code that wrote the files. No file is changed.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.tag import Tag

from dicomnode.gate.rule import Check, Finding, finding, in_steps, step_of
from dicomnode.imaging.frame import UNDECODABLE, stored_values
from dicomnode.imaging.headers import InstanceHeader, header_of
from dicomnode.imaging.identity import IDENTITY_GROUPS
from dicomnode.imaging.metrics import Mask
from dicomnode.imaging.profile import assumed_thickness_over_spacing, profile_matrix
from dicomnode.imaging.representation import standard_vr
from dicomnode.imaging.spelling import canonical
from dicomnode.imaging.stack import Stack
from dicomnode.imaging.volume import Volume
from dicomnode.imaging.words import attribute_name

FORM_TOLERANCE: Final = 1e-4  # of a direction cosine, and of a spacing as a share of it
ROWS: Final = 4  # every fourth row of a file is compared: encoding goes wrong in whole slices, or not at all


class Reread:
    """Reads the encoded files again, one by one and in any order, and compares them with the source."""

    def __init__(
        self, stack: Stack, thin: Volume, *, consistency: bool, patient: Mapping[str, str] | None = None
    ) -> None:
        """``patient``: attributes by keyword, where the series goes under another patient than its source."""
        self._stack = stack
        self._thin = thin
        self._consistency = consistency
        self._ratio = len(thin.voxels) // len(stack.volume.voxels)
        thickness = assumed_thickness_over_spacing(stack.volume)
        self._weights = profile_matrix(1, self._ratio, thickness_over_spacing=thickness)[0]
        self._identity = dict(stack.headers[0].identity) if patient is None else _identity_of(patient)
        self._numbers: dict[int, int | None] = {}  # place along the normal → Instance Number
        self._misplaced_mm = 0.0
        self._wrong: set[str] = set()  # names of attributes
        self._squares = 0.0
        self._voxels = 0
        self._slabs: dict[int, _Slab] = {}
        self._average_off = 0.0  # stored steps
        self._series: set[str] = set()
        self._instances: set[str] = set()

    def add(self, content: bytes) -> None:
        """Look at one whole Part 10 file."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values
            dataset = pydicom.dcmread(io.BytesIO(content))
        try:
            stored = stored_values(dataset)
        except UNDECODABLE:
            self._wrong.add("Pixel Data")
            return
        header = header_of(dataset, Path())
        index = self._place(header)
        self._compare(header)
        if index is None or stored.shape != self._thin.voxels.shape[1:]:
            return
        slope = 1.0 if header.rescale_slope is None else header.rescale_slope
        values = stored[::ROWS].astype(np.float64) * slope + (header.rescale_intercept or 0.0)
        owner, phase = divmod(index, self._ratio)
        brightest = slope * self._stack.format.highest + (header.rescale_intercept or 0.0)
        slab = self._slabs.get(owner) or self._slabs.setdefault(owner, self._begun(owner, brightest))
        difference = np.abs(values - self._thin.voxels[index, ::ROWS])[slab.within]
        self._squares += float(np.square(np.maximum(difference - slope / 2, 0.0)).sum())
        self._voxels += difference.size
        slab.add(phase, self._weights[phase] * values)
        if len(slab.phases) == self._ratio:
            self._average_off = max(self._average_off, self._off(owner, slab) / slope)
            del self._slabs[owner]

    def findings(self) -> list[Finding]:
        """Say what all files together show."""
        self._compare_series()
        wrong = sorted(self._wrong)
        step = step_of(self._stack.volume)
        off = math.sqrt(self._squares / max(self._voxels, 1))
        return [
            finding(Check.PLACE, self._misplaced_mm),
            finding(Check.HEADER, len(wrong), names=wrong),
            finding(Check.VALUES, in_steps(off, step)),
            finding(Check.ENCODED_AVERAGES, self._average_off),
        ]

    def _place(self, header: InstanceHeader) -> int | None:
        """Return which thin slice lies nearest to the file's position; None where the file states none."""
        thick = self._stack.volume
        if header.position_mm is None:
            self._wrong.add("Image Position (Patient)")
            return None
        step_mm = thick.slice_step_mm / self._ratio
        first_mm = thick.origin_mm - thick.slice_step_mm / 2 + step_mm / 2  # the slab begins half a spacing before
        position_mm = np.array(header.position_mm)
        index = round(float((position_mm - first_mm) @ step_mm / (step_mm @ step_mm)))
        index = min(max(index, 0), len(self._thin.voxels) - 1)
        self._misplaced_mm = max(self._misplaced_mm, float(np.linalg.norm(position_mm - first_mm - index * step_mm)))
        if index in self._numbers:
            self._wrong.add("Image Position (Patient)")
            return None
        self._numbers[index] = header.instance_number
        return index

    def _compare(self, header: InstanceHeader) -> None:
        """Note every attribute that says another thing than the source implies."""
        thick, source = self._stack.volume, self._stack.headers[0]
        directions = (*thick.row_direction, *thick.column_direction)
        spacing_mm = thick.slice_spacing_mm / self._ratio
        stated = dict(header.identity)
        self._wrong |= {name for name, value in stated.items() if self._identity.get(name) != value}
        patient_id = attribute_name("PatientID")
        self._wrong |= {
            name
            for name, is_right in {
                patient_id: header.canonical("PatientID") == self._identity.get(patient_id, ""),
                "Study Instance UID": header.study_uid == source.study_uid,
                "Frame of Reference UID": header.frame_of_reference_uid == source.frame_of_reference_uid,
                "Image Type": header.image_type[:1] == ("DERIVED",),
                "Image Orientation (Patient)": _is_near(header.orientation, directions, FORM_TOLERANCE),
                "Pixel Spacing": _is_near(
                    header.pixel_spacing_mm,
                    (thick.row_spacing_mm, thick.column_spacing_mm),
                    FORM_TOLERANCE * thick.row_spacing_mm,
                ),
                "Slice Thickness": _is_near(
                    None if header.slice_thickness_mm is None else (header.slice_thickness_mm,),
                    (spacing_mm,),
                    FORM_TOLERANCE * spacing_mm,
                ),
                "Rows": header.rows == thick.voxels.shape[1],
                "Columns": header.columns == thick.voxels.shape[2],
            }.items()
            if not is_right
        }
        self._series.add(header.series_uid)
        self._instances.add(header.sop_instance_uid)

    def _compare_series(self) -> None:
        """Note what only all files together show: one series of its own, a slice at each place, numbers in order."""
        count = len(self._thin.voxels)
        if len(self._series) != 1 or self._stack.headers[0].series_uid in self._series:
            self._wrong.add("Series Instance UID")
        if len(self._instances) != count or self._instances & {one.sop_instance_uid for one in self._stack.headers}:
            self._wrong.add("SOP Instance UID")
        rising = [self._numbers.get(index) for index in range(count)][:: self._stack.number_direction]
        if rising != list(range(1, count + 1)):
            self._wrong.add("Instance Number")

    def _begun(self, owner: int, brightest: float) -> _Slab:
        """A slab of which no file has come yet.

        A column that reaches below the least value of the source, or above what the words hold, is not compared: what
        is cut off there moves its other voxels.
        """
        padding = self._stack.padding
        thin = self._thin.voxels[owner * self._ratio : (owner + 1) * self._ratio, ::ROWS]
        shown = np.ones(thin.shape[1:], dtype=np.bool_) if padding is None else ~padding[owner, ::ROWS]
        fitting = (thin >= np.float32(self._stack.minimum)) & (thin <= np.float32(brightest))
        return _Slab(shown=shown, within=shown & fitting.all(axis=0))

    def _off(self, owner: int, slab: _Slab) -> float:
        """Largest difference of a slab's average from the thick slice, or from the generator's own average."""
        if self._consistency:
            expected, compared = self._stack.measured(owner)[::ROWS], slab.shown
        else:
            thin = self._thin.voxels[owner * self._ratio : (owner + 1) * self._ratio, ::ROWS]
            expected, compared = np.tensordot(self._weights, thin.astype(np.float64), axes=1), slab.within
        return float(np.abs(slab.total - expected).max(where=compared, initial=0.0))


@dataclass(slots=True, kw_only=True, eq=False)
class _Slab:
    """The sum of the decoded thin slices of one thick slice, as far as they have come."""

    shown: Mask  # (h, w): no padding
    within: Mask  # (h, w): no padding, and no thin voxel that has to be cut off
    phases: set[int] = field(default_factory=set)
    total: NDArray[np.float64] | float = 0.0

    def add(self, phase: int, weighted: NDArray[np.float64]) -> None:
        """Add one slice."""
        self.phases.add(phase)
        self.total = self.total + weighted


def _identity_of(patient: Mapping[str, str]) -> dict[str, str]:
    """Return the ``InstanceHeader.identity`` that a header with these attributes of the patient must have."""
    tags = {keyword: Tag(keyword) for keyword in patient}
    found = {
        attribute_name(keyword): canonical(standard_vr(tag), patient[keyword])
        for keyword, tag in tags.items()
        if tag.group in IDENTITY_GROUPS
    }
    return {name: text for name, text in found.items() if text}


def _is_near(stated: Sequence[float] | None, expected: Sequence[float], tolerance: float) -> bool:
    return stated is not None and bool(np.abs(np.subtract(stated, expected)).max() <= tolerance)
