"""Tags of one instance → a frozen ``InstanceHeader``: what the verdict, the stack and a rule's globs need.

Values are parsed here and by no one else, from the bytes as they
stand, so that a malformed one is a word in ``malformed`` (and later a sentence of the verdict), never a crash, and
so that what is copied into a derived object is copied verbatim.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from dicomnode.errors import InputError
from dicomnode.imaging.dicom_file import UnreadableHeader, read_dataset_or_reason
from dicomnode.imaging.diffusion import diffusion
from dicomnode.imaging.identity import identity
from dicomnode.imaging.representation import MALFORMED
from dicomnode.imaging.texts import canonical_texts, is_unreadable, nested_texts, tag_of, texts, whole_number

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"


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
        """The SHA-256 of ``identity``: equal for equal patients, and it tells nothing of them.

        Spellings of one value are equal ("X^Y" and "X^Y^^^"), and an attribute without a value says nothing.
        """
        return hashlib.sha256(repr(self.identity).encode()).hexdigest()

    def text(self, keyword: str) -> str:
        """Return the attribute as a rule's glob sees it: decoded, values joined by a backslash, "" when absent."""
        return "\\".join(texts(self.dataset, keyword))

    def canonical(self, keyword: str) -> str:
        """Return the ``text``, alike for all spellings of one value: to be compared, not to be shown."""
        return "\\".join(canonical_texts(self.dataset, tag)) if (tag := tag_of(keyword)) is not None else ""

    def has(self, keyword: str) -> bool:
        """Tell whether the attribute is there, be it empty."""
        return keyword in self.dataset

    def is_unreadable(self, keyword: str) -> bool:
        """Tell whether the attribute holds something that is no value of anything."""
        return is_unreadable(self.dataset, keyword)


def read_header(path: Path) -> InstanceHeader:
    """Read the header of a Part 10 file; InputError when it is none, StorageError when the disk refuses it."""
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


def header_of(dataset: Dataset, path: Path) -> InstanceHeader:
    """Parse a dataset just read. Takes it over: private elements, overlays and pixels are removed from it."""
    b_value, gradient = diffusion(dataset)
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
        makers=(
            *texts(dataset, "Manufacturer"),
            *nested_texts(dataset, "ContributingEquipmentSequence", "Manufacturer"),
        ),
        derivation_codes=nested_texts(dataset, "DerivationCodeSequence", "CodeValue"),
        identity=tuple(identity(dataset)),
        malformed=tuple(read.malformed),  # last: the fields above have been parsed
        dataset=dataset,
    )


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
        if found is None and (text or is_unreadable(self.dataset, keyword)):
            self.malformed.append(keyword)
        return found

    def floats(self, keyword: str, count: int | None) -> tuple[float, ...] | None:
        """Read so many finite numbers, any number of them for None."""
        found = texts(self.dataset, keyword)
        if not found:
            if is_unreadable(self.dataset, keyword):
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


def _strip(dataset: Dataset) -> None:
    """Remove what no one may use: a header of 90 kB private elements is kept for each slice otherwise."""
    for tag in list(dataset.keys()):
        if tag.is_private or tag.group >> 8 in (0x50, 0x60) or tag.group == 0x7FE0:
            del dataset[tag]
