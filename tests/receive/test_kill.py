"""``kill -9`` at each seam of receiving: what was acknowledged is there, the rest is sent again, nothing doubles."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from dicomnode.archive.store import Archive, FileState
from dicomnode.ledger.store import open_ledger
from tests.support.dicom import Made, made
from tests.support.pdu import raw_client
from tests.support.wait import wait_until

pytestmark = pytest.mark.faults

SEAMS = [
    "ledger.series_committed",
    "archive.folder_made",
    "durable.written",
    "durable.flushed",
    "durable.renamed",
    "receive.renamed",
    "receive.folder_synced",
    "ledger.accept_written",
    "ledger.accept_committed",
    "receive.committed",
    "receive.answered",
]


@contextmanager
def receiver(tmp_path: Path, *faults: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A receiver that dies at the fault, if there is one."""
    port_file = tmp_path / "port"
    port_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.support.checkpoints", *faults, "--module", "tests.receive.lone_receiver"]
    process = subprocess.Popen([*command, "--", str(tmp_path / "data"), str(port_file)])
    try:
        wait_until(lambda: port_file.exists() and port_file.read_text(), what="the receiver listens")
        yield process, int(port_file.read_text())
    finally:
        process.terminate()
        process.wait(60)


def send(port: int, objects: list[Made]) -> int:
    """How many were acknowledged before the connection was lost."""
    acknowledged = 0
    try:
        with raw_client(port) as client:
            if client.associate() is None:
                return 0
            for one in objects:
                assert client.store(one.sop_class_uid, one.sop_instance_uid, one.dataset) == 0x0000
                acknowledged += 1
            client.release()
    except (AssertionError, ConnectionError):
        pass
    return acknowledged


@pytest.mark.parametrize("seam", SEAMS)
def test_nothing_acknowledged_is_lost_and_nothing_doubles(tmp_path: Path, seam: str) -> None:
    first = made(1)
    objects = [first, *(made(number, series_uid=first.series_uid) for number in range(2, 6))]
    # The folder and the series are made once; of answers, the association's own is the first.
    hit = {"ledger.series_committed": 1, "archive.folder_made": 2, "receive.answered": 3}.get(seam, 3)
    with receiver(tmp_path, "--kill", f"{seam}:{hit}") as (process, port):
        acknowledged = send(port, objects)
        assert process.wait(60) == -9, "the fault was never reached"
    assert acknowledged < len(objects)
    archive = Archive(tmp_path / "data")
    ledger = open_ledger(f"sqlite:///{tmp_path / 'data' / 'ledger.sqlite'}")
    for one in objects[:acknowledged]:
        assert ledger.intake.find_instance(one.sop_instance_uid) is not None
    ledger.close()

    with receiver(tmp_path) as (_, port):
        assert send(port, objects) == len(objects)
    ledger = open_ledger(f"sqlite:///{tmp_path / 'data' / 'ledger.sqlite'}")
    rows = ledger.settling.instances_of(ledger.intake.series_for(first.series_uid), 1)
    ledger.close()
    assert {row.sop_instance_uid for row in rows} == {one.sop_instance_uid for one in objects}
    assert {archive.verify(row.file, row.sha256) for row in rows} == {FileState.WHOLE}
    left = {f"{path.parent.name}/{path.name}" for path in archive.root.rglob("*.*")}
    assert left == {row.file for row in rows}


@pytest.mark.parametrize(
    "seam", ["ledger.accept_written", "ledger.accept_committed", "receive.committed", "archive.quarantined"]
)
def test_what_was_to_be_set_aside_is_there_once_with_its_series_after_any_death(tmp_path: Path, seam: str) -> None:
    """The second object has the UID of the first, and other bytes."""
    first = made(1)
    second = made(2, series_uid=first.series_uid, sop_instance_uid=first.sop_instance_uid)
    with receiver(tmp_path, "--kill", f"{seam}:{1 if seam == 'archive.quarantined' else 2}") as (process, port):
        assert send(port, [first, second]) == 1
        assert process.wait(60) == -9, "the fault was never reached"
    with receiver(tmp_path) as (_, port):
        assert send(port, [second]) == 1
    archive = Archive(tmp_path / "data")
    with closing(open_ledger(f"sqlite:///{tmp_path / 'data' / 'ledger.sqlite'}")) as ledger:
        series = ledger.intake.series_for(first.series_uid)
        (kept,) = ledger.settling.instances_of(series, 1)
        # Before the commit it was no conflict yet: the file is found without a row, and the same bytes came again.
        aside = [one for one in ledger.quarantine.unexamined(series) if one.reason != "orphan" or not one.is_stored]
        assert [(one.reason, one.kept.id if one.kept else None) for one in aside] == [("conflict", kept.id)]
        assert archive.quarantine.path(aside[0].file).read_bytes().endswith(second.dataset)
        assert ledger.quarantine.files() == {path.name for path in archive.quarantine.folder.iterdir()}
    assert {path.name for path in archive.folder_of(series).iterdir()} == {Path(kept.file).name}


def test_what_was_not_understood_has_a_row_after_a_death_before_it_was_written_down(tmp_path: Path) -> None:
    broken = replace(made(1), dataset=b"no data set at all")
    with receiver(tmp_path, "--kill", "receive.quarantined") as (process, port):
        assert send(port, [broken]) == 0
        assert process.wait(60) == -9, "the fault was never reached"
    folder = Archive(tmp_path / "data").quarantine.folder
    (left,) = (path.name for path in folder.iterdir())
    with receiver(tmp_path), closing(open_ledger(f"sqlite:///{tmp_path / 'data' / 'ledger.sqlite'}")) as ledger:
        wait_until(lambda: ledger.quarantine.files() == {left}, what="the file has its row")
    assert (folder / left).read_bytes().endswith(broken.dataset)
