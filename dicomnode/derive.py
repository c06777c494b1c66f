"""A thin ``Volume`` and the thick series it came from → the derived series, encoded once (DERIVED §3).

Built by allow-list from an empty dataset, never by copy-and-edit: what no table names (COPIED of ``mr_attributes``,
SERIES_, SLAB_ and INSTANCE_ATTRIBUTES below) does not come out, private elements among it, and nothing that differs
between source slices survives unless it is computed anew. Each instance is encoded once to Explicit VR Little Endian;
the caller keeps those bytes and sends them, the same for ever.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
from numpy.typing import NDArray
from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicomnode import __version__
from dicomnode.ids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, AeTitle, derived_uid, digest
from dicomnode.imaging import explicit_vr
from dicomnode.imaging.explicit_vr import tag_of
from dicomnode.imaging.fitness import is_lossy
from dicomnode.imaging.headers import (
    IDENTITY_GROUPS,
    MALFORMED,
    PRODUCT,
    READ_WITH,
    InstanceHeader,
    texts,
    verbatim,
)
from dicomnode.imaging.mr_attributes import COPIED, PATIENT_TYPE_2, TYPE_2
from dicomnode.imaging.stack import Stack
from dicomnode.imaging.verdict import MR_IMAGE_STORAGE, RESAMPLED_TERM, RESAMPLING_CODE, believed_thickness_mm
from dicomnode.imaging.volume import Vector, Volume

DERIVE_VERSION = 1  # raised by hand when this file or the inference writes other bytes; part of every derived UID
SERIES_KIND = "thin"  # another kind of result of the same job needs UIDs of its own
INTERPOLATORS = ("cubic-dc",)  # model kinds that learned nothing: their series are not labelled AI
NOT_FOR_DIAGNOSIS = "Not for primary diagnosis."
SOURCE_WINDOW = 2  # thick slices on each side that are named as sources; all would be quadratic in the file count
SERIES_NUMBER_FACTOR, SERIES_NUMBER_OFFSET = 100, 50  # +50 stays clear of GE's own n·100 + 0… (DERIVED §3.4)
SERIES_NUMBER_WITHOUT_SOURCE = 99000
LARGEST_IS = 2**31 - 1  # PS3.5 §6.2
DS_LENGTH, LO_LENGTH, SH_LENGTH, ST_LENGTH = 16, 64, 16, 1024  # characters, PS3.5 §6.2
CLIPPED_SHARE = 1e-4  # of the voxels; more than that at the top of the format is worth a sentence (DERIVED §3.3)
LINEAR_LOCATION_MM = 0.01  # Slice Location that runs so straight is the scanner's own axis, and is kept
NEGLIGIBLE_MM = 1e-9  # below it a coordinate is rounding error of a sum
LENGTH_DECIMALS = 6  # of a spacing in mm: what the least-squares line has beyond is noise of the header's own digits
MINUTES_PER_DAY = 24 * 60
THIN_GRID_MM = 1e-3  # a generator's grid may differ so far from the block-aligned one

_OFFSET = re.compile(r"[+-]\d{4}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivationPlan:
    """What decides a derived series beside its source: pinned in the job, so that a second try writes the same."""

    namespace: uuid.UUID  # the node's own UUID; ``infer`` draws one at each run
    ae_title: AeTitle
    rule: str
    model: str
    model_kind: str
    model_digest: str
    parameters: str = "{}"  # canonical JSON of the rule's keys that change pixels or tags
    derivation_number: int = 1
    created_at: datetime  # aware; written on the source's clock, else on this machine's
    ratio: int | None = None  # pinned by the job; None: as the verdict says


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedFile:
    """One derived instance, encoded: a whole Part 10 file."""

    instance_number: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    content: bytes
    sha256: str  # of the dataset, without preamble and file meta
    size_bytes: int  # of the dataset


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Derivation:
    """A derived series, ready to be encoded instance by instance."""

    series_uid: str
    count: int
    clipped: int  # voxels that were brighter than the pixel format holds, beyond what was at its top already
    notes: tuple[str, ...]  # sentences for ``series explain``
    facts: _Facts

    def files(self) -> Iterator[DerivedFile]:
        """The instances in order of Instance Number; each call encodes anew, and to the same bytes."""
        shared = _Shared.of(self.facts)
        order = range(self.count) if self.facts.stack.number_direction > 0 else range(self.count - 1, -1, -1)
        for index in order:
            yield _encode(shared, self.facts, index)


def derive(stack: Stack, thin: Volume, plan: DerivationPlan) -> Derivation:
    """Prepare the derived series of ``thin``, which must lie on the block-aligned grid of ``stack`` (DERIVED §3.1)."""
    facts = _facts(stack, thin, plan)
    brightest = stack.format.highest * facts.slope + facts.intercept
    bright = [index for index, frame in enumerate(thin.voxels) if not frame.max() <= brightest]  # NaN too
    clipped = sum(int(np.count_nonzero(stored > stack.format.highest)) for stored in map(facts.stored, bright))
    clipped = max(clipped - stack.saturated * facts.ratio, 0)
    notes = []
    if clipped > CLIPPED_SHARE * thin.voxels.size:
        share = 100.0 * clipped / thin.voxels.size
        notes.append(f"{clipped} voxels ({share:.2g} %) were brighter than the pixel format holds and were clipped.")
    if not stack.format.has_uniform_rescale:
        notes.append("Rescale Slope or Intercept varies between the source slices; the result has one for all.")
    return Derivation(
        series_uid=facts.series_uid, count=len(thin.voxels), clipped=clipped, notes=tuple(notes), facts=facts
    )


def decimal_text(number: float) -> str:
    """Shortest decimal of at most 16 characters (DS, PS3.5 §6.2).

    Not pydicom 3.0's ``format_number_as_ds``: it makes 17 characters of -9.99999999999999995.

    >>> decimal_text(1.1), decimal_text(-1 / 3), decimal_text(-0.0), decimal_text(1.25e-10)
    ('1.1', '-0.3333333333333', '0', '1.25e-10')
    """
    candidates = (f"{number or 0.0:.{digits}g}" for digits in range(16, 0, -1))
    return next(text for text in candidates if len(text) <= DS_LENGTH)


def coordinate_text(millimetres: float) -> str:
    """As ``decimal_text``, with the rounding error of a sum as the zero that it stands for.

    >>> coordinate_text(-1.5), coordinate_text(1.4e-17)
    ('-1.5', '0')
    """
    return decimal_text(millimetres if abs(millimetres) >= NEGLIGIBLE_MM else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Facts:
    """What the attribute tables are computed from."""

    stack: Stack
    thin: Volume
    plan: DerivationPlan
    ratio: int
    seed: str
    series_uid: str
    slope: float  # of the stored values of the result
    intercept: float
    moment: datetime  # plan.created_at on the clock that is written
    location: tuple[float, float] | None  # the scanner's Slice Location as (per thick slice, at slice 0)

    @property
    def first(self) -> InstanceHeader:
        return self.stack.headers[0]

    @property
    def spacing_mm(self) -> float:
        return self.thin.slice_spacing_mm

    @property
    def series_number(self) -> str:
        return "of unknown number" if self.first.series_number is None else str(self.first.series_number)

    def position_mm(self, index: int) -> Vector:
        """Centre of the first voxel of a thin slice, counted along the normal."""
        return self.thin.origin_mm + index * self.thin.slice_step_mm

    def stored(self, index: int) -> NDArray[np.float64]:
        """Stored values of a thin slice before they are fitted into the pixel format; half goes to even.

        In float64, one slice at a time: float32 would lose the last bit of 16-bit values with an intercept.
        """
        frame = self.thin.voxels[index].astype(np.float64)
        assert np.isfinite(frame).all(), "a generator returned what is no number"
        frame -= self.intercept
        frame /= self.slope
        rounded: NDArray[np.float64] = np.rint(frame, out=frame)
        return rounded


def _facts(stack: Stack, thin: Volume, plan: DerivationPlan) -> _Facts:
    ratio, remainder = divmod(len(thin.voxels), len(stack.volume.voxels))
    assert ratio >= 1
    assert remainder == 0, "each thick slice owns the same number of thin ones"
    assert plan.created_at.tzinfo is not None
    aligned_mm = stack.volume.origin_mm - stack.volume.slice_step_mm * (ratio - 1) / (2 * ratio)
    assert np.abs(thin.origin_mm - aligned_mm).max() < THIN_GRID_MM, "half-block error (DERIVED §3.1)"
    assert np.abs(thin.slice_step_mm * ratio - stack.volume.slice_step_mm).max() < THIN_GRID_MM
    slope, intercept = _stored_scale(stack)
    seed = _seed(stack, plan, ratio)
    return _Facts(
        stack=stack,
        thin=thin,
        plan=plan,
        ratio=ratio,
        seed=seed,
        series_uid=derived_uid(plan.namespace, f"series:{seed}"),
        slope=slope,
        intercept=intercept,
        moment=_local(plan.created_at, stack.headers[0].text("TimezoneOffsetFromUTC")),
        location=_location_line(stack.headers),
    )


def _stored_scale(stack: Stack) -> tuple[float, float]:
    """Slope and intercept of the result: the source's, or one for all slices that uses the whole pixel format."""
    form = stack.format
    if form.has_uniform_rescale:
        return form.slope, form.intercept
    # Unsigned words cannot hold what is below zero, so there the scale begins at the least value.
    intercept = 0.0 if form.is_signed else float(decimal_text(min(stack.minimum, 0.0)))
    slope = (stack.maximum - intercept) / form.highest
    if form.is_signed:
        slope = max(slope, stack.minimum / form.lowest)
    return (float(decimal_text(slope)) if slope > 0 else 1.0), intercept


