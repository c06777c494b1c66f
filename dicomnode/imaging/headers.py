"""Tags of one instance → a frozen ``InstanceHeader``: what the verdict, the stack and a rule's globs need.

Reads up to the pixel data, never decodes it. Values are parsed here and by no one else, from the bytes as they
stand, so that a malformed one is a word in ``malformed`` (and later a sentence of the verdict), never a crash, and
so that what is copied into a derived object is copied verbatim.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from dicomnode.errors import InputError, StorageError
from dicomnode.imaging.representation import (
    ENCODED_TEXT,
    LATER_SEQUENCES,
    MALFORMED,
    SINGLE_TEXT,
    TEXT,
    items_of,
    standard_vr,
    vr_of,
)
from dicomnode.imaging.spelling import canonical

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"

IDENTITY_GROUPS = (0x0010, 0x0012)  # patient, and clinical trial subject: copied whole, compared whole

_ITEM_TAGS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # (FFFE,E000) in either byte order (PS3.5 §7.5)

# (group, private creator, element) of the b-value before the standard had one, and of its direction.
_B_VALUES = (
    (0x0019, "SIEMENS MR HEADER", 0x0C),
    (0x0043, "GEMS_PARM_01", 0x39),  # first of four values
    (0x2001, "Philips Imaging DD 001", 0x03),
    (0x0065, "Image Private Header", 0x09),  # UIH
)
_GE_B_VALUE_MODULUS = 100_000  # GE adds 1e9 to some b-values (dcm2niix, issue 149)
_GRADIENTS = (
    (0x0019, "SIEMENS MR HEADER", 0x0E),
    (0x0019, "GEMS_ACQU_01", 0xBB),
    (0x0019, "GEMS_ACQU_01", 0xBC),
    (0x0019, "GEMS_ACQU_01", 0xBD),
    (0x2005, "Philips MR Imaging DD 001", 0xB0),
    (0x2005, "Philips MR Imaging DD 001", 0xB1),
    (0x2005, "Philips MR Imaging DD 001", 0xB2),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class InstanceHeader:
    """One instance without its pixels. An attribute that is absent or empty is None, "" or ().

    Without a ``repr`` of its values: a traceback in the log must not name the patient.
    """

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    modality: str
    series_number: int | None
    instance_number: int | None
    rows: int | None
    columns: int | None
    samples_per_pixel: int | None
    photometric: str
    bits_allocated: int | None
    bits_stored: int | None
    high_bit: int | None
    pixel_representation: int | None
    number_of_frames: int | None
    pixel_spacing_mm: tuple[float, float] | None  # between rows, between columns (PS3.3 §10.7.1.3)
    orientation: tuple[float, ...] | None  # six direction cosines, LPS
    position_mm: tuple[float, ...] | None  # centre of the first voxel, LPS
    slice_thickness_mm: float | None  # nominal width of the profile, never the distance of centres
    rescale_slope: float | None
    rescale_intercept: float | None
    echo_time_ms: float | None
    image_type: tuple[str, ...]
    lossy_ratios: tuple[float, ...]
    b_value: float | None
    gradient: tuple[str, ...]  # direction of diffusion weighting as written; () without weighting
    makers: tuple[str, ...]  # Manufacturer, of the instance and of its contributing equipment
    derivation_codes: tuple[str, ...]
    identity: tuple[tuple[str, str], ...]  # (name of the attribute, canonical text) of groups 0010 and 0012
    malformed: tuple[str, ...]  # keywords whose value cannot be parsed
    dataset: Dataset  # no pixels, private elements or overlays; for stack and derive alone

    @property
    def identity_digest(self) -> str:
        """SHA-256 over all of groups 0010 and 0012: equal for equal patients, tells nothing of them.

        Spellings of one value are equal ("X^Y" and "X^Y^^^"), and an attribute without a value says nothing.
        """
        return hashlib.sha256(repr(self.identity).encode()).hexdigest()

    def text(self, keyword: str) -> str:
        """The attribute as a rule's glob sees it: decoded, several values joined by a backslash, "" when absent."""
        return "\\".join(texts(self.dataset, keyword))

    def canonical(self, keyword: str) -> str:
        """The ``text``, alike for all spellings of one value: to be compared, not to be shown."""
        return "\\".join(_canonical(self.dataset, tag)) if (tag := _tag(keyword)) is not None else ""

    def has(self, keyword: str) -> bool:
        """Is the attribute there, be it empty?"""
        return keyword in self.dataset

    def is_unreadable(self, keyword: str) -> bool:
        """Does the attribute hold something that is no value of anything?"""
        return _is_unreadable(self.dataset, keyword)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableHeader:
    """A file that is not DICOM, or breaks off; it stands in its place so that a series is never judged without it."""

    path: Path
    reason: str  # completes "Slice 7 cannot be used: …"


