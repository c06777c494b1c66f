"""`dicomnode db`: a backup and its restore from the command line, with their exit codes."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from dicomnode.archive.store import Archive
from dicomnode.ledger.store import open_ledger
from tests.cli.conftest import Run
from tests.support.mr_series import mr_datasets
from tests.support.stored import store


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with a series of three instances."""
    folder = tmp_path / "data"
    folder.mkdir()
    with closing(open_ledger(f"sqlite:///{folder / 'ledger.sqlite'}")) as ledger:
        store(ledger, Archive(folder), mr_datasets(slices=3))
    return folder


def test_a_backup_is_put_back_into_an_empty_data_folder(run: Run, data: Path, tmp_path: Path) -> None:
    made = run("db", "backup", tmp_path / "backup", "--json")
    assert made.code == 0, made.err
    assert json.loads(made.out)["files"] == 3
    refused = run("db", "restore", tmp_path / "backup")
    assert refused.code == 2
    assert "is there already" in refused.err
    data.rename(tmp_path / "old")
    back = run("db", "restore", tmp_path / "backup", "--also", tmp_path / "old", "--json")
    assert back.code == 0, back.err
    assert json.loads(back.out) | {"at": "", "settings": ""} == {
        "at": "", "settings": "", "files": 3, "adopted": 0, "left_out": 0, "lost": [],
    }  # fmt: skip
    assert len(json.loads(run("series", "list", "--json").out)) == 1


def test_a_file_that_nobody_has_is_said_with_exit_code_3_and_everything_else_is_done(
    run: Run, data: Path, tmp_path: Path
) -> None:
    gone, *_ = (data / "archive" / "1").iterdir()
    gone.unlink()
    made = run("db", "backup", tmp_path / "backup", "--json")
    assert made.code == 3
    assert "whole but for 1 files" in made.err
    assert json.loads(made.out)["missing"] == [f"1/{gone.name}"]
    data.rename(tmp_path / "old")
    back = run("db", "restore", tmp_path / "backup", "--json")
    assert back.code == 3
    assert json.loads(back.out)["lost"] == [f"archive/1/{gone.name}"]
    assert len(list((data / "archive" / "1").iterdir())) == 2
