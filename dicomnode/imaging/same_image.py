"""Two files under one SOP Instance UID: the same image twice, or two images?

An export made twice, a browser's "0004(1).dcm", a copy that a PACS wrote anew in another transfer syntax: all of
these are the same image. What decides is the dataset's bytes, else what makes a slice of it: whose it is, where it
lies, and its pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dicomnode.errors import InputError
from dicomnode.imaging.headers import UnreadableHeader, attribute_name, read_header_or_reason
from dicomnode.imaging.stack import dataset_sha256, pixel_digest

# Compared as text, then as numbers: another writer may have shortened "1.000000" to "1".
COMPARED = (
    "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality", "InstanceNumber",
    "Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "SliceThickness",
    "RescaleSlope", "RescaleIntercept", "EchoTime", "AcquisitionNumber", "ImageType",
)  # fmt: skip
SAME_NUMBER = 1e-6  # relative: less is the rounding of a number that was written anew
ROUNDED = {"ImageOrientationPatient": 1e-5, "ImagePositionPatient": 1e-3}  # absolute: these may be near 0


def difference(one: Path, other: Path) -> str | None:
    """What two files under one SOP Instance UID differ in, as a noun; None: they are one image.

    Raises StorageError for a file that cannot be read.
    """
    if dataset_sha256(one) == dataset_sha256(other):
        return None
    first, second = read_header_or_reason(one), read_header_or_reason(other)
    if isinstance(first, UnreadableHeader) or isinstance(second, UnreadableHeader):
        return "what can be read of their headers"
    if first.identity_digest != second.identity_digest:
        return min((name for name, _ in set(first.identity) ^ set(second.identity)), default="their patient")
    for keyword in COMPARED:
        if not _alike(keyword, first.text(keyword), second.text(keyword)):
            return attribute_name(keyword)
    try:  # one after the other: the digests are all that is kept
        return None if pixel_digest(one) == pixel_digest(other) else "their pixels"
    except InputError:
        return "what can be decoded of their pixels"


def _alike(keyword: str, first: str, second: str) -> bool:
    if first == second:
        return True
    try:
        numbers = np.array([first.split("\\"), second.split("\\")], dtype=np.float64)
    except ValueError:  # words, or not as many of them
        return False
    return bool(np.allclose(numbers[0], numbers[1], rtol=SAME_NUMBER, atol=ROUNDED.get(keyword, 0.0)))