def read_header(path: Path) -> InstanceHeader:
    """The header of a Part 10 file; InputError when it is none, StorageError when the disk refuses it."""
    header = read_header_or_reason(path)
    if isinstance(header, UnreadableHeader):
        raise InputError(f"{path.name} cannot be used: {header.reason}.", hint="Only DICOM Part 10 files can be read.")
    return header


def read_header_or_reason(path: Path) -> InstanceHeader | UnreadableHeader:
    """Read a header as ``read_header`` does; what is wrong is a value, not an error."""
    read = read_dataset_or_reason(path)
    return read if isinstance(read, UnreadableHeader) else header_or_reason(read, path)


def header_or_reason(dataset: Dataset, path: Path) -> InstanceHeader | UnreadableHeader:
    """Parse a dataset just read, as ``header_of`` does; what is wrong is a value, not an error."""
    try:
        return header_of(dataset, path)
    except MALFORMED:
        return UnreadableHeader(path=path, reason="its header cannot be read")


def read_dataset_or_reason(path: Path) -> pydicom.FileDataset | UnreadableHeader:
    """Read all of a dataset but its pixels; what is wrong with it is a value, not an error."""
    try:
        return read_dataset(path, pixels=False)
    except InvalidDicomError:
        return UnreadableHeader(path=path, reason="it is not a DICOM file")
    except MALFORMED:
        return UnreadableHeader(path=path, reason="its header cannot be read")


def read_dataset(path: Path, *, pixels: bool) -> pydicom.FileDataset:
    """A whole dataset, or all but its pixels; raises one of MALFORMED, or StorageError."""
    with opened(path) as file:
        dataset = pydicom.dcmread(file, stop_before_pixels=not pixels)
        _refuse_what_is_no_item(dataset, file)
        return dataset


def read_values(path: Path, keywords: Sequence[str]) -> dict[str, str] | None:
    """A few attributes of a file by keyword, empty where it has none; None where it cannot be read as DICOM.

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
    """A file to be parsed, without pydicom's warnings, which quote values; StorageError where the disk refuses it."""
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


def header_of(dataset: Dataset, path: Path) -> InstanceHeader:
    """Parse a dataset just read. Takes it over: private elements, overlays and pixels are removed from it."""
    b_value, gradient = _diffusion(dataset)
    _strip(dataset)
    read = _Reader(dataset)
    spacing = read.floats("PixelSpacing", 2)
    return InstanceHeader(
        path=path,
        sop_class_uid=read.text("SOPClassUID"),
        sop_instance_uid=read.text("SOPInstanceUID"),
        transfer_syntax_uid=str(dataset.file_meta.get("TransferSyntaxUID", "")),
        study_uid=read.text("StudyInstanceUID"),
        series_uid=read.text("SeriesInstanceUID"),
        frame_of_reference_uid=read.text("FrameOfReferenceUID"),
        modality=read.text("Modality"),
        series_number=whole_number(read.text("SeriesNumber")),
        instance_number=whole_number(read.text("InstanceNumber")),
        rows=read.whole("Rows"),
        columns=read.whole("Columns"),
        samples_per_pixel=read.whole("SamplesPerPixel"),
        photometric=read.text("PhotometricInterpretation").upper(),
        bits_allocated=read.whole("BitsAllocated"),
        bits_stored=read.whole("BitsStored"),
        high_bit=read.whole("HighBit"),
        pixel_representation=read.whole("PixelRepresentation"),
        number_of_frames=read.whole("NumberOfFrames"),
        pixel_spacing_mm=None if spacing is None else (spacing[0], spacing[1]),
        orientation=read.floats("ImageOrientationPatient", 6),
        position_mm=read.floats("ImagePositionPatient", 3),
        slice_thickness_mm=read.number("SliceThickness"),
        rescale_slope=read.number("RescaleSlope"),
        rescale_intercept=read.number("RescaleIntercept"),
        echo_time_ms=read.number("EchoTime"),
        image_type=tuple(value.upper() for value in texts(dataset, "ImageType")),
        lossy_ratios=read.floats("LossyImageCompressionRatio", None) or (),
        b_value=b_value,
        gradient=gradient,
        makers=(*texts(dataset, "Manufacturer"), *_nested(dataset, "ContributingEquipmentSequence", "Manufacturer")),
        derivation_codes=_nested(dataset, "DerivationCodeSequence", "CodeValue"),
        identity=tuple(_identity(dataset)),
        malformed=tuple(read.malformed),  # last: the fields above have been parsed
        dataset=dataset,
    )


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """The values of a public attribute as text, without padding; () when it is absent, empty or a sequence."""
    tag = _tag(keyword)
    return () if tag is None else _texts(dataset, tag)


