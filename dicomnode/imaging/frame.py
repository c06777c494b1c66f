"""One slice of a series is one frame of a file: which file, which frame, what its header says, its stored values.

In: files. Out: frames, and their stored values on demand. A classic instance has one frame. An Enhanced MR object has
several, each with the header that a classic instance of this frame would have (``enhanced``); whoever works on slices
works on frames and does not see the difference. A file that cannot be read stands as itself among the frames, so that
a series is never judged without it. Nothing here says whether a frame is fit for anything.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.encaps import generate_frames, get_frame
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from dicomnode.imaging.dicom_file import UnreadableHeader, read_dataset, read_dataset_or_reason
from dicomnode.imaging.enhanced import ENHANCED_MR_IMAGE_STORAGE, frame_datasets
from dicomnode.imaging.headers import InstanceHeader, header_or_reason
from dicomnode.imaging.representation import MALFORMED
from dicomnode.imaging.texts import texts

UNDECODABLE = (*MALFORMED, RuntimeError)  # pydicom raises RuntimeError when all decoders have failed

# Every JPEG, JPEG-LS and JPEG 2000 codestream ends with the same marker (PS3.5 section 8.2 and annex A.4).
ENDED_BY_MARKER = frozenset(
    {
        JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless,
        JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K,
    }
)  # fmt: skip
END_OF_IMAGE = b"\xff\xd9"
FILL_BYTES = b"\0\xff"  # of a fragment to an even length, and in front of a marker

StoredValues = NDArray[np.int16] | NDArray[np.uint16]  # of one frame (H, W)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Frame:
    """One frame of a file. Without a ``repr``: a traceback in the log must not name the patient."""

    header: InstanceHeader  # of this frame alone: its own position, orientation and rescale
    number: int | None = None  # from 1, as Referenced Frame Number counts (PS3.3 Table 10-3); None: a classic instance

    @property
    def path(self) -> Path:
        """The file that holds the frame."""
        return self.header.path


Slice = Frame | UnreadableHeader  # of a series as it came


def frames_of(path: Path) -> tuple[Slice, ...]:
    """The frames of one file, or the file that cannot be read; StorageError where the disk refuses it.

    A multi-frame object of another class than Enhanced MR stands as one frame, which the verdict refuses and which
    cannot be decoded.
    """
    read = read_dataset_or_reason(path)
    if isinstance(read, UnreadableHeader):
        return (read,)
    if "".join(texts(read, "SOPClassUID")) == ENHANCED_MR_IMAGE_STORAGE:
        return _frames_of_object(read, path)
    header = header_or_reason(read, path)
    return (header if isinstance(header, UnreadableHeader) else Frame(header=header),)


def _frames_of_object(dataset: FileDataset, path: Path) -> tuple[Slice, ...]:
    """Read each frame of an Enhanced MR object, or say of the file why it cannot be used."""
    datasets = frame_datasets(dataset)
    if isinstance(datasets, str):
        return (UnreadableHeader(path=path, reason=datasets),)
    found: list[Slice] = []
    for number, of_frame in enumerate(datasets, start=1):
        header = header_or_reason(of_frame, path)
        found.append(header if isinstance(header, UnreadableHeader) else Frame(header=header, number=number))
    return tuple(found)


def read_frames(paths: Iterable[Path]) -> list[Slice]:
    """The frames of a series, in the order of its files."""
    return [frame for path in paths for frame in frames_of(path)]


def instances_of(frames: Iterable[Frame]) -> list[InstanceHeader]:
    """One header for each instance, however many frames it has."""
    return [frame.header for frame in frames if frame.number in (None, 1)]


def decoded(frames: Sequence[Frame]) -> Iterator[StoredValues]:
    """The stored values of each frame, in the order given.

    A file whose frames follow each other is opened once, and one frame of it is decoded at a time: what is held grows
    neither with the frames of a file nor with the files. Raises one of UNDECODABLE, and StorageError.
    """
    for path, of_file in groupby(frames, key=lambda frame: frame.path):
        dataset = read_dataset(path, pixels=True)
        for frame in of_file:
            values = stored_values(dataset, None if frame.number is None else frame.number - 1)
            if values.ndim != 2:
                raise ValueError("not one grey image")
            yield values


def stored_values(dataset: FileDataset, index: int | None = None) -> StoredValues:
    """Decoded words, cut to Bits Stored; of one frame, counted from 0, or of all. Raises one of UNDECODABLE.

    Siemens XA30 leaves words of 65535 where 12 bits are stored; a reader that takes them as they are sees a spike
    sixteen times as bright as anything else (docs/derived-objects.md#pixels-of-the-source).
    """
    _require_whole_codestreams(dataset, index)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of trailing padding, which harms nothing
        words = pixel_array(dataset, index=index)
    if words.dtype.kind not in "iu":
        raise ValueError("no image of whole numbers")
    return cut(words, int(dataset.BitsStored), is_signed=dataset.PixelRepresentation == 1)


def _require_whole_codestreams(dataset: FileDataset, index: int | None) -> None:
    """Raise ValueError where a JPEG codestream breaks off: without its last marker a frame was not written to its end.

    A decoder would fill the rest with what it likes, or read on beyond the end: pyjpegls 1.5 then may never return.
    """
    if dataset.file_meta.TransferSyntaxUID not in ENDED_BY_MARKER:
        return
    count = int(dataset.get("NumberOfFrames") or 1)
    offsets = [dataset.get(keyword) for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")]
    extended = (offsets[0], offsets[1]) if all(offsets) else None
    frames = (
        generate_frames(dataset.PixelData, number_of_frames=count, extended_offsets=extended)
        if index is None
        else [get_frame(dataset.PixelData, index, number_of_frames=count, extended_offsets=extended)]
    )
    if any(not frame.rstrip(FILL_BYTES).endswith(END_OF_IMAGE) for frame in frames):
        raise ValueError("a compressed frame breaks off")


def cut(words: NDArray[np.integer], bits_stored: int, *, is_signed: bool) -> StoredValues:
    """Mask to the stored bits, and extend their sign."""
    masked = words.astype(np.int32) & ((1 << bits_stored) - 1)
    if not is_signed:
        return masked.astype(np.uint16)
    sign = 1 << (bits_stored - 1)
    return ((masked ^ sign) - sign).astype(np.int16)
