"""``purge`` as a person runs it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dicomnode.archive.store import Archive
from dicomnode.ids import SeriesId
from dicomnode.ledger.states import DeliveryState
from dicomnode.ledger.store import Ledger, open_ledger
from tests.cli.conftest import Run
from tests.ledger.scene import derived, plan_for
from tests.support.mr_series import mr_datasets
from tests.support.stored import store

PATIENT = str(mr_datasets(slices=1)[0].PatientID)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    (tmp_path / "data").mkdir()
    with closing(open_ledger(f"sqlite:///{tmp_path}/data/ledger.sqlite")) as opened:
        yield opened


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "data")


@pytest.fixture
def delivered(ledger: Ledger, archive: Archive) -> SeriesId:
    """A series whose result the PACS has."""
    series = store(ledger, archive, mr_datasets(slices=3))
    assert ledger.settling.settle(series, 1, note="quiet")
    assert ledger.settling.plan(series, 1, plan_for("pacs")) is not None
    job = ledger.jobs.claim("1:x:1", lease_s=60)
    assert job is not None
    assert ledger.jobs.finish(job, derived(images=2))
    delivery = ledger.deliveries.claim("pacs", "1:x:1", lease_s=60)
    assert delivery is not None
    for item in ledger.deliveries.pending_items(delivery):
        assert ledger.deliveries.acknowledge(delivery, item, status=0)
    assert ledger.deliveries.finish(delivery) is DeliveryState.SENT
    return series


def files(archive: Archive) -> list[Path]:
    return [path for path in archive.root.rglob("*") if path.is_file()]


def test_the_dry_run_counts_and_erases_nothing(run: Run, archive: Archive, delivered: SeriesId) -> None:
    counted = json.loads(run("purge", "--patient", PATIENT, "--dry-run", "--json").out)
    assert (counted["erased"], counted["series"], counted["instances"]) == (False, [delivered], 3)
    assert (counted["peers"], counted["headers"]) == (["pacs"], 3)
    assert len(files(archive)) == 3


def test_a_person_reads_what_went_and_what_is_left_elsewhere(run: Run, archive: Archive, delivered: SeriesId) -> None:
    ran = run("purge", "--patient", PATIENT)
    assert ran.code == 0
    assert "The images were erased from this node." in ran.out
    assert "pacs got images of the patient from this node, and must erase them there." in ran.out
    assert "A backup holds them until" in ran.out
    assert files(archive) == []
    assert PATIENT not in ran.out + ran.err
    assert "5 of the 5" not in run("series", "explain", delivered).out
    assert "3 of the 3 images of series 1 were removed" in run("series", "explain", delivered).out
    assert "An operator erased images of this series." in run("series", "explain", delivered).out


def test_the_patient_id_comes_from_standard_input(
    run: Run, archive: Archive, delivered: SeriesId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PATIENT}\n"))
    erased = json.loads(run("purge", "--patient", "-", "--json").out)
    assert (erased["erased"], erased["series"], erased["instances"]) == (True, [delivered], 5)
    assert files(archive) == []


@pytest.mark.usefixtures("delivered")
def test_a_patient_id_that_nobody_has_or_that_is_empty_erases_nothing(run: Run, archive: Archive) -> None:
    assert "No image has this Patient ID." in run("purge", "--patient", "nobody").out
    ran = run("purge", "--patient", " ")
    assert ran.code == 2
    assert "The Patient ID is empty" in ran.err
    assert len(files(archive)) == 3
