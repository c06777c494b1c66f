"""Is this series a stack of thick slices that may be processed, and if not, why not?

Pure: headers and limits in, a ``Verdict`` out. A refusal is a value with a reason and one sentence to the operator.
The checks stand in the order of DERIVED §2; the first that applies is the reason. A sentence names attributes,
numbers and codes of the image, never a patient's value and never a UID: it goes into log and ledger.

"Slice 7" is the one with Instance Number 7, as every viewer shows it. Where the numbers are missing or repeated it is
the seventh in the order in which the instances were given.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase

import numpy as np
from pydicom.config import IGNORE
from pydicom.uid import UID

from dicomnode.derivation import DerivationParameters, RuleLimits
from dicomnode.imaging.fitness import PIXEL_FORMAT, fault_of, is_lossy
from dicomnode.imaging.geometry import (
    SliceLine,
    count_orientations,
    count_repeated,
    distinct_spacing_mm,
    fit_line,
    is_orthonormal,
)
from dicomnode.imaging.headers import (
    PRODUCT,
    READ_WITH,
    InstanceHeader,
    UnreadableHeader,
    attribute_name,
)
from dicomnode.imaging.profile import RATIO_LIMITS, choose_ratio

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4.1"

MIN_SLICES = 5  # fewer are a localizer or a fragment (DERIVED §2)
PIXEL_SPACING_TOLERANCE = 1e-4  # relative: 0.05 pixel at the edge of 512
RESIDUAL_MM = 0.02  # of a position from the straight line, or ...
RESIDUAL = 0.01  # ... of the spacing, whichever is more; the worst of 15 real series was 4.7e-5 mm (DERIVED §1.1)
RESIDUAL_LIMIT_MM = 0.1  # and never more than that
SHEAR = 0.01  # of the spacing; an MR scanner has no gantry tilt, so shear means mixed or broken geometry
MULTIPLE = 0.02  # a distance so near to a multiple of the spacing is missing slices
ECHO_TIME_MS = 0.05  # echo times that differ by less are one
THICKEST = 2.1  # × spacing: no 2-D protocol overlaps more; beyond it is a projection's or a reformat's thickness
REPORTED_DECIMALS = 6  # of a length in mm: beyond them stands the rounding of the header's own digits
VALUES_SHOWN = 6  # of echo times and the like, in a sentence
_BETWEEN_WORDS = re.compile(r"[\s_]+")
CODE = re.compile(r"[A-Za-z0-9_ .+/*-]{1,64}")  # what a sentence quotes of a sender: coded values, CS and a little more

# Values 3 and later of Image Type that are no anatomical stack, without blanks and underscores ("MIN_IP", "MIN IP" and
# "MINIP" are one); `*` is a wildcard. Dixon's FAT, WATER, IN_PHASE, OUT_PHASE, and FILTERED, are anatomy and not here.
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
RESAMPLED_TERM = "RESAMPLED"
RESAMPLING_CODE = "113085"  # DCM, "Spatial resampling"

# Attributes with one value over the whole series, beside identity: whoever disagrees belongs elsewhere (DERIVED §1.1).
# Scanning Sequence and Sequence Variant are type 1 in a derived object, which has one value for all its slices.
SINGLE_VALUED = (
    "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "Modality", "FrameOfReferenceUID", "SpecificCharacterSet",
    "ScanningSequence", "SequenceVariant",
)  # fmt: skip
# May differ from slice to slice, and is said in the notes: a reader of the result sees one value or none.
REPORTED = (
    "RepetitionTime", "InversionTime", "FlipAngle", "ReceiveCoilName", "SliceThickness", "RescaleSlope",
    "RescaleIntercept", "AcquisitionNumber", "TriggerTime", "WindowCenter", "WindowWidth",
)  # fmt: skip


class Reason(StrEnum):
    """Why a series is processed or kept, in the order in which the reasons are looked for."""

    OWN_OUTPUT = "own_output"
    OTHER_CLASS = "other_class"
    ENHANCED = "enhanced"
    DISAGREE = "disagree"
    UNUSABLE = "unusable"
    NO_POSITION = "no_position"
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


_NO_POSITION = "The images carry no position in space ({attribute} is missing in {k} of {n})."

SENTENCES: dict[Reason, str] = {
    Reason.OWN_OUTPUT: "This series was made by this node from series {number}; it is kept and never processed again.",
    Reason.OTHER_CLASS: "Objects of class {name} are stored but not processed.",
    Reason.ENHANCED: "Multi-frame (Enhanced) MR objects are stored but not processed yet.",
    Reason.DISAGREE: "Instances disagree on {attribute}.",
    Reason.UNUSABLE: "Slice {n} cannot be used: {reason}.",
    Reason.NO_POSITION: _NO_POSITION,
    Reason.MOSAIC: "The slices of this series are tiled in one picture (mosaic).",
    Reason.TERM: "This is a {term} image, not an anatomical stack.",
    Reason.LOSSY: "The images were lossily compressed before they came here (ratio {x}).",
    Reason.ORIENTATIONS: "The series holds {k} orientations (localizer or angled groups).",
    Reason.ECHOES: "The series holds {k} {kinds}: {values}; send them as separate series.",
    Reason.REPEATED: "{k} positions occur more than once: a time or diffusion series.",
    Reason.TOO_FEW: "Only {n} slices; at least {least} are needed.",
    Reason.NO_FRAME_OF_REFERENCE: _NO_POSITION,
    Reason.MISSING: "{k} slice(s) missing: {gap} mm between slices {i} and {j}, {s} mm elsewhere.",
    Reason.IRREGULAR: "Distances vary from {a} to {b} mm.",
    Reason.GAPS: "Gaps of {g} mm in every {s} mm are more than the rule allows.",
    Reason.ALREADY_THIN: "Slices are already {s} mm apart; rule {name} processes from {t} mm.",
    Reason.RATIO: "Ratio {r} is outside {lo}–{hi} of model {m}.",
    Reason.NO_RULE: "No rule applies.",
    Reason.PROCESS: "{n} slices, {s} mm apart, {thick} → {m} slices of {d} mm by rule {name}.",
}
# The same, where the images of one place have one number and one time.
COPIES = "{k} positions occur more than once, by images of one Instance Number and time: copies under other UIDs."
TOLD_APART_BY = (
    "InstanceNumber", "AcquisitionNumber", "AcquisitionTime", "ContentTime", "TriggerTime",
    "TemporalPositionIdentifier",
)  # fmt: skip
# Even spacing, yet not on one straight line across the slices: distances would read "from 3 to 3 mm".
SHEARED = "Neighbouring slices are shifted sideways by up to {x} mm."


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(RuleLimits):
    """What the rule and its model allow; the defaults hold where no rule matches."""

    rule_name: str = "default"
    ratios: tuple[int, int] = RATIO_LIMITS  # of the model
    model: str = "cubic-dc"

    @classmethod
    def of(cls, parameters: DerivationParameters, ratios: tuple[int, int]) -> Limits:
        """The limits of a derivation whose model can make ``ratios``."""
        rule = asdict(parameters.limits)
        return cls(**rule, rule_name=parameters.rule, ratios=ratios, model=parameters.model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer, and what was measured on the way to it (None as far as the checks did not come)."""

    reason: Reason
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
        return self.reason is Reason.PROCESS


