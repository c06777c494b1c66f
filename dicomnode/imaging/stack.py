"""The frames of a series that may be processed → one ``Volume``, and what is needed to write its like again.

Slices are sorted by position along the normal; values are modality units (each slice's own rescale applied), float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import InputError
from dicomnode.imaging.dicom_file import UnreadableHeader, opened
from dicomnode.imaging.frame import UNDECODABLE, Frame, Slice, StoredValues, cut, decoded
from dicomnode.imaging.geometry import SliceLine, believed_thickness_mm, directions, line_of, number_direction
from dicomnode.imaging.headers import InstanceHeader
from dicomnode.imaging.volume import Volume
from dicomnode.part10 import dataset_sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelFormat:
    """The format of stored pixel values: how many bits they have, with or without a sign, and how they are rescaled."""

    bits_allocated: int
    bits_stored: int
    is_signed: bool
    slope: float  # modality unit = slope · stored + intercept
    intercept: float
    has_uniform_rescale: bool  # one slope and intercept for all slices (none at all: 1 and 0)

    @property
    def lowest(self) -> int:
        """The least value that the stored bits can hold."""
        return -(1 << (self.bits_stored - 1)) if self.is_signed else 0

    @property
    def highest(self) -> int:
        """The greatest value that the stored bits can hold."""
        return (1 << (self.bits_stored - int(self.is_signed))) - 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stack:
    """A thick series, sorted along the normal: its volume and everything of its headers that the result inherits."""

    volume: Volume
    frames: tuple[Frame, ...]  # ascending along the normal
    stored: tuple[StoredValues, ...]  # what the source stores, slice by slice
    sha256: tuple[str, ...]  # of the dataset that holds each slice, without preamble and file meta
    line: SliceLine
    number_direction: int  # +1: Instance Numbers rise along the normal
    format: PixelFormat
    minimum: float  # of all voxels that are no padding, modality units
    maximum: float
    saturated: int  # voxels at the top of their format
    padding: NDArray[np.bool_] | None  # (D, H, W), where the source has no signal by its own word
    padding_value: int | None  # stored value of those voxels

    @property
    def headers(self) -> tuple[InstanceHeader, ...]:
        """The source's header of each slice."""
        return tuple(frame.header for frame in self.frames)

    def measured(self, index: int) -> NDArray[np.float64]:
        """Modality values (H, W) of a slice as exact as its header states them; the least value where is padding."""
        values = _modality_value(self.headers[index], self.stored[index].astype(np.float64))
        if self.padding is not None:
            values[self.padding[index]] = self.minimum
        return values


