"""The results of the models by month: numbers of series, figures of the result gate, and pairs of models compared.

In: the done jobs since a moment, the newest ``MOST`` of them. Out: a line for each model and month, and one for each
pair of models that derived the same revisions, one of them in shadow: the shares of the gate's limits side by side.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from statistics import median
from typing import Any, Final

from sqlalchemy import Connection, select

from dicomnode.ledger.schema import job
from dicomnode.ledger.statements import bind_values, bound, stands
from dicomnode.ledger.states import JobState
from dicomnode.ledger.values import Release

MOST: Final = 20_000  # jobs that one answer counts: a second of work

_DONE = (
    select(
        job.c.series_id,
        job.c.revision,
        job.c.model,
        job.c.model_digest,
        job.c.release,
        job.c.seconds,
        job.c.finished_at,
        job.c.figures,
    )
    .where(stands(job, JobState.DONE), job.c.finished_at >= bound("since"))
    .order_by(job.c.id.desc())
    .limit(MOST + 1)
)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ModelKey:
    """The identity of a model: its name and its digest, to which jobs are pinned."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMonth:
    """The results of a model in a month, by UTC."""

    model: ModelKey
    month: str  # such as 2026-03
    series: int
    shadow: int  # of them, those that are never sent
    beyond: int  # of them, those with a figure beyond the limit of the gate
    seconds: float | None  # median
    shares: Mapping[str, float]  # by check: the median of the share of its limit that it takes


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowPair:
    """Two models on the same revisions."""

    sent: ModelKey  # or the older one, where neither result is sent
    shadow: ModelKey
    series: int
    sent_shares: Mapping[str, float]
    shadow_shares: Mapping[str, float]
    sent_seconds: float | None
    shadow_seconds: float | None
    last_series: int  # the newest of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The results since a moment, by model and month, and the pairs of models compared."""

    months: tuple[ModelMonth, ...]  # by model, then by month
    pairs: tuple[ShadowPair, ...]
    is_cut: bool  # there are older jobs that were not counted


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    series: int
    revision: int
    model: ModelKey
    is_shadow: bool
    seconds: float | None
    month: str
    figures: Sequence[Mapping[str, Any]]  # fields of ``GateFigure``, as the row keeps them: there may be 100,000


def results(connection: Connection, since: datetime) -> Results:
    """Count the results that were made since a moment."""
    rows = connection.execute(_DONE, bind_values(since=since)).all()
    done = [
        _Done(
            series=row.series_id,
            revision=row.revision,
            model=ModelKey(name=row.model, digest=row.model_digest),
            is_shadow=row.release == Release.SHADOW,
            seconds=row.seconds,
            month=row.finished_at.astimezone(UTC).strftime("%Y-%m"),
            figures=row.figures or (),
        )
        for row in rows[MOST - 1 :: -1]  # the oldest first
    ]
    months: defaultdict[tuple[ModelKey, str], list[_Done]] = defaultdict(list)
    for one in done:
        months[one.model, one.month].append(one)
    return Results(
        months=tuple(_month(model, month, own) for (model, month), own in sorted(months.items())),
        pairs=_pairs(done),
        is_cut=len(rows) > MOST,
    )


def _month(model: ModelKey, month: str, own: Sequence[_Done]) -> ModelMonth:
    return ModelMonth(
        model=model,
        month=month,
        series=len(own),
        shadow=sum(one.is_shadow for one in own),
        beyond=sum(any(figure["holds"] for figure in one.figures) for one in own),
        seconds=_seconds(own),
        shares=_shares(own),
    )


def _pairs(done: Sequence[_Done]) -> tuple[ShadowPair, ...]:
    revisions: defaultdict[tuple[int, int], dict[ModelKey, _Done]] = defaultdict(dict)
    for one in done:
        revisions[one.series, one.revision][one.model] = one  # the last that this model made of it
    found: defaultdict[tuple[ModelKey, ModelKey], list[tuple[_Done, _Done]]] = defaultdict(list)
    for of_revision in revisions.values():
        for pair in combinations(of_revision.values(), 2):
            first, second = sorted(pair, key=lambda one: one.is_shadow)
            if second.is_shadow:
                found[first.model, second.model].append((first, second))
    return tuple(
        ShadowPair(
            sent=sent,
            shadow=shadow,
            series=len(both),
            sent_shares=_shares([first for first, _ in both]),
            shadow_shares=_shares([second for _, second in both]),
            sent_seconds=_seconds([first for first, _ in both]),
            shadow_seconds=_seconds([second for _, second in both]),
            last_series=max(first.series for first, _ in both),
        )
        for (sent, shadow), both in sorted(found.items())
    )


def _shares(own: Sequence[_Done]) -> dict[str, float]:
    shares: defaultdict[str, list[float]] = defaultdict(list)
    for one in own:
        for figure in one.figures:
            if figure["share"] is not None:
                shares[figure["check"]].append(figure["share"])
    return {check: median(found) for check, found in shares.items()}


def _seconds(own: Sequence[_Done]) -> float | None:
    known = [one.seconds for one in own if one.seconds is not None]
    return median(known) if known else None
