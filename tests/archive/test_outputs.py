"""The output of a job becomes the folder of a series in one step."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicomnode.archive.store import Archive
from dicomnode.errors import StorageError
from tests.support.stored import SERIES, put_file


def test_output_is_published_in_one_step_and_replaces_an_attempt_whose_commit_was_lost(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    for content in (b"first", b"second"):
        folder = archive.outputs.begin(SERIES)
        assert folder.name == "7.tmp"
        assert not list(folder.iterdir())
        (folder / "a.dcm").write_bytes(content)
        assert archive.outputs.publish(SERIES) == archive.folder_of(SERIES)
    assert (archive.folder_of(SERIES) / "a.dcm").read_bytes() == b"second"
    assert [one.name for one in archive.root.iterdir()] == ["7"]


def test_a_new_attempt_clears_what_an_earlier_attempt_left(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    (archive.outputs.begin(SERIES) / "half.dcm").write_bytes(b"x")
    assert not list(archive.outputs.begin(SERIES).iterdir())


def test_whole_files_of_an_earlier_process_are_never_removed_by_a_job(tmp_path: Path) -> None:
    """A ledger put back from an older copy hands a number out again whose folder holds acknowledged instances."""
    left = Archive(tmp_path)
    file = put_file(left, 1)
    archive = Archive(tmp_path)
    (archive.outputs.begin(SERIES) / "a.dcm").write_bytes(b"derived")
    with pytest.raises(StorageError, match="could not be published"):
        archive.outputs.publish(SERIES)
    assert archive.path(file).exists()


def test_an_empty_folder_of_an_earlier_process_is_no_hindrance(tmp_path: Path) -> None:
    Archive(tmp_path).folder_of(SERIES).mkdir(parents=True)
    archive = Archive(tmp_path)
    (archive.outputs.begin(SERIES) / "a.dcm").write_bytes(b"derived")
    assert [path.name for path in archive.outputs.publish(SERIES).iterdir()] == ["a.dcm"]
