"""The instances of a series that may be processed → one ``Volume``, and what is needed to write its like again.

Pixels are decoded here and nowhere else. Slices are sorted by position along the normal; values are modality units
(each slice's own rescale applied), float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.pixels.utils import pixel_array

from dicomnode.errors import InputError
from dicomnode.imaging.geometry import SliceLine, directions, number_direction
from dicomnode.imaging.headers import InstanceHeader, header_of, opened, read_dataset, texts
from dicomnode.imaging.representation import MALFORMED
from dicomnode.imaging.verdict import believed_thickness_mm, line_of
from dicomnode.imaging.volume import Volume
from dicomnode.part10 import dataset_sha256

Frame = NDArray[np.int16] | NDArray[np.uint16]  # stored values of one slice (H, W)

UNDECODABLE = (*MALFORMED, RuntimeError)  # pydicom raises RuntimeError when all decoders have failed


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelFormat:
    """How stored values stand in their words, and what they mean."""

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
    frames: tuple[Frame, ...]  # what the source stores, slice by slice
    headers: tuple[InstanceHeader, ...]  # ascending along the normal
    sha256: tuple[str, ...]  # of each source dataset, without preamble and file meta
    line: SliceLine
    number_direction: int  # +1: Instance Numbers rise along the normal
    format: PixelFormat
    minimum: float  # of all voxels that are no padding, modality units
    maximum: float
    saturated: int  # voxels at the top of their format
    padding: NDArray[np.bool_] | None  # (D, H, W), where the source has no signal by its own word
    padding_value: int | None  # stored value of those voxels

    def measured(self, index: int) -> NDArray[np.float64]:
        """Modality values (H, W) of a slice as exact as its header states them; the least value where is padding."""
        values = _modality_value(self.headers[index], self.frames[index].astype(np.float64))
        if self.padding is not None:
            values[self.padding[index]] = self.minimum
        return values


def load_volume(paths: Sequence[Path], *, digests: Mapping[Path, str] | None = None) -> Stack:
    """Decode a series that the verdict let through.

    ``digests`` holds the datasets' SHA-256 where the archive knows them; they are computed otherwise. Raises
    InputError with the number of the slice that cannot be decoded, StorageError for a file that cannot be read.
    """
    assert paths, "a series has at least one instance"
    decoded = [_decode(path, place) for place, path in enumerate(paths, start=1)]
    line = line_of([header for header, _ in decoded])
    headers = tuple(decoded[k][0] for k in line.order)
    frames = [decoded[k][1] for k in line.order]
    del decoded
    stored_format = _format(headers)
    saturated = sum(int(np.count_nonzero(frame == stored_format.highest)) for frame in frames)
    padding, padding_value = _padding(headers, frames)
    voxels = _modality_values(headers, frames)
    minimum, maximum = _extremes(headers, frames, padding)
    if padding is not None:
        voxels[padding] = minimum  # no edge for a generator to ring at (DERIVED §1.3)
    known = digests or {}
    return Stack(
        volume=_volume(voxels, headers, line),
        frames=tuple(frames),
        headers=headers,
        sha256=tuple(known.get(header.path) or sha256_of(header.path) for header in headers),
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


def _decode(path: Path, place: int) -> tuple[InstanceHeader, Frame]:
    """Header and stored values (H, W); ``place`` names a slice without Instance Number."""
    number = place
    try:
        dataset = read_dataset(path, pixels=True)
        number = next((int(text) for text in texts(dataset, "InstanceNumber") if text.isdecimal()), place)
        frame = stored_values(dataset)
        if frame.ndim != 2:
            raise ValueError("not one grey image")
        header = header_of(dataset, path)
    except UNDECODABLE as error:
        raise InputError(
            f"Slice {number} cannot be used: its pixels cannot be decoded.",
            hint="Send the series again, uncompressed if the sender can.",
        ) from error
    if frame.shape != (header.rows, header.columns):
        raise InputError(
            f"Slice {number} cannot be used: its pixels are not {header.rows} × {header.columns}.",
            hint="Send the series again.",
        )
    return header, frame


def stored_values(dataset: FileDataset) -> Frame:
    """Decoded words, cut to Bits Stored; raises one of UNDECODABLE.

    Siemens XA30 leaves words of 65535 where 12 bits are stored; a reader that takes them as they are sees a spike
    sixteen times as bright as anything else (DERIVED §1.3).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of trailing padding, which harms nothing
        words = pixel_array(dataset)
    if words.dtype.kind not in "iu":
        raise ValueError("no image of whole numbers")
    return _cut(words, int(dataset.BitsStored), is_signed=dataset.PixelRepresentation == 1)


