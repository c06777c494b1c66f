"""What may be loaded, for what, and by which name."""

from __future__ import annotations

import tomllib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydicom import dcmread

from dicomnode.errors import InputError
from tests.support.mr_series import mr_datasets, write_mr_series, write_series
from tests.support.phantom_sources import phantom
from tests.support.phantom_sources import write_series as write_volume
from tests.support.shared import DATA, needs_shared
from trainer.data import sources
from trainer.data.sources import OPEN_DATA, Role, Source, Split

TRAINED = ["fnndsc_10yr", "studyforrest_t1", "seg3d_t1", "niimath_t1", "stroke_a_t1", "stroke_a_t2", "stroke_a_flair"]
TRAINED += ["pycortex_s1_t1", "m2265_t2", "ms07_flair", "ms26_flair", "ms19_flair"]
IN_PLANE = ["msl01_flair", "msl01_t1", "msl01_t2", "msl03_flair", "msl03_t2", "msl04_flair", "msl04_t1", "msl04_t2"]
IN_PLANE += ["msl09_flair"]
JUDGED = ["philips_mprage", "m2307_t2", "synthsr_flair", "mr_gd_t1c", "sct_cspine_t1", "sct_cspine_t2"]


def source(*paths: Path, subject: str = "s", split: Split = Split.TRAIN) -> Source:
    return Source(label=paths[0].stem if paths else subject, subject=subject, split=split, licence="MIT", paths=paths)


def test_the_splits_are_those_of_the_data_inventory(phantom_data: Path) -> None:
    found = sources.read_inventory(OPEN_DATA, [phantom_data])
    assert [source.label for source in sources.of_split(found, Split.TRAIN)] == TRAINED + IN_PLANE
    assert [source.label for source in sources.of_split(found, Split.VALIDATION)] == JUDGED
    assert len(sources.of_split(found, Split.UNSEEN)) == 11


def test_the_thick_stacks_of_the_open_data_are_thick(phantom_data: Path) -> None:
    """Their slice axis is the last of the file; taken for thin volumes, they would teach what nobody scanned."""
    found = {source.label: source for source in sources.read_inventory(OPEN_DATA, [phantom_data])}
    assert {sources.describe(found[label]).role for label in IN_PLANE} == {Role.THICK}
    assert {sources.describe(found[label]).role for label in TRAINED} == {Role.THIN}


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
        sources.read_inventory(inventory(tmp_path, text), [tmp_path])
    assert "source.0.split" in raised.value.sentence
    assert "source.0.colour" in raised.value.sentence


def test_an_inventory_that_is_no_toml_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not TOML"):
        sources.read_inventory(inventory(tmp_path, "source = ["), [tmp_path])


def test_one_person_in_two_splits_of_an_inventory_is_refused(tmp_path: Path) -> None:
    text = ROW.format(path="a", label="a", subject="one", split="train")
    text += ROW.format(path="b", label="b", subject="one", split="validation")
    with pytest.raises(InputError, match="subject one in train and validation"):
        sources.read_inventory(inventory(tmp_path, text), [tmp_path])


def test_a_label_given_twice_is_refused(tmp_path: Path) -> None:
    text = ROW.format(path="a", label="a", subject="one", split="train") * 2
    with pytest.raises(InputError, match="label a twice"):
        sources.read_inventory(inventory(tmp_path, text), [tmp_path])


def test_a_row_that_is_nowhere_is_named(tmp_path: Path) -> None:
    text = ROW.format(path="a", label="lost", subject="one", split="train")
    with pytest.raises(InputError, match="lost of the inventory is in none"):
        sources.read_inventory(inventory(tmp_path, text), [tmp_path])


def test_a_row_of_two_series_is_refused(tmp_path: Path) -> None:
    write_mr_series(tmp_path / "a" / "1")
    write_mr_series(tmp_path / "a" / "2")
    text = ROW.format(path="a", label="mixed", subject="one", split="train")
    with pytest.raises(InputError, match="mixed of the inventory holds 2 DICOM series"):
        sources.read_inventory(inventory(tmp_path, text), [tmp_path])


def test_slices_are_sorted_by_position_and_rescaled(phantom_data: Path) -> None:
    """The phantom's file names run against its positions."""
    found = sources.read_inventory(OPEN_DATA, [phantom_data])
    volume = sources.load(found[0])
    np.testing.assert_allclose(volume.voxels, phantom(0), atol=2.0)
    assert volume.slice_spacing_mm == pytest.approx(1.0)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, 1)])