def _seed(stack: Stack, plan: DerivationPlan, ratio: int) -> str:
    """All that decides the bytes, in one digest: same UID must mean same bytes (DERIVED §3.2)."""
    first = stack.headers[0]
    content = {
        "study": first.study_uid,
        "series": first.series_uid,
        "instances": sorted(
            [header.sop_instance_uid, sha256] for header, sha256 in zip(stack.headers, stack.sha256, strict=True)
        ),
        "identity": first.identity_digest,
        "kind": SERIES_KIND,
        "ratio": ratio,
        "parameters": json.loads(plan.parameters),
        "model": plan.model_digest,
        "derive": DERIVE_VERSION,
        "derivation": plan.derivation_number,
        # Pinned in the job like the rest. A ledger put back from a copy counts derivations anew, at another moment.
        "created": plan.created_at.astimezone(UTC).isoformat(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _local(moment: datetime, offset: str) -> datetime:
    """The moment on the clock that the source's other times are read by: its "+0100" (C.12.1.1.8), else the house's."""
    minutes = int(offset[1:3]) * 60 + int(offset[3:]) if _OFFSET.fullmatch(offset) else None
    if minutes is None or minutes >= MINUTES_PER_DAY:
        return moment.astimezone()
    return moment.astimezone(timezone(timedelta(minutes=minutes if offset[0] == "+" else -minutes)))


def _location_line(headers: Sequence[InstanceHeader]) -> tuple[float, float] | None:
    """Slice Location as a straight line over the slices, where the scanner's own runs straight.

    Its zero and sign are the vendor's; whoever measures between series by it must find ours on the same axis.
    """
    try:
        stated = np.array([float(header.text("SliceLocation")) for header in headers])
    except ValueError:
        return None
    if not np.isfinite(stated).all():
        return None
    index = np.arange(len(stated), dtype=np.float64)
    slope, start = np.polyfit(index, stated, 1)
    if np.abs(start + slope * index - stated).max() > LINEAR_LOCATION_MM:
        return None
    return float(slope), float(start)


def _series_number(facts: _Facts) -> int:
    source, derivation = facts.first.series_number, facts.plan.derivation_number
    if source is not None and source >= 0:
        number = source * SERIES_NUMBER_FACTOR + SERIES_NUMBER_OFFSET + derivation - 1
        if number <= LARGEST_IS:
            return number
    return SERIES_NUMBER_WITHOUT_SOURCE + derivation


def _series_description(facts: _Facts) -> str:
    """The marker first: lists of series cut the tail."""
    plan = facts.plan
    marker = "INTERP" if plan.model_kind in INTERPOLATORS else "AI"
    revision = f"r{plan.derivation_number} " if plan.derivation_number > 1 else ""
    source = facts.first.text("SeriesDescription")
    return f"{marker} {facts.spacing_mm:.1f}mm DERIVED {revision}{source}"[:LO_LENGTH].rstrip()


def _derivation_description(facts: _Facts) -> str:
    plan, thick = facts.plan, facts.stack.volume
    gap = max(1.0 - thick.slice_thickness_mm / thick.slice_spacing_mm, 0.0)
    is_known = believed_thickness_mm(facts.stack.headers, thick.slice_spacing_mm) is not None
    width = f"{thick.slice_thickness_mm:.4g} mm thick, gap fraction {gap:.2f}" if is_known else "of unknown thickness"
    sentences = [
        f"{facts.ratio} thin slices computed for each of {len(thick.voxels)} thick ones by {PRODUCT} {__version__}",
        f" with model {plan.model} (digest {plan.model_digest[:16]}).",
        f" Source: series {facts.series_number}, slices {thick.slice_spacing_mm:.4g} mm apart,",
        f" {width}.",
    ]
    if plan.derivation_number > 1:
        sentences.append(f" Replaces series {_series_number(facts) - 1}.")
    return "".join([*sentences, f" {NOT_FOR_DIAGNOSIS}"])[:ST_LENGTH]


def _acquired(facts: _Facts) -> tuple[str | None, str | None]:
    """Date and time of the earliest source slice: one value for all, whatever package a slice was acquired in."""
    moments = [(header.text("AcquisitionDate"), header.text("AcquisitionTime")) for header in facts.stack.headers]
    stated = [moment for moment in moments if any(moment)]
    if not stated:
        return None, None
    date, time = min(stated)
    return date or None, time or None


def _median_window(facts: _Facts, keyword: str) -> str | None:
    """First value of each slice's window, the middle one over the series: per-slice windows flicker."""
    values = []
    for header in facts.stack.headers:
        with suppress(ValueError, IndexError):
            values.append(float(texts(header.dataset, keyword)[0]))
    middle = float(np.median(values)) if values else math.nan
    return decimal_text(middle) if math.isfinite(middle) else None


def _plane(facts: _Facts, keyword: str) -> object:
    """As the source wrote it; the median where its slices differ by less than the verdict's tolerance."""
    element = _common(facts.stack.headers, keyword)
    if element is not None:
        return element
    stated = [[float(text) for text in texts(header.dataset, keyword)] for header in facts.stack.headers]
    return [coordinate_text(number) for number in np.median(stated, axis=0)]


def _rescale(facts: _Facts, keyword: str) -> object:
    """As the source has it, byte for byte; one of our own where its slices differ; none where it has none."""
    if facts.stack.format.has_uniform_rescale:
        return verbatim(facts.first.dataset, Tag(tag_of(keyword)))
    own = {"RescaleSlope": decimal_text(facts.slope), "RescaleIntercept": decimal_text(facts.intercept)}
    return own.get(keyword) or facts.first.text(keyword) or "US"


def _padding_value(facts: _Facts) -> object:
    if facts.stack.padding_value is None:
        return None
    vr = "SS" if facts.stack.format.is_signed else "US"
    return DataElement(tag_of("PixelPaddingValue"), vr, facts.stack.padding_value)


def _lossy(facts: _Facts, keyword: str) -> object:
    """Once lossy, always lossy: worst ratio and all methods of the source (C.7.6.1.1.5); nothing is asserted anew."""
    headers = [header for header in facts.stack.headers if is_lossy(header)]
    if not headers:
        return _common(facts.stack.headers, keyword)
    if keyword == "LossyImageCompression":
        return "01"
    if keyword == "LossyImageCompressionRatio":
        worst = max((ratio for header in headers for ratio in header.lossy_ratios), default=None)
        return None if worst is None else decimal_text(worst)
    return sorted({method for header in headers for method in texts(header.dataset, keyword)}) or None


def _contributing_equipment(facts: _Facts) -> list[Dataset]:
    """Source's own items, the node, and the scanner last: dcm2niix reports the last one (DERIVED §3.4)."""
    plan = facts.plan
    node = _item()
    node.PurposeOfReferenceCodeSequence = [_code("109102", "Processing Equipment")]
    node.Manufacturer = PRODUCT
    node.ManufacturerModelName = plan.model[:LO_LENGTH]
    node.SoftwareVersions = [__version__, plan.model_digest[:LO_LENGTH]]
    node.DeviceSerialNumber = str(plan.namespace)
    node.StationName = plan.ae_title[:SH_LENGTH]
    node.ContributionDateTime = facts.moment.strftime("%Y%m%d%H%M%S.%f%z")
    node.ContributionDescription = f"Thin slices computed between thick ones. {NOT_FOR_DIAGNOSIS}"
    scanner = _item()
    scanner.PurposeOfReferenceCodeSequence = [_code("109101", "Acquisition Equipment")]
    for keyword in (
        "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "StationName",
        "InstitutionName", "InstitutionalDepartmentName",
    ):  # fmt: skip
        _add(scanner, _common(facts.stack.headers, keyword))
    if not texts(scanner, "Manufacturer"):
        scanner.Manufacturer = "unknown"  # type 1 in this sequence
    return [*_source_items(facts, "ContributingEquipmentSequence"), node, scanner]


def _source_items(facts: _Facts, keyword: str) -> list[Dataset]:
    element = _common(facts.stack.headers, keyword)
    return [_clean(item) for item in element.value or ()] if isinstance(element, DataElement) else []


def _source_image(facts: _Facts, index: int) -> Dataset:
    """A thick slice, as its neighbours' thin ones name it."""
    header = facts.stack.headers[index]
    item = _item()
    item.ReferencedSOPClassUID = header.sop_class_uid
    item.ReferencedSOPInstanceUID = header.sop_instance_uid
    item.SpatialLocationsPreserved = "NO"
    item.PurposeOfReferenceCodeSequence = [_code("121322", "Source image for image processing operation")]
    return item


def _slice_location(facts: _Facts, index: int) -> str:
    location_mm = float(facts.position_mm(index) @ facts.thin.normal)
    if facts.location is not None:
        per_slice, start = facts.location
        location_mm = start + per_slice * (index - (facts.ratio - 1) / 2) / facts.ratio
    return decimal_text(round(location_mm, LENGTH_DECIMALS))


def _instance_number(facts: _Facts, index: int) -> int:
    """Rises in the direction in which the source's rose: scrolling goes the same way."""
    return index + 1 if facts.stack.number_direction > 0 else len(facts.thin.voxels) - index


# One value for the whole series (DERIVED §3.4, letters N and R). None: the attribute is left out.
SERIES_ATTRIBUTES: Mapping[str, Callable[[_Facts], object]] = {
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
    # Value 3 of C.8.3.1.1.1, value 4 as in C.8.16.1.4, "spatially re-sampled".
    "ImageType": lambda _: ["DERIVED", "SECONDARY", "OTHER", RESAMPLED_TERM],
    "ImageComments": lambda facts: f"Computed thin slices. {NOT_FOR_DIAGNOSIS} {READ_WITH}{facts.series_number}.",
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

# One value for each instance; the second argument counts thin slices along the normal.
INSTANCE_ATTRIBUTES: Mapping[str, Callable[[_Facts, int], object]] = {
    "SOPInstanceUID": lambda facts, index: derived_uid(facts.plan.namespace, f"instance:{facts.seed}:{index}"),
    "InstanceNumber": _instance_number,
    "ImagePositionPatient": lambda facts, index: [coordinate_text(mm) for mm in facts.position_mm(index)],
    "SliceLocation": _slice_location,
}

# Sequences for the thin slices of one thick slice, with an item for it and for each of its neighbours; the second
# argument counts thick slices along the normal.
SLAB_ATTRIBUTES: Mapping[str, Callable[[_Facts, int], Dataset]] = {"SourceImageSequence": _source_image}
PIXEL_DATA = "PixelData"


def _series_dataset(facts: _Facts) -> Dataset:
    """All attributes that the instances share."""
    headers = facts.stack.headers
    dataset = _item()
    for tag in headers[0].dataset.keys():  # noqa: SIM118 (iterating a Dataset itself gives elements, decoded)
        if tag.group in IDENTITY_GROUPS:
            _add(dataset, verbatim(headers[0].dataset, tag))
    for keyword in PATIENT_TYPE_2:
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    for keywords in COPIED.values():
        for keyword in keywords:
            element = _common(headers, keyword)
            if element is None and keyword in TYPE_2 and any(header.has(keyword) for header in headers):
                setattr(dataset, keyword, None)
            _add(dataset, element)
    written = texts(dataset, "SpecificCharacterSet")
    with explicit_vr.without_warnings():
        for keyword, value in SERIES_ATTRIBUTES.items():
            _set(dataset, keyword, value(facts))
        encodings = convert_encodings(list(written)) if written else None
    dataset.set_original_encoding(False, True, encodings)
    return dataset


def _common(headers: Sequence[InstanceHeader], keyword: str) -> RawDataElement | DataElement | None:
    """The element that all source slices share, or None."""
    tag = Tag(tag_of(keyword))
    try:
        first, *others = (verbatim(header.dataset, tag) for header in headers)
    except MALFORMED:
        return None
    return first if all(_is_same(first, other) for other in others) else None


def _is_same(one: RawDataElement | DataElement | None, other: RawDataElement | DataElement | None) -> bool:
    if isinstance(one, RawDataElement) and isinstance(other, RawDataElement):
        return (one.value or b"").rstrip(b" \0") == (other.value or b"").rstrip(b" \0")
    return one == other


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Shared:
    """Elements that more than one instance holds, by tag, encoded once: that is most of an instance's header."""

    series: Mapping[int, bytes]
    slabs: tuple[Mapping[int, bytes], ...]  # one for each thick slice
    meta: Mapping[int, bytes]  # of the file meta

    @classmethod
    def of(cls, facts: _Facts) -> _Shared:
        count = len(facts.stack.headers)
        items = {
            keyword: [explicit_vr.item(value(facts, index)) for index in range(count)]
            for keyword, value in SLAB_ATTRIBUTES.items()
        }
        slabs = []
        for owner in range(count):
            around = slice(max(owner - SOURCE_WINDOW, 0), owner + SOURCE_WINDOW + 1)
            slabs.append(
                {tag_of(key): explicit_vr.element(tag_of(key), "SQ", *of[around]) for key, of in items.items()}
            )
        return cls(
            series=explicit_vr.elements(explicit_vr.written(_series_dataset(facts))),
            slabs=tuple(slabs),
            meta=_file_meta(),
        )


def _encode(shared: _Shared, facts: _Facts, index: int) -> DerivedFile:
    """Write what is the instance's own and lay it, tag by tag, between what it shares."""
    own = {keyword: value(facts, index) for keyword, value in INSTANCE_ATTRIBUTES.items()}
    elements = {**shared.series, **shared.slabs[index // facts.ratio]}
    elements |= {tag_of(keyword): explicit_vr.text_element(keyword, value) for keyword, value in own.items()}
    pixels_vr = "OB" if facts.stack.format.bits_allocated == 8 else "OW"
    elements[tag_of(PIXEL_DATA)] = explicit_vr.element(tag_of(PIXEL_DATA), pixels_vr, _pixels(facts, index))
    dataset = b"".join(elements[tag] for tag in sorted(elements))
    sop_instance_uid = own["SOPInstanceUID"]
    assert isinstance(sop_instance_uid, str)
    return DerivedFile(
        instance_number=_instance_number(facts, index),
        sop_class_uid=MR_IMAGE_STORAGE,
        sop_instance_uid=sop_instance_uid,
        transfer_syntax_uid=str(ExplicitVRLittleEndian),
        content=_head(shared.meta, sop_instance_uid) + dataset,
        sha256=digest(dataset),
        size_bytes=len(dataset),
    )


def _file_meta() -> dict[int, bytes]:
    """The file meta (PS3.10 §7.1) but for what is the instance's own."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = UID(MR_IMAGE_STORAGE)
    meta.MediaStorageSOPInstanceUID = UID("0.0")  # every instance writes its own in its place
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    buffer = DicomBytesIO()
    write_file_meta_info(buffer, meta)
    return explicit_vr.elements(buffer.getvalue())


def _head(meta: Mapping[int, bytes], sop_instance_uid: str) -> bytes:
    """Preamble and file meta of an instance."""
    own, length = tag_of("MediaStorageSOPInstanceUID"), tag_of("FileMetaInformationGroupLength")
    elements = {**meta, own: explicit_vr.text_element("MediaStorageSOPInstanceUID", sop_instance_uid)}
    del elements[length]
    content = b"".join(elements[tag] for tag in sorted(elements))
    return bytes(128) + b"DICM" + explicit_vr.element(length, "UL", len(content).to_bytes(4, "little")) + content


def _pixels(facts: _Facts, index: int) -> bytes:
    """Stored values of one slice, fitted into the source's format and never below what the source holds.

    A spline swings under the air beside an edge; a magnitude image has nothing there.
    """
    stack, form = facts.stack, facts.stack.format
    lowest = max(form.lowest, round((stack.minimum - facts.intercept) / facts.slope))
    stored = np.clip(facts.stored(index), lowest, form.highest)
    if stack.padding is not None:
        stored[stack.padding[index // facts.ratio]] = stack.padding_value
    kind = f"{'i' if form.is_signed else 'u'}{form.bits_allocated // 8}"
    words = stored.astype(f"<{kind}").tobytes()
    return words + b"\0" * (len(words) % 2)


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
        _add(dataset, value)
    elif value is not None:
        setattr(dataset, keyword, value)


def _add(dataset: Dataset, element: RawDataElement | DataElement | None) -> None:
    """Add a source's element; private ones in the items of a sequence stay behind."""
    if isinstance(element, DataElement) and element.VR == "SQ":
        element = DataElement(element.tag, "SQ", [_clean(item) for item in element.value or ()])
    if element is not None:
        dataset[element.tag] = element


def _clean(item: Dataset) -> Dataset:
    clean = _item()
    for tag in item.keys():  # noqa: SIM118 (as above)
        if not tag.is_private:
            _add(clean, verbatim(item, tag))
    return clean
