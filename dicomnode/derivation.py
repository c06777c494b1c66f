"""The values of a derivation that rooms hand to each other: the parameters that decide it, and the series made.

``settle`` pins the parameters when it plans a job, the ledger keeps them in the job's row, the order takes them to the
executor, and the pipeline and ``derive`` read them there. A job runs with the pinned parameters, whatever the settings
and this machine's time zone are by then. This module reads no settings, file or ledger, and loads no numpy.

A parameter that comes later is one field of ``DerivationParameters``, with None as its default: a job that was planned
before has no such key in its text, and its derived UIDs depend on that text (``derive.facts``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta, timezone
from typing import Any, Final, Literal, Self

from dicomnode.errors import InputError
from dicomnode.ids import InstanceId


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleLimits:
    """The limits of a rule: which series it lets through, and the target spacing. Every rule has these defaults."""

    target_mm: float = 1.0  # below it, thin slices show noise, not anatomy
    min_ratio: float = 1.5  # source spacing over target; a series below it is thin already
    max_gap_fraction: float = 0.5  # of the spacing; beyond it, more is made up than measured
    derived: Literal["process", "keep"] = "process"
    allow_lossy: bool = False
    refuse_terms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivationParameters:
    """All parameters that decide the pixels and tags of a derived series; its source and the node decide the rest."""

    rule: str
    model: str
    model_digest: str
    ratio: int | None = None  # thin slices for each thick one; None: as the verdict says
    limits: RuleLimits = RuleLimits()
    utc_offset_min: int | None = None  # offset of the clock of written dates and times; None: this machine's clock
    sharpness: float | None = None  # of the model, 0…1; None: the value of its card, if it has one
    uncertainty: bool | None = None  # True: the spread over flips is measured as well; None: it is not
    patient: str | None = None  # SHA-256 of the data set of the patient that a peer stated; None: the source says whose

    def pinned(self) -> dict[str, object]:
        """Return the keys of ``text``. A later key that is None is left out, so older texts come back unchanged."""
        later = {key: value for key in _LATER if (value := getattr(self, key)) is not None}
        return {**asdict(self.limits), **later}

    def text(self) -> str:
        """Return the parameters that have no column of their own, as canonical JSON."""
        return json.dumps(self.pinned(), sort_keys=True, separators=(",", ":"))

    def as_columns(self) -> dict[str, str | int | None]:
        """Return every parameter in the form of a ledger row and of a message to the executor."""
        return {**{name: getattr(self, name) for name in _COLUMNS}, "parameters": self.text()}

    @classmethod
    def from_columns(cls, columns: Mapping[str, object]) -> Self:
        """Read the columns that ``as_columns`` of this or any earlier version wrote; other columns are passed over.

        Raises InputError where the text holds a key that this version does not have, or lacks one.
        """
        keys: dict[str, Any] = _object(str(columns["parameters"]))
        if unknown := sorted(keys.keys() - _LIMITS - set(_LATER)):
            raise InputError(
                f"The job was planned with {', '.join(unknown)}, which this version of the node does not know.",
                hint="Run it with the version that planned it, or have the series judged anew: `series retry ID`.",
            )
        if missing := sorted(_LIMITS - keys.keys()):
            raise _unreadable(f"they lack {', '.join(missing)}")
        given: dict[str, Any] = {name: columns[name] for name in _COLUMNS}
        given |= {key: value for key, value in keys.items() if key in _LATER}
        limits: dict[str, Any] = {
            key: tuple(keys[key]) if isinstance(keys[key], list) else keys[key] for key in _LIMITS
        }
        return cls(**given, limits=RuleLimits(**limits))

    def makes_the_same(self, other: DerivationParameters) -> bool:
        """Tell whether both make the same series; the clock does not count: each job keeps that of its own moment."""
        return replace(self, utc_offset_min=None) == replace(other, utc_offset_min=None)

    def on_pinned_clock(self, moment: datetime) -> datetime:
        """Return the moment on the clock on which the derived objects state it."""
        return moment.astimezone(
            None if self.utc_offset_min is None else timezone(timedelta(minutes=self.utc_offset_min))
        )


_COLUMNS: Final = ("rule", "model", "model_digest", "ratio")  # each has a column of its own
_LIMITS: Final = frozenset(field.name for field in fields(RuleLimits))
_LATER: Final = tuple(field.name for field in fields(DerivationParameters) if field.name not in (*_COLUMNS, "limits"))


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedInstance:
    """One derived file of a job."""

    id: InstanceId
    file_name: str  # within the folder of the output series
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GateFigure:
    """The measurement of the result gate in one check of a derived series, and its limit."""

    check: str
    measured: float | None  # None: no finite number
    limit: float
    is_least: bool  # true: the figure has to reach the limit; false: it may not exceed it
    share: float | None  # of what the limit allows; None: beyond any
    holds: bool  # true: the figure is beyond the limit


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedSeries:
    """The series that a job made."""

    series_uid: str
    instances: tuple[DerivedInstance, ...]  # by Instance Number
    notes: tuple[str, ...]  # sentences for ``series explain``: clipped voxels, unknown profile …
    objections: tuple[str, ...] = ()  # of the result gate: with any, the deliveries are held
    figures: tuple[GateFigure, ...] = ()  # of the result gate, also where it objects to nothing
    seconds: float


def utc_offset_min(moment: datetime) -> int:
    """Return the minutes by which this machine's clock is ahead of UTC at that moment."""
    return round((moment.astimezone().utcoffset() or timedelta()) / timedelta(minutes=1))


def _object(text: str) -> dict[str, object]:
    try:
        keys = json.loads(text)
    except ValueError as exc:
        raise _unreadable("they are no JSON") from exc
    if not isinstance(keys, dict):
        raise _unreadable("they are no JSON object")
    return keys


def _unreadable(why: str) -> InputError:
    return InputError(
        f"The parameters with which the job was planned cannot be read: {why}.",
        hint="Have the series judged anew: `series retry ID`.",
    )