def attribute_name(keyword: str) -> str:
    """The standard's name, for sentences: "Pixel Spacing"."""
    tag = tag_for_keyword(keyword)
    return keyword if tag is None else dictionary_description(tag)


def name_of(tag: BaseTag) -> str:
    """The name that ``attribute_name`` gives; the tag itself where the dictionary does not know it."""
    try:
        return LATER_SEQUENCES.get(tag) or dictionary_description(tag)
    except KeyError:
        return f"Attribute {tag}"


class _Reader:
    """Typed access to a dataset; what cannot be parsed is None and its keyword goes to ``malformed``."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.malformed: list[str] = []

    def text(self, keyword: str) -> str:
        return "\\".join(texts(self.dataset, keyword))

    def number(self, keyword: str) -> float | None:
        found = self.floats(keyword, 1)
        return None if found is None else found[0]

    def whole(self, keyword: str) -> int | None:
        text = self.text(keyword)
        found = whole_number(text)
        if found is None and (text or _is_unreadable(self.dataset, keyword)):
            self.malformed.append(keyword)
        return found

    def floats(self, keyword: str, count: int | None) -> tuple[float, ...] | None:
        """Read so many finite numbers, any number of them for None."""
        found = texts(self.dataset, keyword)
        if not found:
            if _is_unreadable(self.dataset, keyword):
                self.malformed.append(keyword)
            return None
        try:
            numbers = tuple(float(text) for text in found)
        except ValueError:
            numbers = ()
        if len(numbers) != (count or len(found)) or not all(map(math.isfinite, numbers)):
            self.malformed.append(keyword)
            return None
        return numbers


def _nested(dataset: Dataset, sequence: str, keyword: str) -> tuple[str, ...]:
    """The texts of one attribute over all items of a sequence; () where it is none."""
    tag = _tag(sequence)
    if tag is None or tag not in dataset:
        return ()
    try:
        return tuple(text for item in items_of(dataset.get_item(tag)) for text in texts(item, keyword))
    except MALFORMED:
        return ()


def whole_number(text: str) -> int | None:
    """IS and US alike; "3.0", which some writers put into IS, is 3."""
    try:
        number = float(text)
        return int(number) if number == int(number) else None
    except (ValueError, OverflowError):
        return None


def _texts(dataset: Dataset, tag: BaseTag) -> tuple[str, ...]:
    if tag not in dataset:
        return ()
    raw = dataset.get_item(tag)
    vr = vr_of(raw, tag)
    if vr == "SQ":
        return ()
    if isinstance(raw, RawDataElement) and vr in TEXT:
        whole = _decoded(dataset, raw.value or b"", vr)
        values = (whole,) if vr in SINGLE_TEXT else tuple(whole.split("\\"))
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                value = dataset[tag].value
            except MALFORMED:
                return ("",)  # present, but no text of anything
        if value is None:
            return ()
        values = (value,) if isinstance(value, str | bytes) or not isinstance(value, Sequence) else tuple(value)
        values = tuple("" if isinstance(value, bytes) else str(value) for value in values)
    values = tuple(value.strip(" \0") for value in values)
    return values if any(values) else ()


def _is_unreadable(dataset: Dataset, keyword: str) -> bool:
    tag = _tag(keyword)
    if tag is None or tag not in dataset or any(_texts(dataset, tag)):
        return False
    raw = dataset.get_item(tag)
    value = raw.value
    return bool(value.strip(b" \0") if isinstance(value, bytes) and vr_of(raw, tag) in TEXT else value)


def _tag(keyword: str) -> BaseTag | None:
    tag = tag_for_keyword(keyword)
    return None if tag is None else Tag(tag)


def _decoded(dataset: Dataset, value: bytes, vr: str) -> str:
    if vr not in ENCODED_TEXT or (value.isascii() and b"\x1b" not in value):
        return value.decode("latin-1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unknown character sets, which pydicom replaces by the default one
        try:
            written = dataset.get("SpecificCharacterSet") or "ISO_IR 6"
            delimiters = {0x0D, 0x0A, 0x09, 0x0C} if vr in SINGLE_TEXT else {0x5C, 0x5E, 0x3D}  # PS3.5 §6.1.2.5.3
            return decode_bytes(value, convert_encodings(written), delimiters)
        except MALFORMED:
            return value.decode("latin-1")


def _identity(dataset: Dataset) -> list[tuple[str, str]]:
    tags = (tag for tag in sorted(dataset.keys()) if tag.group in IDENTITY_GROUPS and tag.element != 0)
    found = [(name_of(tag), _content(dataset, tag)) for tag in tags]
    return [(name, content) for name, content in found if content]


def _content(dataset: Dataset, tag: BaseTag) -> str:
    """All that an element says, nested elements too, alike for all spellings; its bytes where they are no value."""
    raw = dataset.get_item(tag)
    if vr_of(raw, tag) == "SQ":
        try:
            items = [
                {int(place): _content(item, place) for place in sorted(item.keys()) if not place.is_private}
                for item in items_of(raw)
            ]
            return repr(items) if items else ""
        except MALFORMED:
            return _digest(raw)
    return "\\".join(_canonical(dataset, tag)) or _digest(raw)


def _canonical(dataset: Dataset, tag: BaseTag) -> list[str]:
    return [canonical(standard_vr(tag), value) for value in _texts(dataset, tag)]


def _digest(raw: RawDataElement | DataElement) -> str:
    content = raw.value if isinstance(raw.value, bytes) else repr(raw.value or "").encode()
    return hashlib.sha256(content).hexdigest() if content.strip(b" \0'") else ""


def _diffusion(dataset: Dataset) -> tuple[float | None, tuple[str, ...]]:
    """b-value in s/mm² and direction, from the standard's attributes or else the vendors'."""
    creators = {
        (tag.group, text): tag.element
        for tag in tuple(dataset.keys())
        if tag.is_private_creator
        for text in _texts(dataset, tag)
    }

    def private(place: tuple[int, str, int]) -> tuple[str, ...]:
        group, creator, element = place
        block = creators.get((group, creator))
        return () if block is None else _private_values(dataset, Tag(group, block << 8 | element))

    b_value = _first_number(texts(dataset, "DiffusionBValue"))
    for place in _B_VALUES:
        if b_value is None:
            b_value = _first_number(private(place))
            if b_value is not None and place[1].startswith("GEMS"):
                b_value %= _GE_B_VALUE_MODULUS
    if not b_value:
        return b_value, ()  # GE's elements hold other things in unweighted series
    standard = texts(dataset, "DiffusionGradientOrientation")
    return b_value, standard or tuple(value for place in _GRADIENTS for value in private(place))


def _private_values(dataset: Dataset, tag: BaseTag) -> tuple[str, ...]:
    """Private text and numbers, also where an implicit or UN encoding hid their VR."""
    if tag not in dataset:
        return ()
    raw = dataset.get_item(tag)
    if isinstance(raw, RawDataElement) and raw.VR in (None, "UN"):
        text = (raw.value or b"").decode("latin-1").strip(" \0")
        return tuple(text.split("\\")) if text.isascii() and text.isprintable() else ()
    return _texts(dataset, tag)


def _first_number(values: tuple[str, ...]) -> float | None:
    try:
        number = float(values[0]) if values else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _strip(dataset: Dataset) -> None:
    """Remove what no one may use: a header of 90 kB private elements is kept for each slice otherwise."""
    for tag in list(dataset.keys()):
        if tag.is_private or tag.group >> 8 in (0x50, 0x60) or tag.group == 0x7FE0:
            del dataset[tag]
