"""Found by reading: a second attempt at a job wrote other bytes under the UIDs of the first.

It happened where the machine's time zone was another (a restored node, a changed container) and the source states
none, and where the network ran on another device or in another precision: a GPU that was full in the first attempt, a
processor without bfloat16. A PACS that holds one keeps the first or the second, and nobody knows which.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from pydicom import dcmread

from dicomnode.archive.store import Archive
from dicomnode.generators import device, model_dir
from dicomnode.ids import JobId, SeriesId
from dicomnode.ledger.store import Ledger, open_ledger
from dicomnode.ledger.values import PlannedJob
from dicomnode.work import job, orders
from tests.support.model_folders import random_thin, write_thin
from tests.support.mr_series import mr_datasets
from tests.support.stored import pinned, store
from tests.support.zone import machine_zone

OUTPUT = SeriesId(99)
PLANNED_AT = datetime(2026, 1, 2, 20, 4, 5, tzinfo=UTC)
INDIA, EAST_COAST = "IST-5:30", "EST5"


@dataclass(frozen=True, kw_only=True)
class Node:
    """A ledger, an archive with one series, and an imported network."""

    ledger: Ledger
    archive: Archive
    series: SeriesId
    digest: str

    def order(self, model: str = "knee") -> orders.Order:
        """As the supervisor gives it to its executor, at each attempt the same."""
        parameters = pinned(at=PLANNED_AT)
        if model == "knee":
            parameters = replace(parameters, model="knee", model_digest=self.digest)
        return orders.Order(
            job=JobId(1),
            token=1,
            archive=str(self.archive.root),
            files=tuple(
                orders.SourceFile(instance=one.id, file=one.file, sha256=one.sha256)
                for one in self.ledger.settling.instances_of(self.series, 1)
            ),
            output=str(self.archive.outputs.folder(OUTPUT)),
            node_uuid=str(self.ledger.node_uuid),
            ae_title="NODE",
            parameters=parameters,
            derivation_number=1,
            created_at=PLANNED_AT.isoformat(),
        )

    def attempt(self, order: orders.Order) -> dict[str, str]:
        """SOP Instance UID → digest of the dataset; the files lie in the output folder."""
        self.archive.outputs.begin(OUTPUT)
        models = job.Models(self.archive.data)
        made = job.run(order, device="cpu", models=models, progress=lambda *_: None)
        return {one.sop_instance_uid: one.sha256 for one in made.series.instances}

    def written(self, keyword: str) -> str:
        """Of the last attempt."""
        return str(dcmread(next(self.archive.outputs.folder(OUTPUT).iterdir()))[keyword].value)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    ledger, archive = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}"), Archive(tmp_path)
    made = write_thin(tmp_path / "made", net=random_thin(blocks=2), name="knee")
    digest = model_dir.verify(made)
    model_dir.copy_model(made, model_dir.imported_folder(tmp_path, "knee", digest))
    series = store(ledger, archive, mr_datasets(slices=6))
    yield Node(ledger=ledger, archive=archive, series=series, digest=digest)
    ledger.close()


def _is_one_uid_one_content(one: dict[str, str], other: dict[str, str]) -> bool:
    return all(one[uid] == other[uid] for uid in one.keys() & other.keys())


def test_a_second_attempt_in_another_time_zone_writes_the_same_bytes(node: Node) -> None:
    with machine_zone(INDIA):
        order = node.order("cubic-dc")
        first = node.attempt(order)
    with machine_zone(EAST_COAST):
        assert node.attempt(order) == first
    assert (node.written("SeriesDate"), node.written("SeriesTime")) == ("20260103", "013405.000000")


def test_a_job_that_an_older_node_planned_gets_other_uids_with_other_bytes(node: Node) -> None:
    """It pins no time zone, so the machine's is written."""
    order = node.order("cubic-dc")
    order = replace(order, parameters=replace(order.parameters, utc_offset_min=None))
    attempts = []
    for zone, time in ((INDIA, "013405.000000"), (EAST_COAST, "150405.000000")):
        with machine_zone(zone):
            attempts.append(node.attempt(order))
        assert node.written("SeriesTime") == time
    assert attempts[0].keys().isdisjoint(attempts[1].keys())


def test_another_precision_makes_another_series_and_the_same_one_the_same(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processor's own capability is what changes from machine to machine; both precisions run on any."""
    order = node.order()
    attempts = {}
    for precision in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(device, "cpu_dtype", lambda _, chosen=precision: chosen)
        attempts[precision] = node.attempt(order)
        assert node.attempt(order) == attempts[precision]
    one, other = attempts.values()
    assert set(one.values()) != set(other.values()), "the two precisions differ in no voxel: this test shows nothing"
    assert one.keys().isdisjoint(other.keys())


def test_the_number_of_threads_never_puts_two_contents_under_one_uid(node: Node) -> None:
    order = node.order()
    before = torch.get_num_threads()
    try:
        attempts = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            attempts.append(node.attempt(order))
    finally:
        torch.set_num_threads(before)
    assert _is_one_uid_one_content(*attempts)


def test_another_title_of_the_node_makes_another_series(node: Node) -> None:
    """Station Name is in the bytes, and the settings may change between two attempts."""
    order = node.order("cubic-dc")
    first = node.attempt(order)
    assert node.attempt(replace(order, ae_title="RENAMED")).keys().isdisjoint(first.keys())


def test_a_job_that_waits_keeps_its_zone_when_its_series_is_judged_again_in_another(node: Node) -> None:
    """In summer, say: it is the same job, with the moment and the clock that it was planned at."""

    def planned(now: datetime) -> PlannedJob:
        return PlannedJob(parameters=pinned(at=now), deliver_to=(), sentence="planned by a test")

    assert node.ledger.settling.settle(node.series, 1, note="")
    with machine_zone("CET-1CEST,M3.5.0,M10.5.0/3"):
        first = node.ledger.settling.plan(node.series, 1, planned(PLANNED_AT))
        node.ledger.operator.retry_series(node.series, "operator")
        again = node.ledger.settling.plan(node.series, 1, planned(PLANNED_AT + timedelta(days=182)))
    assert first == again
    claimed = node.ledger.jobs.claim("test", lease_s=60.0, but=())
    assert claimed is not None
    assert claimed.planned.parameters.utc_offset_min == 60
