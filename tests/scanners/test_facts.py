"""The facts that a verdict yields about a scanner pass intake, archive, settler and ledger without a loss."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicomnode.ids import SeriesId
from dicomnode.ledger.judgements import Protocol
from dicomnode.ledger.schema import protocol
from tests.support.phantom import Phantom
from tests.support.quiet_node import QuietNode, changed, quiet_node

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[QuietNode]:
    with quiet_node(tmp_path) as made:
        yield made


def _scan(node: QuietNode, *, ahead_s: float | None = None, **phantom: object) -> list[Dataset]:
    """A series of the scanner MRC1 that is stated to be so much younger than its arrival."""
    sent = Phantom(**{"slices": 8, "rows": 8, "columns": 8, **phantom}).datasets()  # type: ignore[arg-type]
    for dataset in sent:
        dataset.StationName, dataset.DeviceSerialNumber, dataset.ProtocolName = "MRC1", "4711", "t2_tse_tra"
        for what in ("InstanceCreation", "Content", "Acquisition"):
            for kind in ("Date", "Time"):
                dataset.pop(f"{what}{kind}", None)
        if ahead_s is not None:
            made = (node.clock.now() + timedelta(seconds=ahead_s)).astimezone(UTC)
            dataset.TimezoneOffsetFromUTC = "+0100"
            local = made + timedelta(hours=1)
            dataset.ContentDate, dataset.ContentTime = local.strftime("%Y%m%d"), local.strftime("%H%M%S")
    return sent


def _one(node: QuietNode) -> Protocol:
    (found,) = node.reader.protocols(LONG_AGO)
    return found


def test_a_verdict_leaves_the_scanner_the_geometry_and_the_clock_in_the_ledger(node: QuietNode) -> None:
    assert set(node.send(_scan(node, ahead_s=-240))) == {0}
    node.settle()
    found = _one(node)
    assert (found.peer, found.station, found.serial, found.name) == ("mr1", "MRC1", "4711", "t2_tse_tra")
    (week,) = found.weeks
    told = node.explain(1)
    assert dict(week.reasons) == {told.reason: 1}
    assert week.spacing_mm == Phantom().spacing_mm
    assert week.thickness_mm == Phantom().thickness_mm
    assert week.missing == 0
    assert week.clock_s is not None
    assert abs(week.clock_s + 240) <= 1
    assert week.monday.isoformat() == "2026-03-02"


def test_missing_slices_are_counted(node: QuietNode) -> None:
    sent = _scan(node, slices=12)
    node.send(sent[:5] + sent[7:])
    node.settle()
    (week,) = _one(node).weeks
    assert (dict(week.reasons), week.missing, week.clock_s) == ({"missing": 1}, 2, None)


def test_a_series_counts_once_and_as_it_was_judged_last(node: QuietNode) -> None:
    """Two slices come late: the first verdict was on a series with a hole."""
    sent = _scan(node, slices=12)
    node.send(sent[:5] + sent[7:])
    node.settle()
    node.send(sent[5:7])
    node.settle()
    (week,) = _one(node).weeks
    assert (dict(week.reasons), week.missing) == ({"process": 1}, 0)
    (line,) = node.reader.series_of_protocol(_one(node).id, 10)
    assert (line.series, line.slices, line.reason) == (1, 12, "process")


def test_each_scanner_has_its_own_row_and_each_week_its_own_line(node: QuietNode) -> None:
    for spacing_mm, peer in ((5.0, "mr1"), (5.0, "mr2"), (6.0, "mr1")):
        node.send(_scan(node, spacing_mm=spacing_mm, thickness_mm=5.0), peer=peer)
        node.settle()
        node.clock.advance(7 * 86_400)
    first, second = node.reader.protocols(LONG_AGO)
    assert [(week.series, week.spacing_mm, week.gap_mm) for week in first.weeks] == [(1, 5.0, 0.0), (1, 6.0, 1.0)]
    assert first.weeks[1].week == first.weeks[0].week + 2
    assert (second.peer, second.series) == ("mr2", 1)
    (late,) = node.reader.protocols(node.clock.now() - timedelta(days=7))
    assert len(late.weeks) == 1, "what is older is not asked for"


@pytest.mark.parametrize(
    "values",
    [
        {"ContentTime": "noon", "ContentDate": "20260304"},
        {"ContentTime": "250000", "ContentDate": "20260304"},
        {"ContentTime": "101010", "ContentDate": "00000000"},
        {"ContentTime": "101010", "ContentDate": "20260304", "TimezoneOffsetFromUTC": "+9999"},
        {"ContentTime": "000000", "ContentDate": "00010101"},
    ],
)
def test_a_time_that_is_none_keeps_no_series_from_its_verdict(node: QuietNode, values: dict[str, str]) -> None:
    assert set(node.send(changed(_scan(node), **values))) == {0}
    node.settle()
    assert node.explain(1).reason == "process"
    assert _one(node).series == 1


def test_texts_of_a_header_are_cut_and_made_safe_and_none_is_needed(node: QuietNode) -> None:
    sent = changed(_scan(node), StationName="x" * 300, ProtocolName="\x1b[2J<b>")
    for dataset in sent:
        del dataset.DeviceSerialNumber
    node.send(sent)
    node.settle()
    found = _one(node)
    assert len(found.station) == 64
    assert found.serial == ""
    assert "\x1b" not in found.name


def test_what_a_patient_s_series_told_goes_with_its_images(node: QuietNode) -> None:
    node.send(_scan(node))
    node.settle()
    files = [one.file for one in node.reader.series_show(1).files]
    node.ledger.removals.erase(SeriesId(1), files, "operator")
    assert node.reader.protocols(LONG_AGO) == ()
    with node.reader._database.reading() as connection:
        assert connection.execute(protocol.select()).all() == [], "no text of its header is left"
