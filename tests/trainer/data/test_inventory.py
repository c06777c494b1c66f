"""What an inventory lists, and what is wrong with one."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from dicomnode.errors import InputError
from tests.support.mr_series import write_mr_series
from trainer.data.inventory import OPEN_DATA, read_inventory
from trainer.data.series import Role, describe
from trainer.data.sources import Split, of_split

TRAINED = ["fnndsc_10yr", "studyforrest_t1", "seg3d_t1", "niimath_t1", "stroke_a_t1", "stroke_a_t2", "stroke_a_flair"]
TRAINED += ["pycortex_s1_t1", "m2265_t2", "ms07_flair", "ms26_flair", "ms19_flair"]
IN_PLANE = ["msl01_flair", "msl01_t1", "msl01_t2", "msl03_flair", "msl03_t2", "msl04_flair", "msl04_t1", "msl04_t2"]
IN_PLANE += ["msl09_flair"]
JUDGED = ["philips_mprage", "m2307_t2", "synthsr_flair", "mr_gd_t1c", "sct_cspine_t1", "sct_cspine_t2"]


def test_the_splits_are_those_of_the_data_inventory(phantom_data: Path) -> None:
    found = read_inventory(OPEN_DATA, [phantom_data])
    assert [source.label for source in of_split(found, Split.TRAIN)] == TRAINED + IN_PLANE
    assert [source.label for source in of_split(found, Split.VALIDATION)] == JUDGED
    assert len(of_split(found, Split.UNSEEN)) == 11


def test_the_thick_stacks_of_the_open_data_are_thick(phantom_data: Path) -> None:
    """Their slice axis is the last of the file; taken for thin volumes, they would teach what nobody scanned."""
    found = {source.label: source for source in read_inventory(OPEN_DATA, [phantom_data])}
    assert {describe(found[label]).role for label in IN_PLANE} == {Role.THICK}
    assert {describe(found[label]).role for label in TRAINED} == {Role.THIN}


def test_no_person_of_the_open_data_stands_in_two_splits() -> None:
    rows = tomllib.loads(OPEN_DATA.read_text())["source"]
    assert len({(row["subject"], row["split"]) for row in rows}) == len({row["subject"] for row in rows})


def test_no_licence_of_a_training_volume_reaches_the_weights() -> None:
    rows = tomllib.loads(OPEN_DATA.read_text())["source"]
    assert {row["licence"] for row in rows if row["split"] == "train"} <= {
        "MIT", "PDDL", "CC0", "BSD-2-Clause", "CC-BY",
    }  # fmt: skip


def inventory(folder: Path, text: str) -> Path:
    file = folder / "inventory.toml"
    file.write_text(text)
    return file


ROW = '[[source]]\npath = "{path}"\nlabel = "{label}"\nsubject = "{subject}"\nsplit = "{split}"\nlicence = "CC0"\n'


def test_all_mistakes_of_an_inventory_are_named_at_once(tmp_path: Path) -> None:
    text = ROW.format(path="a", label="a", subject="a", split="trian") + 'colour = "red"\n'
    with pytest.raises(InputError) as raised:
        read_inventory(inventory(tmp_path, text), [tmp_path])
    assert "source.0.split" in raised.value.sentence
    assert "source.0.colour" in raised.value.sentence


def test_an_inventory_that_is_no_toml_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not TOML"):
        read_inventory(inventory(tmp_path, "source = ["), [tmp_path])


def test_one_person_in_two_splits_of_an_inventory_is_refused(tmp_path: Path) -> None:
    text = ROW.format(path="a", label="a", subject="one", split="train")
    text += ROW.format(path="b", label="b", subject="one", split="validation")
    with pytest.raises(InputError, match="subject one in train and validation"):
        read_inventory(inventory(tmp_path, text), [tmp_path])


def test_a_label_given_twice_is_refused(tmp_path: Path) -> None:
    text = ROW.format(path="a", label="a", subject="one", split="train") * 2
    with pytest.raises(InputError, match="label a twice"):
        read_inventory(inventory(tmp_path, text), [tmp_path])


def test_a_row_that_is_nowhere_is_named(tmp_path: Path) -> None:
    text = ROW.format(path="a", label="lost", subject="one", split="train")
    with pytest.raises(InputError, match="lost of the inventory is in none"):
        read_inventory(inventory(tmp_path, text), [tmp_path])


def test_a_row_of_two_series_is_refused(tmp_path: Path) -> None:
    write_mr_series(tmp_path / "a" / "1")
    write_mr_series(tmp_path / "a" / "2")
    text = ROW.format(path="a", label="mixed", subject="one", split="train")
    with pytest.raises(InputError, match="mixed of the inventory holds 2 DICOM series"):
        read_inventory(inventory(tmp_path, text), [tmp_path])
