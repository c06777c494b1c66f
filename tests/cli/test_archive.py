"""``archive age`` on a ledger with files: what it lists is what it then removes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dicomnode.archive.store import Archive
from dicomnode.ids import SeriesId, digest
from dicomnode.ledger.store import Ledger, open_ledger
from dicomnode.ledger.values import QuarantinedFile, QuarantineReason
from tests.cli.conftest import Run
from tests.ledger.scene import FakeClock, plan_for
from tests.support.mr_series import mr_datasets
from tests.support.stored import store

LONG_AGO = datetime.now(UTC) - timedelta(days=400)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """The ledger of the data folder, whose clock stands a year ago."""
    (tmp_path / "data").mkdir()
    with closing(open_ledger(f"sqlite:///{tmp_path}/data/ledger.sqlite", clock=FakeClock(LONG_AGO))) as opened:
        yield opened


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "data")


@pytest.fixture(autouse=True)
def _old_enough(monkeypatch: pytest.MonkeyPatch, ledger: Ledger, archive: Archive) -> None:
    """Series 1 may go, series 2 has a job that waits."""
    for slices in (3, 4):
        series = store(ledger, archive, mr_datasets(slices=slices))
        assert ledger.settling.settle(series, 1, note="quiet")
    assert ledger.settling.keep(SeriesId(1), 1, reason="too_few", sentence="Only 3 slices.")
    assert ledger.settling.plan(SeriesId(2), 1, plan_for()) is not None
    with closing(sqlite3.connect(archive.data / "ledger.sqlite", isolation_level=None)) as connection:
        connection.execute("UPDATE series SET last_at = state_at")  # by the clock of the ledger
    monkeypatch.setenv("DICOMNODE_ARCHIVE__KEEP_DAYS", "30")


def files(archive: Archive) -> set[str]:
    return {str(path.relative_to(archive.root)) for path in archive.root.rglob("*") if path.is_file()}


def test_the_dry_run_lists_what_then_goes_and_says_why_others_stay(run: Run, archive: Archive) -> None:
    before = files(archive)
    listed = json.loads(run("archive", "age", "--dry-run", "--json").out)
    assert (listed["removed"], listed["instances"], listed["stays"]) == (False, 3, {"job": 1})
    assert [(line["id"], line["derived"], line["instances"]) for line in listed["series"]] == [(1, [], 3)]
    assert files(archive) == before
    done = json.loads(run("archive", "age", "--json").out)
    assert done["removed"] is True
    assert {key: done[key] for key in ("series", "instances", "size_bytes", "stays")} == {
        key: listed[key] for key in ("series", "instances", "size_bytes", "stays")
    }
    assert files(archive) == {file for file in before if file.startswith("2/")}
    again = json.loads(run("archive", "age", "--dry-run", "--json").out)
    assert again["series"] == []


def test_a_person_reads_sentences(run: Run) -> None:
    ran = run("archive", "age", "--dry-run")
    assert ran.code == 0
    assert "To be removed: 1 series, 3 images, " in ran.out
    assert "Old enough, and kept: 1 series with a job that waits, runs, is held or failed." in ran.out
    assert "Removed: 1 series, 3 images, " in run("archive", "age").out
    assert "No series is to be removed." in run("archive", "age").out


def test_a_file_that_was_set_aside_goes_once_a_person_has_seen_it(run: Run, archive: Archive, ledger: Ledger) -> None:
    for name in ("seen", "unseen"):
        (archive.quarantine.folder / f"{name}.dcm").parent.mkdir(exist_ok=True)
        archive.quarantine.path(f"{name}.dcm").write_bytes(b"no image")
        file = QuarantinedFile(
            file=f"{name}.dcm", reason=QuarantineReason.HEADER, sha256=digest(b"no image"), peer="mr1", instance=None,
            kept_sha256=None,
        )  # fmt: skip
        ledger.quarantine.record(file)
    ledger.operator.see_quarantine([1], "operator")
    assert json.loads(run("archive", "age", "--dry-run", "--json").out)["set_aside"] == 1
    assert "Removed: 1 of the files that were set aside, which a person has seen." in run("archive", "age").out
    assert archive.quarantine.names() == ["unseen.dcm"]
    (line,) = json.loads(run("quarantine", "list", "--json").out)
    assert line["file"] == "unseen.dcm"


def test_images_that_are_kept_for_ever_are_not_removed(
    run: Run, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(archive)
    monkeypatch.setenv("DICOMNODE_ARCHIVE__KEEP_DAYS", "0")
    ran = run("archive", "age")
    assert ran.code == 2
    assert "keep all images for ever" in ran.err
    assert files(archive) == before


def test_series_retry_says_what_happened(run: Run) -> None:
    run("archive", "age")
    ran = run("series", "retry", 1)
    assert ran.code == 2
    assert "3 of the 3 images of series 1 were removed from the archive at" in ran.err
    assert "3 of the 3 images of series 1 were removed from the archive at" in run("series", "explain", 1).out
