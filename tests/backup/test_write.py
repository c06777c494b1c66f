"""A backup beside an open ledger: whole or not there, cheap the second time, and never of another node."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.backup.manifest import read_manifest, read_sums
from dicomnode.backup.write import write_backup
from dicomnode.errors import InputError, LedgerError, StorageError
from dicomnode.seams import set_checkpoint_hook
from tests.backup.scene import Scene, contents, make_scene


class Killed(BaseException):
    """The process ends here."""


def kill_at(name: str, hit: int = 1) -> None:
    passed = 0

    def hook(seam: str) -> None:
        nonlocal passed
        passed += seam == name
        if seam == name and passed == hit:
            raise Killed

    set_checkpoint_hook(hook)


@pytest.fixture(autouse=True)
def _no_hook() -> Iterator[None]:
    yield
    set_checkpoint_hook(None)


def test_a_backup_holds_every_file_under_its_digest_and_sha256sum_agrees(scene: Scene) -> None:
    scene.receive()
    model = scene.archive.data / "models" / "thin" / "0123456789ab"
    model.mkdir(parents=True)
    (model / "card.toml").write_text("name = 'thin'\n")
    made = scene.back_up()
    assert (made.files, made.copied, made.missing, made.altered) == (4, 4, (), ())
    manifest = read_manifest(scene.backup_folder)
    assert manifest is not None
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", manifest.sums], cwd=scene.backup_folder, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    sums = read_sums(scene.backup_folder, manifest)
    assert {file.removeprefix("archive/") for file in sums if file.startswith("archive/")} == set(
        contents(scene.archive.data)
    )


def test_a_second_backup_copies_only_what_is_new(scene: Scene) -> None:
    scene.receive()
    scene.back_up()
    first = {path: path.stat().st_ino for path in (scene.backup_folder / "archive").rglob("*.dcm")}
    scene.receive()
    made = scene.back_up()
    assert (made.files, made.copied) == (6, 3)
    assert all(path.stat().st_ino == number for path, number in first.items()), "an old copy was written again"
    names = sorted(path.name.partition("-")[0] for path in scene.backup_folder.iterdir())
    assert names == ["SHA256SUMS", "archive", "backup.json", "ledger", "node"], "only the last ledger and list stay"


@pytest.mark.parametrize(
    ("seam", "hit"),
    [("backup.ledger_copied", 1), ("backup.file_copied", 1), ("backup.file_copied", 2), ("backup.listed", 1),
     ("durable.renamed", 1), ("durable.written", 2)],
)  # fmt: skip
def test_a_backup_that_was_broken_off_leaves_the_one_before_it_whole(scene: Scene, seam: str, hit: int) -> None:
    scene.receive()
    scene.back_up()
    manifest = read_manifest(scene.backup_folder)
    assert manifest is not None
    scene.receive()
    kill_at(seam, hit)
    with pytest.raises(Killed):
        scene.back_up()
    set_checkpoint_hook(None)
    assert read_manifest(scene.backup_folder) == manifest
    for file, sha256 in read_sums(scene.backup_folder, manifest).items():
        told = subprocess.run(["sha256sum", scene.backup_folder / file], capture_output=True, text=True, check=True)
        assert told.stdout.split()[0] == sha256
    made = scene.back_up()
    assert (made.files, made.missing) == (6, ())
    assert not [path for path in scene.backup_folder.rglob("*") if path.name.endswith(".tmp")]


@pytest.mark.parametrize("seam", ["durable.flushed", "durable.renamed", "backup.ledger_copied", "backup.listed"])
def test_a_first_backup_that_was_broken_off_is_no_backup_and_the_next_one_goes_on(scene: Scene, seam: str) -> None:
    scene.receive()
    kill_at(seam)
    with pytest.raises(Killed):
        scene.back_up()
    set_checkpoint_hook(None)
    assert read_manifest(scene.backup_folder) is None
    with pytest.raises(InputError, match="holds no whole backup"):
        scene.restore_to(scene.folder / "new")
    assert scene.back_up().files == 3


def test_an_altered_file_is_not_copied_and_the_good_copy_of_an_earlier_backup_stays(scene: Scene) -> None:
    series = scene.receive()
    scene.back_up()
    first, second, third = sorted(scene.archive.folder_of(series).iterdir())
    before = first.read_bytes()
    first.write_bytes(before[:-1] + bytes([before[-1] ^ 1, 0]))  # of another size, so that it is looked at
    second.unlink()
    later = scene.receive()
    broken, gone, _ = sorted(scene.archive.folder_of(later).iterdir())
    broken.write_bytes(broken.read_bytes()[:-1])
    gone.unlink()
    made = scene.back_up()
    assert made.altered == (f"{later}/{broken.name}",)
    assert made.missing == (f"{later}/{gone.name}",)
    assert (scene.backup_folder / "archive" / str(series) / first.name).read_bytes() == before
    assert made.files == 4, "the three of the first series, one of the second"
    assert third.exists()


def test_a_node_that_lost_its_ledger_does_not_write_over_its_backup(scene: Scene, tmp_path: Path) -> None:
    scene.receive()
    scene.back_up()
    manifest = read_manifest(scene.backup_folder)
    other = make_scene(tmp_path / "other")
    other.receive()
    other.folder = scene.folder
    with pytest.raises(InputError, match="another node or of an earlier ledger"):
        other.back_up()
    other.ledger.close()
    assert read_manifest(scene.backup_folder) == manifest


def test_a_folder_with_something_else_in_it_is_left_alone(scene: Scene) -> None:
    scene.backup_folder.mkdir()
    (scene.backup_folder / "letters.txt").write_text("mine")
    with pytest.raises(InputError, match=r"letters\.txt and is no backup folder"):
        scene.back_up()
    assert [path.name for path in scene.backup_folder.iterdir()] == ["letters.txt"]


def test_a_folder_in_the_data_folder_is_refused(scene: Scene) -> None:
    with pytest.raises(InputError, match="lies in the data folder"):
        write_backup(scene.archive, scene.url, scene.archive.data / "backup", settings_file=None)


def test_a_damaged_ledger_is_not_taken_for_a_backup(scene: Scene) -> None:
    for _ in range(20):
        scene.receive()
    scene.back_up()
    manifest = read_manifest(scene.backup_folder)
    scene.ledger.close()
    ledger = scene.archive.data / "ledger.sqlite"
    content = bytearray(ledger.read_bytes())
    content[8192 : len(content) - 4096] = b"\xff" * (len(content) - 4096 - 8192)
    ledger.write_bytes(content)
    with pytest.raises(LedgerError, match="damaged"):
        scene.back_up()
    assert read_manifest(scene.backup_folder) == manifest


def test_the_settings_file_is_copied_and_nobody_else_may_read_it(scene: Scene) -> None:
    settings = scene.folder / "node.toml"
    settings.write_text("[node]\n")
    scene.back_up(settings)
    (copy,) = scene.backup_folder.glob("settings-*.toml")
    assert copy.read_text() == "[node]\n"
    assert copy.stat().st_mode & 0o777 == 0o600
    assert scene.backup_folder.stat().st_mode & 0o777 == 0o700


def test_a_list_that_was_altered_is_found_out(scene: Scene) -> None:
    scene.receive()
    scene.back_up()
    told = json.loads((scene.backup_folder / "backup.json").read_text())
    listed = scene.backup_folder / told["sums"]
    listed.write_text(listed.read_text().replace("archive/1", "archive/2"))
    with pytest.raises(StorageError, match="backup is damaged"):
        scene.restore_to(scene.folder / "new")
