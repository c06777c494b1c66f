"""Is this series a stack of thick slices that may be processed, and if not, why not?

The input is the frames of a series and the limits of its rule and model. The result is a ``Verdict``: process the
series, or keep it for a reason, with one sentence for the operator. The checks are made in the order of
docs/derived-objects.md#order-of-the-reasons; the first that applies is the reason. The sentence is written to the log
and the ledger, so it names attributes, numbers and codes of the image, but never a UID and never the value of an
attribute about the patient. No header, however damaged, makes the verdict raise an error.

"Slice 7" is the one with Instance Number 7, which is the number that viewers show. Where the numbers are missing or
repeated, it is the seventh frame in the order in which the frames were given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase

import numpy as np
from pydicom.config import IGNORE
from pydicom.uid import UID

from dicomnode.derivation import DerivationParameters, RuleLimits
from dicomnode.imaging.dimensions import (
    Dimension,
    dimension_of,
    dimension_of_frames,
    distinct,
    missing_parts,
    volumes,
)
from dicomnode.imaging.enhanced import ENHANCED_MR_IMAGE_STORAGE, MAPPING
from dicomnode.imaging.fitness import PIXEL_FORMAT, fault_of, is_lossy
from dicomnode.imaging.frame import Frame, Slice
from dicomnode.imaging.geometry import (
    RESIDUAL,
    Layout,
    count_orientations,
    count_repeated,
    layout_of,
    line_of,
    missing_slices,
    other_pixel_spacing,
    unevenness,
)
from dicomnode.imaging.headers import MR_IMAGE_STORAGE, InstanceHeader, UnreadableHeader, attribute_name
from dicomnode.imaging.profile import RATIO_LIMITS, choose_ratio
from dicomnode.imaging.words import plain, short
from dicomnode.own_output import is_own_output, source_number

MIN_SLICES = 5  # a series with fewer is a localizer or a fragment (docs/derived-objects.md#order-of-the-reasons)
REPORTED_DECIMALS = 6  # of a length in mm; further digits are rounding errors of the header's values
VALUES_SHOWN = 6  # a sentence lists so many echo times, b-values and so on
_BETWEEN_WORDS = re.compile(r"[\s_]+")

# Values 3 and later of Image Type that do not belong to an anatomical stack, without blanks and underscores ("MIN_IP",
# "MIN IP" and "MINIP" are one); `*` is a wildcard. FAT, WATER, IN_PHASE and OUT_PHASE of Dixon, and FILTERED, belong to
# anatomical images and are not listed.
REFUSED_TERMS = (
    # Results of operations on pixels: C.8.3.1.1.1, C.8.16.1.4, C.8.13.3.1, CT's common with MR.
    "DIVISION", "MASKED", "MAXIMUM", "MINIMUM", "MULTIPLICATION", "RESAMPLED", "STDDEV*", "SUB", "SUBTRACT*",
    "MODULUSSUBTRACT*", "PHASESUBTRACT*", "TTEST", "ZSCORE", "ENERGYPROPWT", "QUANTITY",
    # Projections, and what is not a slice at all.
    "LOCALIZER", "MIP*", "MAXIP*", "MINIP*", "MNIP*", "PROJECTION*", "MMODE", "SPECTROSCOPY", "CSAREPORT", "SCREENSAVE",
    # Maps: diffusion, perfusion, relaxation, metabolites, motion. "*MAP" holds T1_MAP, FIELD_MAP, DENSITY MAP …
    "*MAP", "DIFFUSION*", "ADC", "EADC", "FA", "TRACE*", "TENSOR", "ATTNTD", "PERFUSION*", "ASL", "CBF", "RCBF",
    "RELCBF", "CBV", "RCBV", "RELCBV", "MTT", "TTP", "NEI", "RCOEFFICIENT", "RHO", "SCM", "TCS", "TEMPERATURE",
    "VELOCITY", "FATFRACTION", "WATERFRACTION",
    # Pictures computed from a volume, as Enhanced MR names the technique.
    "CURVEDMPR", "VOLUMERENDER", "SURFACERENDER",
    # Parts of the complex signal.
    "P", "PHASE", "R", "I", "REAL", "IMAGINARY",
)  # fmt: skip
# GE writes MPR into the originals of a plain 2-D scan; what a scanner acquired is no reformat, whatever it says.
REFUSED_UNLESS_ORIGINAL = ("MPR*",)
# Means and sums over echoes, averages or coils (Dixon, MEDIC, MP2RAGE) are anatomy with the profile of their slices and
# are processed. A mean over a slab is a projection like any other: derived, and thicker than the slices lie apart.
SUMS = ("ADDITION", "IMAGEADDITION", "ADD", "SUM", "MEAN", "AVERAGE", "MEDIAN")
OVERLAP = 1.05  # × spacing: thickness beyond it is more than rounding
MOSAIC_TERM = "MOSAIC"

# Attributes with one value over the whole series, beside identity: whoever disagrees belongs elsewhere
# (docs/derived-objects.md#one-value-over-the-series). Scanning Sequence and Sequence Variant are type 1 in a derived
# object, which has one value for all its slices.
SINGLE_VALUED = (
    "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "Modality", "FrameOfReferenceUID", "SpecificCharacterSet",
    "ScanningSequence", "SequenceVariant",
)  # fmt: skip
# May differ from slice to slice, and is said in the notes: a reader of the result sees one value or none.
REPORTED = (
    "RepetitionTime", "InversionTime", "FlipAngle", "ReceiveCoilName", "SliceThickness", "RescaleSlope",
    "RescaleIntercept", "AcquisitionNumber", "TriggerTime", "WindowCenter", "WindowWidth",
)  # fmt: skip


class VerdictReason(StrEnum):
    """Why a series is processed or kept, in the order in which the reasons are looked for."""

    OWN_OUTPUT = "own_output"
    OTHER_CLASS = "other_class"
    ENHANCED = "enhanced"
    DISAGREE = "disagree"
    UNUSABLE = "unusable"
    PARTS = "parts"
    NO_POSITION = "no_position"
    DIMENSION = "dimension"
    MOSAIC = "mosaic"
    TERM = "term"
    LOSSY = "lossy"
    ORIENTATIONS = "orientations"
    ECHOES = "echoes"
    REPEATED = "repeated"
    TOO_FEW = "too_few"
    NO_FRAME_OF_REFERENCE = "no_frame_of_reference"
    MISSING = "missing"
    IRREGULAR = "irregular"
    GAPS = "gaps"
    ALREADY_THIN = "already_thin"
    RATIO = "ratio"
    NO_RULE = "no_rule"
    PROCESS = "process"


SENTENCES: dict[VerdictReason, str] = {
    VerdictReason.OWN_OUTPUT: (
        "This series was made by this node from series {number}; it is kept and never processed again."
    ),
    VerdictReason.OTHER_CLASS: "Objects of class {name} are stored but not processed.",
    VerdictReason.ENHANCED: (
        "Enhanced (multi-frame) MR objects of this sender are stored but not processed: peer.enhanced says so."
    ),
    VerdictReason.DISAGREE: "Instances disagree on {attribute}.",
    VerdictReason.UNUSABLE: "Slice {n} cannot be used: {reason}.",
    VerdictReason.PARTS: (
        "{k} of {n} parts of a multi-frame object are here; the series is judged again when another one arrives."
    ),
    VerdictReason.NO_POSITION: (
        "{attribute} is missing in {k} of {n} images, so the position of the slices in space is unknown."
    ),
    VerdictReason.DIMENSION: "The frames have {k} {kinds}: {values}; send them as separate series.",
    VerdictReason.MOSAIC: "The slices of this series are tiled in one picture (mosaic).",
    VerdictReason.TERM: "This is a {term} image, not an anatomical stack.",
    VerdictReason.LOSSY: "The images were lossily compressed before they came here (compression ratio {x}).",
    VerdictReason.ORIENTATIONS: "The series holds {k} orientations (localizer or angled groups).",
    VerdictReason.ECHOES: "The series holds {k} {kinds}: {values}; send them as separate series.",
    VerdictReason.REPEATED: "{k} positions occur more than once: a time or diffusion series.",
    VerdictReason.TOO_FEW: "Only {n} slices; at least {least} are needed.",
    VerdictReason.NO_FRAME_OF_REFERENCE: (
        "{attribute} is missing in {k} of {n} images; without it, no viewer can relate the derived series to others."
    ),
    VerdictReason.MISSING: "{k} slice(s) missing: {gap} mm between slices {i} and {j}, {s} mm elsewhere.",
    VerdictReason.IRREGULAR: "The distance between neighbouring slices varies from {a} to {b} mm.",
    VerdictReason.GAPS: "The slices are {s} mm apart and leave gaps of {g} mm, more than the rule allows.",
    VerdictReason.ALREADY_THIN: "The slices are only {s} mm apart; rule {name} needs at least {t} mm.",
    VerdictReason.RATIO: "The series needs {r} thin slices for each thick one; model {m} can make {lo} to {hi}.",
    VerdictReason.NO_RULE: "No rule of the settings applies to this series.",
    VerdictReason.PROCESS: "{n} slices, {s} mm apart, {thick} → {m} slices of {d} mm by rule {name}.",
}
# REPEATED, where the images at one position also have the same Instance Number and the same times.
COPIES = (
    "{k} positions occur more than once, in images with the same Instance Number and time: "
    "these are copies under other UIDs."
)
# REPEATED, where each of several multi-frame objects holds a stack at the same positions as the others.
VOLUMES = "{m} objects hold slices at the same positions, {k} in all: a time series, or repeated measurements."
TOLD_APART_BY = (
    "InstanceNumber", "AcquisitionNumber", "AcquisitionTime", "ContentTime", "TriggerTime",
    "TemporalPositionIdentifier",
)  # fmt: skip
# IRREGULAR, where the spacing is even but the positions are not on one straight line across the slices.
SHEARED = "Neighbouring slices are shifted sideways by up to {x} mm."


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(RuleLimits):
    """What the rule and its model allow; the defaults hold where no rule matches."""

    rule_name: str = "default"
    ratios: tuple[int, int] = RATIO_LIMITS  # of the model
    model: str = "cubic-dc"
    enhanced: bool = True  # may Enhanced MR objects be processed?

    @classmethod
    def of(cls, parameters: DerivationParameters, ratios: tuple[int, int]) -> Limits:
        """The limits of a derivation whose model can make ``ratios``."""
        rule = asdict(parameters.limits)
        return cls(**rule, rule_name=parameters.rule, ratios=ratios, model=parameters.model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer, and what was measured for it; a number is None where the checks ended before it was measured."""

    reason: VerdictReason
    sentence: str
    slices: int
    ratio: int | None = None
    thin_slices: int | None = None
    slice_spacing_mm: float | None = None
    thin_spacing_mm: float | None = None
    slice_thickness_mm: float | None = None  # None: unknown or not believed, the spacing is taken for it
    gap_fraction: float | None = None  # (s - T) / s
    notes: tuple[str, ...] = ()  # sentences for ``series explain``
    alert: bool = False  # a hazard that somebody has to look at

    @property
    def process(self) -> bool:
        """Shall this series be processed?"""
        return self.reason is VerdictReason.PROCESS


