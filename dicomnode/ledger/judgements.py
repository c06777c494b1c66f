"""Data on the scanners that verdicts yield: a row for each judged series, and the figures of each protocol by week.

In: one ``Judgement`` at each verdict; a later one on the same series replaces it. Out: protocols with their weeks. A
protocol is all series that one peer sends of one device under one name. Station, serial number and name are texts of
headers: they belong behind the token of the page, and go when the last series of the protocol is erased.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import groupby
from typing import Final

from sqlalchemy import Connection, delete, exists, func, insert, select

from dicomnode.ids import SeriesId
from dicomnode.ledger.schema import judgement, protocol
from dicomnode.ledger.statements import AnyRow, bind_values, bound, insert_if_new
from dicomnode.ledger.transaction import LedgerTransaction

Group = AnyRow  # series of one protocol, week, verdict and geometry

LONGEST_TEXT: Final = 64  # of a header's text here, as VR LO has it (PS3.5 section 6.2)

_SAME_PROTOCOL = (
    protocol.c.peer == bound("peer"),
    protocol.c.station == bound("station"),
    protocol.c.serial == bound("serial"),
    protocol.c.name == bound("name"),
)
_PROTOCOL = select(protocol.c.id).where(*_SAME_PROTOCOL)
_MAKE_PROTOCOL = insert_if_new(protocol)
_FORGET = delete(judgement).where(judgement.c.series_id == bound("series"))
_FORGET_PROTOCOLS = delete(protocol).where(~exists().where(judgement.c.protocol_id == protocol.c.id))
_GROUPS = (
    select(
        judgement.c.protocol_id,
        judgement.c.week,
        judgement.c.reason,
        judgement.c.spacing_mm,
        judgement.c.thickness_mm,
        func.count().label("series"),
        func.sum(judgement.c.missing).label("missing"),
        func.max(judgement.c.clock_s).label("clock_s"),
        func.min(judgement.c.at).label("first_at"),
        func.max(judgement.c.at).label("last_at"),
    )
    .where(judgement.c.week >= bound("since"))
    .group_by(
        judgement.c.protocol_id,
        judgement.c.week,
        judgement.c.reason,
        judgement.c.spacing_mm,
        judgement.c.thickness_mm,
    )
    .order_by(judgement.c.protocol_id, judgement.c.week)
)
_GROUPS_UNTIL = _GROUPS.where(judgement.c.at < bound("until", judgement.c.at.type))
_LAST_SERIES = (
    select(judgement)
    .where(judgement.c.protocol_id == bound("protocol"))
    .order_by(judgement.c.series_id.desc())
    .limit(bound("limit"))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The data on its scanner that the verdict on a series yields."""

    peer: str
    station: str
    serial: str
    name: str  # of the protocol
    at: datetime
    reason: str
    slices: int
    missing: int
    spacing_mm: float | None
    thickness_mm: float | None
    clock_s: float | None  # the youngest image's own time minus that of its arrival


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedSeries:
    """A series of a protocol."""

    series: SeriesId
    at: datetime
    reason: str
    slices: int
    spacing_mm: float | None
    thickness_mm: float | None
    clock_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolWeek:
    """A week in which series of a protocol came."""

    week: int
    series: int
    reasons: Mapping[str, int]  # the most frequent first
    spacing_mm: float | None  # medians over the series of which it was measured
    thickness_mm: float | None
    spacing_since: datetime | None  # when the first series with that spacing, and with that thickness, came
    thickness_since: datetime | None
    missing: int  # slices
    clock_s: float | None  # the largest

    @property
    def monday(self) -> date:
        """The Monday on which the week began, in UTC."""
        return date.fromordinal(7 * self.week + 1)

    @property
    def gap_mm(self) -> float | None:
        """The gap between two slices: spacing minus thickness; negative: they overlap; None: one is unknown."""
        if self.spacing_mm is None or self.thickness_mm is None:
            return None
        return self.spacing_mm - self.thickness_mm


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """A protocol: the series that one peer sent of one device under one name, week by week."""

    id: int
    peer: str
    station: str
    serial: str
    name: str
    weeks: tuple[ProtocolWeek, ...]  # the oldest first; weeks without a series are left out
    last_at: datetime

    @property
    def series(self) -> int:
        """The number of series in all the weeks."""
        return sum(week.series for week in self.weeks)

    @property
    def reasons(self) -> Mapping[str, int]:
        """The number of series by reason of the verdict in all the weeks, the most frequent first."""
        found: Counter[str] = Counter()
        for week in self.weeks:
            found.update(week.reasons)
        return dict(found.most_common())


