"""The page of the models: their cards side by side, figures of the result gate by month, and pairs in shadow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from dicomnode.catalog import ModelLine, folder_of
from dicomnode.errors import ModelError
from dicomnode.generators.card import Card
from dicomnode.generators.model_dir import DIGEST_DIGITS, read_card
from dicomnode.ledger.results import ModelKey, ModelMonth, Results
from dicomnode.web import charts
from dicomnode.web.exchange import Answer
from dicomnode.web.pages import Visit

MONTHS: Final = 12
SINCE: Final = timedelta(days=365)
OPEN_MEASURE: Final = "PSNR gain"  # measures that begin so stand open; the others are folded


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownModel:
    """A column of the page: one model and its card."""

    line: ModelLine
    short: str  # first digits of its digest
    card: Card | None
    note: str  # why there is no card
    people: int  # number of people in its training data
    volumes: int
    judged_on: tuple[str, ...]  # subjects that are not in its training data


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureRow:
    """A row of the cards' measurements, with a value for each model that has it."""

    measure: str
    volume: str
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeBy:
    """The series that one model made, month by month."""

    model: ModelKey
    months: tuple[ModelMonth, ...]  # the newest first
    checks: tuple[str, ...]
    beyond: str  # path of the chart: the share beyond a limit


def models(visit: Visit) -> Answer:
    """Show the page of the models."""
    shown = [_shown(line, visit) for line in visit.node.models()]
    found = visit.node.results(SINCE)
    rows = measures(shown)
    return visit.show(
        "models.html",
        models=shown,
        open_rows=[row for row in rows if row.measure.startswith(OPEN_MEASURE)],
        other_rows=[row for row in rows if not row.measure.startswith(OPEN_MEASURE)],
        made=_made(found),
        pairs=[(pair, _both(pair.sent_shares, pair.shadow_shares)) for pair in found.pairs],
        is_cut=found.is_cut,
        months=MONTHS,
        digits=DIGEST_DIGITS,
    )


def measures(shown: Sequence[ShownModel]) -> list[MeasureRow]:
    """Arrange the measurements of the cards by measure, in the order of the cards."""
    values: dict[tuple[str, str], dict[int, float]] = {}
    for place, one in enumerate(shown):
        for row in one.card.metrics if one.card is not None else ():
            values.setdefault((row.measure, row.volume), {})[place] = row.value
    order = {measure: place for place, measure in enumerate(dict.fromkeys(measure for measure, _ in values))}
    return [
        MeasureRow(measure=measure, volume=volume, values=tuple(found.get(place) for place in range(len(shown))))
        for (measure, volume), found in sorted(values.items(), key=lambda one: order[one[0][0]])
    ]


def _shown(line: ModelLine, visit: Visit) -> ShownModel:
    card, note = None, "It has no weights and no card."
    folder = folder_of(line, visit.node.settings.node.data.absolute(), line.name)
    if folder is not None:
        try:
            card, note = read_card(folder), ""
        except ModelError as exc:
            note = exc.sentence
    rows = () if card is None else card.data
    train = [row for row in rows if row.split == "train"]
    return ShownModel(
        line=line,
        short=line.digest[:DIGEST_DIGITS],
        card=card,
        note=note,
        people=len({row.subject for row in train}),
        volumes=len(train),
        judged_on=tuple(dict.fromkeys(row.subject for row in rows if row.split == "validation")),
    )


def _made(found: Results) -> list[MadeBy]:
    by_model: dict[ModelKey, list[ModelMonth]] = {}
    for month in found.months:
        by_model.setdefault(month.model, []).append(month)
    return [
        MadeBy(
            model=model,
            months=tuple(reversed(months)),
            checks=tuple(dict.fromkeys(check for month in months for check in month.shares)),
            beyond=charts.bars([month.beyond / month.series for month in months]),
        )
        for model, months in by_model.items()
    ]


def _both(first: Mapping[str, float], second: Mapping[str, float]) -> list[tuple[str, float | None, float | None]]:
    return [(check, first.get(check), second.get(check)) for check in dict.fromkeys((*first, *second))]
