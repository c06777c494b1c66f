"""``infer``: what it writes, what it refuses and why, and that it leaves nothing half done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.cli.conftest import Run
from tests.support.model_folders import random_thin, write_thin
from tests.support.mr_series import write_mr_series


def test_a_thick_series_becomes_a_thin_one_and_the_numbers_say_how(run: Run, tmp_path: Path) -> None:
    write_mr_series(tmp_path / "in", slices=6, slice_spacing_mm=4.0)
    ran = run("infer", tmp_path / "in", tmp_path / "out", "--model", "cubic-dc", "--device", "cpu", "--json")
    assert ran.code == 0
    found = json.loads(ran.out)
    assert (found["thick"], found["thin"], found["ratio"]) == (6, 24, 4)
    assert (found["slice_spacing_mm"], found["thin_spacing_mm"]) == (4.0, 1.0)
    assert (found["model"], found["network_share"]) == ("cubic-dc", None)
    assert set(found["stages"]) == {"read", "generate", "check", "derive", "write"}
    assert found["gate"] == []
    written = [dcmread(path, stop_before_pixels=True) for path in sorted((tmp_path / "out").iterdir())]
    assert [header.InstanceNumber for header in written] == list(range(1, 25))
    assert {float(header.SpacingBetweenSlices) for header in written} == {1.0}
    assert ran.err == "", "a program that reads JSON wants nothing beside it"


def test_two_runs_never_share_a_uid(run: Run, tmp_path: Path) -> None:
    write_mr_series(tmp_path / "in")
    uids = set()
    for out in ("first", "second"):
        assert run("infer", tmp_path / "in", tmp_path / out).code == 0
        uids |= {dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in (tmp_path / out).iterdir()}
    assert len(uids) == 2 * 24


def test_a_folder_of_several_series_is_refused_and_says_which(run: Run, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_mr_series(tmp_path / "in" / name)
    ran = run("infer", tmp_path / "in", tmp_path / "out")
    assert ran.code == 2
    assert "holds 2 series" in ran.err
    for name in ("one", "two"):
        assert f"6 images from {tmp_path / 'in' / name / '0001.dcm'}" in ran.err
    assert "Phantom" not in ran.err
    assert not (tmp_path / "out").exists()


def test_a_series_that_may_not_be_processed_is_refused_with_the_verdict(run: Run, tmp_path: Path) -> None:
    write_mr_series(tmp_path / "in", slices=4)
    ran = run("infer", tmp_path / "in", tmp_path / "out")
    assert ran.code == 2
    assert "Only 4 slices; at least 5 are needed." in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["in"], "nothing half done is left behind"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model", "nosuch"], "There is no model named nosuch."),
        (["--device", "gpu"], "gpu"),
        (["--model", "cubic-dc", "--sharpness", "0.5"], "Model cubic-dc does not have two sets of weights"),
        (["--sharpness", "1.5"], "1.5"),
    ],
)
def test_a_wrong_option_is_a_sentence(run: Run, tmp_path: Path, words: list[str], sentence: str) -> None:
    write_mr_series(tmp_path / "in")
    ran = run("infer", tmp_path / "in", tmp_path / "out", *words)
    assert ran.code == 2
    assert sentence in ran.err


def test_the_sharpness_is_in_the_result_and_in_every_derived_object(run: Run, tmp_path: Path) -> None:
    write_mr_series(tmp_path / "in")
    model = write_thin(tmp_path / "model", adversarial=random_thin(seed=1), sharpness=0.25)
    for options, sharpness in (([], 0.25), (["--sharpness", "1"], 1.0)):
        out = tmp_path / f"out-{sharpness}"
        ran = run("infer", tmp_path / "in", out, "--model", model, *options, "--json")
        assert json.loads(ran.out)["sharpness"] == sharpness
        for path in out.iterdir():
            assert f") at sharpness {sharpness:g}. Source" in dcmread(path).DerivationDescription


def test_uncertainty_adds_a_figure_a_sentence_and_a_series_and_changes_no_slice(run: Run, tmp_path: Path) -> None:
    write_mr_series(tmp_path / "in")
    model = write_thin(tmp_path / "model")
    found, pixels = {}, {}
    for options in ((), ("--uncertainty",)):
        out = tmp_path / f"out{len(options)}"
        found[options] = json.loads(run("infer", tmp_path / "in", out, "--model", model, *options, "--json").out)
        pixels[options] = [dcmread(path).PixelData for path in sorted(out.glob("*.dcm"))]
    plain, asked = found[()], found["--uncertainty",]
    assert plain["spread"] is None
    assert 0 < asked["spread"]["average"] < asked["spread"]["high"]
    assert any(note.startswith("Turned and mirrored in 16 ways") for note in asked["notes"])
    assert not any("Turned" in note for note in plain["notes"])
    assert pixels[()] == pixels["--uncertainty",]
    assert plain["spread_out"] is None
    spread = [dcmread(path) for path in sorted(Path(asked["spread_out"]).iterdir())]
    assert [one.InstanceNumber for one in spread] == list(range(1, asked["thin"] + 1))
    assert {one.ImageType[3] for one in spread} == {"STD_DEVIATION"}
    assert not (tmp_path / "out0" / "spread").exists()


def test_a_folder_without_dicom_is_a_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("nothing to see")
    ran = run("infer", tmp_path / "in", tmp_path / "out")
    assert (ran.code, "There is no DICOM series" in ran.err) == (2, True)


def test_files_that_are_there_already_are_never_mixed_with_new_ones(run: Run, tmp_path: Path) -> None:
    write_mr_series(tmp_path / "in")
    (tmp_path / "out").mkdir()
    assert run("infer", tmp_path / "in", tmp_path / "out").code == 0, "an empty folder may be named"
    ran = run("infer", tmp_path / "in", tmp_path / "out")
    assert (ran.code, "is not empty" in ran.err) == (2, True)


def test_off_a_terminal_progress_is_a_line_a_stage(run: Run, tmp_path: Path) -> None:
    write_mr_series(tmp_path / "in")
    ran = run("infer", tmp_path / "in", tmp_path / "out")
    assert [line.rpartition(": ")[2] for line in ran.err.splitlines()] == ["read", "generate", "derive", "write"]


def test_an_archive_becomes_a_table_with_the_reason_of_each_series_that_was_not_derived(
    run: Run, tmp_path: Path
) -> None:
    for name, slices in (("few", 3), ("good", 6)):
        write_mr_series(tmp_path / "one" / name, slices=slices)
    cut, *_ = write_mr_series(tmp_path / "two" / "cut")
    cut.write_bytes(cut.read_bytes()[:-100])
    (tmp_path / "two" / "notes.txt").write_text("nothing to see")
    words = ("infer", "--archive", tmp_path / "one", tmp_path / "two", "--out", tmp_path / "out", "--model", "cubic-dc")
    ran = run(*words)
    assert ran.code == 2
    *table, total = ran.out.splitlines()
    assert [line.split()[:3] for line in table] == [
        ["id", "state", "reason"], ["1", "refused", "too_few"], ["3", "refused", "fault"], ["2", "derived", "6"]
    ]  # fmt: skip
    assert table[1].endswith("Only 3 slices; at least 5 are needed.")
    assert table[2].endswith("The file 0001.dcm breaks off within its pixels.")
    assert total == "Of 3 series: 1 derived, 2 refused."
    assert "Passed over: notes.txt: neither DICOM nor NIfTI." in ran.err
    again = run(*words, "--json")
    rows = json.loads(again.out)
    assert (again.code, again.err) == (2, "")
    assert [(row["id"], row["state"], row["images"]) for row in rows] == [
        (1, "refused", 3), (2, "derived", 6), (3, "refused", 6)
    ]  # fmt: skip
    assert (rows[1]["result"]["thin"], rows[1]["result"]["ratio"]) == (24, 4)
    assert [path.name for path in sorted(Path(rows[1]["out"]).iterdir())] == [f"{n:04}.dcm" for n in range(1, 25)]


def test_an_archive_of_which_all_was_derived_is_code_0(run: Run, tmp_path: Path) -> None:
    write_mr_series(tmp_path / "in" / "a")
    assert run("infer", "--archive", tmp_path / "in", "--out", tmp_path / "out", "--model", "cubic-dc").code == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["in"], "Name SRC and OUT, or --archive DIR… and --out DIR."),
        (["--archive", "in"], "name the folder for the results with --out"),
        (["in", "--archive", "in", "--out", "out"], "and no SRC and OUT"),
        (["in", "out", "--out", "other"], "--out has no effect without --archive"),
        (["--archive", "empty", "--out", "out"], "There is no DICOM series in"),
    ],
)
def test_one_series_and_an_archive_are_told_apart(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_mr_series(tmp_path / "in")
    (tmp_path / "empty").mkdir()
    ran = run("infer", *words)
    assert (ran.code, sentence in " ".join(ran.err.split())) == (2, True)
