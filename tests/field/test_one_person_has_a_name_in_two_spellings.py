"""Seen in the field: X^Y and X^Y^^^ in one series or one archive. It is one name (PS3.5 section 6.2)."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicomnode.imaging.frame import Frame, read_frames
from dicomnode.imaging.headers import InstanceHeader, header_of
from dicomnode.imaging.judge import judge
from dicomnode.imaging.verdict import Limits, Verdict, VerdictReason
from tests.support.derived import SMALL, made_of
from tests.support.phantom import write_datasets
from tests.support.raw_elements import explicit, write_with
from trainer.data.people import alike_of, look_alikes, person_of
from trainer.data.scan import scan

SPELLINGS = {
    "empty components": ("PatientName", "PHANTOM^CASE", "PHANTOM^CASE^^^"),
    "empty component groups": ("PatientName", "PHANTOM^CASE", "PHANTOM^CASE=="),
    "both": ("PatientName", "PHANTOM^CASE=X^Y", "PHANTOM^CASE^^=X^Y^="),
    "blanks around components": ("PatientName", "PHANTOM^CASE", "PHANTOM ^ CASE"),
    "other names": ("OtherPatientNames", ["A^B", "C"], ["A^B^^", "C=="]),
    "a date with dots": ("PatientBirthDate", "19700102", "1970.01.02"),
    "a number with zeros behind": ("PatientWeight", "70", "70.00"),
    "no comment and an empty one": ("PatientComments", "", None),
}
DIFFERENT = {
    "another given name": ("PatientName", "PHANTOM^CASE", "PHANTOM^CASEY"),
    "an empty component in the middle": ("PatientName", "PHANTOM^CASE", "PHANTOM^^CASE"),
    "another group": ("PatientName", "PHANTOM^CASE", "PHANTOM^CASE=X^Y"),
    "capitals": ("PatientName", "PHANTOM^CASE", "Phantom^Case"),
    "zeros before the number": ("PatientID", "0005", "5"),
    "no name": ("PatientName", "PHANTOM^CASE", ""),
}


def mixed(keyword: str, one: object, other: object) -> list[Dataset]:
    """Every second slice has the other value."""
    datasets = SMALL.datasets()
    for number, dataset in enumerate(datasets):
        value = other if number % 2 else one
        if value is not None:
            setattr(dataset, keyword, value)
    return datasets


def judged(datasets: list[Dataset]) -> Verdict:
    return judge([Frame(header=header_of(dataset, Path("none.dcm"))) for dataset in datasets], Limits())


@pytest.mark.filterwarnings("ignore:Invalid value for VR DA")
@pytest.mark.parametrize("what", SPELLINGS)
def test_two_spellings_of_one_value_are_one_patient(tmp_path: Path, what: str) -> None:
    datasets = mixed(*SPELLINGS[what])
    keyword = SPELLINGS[what][0]
    made = made_of(tmp_path, datasets)
    assert judge(made.stack.frames, Limits()).process
    assert len({header.identity_digest for header in made.stack.headers}) == 1
    spellings = {str(dataset.get(keyword, "")) for dataset in made.datasets}
    assert len(spellings) == 1, "one of the two in all instances"
    assert spellings <= {header.text(keyword) for header in made.stack.headers} | {
        str(dataset.get(keyword, "")) for dataset in datasets
    }


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_is_no_spelling_of_the_same_is_a_disagreement_and_an_alert(what: str) -> None:
    verdict = judged(mixed(*DIFFERENT[what]))
    assert (verdict.reason, verdict.alert) == (VerdictReason.DISAGREE, True)


@pytest.mark.parametrize("padding", [b"  ", b"\0\0", b" \0"])
def test_padding_is_no_part_of_a_name(tmp_path: Path, padding: bytes) -> None:
    paths = [
        write_with(
            tmp_path / f"{k}.dcm", dataset, {0x00100010: explicit(0x00100010, b"PN", b"A^BC" + padding * (k % 2))}
        )
        for k, dataset in enumerate(SMALL.datasets())
    ]
    assert judge(read_frames(paths), Limits()).process


def test_another_name_in_the_study_spelled_twice_is_kept_too(tmp_path: Path) -> None:
    made = made_of(tmp_path, mixed("ReferringPhysicianName", "DOC^TOR", "DOC^TOR^^"))
    assert {str(dataset.ReferringPhysicianName) for dataset in made.datasets} <= {"DOC^TOR", "DOC^TOR^^"}
    assert len({str(dataset.ReferringPhysicianName) for dataset in made.datasets}) == 1


def person(name: str, number: str = "1", birth_date: str = "19600101") -> InstanceHeader:
    dataset = SMALL.datasets()[0]
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = name, number, birth_date
    return header_of(dataset, Path("none.dcm"))


@pytest.mark.parametrize("other", ["ONE^ANNA^^^", "ONE^ANNA=", " ONE ^ANNA "])
def test_the_trainer_sees_one_person(other: str) -> None:
    assert person_of(person("ONE^ANNA")) == person_of(person(other))


@pytest.mark.parametrize(
    ("one", "other", "is_told"),
    [
        (("A^B", "4"), ("a^b", "4"), True),
        (("A^B", "0005"), ("A^B", "5"), True),
        (("A^B", "0005"), ("a^b^", "05"), True),
        (("A^B", "5"), ("A^B^", "5"), False),  # one person, and nothing to tell
        (("A^B", "5"), ("A^C", "05"), False),
        (("A^B", "5", "19600101"), ("a^b", "5", "19700101"), False),
        (("", ""), ("", ""), False),
    ],
)
def test_people_who_may_be_one_are_told_by_their_subjects(
    one: tuple[str, ...], other: tuple[str, ...], is_told: bool
) -> None:
    headers = [person(*one), person(*other)]
    rows = [(f"subject-{k}", person_of(header), alike_of(header)) for k, header in enumerate(headers, 1)]
    told = look_alikes(rows)
    assert len(told) == int(is_told)
    assert all(sentence.startswith("subject-1 and subject-2 may be one person") for sentence in told)
    assert not any(word in sentence for sentence in told for word in ("A^B", "a^b", "5"))


def test_two_studies_of_one_person_are_never_split(tmp_path: Path) -> None:
    for place, name in (("a", "ONE^ANNA"), ("b", "ONE^ANNA^^^"), ("c", "TWO^BEN")):
        datasets = SMALL.datasets()
        for dataset in datasets:
            dataset.PatientName = name
        write_datasets(tmp_path / place, datasets)
    found = scan([tmp_path])
    assert [series.source.subject for series in found] == ["subject-1", "subject-1", "subject-2"]
