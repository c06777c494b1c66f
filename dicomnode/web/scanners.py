"""The pages of scanner fitness: every scanner and protocol with its changes, and one protocol week by week.

Station, serial number and protocol are texts that people typed at the scanner. Nobody can promise that none of them
names a patient, so only visitors with the token see them; all others see numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final
from urllib.parse import urlencode

from dicomnode.errors import InputError
from dicomnode.ledger.judgements import Protocol, week_of
from dicomnode.scanners.drift import AHEAD_S, PROCESS, SINCE, WEEKS, Change, changes, device, device_key, spoken
from dicomnode.web import charts
from dicomnode.web.exchange import Answer
from dicomnode.web.pages import Visit

PROTOCOLS: Final = 40  # on one page
CHANGES: Final = 20  # most that are named at the top
LAST_SERIES: Final = 20
ARCHIVED_S: Final = 2 * 86_400.0  # no scanner keeps its images for longer before it sends them


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A protocol, with the content of its line on the page."""

    protocol: Protocol
    name: str
    changes: tuple[Change, ...]
    kept: str  # path of the chart: the share that was kept, week by week
    spacing: str  # path of the chart
    kept_share: float
    spacing_mm: float | None  # of the last week in which it was measured
    gap_mm: float | None
    missing: int
    reason: str  # the most frequent reason for which its series were kept; empty: none was


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanner:
    """A scanner: one device behind a peer, with its protocols."""

    name: str
    rows: tuple[Row, ...]
    clock: str  # path of the chart
    clock_told: str  # the clock in its last week, in words


def scanners(visit: Visit) -> Answer:
    """Show every scanner with its protocols, and at the top their changes."""
    known = visit.node.protocols(SINCE)
    peers = sorted({one.peer for one in known})
    peer = visit.request.asked("peer")
    wanted = sorted((one for one in known if not peer or one.peer == peer), key=_place)
    first = _first(visit)
    weeks = _weeks(visit)
    changed = sorted(
        ((change, one) for one in wanted for change in changes(one)), key=lambda found: found[0].since, reverse=True
    )
    next_ = first + PROTOCOLS
    return visit.show(
        "scanners.html",
        scanners=list(_scanners(visit, wanted, wanted[first:next_], weeks)),
        changed=[(change, one, _name(visit, one), _device(visit, one, known)) for change, one in changed[:CHANGES]],
        more_changed=max(len(changed) - CHANGES, 0),
        peers=peers,
        peer=peer,
        weeks=WEEKS,
        older=urlencode({"peer": peer, "first": next_}) if next_ < len(wanted) else "",
        newest=urlencode({"peer": peer}) if first else None,
        has_texts=visit.person.may_see_images,
    )


def one_protocol(visit: Visit, number: int) -> Answer:
    """Show one protocol, week by week."""
    known = visit.node.protocols(SINCE)
    found = next((one for one in known if one.id == number), None)
    if found is None:
        raise InputError(f"Nothing came of protocol {number} in {WEEKS} weeks.")
    weeks = _weeks(visit)
    by_week = {week.week: week for week in found.weeks}
    clocks = [by_week[week].clock_s if week in by_week else None for week in weeks]
    return visit.show(
        "protocol.html",
        row=_row(visit, found, weeks),
        device=_device(visit, found, known),
        clock=charts.line(clocks),
        clock_words=[(week, clock_words(week.clock_s)) for week in reversed(found.weeks)],
        last=visit.node.reader.series_of_protocol(number, LAST_SERIES),
        weeks=WEEKS,
        process=PROCESS,
    )


def _scanners(
    visit: Visit, known: Sequence[Protocol], shown: Sequence[Protocol], weeks: Sequence[int]
) -> Iterator[Scanner]:
    for key, own in groupby(shown, key=device_key):
        clocks = _clocks([one for one in known if device_key(one) == key])
        rows = tuple(_row(visit, one, weeks) for one in own)
        yield Scanner(
            name=_device(visit, rows[0].protocol, known),
            rows=rows,
            clock=charts.line([clocks.get(week) for week in weeks]),
            clock_told=clock_words(clocks[max(clocks)] if clocks else None),
        )


def _row(visit: Visit, protocol: Protocol, weeks: Sequence[int]) -> Row:
    by_week = {week.week: week for week in protocol.weeks}
    ordered = [by_week.get(week) for week in weeks]
    shares = [None if week is None else 1 - week.reasons.get(PROCESS, 0) / week.series for week in ordered]
    measured = [week for week in protocol.weeks if week.spacing_mm is not None]
    kept = {reason: number for reason, number in protocol.reasons.items() if reason != PROCESS}
    return Row(
        protocol=protocol,
        name=_name(visit, protocol),
        changes=changes(protocol),
        kept=charts.bars(shares),
        spacing=charts.line([None if week is None else week.spacing_mm for week in ordered]),
        kept_share=sum(kept.values()) / protocol.series,
        spacing_mm=measured[-1].spacing_mm if measured else None,
        gap_mm=measured[-1].gap_mm if measured else None,
        missing=sum(week.missing for week in protocol.weeks),
        reason=max(kept, key=lambda reason: kept[reason], default=""),
    )


def clock_words(clock_s: float | None) -> str:
    """Describe the clock of a scanner in one week, to follow "it was made".

    >>> clock_words(-250.0), clock_words(300.0)
    ('4.2 min before it arrived', '5 min after it arrived: a clock is wrong')
    """
    if clock_s is None:
        return "no time is stated"
    if clock_s > AHEAD_S:
        return f"{spoken(clock_s)} after it arrived: a clock is wrong"
    if clock_s < -ARCHIVED_S:
        return f"{spoken(clock_s)} before it arrived: it comes from an archive, or a clock is wrong"
    return "when it arrived" if clock_s >= 0 else f"{spoken(clock_s)} before it arrived"


def _clocks(protocols: Sequence[Protocol]) -> dict[int, float]:
    """Find, for each week, the youngest image of a scanner against its arrival, in seconds, over all its protocols."""
    found: dict[int, float] = {}
    for protocol in protocols:
        for week in protocol.weeks:
            if week.clock_s is not None:
                found[week.week] = max(week.clock_s, found.get(week.week, week.clock_s))
    return found


def _weeks(visit: Visit) -> range:
    """Return the weeks of the charts, the oldest first."""
    last = week_of(visit.node.clock.now())
    return range(last - WEEKS + 1, last + 1)


def _first(visit: Visit) -> int:
    text = visit.request.asked("first")
    if text and not (text.isascii() and text.isdigit() and len(text) < 9):
        raise InputError("The place in the list cannot be read.", hint="Begin with the first.")
    return int(text or 0)


def _place(protocol: Protocol) -> tuple[str, str, str, str, int]:
    return *device_key(protocol), protocol.name, protocol.id


def _device(visit: Visit, protocol: Protocol, known: Sequence[Protocol]) -> str:
    """Return the name of a scanner for this visitor."""
    if visit.person.may_see_images:
        named = [f"station {protocol.station}"] if protocol.station else []
        named += [f"serial number {protocol.serial}"] if protocol.serial else []
        return ", ".join([protocol.peer, *named])
    return device(protocol, known)


def _name(visit: Visit, protocol: Protocol) -> str:
    """Return the name of a protocol for this visitor."""
    number = f"protocol {protocol.id}"
    return (protocol.name or f"{number}, without a name") if visit.person.may_see_images else number
