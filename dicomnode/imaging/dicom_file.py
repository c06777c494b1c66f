"""Read a DICOM file: all of it, all but its pixels, or a few attributes.

Pixel data are never decoded here. What is wrong with a file is a value (``UnreadableHeader``) for those who go on with
the other files of its series; a disk that refuses a file is an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.dataelem import DataElement
from pydicom.errors import InvalidDicomError
from pydicom.uid import DeflatedExplicitVRLittleEndian

from dicomnode.errors import StorageError
from dicomnode.imaging.representation import MALFORMED

_ITEM_TAGS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # (FFFE,E000) in either byte order (PS3.5 §7.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableHeader:
    """A file that is not DICOM, or breaks off; it stands in its place so that a series is never judged without it."""

    path: Path
    reason: str  # completes "Slice 7 cannot be used: …"


def read_dataset_or_reason(path: Path) -> pydicom.FileDataset | UnreadableHeader:
    """Read all of a dataset but its pixels; what is wrong with it is a value, not an error."""
    try:
        return read_dataset(path, pixels=False)
    except InvalidDicomError:
        return UnreadableHeader(path=path, reason="it is not a DICOM file")
    except MALFORMED:
        return UnreadableHeader(path=path, reason="its header cannot be read")


def read_dataset(path: Path, *, pixels: bool) -> pydicom.FileDataset:
    """Read a whole dataset, or all but its pixels; raises one of MALFORMED, or StorageError."""
    with opened(path) as file:
        dataset = pydicom.dcmread(file, stop_before_pixels=not pixels)
        _refuse_what_is_no_item(dataset, file)
        return dataset


def read_values(path: Path, keywords: Sequence[str]) -> dict[str, str] | None:
    """Read a few attributes of a file by keyword, empty where it has none; None where it cannot be read as DICOM.

    Raises StorageError where the disk refuses the file.
    """
    try:
        with opened(path) as file:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(keywords), force=True)
            return {keyword: str(header.get(keyword, "") or "") for keyword in keywords}
    except MALFORMED:
        return None


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file to parse, without pydicom's warnings, which quote values; StorageError where the disk refuses it."""
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")
            yield file
    except OSError as error:
        if error.errno is None:  # the library's word for bytes that end too early, which another look will not mend
            raise
        raise StorageError(
            f"The file {path.name} cannot be read: {error.strerror or type(error).__name__}.",
            hint="Look at the disk and its permissions.",
        ) from error


def _refuse_what_is_no_item(dataset: pydicom.FileDataset, file: BinaryIO) -> None:
    """Refuse sequences of undefined length whose items are none: the library reads on through what stands there."""
    if dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:  # its places are not the file's
        return
    for tag in dataset.keys():  # noqa: SIM118 (iterating a Dataset itself gives elements, decoded)
        element = dataset.get_item(tag)
        if isinstance(element, DataElement) and element.VR == "SQ":
            for item in element.value:
                file.seek(item.seq_item_tell)
                if file.read(4) not in _ITEM_TAGS:
                    raise ValueError("a sequence is not made of items")
