"""A derived series under the patient whom the receiving archive names, with what the source said kept beside it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicomnode.derive import patient
from dicomnode.errors import InputError
from tests.support.derived import PLAN, SMALL, Made, made_from
from tests.support.mr_series import mr_datasets, write_series

THEIRS = {
    "PatientName": "Right^Möwe", "PatientID": "P-77", "IssuerOfPatientID": "HOUSE", "PatientBirthDate": "19700102",
    "PatientSex": "F", "AccessionNumber": "A-9",
}  # fmt: skip


def sources(change: Callable[[Dataset], None] = lambda _one: None) -> list[Dataset]:
    """A series whose patient has all kinds of attributes."""
    made = mr_datasets(
        attributes={
            "SpecificCharacterSet": "ISO_IR 100", "PatientName": "Wrong^Käthe", "PatientID": "X-1",
            "PatientBirthDate": "19500102", "PatientSex": "F", "PatientWeight": "70", "OtherPatientNames": "Old^Name",
            "ClinicalTrialSubjectID": "S-1", "AccessionNumber": "A-1", "AdmissionID": "V-1",
        }
    )  # fmt: skip
    for one in made:
        change(one)
    return made


def under(
    tmp_path: Path, theirs: dict[str, str] = THEIRS, change: Callable[[Dataset], None] = lambda _one: None
) -> Made:
    """Return the series derived from these sources under this patient."""
    plan = replace(PLAN, patient=theirs, parameters=replace(PLAN.parameters, patient="a" * 64))
    return made_from(write_series(tmp_path / "thick", sources(change)), 3, plan)


def test_every_file_names_the_peers_patient_and_keeps_what_the_source_said(tmp_path: Path) -> None:
    made = under(tmp_path)
    for one in made.datasets:
        assert {keyword: str(one.get(keyword)) for keyword in THEIRS} == THEIRS
        assert not {"PatientWeight", "OtherPatientNames", "ClinicalTrialSubjectID", "AdmissionID"} & set(one.dir())
        (item,) = one.OriginalAttributesSequence
        (before,) = item.ModifiedAttributesSequence
        assert {element.keyword: str(element.value) for element in before} == {
            "PatientName": "Wrong^Käthe", "PatientID": "X-1", "PatientBirthDate": "19500102", "PatientWeight": "70",
            "OtherPatientNames": "Old^Name", "ClinicalTrialSubjectID": "S-1", "AccessionNumber": "A-1",
            "AdmissionID": "V-1",
        }  # fmt: skip
        assert item.ReasonForTheAttributeModification == "COERCE"
        assert item.ModifyingSystem.startswith("dicomnode ")
        assert datetime.strptime(item.AttributeModificationDateTime, "%Y%m%d%H%M%S.%f%z") == PLAN.created_at
        assert "Patient as the receiving archive had the study" in one.DerivationDescription
    assert any("under whom the peer had the study" in note for note in made.notes)


def test_it_is_another_series_than_the_one_under_the_source(tmp_path: Path) -> None:
    thick = write_series(tmp_path / "thick", sources())
    mine = made_from(thick, 3)
    plan = replace(PLAN, patient=THEIRS, parameters=replace(PLAN.parameters, patient="a" * 64))
    other = made_from(thick, 3, plan)
    again = made_from(thick, 3, plan)
    uids = [{one.SeriesInstanceUID, *(file.sop_instance_uid for file in made.files)}
            for made in (mine, other) for one in made.datasets[:1]]  # fmt: skip
    assert not uids[0] & uids[1]
    assert [file.content for file in other.files] == [file.content for file in again.files]
    assert "OriginalAttributesSequence" not in mine.datasets[0]
    assert [one.pixel_array.tobytes() for one in mine.datasets] == [one.pixel_array.tobytes() for one in other.datasets]


def test_what_both_say_keeps_the_spelling_of_the_source(tmp_path: Path) -> None:
    def spell(one: Dataset) -> None:
        one.PatientName, one.PatientID = "Right^Möwe^^", "P-77"

    one = under(tmp_path, THEIRS | {"IssuerOfPatientID": ""}, spell).datasets[0]
    assert str(one.PatientName) == "Right^Möwe^^"
    assert "IssuerOfPatientID" not in one
    (before,) = one.OriginalAttributesSequence[0].ModifiedAttributesSequence
    assert not {"PatientName", "PatientID", "PatientSex"} & set(before.dir())


def test_a_letter_that_the_series_cannot_hold_is_refused_and_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^Patient's Name, as the peer has it, cannot be written .*\(ISO_IR 100\)"):
        under(tmp_path, THEIRS | {"PatientName": "Иванов^Иван"})


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientBirthDate", "yesterday"), ("PatientSex", "female"), ("PatientID", "x" * 65), ("PatientID", "a\\b"),
        ("PatientName", "a\x1b[2Jb"), ("PatientID", "a\nb"), ("AccessionNumber", "x" * 17),
    ],
)  # fmt: skip
def test_a_value_that_is_none_is_refused_without_being_said(keyword: str, value: str) -> None:
    with pytest.raises(InputError, match="does not allow") as refused:
        patient.encode(THEIRS | {keyword: value}, "1.2.3")
    assert value not in str(refused.value)


def test_what_a_job_pins_comes_back_in_any_script() -> None:
    theirs = THEIRS | {"PatientName": "Иванов^Иван=山田^太郎"}
    content = patient.encode(theirs, "1.2.3")
    assert patient.decode(dcmread(BytesIO(content), force=True)) == theirs
    assert content == patient.encode(theirs, "1.2.3")


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools are not installed")
def test_the_validator_finds_nothing_new(tmp_path: Path) -> None:
    plan = replace(PLAN, patient=THEIRS, parameters=replace(PLAN.parameters, patient="a" * 64))
    thick = SMALL.write(tmp_path / "thick")
    for path in thick:
        one = dcmread(path)
        one.SpecificCharacterSet = "ISO_IR 100"
        one.save_as(path)
    found = set()
    for path in made_from(thick, 3, plan).write(tmp_path / "thin"):
        done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, timeout=60, check=False)
        found |= {line for line in (done.stdout + done.stderr).decode("latin-1").splitlines() if "rror" in line}
    assert found == set()