Header = InstanceHeader | UnreadableHeader


def judge(headers: Sequence[Header], limits: Limits, *, rule_matched: bool = True) -> Verdict:
    """The verdict on one series."""
    assert headers, "a series has at least one instance"
    case = _Case(headers=headers, limits=limits)
    for check in _SERIES_CHECKS:
        if refusal := check(case):
            return refusal
    stack = _stack(case)
    for stack_check in _STACK_CHECKS:
        if refusal := stack_check(stack):
            return _measured(refusal, stack)
    return _measured(_plan(stack) if rule_matched else _answer(case, Reason.NO_RULE), stack)


def slice_spacing_mm(headers: Sequence[Header]) -> float | None:
    """Distance of neighbouring slice centres, for rules; None where the positions make no stack of one direction."""
    placed = [h for h in headers if isinstance(h, InstanceHeader) and h.position_mm and h.orientation]
    if len(placed) < max(len(headers), 2) or not all(is_orthonormal(h.orientation or ()) for h in placed):
        return None
    if count_orientations([h.orientation or () for h in placed]) > 1:
        return None
    return distinct_spacing_mm(line_of(placed).offsets_mm)


def line_of(headers: Sequence[InstanceHeader]) -> SliceLine:
    """The line through the positions of headers that have been found to share one orientation."""
    orientation = np.median([header.orientation or () for header in headers], axis=0)
    return fit_line([header.position_mm or () for header in headers], orientation.tolist())


