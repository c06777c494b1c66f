"""Studies named by UID: the archive is searched for them, whatever its folders are called."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pydicom
import pytest

from dicomnode.archive.store import Archive
from dicomnode.ledger.store import open_ledger
from tests.cli.conftest import Run
from tests.support.phantom_sources import phantom, write_series
from tests.support.stored import store


@pytest.fixture
def study_uid(tmp_path: Path) -> str:
    """Of the second of two archived series, each of another study."""
    (tmp_path / "data").mkdir()
    with closing(open_ledger(f"sqlite:///{tmp_path}/data/ledger.sqlite")) as ledger:
        archive = Archive(tmp_path / "data")
        for number in range(2):
            thick = phantom(number, extent=49)[4:44:4]
            paths = write_series(tmp_path / str(number), thick, slice_spacing_mm=4.0, patient=f"P-{number}")
            store(ledger, archive, [pydicom.dcmread(path) for path in paths])
    return str(pydicom.dcmread(paths[0]).StudyInstanceUID)


def test_a_study_of_the_archive_is_looked_at_for_training_and_judged(run: Run, study_uid: str) -> None:
    told = json.loads(run("train", "--studies", study_uid, "--dry-run", "--json").out)
    assert (told["subjects"], len(told["series"])) == (1, 1)
    ran = run("evaluate", "--studies", study_uid, "--device", "cpu", "--json")
    assert ran.code == 0, ran.err
    assert len(json.loads(ran.out)["sources"]) == 1


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_study_that_is_not_archived_is_one_sentence_without_its_uid(run: Run, study_uid: str, command: str) -> None:
    ran = run(command, "--studies", study_uid, "2.25.999", *(["--dry-run"] if command == "train" else []))
    assert ran.code == 2
    assert ran.err.strip() == "dicomnode: Study 2 of those named by UID is not in the node's archive."
