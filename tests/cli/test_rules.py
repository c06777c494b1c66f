"""``rules test``: which rule takes what a scanner would send, said before it sends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.support.mr_series import mr_datasets, write_mr_series, write_series

RULES = """
[[rule]]
name = "late T2"
match = { SeriesDescription = "*T2*", EchoTime = ">= 120" }
[[rule]]
name = "thick T2"
match = { SeriesDescription = "*T2*", plane = "axial", slice_spacing_mm = ">= 2" }
model = "cubic-dc"
deliver_to = ["pacs"]
[[peer]]
name = "pacs"
ae_title = "PACS"
address = "127.0.0.1:1"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Two rules, none for whatever is not T2."""
    file = tmp_path / "node.toml"
    file.write_text(RULES)
    return file


def test_each_series_gets_its_rule_and_what_the_others_miss(run: Run, tmp_path: Path, config: Path) -> None:
    write_mr_series(tmp_path / "study" / "t2", slices=12, slice_spacing_mm=4.0)
    write_mr_series(tmp_path / "study" / "t1", slices=12, attributes={"SeriesDescription": "T1"})
    ran = run("rules", "test", tmp_path / "study", "--config", config, "--json")
    assert ran.code == 0
    other, thick = json.loads(ran.out)
    assert (thick["rule"], thick["model"], thick["files"], thick["process"]) == ("thick T2", "cubic-dc", 12, True)
    assert thick["deliver_to"] == ["pacs"]
    assert thick["passed_over"] == [
        "Rule late T2 does not apply: EchoTime is to be >= 120, and is not in 12 of 12 instances (100 in 12)."
    ]
    assert thick["sentence"] == "12 slices, 4 mm apart, 4 mm thick → 48 slices of 1 mm by rule thick T2."
    assert (other["rule"], other["process"], other["reason"]) == (None, False, "no_rule")
    assert len(other["passed_over"]) == 2


def test_single_files_name_a_series_too_and_the_text_says_where_the_result_goes(
    run: Run, tmp_path: Path, config: Path
) -> None:
    paths = write_mr_series(tmp_path / "t2", slices=12, slice_spacing_mm=4.0)
    ran = run("rules", "test", *paths, "--config", config)
    assert ran.code == 0
    assert f"Series 1 (12 files, {paths[0]} first): rule thick T2 takes it, with model cubic-dc." in ran.out
    assert "  The result goes to pacs." in ran.out
    few = run("rules", "test", paths[3], "--config", config, "--json")
    assert json.loads(few.out)[0]["process"] is False


def test_no_text_of_the_patient_is_printed(run: Run, tmp_path: Path, config: Path) -> None:
    datasets = mr_datasets(attributes={"SeriesDescription": "Smith^Anna", "PatientName": "Smith^Anna"})
    write_series(tmp_path / "files", datasets)
    ran = run("rules", "test", tmp_path / "files", "--config", config)
    assert ran.code == 0
    assert "Smith" not in ran.out + ran.err


def test_what_is_no_image_is_named_and_is_code_2(run: Run, tmp_path: Path, config: Path) -> None:
    note = tmp_path / "note.txt"
    note.write_text("no image")
    ran = run("rules", "test", note, "--config", config)
    assert ran.code == 2
    assert "There is no DICOM series in these files." in ran.err
    assert "note.txt" in ran.err


def test_the_title_that_a_sender_will_call_and_the_time_can_be_said(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text("""
[node]
ae_titles = ["NIGHT"]
[[rule]]
name = "night"
match = { called_ae = "NIGHT", time_of_day = "22:00-06:00" }
model = "cubic-dc"
""")
    write_mr_series(tmp_path / "t2", slices=12, slice_spacing_mm=4.0)
    words = ("rules", "test", tmp_path / "t2", "--config", config)
    assert "called_ae is to be “NIGHT”, and the sender called “DICOMNODE”" in run(*words, "--at", "23:00").out
    assert "the first instance came at 12:00" in run(*words, "--called-ae", "NIGHT", "--at", "12:00").out
    assert "rule night takes it" in run(*words, "--called-ae", "NIGHT", "--at", "23:00").out
    ran = run(*words, "--called-ae", "NOBODY")
    assert ran.code == 2
    assert "The node has no AE title NOBODY" in ran.err


def test_of_the_series_of_one_study_the_one_that_the_rule_would_choose_is_named(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text('[[rule]]\nname = "one"\nmodel = "cubic-dc"\nselect = "most_slices"\n')
    for name, slices, study in (("a", 8, "1.2.3"), ("b", 12, "1.2.3"), ("c", 6, "1.2.4")):
        write_mr_series(tmp_path / "sent" / name, slices=slices, attributes={"StudyInstanceUID": study})
    tested = json.loads(run("rules", "test", tmp_path / "sent", "--config", config, "--json").out)
    found = {one["files"]: (one["process"], one["reason"], one["sentence"]) for one in tested}
    number = next(one["series"] for one in tested if one["files"] == 12)
    assert found[8] == (
        False, "not_selected",
        f"Rule one derives the series with most slices of each study: series {number} has 12, this one has 8.",
    )  # fmt: skip
    assert (found[12][0], found[6][0]) == (True, True)