def believed_thickness_mm(headers: Sequence[InstanceHeader], spacing_mm: float) -> float | None:
    """Median Slice Thickness; None where a slice gives none or the value cannot be that of a slice profile."""
    stated = [header.slice_thickness_mm or 0.0 for header in headers]
    if min(stated) <= 0:
        return None
    thickness_mm = float(np.median(stated))
    return thickness_mm if thickness_mm <= THICKEST * spacing_mm else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """A series as it came, before anything is known of its geometry."""

    headers: Sequence[Header]
    limits: Limits

    @property
    def instances(self) -> list[InstanceHeader]:
        return [header for header in self.headers if isinstance(header, InstanceHeader)]

    def number(self, header: Header) -> int:
        """What a sentence calls this slice."""
        numbers = [h.instance_number if isinstance(h, InstanceHeader) else None for h in self.headers]
        place = next(k for k, other in enumerate(self.headers) if other is header)
        number = numbers[place]
        return place + 1 if number is None or None in numbers or len(set(numbers)) < len(numbers) else number

    def distinct(self, keyword: str) -> list[str]:
        """The different values of an attribute, the most frequent first."""
        return [text for text, _ in Counter(h.text(keyword) for h in self.instances).most_common()]


def _answer(case: _Case, reason: Reason, /, *, alert: bool = False, **words: str | int) -> Verdict:
    return Verdict(reason=reason, sentence=SENTENCES[reason].format(**words), slices=len(case.headers), alert=alert)


def _own_output(case: _Case) -> Verdict | None:
    """A mark that survives a PACS round trip (DERIVED §1.5)."""
    marked = next((h for h in case.instances if _is_derived_by_us(h)), None)
    if marked is None:
        return None
    _, _, number = marked.text("ImageComments").rpartition(READ_WITH)
    number = number.strip(" .")
    return _answer(case, Reason.OWN_OUTPUT, number=number if number.isdecimal() else "of unknown number")


def _is_derived_by_us(header: InstanceHeader) -> bool:
    if PRODUCT in header.makers:
        return True
    return header.image_type[3:4] == (RESAMPLED_TERM,) and RESAMPLING_CODE in header.derivation_codes


def _class(case: _Case) -> Verdict | None:
    classes = {header.sop_class_uid for header in case.instances}
    if not classes or MR_IMAGE_STORAGE in classes:
        return None
    if classes == {ENHANCED_MR_IMAGE_STORAGE}:
        return _answer(case, Reason.ENHANCED)
    other = sorted(classes - {ENHANCED_MR_IMAGE_STORAGE})[0]
    name = UID(other, validation_mode=IGNORE).name  # the UID itself where it is not registered
    return _answer(case, Reason.OTHER_CLASS, name="unknown" if name == other else name)


def _disagreement(case: _Case) -> Verdict | None:
    """Two patients or studies under one Series Instance UID are a hazard that somebody has to look at."""
    instances = case.instances
    if len({header.identity_digest for header in instances}) > 1:
        first = dict(instances[0].identity)
        for header in instances[1:]:
            differing = set(first.items()) ^ set(header.identity)
            if differing:
                return _answer(case, Reason.DISAGREE, attribute=min(differing)[0], alert=True)
    for keyword in SINGLE_VALUED:
        if len(case.distinct(keyword)) > 1:
            alert = keyword == "StudyInstanceUID"
            return _answer(case, Reason.DISAGREE, attribute=attribute_name(keyword), alert=alert)
    return None


def _unusable(case: _Case) -> Verdict | None:
    for header in case.headers:
        fault = header.reason if isinstance(header, UnreadableHeader) else fault_of(header)
        if fault:
            return _answer(case, Reason.UNUSABLE, n=case.number(header), reason=fault)
    for keyword in PIXEL_FORMAT:
        usual, *unusual = case.distinct(keyword)
        for header in case.instances if unusual else ():
            if header.text(keyword) != usual:
                fault = f"its {attribute_name(keyword)} differs from that of the other slices"
                return _answer(case, Reason.UNUSABLE, n=case.number(header), reason=fault)
    spacings = np.array([header.pixel_spacing_mm for header in case.instances])
    usual_mm = np.median(spacings, axis=0)
    for header, spacing in zip(case.instances, spacings, strict=True):
        if (np.abs(spacing - usual_mm) > PIXEL_SPACING_TOLERANCE * usual_mm).any():
            fault = "its Pixel Spacing differs from that of the other slices"
            return _answer(case, Reason.UNUSABLE, n=case.number(header), reason=fault)
    return None


