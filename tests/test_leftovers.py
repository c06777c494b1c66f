"""What an earlier process left: only what was never promised is removed, and nothing else is lost or mixed up."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicomnode.archive.digests import dataset_digest
from dicomnode.archive.store import Archive
from dicomnode.ids import SeriesId
from dicomnode.leftovers import finish_removal, missing_files, remove_unpublished, sweep_folder
from tests.support.stored import SERIES, put_file


def test_what_was_never_published_is_removed_and_nothing_else(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    file = put_file(archive, 1)
    (archive.outputs.begin(SeriesId(8)) / "a.dcm").write_bytes(b"half")
    archive.quarantine.folder.mkdir()
    (archive.quarantine.folder / "9.dcm.tmp").write_bytes(b"half")
    (archive.quarantine.folder / "9.dcm").write_bytes(b"kept")
    assert archive.folder_names() == ["7"], "a job's folder is no series' yet"
    assert remove_unpublished(archive) == 2
    assert remove_unpublished(archive) == 0
    assert archive.path(file).exists()
    assert archive.folder_names() == ["7"]
    assert archive.quarantine.names() == ["9.dcm"]


def test_a_look_through_a_folder_removes_only_temporary_files_and_sets_orphans_aside(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    known, orphan = put_file(archive, 1), put_file(archive, 2)
    elsewhere = put_file(archive, 3, series=SeriesId(77))
    (archive.folder_of(SERIES) / "3.dcm.tmp").write_bytes(b"half")
    digest = dataset_digest(archive.path(orphan))
    report = sweep_folder(archive, "7", {known, "7/gone.dcm"})
    assert report.swept == 1
    assert report.missing == ("7/gone.dcm",)
    assert [(one.sha256, one.peer) for one in report.orphans] == [(digest, "mr1")]
    assert archive.path(known).exists()
    assert archive.path(elsewhere).exists()
    assert not archive.path(orphan).exists()
    assert (archive.quarantine.folder / report.orphans[0].file).exists()
    again = sweep_folder(archive, "7", {known})
    assert (again.swept, again.orphans, again.missing) == (0, (), ())


def test_a_look_through_ends_the_way_of_a_file_that_has_its_row_in_quarantine(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    on_its_way = put_file(archive, 1)
    name = Path(on_its_way).name
    report = sweep_folder(archive, "7", frozenset(), {name})
    assert (report.orphans, report.failures) == ((), ())
    assert archive.quarantine.path(name).exists()
    assert not archive.path(on_its_way).exists()


def test_a_look_through_ends_a_removal_that_was_broken_off(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    kept, first, second = (put_file(archive, number) for number in (1, 2, 3))
    report = sweep_folder(archive, "7", {kept}, removed_files={first, "7/gone.dcm"})
    assert (report.swept, report.orphans, report.missing) == (1, tuple(report.orphans), ())
    assert [Path(second).name] == [one.file for one in report.orphans], "only what no row knows is an orphan"
    assert archive.has(kept)
    assert not archive.has(first)
    finish_removal(archive, "7", {kept, "7/gone.dcm"})
    assert not archive.has(kept)
    finish_removal(archive, "8", {"8/a.dcm"})


def test_a_look_through_leaves_what_is_no_file_of_ours(tmp_path: Path) -> None:
    """A storage system's own folder, say, in the midst of the images."""
    archive = Archive(tmp_path)
    known = put_file(archive, 1)
    (archive.folder_of(SERIES) / "@eaDir").mkdir()
    report = sweep_folder(archive, "7", {known})
    assert (report.swept, report.orphans, report.missing, report.failures) == (0, (), (), ())
    assert (archive.folder_of(SERIES) / "@eaDir").is_dir()


@pytest.mark.parametrize("target", ["/proc/self/mem", "x" * 300])
def test_an_orphan_that_cannot_be_read_stays_and_does_not_keep_others_from_quarantine(
    tmp_path: Path, target: str
) -> None:
    """Reading it is an I/O error (EIO), as on a bad disk; or its name leads to one that no disk can have."""
    archive = Archive(tmp_path)
    orphan = put_file(archive, 2)
    unreadable_file = archive.folder_of(SERIES) / "0000000000000001.dcm"
    unreadable_file.symlink_to(target)
    report = sweep_folder(archive, "7", set())
    assert [one.file for one in report.orphans] == [orphan.removeprefix("7/")]
    (failure,) = report.failures
    assert unreadable_file.name in failure
    assert unreadable_file.is_symlink()


def test_a_folder_that_is_not_there_lacks_every_file_of_its_rows(tmp_path: Path) -> None:
    report = sweep_folder(Archive(tmp_path / "new"), "7", {"7/a.dcm", "7/b.dcm"})
    assert (report.swept, report.orphans, report.missing) == (0, (), ("7/a.dcm", "7/b.dcm"))


def test_of_the_files_that_have_a_row_those_that_are_gone_are_named(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    known = put_file(archive, 1)
    assert missing_files(archive, "7", {known, "7/gone.dcm"}) == ["7/gone.dcm"]
    assert missing_files(archive, "8", {"8/a.dcm"}) == ["8/a.dcm"], "the folder is gone"
