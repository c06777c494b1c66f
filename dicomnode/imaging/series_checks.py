"""The checks of a series before anything is known of its geometry, in the order in which they are made.

A check returns the verdict to keep the series, or None where it has no objection. No header, however damaged, makes one
raise an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pydicom.config import IGNORE
from pydicom.uid import UID

from dicomnode.imaging.dicom_file import UnreadableHeader
from dicomnode.imaging.dimensions import (
    Dimension,
    dimension_of,
    dimension_of_frames,
    distinct,
    missing_parts,
    volumes,
)
from dicomnode.imaging.enhanced import ENHANCED_MR_IMAGE_STORAGE
from dicomnode.imaging.fitness import PIXEL_FORMAT, fault_of, is_lossy
from dicomnode.imaging.frame import Frame, Slice
from dicomnode.imaging.geometry import count_orientations, count_repeated, line_of, other_pixel_spacing
from dicomnode.imaging.headers import MR_IMAGE_STORAGE, InstanceHeader
from dicomnode.imaging.image_type import is_mosaic, refused_value
from dicomnode.imaging.verdict import COPIES, SENTENCES, VOLUMES, Limits, Verdict, VerdictReason
from dicomnode.imaging.words import attribute_name, plain, short
from dicomnode.own_output import is_own_output, source_number

MIN_SLICES = 5  # a series with fewer is a localizer or a fragment (docs/derived-objects.md#order-of-the-reasons)
VALUES_SHOWN = 6  # a sentence lists so many echo times, b-values and so on

# Attributes with one value over the whole series, beside identity: whoever disagrees belongs elsewhere
# (docs/derived-objects.md#one-value-over-the-series). Scanning Sequence and Sequence Variant are type 1 in a derived
# object, which has one value for all its slices.
SINGLE_VALUED = (
    "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "Modality", "FrameOfReferenceUID", "SpecificCharacterSet",
    "ScanningSequence", "SequenceVariant",
)  # fmt: skip
# Images at one position with the same values of these are copies of one image.
TOLD_APART_BY = (
    "InstanceNumber", "AcquisitionNumber", "AcquisitionTime", "ContentTime", "TriggerTime",
    "TemporalPositionIdentifier",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A series as it came, before anything is known of its geometry."""

    slices: Sequence[Slice]
    limits: Limits

    @property
    def frames(self) -> list[Frame]:
        """The slices that could be read."""
        return [one for one in self.slices if isinstance(one, Frame)]

    @property
    def headers(self) -> list[InstanceHeader]:
        """The headers of the slices that could be read, one for each."""
        return [frame.header for frame in self.frames]

    def number(self, wanted: Slice) -> int:
        """The number by which a sentence names this slice."""
        numbers = [one.header.instance_number if isinstance(one, Frame) else None for one in self.slices]
        place = next(k for k, other in enumerate(self.slices) if other is wanted)
        number = numbers[place]
        return place + 1 if number is None or None in numbers or len(set(numbers)) < len(numbers) else number

    def distinct(self, keyword: str) -> list[str]:
        """The different values of an attribute, the most frequent first."""
        return distinct(self.headers, lambda header: header.text(keyword))


def answer(case: Case, reason: VerdictReason, /, *, alert: bool = False, **words: str | int) -> Verdict:
    """Make the verdict of this reason; ``words`` fill the places of its sentence."""
    return Verdict(reason=reason, sentence=SENTENCES[reason].format(**words), slices=len(case.slices), alert=alert)


def _own_output(case: Case) -> Verdict | None:
    """Keep what was derived here: its marks survive a PACS round trip (docs/derived-objects.md#our-own-output)."""
    for header in case.headers:
        if is_own_output(header.makers, header.image_type, header.derivation_codes):
            number = source_number(header.text("ImageComments"))
            return answer(case, VerdictReason.OWN_OUTPUT, number=number or "of unknown number")
    return None


def _class(case: Case) -> Verdict | None:
    classes = {header.sop_class_uid for header in case.headers}
    if ENHANCED_MR_IMAGE_STORAGE in classes and not case.limits.enhanced:
        return answer(case, VerdictReason.ENHANCED)
    if not classes or classes & {MR_IMAGE_STORAGE, ENHANCED_MR_IMAGE_STORAGE}:
        return None
    other = sorted(classes)[0]
    name = UID(other, validation_mode=IGNORE).name  # the UID itself where it is not registered
    return answer(case, VerdictReason.OTHER_CLASS, name="unknown" if name == other else name)


def _disagreement(case: Case) -> Verdict | None:
    """Keep images that disagree: two patients or studies under one Series Instance UID are a hazard to look at."""
    headers = case.headers
    if len({header.identity_digest for header in headers}) > 1:
        first = dict(headers[0].identity)
        for header in headers[1:]:
            differing = set(first.items()) ^ set(header.identity)
            if differing:
                return answer(case, VerdictReason.DISAGREE, attribute=min(differing)[0], alert=True)
    for keyword in SINGLE_VALUED:
        if len(case.distinct(keyword)) > 1:
            alert = keyword == "StudyInstanceUID"
            return answer(case, VerdictReason.DISAGREE, attribute=attribute_name(keyword), alert=alert)
    return None


