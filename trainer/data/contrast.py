"""Do two series show tissue alike? A table of the attributes that say so, and fat saturation, which hides in words.

A network trained on two contrasts learns one's grey values before the other's detail (docs/paper.md#to-repeat-it), so a
difference keeps two series from being a pair unless it is allowed. What one of them does not state counts as a
difference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dicomnode.imaging.words import CODE, attribute_name

FAT_SATURATION = "fat saturation"
FAT_OPTIONS = frozenset({"FS", "SFS", "FATSAT", "FAT_SAT", "WE", "SPIR", "SPAIR", "STIR"})  # of Scan Options; FS: PS3.3
FAT_WORDS = re.compile(r"(?<![a-z])(fs|fat[ _-]?sat|fatsat|spair|spir|stir|tirm|dixon|chess|fat[ _-]?sup\w*)(?![a-z])")
CONTRAST_AGENT = "contrast agent"
NO_AGENT = frozenset({"", "no", "none", "off", "n", "0", "without"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Numeric:
    """An attribute whose values may differ by a share of the larger one, or a little anyhow."""

    keyword: str
    unit: str
    share: float
    least: float


# A 2-D and a 3-D protocol of one weighting differ by as much as this; T1 and T2 by several times more.
NUMERIC = (
    Numeric(keyword="EchoTime", unit="ms", share=0.3, least=2.0),
    Numeric(keyword="RepetitionTime", unit="ms", share=0.4, least=2.0),
    Numeric(keyword="InversionTime", unit="ms", share=0.15, least=20.0),
)
GRADIENT_ECHO = "GR"
FLIP_ANGLE = Numeric(keyword="FlipAngle", unit="°", share=0.3, least=3.0)  # of spin echoes it only refocuses
CODED = ("ScanningSequence",)


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> tuple[str, ...]:
    """Name the differences between two series' contrast, as "Echo Time 10 and 1.87 ms"; empty where there are none.

    Takes the stated attributes of ``series.CONTRAST``. Quotes numbers and sequence codes only.
    """
    found = [_coded(keyword, one, other) for keyword in CODED]
    found += [_numeric(row, one, other) for row in NUMERIC]
    if all(GRADIENT_ECHO in stated.get("ScanningSequence", "").split("\\") for stated in (one, other)):
        found.append(_numeric(FLIP_ANGLE, one, other))
    found.append(_either(FAT_SATURATION, has_fat_saturation(one), has_fat_saturation(other)))
    found.append(_either(CONTRAST_AGENT, _has_agent(one), _has_agent(other)))
    return tuple(sentence for sentence in found if sentence)


def has_fat_saturation(stated: Mapping[str, str]) -> bool:
    """Scan Options or a word of the description tell fat saturation: it has no attribute of its own."""
    if FAT_OPTIONS & set(stated.get("ScanOptions", "").upper().split("\\")):
        return True
    return any(FAT_WORDS.search(stated.get(keyword, "").lower()) for keyword in ("SeriesDescription", "SequenceName"))


def _has_agent(stated: Mapping[str, str]) -> bool:
    return stated.get("ContrastBolusAgent", "").strip().lower() not in NO_AGENT


def _numeric(row: Numeric, one: Mapping[str, str], other: Mapping[str, str]) -> str | None:
    first, second = _number(one.get(row.keyword)), _number(other.get(row.keyword))
    if first == second:
        return None
    if first is not None and second is not None:
        if abs(first - second) <= max(row.share * max(abs(first), abs(second)), row.least):
            return None
        return f"{attribute_name(row.keyword)} {first:g} and {second:g} {row.unit}"
    shown = ["not stated" if value is None else f"{value:g} {row.unit}" for value in (first, second)]
    return f"{attribute_name(row.keyword)} {' and '.join(shown)}"


def _coded(keyword: str, one: Mapping[str, str], other: Mapping[str, str]) -> str | None:
    codes = [sorted(stated.get(keyword, "").split("\\")) for stated in (one, other)]
    if codes[0] == codes[1]:
        return None
    shown = ["\\".join(code if CODE.fullmatch(code) else "not stated" for code in side) for side in codes]
    return f"{attribute_name(keyword)} {' and '.join(shown)}"


def _either(what: str, first: bool, second: bool) -> str | None:
    return None if first == second else f"{what} {'yes' if first else 'no'} and {'yes' if second else 'no'}"


def _number(text: str | None) -> float | None:
    """Read a number; None for zero, by which some makers say in Inversion Time that it does not apply."""
    try:
        return float(text or "") or None
    except ValueError:
        return None
