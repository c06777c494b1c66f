"""The match language of a rule: the table ``match`` of the settings file in, conditions as values out.

``{ SeriesDescription = "*T2*", slice_spacing_mm = ">= 2, < 8" }``: a key is a keyword of the DICOM dictionary with a
pattern for its text, or ``slice_spacing_mm`` with comparisons. Whether a series fulfils them is decided in ``rules``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from dicomnode.strict_toml import fail, guess, shown

Operator = Literal[">=", "<=", ">", "<", "="]

_COMPARISON = re.compile(r"(>=|<=|>|<|=)\s*(\d+(?:\.\d+)?)")
_SPACING = "slice_spacing_mm"
_NO_TEXT = frozenset({"SQ", "OB", "OW", "OF", "OD", "OL", "OV", "UN"})  # value representations that no glob can match


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What must hold in every instance of a series for its rule to apply; empty matches every series."""

    globs: tuple[tuple[str, str], ...] = ()  # (DICOM keyword, pattern; case is ignored)
    slice_spacing: tuple[tuple[Operator, float], ...] = ()  # the distance of slice centres, in mm


def parse_match(value: object) -> Match:
    """The conditions of a table that was read from TOML; every part that does not parse is named."""
    if isinstance(value, Match):
        return value
    if not isinstance(value, dict):
        fail('expected a table such as { SeriesDescription = "*T2*" }')
    mistakes: list[tuple[str, str]] = []
    globs: list[tuple[str, str]] = []
    spacing: tuple[tuple[Operator, float], ...] = ()
    for key, text in value.items():
        if key == _SPACING:
            spacing = _comparisons(text)
            if not spacing:
                mistakes.append((key, f'expected comparisons such as ">= 2" or ">= 2, < 8", found {shown(text)}'))
        elif problem := _keyword_problem(key):
            mistakes.append((key, problem))
        elif not isinstance(text, str) or not text:
            mistakes.append((key, f'expected a pattern in text, such as "*T2*", found {shown(text)}'))
        else:
            globs.append((key, text))
    if mistakes:
        fail("does not parse", also=mistakes)
    return Match(globs=tuple(globs), slice_spacing=spacing)


def _comparisons(text: object) -> tuple[tuple[Operator, float], ...]:
    """The parts of ``">= 2, < 8"``, all of which must hold; empty where the text is none."""
    parts = [_COMPARISON.fullmatch(part.strip()) for part in text.split(",")] if isinstance(text, str) else []
    found: list[tuple[Operator, float]] = []
    for part in parts:
        if part is None:
            return ()
        found.append((part[1], float(part[2])))  # type: ignore[arg-type]  # the pattern admits operators only
    return tuple(found)


def _keyword_problem(keyword: str) -> str:
    """Why no rule can look at this attribute; empty where one can."""
    # Here, not above: a file without such a rule is then read without pydicom (0.2 s).
    from pydicom.datadict import dictionary_VR, keyword_dict, tag_for_keyword

    tag = tag_for_keyword(keyword)
    if tag is None:
        return f"is not a keyword of the DICOM dictionary{guess(keyword, [*keyword_dict, _SPACING])}"
    if not _NO_TEXT.isdisjoint(dictionary_VR(tag).split(" or ")):
        return "holds no text that a pattern could match"
    return ""
