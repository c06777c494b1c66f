"""Two objects under one SOP Instance UID: in what they differ, by the names of their attributes.

Pure: two files in, names out, never a value. Values are compared and not their bytes: another transfer syntax, another
padding or another way to write a length is no difference.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.datadict import dictionary_description, keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import FileDataset
from pydicom.tag import BaseTag

from dicomnode.imaging.dicom_file import read_dataset
from dicomnode.imaging.frame import UNDECODABLE, stored_values
from dicomnode.imaging.headers import InstanceHeader, header_of
from dicomnode.imaging.identity import IDENTITY_GROUPS
from dicomnode.imaging.representation import MALFORMED

# Attributes that place a slice in space and give its numbers a meaning. Beside patient, study and pixels, only these
# may matter where an archive wrote the same image in another encoding.
PLACE = frozenset(
    {
        "SOPClassUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality", "ImagePositionPatient",
        "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "Rows", "Columns",
        "NumberOfFrames", "SamplesPerPixel", "BitsStored", "PixelRepresentation", "RescaleSlope", "RescaleIntercept",
        "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ConcatenationFrameOffsetNumber",
    }
)  # fmt: skip
STUDY = ("StudyInstanceUID",)  # identity beside the groups of patient and clinical trial subject

# The tolerances of decimal numbers that another program wrote anew with fewer digits. Directions and positions may be
# near 0 and have an absolute bound (1 and mm); all else has a relative one.
_ROUNDED_ABSOLUTE: Mapping[str, float] = {"ImageOrientationPatient": 1e-5, "ImagePositionPatient": 1e-3}
_ROUNDED = 1e-6

_PIXEL_GROUP, _PADDING_GROUP = 0x7FE0, 0xFFFC
_PADDING = b"\0 "


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The differences of two objects: names of attributes, in the order of their tags."""

    identity: tuple[str, ...]  # patient, clinical trial subject, study
    place: tuple[str, ...]  # of ``PLACE``
    others: tuple[str, ...]
    has_same_pixels: bool | None  # None: they cannot be decoded


def compare(kept: Path, other: Path, *, allow_rounding: bool = False) -> Comparison | None:
    """Compare two Part 10 files; None where a header cannot be read. StorageError where the disk refuses one.

    With ``allow_rounding``, decimal numbers that were written anew with fewer digits are no difference.
    """
    try:
        one, two = (read_dataset(path, pixels=True) for path in (kept, other))
        has_same_pixels = _has_same_pixels(one, two)
        differing = _differing(one, two, allow_rounding=allow_rounding)
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
    syntaxes = {dataset.file_meta.TransferSyntaxUID for dataset in (one, two)}
    if None in values or (len(syntaxes) == 1 and not syntaxes.pop().is_compressed):
        return False
    try:
        return np.array_equal(stored_values(one), stored_values(two))
    except (*UNDECODABLE, OSError):
        return None


def _pixels(dataset: FileDataset) -> bytes | None:
    """The value of the pixels as it stands, whichever of the three attributes holds it; None where none does."""
    for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
        if keyword in dataset:
            return bytes(dataset.get_item(keyword).value or b"")
    return None


def _differing(one: FileDataset, two: FileDataset, *, allow_rounding: bool) -> list[BaseTag]:
    """Tags of which the two have not the same value, but for patient, clinical trial subject and pixels."""
    passed_over = (*IDENTITY_GROUPS, _PIXEL_GROUP, _PADDING_GROUP)
    tags = sorted(
        tag
        for tag in {*one.keys(), *two.keys()}
        if tag.group not in passed_over and tag.element != 0  # group lengths
    )
    return [tag for tag in tags if not _is_same(one, two, tag, allow_rounding=allow_rounding)]


def _is_same(one: FileDataset, two: FileDataset, tag: BaseTag, *, allow_rounding: bool) -> bool:
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
            return bool(one[tag].value == two[tag].value) or (allow_rounding and _is_rounded(one[tag], two[tag]))
        except MALFORMED:
            return False


def _is_rounded(one: DataElement, two: DataElement) -> bool:
    if {one.VR, two.VR} != {"DS"} or one.VM != two.VM:
        return False
    first, second = (np.array(element.value, dtype=np.float64) for element in (one, two))
    return bool(np.allclose(first, second, rtol=_ROUNDED, atol=_ROUNDED_ABSOLUTE.get(one.keyword, 0.0)))


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
