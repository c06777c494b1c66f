"""C-MOVE from a PACS that withholds, lies and cuts, over real sockets: an exact count, or an error that says why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from dicomnode.errors import PeerError
from dicomnode.ids import AeTitle
from dicomnode.pull.dimse_source import DimseSource
from dicomnode.pull.fetch import PulledSeries
from dicomnode.push.dimse_carrier import DimseCarrier
from tests.pull.test_fetch import PULL, PUSH, Door, door, pull, uids_of  # noqa: F401 (a fixture)
from tests.support.dicom import dataset_bytes
from tests.support.moving_pacs import MovingPacs
from tests.support.mr_series import write_mr_series
from tests.support.orthanc import AE_TITLE


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return write_mr_series(tmp_path / "pacs", slices=6)


@pytest.fixture
def pacs(door: Door, files: Sequence[Path]) -> Iterator[MovingPacs]:  # noqa: F811 (the fixture)
    place = ("127.0.0.1", door.port)
    with closing(MovingPacs(files, ae_title=AE_TITLE, node=place, node_title=PULL)) as pacs:
        yield pacs


def pulled_from(pacs: MovingPacs, door: Door) -> PulledSeries:  # noqa: F811
    carrier = DimseCarrier(ae_title=AeTitle("DICOMNODE"), push=PUSH)
    with closing(DimseSource(carrier, pacs.peer, door.handover)) as source:
        (pulled,) = pull(source, door)
    return pulled


def test_a_pacs_that_does_what_it_says_brings_everything(pacs: MovingPacs, door: Door, files: list[Path]) -> None:  # noqa: F811
    pulled = pulled_from(pacs, door)
    assert (pulled.wanted, pulled.here, pulled.sentence, dict(pacs.moves)) == (6, 6, "", {"SERIES": 1})
    assert door.datasets() == {dataset_bytes(file) for file in files}


def test_instances_that_were_withheld_of_six_completed_sub_operations_are_asked_for_one_by_one(
    pacs: MovingPacs, door: Door, files: list[Path]  # noqa: F811
) -> None:  # fmt: skip
    pacs.withheld = set(uids_of(files)[1:4])
    pulled = pulled_from(pacs, door)
    assert (pulled.here, pulled.is_whole, dict(pacs.moves)) == (6, True, {"SERIES": 1, "IMAGE": 3})


@pytest.mark.parametrize("status", [0x0000, 0xB000])
def test_what_never_comes_is_counted_whatever_the_sub_operations_say(
    pacs: MovingPacs, door: Door, files: list[Path], status: int  # noqa: F811
) -> None:  # fmt: skip
    pacs.never, pacs.status = set(uids_of(files)[4:]), status
    pulled = pulled_from(pacs, door)
    assert (pulled.wanted, pulled.here, pulled.is_whole) == (6, 4, False)
    assert pulled.sentence.startswith("2 of 6 instances did not come.")


def test_a_failure_that_is_none_loses_nothing(pacs: MovingPacs, door: Door) -> None:  # noqa: F811
    pacs.status = 0xA702
    pulled = pulled_from(pacs, door)
    assert (pulled.here, pulled.sentence, pacs.moves["IMAGE"]) == (6, "", 0)


def test_associations_that_are_cut_half_way_are_opened_again(pacs: MovingPacs, door: Door) -> None:  # noqa: F811
    pacs.cut_after = 2
    pulled = pulled_from(pacs, door)
    assert (pulled.here, pulled.is_whole, dict(pacs.moves)) == (6, True, {"SERIES": 1, "IMAGE": 4})


def test_associations_that_are_cut_each_time_end_with_the_count_and_the_reason(pacs: MovingPacs, door: Door) -> None:  # noqa: F811
    pacs.cut_after, pacs.cuts_each = 2, True
    pulled = pulled_from(pacs, door)
    assert (pulled.wanted, pulled.here) == (6, 2)
    assert "4 of 6 instances did not come. The peer aborted the association" in pulled.sentence
    assert pacs.moves["IMAGE"] == 1, "a peer that is away is not asked for each instance"


def test_a_search_that_is_cut_is_an_error_and_nothing_is_fetched(pacs: MovingPacs, door: Door) -> None:  # noqa: F811
    pacs.finds_nothing_after = 0
    with pytest.raises(PeerError, match=r"The peer does not say what it has\. The peer aborted the association"):
        pulled_from(pacs, door)
    assert not pacs.moves
    assert door.datasets() == set()


def test_a_search_for_the_images_that_is_cut_half_way_counts_nothing(pacs: MovingPacs, door: Door) -> None:  # noqa: F811
    pacs.finds_nothing_after = 3
    with pytest.raises(PeerError, match="does not say what it has"):
        pulled_from(pacs, door)
    assert not pacs.moves