def _unusable(case: Case) -> Verdict | None:
    for one in case.slices:
        fault = one.reason if isinstance(one, UnreadableHeader) else fault_of(one.header)
        if fault:
            return answer(case, VerdictReason.UNUSABLE, n=case.number(one), reason=fault)
    for keyword in PIXEL_FORMAT:
        usual, *unusual = case.distinct(keyword)
        for frame in case.frames if unusual else ():
            if frame.header.text(keyword) != usual:
                fault = f"its {attribute_name(keyword)} differs from that of the other slices"
                return answer(case, VerdictReason.UNUSABLE, n=case.number(frame), reason=fault)
    if other := other_pixel_spacing(case.frames):
        fault = "its Pixel Spacing differs from that of the other slices"
        return answer(case, VerdictReason.UNUSABLE, n=case.number(other), reason=fault)
    return None


def _position(case: Case) -> Verdict | None:
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient"):
        if refusal := _absence(case, keyword, VerdictReason.NO_POSITION):
            return refusal
    return None


def _absence(case: Case, keyword: str, reason: VerdictReason) -> Verdict | None:
    missing = sum(not header.text(keyword) for header in case.headers)
    if not missing:
        return None
    return answer(case, reason, attribute=attribute_name(keyword), k=missing, n=len(case.slices))


def _mosaic(case: Case) -> Verdict | None:
    return answer(case, VerdictReason.MOSAIC) if any(is_mosaic(h.image_type) for h in case.headers) else None


def _term(case: Case) -> Verdict | None:
    """Refuse an image by values 3 and later of Image Type.

    Value 1 counts for reformats, and for a rule that keeps what is DERIVED (docs/derived-objects.md#image-type).
    """
    for header in case.headers:
        value = refused_value(header.image_type, case.limits.refuse_terms)
        if value is not None:
            return answer(case, VerdictReason.TERM, term=plain(value))
        if case.limits.derived == "keep" and header.image_type[:1] == ("DERIVED",):
            return answer(case, VerdictReason.TERM, term="DERIVED")
    return None


def _lossy(case: Case) -> Verdict | None:
    if case.limits.allow_lossy or not any(is_lossy(header) for header in case.headers):
        return None
    worst = max((ratio for header in case.headers for ratio in header.lossy_ratios), default=None)
    return answer(case, VerdictReason.LOSSY, x="unknown" if worst is None else short(worst))


def _orientations(case: Case) -> Verdict | None:
    count = count_orientations([header.orientation or () for header in case.headers])
    return None if count == 1 else answer(case, VerdictReason.ORIENTATIONS, k=count)


def _parts(case: Case) -> Verdict | None:
    """Wait for the other parts of a concatenation; nothing else tells that slices at its ends are missing."""
    found = missing_parts(case.frames)
    return None if found is None else answer(case, VerdictReason.PARTS, k=found.here, n=found.wanted)


def _dimension(case: Case) -> Verdict | None:
    """Refuse frames that something other than the place tells apart, before any of them is looked at by itself."""
    found = dimension_of_frames(case.frames)
    return None if found is None else _answer_dimension(case, VerdictReason.DIMENSION, found)


def _echoes(case: Case) -> Verdict | None:
    """Refuse several images of one place that something other than time tells apart."""
    found = dimension_of(case.headers)
    return None if found is None else _answer_dimension(case, VerdictReason.ECHOES, found)


def _answer_dimension(case: Case, reason: VerdictReason, found: Dimension) -> Verdict:
    listed = ", ".join(found.values[:VALUES_SHOWN]) + (" …" if len(found.values) > VALUES_SHOWN else "")
    return answer(case, reason, k=len(found.values), kinds=found.name, values=listed)


def _repeated(case: Case) -> Verdict | None:
    count = count_repeated(line_of(case.frames).offsets_mm)
    if not count:
        return None
    refusal = answer(case, VerdictReason.REPEATED, k=count)
    told_apart = {tuple(header.text(keyword) for keyword in TOLD_APART_BY) for header in case.headers}
    if len(told_apart) < len(case.headers):
        return replace(refusal, sentence=COPIES.format(k=count))
    if objects := volumes(case.frames):
        return replace(refusal, sentence=VOLUMES.format(m=objects, k=count))
    return refusal


def _too_few(case: Case) -> Verdict | None:
    if len(case.slices) >= MIN_SLICES:
        return None
    return answer(case, VerdictReason.TOO_FEW, n=len(case.slices), least=MIN_SLICES)


def _frame_of_reference(case: Case) -> Verdict | None:
    """Keep a series without Frame of Reference: viewers tie crosshairs to it, so a missing one is never invented."""
    return _absence(case, "FrameOfReferenceUID", VerdictReason.NO_FRAME_OF_REFERENCE)


SERIES_CHECKS: tuple[Callable[[Case], Verdict | None], ...] = (
    _own_output, _class, _disagreement, _unusable, _parts, _position, _dimension, _mosaic, _term, _lossy,
    _orientations, _echoes, _repeated, _too_few, _frame_of_reference,
)  # fmt: skip
