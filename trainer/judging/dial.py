"""Choose the sharpness that a model is served with unless a rule says otherwise.

A model with two sets of weights is judged at several sharpnesses, 0 (the fidelity weights) among them. The default is
the largest at which the picture is seen to be better and nothing that counts is worse. Without one it is 0. The limits
below were written down before any model was judged by them (docs/evaluate.md#the-numbers).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from trainer.judging.judge import Row
from trainer.judging.probes import LESION, Probe
from trainer.judging.summary import mean_of

FEATURES_LOWER_BY = 0.10  # of the feature distance to the truth at sharpness 0, on every subject
DETAIL_NEARER_BY = 0.08  # z-detail to the truth's, 1, on every subject
PSNR_LOSS_DB = 0.2  # at most, on every subject and plane
HAARPSI_LOSS = 0.003  # at most, on every subject and plane
LESION_SHARE = 0.95  # of the contrast that cubic-dc recovers, of lesions of every length


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One condition, and where it is met least."""

    what: str
    worst: float  # nan: it was not measured, so the condition does not hold
    where: str
    holds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DialRow:
    """One sharpness of a model."""

    model: str
    sharpness: float
    conditions: tuple[Condition, ...]

    @property
    def holds(self) -> bool:
        """May a model be served like this by default?"""
        return all(condition.holds for condition in self.conditions)


def dial_rows(
    model: str, methods: Mapping[float, str], rows: Sequence[Row], probes: Sequence[Probe]
) -> tuple[DialRow, ...]:
    """Every sharpness but 0 of one model. ``methods``: sharpness → name of the method in ``rows`` and ``probes``.

    Only cases with a thin truth and the assumed profile are counted.
    """
    assert 0.0 in methods
    counted = [row for row in rows if row.case.is_nominal and not row.case.is_rethickened]
    return tuple(
        DialRow(
            model=model,
            sharpness=sharpness,
            conditions=tuple(_conditions(name, methods[0.0], counted, probes)),
        )
        for sharpness, name in sorted(methods.items())
        if sharpness > 0
    )


def default_sharpness(rows: Sequence[DialRow]) -> float:
    """The largest sharpness at which every condition holds, else 0."""
    return max((row.sharpness for row in rows if row.holds), default=0.0)


def _conditions(name: str, base: str, rows: Sequence[Row], probes: Sequence[Probe]) -> Iterator[Condition]:
    sharp, plain = _means(name, rows), _means(base, rows)
    subjects = [key for key in plain if key[1] is None]
    planes = [key for key in plain if key[1] is not None]
    yield _least(
        f"feature distance lower by at least {FEATURES_LOWER_BY:.0%}",
        {key: 1 - _ratio(sharp[key]["features"], plain[key]["features"]) for key in subjects},
        FEATURES_LOWER_BY,
    )
    yield _least(
        f"z-detail nearer to the truth's by at least {DETAIL_NEARER_BY:g}",
        {key: abs(1 - plain[key]["detail"]) - abs(1 - sharp[key]["detail"]) for key in subjects},
        DETAIL_NEARER_BY,
    )
    for what, measure, loss in (
        (f"PSNR lower by at most {PSNR_LOSS_DB:g} dB", "psnr", PSNR_LOSS_DB),
        (f"HaarPSI lower by at most {HAARPSI_LOSS:g}", "haarpsi", HAARPSI_LOSS),
    ):
        yield _least(what, {key: sharp[key][measure] - plain[key][measure] for key in planes}, -loss)
    lesions = [one for one in probes if one.method == name and LESION in one.what]
    yield _least(
        f"lesions keep at least {LESION_SHARE:g} of the contrast that cubic-dc recovers",
        {(f"{one.label}: {one.what}", None): one.model / one.cubic_dc for one in lesions},
        LESION_SHARE,
    )
    yield _least(
        "no more blobs that are not in the truth than at sharpness 0",
        {key: plain[key]["blobs"] - sharp[key]["blobs"] for key in subjects},
        0.0,
    )


_Key = tuple[str, int | None]  # subject, and plane or None for all of them


def _means(method: str, rows: Sequence[Row]) -> dict[_Key, dict[str, float]]:
    """Means of a method over the cases of a subject, and over those of each of its planes."""
    own: dict[_Key, list[Row]] = {}
    for row in rows:
        if row.method == method:
            own.setdefault((row.case.subject, None), []).append(row)
            own.setdefault((row.case.label, row.case.plane), []).append(row)
    measures: dict[str, Callable[[Row], float | None]] = {
        "psnr": lambda row: row.scores.psnr,
        "haarpsi": lambda row: row.scores.haarpsi,
        "features": lambda row: row.scores.feature_distance,
        "detail": lambda row: row.scores.z_detail,
        "blobs": lambda row: row.scores.blobs,
    }
    return {
        key: {name: _number(mean_of([measure(row) for row in found])) for name, measure in measures.items()}
        for key, found in own.items()
    }


def _least(what: str, found: Mapping[_Key, float], bound: float) -> Condition:
    """The condition that every number is at least ``bound``; numbers that are missing break it."""
    if not found:
        return Condition(what=what, worst=math.nan, where="not measured", holds=False)
    (label, plane), worst = min(found.items(), key=lambda item: (not math.isnan(item[1]), item[1]))
    where = label if plane is None else f"{label}, plane {plane}"
    return Condition(what=what, worst=worst, where=where, holds=worst >= bound)


def _ratio(value: float, of: float) -> float:
    return value / of if of > 0 else math.nan


def _number(value: float | None) -> float:
    return math.nan if value is None else value
