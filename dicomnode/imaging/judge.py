"""Is this series a stack of thick slices that may be processed, and if not, why not?

The input is the frames of a series and the limits of its rule and model; the result is a ``Verdict``. The checks are
made in the order of docs/derived-objects.md#order-of-the-reasons; the first that applies is the reason. No header,
however damaged, makes the verdict raise an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dicomnode.imaging.enhanced import MAPPING
from dicomnode.imaging.fitness import is_lossy
from dicomnode.imaging.frame import Slice
from dicomnode.imaging.geometry import RESIDUAL, layout_of
from dicomnode.imaging.series_checks import SERIES_CHECKS, Case, answer
from dicomnode.imaging.stack_checks import STACK_CHECKS, Stack, ratio_of
from dicomnode.imaging.verdict import Limits, Verdict, VerdictReason
from dicomnode.imaging.words import attribute_name, short

REPORTED_DECIMALS = 6  # of a length in mm; further digits are rounding errors of the header's values
# May differ from slice to slice, and is said in the notes: a reader of the result sees one value or none.
REPORTED = (
    "RepetitionTime", "InversionTime", "FlipAngle", "ReceiveCoilName", "SliceThickness", "RescaleSlope",
    "RescaleIntercept", "AcquisitionNumber", "TriggerTime", "WindowCenter", "WindowWidth",
)  # fmt: skip


def judge(slices: Sequence[Slice], limits: Limits, *, rule_matched: bool = True) -> Verdict:
    """Return the verdict on one series."""
    assert slices, "a series has at least one slice"
    case = Case(slices=slices, limits=limits)
    for check in SERIES_CHECKS:
        if refusal := check(case):
            return refusal
    stack = Stack(case=case, layout=layout_of(case.frames))
    for stack_check in STACK_CHECKS:
        if refusal := stack_check(stack):
            return _measured(refusal, stack)
    return _measured(_plan(stack) if rule_matched else answer(case, VerdictReason.NO_RULE), stack)


def _plan(stack: Stack) -> Verdict:
    ratio = ratio_of(stack)
    assert ratio is not None, "a series that is thin already has been kept"
    layout = stack.layout
    slices, spacing_mm = len(layout.frames), layout.line.spacing_mm
    thick = "of unknown thickness" if layout.thickness_mm is None else f"{short(layout.thickness_mm)} mm thick"
    verdict = answer(
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


def _measured(verdict: Verdict, stack: Stack) -> Verdict:
    """Add to the verdict what the geometry of the stack told, whatever the answer is."""
    layout = stack.layout
    return replace(
        verdict,
        slice_spacing_mm=verdict.slice_spacing_mm or round(layout.spacing_mm, REPORTED_DECIMALS),
        slice_thickness_mm=layout.thickness_mm,
        gap_fraction=None if layout.gap_fraction is None else round(layout.gap_fraction, REPORTED_DECIMALS),
        notes=tuple(_notes(stack)),
    )


def _notes(stack: Stack) -> list[str]:
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
