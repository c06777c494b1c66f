"""Two objects under one SOP Instance UID: in what they differ, by the names of their attributes.

Pure: two files in, names out, never a value. Values are compared and not their bytes: another transfer syntax, another
padding or another way to write a length is no difference.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.datadict import dictionary_description, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset
from pydicom.pixels.utils import pixel_array
from pydicom.tag import BaseTag

from dicomnode.imaging.headers import IDENTITY_GROUPS, InstanceHeader, header_of, read_dataset
from dicomnode.imaging.representation import MALFORMED
from dicomnode.imaging.stack import UNDECODABLE

# What places a slice in space and gives its numbers a meaning; beside patient, study and pixels all that may matter
# where an archive only wrote the same image in another encoding.
PLACE = frozenset(
    {
        "SOPClassUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality", "ImagePositionPatient",
        "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "Rows", "Columns",
        "NumberOfFrames", "SamplesPerPixel", "BitsStored", "PixelRepresentation", "RescaleSlope", "RescaleIntercept",
    }
)  # fmt: skip
STUDY = ("StudyInstanceUID",)  # identity beside the groups of patient and clinical trial subject

_PIXEL_GROUP, _PADDING_GROUP = 0x7FE0, 0xFFFC
_PADDING = b"\0 "


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """In what two objects differ: names of attributes, in the order of their tags."""

    identity: tuple[str, ...]  # patient, clinical trial subject, study
    place: tuple[str, ...]  # of ``PLACE``
    others: tuple[str, ...]
    has_same_pixels: bool | None  # None: they cannot be decoded


def compare(kept: Path, other: Path) -> Comparison | None:
    """Compare two Part 10 files; None where a header cannot be read. StorageError where the disk refuses one."""
    try:
        one, two = (read_dataset(path, pixels=True) for path in (kept, other))
        has_same_pixels = _has_same_pixels(one, two)
        differing = _differing(one, two)
        identity = _identity(header_of(one, kept), header_of(two, other))
    except MALFORMED:
        return None
    keywords = [(tag, keyword_for_tag(tag)) for tag in differing]
    study = [_name(tag) for tag, keyword in keywords if keyword in STUDY]
    return Comparison(
        identity=(*identity, *study),
        place=_names(tag for tag, keyword in keywords if keyword in PLACE),
        others=_names(tag for tag, keyword in keywords if keyword not in PLACE and keyword not in STUDY),
        has_same_pixels=has_same_pixels,
    )


def _has_same_pixels(one: FileDataset, two: FileDataset) -> bool | None:
    values = [_pixels(dataset) for dataset in (one, two)]
    if values[0] == values[1]:
        return True
    if None in values or not any(dataset.file_meta.TransferSyntaxUID.is_compressed for dataset in (one, two)):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.array_equal(pixel_array(one), pixel_array(two))
    except (*UNDECODABLE, OSError):
        return None


def _pixels(dataset: FileDataset) -> bytes | None:
    """The value as it stands, whichever of the three attributes holds it."""
    for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
        if keyword in dataset:
            return bytes(dataset.get_item(keyword).value or b"")
    return None


def _differing(one: FileDataset, two: FileDataset) -> list[BaseTag]:
    """Tags of which the two have not the same value, but for patient, clinical trial subject and pixels."""
    passed_over = (*IDENTITY_GROUPS, _PIXEL_GROUP, _PADDING_GROUP)
    tags = sorted(
        tag
        for tag in {*one.keys(), *two.keys()}
        if tag.group not in passed_over and tag.element != 0  # group lengths
    )
    return [tag for tag in tags if not _is_same(one, two, tag)]


def _is_same(one: FileDataset, two: FileDataset, tag: BaseTag) -> bool:
    if tag not in one or tag not in two:
        return False
    raw = [dataset.get_item(tag) for dataset in (one, two)]
    if all(isinstance(element, RawDataElement) for element in raw):
        values = [(element.value or b"").rstrip(_PADDING) for element in raw]
        if values[0] == values[1]:
            return True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return bool(one[tag].value == two[tag].value)
        except MALFORMED:
            return False


def _identity(one: InstanceHeader, two: InstanceHeader) -> tuple[str, ...]:
    if one.identity_digest == two.identity_digest:
        return ()
    differing = set(one.identity) ^ set(two.identity)
    return tuple(dict.fromkeys(pair[0] for pair in (*one.identity, *two.identity) if pair in differing))


def _names(tags: Iterable[BaseTag]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(_name, tags)))


def _name(tag: BaseTag) -> str:
    if tag.is_private:
        return "private attributes"
    try:
        return dictionary_description(tag)
    except KeyError:
        return f"attribute {tag}"
