"""The series of two scanners week by week, judged for real: protocols that drift, and a clock that was set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydicom.dataset import Dataset

from tests.support.page_node import PageNode
from tests.support.phantom import Phantom
from tests.support.quiet_node import changed

HOSTILE_PROTOCOL = "<img src=x onerror=\"document.title='pwned'\">"
DRIFT_WEEKS = 4  # the last ones, in which everything differs


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanned:
    """A protocol of a scanner."""

    peer: str
    station: str
    name: str
    a_week: int
    spacing_mm: float
    later_spacing_mm: float
    misses_later: bool = False
    ahead_later_s: float = 0.0


PROTOCOLS = (
    Scanned(peer="mr1", station="MRC31", name="t2_tse_sag", a_week=3, spacing_mm=4.0, later_spacing_mm=4.4),
    Scanned(
        peer="mr1", station="MRC31", name="t1_tse_tra", a_week=2, spacing_mm=5.0, later_spacing_mm=5.0,
        misses_later=True,
    ),
    Scanned(
        peer="mr2", station="SKYRA2", name=HOSTILE_PROTOCOL, a_week=2, spacing_mm=6.0, later_spacing_mm=6.0,
        ahead_later_s=3900.0,
    ),
)  # fmt: skip


def fill_weeks(node: PageNode, weeks: int, *, drift_weeks: int = DRIFT_WEEKS) -> None:
    """Every series of that many weeks before this one; what would be derived of them is cancelled."""
    clock, now = node.quiet.clock, datetime.now(UTC)
    until = now - timedelta(days=now.weekday())  # a Monday, so that the 30 hours of a week's series end within it
    for week in range(weeks, 0, -1):
        for place, (one, is_late) in enumerate(_of_week(is_late=week <= drift_weeks)):
            clock.moment = until - timedelta(weeks=week, hours=-5 * place)
            number = node.receive(_series(one, clock.now(), is_late=is_late), peer=one.peer)
            if node.quiet.explain(number).reason == "process":
                node.quiet.ledger.operator.cancel_series(number, "operator")
    clock.moment = until


def _of_week(*, is_late: bool) -> Iterator[tuple[Scanned, bool]]:
    for one in PROTOCOLS:
        for _ in range(one.a_week):
            yield one, is_late


def _series(one: Scanned, arrives: datetime, *, is_late: bool) -> list[Dataset]:
    spacing_mm = one.later_spacing_mm if is_late else one.spacing_mm
    made = arrives + timedelta(seconds=(one.ahead_later_s if is_late else 0.0) - 200.0)
    phantom = Phantom(slices=7, rows=8, columns=8, spacing_mm=spacing_mm, thickness_mm=one.spacing_mm)
    sent = changed(
        phantom.datasets(), StationName=one.station, DeviceSerialNumber="4711", ProtocolName=one.name,
        InstanceCreationDate="", AcquisitionDate="", ContentDate=made.strftime("%Y%m%d"),
        ContentTime=made.strftime("%H%M%S"), TimezoneOffsetFromUTC="+0000",
    )  # fmt: skip
    return sent[:3] + sent[4:] if is_late and one.misses_later else sent
