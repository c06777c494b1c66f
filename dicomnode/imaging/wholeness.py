"""Does a DICOM file hold an image, and is the image whole?

In: a path and what ``headers`` read of it. Out: words for what the file is instead of an image, or for where it breaks
off. Nothing is decoded.
"""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.config import IGNORE
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from dicomnode.imaging.dicom_file import UnreadableHeader, opened
from dicomnode.imaging.enhanced import ENHANCED_MR_IMAGE_STORAGE
from dicomnode.imaging.headers import MR_IMAGE_STORAGE, InstanceHeader
from dicomnode.imaging.representation import MALFORMED, UNDEFINED_LENGTH
from dicomnode.imaging.texts import texts
from dicomnode.part10 import read_meta

DIRECTORY_STORAGE = "1.2.840.10008.1.3.10"  # Media Storage Directory Storage (PS3.4 B.5 has no such class: PS3.10 §8)
SPECTROSCOPY_STORAGE = "1.2.840.10008.5.1.4.1.1.4.2"  # has Rows and Columns of spectra, and no image
DIRECTORY_RECORDS = 0x00041220
SERIES_INSTANCE_UID = 0x0020000E

PIXEL_DATA = (0x7FE0, 0x0010)
LONG_LENGTHS = (b"OB", b"OW", b"UN")  # VRs of Pixel Data, whose length has four bytes (PS3.5 §7.1.2)
ITEM, DELIMITER = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)


def series_without_meta(path: Path) -> str:
    """The Series Instance UID of a dataset whose encoding is guessed; "" where it gives none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
            return "".join(texts(dataset, "SeriesInstanceUID"))
        except MALFORMED:
            return ""


def no_image(path: Path, header: InstanceHeader | UnreadableHeader) -> str | None:
    """Describe a DICOM file that is not an image by its class; None for an image or a part of one."""
    sop_class, is_cut = _media_storage_class(path), True
    if isinstance(header, InstanceHeader):
        is_cut = ends_with_series(header)
        sop_class = sop_class or header.sop_class_uid
        if DIRECTORY_RECORDS in header.dataset:
            sop_class = DIRECTORY_STORAGE
        if header.rows is not None and sop_class != SPECTROSCOPY_STORAGE:
            return None
    if sop_class == DIRECTORY_STORAGE:
        return "a directory of DICOM files (DICOMDIR), no image"
    name = UID(sop_class, validation_mode=IGNORE).name  # the UID itself where it is not registered
    if not sop_class or "Image Storage" in name or (name == sop_class and is_cut):  # a part of an image's, perhaps
        return None
    return f"a DICOM object without an image ({'of a private class' if name == sop_class else name})"


def _media_storage_class(path: Path) -> str:
    with opened(path) as file:
        meta = read_meta(file)
    return meta.sop_class_uid if meta else ""


def ends_with_series(header: InstanceHeader) -> bool:
    """Does nothing follow Series Instance UID? Then it breaks off before it, or within its value."""
    return max(map(int, header.dataset.keys()), default=0) <= SERIES_INSTANCE_UID


def break_off(path: Path, header: InstanceHeader) -> str | None:
    """Describe where an MR image breaks off, to complete "the file …"; None for whole images and other classes.

    Raises one of MALFORMED where its pixels cannot be sought, StorageError where the file cannot be read.
    """
    if header.sop_class_uid not in (MR_IMAGE_STORAGE, ENHANCED_MR_IMAGE_STORAGE):
        return None
    if header.rows is None or header.columns is None:
        return None if _has_pixels(path) else "breaks off before its pixels"
    if header.transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        return None  # what breaks off here cannot be inflated, and has no header then
    bits = (header.bits_allocated or 8) * (header.samples_per_pixel or 1) * (header.number_of_frames or 1)
    needed = header.rows * header.columns * bits // 8
    with opened(path) as file:
        length = _seek_pixels(file)
        if length is None:
            return "has no pixels"
        size = path.stat().st_size
        there = _is_fragments_whole(file, size) if length == UNDEFINED_LENGTH else needed <= size - file.tell()
    return None if there else "breaks off within its pixels"


def _has_pixels(path: Path) -> bool:
    with opened(path) as file:
        return _seek_pixels(file) is not None


def _seek_pixels(file: BinaryIO) -> int | None:
    """Go to the value of Pixel Data, and give the length that is written; None where the dataset has none."""
    dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=[])
    is_implicit, is_little = dataset.original_encoding
    order = "<" if is_little is not False else ">"
    head = file.read(12)
    if len(head) < 8 or struct.unpack(f"{order}HH", head[:4]) != PIXEL_DATA:
        return None
    if not is_implicit and head[4:6] in LONG_LENGTHS and len(head) == 12:
        return int(struct.unpack(f"{order}L", head[8:])[0])
    file.seek(8 - len(head), 1)
    return int(struct.unpack(f"{order}L", head[4:8])[0])


def _is_fragments_whole(file: BinaryIO, size: int) -> bool:
    """Walk the items of encapsulated pixels (PS3.5 §A.4), which are always little endian."""
    fragments = 0
    while len(head := file.read(8)) == 8:
        group, element, length = struct.unpack("<HHL", head)
        if (group, element) != ITEM:
            return (group, element) == DELIMITER and fragments > 1
        if length > size - file.tell():
            return False
        file.seek(length, 1)
        fragments += 1  # the first is the offset table
    return False
