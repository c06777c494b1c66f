"""What is found below folders of studies, and by which words it is called."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from dicomnode.errors import InputError
from tests.support.mr_series import mr_datasets, write_mr_series, write_series
from tests.support.phantom_sources import phantom
from trainer.data.scan import scan
from trainer.data.series import Role
from trainer.data.sources import Split


def test_a_scan_tells_thick_from_thin_and_one_patient_from_another(tmp_path: Path) -> None:
    write_mr_series(tmp_path / "1" / "thick", attributes={"PatientID": "A"})
    write_mr_series(tmp_path / "1" / "thin", slices=8, slice_spacing_mm=1.0, attributes={"PatientID": "A"})
    write_mr_series(tmp_path / "2", slices=3, attributes={"PatientID": "B"})
    nibabel.save(nibabel.Nifti1Image(phantom(1, extent=9), np.eye(4)), tmp_path / "v.nii.gz")  # type: ignore[no-untyped-call]
    nibabel.save(nibabel.Nifti1Image(phantom(1, extent=9), np.diag([1, 1, 6, 1])), tmp_path / "w.nii.gz")  # type: ignore[no-untyped-call]
    nibabel.save(nibabel.Nifti1Image(phantom(1, extent=9), np.diag([1, 3, 6, 1])), tmp_path / "x.nii.gz")  # type: ignore[no-untyped-call]
    found = scan([tmp_path])
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
    assert {series.source.subject for series in scan([tmp_path])} == {"subject-1"}


def test_patients_without_name_and_number_are_told_apart_by_study(tmp_path: Path) -> None:
    nobody = {"PatientID": "", "PatientName": "", "PatientBirthDate": ""}
    write_mr_series(tmp_path / "1", attributes=nobody)
    write_mr_series(tmp_path / "2", attributes=nobody)
    assert {series.source.subject for series in scan([tmp_path])} == {"subject-1", "subject-2"}


def test_a_scan_repeats_nothing_of_a_header_or_a_folder(tmp_path: Path) -> None:
    write_mr_series(tmp_path / "Doe^Jane", attributes={"PatientName": "Doe^Jane", "PatientID": "4711"})
    (series,) = scan([tmp_path])
    told = f"{series.source.label} {series.source.subject} {series.sentence}"
    assert "Doe" not in told
    assert "4711" not in told
    assert series.frame_of_reference_uid not in repr(series)


def test_folders_for_validation_are_of_that_split(tmp_path: Path) -> None:
    write_mr_series(tmp_path / "t", attributes={"PatientID": "A"})
    write_mr_series(tmp_path / "v", attributes={"PatientID": "B"})
    found = scan([tmp_path / "t"], validate=[tmp_path / "v"])
    assert [series.source.split for series in found] == [Split.TRAIN, Split.VALIDATION]


def test_a_file_that_only_claims_to_be_dicom_is_one_line_and_the_series_is_used(tmp_path: Path) -> None:
    write_mr_series(tmp_path)
    (tmp_path / "0009.dcm").write_bytes(b"no DICOM at all")
    notes: list[str] = []
    (series,) = scan([tmp_path], note=notes.append)
    assert (series.role, series.slices) == (Role.THICK, 6)
    assert notes == ["Passed over: 0009.dcm: neither DICOM nor NIfTI."]


def test_an_image_whose_header_breaks_off_keeps_the_series_beside_it_out_and_no_other(tmp_path: Path) -> None:
    """The last slice: the others would make a series without it."""
    cut = write_mr_series(tmp_path / "a")[-1]
    cut.write_bytes(cut.read_bytes()[:500])
    write_mr_series(tmp_path / "b")
    short, whole = scan([tmp_path])
    assert (short.role, whole.role) == (Role.UNUSABLE, Role.THICK)
    assert short.sentence.startswith("The file 0006.dcm breaks off before it has named its series")


def test_files_that_never_claimed_to_be_dicom_are_passed_over(tmp_path: Path) -> None:
    write_mr_series(tmp_path)
    (tmp_path / "README.txt").write_text("notes")
    assert len(scan([tmp_path])) == 1


def test_an_empty_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is empty: it holds neither DICOM nor NIfTI"):
        scan([tmp_path])


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="studies folder absent is not there"):
        scan([tmp_path / "absent"])


def test_a_matrix_that_changes_mid_series_is_one_sentence(tmp_path: Path) -> None:
    datasets = mr_datasets(slices=8)
    datasets[5].Rows, datasets[5].PixelData = 8, bytes(8 * 16 * 2)
    write_series(tmp_path, datasets)
    with pytest.raises(InputError, match="Slice 6 cannot be used: its Rows differs"):
        scan([tmp_path])


def test_one_bad_series_does_not_keep_the_others_out(tmp_path: Path) -> None:
    write_mr_series(tmp_path / "good")
    write_mr_series(tmp_path / "few", slices=2)
    assert {series.role for series in scan([tmp_path])} == {Role.THICK, Role.UNUSABLE}
