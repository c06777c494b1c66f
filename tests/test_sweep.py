"""Files and rows are brought together after the start; what arrives meanwhile is never taken for an orphan."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from dicomnode import seams, sweep
from dicomnode.archive.store import Archive, FileState
from dicomnode.errors import LedgerError
from dicomnode.ids import SeriesId, digest, file_stem, new_instance_id
from dicomnode.ledger.engine import LedgerBusyError
from dicomnode.ledger.facades import boots as ledger_boots
from dicomnode.ledger.queries import open_reader
from dicomnode.ledger.removed import Removed
from dicomnode.ledger.store import Ledger, open_ledger
from dicomnode.ledger.values import StoredInstance, StoreOutcome
from dicomnode.ledger.views import QuarantineLine
from dicomnode.service.service import Service
from dicomnode.settings.load import parse
from dicomnode.sweep import Sweep
from tests.support.dcmtk import free_port, is_listening
from tests.support.dicom import Made, made
from tests.support.pdu import EXPLICIT, raw_client
from tests.support.wait import wait_until

LONG_AGO_S = 400 * 86400.0


@dataclass(kw_only=True)
class Life:
    """One start of a service, as far as files and rows go."""

    data: Path
    archive: Archive
    ledger: Ledger
    sweep: Sweep
    boot: int

    def put(self, one: Made, series: SeriesId) -> StoredInstance:
        """A whole file, whose row is not yet written."""
        own_id = new_instance_id()
        about = {
            "sop_class_uid": one.sop_class_uid,
            "sop_instance_uid": one.sop_instance_uid,
            "transfer_syntax_uid": EXPLICIT,
            "peer": "mr1",
            "received_at": seams.SYSTEM_CLOCK.now(),
        }
        file = self.archive.put(series, own_id, dataset=one.dataset, **about)  # type: ignore[arg-type]
        size = len(one.dataset)
        return StoredInstance(
            id=own_id, series=series, size_bytes=size, sha256=digest(one.dataset), file=file, **about  # type: ignore[arg-type]
        )  # fmt: skip

    def receive(self, *objects: Made) -> list[StoredInstance]:
        """File and row of each: they are acknowledged."""
        stored = [self.put(one, self.ledger.intake.series_for(one.series_uid)) for one in objects]
        assert self.ledger.intake.accept(stored) == [StoreOutcome.STORED] * len(stored)
        return stored

    def is_through(self) -> bool:
        """Whether the look after the start has ended."""
        return not self.sweep._thread.is_alive()

    def look_behind(self) -> None:
        """Run all that is done after the start."""
        self.sweep.start()
        wait_until(self.is_through, what="the archive is looked through")

    def quarantined(self) -> list[QuarantineLine]:
        """The rows of the quarantine; each has its file, and no file is without a row."""
        reader = open_reader(f"sqlite:///{self.data / 'ledger.sqlite'}")
        rows = reader.quarantine_list()
        reader.close()
        assert sorted(row.file for row in rows) == sorted(self.archive.quarantine.names())
        return rows

    def end(self) -> None:
        """A stop in order."""
        self.sweep.stop(10.0)
        self.ledger.boots.end(self.boot)  # type: ignore[arg-type]
        self.kill()

    def kill(self) -> None:
        """What a kill leaves: files and rows as they are, nothing ended."""
        self.ledger.close()


def begin(data: Path) -> Life:
    """A start, up to READY."""
    data.mkdir(exist_ok=True)
    archive = Archive(data)
    ledger = open_ledger(f"sqlite:///{data / 'ledger.sqlite'}")
    boot = ledger.boots.begin(pid=1, host="test")
    one = Sweep(archive, ledger, boot, damaged=lambda _: None)
    one.begin()
    return Life(data=data, archive=archive, ledger=ledger, sweep=one, boot=boot.boot)


def age(folder: Path, seconds: float = LONG_AGO_S) -> None:
    """Nothing has come into the folder, or left it, for so long."""
    moment = folder.stat().st_mtime - seconds
    os.utime(folder, (moment, moment))


def leave_orphan(life: Life, stored: StoredInstance) -> Path:
    """A whole file that no row knows, beside one that has a row."""
    path = life.archive.path(stored.file).with_name(f"{file_stem(new_instance_id())}.dcm")
    shutil.copyfile(life.archive.path(stored.file), path)
    return path


@pytest.fixture(autouse=True)
def _short_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "QUIET_S", 0.05)
    monkeypatch.setattr(sweep, "QUIET_LOOK_S", 0.01)


@pytest.fixture(autouse=True)
def _no_hook_is_left() -> Iterator[None]:
    yield
    seams.set_checkpoint_hook(None)


def test_a_clean_start_looks_through_nothing_that_nobody_touched_since(tmp_path: Path) -> None:
    life = begin(tmp_path / "data")
    (stored,) = life.receive(made(1))
    orphan = leave_orphan(life, stored)
    life.end()
    age(orphan.parent)
    life = begin(tmp_path / "data")
    assert orphan.exists(), "the start does not wait for it"
    life.look_behind()
    (row,) = life.quarantined()
    assert (row.reason, row.peer, row.sha256) == ("orphan", "mr1", stored.sha256)
    assert not orphan.exists()
    assert life.archive.verify(stored.file, stored.sha256) is FileState.WHOLE
    life.end()


def test_what_changed_since_the_last_clean_stop_is_looked_through_before_the_door_opens(tmp_path: Path) -> None:
    life = begin(tmp_path / "data")
    (stored,) = life.receive(made(1))
    life.end()
    life = begin(tmp_path / "data")
    orphan = leave_orphan(life, stored)
    half = orphan.with_name("0000000000000001.dcm.tmp")
    half.write_bytes(b"half")
    life.kill()
    life = begin(tmp_path / "data")
    assert not orphan.exists()
    assert not half.exists()
    assert len(life.quarantined()) == 1
    life.end()


def test_however_much_changed_the_door_waits_for_a_second_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "BEFORE_READY_S", 0.0)
    life = begin(tmp_path / "data")
    orphans = [leave_orphan(life, life.receive(made(1))[0]) for _ in range(5)]
    life.kill()
    life = begin(tmp_path / "data")
    assert [path.exists() for path in orphans] == [True, True, True, True, False], "the newest comes first"
    life.look_behind()
    assert len(life.quarantined()) == 5
    life.end()


def test_what_is_being_received_is_never_taken_for_an_orphan(tmp_path: Path) -> None:
    """Its file is whole and has no row yet, in a new folder, in an old one, and in one that holds an orphan."""
    life = begin(tmp_path / "data")
    (known,), (beside) = life.receive(made(1)), life.receive(made(1))
    orphan = leave_orphan(life, beside[0])
    life.end()
    for stored in (known, beside[0]):
        age(life.archive.path(stored.file).parent)

    life = begin(tmp_path / "data")
    fresh = made(1)
    coming = [life.put(made(2), known.series), life.put(made(3), beside[0].series)]
    assert not orphan.exists(), "a folder is looked through before anything new comes to lie in it"
    coming.append(life.put(fresh, life.ledger.intake.series_for(fresh.series_uid)))
    life.look_behind()
    assert all(life.archive.path(one.file).exists() for one in coming)
    assert life.ledger.intake.accept(coming) == [StoreOutcome.STORED] * 3
    assert len(life.quarantined()) == 1
    life.end()


def test_what_a_job_has_written_but_not_published_is_left_to_it(tmp_path: Path) -> None:
    life = begin(tmp_path / "data")
    life.receive(made(1))
    folder = life.archive.outputs.begin(SeriesId(2))
    (folder / "derived.dcm").write_bytes(b"derived")
    life.look_behind()
    assert [path.name for path in life.archive.outputs.publish(SeriesId(2)).iterdir()] == ["derived.dcm"]
    assert life.quarantined() == []
    life.end()


def test_an_orphan_gets_its_row_although_the_ledger_was_locked_when_it_was_moved(tmp_path: Path) -> None:
    life = begin(tmp_path / "data")
    (stored,) = life.receive(made(1))
    orphan = leave_orphan(life, stored)
    life.end()
    age(orphan.parent)
    life = begin(tmp_path / "data")

    def lock(name: str) -> None:
        if name == "sweep.set_aside":
            seams.set_checkpoint_hook(None)
            raise LedgerBusyError("Another process held the ledger.")

    seams.set_checkpoint_hook(lock)
    with pytest.raises(LedgerBusyError):
        life.put(made(2), stored.series)
    assert not orphan.exists()
    coming = life.put(made(2), stored.series)
    assert life.ledger.intake.accept([coming]) == [StoreOutcome.STORED]
    assert len(life.quarantined()) == 1
    life.end()


def test_what_comes_while_its_folder_is_looked_through_waits_for_the_end_of_it(tmp_path: Path) -> None:
    life = begin(tmp_path / "data")
    (stored,) = life.receive(made(1))
    leave_orphan(life, stored)
    life.end()
    age(life.archive.path(stored.file).parent)
    life = begin(tmp_path / "data")
    looking, may_go_on = threading.Event(), threading.Event()

    def hold(name: str) -> None:
        if name == "sweep.set_aside" and not looking.is_set():
            looking.set()
            assert may_go_on.wait(60)

    seams.set_checkpoint_hook(hold)
    life.sweep.start()
    assert looking.wait(60)
    coming: list[StoredInstance] = []
    sender = threading.Thread(target=lambda: coming.append(life.put(made(2), stored.series)))
    sender.start()
    assert not coming
    may_go_on.set()
    sender.join(60)
    wait_until(life.is_through, 30)
    assert life.archive.path(coming[0].file).exists()
    assert life.ledger.intake.accept(coming) == [StoreOutcome.STORED]
    assert len(life.quarantined()) == 1
    life.end()


@pytest.mark.parametrize("by", [timedelta(days=-3000), timedelta(days=3000)])
def test_a_clock_that_was_set_costs_nothing_but_time(
    tmp_path: Path, by: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last clean stop lies years ahead of the files, or years behind them."""
    life = begin(tmp_path / "data")
    (stored,) = life.receive(made(1))
    orphan = leave_orphan(life, stored)
    now = seams.SYSTEM_CLOCK.now() + by
    with monkeypatch.context() as patch:
        patch.setattr(life.ledger._access.clock.__class__, "now", lambda _: now)
        life.end()
    life = begin(tmp_path / "data")
    coming = life.put(made(2), stored.series)
    life.look_behind()
    assert life.archive.path(coming.file).exists()
    assert not orphan.exists()
    assert len(life.quarantined()) == 1
    life.end()


