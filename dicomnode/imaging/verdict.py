"""The verdict on a series: process it, or keep it for a reason, with one sentence for the operator.

``judge`` reaches the verdict. The sentence is written to the log and the ledger, so it names attributes, numbers and
codes of the image, but never a UID and never the value of an attribute about the patient.

"Slice 7" is the one with Instance Number 7, which is the number that viewers show. Where the numbers are missing or
repeated, it is the seventh frame in the order in which the frames were given.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum

from dicomnode.derivation import DerivationParameters, RuleLimits
from dicomnode.imaging.profile import RATIO_LIMITS


class VerdictReason(StrEnum):
    """Reasons to process a series or to keep it, in the order in which they are looked for."""

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
# IRREGULAR, where the spacing is even but the positions are not on one straight line across the slices.
SHEARED = "Neighbouring slices are shifted sideways by up to {x} mm."


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(RuleLimits):
    """The limits of the rule and its model for a series; the defaults hold where no rule matches."""

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
    missing_slices: int = 0  # between those that are there
    notes: tuple[str, ...] = ()  # sentences for ``series explain``
    alert: bool = False  # a hazard that somebody has to look at

    @property
    def process(self) -> bool:
        """Shall this series be processed?"""
        return self.reason is VerdictReason.PROCESS
