"""Set the attributes of a derived series (what each says, and why: docs/derived-objects.md#attributes).

Built by allow-list from an empty dataset, never by copy-and-edit: what no table names (COPIED of ``mr_attributes``,
SERIES_, SPREAD_, SLAB_ and INSTANCE_ATTRIBUTES below) does not come out, private elements among it, and nothing that
differs between source slices survives unless it is computed anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress

import numpy as np
from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset

from dicomnode import __version__
from dicomnode.derive import explicit_vr, patient
from dicomnode.derive.decimals import coordinate_text, decimal_text
from dicomnode.derive.explicit_vr import tag_of
from dicomnode.derive.facts import Facts, SeriesKind
from dicomnode.derive.mr_attributes import COPIED, PATIENT_TYPE_2, TYPE_2
from dicomnode.generators import cubic_dc
from dicomnode.generators.spread import SYMMETRIES
from dicomnode.ids import derived_uid, device_uid
from dicomnode.imaging.fitness import is_lossy
from dicomnode.imaging.geometry import believed_thickness_mm
from dicomnode.imaging.headers import MR_IMAGE_STORAGE, InstanceHeader
from dicomnode.imaging.representation import items_of
from dicomnode.imaging.texts import texts
from dicomnode.own_output import IMAGE_TYPE, PRODUCT, RESAMPLING_CODE, SPREAD_IMAGE_TYPE, read_with

NOT_FOR_DIAGNOSIS = "Not for primary diagnosis."
_OF_SPREAD = (
    "No image of the patient's anatomy: each value is the standard deviation, in the unit of the source's values, of a "
    f"thin voxel over {len(SYMMETRIES)} runs with the series turned and mirrored. "
)
# +50 stays clear of GE's own n·100 + 0… (docs/derived-objects.md#attributes)
SERIES_NUMBER_FACTOR, SERIES_NUMBER_OFFSET = 100, 50
SERIES_NUMBER_WITHOUT_SOURCE = 99000
SPREAD_AFTER = 25  # so far behind the thin slices: both have room for as many derivations of one source
LARGEST_IS = 2**31 - 1  # PS3.5 §6.2
LO_LENGTH, SH_LENGTH, ST_LENGTH = 64, 16, 1024  # characters, PS3.5 §6.2
WINDOW = ("WindowCenter", "WindowWidth")
ANY_WIDTH = ("SIGMOID", "LINEAR_EXACT")  # VOI LUT functions whose width is more than 0; of LINEAR it is 1 or more
LENGTH_DECIMALS = 6  # of a spacing in mm: what the least-squares line has beyond is noise of the header's own digits


def _series_number(facts: Facts) -> int:
    source, derivation = facts.first.series_number, facts.plan.derivation_number
    after = SPREAD_AFTER if facts.kind is SeriesKind.SPREAD else 0
    if source is not None and source >= 0:
        number = source * SERIES_NUMBER_FACTOR + SERIES_NUMBER_OFFSET + after + derivation - 1
        if number <= LARGEST_IS:
            return number
    return SERIES_NUMBER_WITHOUT_SOURCE + after * SERIES_NUMBER_FACTOR + derivation


def _series_description(facts: Facts) -> str:
    """Series Description with the marker first: lists of series cut the tail."""
    plan = facts.plan
    marker = "INTERP" if plan.model_kind == cubic_dc.NAME else "AI"  # what learned nothing is not labelled AI
    if facts.kind is SeriesKind.SPREAD:
        marker += " SPREAD, NO ANATOMY"
    revision = f"r{plan.derivation_number} " if plan.derivation_number > 1 else ""
    source = facts.first.text("SeriesDescription")
    return f"{marker} {facts.spacing_mm:.1f}mm DERIVED {revision}{source}"[:LO_LENGTH].rstrip()


def _what(facts: Facts) -> str:
    if facts.kind is SeriesKind.THIN:
        return "Computed thin slices."
    return "Standard deviation of computed thin slices, no image of the patient's anatomy."


def _derivation_description(facts: Facts) -> str:
    plan, thick = facts.plan, facts.stack.volume
    gap = max(1.0 - thick.slice_thickness_mm / thick.slice_spacing_mm, 0.0)
    is_known = believed_thickness_mm(facts.stack.frames, thick.slice_spacing_mm) is not None
    width = f"{thick.slice_thickness_mm:.4g} mm thick, gap fraction {gap:.2f}" if is_known else "of unknown thickness"
    parameters = plan.parameters
    dial = "" if parameters.sharpness is None else f" at sharpness {parameters.sharpness:g}"
    sentences = [
        _OF_SPREAD if facts.kind is SeriesKind.SPREAD else "",
        f"{facts.ratio} thin slices computed for each of {len(thick.voxels)} thick ones by {PRODUCT} {__version__}",
        f" with model {parameters.model} (digest {parameters.model_digest[:16]}){dial}.",
        f" Source: series {facts.series_number}, slices {thick.slice_spacing_mm:.4g} mm apart,",
        f" {width}.",
    ]
    if plan.derivation_number > 1:
        sentences.append(f" Replaces series {_series_number(facts) - 1}.")
    if plan.patient is not None:
        sentences.append(" Patient as the receiving archive had the study (Original Attributes Sequence).")
    return "".join([*sentences, f" {NOT_FOR_DIAGNOSIS}"])[:ST_LENGTH]


def _acquired(facts: Facts) -> tuple[str | None, str | None]:
    """Date and time of the earliest source slice: one value for all, whatever package a slice was acquired in."""
    moments = [(header.text("AcquisitionDate"), header.text("AcquisitionTime")) for header in facts.stack.headers]
    stated = [moment for moment in moments if any(moment)]
    if not stated:
        return None, None
    date, time = min(stated)
    return date or None, time or None


def _median_window(facts: Facts, keyword: str) -> str | None:
    """The median over the series of each slice's first usable window: per-slice windows flicker.

    A window is a pair: a centre without a width, or a width that no viewer can divide by, is none.
    """
    function = facts.copies.common("VOILUTFunction")  # where slices differ in it, the result has none, which is LINEAR
    is_any_width = function is not None and facts.first.text("VOILUTFunction") in ANY_WIDTH
    found = (_window(header, is_any_width=is_any_width) for header in facts.stack.headers)
    windows = [window for window in found if window is not None]
    if not windows:
        return None
    return decimal_text(float(np.median([window[WINDOW.index(keyword)] for window in windows])))


def _window(header: InstanceHeader, *, is_any_width: bool) -> tuple[float, float] | None:
    """Centre and width; None where the slice has no pair that C.11.2.1.2.1 or C.11.2.1.3 can make anything of."""
    for texts_of_pair in zip(*(texts(header.dataset, keyword) for keyword in WINDOW), strict=False):
        with suppress(ValueError):
            centre, width = map(float, texts_of_pair)
            if math.isfinite(centre) and math.isfinite(width) and (width > 0 if is_any_width else width >= 1):
                return centre, width
    return None


def _plane(facts: Facts, keyword: str) -> object:
    """The plane as the source wrote it; the median where its slices differ by less than the verdict allows."""
    element = facts.copies.common(keyword)
    if element is not None:
        return element
    stated = [[float(text) for text in texts(header.dataset, keyword)] for header in facts.stack.headers]
    return [coordinate_text(number) for number in np.median(stated, axis=0)]


def _rescale(facts: Facts, keyword: str) -> object:
    """The source's rescale, byte for byte; one of our own where its slices differ; none where it has none."""
    if facts.stack.format.has_uniform_rescale and (
        (element := facts.copies.first(keyword)) is not None or not facts.first.has(keyword)
    ):
        return element
    own = {"RescaleSlope": decimal_text(facts.storage.slope), "RescaleIntercept": decimal_text(facts.storage.intercept)}
    return own.get(keyword) or facts.first.text(keyword) or "US"