def test_a_ledger_put_back_from_an_older_copy_loses_no_file_and_mixes_none(tmp_path: Path) -> None:
    """It hands numbers out again whose folders hold acknowledged files: to a series that comes, to a job's output."""
    data = tmp_path / "data"
    life = begin(data)
    life.receive(made(1))
    life.end()
    shutil.copyfile(data / "ledger.sqlite", tmp_path / "older.sqlite")
    life = begin(data)
    lost = [*life.receive(made(1), made(2)), *life.receive(made(1))]
    contents = sorted(one.sha256 for one in lost)
    life.end()
    for one in lost:
        age(life.archive.path(one.file).parent)
    shutil.copyfile(tmp_path / "older.sqlite", data / "ledger.sqlite")

    life = begin(data)
    fresh = made(1)
    assert life.ledger.intake.series_for(fresh.series_uid) == lost[0].series
    (stored,) = life.receive(fresh)
    assert os.listdir(life.archive.folder_of(stored.series)) == [stored.file.partition("/")[2]]  # noqa: PTH208
    output = lost[1].series
    (life.archive.outputs.begin(output) / "derived.dcm").write_bytes(b"derived")
    life.archive.outputs.publish(output)
    life.look_behind()
    rows = life.quarantined()
    assert sorted(row.sha256 for row in rows) == contents
    assert {row.reason for row in rows} == {"orphan"}
    life.end()


