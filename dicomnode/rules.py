"""Choose the rule of a series, and name for every rule before it the condition that did not hold.

Rules are tried in the order of the settings file; the first whose ``match`` holds in every instance wins. A test looks
at an attribute's text (case ignored; an absent attribute is the empty text, several values are joined by a backslash),
at its numbers, at the distance of the slice centres, at the plane in which the slices lie, at the AE title that the
sender called (case matters), or at the time of day when the first instance came.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Final

import numpy as np
from pydicom.datadict import tag_for_keyword

from dicomnode.derivation import DerivationParameters, RuleLimits
from dicomnode.generators.model_dir import LEARNED_DEFAULT, ModelFacts
from dicomnode.ids import uid_fault
from dicomnode.imaging.frame import Frame, Slice, instances_of
from dicomnode.imaging.geometry import distinct_spacing_mm, line_of, stacked
from dicomnode.imaging.headers import InstanceHeader
from dicomnode.imaging.judge import judge
from dicomnode.imaging.verdict import Limits, Verdict
from dicomnode.imaging.words import attribute_name
from dicomnode.ledger.sentences import BROKEN_UID
from dicomnode.settings.match import (
    CALLED,
    OWN_KEYS,
    PLANE,
    SPACING,
    TIME_OF_DAY,
    Comparisons,
    Condition,
    Match,
    Operator,
    Plane,
    ValueTest,
    holds_numbers,
)
from dicomnode.settings.rules import RuleSettings

_COMPARE: Final[Mapping[Operator, Callable[[float, float, float], bool]]] = {
    ">=": lambda found, bound, tolerance: found >= bound - tolerance,
    "<=": lambda found, bound, tolerance: found <= bound + tolerance,
    ">": lambda found, bound, tolerance: found > bound + tolerance,
    "<": lambda found, bound, tolerance: found < bound - tolerance,
    "=": lambda found, bound, tolerance: abs(found - bound) <= tolerance,
}
SPACING_TOLERANCE_MM = 0.005  # a fitted 2.9999 mm is the 3 mm that the rule's author read off the console
NUMBER_TOLERANCE = 1e-4  # share of the bound: headers say 79.998 where the console shows 80
UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
PLANES = (Plane.SAGITTAL, Plane.CORONAL, Plane.AXIAL)  # by the axis of the patient that the normal is nearest to
PATIENT_GROUP = 0x0010  # values of this group are never shown
MOST_SHOWN = 3  # values of a number that differ from instance to instance


@dataclass(frozen=True, slots=True, kw_only=True)
class Reception:
    """The circumstances in which one instance came: the called AE title and the moment."""

    called_ae: str | None  # the AE title that its sender called; None: unknown
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleChoice:
    """The rule of a series, and why the ones before it were passed over."""

    rule: RuleSettings | None  # None: no rule's conditions hold
    passed_over: tuple[str, ...]  # a sentence for each rule that was tried in vain; no text from a header in it
    conflicts: tuple[str, ...] = ()  # a sentence for each key of the rule that has several values within the series


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedByRules:
    """The rule of a series, and the verdict within the limits of that rule and its model."""

    choice: RuleChoice
    model: ModelFacts
    parameters: DerivationParameters | None  # set by the rule and its model; None where no rule applies
    verdict: Verdict
    broken: tuple[str, ...]  # sentences on UIDs that break the standard's rule


def judge_by_rules(
    slices: Sequence[Slice],
    rules: Sequence[RuleSettings],
    *,
    model_of: Callable[[str | None], ModelFacts],
    received: Sequence[Reception],
    enhanced: bool = True,
) -> JudgedByRules:
    """Choose the rule of a whole series and judge the series by it. Raises ModelError where its model is not there.

    ``model_of`` returns the facts of a rule's ``model``; None stands for the default model. ``received``: how the
    instances came. ``enhanced``: true if Enhanced MR objects of this sender may be processed.
    """
    frames = [one for one in slices if isinstance(one, Frame)]
    choice = choose_rule(frames, rules, received)
    model = model_of(model_wanted(choice.rule))
    parameters = parameters_of(choice.rule, model) if choice.rule else None
    limits = replace(_limits_of(parameters, model), enhanced=enhanced)
    verdict = judge(slices, limits, rule_matched=choice.rule is not None)
    broken = _broken_uids(instances_of(frames))
    return JudgedByRules(choice=choice, model=model, parameters=parameters, verdict=verdict, broken=broken)


def choose_rule(
    frames: Sequence[Frame], rules: Sequence[RuleSettings], received: Sequence[Reception] = ()
) -> RuleChoice:
    """Choose the first rule whose conditions all hold in every instance. Pure."""
    seen = _SeriesFacts.of(frames, received)
    passed_over: list[str] = []
    for rule in rules:
        unmet = _unmet_condition(rule.match, seen)
        if unmet is None:
            return RuleChoice(rule=rule, passed_over=tuple(passed_over), conflicts=_conflicts(rule.match, seen))
        passed_over.append(f"Rule {rule.name} does not apply: {unmet}.")
    return RuleChoice(rule=None, passed_over=tuple(passed_over))


def study_of(slices: Sequence[Slice]) -> str:
    """Return the Study Instance UID of the first instance of a series; empty where none can be read."""
    return next((one.header.text("StudyInstanceUID") for one in slices if isinstance(one, Frame)), "")


def model_wanted(rule: RuleSettings | None) -> str | None:
    """Return the name of the model that a rule asks for; None: the default, whichever that is on this machine.

    A rule that states a sharpness and no model was written for the one default model that may have two sets of weights.
    """
    if rule is None:
        return None
    return rule.model or (LEARNED_DEFAULT if rule.sharpness is not None else None)


def parameters_of(rule: RuleSettings, model: ModelFacts) -> DerivationParameters:
    """Return the parameters that a rule and its model set; ratio and clock are pinned when the job is planned."""
    limits = RuleLimits(**{field.name: getattr(rule, field.name) for field in fields(RuleLimits)})
    return DerivationParameters(
        rule=rule.name, model=model.name, model_digest=model.digest, limits=limits, sharpness=rule.sharpness,
        uncertainty=rule.uncertainty or None,
    )  # fmt: skip


def _limits_of(parameters: DerivationParameters | None, model: ModelFacts) -> Limits:
    """Return the limits of the rule and its model; without a rule, the defaults, so that the verdict has a reason."""
    if parameters is None:
        return Limits(ratios=model.ratios, model=model.name)
    return Limits.of(parameters, model.ratios)


def _broken_uids(headers: Sequence[InstanceHeader]) -> tuple[str, ...]:
    """Return a sentence for each attribute whose UIDs break the standard's rule. An absent attribute breaks none."""
    faults: dict[tuple[str, str], int] = {}
    for header in headers:
        for keyword in UIDS:
            text = header.text(keyword)
            if text and (fault := uid_fault(text)) is not None:
                faults[keyword, fault] = faults.get((keyword, fault), 0) + 1
    return tuple(
        f"{attribute_name(keyword)} {fault} in {number} of {len(headers)} instances, {BROKEN_UID}"
        for (keyword, fault), number in faults.items()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _SeriesFacts:
    """The facts of a series that the tests look at."""

    headers: Sequence[InstanceHeader]
    spacing_mm: float | None  # None: the slices have no common spacing
    plane: Plane | None  # None: the slices do not lie in one plane
    received: Sequence[Reception]

    @classmethod
    def of(cls, frames: Sequence[Frame], received: Sequence[Reception]) -> _SeriesFacts:
        """Compute the facts of a series, once for all rules."""
        spacing_mm, plane = None, None
        if placed := stacked(frames):
            line = line_of(placed)
            spacing_mm = distinct_spacing_mm(line.offsets_mm)
            plane = PLANES[int(np.abs(line.normal).argmax())]
        return cls(headers=instances_of(frames), spacing_mm=spacing_mm, plane=plane, received=received)

    @property
    def called(self) -> Counter[str | None]:
        """The number of instances that came to each of our AE titles."""
        return Counter(one.called_ae for one in self.received)


def _unmet_condition(match: Match, seen: _SeriesFacts) -> str | None:
    """Say which condition is the first that does not hold, without text from a header; None if all hold."""
    for condition in match.conditions:
        if condition.key == SPACING:
            unmet = _unmet_spacing(condition, seen.spacing_mm)
        elif condition.key == PLANE:
            unmet = _unmet_plane(condition, seen.plane)
        elif condition.key == CALLED:
            unmet = _unmet_title(condition, seen.called)
        elif condition.key == TIME_OF_DAY:
            unmet = _unmet_time(condition, seen.received)
        else:
            unmet = _unmet_attribute(condition, seen.headers)
        if unmet is not None:
            return unmet
    return None


def _unmet_spacing(condition: Condition, spacing_mm: float | None) -> str | None:
    wanted = f"{SPACING} {_wanted(condition)}"
    if spacing_mm is None:
        return f"{wanted}, and the slices have no common spacing"
    if _holds(condition, lambda test: _compares(test.comparisons, spacing_mm, SPACING_TOLERANCE_MM)):
        return None
    return f"{wanted}, and the slices are {spacing_mm:.4g} mm apart"


def _unmet_plane(condition: Condition, plane: Plane | None) -> str | None:
    wanted = f"{PLANE} {_wanted(condition)}"
    if plane is None:
        return f"{wanted}, and the slices do not lie in one plane"
    return None if _holds(condition, lambda test: test.text == plane) else f"{wanted}, and the slices are {plane}"


def _unmet_title(condition: Condition, called: Counter[str | None]) -> str | None:
    wanted = f"{CALLED} {_wanted(condition)}"
    if not called or None in called:
        return f"{wanted}, and it is not known which AE title was called"

    def holds(title: str | None) -> bool:
        return _holds(condition, lambda test: fnmatchcase(title or "", test.text))

    return None if all(map(holds, called)) else f"{wanted}, and the sender called {_shown_titles(called)}"


def _unmet_time(condition: Condition, received: Sequence[Reception]) -> str | None:
    wanted = f"{TIME_OF_DAY} {_wanted(condition)}"
    if not received:
        return f"{wanted}, and it is not known when the series came"
    first = min(one.at for one in received)
    if _holds(condition, lambda test: test.window is not None and test.window.holds(first)):
        return None
    window = condition.tests[0].window
    assert window is not None, "a test of the time of day is a window"
    return f"{wanted}, and the first instance came at {window.local(first):%H:%M}"


def _unmet_attribute(condition: Condition, headers: Sequence[InstanceHeader]) -> str | None:
    misses = [header for header in headers if not _holds_in(condition, header)]
    if not misses:
        return None
    unmet = f"{condition.key} {_wanted(condition)}, and is not in {len(misses)} of {len(headers)} instances"
    is_of_patient = (tag_for_keyword(condition.key) or 0) >> 16 == PATIENT_GROUP
    if any(test.comparisons for test in condition.tests) and not is_of_patient:
        unmet += f" ({_shown_numbers(condition.key, headers)})"
    return unmet


def _holds_in(condition: Condition, header: InstanceHeader) -> bool:
    text = header.text(condition.key)
    numbers = _numbers(text)

    def holds(test: ValueTest) -> bool:
        if not test.comparisons:
            return fnmatchcase(text.casefold(), test.text.casefold())
        tolerances = [NUMBER_TOLERANCE * abs(bound) for _, bound in test.comparisons]
        return bool(numbers) and all(_compares(test.comparisons, number, max(tolerances)) for number in numbers)

    return _holds(condition, holds)


def _holds(condition: Condition, holds: Callable[[ValueTest], bool]) -> bool:
    """Tell whether a condition holds: no excluding test holds, and one of the others does if there are any."""
    wanted = [test for test in condition.tests if not test.excludes]
    if any(holds(test) for test in condition.tests if test.excludes):
        return False
    return not wanted or any(map(holds, wanted))


def _compares(comparisons: Comparisons, found: float, tolerance: float) -> bool:
    return all(_COMPARE[operator](found, bound, tolerance) for operator, bound in comparisons)


def _numbers(text: str) -> tuple[float, ...]:
    """Parse the numbers of an attribute; none where a value is no number."""
    try:
        numbers = tuple(float(value) for value in text.split("\\") if value.strip())
    except ValueError:
        return ()
    return numbers if all(map(math.isfinite, numbers)) else ()


def _conflicts(match: Match, seen: _SeriesFacts) -> tuple[str, ...]:
    """Say which keys of a rule have several values within the series, although its conditions hold for each of them."""
    sentences = []
    for condition in match.conditions:
        if condition.key == CALLED and len(seen.called) > 1:
            sentences.append(f"The sender called {_shown_titles(seen.called)} within this series.")
        if condition.key in OWN_KEYS:
            continue
        texts = {header.text(condition.key) for header in seen.headers}
        numbers = {_numbers(text) for text in texts}
        is_of_patient = (tag_for_keyword(condition.key) or 0) >> 16 == PATIENT_GROUP
        if holds_numbers(condition.key) and all(numbers) and not is_of_patient:
            if len(numbers) > 1:
                found = ["/".join(f"{number:g}" for number in one) for one in sorted(numbers)]
                more = f" and {len(found) - MOST_SHOWN} more values" if len(found) > MOST_SHOWN else ""
                listed = ", ".join(found[:MOST_SHOWN]) if more else " and ".join(found)
                sentences.append(f"{condition.key} is {listed}{more} in this series.")
        elif len(texts) > 1:
            sentences.append(f"{condition.key} has {len(texts)} different values in this series.")
    return tuple(sentences)


def _wanted(condition: Condition) -> str:
    """Return the demand of a condition in the words of the settings file."""
    accepted = [test.text if test.comparisons else f"“{test.text}”" for test in condition.tests if not test.excludes]
    excluded = [test.text if test.comparisons else f"“{test.text}”" for test in condition.tests if test.excludes]
    parts = [f"is to be {' or '.join(accepted)}"] if accepted else []
    parts += [f"is not to be {' or '.join(excluded)}"] if excluded else []
    return " and ".join(parts)


def _shown_numbers(keyword: str, headers: Sequence[InstanceHeader]) -> str:
    """List the values of a number and how often each occurs, the most frequent first; words are never shown."""
    found = Counter(_numbers(header.text(keyword)) for header in headers)
    shown = [
        f"{'/'.join(f'{number:g}' for number in numbers)} in {count}" if numbers else f"no number in {count}"
        for numbers, count in found.most_common(MOST_SHOWN)
    ]
    return ", ".join(shown) + (f" and {len(found) - MOST_SHOWN} more values" if len(found) > MOST_SHOWN else "")


def _shown_titles(called: Counter[str | None]) -> str:
    """List the AE titles that were called, all of them our own, and how many instances came to each."""
    return " and ".join(f"“{title}” in {count} of {called.total()} instances" for title, count in called.most_common())
