"""The match language of a rule: the table ``match`` of the settings file in, conditions as values out.

``{ SeriesDescription = ["*T2*", "!*FLAIR*"], EchoTime = ">= 80", plane = "axial", slice_spacing_mm = ">= 2, < 8" }``

A key is a keyword of the DICOM dictionary, ``slice_spacing_mm``, ``plane``, ``called_ae`` or ``time_of_day``. Its value
is one test or a list of tests. A test is a pattern, comparisons of numbers where the key holds numbers, or a window of
the day. A test with ``!`` in front must not hold; one of the other tests in the list must hold. ``rules`` decides
whether a series fulfils the conditions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time
from enum import StrEnum
from typing import Literal
from zoneinfo import ZoneInfo

from dicomnode.strict_toml import fail, guess, shown

Operator = Literal[">=", "<=", ">", "<", "="]
SPACING, PLANE = "slice_spacing_mm", "plane"  # computed from the positions, no attributes
CALLED, TIME_OF_DAY = "called_ae", "time_of_day"  # facts of the reception, no attributes
OWN_KEYS = (SPACING, PLANE, CALLED, TIME_OF_DAY)

_COMPARISON = re.compile(r"(>=|<=|>|<|=)\s*(-?\d+(?:\.\d+)?)")
_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)(?: ([A-Za-z0-9_+/-]{1,64}))?")
_NO_TEXT = frozenset({"SQ", "OB", "OW", "OF", "OD", "OL", "OV", "UN"})  # value representations that no glob can match
_NUMBERS = frozenset({"DS", "IS", "FL", "FD", "SS", "US", "SL", "UL", "SV", "UV"})


class Plane(StrEnum):
    """The anatomical plane that lies nearest to the slices."""

    AXIAL = "axial"
    CORONAL = "coronal"
    SAGITTAL = "sagittal"


Comparisons = tuple[tuple[Operator, float], ...]  # all of which must hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A part of each day, over midnight where it ends before it begins."""

    begin: time
    end: time  # the first moment that is not in it
    zone: ZoneInfo | None  # None: that of this machine

    def local(self, moment: datetime) -> datetime:
        """Convert a moment to the clocks of the window's zone."""
        return moment.astimezone(self.zone)

    def holds(self, moment: datetime) -> bool:
        """Tell whether a moment lies in the window."""
        at = self.local(moment).time()
        if self.begin < self.end:
            return self.begin <= at < self.end
        return at >= self.begin or at < self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueTest:
    """One test of a value: a pattern, or comparisons with numbers."""

    text: str  # as written, without the exclamation mark
    excludes: bool = False  # the test must not hold
    comparisons: Comparisons = ()  # empty: the test has a ``window``, or ``text`` is a pattern
    window: Window | None = None  # the part of the day, for a test of ``time_of_day``


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """The demand of one key: no excluding test holds, and one of the others if there are any."""

    key: str  # a DICOM keyword, or one of OWN_KEYS
    tests: tuple[ValueTest, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The conditions that must hold in every instance of a series for its rule to apply; none matches every series."""

    conditions: tuple[Condition, ...] = ()


def parse_match(value: object) -> Match:
    """Parse the conditions of a TOML table; the error names every part that does not parse."""
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
    """Parse one test of a key, or say what was expected in its place."""
    if not isinstance(written, str) or not written.lstrip("!"):
        return f"expected {_example(key)}, found {shown(written)}"
    text = written.removeprefix("!").strip()
    excludes = written.startswith("!")
    if key == PLANE:
        if text not in list(Plane):
            return f"expected {_example(key)}, found {shown(written)}"
        return ValueTest(text=text, excludes=excludes)
    if key == TIME_OF_DAY:
        found = window(text)
        if found is None:
            return f"expected {_example(key)}, found {shown(written)}"
        return ValueTest(text=text, excludes=excludes, window=found)
    comparisons = _comparisons(text)
    if key == SPACING and not comparisons:
        return f"expected {_example(key)}, found {shown(written)}"
    if comparisons and not holds_numbers(key):
        return f'holds text, which has no order: expected a pattern, such as "*T2*", found {shown(written)}'
    return ValueTest(text=text, excludes=excludes, comparisons=comparisons)


def _comparisons(text: str) -> Comparisons:
    """Parse ``">= 2, < 8"``, whose parts must all hold; empty where the text holds no comparisons."""
    parts = [_COMPARISON.fullmatch(part.strip()) for part in text.split(",")]
    found: list[tuple[Operator, float]] = []
    for part in parts:
        if part is None:
            return ()
        found.append((part[1], float(part[2])))  # type: ignore[arg-type]  # the pattern admits operators only
    return tuple(found)


def window(text: str) -> Window | None:
    """Parse ``"22:00-06:00"``, perhaps with a time zone behind it; None where the text is no part of the day."""
    found = _WINDOW.fullmatch(text)
    if found is None:
        return None
    begin, end = (time(int(found[one]), int(found[one + 1])) for one in (1, 3))
    try:
        zone = ZoneInfo(found[5]) if found[5] else None
    except (KeyError, ValueError, OSError):  # unknown; no name of a zone; a folder
        return None
    return None if begin == end else Window(begin=begin, end=end, zone=zone)


def _example(key: str) -> str:
    """Return an example of a key's value, for an error sentence."""
    if key == PLANE:
        return '"axial", "coronal" or "sagittal"'
    if key == SPACING:
        return 'comparisons such as ">= 2" or ">= 2, < 8"'
    if key == TIME_OF_DAY:
        return 'a part of the day such as "22:00-06:00", and a time zone behind it where it is not the machine\'s'
    return 'a pattern in text, such as "*T2*"' + (', or comparisons, such as ">= 80"' if holds_numbers(key) else "")


def _list_problem(texts: Sequence[object]) -> str:
    """Say why a list is no list of tests; empty where it may be one."""
    return "" if texts else "expected one test at least, found an empty list"


def _key_problem(key: str) -> str:
    """Say why no rule can test this attribute; empty where one can."""
    if key in OWN_KEYS:
        return ""
    # Imported here, so that a file without such a rule is read without pydicom (0.2 s).
    from pydicom.datadict import keyword_dict

    representations = _representations(key)
    if not representations:
        return f"is not a keyword of the DICOM dictionary{guess(key, [*keyword_dict, *OWN_KEYS])}"
    if not _NO_TEXT.isdisjoint(representations):
        return "holds no text that a pattern could match"
    return ""


def holds_numbers(key: str) -> bool:
    """Tell whether the values of this key can be compared with a number."""
    if key in OWN_KEYS:
        return key == SPACING
    return not _NUMBERS.isdisjoint(_representations(key))


def _representations(keyword: str) -> list[str]:
    """Return the value representations that the dictionary allows an attribute; none where it lacks the keyword."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    tag = tag_for_keyword(keyword)
    return [] if tag is None else dictionary_VR(tag).split(" or ")