def test_every_voxel_of_a_nifti_volume_lands_where_the_files_affine_says(
    signs: tuple[int, ...], tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    voxels = rng.uniform(0, 100, (5, 6, 7)).astype(np.float32)
    affine = np.diag([*np.array(signs) * (1.5, 0.8, 1.1), 1.0])
    affine[:3, 3] = (10, -20, 30)
    path = tmp_path / "v.nii.gz"
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)  # type: ignore[no-untyped-call]
    volume = sources.load(source(path))
    assert volume.voxels.shape == voxels.shape
    for index in [(0, 0, 0), (4, 1, 6), (2, 5, 3)]:
        x, y, z = (volume.affine @ [*index, 1.0])[:3]
        ras = np.array([-x, -y, z])
        stored = np.linalg.solve(affine, [*ras, 1.0])[:3]
        assert volume.voxels[index] == voxels[tuple(np.rint(stored).astype(int))]
        np.testing.assert_allclose(stored, np.rint(stored), atol=1e-9)


def test_a_nifti_file_that_is_cut_off_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "cut.nii.gz"
    nibabel.save(nibabel.Nifti1Image(phantom(1, extent=20), np.eye(4)), path)  # type: ignore[no-untyped-call]
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(InputError, match=r"cut.nii cannot be used: its NIfTI file cannot be read"):
        sources.load(source(path))


def test_a_missing_slice_is_never_trained_across(tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path / "a", slices=9)
    del paths[4]
    with pytest.raises(InputError, match="missing"):
        sources.load(source(*paths))


def test_pixels_that_break_off_are_named_with_their_slice(tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path / "a", slices=6)
    paths[2].write_bytes(paths[2].read_bytes()[:-100])
    with pytest.raises(InputError, match="Slice 3 cannot be used"):
        sources.load(source(*paths))


def test_a_scan_tells_thick_from_thin_and_one_patient_from_another(tmp_path: Path) -> None:
    write_mr_series(tmp_path / "1" / "thick", attributes={"PatientID": "A"})
    write_mr_series(tmp_path / "1" / "thin", slices=8, slice_spacing_mm=1.0, attributes={"PatientID": "A"})
    write_mr_series(tmp_path / "2", slices=3, attributes={"PatientID": "B"})
    nibabel.save(nibabel.Nifti1Image(phantom(1, extent=9), np.eye(4)), tmp_path / "v.nii.gz")  # type: ignore[no-untyped-call]
    nibabel.save(nibabel.Nifti1Image(phantom(1, extent=9), np.diag([1, 1, 6, 1])), tmp_path / "w.nii.gz")  # type: ignore[no-untyped-call]
    nibabel.save(nibabel.Nifti1Image(phantom(1, extent=9), np.diag([1, 3, 6, 1])), tmp_path / "x.nii.gz")  # type: ignore[no-untyped-call]
    found = sources.scan([tmp_path])
    assert [(series.source.label, series.role) for series in found] == [
        ("subject-1/1", Role.THICK),
        ("subject-1/2", Role.THIN),
        ("subject-2/1", Role.UNUSABLE),
        ("subject-3/1", Role.THIN),
        ("subject-4/1", Role.THICK),
        ("subject-5/1", Role.UNUSABLE),
    ]
    assert found[2].sentence == "Only 3 slices; at least 5 are needed."


def test_a_second_visit_is_of_the_same_subject_though_age_and_weight_changed(tmp_path: Path) -> None:
    write_mr_series(tmp_path / "2019", attributes={"PatientID": "A", "PatientAge": "060Y", "PatientWeight": "70"})
    write_mr_series(tmp_path / "2021", attributes={"PatientID": "A", "PatientAge": "062Y", "PatientWeight": "74"})
    assert {series.source.subject for series in sources.scan([tmp_path])} == {"subject-1"}


def test_patients_without_name_and_number_are_told_apart_by_study(tmp_path: Path) -> None:
    nobody = {"PatientID": "", "PatientName": "", "PatientBirthDate": ""}
    write_mr_series(tmp_path / "1", attributes=nobody)
    write_mr_series(tmp_path / "2", attributes=nobody)
    assert {series.source.subject for series in sources.scan([tmp_path])} == {"subject-1", "subject-2"}


def test_a_scan_repeats_nothing_of_a_header_or_a_folder(tmp_path: Path) -> None:
    write_mr_series(tmp_path / "Doe^Jane", attributes={"PatientName": "Doe^Jane", "PatientID": "4711"})
    (series,) = sources.scan([tmp_path])
    told = f"{series.source.label} {series.source.subject} {series.sentence}"
    assert "Doe" not in told
    assert "4711" not in told
    assert series.frame_of_reference_uid not in repr(series)


def test_folders_for_validation_are_of_that_split(tmp_path: Path) -> None:
    write_mr_series(tmp_path / "t", attributes={"PatientID": "A"})
    write_mr_series(tmp_path / "v", attributes={"PatientID": "B"})
    found = sources.scan([tmp_path / "t"], validate=[tmp_path / "v"])
    assert [series.source.split for series in found] == [Split.TRAIN, Split.VALIDATION]