def judge(slices: Sequence[Slice], limits: Limits, *, rule_matched: bool = True) -> Verdict:
    """Return the verdict on one series."""
    assert slices, "a series has at least one slice"
    case = _Case(slices=slices, limits=limits)
    for check in _SERIES_CHECKS:
        if refusal := check(case):
            return refusal
    stack = _Stack(case=case, layout=layout_of(case.frames))
    for stack_check in _STACK_CHECKS:
        if refusal := stack_check(stack):
            return _measured(refusal, stack)
    return _measured(_plan(stack) if rule_matched else _answer(case, VerdictReason.NO_RULE), stack)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """A series as it came, before anything is known of its geometry."""

    slices: Sequence[Slice]
    limits: Limits

    @property
    def frames(self) -> list[Frame]:
        return [one for one in self.slices if isinstance(one, Frame)]

    @property
    def headers(self) -> list[InstanceHeader]:
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


def _answer(case: _Case, reason: VerdictReason, /, *, alert: bool = False, **words: str | int) -> Verdict:
    return Verdict(reason=reason, sentence=SENTENCES[reason].format(**words), slices=len(case.slices), alert=alert)


def _own_output(case: _Case) -> Verdict | None:
    """Keep what was derived here: its marks survive a PACS round trip (docs/derived-objects.md#our-own-output)."""
    for header in case.headers:
        if is_own_output(header.makers, header.image_type, header.derivation_codes):
            number = source_number(header.text("ImageComments"))
            return _answer(case, VerdictReason.OWN_OUTPUT, number=number or "of unknown number")
    return None