def test_a_file_in_quarantine_gets_the_row_that_a_kill_took_from_it(tmp_path: Path) -> None:
    life = begin(tmp_path / "data")
    one = made(1)
    name = life.archive.quarantine.put(
        one.dataset,
        sop_class_uid=one.sop_class_uid,
        sop_instance_uid=one.sop_instance_uid,
        transfer_syntax_uid=EXPLICIT,
        peer="mr1",
        received_at=seams.SYSTEM_CLOCK.now(),
    )
    (life.archive.quarantine.folder / "0000000000000002.dcm").write_bytes(b"no image at all")
    life.kill()
    life = begin(tmp_path / "data")
    life.look_behind()
    rows = {row.file: row for row in life.quarantined()}
    assert (rows[name].reason, rows[name].peer, rows[name].sha256) == ("orphan", "mr1", digest(one.dataset))
    assert rows["0000000000000002.dcm"].sha256 == digest(b"no image at all")
    life.end()
    life = begin(tmp_path / "data")
    life.look_behind()
    assert len(life.quarantined()) == 2, "a row once"
    life.end()


def test_a_file_set_aside_now_is_not_taken_for_one_whose_row_a_kill_took(tmp_path: Path) -> None:
    life = begin(tmp_path / "data")
    (stored,) = life.receive(made(1))
    orphan = leave_orphan(life, stored)
    life.end()
    age(orphan.parent)
    life = begin(tmp_path / "data")
    life.archive.set_aside(stored.file)  # its row comes a moment later, from whoever moved it
    life.look_behind()
    reader = open_reader(f"sqlite:///{life.data / 'ledger.sqlite'}")
    assert [row.file for row in reader.quarantine_list()] == [orphan.name]
    reader.close()
    life.end()


