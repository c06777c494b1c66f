"""Which rule a series falls under, and for every rule before it which condition did not hold.

Rules are tried in the order of the settings file; the first whose ``match`` holds in every instance wins. A
condition is a glob over an attribute's text (case ignored; an absent attribute is the empty text, several values
are joined by a backslash) or a comparison with the distance of the slice centres.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Final

from dicomnode.derivation import DerivationParameters, RuleLimits
from dicomnode.generators.model_dir import LEARNED_DEFAULT, ModelFacts
from dicomnode.imaging.frame import Frame, instances_of
from dicomnode.imaging.geometry import slice_spacing_mm
from dicomnode.imaging.headers import InstanceHeader
from dicomnode.settings.match import Match, Operator
from dicomnode.settings.models import RuleSettings

_COMPARE: Final[Mapping[Operator, Callable[[float, float], bool]]] = {
    ">=": lambda spacing, bound: spacing >= bound - SPACING_TOLERANCE_MM,
    "<=": lambda spacing, bound: spacing <= bound + SPACING_TOLERANCE_MM,
    ">": lambda spacing, bound: spacing > bound + SPACING_TOLERANCE_MM,
    "<": lambda spacing, bound: spacing < bound - SPACING_TOLERANCE_MM,
    "=": lambda spacing, bound: abs(spacing - bound) <= SPACING_TOLERANCE_MM,
}
SPACING_TOLERANCE_MM = 0.005  # a fitted 2.9999 mm is the 3 mm that the rule's author read off the console


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleChoice:
    """The rule of a series, and why the ones before it were passed over."""

    rule: RuleSettings | None  # None: no rule's conditions hold
    passed_over: tuple[str, ...]  # a sentence for each rule that was tried in vain; no text from a header in it


def choose_rule(frames: Sequence[Frame], rules: Sequence[RuleSettings]) -> RuleChoice:
    """The first rule whose every condition holds in every instance. Pure."""
    headers, spacing_mm = instances_of(frames), slice_spacing_mm(frames)
    passed_over: list[str] = []
    for rule in rules:
        unmet = _unmet_condition(rule.match, headers, spacing_mm)
        if unmet is None:
            return RuleChoice(rule=rule, passed_over=tuple(passed_over))
        passed_over.append(f"Rule {rule.name} does not apply: {unmet}.")
    return RuleChoice(rule=None, passed_over=tuple(passed_over))


def model_wanted(rule: RuleSettings | None) -> str | None:
    """The name of the model that a rule asks for; None: the default, whichever that is on this machine.

    A rule that states a sharpness and no model was written for the one default model that may have two sets of weights.
    """
    if rule is None:
        return None
    return rule.model or (LEARNED_DEFAULT if rule.sharpness is not None else None)


def parameters_of(rule: RuleSettings, model: ModelFacts) -> DerivationParameters:
    """What a rule and its model decide of a derivation; ratio and clock are pinned when the job is planned."""
    limits = RuleLimits(**{field.name: getattr(rule, field.name) for field in fields(RuleLimits)})
    return DerivationParameters(
        rule=rule.name, model=model.name, model_digest=model.digest, limits=limits, sharpness=rule.sharpness,
        uncertainty=rule.uncertainty or None,
    )  # fmt: skip


def _unmet_condition(match: Match, headers: Sequence[InstanceHeader], spacing_mm: float | None) -> str | None:
    """The first condition that does not hold, in words; None when all hold."""
    for keyword, pattern in match.globs:
        wanted = pattern.casefold()
        misses = sum(not fnmatchcase(header.text(keyword).casefold(), wanted) for header in headers)
        if misses:
            return f"{keyword} is not “{pattern}” in {misses} of {len(headers)} instances"
    for operator, bound in match.slice_spacing:
        wanted = f"slice_spacing_mm is to be {operator} {bound:g}"
        if spacing_mm is None:
            return f"{wanted}, and the slices have no common spacing"
        if not _COMPARE[operator](spacing_mm, bound):
            return f"{wanted}, and the slices are {spacing_mm:.4g} mm apart"
    return None