def _class(case: _Case) -> Verdict | None:
    classes = {header.sop_class_uid for header in case.headers}
    if ENHANCED_MR_IMAGE_STORAGE in classes and not case.limits.enhanced:
        return _answer(case, VerdictReason.ENHANCED)
    if not classes or classes & {MR_IMAGE_STORAGE, ENHANCED_MR_IMAGE_STORAGE}:
        return None
    other = sorted(classes)[0]
    name = UID(other, validation_mode=IGNORE).name  # the UID itself where it is not registered
    return _answer(case, VerdictReason.OTHER_CLASS, name="unknown" if name == other else name)


def _disagreement(case: _Case) -> Verdict | None:
    """Two patients or studies under one Series Instance UID are a hazard that somebody has to look at."""
    headers = case.headers
    if len({header.identity_digest for header in headers}) > 1:
        first = dict(headers[0].identity)
        for header in headers[1:]:
            differing = set(first.items()) ^ set(header.identity)
            if differing:
                return _answer(case, VerdictReason.DISAGREE, attribute=min(differing)[0], alert=True)
    for keyword in SINGLE_VALUED:
        if len(case.distinct(keyword)) > 1:
            alert = keyword == "StudyInstanceUID"
            return _answer(case, VerdictReason.DISAGREE, attribute=attribute_name(keyword), alert=alert)
    return None