def test_a_file_that_only_claims_to_be_dicom_is_one_line_and_the_series_is_used(tmp_path: Path) -> None:
    write_mr_series(tmp_path)
    (tmp_path / "0009.dcm").write_bytes(b"no DICOM at all")
    notes: list[str] = []
    (series,) = sources.scan([tmp_path], note=notes.append)
    assert (series.role, series.slices) == (Role.THICK, 6)
    assert notes == ["Passed over: 0009.dcm: neither DICOM nor NIfTI."]


def test_an_image_whose_header_breaks_off_keeps_the_series_beside_it_out_and_no_other(tmp_path: Path) -> None:
    """The last slice: the others would make a series without it."""
    cut = write_mr_series(tmp_path / "a")[-1]
    cut.write_bytes(cut.read_bytes()[:500])
    write_mr_series(tmp_path / "b")
    short, whole = sources.scan([tmp_path])
    assert (short.role, whole.role) == (Role.UNUSABLE, Role.THICK)
    assert short.sentence.startswith("The file 0006.dcm breaks off before it has named its series")


def test_files_that_never_claimed_to_be_dicom_are_passed_over(tmp_path: Path) -> None:
    write_mr_series(tmp_path)
    (tmp_path / "README.txt").write_text("notes")
    assert len(sources.scan([tmp_path])) == 1


def test_an_empty_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is empty: it holds neither DICOM nor NIfTI"):
        sources.scan([tmp_path])


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="studies folder absent is not there"):
        sources.scan([tmp_path / "absent"])


def test_a_matrix_that_changes_mid_series_is_one_sentence(tmp_path: Path) -> None:
    datasets = mr_datasets(slices=8)
    datasets[5].Rows, datasets[5].PixelData = 8, bytes(8 * 16 * 2)
    write_series(tmp_path, datasets)
    with pytest.raises(InputError, match="Slice 6 cannot be used: its Rows differs"):
        sources.scan([tmp_path])


def test_one_bad_series_does_not_keep_the_others_out(tmp_path: Path) -> None:
    write_mr_series(tmp_path / "good")
    write_mr_series(tmp_path / "few", slices=2)
    assert {series.role for series in sources.scan([tmp_path])} == {Role.THICK, Role.UNUSABLE}


def test_whole_subjects_go_to_validation_and_the_same_ones_every_time() -> None:
    given = [source(subject=f"p{k // 2}") for k in range(20)]
    first, second = (sources.split_subjects(given, seed=5) for _ in range(2))
    assert first == second
    moved = {one.subject for one in first if one.split is Split.VALIDATION}
    assert len(moved) == 2
    assert not moved & {one.subject for one in first if one.split is Split.TRAIN}
    assert first != sources.split_subjects(given, seed=6)


def test_two_subjects_give_one_to_validation_and_one_gives_none() -> None:
    two = sources.split_subjects([source(subject="a"), source(subject="b")], share=0.01)
    assert sorted(one.split for one in two) == ["train", "validation"]
    (alone,) = sources.split_subjects([source(subject="a")])
    assert alone.split is Split.TRAIN


def test_only_people_with_something_of_use_are_drawn_to_be_judged_on() -> None:
    given = [source(subject=name) for name in "abcdef"]
    for seed in range(20):
        split = sources.split_subjects(given, seed=seed, usable={"b", "e"})
        assert sorted(one.subject for one in split if one.split is Split.VALIDATION) in (["b"], ["e"])


def test_a_validation_that_was_named_is_kept() -> None:
    given = (source(subject="a"), source(subject="b"), source(subject="c", split=Split.VALIDATION))
    assert sources.split_subjects(given) == given


def test_positions_ascend_along_the_normal_whatever_the_file_names(tmp_path: Path) -> None:
    paths = write_volume(tmp_path / "a", phantom(2, extent=12), slice_spacing_mm=4.0, first_mm=-7.0)
    series = sources.describe(source(*paths))
    expected = sorted(float(dcmread(path).ImagePositionPatient[2]) for path in paths)
    np.testing.assert_allclose(series.offsets_mm, expected)
    assert (series.rows, series.columns, series.pixel_spacing_mm) == (12, 12, (1.0, 1.0))


@needs_shared
def test_the_real_volumes_have_the_measured_shapes() -> None:
    found = {source.label: source for source in sources.read_inventory(OPEN_DATA, [DATA])}
    assert sources.load(found["stroke_a_t2"]).voxels.shape == (124, 160, 140)
    assert sources.load(found["philips_mprage"]).voxels.shape == (170, 256, 256)
    assert sources.load(found["lumbar_t2_sag"]).voxels.min() < 0