def _position(case: _Case) -> Verdict | None:
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient"):
        if refusal := _absence(case, keyword, Reason.NO_POSITION):
            return refusal
    return None


def _absence(case: _Case, keyword: str, reason: Reason) -> Verdict | None:
    missing = sum(not header.text(keyword) for header in case.instances)
    if not missing:
        return None
    return _answer(case, reason, attribute=attribute_name(keyword), k=missing, n=len(case.headers))


def _mosaic(case: _Case) -> Verdict | None:
    return _answer(case, Reason.MOSAIC) if any(MOSAIC_TERM in h.image_type[2:] for h in case.instances) else None


def _term(case: _Case) -> Verdict | None:
    """Values 1 and 2 of Image Type clear nobody and accuse nobody (DERIVED §1.4), but of a reformat."""
    of_rule = [_spaced(term.upper()) for term in case.limits.refuse_terms]
    for header in case.instances:
        is_original = header.image_type[:1] == ("ORIGINAL",)
        terms = REFUSED_TERMS if is_original else REFUSED_TERMS + REFUSED_UNLESS_ORIGINAL
        for value in header.image_type[2:]:
            if _is_one_of(_joined(value), terms) or _is_one_of(_spaced(value), of_rule):
                return _answer(case, Reason.TERM, term=_plain(value))
        if case.limits.derived == "keep" and header.image_type[:1] == ("DERIVED",):
            return _answer(case, Reason.TERM, term="DERIVED")
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
    """As ``_joined``, for terms of a rule: there "FAT *" is not to become "FAT*"."""
    return _BETWEEN_WORDS.sub(" ", value).strip()


def _lossy(case: _Case) -> Verdict | None:
    if case.limits.allow_lossy or not any(is_lossy(header) for header in case.instances):
        return None
    worst = max((ratio for header in case.instances for ratio in header.lossy_ratios), default=None)
    return _answer(case, Reason.LOSSY, x="unknown" if worst is None else _short(worst))


def _orientations(case: _Case) -> Verdict | None:
    count = count_orientations([header.orientation or () for header in case.instances])
    return None if count == 1 else _answer(case, Reason.ORIENTATIONS, k=count)


def _echoes(case: _Case) -> Verdict | None:
    """Several images of one place, told apart by something other than time."""
    instances = case.instances
    echo_times = sorted({header.echo_time_ms for header in instances if header.echo_time_ms is not None})
    echo_times = [time for k, time in enumerate(echo_times) if k == 0 or time - echo_times[k - 1] > ECHO_TIME_MS]
    weighted = [header for header in instances if header.b_value]
    b_values = {0.0 if header.b_value is None else header.b_value for header in instances}
    kinds = (
        ("echo times", [f"{_short(time)} ms" for time in echo_times]),
        ("echo numbers", case.distinct("EchoNumbers")),
        ("b-values", [_short(value) for value in sorted(b_values)]),
        ("diffusion directions", sorted({" ".join(header.gradient) for header in weighted})),
        ("complex components", case.distinct("ComplexImageComponent")),
        ("image types", sorted({" ".join(sorted(set(header.image_type[2:]))) for header in instances})),
    )
    for kind, values in kinds:
        if len(values) > 1:
            shown = [_plain(value or "none") for value in values[:VALUES_SHOWN]]
            listed = ", ".join(shown) + (" …" if len(values) > VALUES_SHOWN else "")
            return _answer(case, Reason.ECHOES, k=len(values), kinds=kind, values=listed)
    return None


def _repeated(case: _Case) -> Verdict | None:
    count = count_repeated(line_of(case.instances).offsets_mm)
    if not count:
        return None
    refusal = _answer(case, Reason.REPEATED, k=count)
    told_apart = {tuple(header.text(keyword) for keyword in TOLD_APART_BY) for header in case.instances}
    if len(told_apart) == len(case.instances):
        return refusal
    return replace(refusal, sentence=COPIES.format(k=count))


def _too_few(case: _Case) -> Verdict | None:
    if len(case.headers) >= MIN_SLICES:
        return None
    return _answer(case, Reason.TOO_FEW, n=len(case.headers), least=MIN_SLICES)


