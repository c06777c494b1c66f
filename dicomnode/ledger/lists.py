"""The lists of series and deliveries: filtered, cut and counted by the database, the newest first.

A ledger of a million instances has ten thousand series: rows that a list does not show are not read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, Connection, and_, case, exists, false, func, literal, or_, select

from dicomnode.ledger import quarantine
from dicomnode.ledger.mapping.delivery import delivery_line
from dicomnode.ledger.mapping.series import series_line
from dicomnode.ledger.schema import RECEIVED, commitment, delivery, delivery_item, instance, job, series
from dicomnode.ledger.schema import quarantine as aside
from dicomnode.ledger.statements import AnyRow, stands
from dicomnode.ledger.states import DeliveryState
from dicomnode.ledger.views import DeliveryLine, SeriesLine

NO_PEER: Final = "no_peer"  # reason of a due delivery whose peer the settings do not name, or not with an address


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A filter for the rows of a list; an empty field leaves out no row."""

    states: Sequence[str] = ()  # of a series: its own, or that of its last job
    reasons: Sequence[str] = ()  # of a series: its own, or that of its last job
    peers: Sequence[str] = ()  # of a series: peers that sent an instance of it
    since: datetime | None = None  # of a series: when its last instance came; of a delivery: when it came to its state
    until: datetime | None = None  # the same moment is before this one
    before: int | None = None  # an id: rows with a lower one, which are older
    limit: int | None = None

    @property
    def is_narrow(self) -> bool:
        """Does the filter leave out any row, apart from the limit?"""
        return bool(self.states or self.reasons or self.peers or self.since or self.until)


ALL: Final = Wanted()

_reads, _makes = job.alias("reads"), job.alias("makes")
_LAST_JOB = select(func.max(_reads.c.id)).where(_reads.c.series_id == series.c.id).scalar_subquery()
SOURCE: Final = select(_makes.c.series_id).where(_makes.c.output_series_id == series.c.id).scalar_subquery()
# The verdict's own, or because of what was set aside of the series, until a person has seen that.
IS_ALERT: Final = or_(series.c.alert, exists().where(aside.c.series_id == series.c.id, quarantine.IS_ALERT)).label(
    "alarms"
)
_COUNT = select(func.count()).where(instance.c.series_id == series.c.id).scalar_subquery()
_LISTED_SERIES = or_(series.c.first_at.is_not(None), series.c.revision > 1)  # a number alone is no series yet


def series_lines(connection: Connection, wanted: Wanted, *, derived: bool) -> list[SeriesLine]:
    """List the received series, with ``derived`` also those that this node made; the newest first."""
    question = (
        select(
            series,
            IS_ALERT,
            _COUNT.label("instances"),
            SOURCE.label("source"),
            job.c.id.label("job"),
            job.c.state.label("job_state"),
        )
        .join_from(series, job, job.c.id == _LAST_JOB, isouter=True)
        .where(*_of_series(wanted, derived=derived))
        .order_by(series.c.id.desc())
        .limit(wanted.limit)
    )
    return [series_line(row) for row in connection.execute(question)]


def count_series(connection: Connection, wanted: Wanted, *, derived: bool) -> int:
    """Count the series that a list without a limit would show."""
    joined = select(func.count()).select_from(series).join(job, job.c.id == _LAST_JOB, isouter=True)
    return connection.execute(joined.where(*_of_series(wanted, derived=derived))).scalar_one()


def senders(connection: Connection) -> set[str]:
    """Return the peers that sent any of the instances in the ledger."""
    return set(connection.execute(select(instance.c.peer).where(instance.c.peer.is_not(None)).distinct()).scalars())


_LAST_REQUEST: Final = (
    select(commitment.c.state)
    .where(commitment.c.delivery_id == delivery.c.id)
    .order_by(commitment.c.id.desc())
    .limit(1)
    .scalar_subquery()
)