def week_of(moment: datetime) -> int:
    """The number of the week of a moment, in UTC; a week begins on Monday.

    >>> week_of(datetime(2026, 3, 2, tzinfo=UTC)) - week_of(datetime(2026, 3, 1, 23, tzinfo=UTC))
    1
    """
    return (moment.astimezone(UTC).toordinal() - 1) // 7


def record(transaction: LedgerTransaction, series_id: SeriesId, told: Judgement) -> None:
    """Record the judgement of a series, in place of an earlier one."""
    key = {name: getattr(told, name)[:LONGEST_TEXT] for name in ("peer", "station", "serial", "name")}
    connection = transaction.connection
    connection.execute(_MAKE_PROTOCOL, key)
    row = {
        "series_id": series_id,
        "protocol_id": connection.execute(_PROTOCOL, bind_values(**key)).scalar_one(),
        "week": week_of(told.at),
        **{
            name: getattr(told, name)
            for name in ("at", "reason", "slices", "missing", "spacing_mm", "thickness_mm", "clock_s")
        },
    }
    connection.execute(_FORGET, bind_values(series=series_id))
    connection.execute(insert(judgement), row)


def forget(transaction: LedgerTransaction, series_id: SeriesId) -> None:
    """Remove the judgement of a series, and the texts of its protocol where the series was the last one of it."""
    transaction.connection.execute(_FORGET, bind_values(series=series_id))
    transaction.connection.execute(_FORGET_PROTOCOLS)


def protocols(connection: Connection, since: datetime, until: datetime | None = None) -> tuple[Protocol, ...]:
    """List the protocols of which a series came in or after the week of a moment. ``until``: as known then."""
    known = {row.id: row for row in connection.execute(select(protocol))}
    if until is None:
        groups = connection.execute(_GROUPS, bind_values(since=week_of(since))).all()
    else:
        groups = connection.execute(_GROUPS_UNTIL, bind_values(since=week_of(since), until=until)).all()
    found = []
    for number, own in groupby(groups, key=lambda row: row.protocol_id):
        rows = list(own)
        texts = known[number]
        found.append(
            Protocol(
                id=number, peer=texts.peer, station=texts.station, serial=texts.serial, name=texts.name,
                weeks=tuple(_week(week, list(of_week)) for week, of_week in groupby(rows, key=lambda row: row.week)),
                last_at=max(row.last_at for row in rows),
            )
        )  # fmt: skip
    return tuple(found)


def last_series(connection: Connection, protocol_id: int, limit: int) -> tuple[JudgedSeries, ...]:
    """List the newest series of a protocol."""
    rows = connection.execute(_LAST_SERIES, bind_values(protocol=protocol_id, limit=limit))
    return tuple(
        JudgedSeries(
            series=SeriesId(row.series_id), at=row.at, reason=row.reason, slices=row.slices,
            spacing_mm=row.spacing_mm, thickness_mm=row.thickness_mm, clock_s=row.clock_s,
        )
        for row in rows
    )  # fmt: skip


def _week(week: int, rows: list[Group]) -> ProtocolWeek:
    reasons: Counter[str] = Counter()
    for row in rows:
        reasons[row.reason] += row.series
    clocks = [row.clock_s for row in rows if row.clock_s is not None]
    spacing_mm, spacing_since = _median([(row.spacing_mm, row) for row in rows])
    thickness_mm, thickness_since = _median([(row.thickness_mm, row) for row in rows])
    return ProtocolWeek(
        week=week,
        series=reasons.total(),
        reasons=dict(reasons.most_common()),
        spacing_mm=spacing_mm,
        thickness_mm=thickness_mm,
        spacing_since=spacing_since,
        thickness_since=thickness_since,
        missing=sum(row.missing for row in rows),
        clock_s=max(clocks, default=None),
    )


def _median(values: list[tuple[float | None, Group]]) -> tuple[float | None, datetime | None]:
    """Return the lower median over all series, and when the first series of the week with that value came."""
    known = sorted(((value, row) for value, row in values if value is not None), key=lambda one: one[0])
    left = (sum(row.series for _, row in known) + 1) // 2
    for value, row in known:
        left -= row.series
        if left <= 0:
            return value, min(other.first_at for same, other in known if same == value)
    return None, None
