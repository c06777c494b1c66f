"""A change in a protocol is named with its day; a variation by chance is not."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from dicomnode.ledger.judgements import Protocol, ProtocolWeek, week_of
from dicomnode.scanners.drift import changes, news

FIRST = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday


def _protocol(*weeks: ProtocolWeek) -> Protocol:
    return Protocol(id=1, peer="mr1", station="A", serial="1", name="t2", weeks=weeks, last_at=FIRST)


def _week(
    place: int,
    *,
    reasons: Mapping[str, int] | None = None,
    spacing_mm: float | None = 5.0,
    thickness_mm: float | None = 4.0,
    clock_s: float | None = -300.0,
) -> ProtocolWeek:
    monday = FIRST + timedelta(weeks=place)
    counted = {"process": 10} if reasons is None else reasons
    return ProtocolWeek(
        week=week_of(monday), series=sum(counted.values()), reasons=counted, spacing_mm=spacing_mm,
        thickness_mm=thickness_mm, spacing_since=monday + timedelta(days=2), thickness_since=monday + timedelta(days=3),
        missing=0, clock_s=clock_s,
    )  # fmt: skip


def _sentences(*weeks: ProtocolWeek) -> list[str]:
    return [one.sentence for one in changes(_protocol(*weeks))]


def test_a_protocol_that_stays_as_it_is_has_no_change() -> None:
    assert _sentences(*(_week(place, spacing_mm=5.0 + 0.01 * (place % 2)) for place in range(26))) == []
    assert _sentences() == []
    assert _sentences(_week(0)) == []


def test_another_spacing_is_named_with_the_day_of_the_first_series() -> None:
    weeks = [*(_week(place) for place in range(3)), *(_week(place, spacing_mm=6.6) for place in range(3, 6))]
    assert _sentences(*weeks) == ["The slices lie 6.6 mm apart since 2026-01-28; before, it was 5 mm."]


def test_another_thickness_is_named_and_so_is_how_often_it_changes() -> None:
    weeks = [_week(place, thickness_mm=4.0 + place % 2) for place in range(4)]
    (sentence,) = _sentences(*weeks)
    assert sentence == (
        "The slices are 5 mm thick since 2026-01-29; before, it was 4 mm. It changed 3 times in these weeks."
    )


def test_a_week_of_which_nothing_was_measured_is_no_change() -> None:
    assert _sentences(_week(0), _week(1, spacing_mm=None, thickness_mm=None), _week(2)) == []


def test_a_verdict_that_becomes_frequent_is_named_from_the_week_on() -> None:
    weeks = [
        *(_week(place) for place in range(4)),
        *(_week(place, reasons={"gaps": 9, "process": 1}) for place in (4, 5)),
    ]
    assert _sentences(*weeks) == ["Since the week of 2026-02-02, 18 of 20 series were kept as gaps; before, 0 of 40."]


def test_few_series_are_no_share() -> None:
    assert _sentences(_week(0, reasons={"process": 4}), _week(1, reasons={"missing": 4})) == []


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_chance_alone_is_hardly_ever_named(share: float) -> None:
    rng = np.random.default_rng(7)
    named = 0
    for _ in range(200):
        kept = rng.binomial(10, share, size=26)
        weeks = [_week(place, reasons={"missing": int(n), "process": 10 - int(n)}) for place, n in enumerate(kept)]
        named += bool(_sentences(*weeks))
    assert named <= 10, "one in twenty protocols that did not change"


def test_an_image_that_is_younger_than_its_arrival_is_proof() -> None:
    weeks = [_week(0), _week(1, clock_s=30.0), _week(2, clock_s=130.0), _week(3, clock_s=3720.0)]
    (change,) = changes(_protocol(*weeks))
    assert change.sentence.startswith("An image says that it was made 1 h after it arrived")
    assert change.since.isoformat() == "2026-01-19"


def test_a_clock_that_was_set_is_a_jump() -> None:
    weeks = [*(_week(place) for place in range(3)), *(_week(place, clock_s=-3900.0) for place in (3, 4))]
    (sentence,) = _sentences(*weeks)
    assert "Since the week of 2026-01-26 the images state times that are 1 h earlier" in sentence


def test_the_newest_change_stands_first() -> None:
    weeks = [_week(0), _week(1, spacing_mm=6.0), _week(2, spacing_mm=6.0, thickness_mm=6.0)]
    assert [one.what for one in changes(_protocol(*weeks))] == ["thickness", "spacing"]


def test_a_change_is_news_in_the_week_in_which_it_is_known_whatever_its_day() -> None:
    """Of two series a week that are kept, the share counts only in the third week."""
    weeks = [
        *(_week(place, reasons={"process": 4}) for place in range(6)),
        *(_week(place, reasons={"gaps": 2}) for place in range(6, 10)),
    ]
    told = [
        [change.since for _, change in news([_protocol(*weeks[:now])], [_protocol(*weeks[: now - 1])])]
        for now in range(1, len(weeks) + 1)
    ]
    assert told == [[]] * 8 + [[weeks[6].monday], []]
    assert news([_protocol(*weeks)], []) != [], "a protocol that nobody knew"