def test_rows_without_a_file_are_counted_also_where_the_folder_is_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    life = begin(tmp_path / "data")
    one = made(1)
    first = life.receive(one, made(2, series_uid=one.series_uid))
    (second,) = life.receive(made(1))
    life.receive(made(1))
    life.end()
    shutil.rmtree(life.archive.path(first[0].file).parent)
    life.archive.path(second.file).unlink()
    life = begin(tmp_path / "data")
    with caplog.at_level(logging.INFO, "dicomnode"):
        life.look_behind()
    said = {record.getMessage(): record.dicomnode_fields for record in caplog.records}  # type: ignore[attr-defined]
    assert said["files_missing"]["count"] == 3
    assert said["archive_swept"]["count"] == 3
    assert said["archive_swept"]["orphans"] == 0
    life.end()


def test_a_folder_that_cannot_be_listed_keeps_no_other_from_being_looked_through(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    life = begin(tmp_path / "data")
    (stored,) = life.receive(made(1))
    orphan = leave_orphan(life, stored)
    life.end()
    age(orphan.parent)
    (life.archive.root / "9").symlink_to("9")  # leads to itself: ELOOP
    life = begin(tmp_path / "data")
    with caplog.at_level(logging.INFO, "dicomnode"):
        life.look_behind()
    assert not orphan.exists()
    said = [record.getMessage() for record in caplog.records]
    assert "sweep_failed" in said
    assert "archive_swept" in said
    life.end()


def test_nothing_is_put_beside_an_orphan_while_the_ledger_cannot_be_asked(tmp_path: Path) -> None:
    life = begin(tmp_path / "data")
    (stored,) = life.receive(made(1))
    orphan = leave_orphan(life, stored)
    life.end()
    age(orphan.parent)
    life = begin(tmp_path / "data")
    (life.data / "ledger.sqlite").rename(life.data / "away")
    life.ledger.close()
    with pytest.raises(LedgerError):
        life.put(made(2), stored.series)
    (life.data / "away").rename(life.data / "ledger.sqlite")
    assert [path.name for path in orphan.parent.iterdir() if path not in (orphan, life.archive.path(stored.file))] == []


def test_a_stop_ends_the_look_between_two_folders_and_the_next_start_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    life = begin(tmp_path / "data")
    orphans = [leave_orphan(life, life.receive(made(1))[0]) for _ in range(6)]
    life.end()
    for orphan in orphans:
        age(orphan.parent)
    monkeypatch.setattr(sweep, "PIECE_S", 0.0)
    monkeypatch.setattr(sweep, "PAUSE_SHARE", 1e9)
    monkeypatch.setattr(sweep, "PAUSE_LIMIT_S", 60.0)
    paused = threading.Event()
    seams.set_checkpoint_hook(lambda name: paused.set() if name == "sweep.piece" else None)
    life = begin(tmp_path / "data")
    with caplog.at_level(logging.INFO, "dicomnode"):
        life.sweep.start()
        assert paused.wait(60)
        life.end()
    assert life.is_through()
    assert "archive_swept" not in [record.getMessage() for record in caplog.records]
    assert sum(path.exists() for path in orphans) == 5

    monkeypatch.undo()
    life = begin(tmp_path / "data")
    life.look_behind()
    assert len(life.quarantined()) == 6
    life.end()


@pytest.mark.parametrize("is_busy", [True, False])
def test_the_look_leaves_disk_and_processor_to_an_open_association(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_busy: bool
) -> None:
    monkeypatch.setattr(sweep, "PIECE_S", 0.0)
    monkeypatch.setattr(sweep, "PAUSE_SHARE", 0.0)
    monkeypatch.setattr(sweep, "BUSY_PAUSE_SHARE", 1e9)
    monkeypatch.setattr(sweep, "PAUSE_LIMIT_S", 60.0)
    life = begin(tmp_path / "data")
    orphans = [leave_orphan(life, life.receive(made(1))[0]) for _ in range(3)]
    life.end()
    for orphan in orphans:
        age(orphan.parent)
    paused = threading.Event()
    seams.set_checkpoint_hook(lambda name: paused.set() if name == "sweep.piece" else None)
    life = begin(tmp_path / "data")
    life.sweep.start(lambda: is_busy)
    assert paused.wait(30)
    if not is_busy:
        wait_until(life.is_through, what="the archive is looked through")
    assert sum(path.exists() for path in orphans) == (2 if is_busy else 0)
    life.end()


def test_a_large_ledger_that_is_damaged_ends_the_service_and_nothing_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    life = begin(data)
    for _ in range(40):
        life.receive(*(made(number) for number in range(5)))
    (stored,) = life.receive(made(1))
    orphan = leave_orphan(life, stored)
    life.end()
    age(orphan.parent)
    content = bytearray((data / "ledger.sqlite").read_bytes())
    page = content.rindex(b"/" + stored.file.partition("/")[2].encode()) // 4096 * 4096
    content[page : page + 512] = b"\xff" * 512
    (data / "ledger.sqlite").write_bytes(content)
    monkeypatch.setattr(ledger_boots, "CHECKED_AT_START_BYTES", 0)
    port = free_port()
    service = Service(parse({"node": {"listen": f"127.0.0.1:{port}", "data": str(data)}}))
    with pytest.raises(LedgerError, match="damaged") as raised:
        service.run()
    assert raised.value.exit_code == 3
    assert not is_listening(port)
    assert orphan.exists()


def test_a_large_ledger_that_is_sound_is_checked_and_then_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_boots, "CHECKED_AT_START_BYTES", 0)
    life = begin(tmp_path / "data")
    (stored,) = life.receive(made(1))
    orphan = leave_orphan(life, stored)
    life.end()
    age(orphan.parent)
    life = begin(tmp_path / "data")
    life.look_behind()
    assert len(life.quarantined()) == 1
    life.end()


