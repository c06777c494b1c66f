"""The match language of a rule: the table ``match`` of the settings file in, conditions as values out.

``{ SeriesDescription = ["*T2*", "!*FLAIR*"], EchoTime = ">= 80", plane = "axial", slice_spacing_mm = ">= 2, < 8" }``

A key is a keyword of the DICOM dictionary, ``slice_spacing_mm`` or ``plane``. Its value is one test or a list of tests.
A test is a pattern, or comparisons of numbers where the key holds numbers. With ``!`` in front of it a test must not
hold. Of the others in a list one must hold. Whether a series fulfils the conditions is decided in ``rules``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from dicomnode.strict_toml import fail, guess, shown

Operator = Literal[">=", "<=", ">", "<", "="]
SPACING, PLANE = "slice_spacing_mm", "plane"  # computed from the positions, no attributes

_COMPARISON = re.compile(r"(>=|<=|>|<|=)\s*(-?\d+(?:\.\d+)?)")
_NO_TEXT = frozenset({"SQ", "OB", "OW", "OF", "OD", "OL", "OV", "UN"})  # value representations that no glob can match
_NUMBERS = frozenset({"DS", "IS", "FL", "FD", "SS", "US", "SL", "UL", "SV", "UV"})


class Plane(StrEnum):
    """The body's plane that lies nearest to the slices."""

    AXIAL = "axial"
    CORONAL = "coronal"
    SAGITTAL = "sagittal"


Comparisons = tuple[tuple[Operator, float], ...]  # all of which must hold


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueTest:
    """One test of a value: a pattern, or comparisons with numbers."""

    text: str  # as written, without the exclamation mark
    excludes: bool = False  # the test must not hold
    comparisons: Comparisons = ()  # none: ``text`` is a pattern


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """The demand of one key: no excluding test holds, and one of the others if there are any."""

    key: str  # a DICOM keyword, SPACING or PLANE
    tests: tuple[ValueTest, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What must hold in every instance of a series for its rule to apply; empty matches every series."""

    conditions: tuple[Condition, ...] = ()


def parse_match(value: object) -> Match:
    """The conditions of a table that was read from TOML; every part that does not parse is named."""
    if isinstance(value, Match):
        return value
    if not isinstance(value, dict):
        fail('expected a table such as { SeriesDescription = "*T2*" }')
    mistakes: list[tuple[str, str]] = []
    conditions: list[Condition] = []
    for key, written in value.items():
        texts = written if isinstance(written, list) else [written]
        problem = _key_problem(key) or _list_problem(texts)
        if problem:
            mistakes.append((key, problem))
            continue
        tests = [_test(key, text) for text in texts]
        mistakes += [(key, test) for test in tests if isinstance(test, str)]
        conditions.append(Condition(key=key, tests=tuple(test for test in tests if isinstance(test, ValueTest))))
    if mistakes:
        fail("does not parse", also=mistakes)
    return Match(conditions=tuple(conditions))


def _test(key: str, written: object) -> ValueTest | str:
    """One test of a key, or what was expected in its place."""
    if not isinstance(written, str) or not written.lstrip("!"):
        return f"expected {_example(key)}, found {shown(written)}"
    text = written.removeprefix("!").strip()
    excludes = written.startswith("!")
    if key == PLANE:
        if text not in list(Plane):
            return f"expected {_example(key)}, found {shown(written)}"
        return ValueTest(text=text, excludes=excludes)
    comparisons = _comparisons(text)
    if key == SPACING and not comparisons:
        return f"expected {_example(key)}, found {shown(written)}"
    if comparisons and not _holds_numbers(key):
        return f'holds text, which has no order: expected a pattern, such as "*T2*", found {shown(written)}'
    return ValueTest(text=text, excludes=excludes, comparisons=comparisons)


def _comparisons(text: str) -> Comparisons:
    """The parts of ``">= 2, < 8"``, all of which must hold; empty where the text is none."""
    parts = [_COMPARISON.fullmatch(part.strip()) for part in text.split(",")]
    found: list[tuple[Operator, float]] = []
    for part in parts:
        if part is None:
            return ()
        found.append((part[1], float(part[2])))  # type: ignore[arg-type]  # the pattern admits operators only
    return tuple(found)


def _example(key: str) -> str:
    """An example of a key's value, for an error sentence."""
    if key == PLANE:
        return '"axial", "coronal" or "sagittal"'
    if key == SPACING:
        return 'comparisons such as ">= 2" or ">= 2, < 8"'
    return 'a pattern in text, such as "*T2*"' + (', or comparisons, such as ">= 80"' if _holds_numbers(key) else "")


def _list_problem(texts: Sequence[object]) -> str:
    """Why a list is no list of tests; empty where it may be one."""
    return "" if texts else "expected one test at least, found an empty list"


def _key_problem(key: str) -> str:
    """Why no rule can look at this attribute; empty where one can."""
    if key in (SPACING, PLANE):
        return ""
    # Here, not above: a file without such a rule is then read without pydicom (0.2 s).
    from pydicom.datadict import keyword_dict

    representations = _representations(key)
    if not representations:
        return f"is not a keyword of the DICOM dictionary{guess(key, [*keyword_dict, SPACING, PLANE])}"
    if not _NO_TEXT.isdisjoint(representations):
        return "holds no text that a pattern could match"
    return ""


def _holds_numbers(key: str) -> bool:
    """Can the values of this key be compared with a number?"""
    return key == SPACING or not _NUMBERS.isdisjoint(_representations(key))


def _representations(keyword: str) -> list[str]:
    """The value representations that the dictionary allows an attribute; none where it does not know it."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    tag = tag_for_keyword(keyword)
    return [] if tag is None else dictionary_VR(tag).split(" or ")