def _padding_value(facts: Facts) -> object:
    if facts.stack.padding_value is None:
        return None
    vr = "SS" if facts.stack.format.is_signed else "US"
    return DataElement(tag_of("PixelPaddingValue"), vr, facts.stack.padding_value)


def _lossy(facts: Facts, keyword: str) -> object:
    """Once lossy, always lossy: worst ratio and all methods of the source (C.7.6.1.1.5); nothing is asserted anew."""
    headers = [header for header in facts.stack.headers if is_lossy(header)]
    if not headers:
        return facts.copies.common(keyword)
    if keyword == "LossyImageCompression":
        return "01"
    if keyword == "LossyImageCompressionRatio":
        worst = max((ratio for header in headers for ratio in header.lossy_ratios), default=None)
        return None if worst is None else decimal_text(worst)
    return sorted({method for header in headers for method in texts(header.dataset, keyword)}) or None


def _contributing_equipment(facts: Facts) -> list[Dataset]:
    """Source's own items, the node, and the scanner last: dcm2niix reports the last one.

    See docs/derived-objects.md#attributes.
    """
    plan, is_thin = facts.plan, facts.kind is SeriesKind.THIN
    node = _item()
    node.PurposeOfReferenceCodeSequence = [_code("109102", "Processing Equipment")]
    node.Manufacturer = PRODUCT
    node.ManufacturerModelName = plan.parameters.model[:LO_LENGTH]
    node.SoftwareVersions = [__version__, plan.parameters.model_digest[:LO_LENGTH]]
    node.DeviceUID = device_uid(plan.parameters.model_digest)
    node.DeviceSerialNumber = str(plan.namespace)
    node.StationName = plan.ae_title[:SH_LENGTH]
    node.ContributionDateTime = facts.moment.strftime("%Y%m%d%H%M%S.%f%z")
    node.ContributionDescription = (
        f"{'Thin slices computed between thick ones.' if is_thin else _what(facts)} {NOT_FOR_DIAGNOSIS}"
    )
    scanner = _item()
    scanner.PurposeOfReferenceCodeSequence = [_code("109101", "Acquisition Equipment")]
    for keyword in (
        "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "StationName",
        "InstitutionName", "InstitutionalDepartmentName",
    ):  # fmt: skip
        _set(scanner, keyword, facts.copies.common(keyword))
    if not texts(scanner, "Manufacturer"):
        scanner.Manufacturer = "unknown"  # type 1 in this sequence
    return [*_source_items(facts, "ContributingEquipmentSequence"), node, scanner]


