"""Find the changes in a protocol over the weeks, and describe each with its date in a sentence.

In: a ``Protocol`` of the ledger. Out: its changes, the newest first. Slice spacing and thickness are a protocol's own
numbers, so one other median is a change. A share of verdicts varies by chance: the weeks are split where the shares
before and after differ most, and the difference counts where chance alone would hardly make it (a two-proportion z
test). An image that states a time after its arrival proves that a clock is wrong; a jump of the times only suggests it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise, takewhile
from math import sqrt
from typing import Final

from dicomnode.ledger.judgements import Protocol, ProtocolWeek

PROCESS: Final = "process"  # the verdict of a series that is derived
LENGTH_CHANGE: Final = 0.02  # share of a length; less is rounding, or an angled stack
LENGTH_CHANGE_MM: Final = 0.05
LEAST_SERIES: Final = 5  # at least so many before and after, or the shares are not compared
LEAST_Z: Final = 3.5  # the best of up to 26 splits reaches 3 by chance about once in fifteen protocols
AHEAD_S: Final = 60.0  # a scanner's clock is set by hand, or once a day
JUMP_S: Final = 900.0  # half of what summer time moves, more than a queue at the scanner varies from week to week
WEEKS: Final = 26  # that are looked at
SINCE: Final = timedelta(weeks=WEEKS - 1)  # so long before now the first of them was
YEAR_S: Final = 31_557_600.0
JUMP_SERIES: Final = 3  # in a week, at least: a single series may just have waited


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change in a protocol."""

    what: str  # spacing, thickness, verdicts, clock
    since: date
    sentence: str
    reason: str = ""  # of the verdicts


def changes(protocol: Protocol) -> tuple[Change, ...]:
    """List the changes in the weeks of a protocol, the newest first."""
    weeks = protocol.weeks
    found = [
        *_length("spacing", "The slices lie", "apart", [(one.spacing_mm, one.spacing_since) for one in weeks]),
        *_length("thickness", "The slices are", "thick", [(one.thickness_mm, one.thickness_since) for one in weeks]),
        *_verdicts(weeks),
        *_clock(weeks),
    ]
    return tuple(sorted(found, key=lambda one: one.since, reverse=True))


def news(now: Sequence[Protocol], before: Sequence[Protocol]) -> list[tuple[Protocol, Change]]:
    """List the changes that are known now and were not known before, the newest first.

    A change of the verdicts shows only after some series, so its day may lie far before the day on which it is known.
    """
    known = {(one.id, change.what, change.reason, change.since) for one in before for change in changes(one)}
    found = [
        (one, change)
        for one in now
        for change in changes(one)
        if (one.id, change.what, change.reason, change.since) not in known
    ]
    return sorted(found, key=lambda pair: pair[1].since, reverse=True)


def device_key(protocol: Protocol) -> tuple[str, str, str]:
    """Return what tells the device of a protocol from others: peer, station, serial number."""
    return protocol.peer, protocol.station, protocol.serial


def device(protocol: Protocol, known: Sequence[Protocol]) -> str:
    """Name the device of a protocol without the texts of its headers: by its peer, and its place among the peer's."""
    devices = sorted({device_key(one) for one in known if one.peer == protocol.peer})
    if len(devices) == 1:
        return protocol.peer
    return f"{protocol.peer}, device {devices.index(device_key(protocol)) + 1}"


def spoken(seconds: float) -> str:
    """Write a length of time in its largest unit, without a sign.

    >>> spoken(-5400)
    '1.5 h'
    """
    length = abs(seconds)
    if length >= 2 * YEAR_S:
        return f"{length / YEAR_S:.0f} years"
    for unit_s, unit in ((86_400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if length >= unit_s:
            return f"{length / unit_s:.2g} {unit}" if length < 100 * unit_s else f"{length / unit_s:.0f} {unit}"
    return f"{length:.0f} s"


def _length(
    what: str, begin: str, end: str, lengths: Sequence[tuple[float | None, datetime | None]]
) -> Iterator[Change]:
    """Find the last change of a length; if there were several, the sentence counts them."""
    known = [(value, since) for value, since in lengths if value is not None and since is not None]
    steps = [
        (before, now, since)
        for (before, _), (now, since) in pairwise(known)
        if abs(now - before) > max(LENGTH_CHANGE * before, LENGTH_CHANGE_MM)
    ]
    if not steps:
        return
    before, now, since = steps[-1]
    day = since.astimezone(UTC).date()
    sentence = f"{begin} {now:g} mm {end} since {day}; before, it was {before:g} mm."
    if len(steps) > 1:
        sentence += f" It changed {len(steps)} times in these weeks."
    yield Change(what=what, since=day, sentence=sentence)


def _verdicts(weeks: Sequence[ProtocolWeek]) -> Iterator[Change]:
    """Find, for each verdict, the week since which it is given more often, or less often, than before."""
    names = {reason: None for week in weeks for reason in week.reasons if reason != PROCESS}
    for reason in names:
        splits = [_split(weeks, place, reason) for place in range(1, len(weeks))]
        place = max(range(len(splits)), key=lambda one: splits[one].z, default=None)
        if place is None or splits[place].z < LEAST_Z:
            continue
        best, monday = splits[place], weeks[place + 1].monday
        sentence = (
            f"Since the week of {monday}, {best.after} of {best.after_all} series were kept as {reason}; "
            f"before, {best.before} of {best.before_all}."
        )
        yield Change(what="verdicts", since=monday, sentence=sentence, reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Split:
    before: int
    before_all: int
    after: int
    after_all: int

    @property
    def z(self) -> float:
        """Distance of the two shares in standard deviations of one common share; 0 where there are too few series."""
        if min(self.before_all, self.after_all) < LEAST_SERIES:
            return 0.0
        share = (self.before + self.after) / (self.before_all + self.after_all)
        variance = share * (1 - share) * (1 / self.before_all + 1 / self.after_all)
        apart = abs(self.after / self.after_all - self.before / self.before_all)
        return apart / sqrt(variance) if variance else 0.0


def _split(weeks: Sequence[ProtocolWeek], place: int, reason: str) -> _Split:
    before, after = weeks[:place], weeks[place:]
    return _Split(
        before=sum(week.reasons.get(reason, 0) for week in before),
        before_all=sum(week.series for week in before),
        after=sum(week.reasons.get(reason, 0) for week in after),
        after_all=sum(week.series for week in after),
    )


def _clock(weeks: Sequence[ProtocolWeek]) -> Iterator[Change]:
    told = [(week, week.clock_s) for week in weeks if week.clock_s is not None]
    if told and told[-1][1] > AHEAD_S:
        since = list(takewhile(lambda one: one[1] > AHEAD_S, reversed(told)))[-1][0]
        sentence = (
            f"An image says that it was made {spoken(told[-1][1])} after it arrived: the clock of the scanner is "
            f"ahead, or ours is behind, since the week of {since.monday} at the latest."
        )
        yield Change(what="clock", since=since.monday, sentence=sentence)
        return
    steady = [(week, clock_s) for week, clock_s in told if week.series >= JUMP_SERIES]
    jumps = [(week, now - before) for (_, before), (week, now) in pairwise(steady) if abs(now - before) > JUMP_S]
    if jumps:
        week, step_s = jumps[-1]
        word = "later" if step_s > 0 else "earlier"
        sentence = (
            f"Since the week of {week.monday} the images state times that are {spoken(step_s)} {word} against their "
            "arrival than before: a clock was set, or the images wait for another time before they are sent."
        )
        yield Change(what="clock", since=week.monday, sentence=sentence)
