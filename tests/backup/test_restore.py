"""What a restore gives back: every row with its file, what came later with a row of its own, nothing half."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dicomnode.archive.store import Archive, FileState
from dicomnode.errors import InputError, LedgerError, StorageError
from dicomnode.ids import SeriesId
from dicomnode.ledger.queries import open_reader
from dicomnode.ledger.schema import HEAD
from dicomnode.ledger.store import open_ledger
from dicomnode.ledger.values import BootReport
from dicomnode.seams import set_checkpoint_hook
from dicomnode.sweep import Sweep
from tests.backup.scene import Scene, contents, uids_of, url_in
from tests.backup.test_write import Killed, kill_at
from tests.ledger.scene import derived
from tests.support.mr_series import mr_datasets
from tests.support.stored import plan, put_file


@pytest.fixture(autouse=True)
def _no_hook() -> Iterator[None]:
    yield
    set_checkpoint_hook(None)


def _fail(damage: LedgerError) -> None:
    pytest.fail(damage.sentence)


def sweep(data: Path) -> tuple[int, int]:
    """Start as the service does: instances of the ledger, and files that were set aside."""
    archive = Archive(data)
    with closing(open_ledger(url_in(data))) as ledger:
        boot: BootReport = ledger.boots.begin(pid=1, host="test")
        looked = Sweep(archive, ledger, boot, damaged=_fail)
        looked.begin()
        for name in archive.folder_names():
            looked.look_through(name)
    with closing(open_reader(url_in(data))) as reader:
        return reader.status().instances, len(reader.quarantine_list(is_all=True))


def test_everything_is_back_byte_for_byte_and_the_next_start_finds_nothing_wrong(scene: Scene) -> None:
    scene.receive()
    scene.receive()
    scene.archive.set_aside(put_file(scene.archive, series=SeriesId(9)))
    scene.back_up()
    before = contents(scene.archive.data)
    made = scene.restore_to(scene.folder / "new")
    assert (made.files, made.adopted, made.left_out, made.lost) == (7, 0, 0, ())
    assert contents(scene.folder / "new") == before
    assert [path.name for path in (scene.folder / "new" / "quarantine").iterdir()] == ["00000000000000ff.dcm"]
    assert sorted(path.name for path in (scene.folder / "new").iterdir()) == ["archive", "ledger.sqlite", "quarantine"]
    assert sweep(scene.folder / "new") == (6, 0)


def test_what_came_after_the_ledger_was_copied_is_adopted_and_not_called_an_orphan(scene: Scene) -> None:
    """Of a series that the backup knows, and of one that it does not; under numbers that are given anew."""
    datasets = mr_datasets(slices=6)
    scene.receive(datasets[:4])
    scene.back_up()
    lost_number = scene.receive()
    scene.ledger.intake.series_for("1.2.3.4")  # a number without files
    kept_number = scene.receive()
    scene.receive(datasets[4:])
    shutil.copytree(scene.archive.data / "archive", scene.backup_folder / "archive", dirs_exist_ok=True)
    shutil.rmtree(scene.backup_folder / "archive" / str(lost_number))  # the copy had not come so far
    made = scene.restore_to(scene.folder / "new")
    assert (made.adopted, made.left_out, made.lost) == (3 + 2, 0, ())
    with closing(open_reader(url_in(scene.folder / "new"))) as reader:
        first, second = reader.series_list()[::-1]
        assert (first.instances, second.instances, second.id) == (6, 3, 2)
        assert reader.series_show(second.id).peers == ("scanner",)
    assert kept_number == 4
    assert sweep(scene.folder / "new") == (9, 0)


def test_a_data_folder_that_was_set_aside_gives_what_the_backup_lacks(scene: Scene) -> None:
    """The ledger is damaged, the archive is not: nothing acknowledged is lost, whenever the backup was written."""
    scene.receive()
    scene.back_up()
    series = scene.receive()
    (copy, *_) = (scene.backup_folder / "archive" / "1").iterdir()
    copy.write_bytes(b"bit rot")
    wanted = uids_of(scene.archive.data)
    made = scene.restore_to(scene.folder / "new", also=scene.archive.data)
    assert (made.adopted, made.lost) == (3, ())
    assert uids_of(scene.folder / "new") == wanted
    assert len(contents(scene.folder / "new")) == 6
    assert series == 2
    assert sweep(scene.folder / "new") == (6, 0)


def test_a_file_that_no_longer_is_what_it_was_is_left_out_and_named(scene: Scene) -> None:
    scene.receive()
    scene.back_up()
    (copy, *_) = sorted((scene.backup_folder / "archive" / "1").iterdir())
    copy.write_bytes(copy.read_bytes()[:-2])
    made = scene.restore_to(scene.folder / "new")
    assert made.lost == (f"archive/1/{copy.name}",)
    assert len(contents(scene.folder / "new")) == 2


def test_what_a_job_wrote_after_the_backup_is_left_out_and_its_job_runs_again_from_the_same_moment(
    scene: Scene,
) -> None:
    series = scene.receive()
    plan(scene.ledger, series)
    scene.back_up()
    job = scene.ledger.jobs.claim("1:node:1", lease_s=60)
    assert job is not None
    folder = scene.archive.outputs.begin(job.output_series)
    made = derived(2)
    for one in made.instances:
        (folder / one.file_name).write_bytes(b"derived")
    scene.archive.outputs.publish(job.output_series)
    assert scene.ledger.jobs.finish(job, made)
    shutil.copytree(scene.archive.data / "archive", scene.backup_folder / "archive", dirs_exist_ok=True)
    assert scene.restore_to(scene.folder / "new").left_out == 2
    with closing(open_ledger(url_in(scene.folder / "new"))) as ledger:
        again = ledger.jobs.claim("2:node:1", lease_s=60)
    assert again is not None
    assert (again.id, again.created_at, again.derivation_number) == (job.id, job.created_at, job.derivation_number)
    assert again.planned == job.planned
    assert ledger.node_uuid == scene.ledger.node_uuid


def test_a_series_that_still_came_in_waits_for_its_sender_as_after_a_kill(scene: Scene) -> None:
    scene.receive()
    scene.back_up()
    scene.restore_to(scene.folder / "new")
    with closing(open_ledger(url_in(scene.folder / "new"))) as ledger:
        (waiting,) = ledger.settling.receiving()
    assert waiting.aborted


def test_a_folder_that_is_not_empty_is_refused_by_name(scene: Scene) -> None:
    scene.receive()
    scene.back_up()
    with pytest.raises(InputError, match=r"data/archive is there already"):
        scene.restore_to(scene.archive.data)
    assert len(contents(scene.archive.data)) == 3


def test_a_running_service_is_refused(scene: Scene) -> None:
    scene.receive()
    scene.back_up()
    data = scene.folder / "new"
    running = Archive(data)
    running.data_folder.lock()
    with pytest.raises(StorageError, match="Another dicomnode service uses the data folder"):
        scene.restore_to(data)
    running.data_folder.unlock()


@pytest.mark.parametrize(
    "seam",
    ["restore.begun", "restore.file_placed", "restore.files_placed", "restore.instance_adopted", "restore.adopted",
     "restore.ledger_placed"],
)  # fmt: skip
def test_a_restore_that_was_broken_off_starts_no_service_and_begins_anew(scene: Scene, seam: str) -> None:
    scene.receive()
    scene.back_up()
    scene.receive()
    data = scene.folder / "new"
    kill_at(seam)
    with pytest.raises(Killed):
        scene.restore_to(data, also=scene.archive.data)
    set_checkpoint_hook(None)
    with pytest.raises(StorageError, match="was broken off"):
        Archive(data).data_folder.require_restored()
    made = scene.restore_to(data, also=scene.archive.data)
    assert (made.files, made.adopted, made.lost) == (6, 3, ())
    Archive(data).data_folder.require_restored()
    assert uids_of(data) == uids_of(scene.archive.data)
    assert sweep(data) == (6, 0)


def test_a_backup_of_a_newer_program_is_refused_and_nothing_begins(scene: Scene) -> None:
    scene.receive()
    scene.back_up()
    manifest = scene.backup_folder / "backup.json"
    manifest.write_text(manifest.read_text().replace(f'"{HEAD}"', '"9999"'))
    with pytest.raises(LedgerError, match=rf"9999.*{HEAD}"):
        scene.restore_to(scene.folder / "new")
    assert not (scene.folder / "new").exists()


def test_every_instance_of_the_restored_ledger_is_whole(scene: Scene) -> None:
    scene.receive()
    scene.back_up()
    data = scene.folder / "new"
    scene.restore_to(data)
    with closing(sqlite3.connect(data / "ledger.sqlite")) as connection:
        rows = connection.execute("SELECT file, sha256 FROM instance").fetchall()
        told = connection.execute("SELECT table_name, kind, actor FROM event WHERE kind = 'restored'").fetchall()
    assert {Archive(data).verify(file, sha256) for file, sha256 in rows} == {FileState.WHOLE}
    assert told == [("node", "restored", "operator:test")]


def test_what_the_node_had_removed_does_not_come_back_and_is_not_missing(scene: Scene) -> None:
    gone, kept = scene.receive(), scene.receive(mr_datasets(slices=2))
    scene.back_up()
    before = contents(scene.archive.data)
    assert scene.ledger.settling.settle(gone, 1, note="quiet")
    assert scene.ledger.settling.keep(gone, 1, reason="too_few", sentence="Only 3 slices.")
    removed = scene.ledger.removals.erase(gone, scene.ledger.upkeep.files_in(str(gone)), "operator")
    made = scene.back_up()  # before the files themselves are removed
    assert (made.missing, made.altered, made.files) == ((), (), 2)
    left = contents(scene.backup_folder)
    assert left.keys() == {file for file in before if file.startswith(f"{kept}/")}, "and its copy of them is gone"
    restored = scene.restore_to(scene.folder / "again", also=scene.archive.data)
    assert (restored.lost, restored.adopted, restored.left_out) == ((), 0, 0)
    assert contents(scene.folder / "again").keys().isdisjoint(removed.files)
    with closing(open_reader(url_in(scene.folder / "again"))) as reader:
        assert reader.status().instances == 5