def _source_items(facts: Facts, keyword: str) -> list[Dataset]:
    element = facts.copies.common(keyword)
    return [] if element is None else items_of(element)


def _source_image(facts: Facts, index: int) -> Dataset:
    """A thick slice, as its neighbours' thin ones name it."""
    frame = facts.stack.frames[index]
    header = frame.header
    item = _item()
    item.ReferencedSOPClassUID = header.sop_class_uid
    item.ReferencedSOPInstanceUID = header.sop_instance_uid
    if frame.number is not None:
        item.ReferencedFrameNumber = frame.number
    item.SpatialLocationsPreserved = "NO"
    item.PurposeOfReferenceCodeSequence = [_code("121322", "Source image for image processing operation")]
    return item


def _slice_location(facts: Facts, index: int) -> str:
    location_mm = float(facts.position_mm(index) @ facts.thin.normal)
    if facts.location is not None:
        per_slice, start = facts.location
        location_mm = start + per_slice * (index - (facts.ratio - 1) / 2) / facts.ratio
    return decimal_text(round(location_mm, LENGTH_DECIMALS))


def instance_number(facts: Facts, index: int) -> int:
    """Instance Number rises in the direction in which the source's rose: scrolling goes the same way."""
    return index + 1 if facts.stack.number_direction > 0 else len(facts.thin.voxels) - index


# One value for the whole series (docs/derived-objects.md#attributes). None: the attribute is left out.
SERIES_ATTRIBUTES: Mapping[str, Callable[[Facts], object]] = {
    "SOPClassUID": lambda _: MR_IMAGE_STORAGE,
    "SeriesInstanceUID": lambda facts: facts.series_uid,
    "SeriesNumber": _series_number,
    "SeriesDescription": _series_description,
    "SeriesDate": lambda facts: facts.moment.strftime("%Y%m%d"),
    "SeriesTime": lambda facts: facts.moment.strftime("%H%M%S.%f"),
    "ContentDate": lambda facts: facts.moment.strftime("%Y%m%d"),
    "ContentTime": lambda facts: facts.moment.strftime("%H%M%S.%f"),
    "InstanceCreationDate": lambda facts: facts.moment.strftime("%Y%m%d"),
    "InstanceCreationTime": lambda facts: facts.moment.strftime("%H%M%S.%f"),
    "AcquisitionDate": lambda facts: _acquired(facts)[0],
    "AcquisitionTime": lambda facts: _acquired(facts)[1],
    # The equipment that produced the instance is the node (C.7.5.1).
    "Manufacturer": lambda _: PRODUCT,
    "ManufacturerModelName": lambda _: PRODUCT,
    "SoftwareVersions": lambda _: __version__,
    "DeviceSerialNumber": lambda facts: str(facts.plan.namespace),
    "StationName": lambda facts: facts.plan.ae_title[:SH_LENGTH],
    "ImageType": lambda _: list(IMAGE_TYPE),
    "ImageComments": lambda facts: f"{_what(facts)} {NOT_FOR_DIAGNOSIS} {read_with(facts.series_number)}",
    "DerivationDescription": _derivation_description,
    "DerivationCodeSequence": lambda _: [_code(RESAMPLING_CODE, "Spatial resampling")],  # CID 7203 has none for AI
    "ImageOrientationPatient": lambda facts: _plane(facts, "ImageOrientationPatient"),
    "PixelSpacing": lambda facts: _plane(facts, "PixelSpacing"),
    # An unchanged thick value would lie, and makes MIP and slab tools wrong.
    "SliceThickness": lambda facts: decimal_text(round(facts.spacing_mm, LENGTH_DECIMALS)),
    "SpacingBetweenSlices": lambda facts: decimal_text(round(facts.spacing_mm, LENGTH_DECIMALS)),
    "PixelPaddingValue": _padding_value,
    "LossyImageCompression": lambda facts: _lossy(facts, "LossyImageCompression"),
    "LossyImageCompressionRatio": lambda facts: _lossy(facts, "LossyImageCompressionRatio"),
    "LossyImageCompressionMethod": lambda facts: _lossy(facts, "LossyImageCompressionMethod"),
    "WindowCenter": lambda facts: _median_window(facts, "WindowCenter"),
    "WindowWidth": lambda facts: _median_window(facts, "WindowWidth"),
    "RescaleIntercept": lambda facts: _rescale(facts, "RescaleIntercept"),
    "RescaleSlope": lambda facts: _rescale(facts, "RescaleSlope"),
    "RescaleType": lambda facts: _rescale(facts, "RescaleType"),
    "ContentQualification": lambda _: "RESEARCH",  # the coded "not a product"
    "ContributingEquipmentSequence": _contributing_equipment,
}