def _frame_of_reference(case: _Case) -> Verdict | None:
    """Last of its row: viewers tie crosshairs to it, so a missing one is never invented."""
    return _absence(case, "FrameOfReferenceUID", Reason.NO_FRAME_OF_REFERENCE)


_SERIES_CHECKS: tuple[Callable[[_Case], Verdict | None], ...] = (
    _own_output, _class, _disagreement, _unusable, _position, _mosaic, _term, _lossy, _orientations, _echoes,
    _repeated, _too_few, _frame_of_reference,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stack:
    """A series of single slices, each at a place of its own, all in one orientation."""

    case: _Case
    line: SliceLine
    slices: tuple[InstanceHeader, ...]  # ascending along the normal
    spacing_mm: float  # median distance
    thickness_mm: float | None  # None where it is not to be believed

    @property
    def gap_mm(self) -> float:
        """Unmeasured part of each spacing."""
        return self.spacing_mm - (self.spacing_mm if self.thickness_mm is None else self.thickness_mm)

    @property
    def in_plane_mm(self) -> float:
        """The smaller pixel spacing."""
        return min(self.slices[0].pixel_spacing_mm or (0.0,))

    @property
    def target_mm(self) -> float:
        """The thin spacing that the rule aims at (grid rule, DESIGN §8)."""
        return max(self.in_plane_mm, self.case.limits.target_mm)


def _stack(case: _Case) -> _Stack:
    line = line_of(case.instances)
    spacing_mm = float(np.median(np.diff(line.offsets_mm)))
    return _Stack(
        case=case,
        line=line,
        slices=tuple(case.instances[k] for k in line.order),
        spacing_mm=spacing_mm,
        thickness_mm=believed_thickness_mm(case.instances, spacing_mm),
    )


def _slabs(stack: _Stack) -> Verdict | None:
    """A mean or a sum over slabs that overlap: a projection."""
    stated_mm = float(np.median([header.slice_thickness_mm or 0.0 for header in stack.slices]))
    if stated_mm <= OVERLAP * stack.spacing_mm:
        return None
    for header in stack.slices:
        for value in header.image_type[2:]:
            if header.image_type[0] == "DERIVED" and _is_one_of(_joined(value), SUMS):
                return _answer(stack.case, Reason.TERM, term=_plain(value))
    return None


def _missing(stack: _Stack) -> Verdict | None:
    """Distances that are whole multiples of the usual one; no viewer is safe from them, so never filled."""
    distances = np.diff(stack.line.offsets_mm)
    steps = np.rint(distances / stack.spacing_mm)
    if steps.max() < 2 or (np.abs(distances - steps * stack.spacing_mm) > MULTIPLE * steps * stack.spacing_mm).any():
        return None
    widest = int(np.argmax(distances))
    numbers = sorted(stack.case.number(stack.slices[k]) for k in (widest, widest + 1))
    return _answer(
        stack.case,
        Reason.MISSING,
        k=int((steps - 1).sum()),
        gap=_short(float(distances[widest])),
        i=numbers[0],
        j=numbers[1],
        s=_short(stack.spacing_mm),
    )


def _irregular(stack: _Stack) -> Verdict | None:
    residual_limit_mm = min(max(RESIDUAL_MM, RESIDUAL * stack.spacing_mm), RESIDUAL_LIMIT_MM)
    shear_limit_mm = SHEAR * stack.spacing_mm
    if stack.line.residual_mm <= residual_limit_mm and stack.line.shear_mm <= shear_limit_mm:
        return None
    distances = np.diff(stack.line.offsets_mm)
    refusal = _answer(stack.case, Reason.IRREGULAR, a=_short(float(distances.min())), b=_short(float(distances.max())))
    if float(np.ptp(distances)) > residual_limit_mm:
        return refusal
    sideways_mm = max(stack.line.shear_mm, stack.line.residual_mm)
    return replace(refusal, sentence=SHEARED.format(x=_short(sideways_mm)))


def _gaps(stack: _Stack) -> Verdict | None:
    if stack.gap_mm <= stack.case.limits.max_gap_fraction * stack.spacing_mm:
        return None
    return _answer(stack.case, Reason.GAPS, g=_short(stack.gap_mm), s=_short(stack.spacing_mm))


def _already_thin(stack: _Stack) -> Verdict | None:
    if _ratio(stack) is not None:
        return None
    limits = stack.case.limits
    least_mm = limits.min_ratio * stack.target_mm
    return _answer(
        stack.case, Reason.ALREADY_THIN, s=_short(stack.spacing_mm), name=limits.rule_name, t=_short(least_mm)
    )


def _out_of_range(stack: _Stack) -> Verdict | None:
    ratio, (lowest, highest) = _ratio(stack), stack.case.limits.ratios
    if ratio is None or lowest <= ratio <= highest:
        return None
    return _answer(stack.case, Reason.RATIO, r=ratio, lo=lowest, hi=highest, m=stack.case.limits.model)


_STACK_CHECKS: tuple[Callable[[_Stack], Verdict | None], ...] = (
    _slabs, _missing, _irregular, _gaps, _already_thin, _out_of_range,
)  # fmt: skip


def _ratio(stack: _Stack) -> int | None:
    limits = stack.case.limits
    return choose_ratio(stack.spacing_mm, stack.in_plane_mm, target_mm=limits.target_mm, min_ratio=limits.min_ratio)


def _plan(stack: _Stack) -> Verdict:
    ratio = _ratio(stack)
    assert ratio is not None, "a series that is thin already has been kept"
    spacing_mm = stack.line.spacing_mm
    thick = "of unknown thickness" if stack.thickness_mm is None else f"{_short(stack.thickness_mm)} mm thick"
    verdict = _answer(
        stack.case,
        Reason.PROCESS,
        n=len(stack.slices),
        s=_short(spacing_mm),
        thick=thick,
        m=len(stack.slices) * ratio,
        d=_short(spacing_mm / ratio),
        name=stack.case.limits.rule_name,
    )
    return replace(
        verdict,
        ratio=ratio,
        thin_slices=len(stack.slices) * ratio,
        slice_spacing_mm=round(spacing_mm, REPORTED_DECIMALS),
        thin_spacing_mm=round(spacing_mm / ratio, REPORTED_DECIMALS),
    )


def _measured(verdict: Verdict, stack: _Stack) -> Verdict:
    """The verdict with what the stack's geometry told, whatever the answer is."""
    gap_fraction = None if stack.thickness_mm is None else stack.gap_mm / stack.spacing_mm
    return replace(
        verdict,
        slice_spacing_mm=verdict.slice_spacing_mm or round(stack.spacing_mm, REPORTED_DECIMALS),
        slice_thickness_mm=stack.thickness_mm,
        gap_fraction=None if gap_fraction is None else round(gap_fraction, REPORTED_DECIMALS),
        notes=tuple(_notes(stack)),
    )


def _notes(stack: _Stack) -> list[str]:
    """What does not decide, but a reader of the result should know."""
    case, spacing = stack.case, _short(stack.spacing_mm)
    notes = []
    if stack.thickness_mm is None:
        stated = stack.slices[0].slice_thickness_mm
        what = "missing" if not stated or stated < 0 else f"{_short(stated)} mm, which is not believed"
        notes.append(f"Slice Thickness is {what}; the slices are taken to be as thick as their spacing, {spacing} mm.")
    if any(header.image_type[:1] == ("DERIVED",) for header in stack.slices):
        notes.append("The images say of themselves that they are DERIVED.")
    if any(is_lossy(header) for header in stack.slices):
        notes.append("The images were lossily compressed before they came here, which the rule allows.")
    stated_mm = {header.text("SpacingBetweenSlices") for header in stack.slices} - {""}
    if any(abs(_number(text) - stack.spacing_mm) > RESIDUAL * stack.spacing_mm for text in stated_mm):
        notes.append(f"Spacing Between Slices disagrees with the positions ({spacing} mm), which are right.")
    varying = [attribute_name(keyword) for keyword in REPORTED if len(case.distinct(keyword)) > 1]
    if varying:
        notes.append(f"Varies between slices: {', '.join(varying)}.")
    return notes


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _short(number: float) -> str:
    """Four digits tell any distance in a scanner apart.

    >>> _short(4.49999), _short(3.0), _short(1.1)
    ('4.5', '3', '1.1')
    """
    return f"{number:.4g}"


def _plain(text: str) -> str:
    """A sender's code fit for a sentence; a value that ran into its neighbours may hold anything, a name among it."""
    return text if CODE.fullmatch(text) else "unreadable"