def _unusable(case: _Case) -> Verdict | None:
    for one in case.slices:
        fault = one.reason if isinstance(one, UnreadableHeader) else fault_of(one.header)
        if fault:
            return _answer(case, VerdictReason.UNUSABLE, n=case.number(one), reason=fault)
    for keyword in PIXEL_FORMAT:
        usual, *unusual = case.distinct(keyword)
        for frame in case.frames if unusual else ():
            if frame.header.text(keyword) != usual:
                fault = f"its {attribute_name(keyword)} differs from that of the other slices"
                return _answer(case, VerdictReason.UNUSABLE, n=case.number(frame), reason=fault)
    if other := other_pixel_spacing(case.frames):
        fault = "its Pixel Spacing differs from that of the other slices"
        return _answer(case, VerdictReason.UNUSABLE, n=case.number(other), reason=fault)
    return None


def _position(case: _Case) -> Verdict | None:
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient"):
        if refusal := _absence(case, keyword, VerdictReason.NO_POSITION):
            return refusal
    return None


def _absence(case: _Case, keyword: str, reason: VerdictReason) -> Verdict | None:
    missing = sum(not header.text(keyword) for header in case.headers)
    if not missing:
        return None
    return _answer(case, reason, attribute=attribute_name(keyword), k=missing, n=len(case.slices))


def _mosaic(case: _Case) -> Verdict | None:
    return _answer(case, VerdictReason.MOSAIC) if any(MOSAIC_TERM in h.image_type[2:] for h in case.headers) else None


def _term(case: _Case) -> Verdict | None:
    """Refuse an image by values 3 and later of Image Type.

    Value 1 counts for reformats, and for a rule that keeps what is DERIVED (docs/derived-objects.md#image-type).
    """
    of_rule = [_spaced(term.upper()) for term in case.limits.refuse_terms]
    for header in case.headers:
        is_original = header.image_type[:1] == ("ORIGINAL",)
        terms = REFUSED_TERMS if is_original else REFUSED_TERMS + REFUSED_UNLESS_ORIGINAL
        for value in header.image_type[2:]:
            if _is_one_of(_joined(value), terms) or _is_one_of(_spaced(value), of_rule):
                return _answer(case, VerdictReason.TERM, term=plain(value))
        if case.limits.derived == "keep" and header.image_type[:1] == ("DERIVED",):
            return _answer(case, VerdictReason.TERM, term="DERIVED")
    return None


def _is_one_of(value: str, terms: Sequence[str]) -> bool:
    return any(fnmatchcase(value, term) for term in terms)


def _joined(value: str) -> str:
    """Writers put a blank, an underscore or nothing between the words of a term.

    >>> _joined("STD_DEVIATION"), _joined("MIN IP")
    ('STDDEVIATION', 'MINIP')
    """
    return _BETWEEN_WORDS.sub("", value)


def _spaced(value: str) -> str:
    """Join a rule's terms with blanks around them: ``_joined`` would turn "FAT *" into "FAT*"."""
    return _BETWEEN_WORDS.sub(" ", value).strip()


def _lossy(case: _Case) -> Verdict | None:
    if case.limits.allow_lossy or not any(is_lossy(header) for header in case.headers):
        return None
    worst = max((ratio for header in case.headers for ratio in header.lossy_ratios), default=None)
    return _answer(case, VerdictReason.LOSSY, x="unknown" if worst is None else short(worst))


def _orientations(case: _Case) -> Verdict | None:
    count = count_orientations([header.orientation or () for header in case.headers])
    return None if count == 1 else _answer(case, VerdictReason.ORIENTATIONS, k=count)