def load_volume(slices: Sequence[Slice], *, digests: Mapping[Path, str] | None = None) -> Stack:
    """Decode a series that the verdict let through.

    ``digests`` holds the datasets' SHA-256 where the archive knows them; they are computed otherwise. Raises
    InputError with the number of the slice that cannot be decoded, StorageError for a file that cannot be read.
    """
    assert slices, "a series has at least one slice"
    given, unsorted = _decode(slices)
    line = line_of(given)
    frames = tuple(given[k] for k in line.order)
    stored = tuple(unsorted[k] for k in line.order)
    headers = [frame.header for frame in frames]
    stored_format = _format(headers)
    saturated = sum(int(np.count_nonzero(values == stored_format.highest)) for values in stored)
    padding, padding_value = _padding(headers, stored)
    voxels = _modality_values(headers, stored)
    minimum, maximum = _extremes(headers, stored, padding)
    if padding is not None:
        voxels[padding] = minimum  # no edge for a generator to ring at (docs/derived-objects.md#pixels-of-the-source)
    known = digests or {}
    sha256 = {path: known.get(path) or sha256_of(path) for path in dict.fromkeys(frame.path for frame in frames)}
    return Stack(
        volume=_volume(voxels, frames, line),
        frames=frames,
        stored=stored,
        sha256=tuple(sha256[frame.path] for frame in frames),
        line=line,
        number_direction=number_direction([header.instance_number for header in headers]),
        format=stored_format,
        minimum=minimum,
        maximum=maximum,
        saturated=saturated,
        padding=padding,
        padding_value=padding_value,
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of the data set of a file; StorageError where the disk refuses it."""
    with opened(path) as file:
        return dataset_sha256(file)


def _decode(slices: Sequence[Slice]) -> tuple[list[Frame], list[StoredValues]]:
    """The frames and their stored values (H, W); a slice without Instance Number is named by its place."""
    frames = [one for one in slices if isinstance(one, Frame)]
    values_of = decoded(frames)
    stored: list[StoredValues] = []
    for place, one in enumerate(slices, start=1):
        stated = one.header.instance_number if isinstance(one, Frame) else None
        number = place if stated is None else stated
        try:
            if isinstance(one, UnreadableHeader):
                raise ValueError(one.reason)
            values = next(values_of)
        except UNDECODABLE as error:
            raise InputError(
                f"Slice {number} cannot be used: its pixels cannot be decoded.",
                hint="Send the series again, uncompressed if the sender can.",
            ) from error
        if values.shape != (one.header.rows, one.header.columns):
            raise InputError(
                f"Slice {number} cannot be used: its pixels are not {one.header.rows} × {one.header.columns}.",
                hint="Send the series again.",
            )
        stored.append(values)
    return frames, stored


def _format(headers: Sequence[InstanceHeader]) -> PixelFormat:
    first = headers[0]
    assert first.bits_allocated is not None
    assert first.bits_stored is not None
    return PixelFormat(
        bits_allocated=first.bits_allocated,
        bits_stored=first.bits_stored,
        is_signed=first.pixel_representation == 1,
        slope=_slope(first),
        intercept=_intercept(first),
        has_uniform_rescale=len({(_slope(header), _intercept(header)) for header in headers}) == 1,
    )


def _slope(header: InstanceHeader) -> float:
    return 1.0 if header.rescale_slope is None else header.rescale_slope


def _intercept(header: InstanceHeader) -> float:
    return header.rescale_intercept or 0.0


def _modality_value(header: InstanceHeader, stored: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn stored values into modality units, in place."""
    stored *= _slope(header)
    stored += _intercept(header)
    return stored


def _modality_values(headers: Sequence[InstanceHeader], stored: Sequence[StoredValues]) -> NDArray[np.float32]:
    voxels = np.empty((len(stored), *stored[0].shape), dtype=np.float32)
    for k, (header, values) in enumerate(zip(headers, stored, strict=True)):
        voxels[k] = _modality_value(header, values.astype(np.float64))
    return voxels


def _padding(
    headers: Sequence[InstanceHeader], stored: Sequence[StoredValues]
) -> tuple[NDArray[np.bool_] | None, int | None]:
    """Mask (D, H, W) and stored value of padding; None where no voxel has it, and the attribute says nothing."""
    mask = np.zeros((len(stored), *stored[0].shape), dtype=np.bool_)
    value = None
    for k, (header, values) in enumerate(zip(headers, stored, strict=True)):
        limits = [_stored_limit(header, keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
        stated = [limit for limit in limits if limit is not None]
        if limits[0] is not None:
            value = limits[0]
            mask[k] = (values >= min(stated)) & (values <= max(stated))
    return (mask, value) if mask.any() else (None, None)


def _stored_limit(header: InstanceHeader, keyword: str) -> int | None:
    """A US-or-SS attribute as a stored value, whichever of the two VRs the writer thought right."""
    text = header.text(keyword)
    if not text.lstrip("-").isdecimal() or header.bits_stored is None:
        return None
    word = np.array(int(text) & 0xFFFF, dtype=np.uint16)
    return int(cut(word, header.bits_stored, is_signed=header.pixel_representation == 1))


def _extremes(
    headers: Sequence[InstanceHeader], stored: Sequence[StoredValues], padding: NDArray[np.bool_] | None
) -> tuple[float, float]:
    """The least and the greatest modality value outside the padding; of all voxels where all of them are padding."""
    found = []
    for k, (header, values) in enumerate(zip(headers, stored, strict=True)):
        counted = values if padding is None or padding.all() else values[~padding[k]]
        if counted.size:
            ends = np.array([counted.min(), counted.max()], dtype=np.float64)  # a slope is positive
            found.extend(_modality_value(header, ends).tolist())
    return min(found), max(found)


def _volume(voxels: NDArray[np.float32], frames: Sequence[Frame], line: SliceLine) -> Volume:
    first = frames[0].header
    assert first.orientation is not None
    assert first.pixel_spacing_mm is not None
    orientation = np.median([frame.header.orientation or () for frame in frames], axis=0)
    row, column = directions(orientation.tolist())
    thickness_mm = believed_thickness_mm(frames, line.spacing_mm)
    return Volume(
        voxels=voxels,
        origin_mm=line.origin_mm,
        row_direction=row,
        column_direction=column,
        slice_step_mm=line.step_mm,
        row_spacing_mm=first.pixel_spacing_mm[0],
        column_spacing_mm=first.pixel_spacing_mm[1],
        slice_thickness_mm=line.spacing_mm if thickness_mm is None else thickness_mm,
    )
