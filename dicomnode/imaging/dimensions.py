"""This module finds in what the images of a series differ beside their place: echoes, phases, stacks, objects, parts.

In: the frames of a series. Out: findings as values; which of them is a reason to keep a series, and in what words, the
verdict says. Values are compared as the headers state them. The dimensions that an Enhanced MR object declares
(Dimension Index Sequence) are not read: scanners declare others than those that differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from dicomnode.imaging.frame import Frame, instances_of
from dicomnode.imaging.geometry import count_orientations, count_repeated, line_of
from dicomnode.imaging.headers import InstanceHeader
from dicomnode.imaging.texts import whole_number
from dicomnode.imaging.words import plain, short

ECHO_TIME_MS: Final = 0.05  # echo times that differ by less count as equal

# Attributes that the functional groups of Enhanced MR have and a classic header lacks (PS3.3 C.7.6.16, C.8.13.5).
OF_FRAMES: Final = (
    ("inversion times", ("InversionTimes",), " ms"),
    ("cardiac trigger delays", ("NominalCardiacTriggerDelayTime",), " ms"),
    ("respiratory trigger delays", ("NominalRespiratoryTriggerDelayTime",), " ms"),
    ("temporal positions", ("TemporalPositionIndex",), ""),
    ("time offsets", ("TemporalPositionTimeOffset",), " s"),
    ("velocity encodings", ("VelocityEncodingDirection", "VelocityEncodingMaximumValue"), ""),
    ("spin labelling states", ("ASLContext",), ""),
    ("contrast agent phases", ("ContrastBolusAgentPhase", "ContrastBolusAgentAdministered"), ""),
    ("metabolites", ("MetaboliteMapDescription",), ""),
)
STACKS: Final = "stacks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """Something other than the place that has more than one value in a series."""

    name: str  # in the plural: "echo times"
    values: tuple[str, ...]  # fit for a sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A concatenation (PS3.3 C.7.6.16.2.2.4) of which parts have not come."""

    here: int
    wanted: int


def dimension_of(headers: Sequence[InstanceHeader]) -> Dimension | None:
    """The first dimension in which classic images differ."""
    return _first(_of_headers(headers))


def dimension_of_frames(frames: Sequence[Frame]) -> Dimension | None:
    """The first dimension in which the frames of multi-frame objects differ; None without such frames."""
    headers = [frame.header for frame in frames if frame.number is not None]
    return _first(_of_frames(headers)) if headers else None


def _first(found: Iterator[tuple[str, Sequence[str]]]) -> Dimension | None:
    for name, values in found:
        if len(values) > 1:
            return Dimension(name=name, values=tuple(plain(value or "none") for value in values))
    return None


def _of_headers(headers: Sequence[InstanceHeader]) -> Iterator[tuple[str, Sequence[str]]]:
    echo_times = sorted({header.echo_time_ms for header in headers if header.echo_time_ms is not None})
    echo_times = [time for k, time in enumerate(echo_times) if k == 0 or time - echo_times[k - 1] > ECHO_TIME_MS]
    weighted = [header for header in headers if header.b_value]
    b_values = {0.0 if header.b_value is None else header.b_value for header in headers}
    yield "echo times", [f"{short(time)} ms" for time in echo_times]
    yield "echo numbers", distinct(headers, lambda header: header.text("EchoNumbers"))
    yield "b-values", [short(value) for value in sorted(b_values)]
    yield "diffusion directions", sorted({" ".join(header.gradient) for header in weighted})
    yield "complex components", distinct(headers, lambda header: header.text("ComplexImageComponent"))
    yield "image types", sorted({" ".join(sorted(set(header.image_type[2:]))) for header in headers})


def _of_frames(headers: Sequence[InstanceHeader]) -> Iterator[tuple[str, Sequence[str]]]:
    yield from _of_headers(headers)
    for name, keywords, unit in OF_FRAMES:
        values = distinct(headers, partial(_joined, keywords=keywords))
        yield name, [f"{value}{unit}" if value else "" for value in sorted(values)]
    orientations = [header.orientation or () for header in headers]
    if count_orientations(orientations) == 1:  # stacks of several orientations are told by these
        yield STACKS, sorted(distinct(headers, lambda header: header.text("StackID")))


def _joined(header: InstanceHeader, keywords: Sequence[str]) -> str:
    return " ".join(filter(None, (header.text(keyword).replace("\\", " ") for keyword in keywords)))


def distinct(headers: Sequence[InstanceHeader], value_of: Callable[[InstanceHeader], str]) -> list[str]:
    """The different values, the most frequent first."""
    return [value for value, _ in Counter(map(value_of, headers)).most_common()]


def missing_parts(frames: Sequence[Frame]) -> Parts | None:
    """The first concatenation that is not whole; None where there is none."""
    found: dict[str, list[InstanceHeader]] = {}
    for header in instances_of(frames):
        if uid := header.text("ConcatenationUID"):
            found.setdefault(uid, []).append(header)
    for headers in found.values():
        numbers = {_number(header, "InConcatenationNumber") for header in headers}
        stated = max(_number(header, "InConcatenationTotalNumber") for header in headers)
        wanted = max(stated, *numbers, len(headers))  # the total may be left out, or be too small
        if (len(numbers), min(numbers), max(numbers)) != (wanted, 1, wanted):
            return Parts(here=len(numbers), wanted=wanted)
    return None


def _number(header: InstanceHeader, keyword: str) -> int:
    return whole_number(header.text(keyword)) or 0


def volumes(frames: Sequence[Frame]) -> int:
    """Count the multi-frame objects, if each of them holds a stack that repeats no position; else return 0."""
    objects: dict[str, list[Frame]] = {}
    for frame in frames:
        if frame.number is None:
            return 0
        objects.setdefault(frame.header.sop_instance_uid, []).append(frame)
    if any(count_repeated(line_of(of_object).offsets_mm) for of_object in objects.values()):
        return 0
    return len(objects)