def test_the_check_of_a_large_ledger_waits_for_the_first_quiet_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_boots, "CHECKED_AT_START_BYTES", 0)
    life = begin(tmp_path / "data")
    (stored,) = life.receive(made(1))
    life.end()
    life = begin(tmp_path / "data")
    orphan = leave_orphan(life, stored)
    open_associations = [1]
    looks: list[bool] = []

    def is_busy() -> bool:
        looks.append(orphan.exists())
        return bool(open_associations)

    life.sweep.start(is_busy)
    wait_until(lambda: len(looks) > 20, what="the sweep looks for a quiet moment")
    assert all(looks)
    open_associations.clear()
    wait_until(life.is_through, what="the archive is looked through")
    assert len(life.quarantined()) == 1
    life.end()


def test_a_node_that_is_never_quiet_has_its_ledger_checked_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_boots, "CHECKED_AT_START_BYTES", 0)
    monkeypatch.setattr(sweep, "QUIET_LIMIT_S", 0.2)
    life = begin(tmp_path / "data")
    (stored,) = life.receive(made(1))
    life.end()
    life = begin(tmp_path / "data")
    leave_orphan(life, stored)
    life.sweep.start(lambda: True)
    wait_until(life.is_through, what="the archive is looked through")
    assert len(life.quarantined()) == 1
    life.end()


@pytest.mark.parametrize("seam", ["archive.quarantined:2", "sweep.set_aside:1", "sweep.recorded:1"])
def test_a_kill_in_the_midst_of_the_look_loses_nothing_and_leaves_no_file_without_a_row(
    tmp_path: Path, seam: str
) -> None:
    life = begin(tmp_path / "data")
    first = life.receive(made(1), made(2))
    contents = [leave_orphan(life, one).read_bytes() for one in first]
    life.end()
    age(life.archive.path(first[0].file).parent)
    assert _serve_until_it_ends(life.data, tmp_path / "port", "--kill", seam) == -signal.SIGKILL
    coming = made(3)
    assert _serve_until_it_ends(life.data, tmp_path / "port", objects=[coming]) == 0
    life = begin(tmp_path / "data")
    life.look_behind()
    names = life.archive.quarantine.names()
    assert sorted((life.archive.quarantine.folder / name).read_bytes() for name in names) == sorted(contents)
    assert len(life.quarantined()) == 2
    assert life.ledger.intake.find_instance(coming.sop_instance_uid) is not None
    assert {life.archive.verify(one.file, one.sha256) for one in first} == {FileState.WHOLE}
    life.end()