# The attributes of the series of the spread: those of any series, but for what differs. A window of the source would
# show nothing of such small values.
SPREAD_ATTRIBUTES: Mapping[str, Callable[[Facts], object]] = {
    **SERIES_ATTRIBUTES,
    "ImageType": lambda _: list(SPREAD_IMAGE_TYPE),
    "WindowCenter": lambda _: None,
    "WindowWidth": lambda _: None,
    "RescaleIntercept": lambda facts: decimal_text(facts.storage.intercept),
    "RescaleSlope": lambda facts: decimal_text(facts.storage.slope),
    "RescaleType": lambda facts: facts.first.text("RescaleType") or "US",
}

# One value for each instance; the second argument counts thin slices along the normal.
INSTANCE_ATTRIBUTES: Mapping[str, Callable[[Facts, int], object]] = {
    "SOPInstanceUID": lambda facts, index: derived_uid(facts.plan.namespace, f"instance:{facts.seed}:{index}"),
    "InstanceNumber": instance_number,
    "ImagePositionPatient": lambda facts, index: [coordinate_text(mm) for mm in facts.position_mm(index)],
    "SliceLocation": _slice_location,
}

# Sequences for the thin slices of one thick slice, with an item for it and for each of its neighbours; the second
# argument counts thick slices along the normal.
SLAB_ATTRIBUTES: Mapping[str, Callable[[Facts, int], Dataset]] = {"SourceImageSequence": _source_image}
PIXEL_DATA = "PixelData"


def series_dataset(facts: Facts) -> Dataset:
    """All attributes that the instances share."""
    is_thin = facts.kind is SeriesKind.THIN
    dataset = _item()
    for element in facts.copies.identity():
        dataset[element.tag] = element
    for keyword in PATIENT_TYPE_2:
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    for keywords in COPIED.values():
        for keyword in keywords:
            if keyword == "VOILUTFunction" and not is_thin:
                continue  # it belongs to a window
            shared = facts.copies.common(keyword)
            if shared is None and keyword in TYPE_2 and any(header.has(keyword) for header in facts.stack.headers):
                setattr(dataset, keyword, None)
            _set(dataset, keyword, shared)
    written = texts(dataset, "SpecificCharacterSet")
    _take_patient(dataset, facts, written)
    with explicit_vr.without_warnings():
        for keyword, value in (SERIES_ATTRIBUTES if is_thin else SPREAD_ATTRIBUTES).items():
            _set(dataset, keyword, value(facts))
        encodings = convert_encodings(list(written)) if written else None
    dataset.set_original_encoding(False, True, encodings)
    return dataset


def _take_patient(dataset: Dataset, facts: Facts, character_sets: tuple[str, ...]) -> None:
    """Replace the source's patient by the one that a person took from the peer; do nothing where nobody did."""
    if (wanted := facts.plan.patient) is None:
        return
    patient.refuse_unwritable(wanted, character_sets)
    gone = patient.take(dataset, wanted, facts.first)
    if gone:
        dataset.OriginalAttributesSequence = [
            patient.original_attributes(gone, moment=facts.moment, system=f"{PRODUCT} {__version__}")
        ]


def _item() -> Dataset:
    """An empty dataset that writes raw elements as they are, instead of decoding and encoding them."""
    item = Dataset()
    item.set_original_encoding(False, True)
    return item


def _code(value: str, meaning: str) -> Dataset:
    item = _item()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _set(dataset: Dataset, keyword: str, value: object) -> None:
    if isinstance(value, RawDataElement | DataElement):
        dataset[value.tag] = value
    elif value is not None:
        setattr(dataset, keyword, value)