def _parts(case: _Case) -> Verdict | None:
    """Wait for the other parts of a concatenation; nothing else tells that slices at its ends are missing."""
    found = missing_parts(case.frames)
    return None if found is None else _answer(case, VerdictReason.PARTS, k=found.here, n=found.wanted)


def _dimension(case: _Case) -> Verdict | None:
    """Refuse frames that something other than the place tells apart, before any of them is looked at by itself."""
    found = dimension_of_frames(case.frames)
    return None if found is None else _answer_dimension(case, VerdictReason.DIMENSION, found)


def _echoes(case: _Case) -> Verdict | None:
    """Refuse several images of one place that something other than time tells apart."""
    found = dimension_of(case.headers)
    return None if found is None else _answer_dimension(case, VerdictReason.ECHOES, found)


def _answer_dimension(case: _Case, reason: VerdictReason, found: Dimension) -> Verdict:
    listed = ", ".join(found.values[:VALUES_SHOWN]) + (" …" if len(found.values) > VALUES_SHOWN else "")
    return _answer(case, reason, k=len(found.values), kinds=found.name, values=listed)


def _repeated(case: _Case) -> Verdict | None:
    count = count_repeated(line_of(case.frames).offsets_mm)
    if not count:
        return None
    refusal = _answer(case, VerdictReason.REPEATED, k=count)
    told_apart = {tuple(header.text(keyword) for keyword in TOLD_APART_BY) for header in case.headers}
    if len(told_apart) < len(case.headers):
        return replace(refusal, sentence=COPIES.format(k=count))
    if objects := volumes(case.frames):
        return replace(refusal, sentence=VOLUMES.format(m=objects, k=count))
    return refusal


def _too_few(case: _Case) -> Verdict | None:
    if len(case.slices) >= MIN_SLICES:
        return None
    return _answer(case, VerdictReason.TOO_FEW, n=len(case.slices), least=MIN_SLICES)


def _frame_of_reference(case: _Case) -> Verdict | None:
    """Viewers tie crosshairs to the Frame of Reference, so a missing one is never invented."""
    return _absence(case, "FrameOfReferenceUID", VerdictReason.NO_FRAME_OF_REFERENCE)