def _serve_until_it_ends(data: Path, port_file: Path, *faults: str, objects: list[Made] | None = None) -> int:
    """A receiver in a process of its own: killed at the fault, or ended in order once it has taken the objects."""
    port_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.support.checkpoints", *faults, "--module", "tests.receive.lone_receiver"]
    process = subprocess.Popen([*command, "--", str(data), str(port_file)])
    try:
        if objects is not None:
            wait_until(lambda: port_file.exists() and port_file.read_text(), what="the receiver listens")
            with raw_client(int(port_file.read_text())) as client:
                assert client.associate() is not None
                for one in objects:
                    assert client.store(one.sop_class_uid, one.sop_instance_uid, one.dataset) == 0x0000
                client.release()
            process.terminate()
        return process.wait(60)
    finally:
        process.kill()
        process.wait()


def test_a_file_that_goes_while_the_node_runs_is_missed_at_the_next_look_and_nothing_is_moved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    life = begin(tmp_path / "data")
    kept, lost = life.receive(made(1), made(2))
    life.look_behind()
    life.archive.path(lost.file).unlink()
    coming = life.put(made(3), kept.series)  # whole, and without a row yet
    with caplog.at_level(logging.INFO, "dicomnode"):
        life.sweep.look_again()
        wait_until(life.is_through, what="the archive is looked through again")
    assert life.archive.path(coming.file).exists()
    assert life.quarantined() == []
    told = {record.getMessage(): vars(record)["dicomnode_fields"] for record in caplog.records}
    assert (told["files_missing"]["count"], told["files_missing"]["detail"]) == (1, lost.file)
    assert told["archive_checked"]["count"] == 2
    life.end()


def test_a_look_for_missing_files_ends_when_the_service_stops(tmp_path: Path) -> None:
    life = begin(tmp_path / "data")
    life.receive(made(1))
    life.look_behind()
    life.sweep.look_again()
    life.end()
    assert life.is_through()


def remove_old(life: Life) -> Removed:
    """Mark the files of series 1, which is old, as removed; whoever did it was killed before it removed them."""
    assert life.ledger.settling.settle(SeriesId(1), 1, note="quiet")
    assert life.ledger.settling.keep(SeriesId(1), 1, reason="too_few", sentence="Only 1 slice.")
    removed = life.ledger.removals.remove_old(SeriesId(1), seams.SYSTEM_CLOCK.now() + timedelta(days=1))
    assert removed is not None
    return removed


@pytest.mark.parametrize("is_first", [True, False], ids=["at first use", "each night"])
def test_a_removal_that_was_killed_between_rows_and_files_is_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, is_first: bool
) -> None:
    life = begin(tmp_path / "data")
    (stored,) = life.receive(made(1))
    if not is_first:
        life.look_behind()
    remove_old(life)
    assert life.archive.has(stored.file)
    with caplog.at_level(logging.INFO, "dicomnode"):
        if is_first:
            life.kill()
            life = begin(tmp_path / "data")
            life.look_behind()
        else:
            life.sweep.look_again()
            wait_until(life.is_through, what="the archive is looked through again")
    assert not life.archive.has(stored.file)
    assert life.quarantined() == []
    assert "files_missing" not in [record.getMessage() for record in caplog.records]
    life.end()


def test_a_file_of_the_quarantine_that_was_marked_as_removed_goes(tmp_path: Path) -> None:
    life = begin(tmp_path / "data")
    (stored,) = life.receive(made(1))
    name = life.archive.set_aside(stored.file)
    life.kill()
    life = begin(tmp_path / "data")
    life.look_behind()
    assert life.ledger.removals.erase_set_aside({name}, "operator") == [name]
    life.kill()
    life = begin(tmp_path / "data")
    life.look_behind()
    assert not life.archive.quarantine.path(name).exists()
    life.end()
