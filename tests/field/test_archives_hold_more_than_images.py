"""Archives that went over a Mac, a CD, a Windows share or a browser: what is no image stops nothing and is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from tests.cli.conftest import Run, run  # noqa: F401 (a fixture)
from tests.support.mr_series import write_mr_series

APPLE_DOUBLE = bytes.fromhex("00051607000200004d6163204f5320582020202020202020") + bytes(4000)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two people's thin series."""
    for person in ("A", "B"):
        write_mr_series(
            tmp_path / "archive" / person, slices=12, slice_spacing_mm=1.0,
            attributes={"PatientID": person, "PatientName": f"{person}^Secret"},
        )  # fmt: skip
    return tmp_path / "archive"


def roles(run: Run, archive: Path) -> tuple[list[tuple[str, int]], list[str]]:  # noqa: F811
    ran = run("train", "--studies", archive, "--dry-run", "--json")
    assert ran.code == 0, ran.err
    assert "Secret" not in ran.out
    told = json.loads(ran.out)
    return [(row["role"], row["slices"]) for row in told["series"]], told["notes"]


def test_companion_files_of_a_mac_are_one_line(run: Run, archive: Path) -> None:  # noqa: F811
    for path in list(archive.rglob("*.dcm")):
        path.with_name("._" + path.name).write_bytes(APPLE_DOUBLE)
    (archive / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    found, (note,) = roles(run, archive)
    assert found == [("thin", 12), ("thin", 12)]
    assert note.startswith("Passed over: .DS_Store, ._0001.dcm")


def test_a_series_exported_twice_and_a_browsers_copies_count_once(run: Run, archive: Path) -> None:  # noqa: F811
    shutil.copytree(archive / "A", archive / "again")
    for number in (3, 4):
        shutil.copy(archive / "B" / f"000{number}.dcm", archive / "B" / f"000{number}(1).dcm")
    found, (note,) = roles(run, archive)
    assert found == [("thin", 12), ("thin", 12)]
    assert note.endswith(": the same as another file, which counts once.")


def test_two_images_under_one_uid_are_refused_by_a_true_sentence(run: Run, archive: Path) -> None:  # noqa: F811
    other = dcmread(archive / "A" / "0003.dcm")
    other.PixelData = np.zeros(256, dtype="<u2").tobytes()
    other.save_as(archive / "A" / "other.dcm")
    found, _ = roles(run, archive)
    assert found == [("unusable", 13), ("thin", 12)]
    ran = run("infer", archive / "A", archive.parent / "out")
    assert ran.code == 2
    assert "Two different images carry one SOP Instance UID; 0003.dcm and other.dcm differ in their pixels." in ran.err
    assert "time or diffusion" not in ran.err


def test_infer_derives_what_lies_among_other_files_and_names_them(run: Run, tmp_path: Path) -> None:  # noqa: F811
    paths = write_mr_series(tmp_path / "in")
    shutil.copy(paths[2], tmp_path / "in" / "0003(1).dcm")
    (tmp_path / "in" / "._0001.dcm").write_bytes(APPLE_DOUBLE)
    (tmp_path / "in" / "viewer.exe").write_bytes(b"MZ")
    ran = run("infer", tmp_path / "in", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    assert told["thick"] == 6
    assert [note for note in told["notes"] if note.startswith("Passed over")] == [
        "Passed over: ._0001.dcm: a file of macOS or Windows, no image.",
        "Passed over: viewer.exe: neither DICOM nor NIfTI.",
        "Passed over: 0003(1).dcm: the same as another file, which counts once.",
    ]


def test_infer_refuses_a_series_one_of_whose_images_is_not_whole(run: Run, tmp_path: Path) -> None:  # noqa: F811
    last = write_mr_series(tmp_path / "in")[-1]
    last.write_bytes(last.read_bytes()[:300])
    ran = run("infer", tmp_path / "in", tmp_path / "out")
    assert ran.code == 2
    assert "The file 0006.dcm breaks off before it has named its series" in ran.err
    assert not (tmp_path / "out").exists()


def test_train_says_what_it_learns_from_and_what_it_leaves_out(run: Run, archive: Path, tmp_path: Path) -> None:  # noqa: F811
    write_mr_series(archive / "few", slices=2, attributes={"PatientID": "C"})
    (archive / "Thumbs.db").write_bytes(b"\xd0\xcf")
    ran = run("train", "--studies", archive, "--plan-only", "--out", tmp_path / "run", "--steps", 4)
    (line,) = [line for line in ran.err.splitlines() if line.startswith("Learns from")]
    assert "Only 2 slices; at least 5 are needed." in line
    assert "Thumbs.db" in line
    assert "--dry-run" in line