_SERIES_CHECKS: tuple[Callable[[_Case], Verdict | None], ...] = (
    _own_output, _class, _disagreement, _unusable, _parts, _position, _dimension, _mosaic, _term, _lossy,
    _orientations, _echoes, _repeated, _too_few, _frame_of_reference,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stack:
    """A series of single slices, each at a place of its own, all in one orientation."""

    case: _Case
    layout: Layout

    @property
    def headers(self) -> list[InstanceHeader]:
        """The headers of the slices, ascending along the normal."""
        return [frame.header for frame in self.layout.frames]

    @property
    def target_mm(self) -> float:
        """The thin spacing that the rule aims at (docs/science.md#grid-and-ratio)."""
        return max(self.layout.in_plane_mm, self.case.limits.target_mm)


def _slabs(stack: _Stack) -> Verdict | None:
    """Refuse a mean or a sum over slabs that overlap: it is a projection."""
    stated_mm = float(np.median([header.slice_thickness_mm or 0.0 for header in stack.headers]))
    if stated_mm <= OVERLAP * stack.layout.spacing_mm:
        return None
    for header in stack.headers:
        for value in header.image_type[2:]:
            if header.image_type[0] == "DERIVED" and _is_one_of(_joined(value), SUMS):
                return _answer(stack.case, VerdictReason.TERM, term=plain(value))
    return None


def _missing(stack: _Stack) -> Verdict | None:
    """Name the missing slices. They are never filled: no viewer would show that they were."""
    found = missing_slices(stack.layout)
    if found is None:
        return None
    around = stack.layout.frames[found.before : found.before + 2]
    first, second = sorted(map(stack.case.number, around))
    return _answer(
        stack.case,
        VerdictReason.MISSING,
        k=found.count,
        gap=short(found.distance_mm),
        i=first,
        j=second,
        s=short(stack.layout.spacing_mm),
    )


def _irregular(stack: _Stack) -> Verdict | None:
    found = unevenness(stack.layout)
    if found is None:
        return None
    nearest, farthest = short(found.nearest_mm), short(found.farthest_mm)
    refusal = _answer(stack.case, VerdictReason.IRREGULAR, a=nearest, b=farthest)
    if found.sideways_mm is None:
        return refusal
    return replace(refusal, sentence=SHEARED.format(x=short(found.sideways_mm)))


def _gaps(stack: _Stack) -> Verdict | None:
    gap_mm, spacing_mm = stack.layout.gap_mm, stack.layout.spacing_mm
    if gap_mm <= stack.case.limits.max_gap_fraction * spacing_mm:
        return None
    return _answer(stack.case, VerdictReason.GAPS, g=short(gap_mm), s=short(spacing_mm))


def _already_thin(stack: _Stack) -> Verdict | None:
    if _ratio(stack) is not None:
        return None
    limits = stack.case.limits
    least_mm = limits.min_ratio * stack.target_mm
    return _answer(
        stack.case,
        VerdictReason.ALREADY_THIN,
        s=short(stack.layout.spacing_mm),
        name=limits.rule_name,
        t=short(least_mm),
    )


def _out_of_range(stack: _Stack) -> Verdict | None:
    ratio, (lowest, highest) = _ratio(stack), stack.case.limits.ratios
    if ratio is None or lowest <= ratio <= highest:
        return None
    return _answer(stack.case, VerdictReason.RATIO, r=ratio, lo=lowest, hi=highest, m=stack.case.limits.model)


_STACK_CHECKS: tuple[Callable[[_Stack], Verdict | None], ...] = (
    _slabs, _missing, _irregular, _gaps, _already_thin, _out_of_range,
)  # fmt: skip


def _ratio(stack: _Stack) -> int | None:
    limits = stack.case.limits
    layout = stack.layout
    return choose_ratio(layout.spacing_mm, layout.in_plane_mm, target_mm=limits.target_mm, min_ratio=limits.min_ratio)


def _plan(stack: _Stack) -> Verdict:
    ratio = _ratio(stack)
    assert ratio is not None, "a series that is thin already has been kept"
    layout = stack.layout
    slices, spacing_mm = len(layout.frames), layout.line.spacing_mm
    thick = "of unknown thickness" if layout.thickness_mm is None else f"{short(layout.thickness_mm)} mm thick"
    verdict = _answer(
        stack.case,
        VerdictReason.PROCESS,
        n=slices,
        s=short(spacing_mm),
        thick=thick,
        m=slices * ratio,
        d=short(spacing_mm / ratio),
        name=stack.case.limits.rule_name,
    )
    return replace(
        verdict,
        ratio=ratio,
        thin_slices=slices * ratio,
        slice_spacing_mm=round(spacing_mm, REPORTED_DECIMALS),
        thin_spacing_mm=round(spacing_mm / ratio, REPORTED_DECIMALS),
    )


def _measured(verdict: Verdict, stack: _Stack) -> Verdict:
    """Add to the verdict what the geometry of the stack told, whatever the answer is."""
    layout = stack.layout
    return replace(
        verdict,
        slice_spacing_mm=verdict.slice_spacing_mm or round(layout.spacing_mm, REPORTED_DECIMALS),
        slice_thickness_mm=layout.thickness_mm,
        gap_fraction=None if layout.gap_fraction is None else round(layout.gap_fraction, REPORTED_DECIMALS),
        notes=tuple(_notes(stack)),
    )


def _notes(stack: _Stack) -> list[str]:
    """Sentences on what does not decide, but a reader of the result should know."""
    case, headers, spacing_mm = stack.case, stack.headers, stack.layout.spacing_mm
    spacing = short(spacing_mm)
    notes = []
    if stack.layout.thickness_mm is None:
        stated = headers[0].slice_thickness_mm
        what = "missing" if not stated or stated < 0 else f"{short(stated)} mm, which is not plausible"
        notes.append(f"Slice Thickness is {what}; the slices are taken to be as thick as their spacing, {spacing} mm.")
    if any(header.image_type[:1] == ("DERIVED",) for header in headers):
        notes.append("Image Type says that the images are DERIVED.")
    if any(is_lossy(header) for header in headers):
        notes.append("The images were lossily compressed before they came here, which the rule allows.")
    stated_mm = {header.text("SpacingBetweenSlices") for header in headers} - {""}
    if any(abs(_number(text) - spacing_mm) > RESIDUAL * spacing_mm for text in stated_mm):
        notes.append(f"Spacing Between Slices disagrees with the slice positions ({spacing} mm apart), which are used.")
    if any(frame.number is not None and frame.header.has(MAPPING) for frame in stack.layout.frames):
        notes.append("A Real World Value Mapping of the source is neither applied to its values nor copied.")
    varying = [attribute_name(keyword) for keyword in REPORTED if len(case.distinct(keyword)) > 1]
    if varying:
        notes.append(f"These attributes vary between slices: {', '.join(varying)}.")
    return notes


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