def delivery_lines(
    connection: Connection, wanted: Wanted, *, reachable: Collection[str] | None, of_series: int | None = None
) -> list[DeliveryLine]:
    """List the deliveries, the newest first. ``reachable``: the peers that can be sent to; None: nobody asks."""
    where = _of_deliveries(wanted, reachable, of_series)
    chosen = select(delivery.c.id).where(*where).order_by(delivery.c.id.desc())
    chosen = chosen.limit(wanted.limit)
    tallies = (
        select(delivery_item.c.delivery_id, delivery_item.c.status, delivery_item.c.state, func.count().label("items"))
        .where(delivery_item.c.delivery_id.in_(chosen))
        .group_by(delivery_item.c.delivery_id, delivery_item.c.status, delivery_item.c.state)
        .order_by(delivery_item.c.delivery_id, delivery_item.c.status, delivery_item.c.state)
    )
    tally_of: dict[int, list[AnyRow]] = {}
    for row in connection.execute(tallies):
        tally_of.setdefault(row.delivery_id, []).append(row)
    question = (
        select(delivery, _reason(reachable).label("reason_now"), _LAST_REQUEST.label("commitment"))
        .where(delivery.c.id.in_(chosen))
        .order_by(delivery.c.id.desc())
    )
    return [_delivery_line(row, tally_of.get(row.id, []), reachable=reachable) for row in connection.execute(question)]


def count_deliveries(connection: Connection, wanted: Wanted, *, reachable: Collection[str] | None) -> int:
    """Count the deliveries that a list without a limit would show."""
    counted = select(func.count()).select_from(delivery)
    return connection.execute(counted.where(*_of_deliveries(wanted, reachable, None))).scalar_one()


def receivers(connection: Connection) -> set[str]:
    """Return the peers of all deliveries in the ledger."""
    return set(connection.execute(select(delivery.c.peer).distinct()).scalars())


def has_no_peer(reachable: Collection[str] | None) -> ColumnElement[bool]:
    """Is a delivery due to a peer that cannot be sent to?"""
    if reachable is None:
        return false()
    return and_(stands(delivery, DeliveryState.DUE), delivery.c.peer.not_in(sorted(reachable)))


def no_peer_sentence(number: int, peer: str) -> str:
    """Return the sentence for a delivery whose peer has no address or url in the settings, with the ways out."""
    return (
        f"The settings name no peer {peer} with an address or url, so nothing is sent: `dicomnode deliveries retry "
        f"{number} --to PEER` sends it to another, `dicomnode deliveries cancel {number}` gives it up."
    )


def _of_series(wanted: Wanted, *, derived: bool) -> list[ColumnElement[bool]]:
    received = series.c.origin == RECEIVED
    where = [_LISTED_SERIES, or_(received, series.c.series_uid.is_not(None)) if derived else received]
    if wanted.states:
        where.append(or_(series.c.state.in_(wanted.states), job.c.state.in_(wanted.states)))
    if wanted.reasons:
        where.append(or_(series.c.reason.in_(wanted.reasons), job.c.reason.in_(wanted.reasons)))
    if wanted.peers:
        where.append(exists().where(instance.c.series_id == series.c.id, instance.c.peer.in_(wanted.peers)))
    if wanted.since is not None:
        where.append(series.c.last_at >= wanted.since)
    if wanted.until is not None:
        where.append(series.c.last_at < wanted.until)
    if wanted.before is not None:
        where.append(series.c.id < wanted.before)
    return where


def _of_deliveries(
    wanted: Wanted, reachable: Collection[str] | None, of_series: int | None
) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = []
    if of_series is not None:
        made = select(job.c.id).where(job.c.output_series_id == of_series)
        where.append(or_(delivery.c.series_id == of_series, delivery.c.job_id.in_(made)))
    if wanted.states:
        where.append(delivery.c.state.in_(wanted.states))
    if wanted.reasons:
        where.append(_reason(reachable).in_(wanted.reasons))
    if wanted.peers:
        where.append(delivery.c.peer.in_(wanted.peers))
    if wanted.since is not None:
        where.append(delivery.c.state_at >= wanted.since)
    if wanted.until is not None:
        where.append(delivery.c.state_at < wanted.until)
    if wanted.before is not None:
        where.append(delivery.c.id < wanted.before)
    return where


def _reason(reachable: Collection[str] | None) -> ColumnElement[str | None]:
    return case((has_no_peer(reachable), literal(NO_PEER)), else_=delivery.c.reason)


def _delivery_line(row: AnyRow, tally: Sequence[AnyRow], *, reachable: Collection[str] | None) -> DeliveryLine:
    is_due, has_peer = row.state == DeliveryState.DUE, reachable is None or row.peer in reachable
    said = [row.sentence]
    if not has_peer and row.state in (DeliveryState.DUE, DeliveryState.HELD):
        said = [*([] if is_due else said), no_peer_sentence(row.id, row.peer)]
    return delivery_line(
        row,
        tally,
        next_at=row.next_at if is_due and has_peer else None,
        reason=row.reason_now,
        sentence=" ".join(said),
    )