def _cut(words: NDArray[np.integer], bits_stored: int, *, is_signed: bool) -> Frame:
    """Mask to the stored bits, and extend their sign."""
    cut = words.astype(np.int32) & ((1 << bits_stored) - 1)
    if not is_signed:
        return cut.astype(np.uint16)
    sign = 1 << (bits_stored - 1)
    return ((cut ^ sign) - sign).astype(np.int16)


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
    """Of stored values, in place."""
    stored *= _slope(header)
    stored += _intercept(header)
    return stored


def _modality_values(headers: Sequence[InstanceHeader], frames: Sequence[Frame]) -> NDArray[np.float32]:
    voxels = np.empty((len(frames), *frames[0].shape), dtype=np.float32)
    for k, (header, frame) in enumerate(zip(headers, frames, strict=True)):
        voxels[k] = _modality_value(header, frame.astype(np.float64))
    return voxels


def _padding(headers: Sequence[InstanceHeader], frames: Sequence[Frame]) -> tuple[NDArray[np.bool_] | None, int | None]:
    """Mask (D, H, W) and stored value of padding; None where no voxel has it, and the attribute says nothing."""
    mask = np.zeros((len(frames), *frames[0].shape), dtype=np.bool_)
    value = None
    for k, (header, frame) in enumerate(zip(headers, frames, strict=True)):
        limits = [_stored_limit(header, keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
        stated = [limit for limit in limits if limit is not None]
        if limits[0] is not None:
            value = limits[0]
            mask[k] = (frame >= min(stated)) & (frame <= max(stated))
    return (mask, value) if mask.any() else (None, None)


def _stored_limit(header: InstanceHeader, keyword: str) -> int | None:
    """A US-or-SS attribute as a stored value, whichever of the two VRs the writer thought right."""
    text = header.text(keyword)
    if not text.lstrip("-").isdecimal() or header.bits_stored is None:
        return None
    word = np.array(int(text) & 0xFFFF, dtype=np.uint16)
    return int(_cut(word, header.bits_stored, is_signed=header.pixel_representation == 1))


def _extremes(
    headers: Sequence[InstanceHeader], frames: Sequence[Frame], padding: NDArray[np.bool_] | None
) -> tuple[float, float]:
    """Least and greatest modality value of all that is no padding, or of all voxels where everything is."""
    found = []
    for k, (header, frame) in enumerate(zip(headers, frames, strict=True)):
        stored = frame if padding is None or padding.all() else frame[~padding[k]]
        if stored.size:
            ends = np.array([stored.min(), stored.max()], dtype=np.float64)  # a slope is positive
            found.extend(_modality_value(header, ends).tolist())
    return min(found), max(found)


def _volume(voxels: NDArray[np.float32], headers: Sequence[InstanceHeader], line: SliceLine) -> Volume:
    first = headers[0]
    assert first.orientation is not None
    assert first.pixel_spacing_mm is not None
    orientation = np.median([header.orientation or () for header in headers], axis=0)
    row, column = directions(orientation.tolist())
    thickness_mm = believed_thickness_mm(headers, line.spacing_mm)
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
