"""Figures of the encoded files: as they were encoded they pass, and what is wrong in them is held."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicomnode.gate.reread import Reread
from dicomnode.gate.rule import Check, Finding
from dicomnode.generators.cubic_dc import CubicDc
from dicomnode.imaging.profile import thin_grid
from tests.support.derived import PLAN, Made, made_of
from tests.support.phantom import Phantom


@pytest.fixture(scope="module", params=[False, True], ids=["numbers rise", "numbers fall"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Square, so that rows and columns can be exchanged unnoticed; with a rescale."""
    phantom = Phantom(slices=7, rows=40, columns=40, rescale=(0.5, -3.0), numbers_fall=request.param)
    return made_of(tmp_path_factory.mktemp("phantom"), phantom.datasets(), ratio=3)


def _reread(made: Made, datasets: list[Dataset], patient: Mapping[str, str] | None = None) -> dict[Check, Finding]:
    thick = made.stack.volume
    thin = CubicDc().generate(thick, thin_grid(thick, 3), device="cpu").thin
    reread = Reread(made.stack, thin, consistency=True, patient=patient)
    for dataset in datasets:
        content = BytesIO()
        dataset.save_as(content)
        reread.add(content.getvalue())
    return {found.check: found for found in reread.findings()}


def test_files_as_they_were_encoded_pass_in_any_order(made: Made) -> None:
    for datasets in (made.datasets, made.datasets[::-1]):
        found = _reread(made, datasets)
        assert [one.sentence for one in found.values() if one.holds] == []
        assert list(found) == list(Check)[10:]


def _rows_for_columns(datasets: list[Dataset]) -> None:
    for dataset in datasets:
        dataset.PixelData = np.ascontiguousarray(dataset.pixel_array.T).tobytes()


def _other_directions(datasets: list[Dataset]) -> None:
    for dataset in datasets:
        dataset.ImageOrientationPatient = [*dataset.ImageOrientationPatient[3:], *dataset.ImageOrientationPatient[:3]]


def _other_spacing(datasets: list[Dataset]) -> None:
    for dataset in datasets:
        dataset.PixelSpacing = dataset.PixelSpacing[::-1]


def _half_a_slice_further(datasets: list[Dataset]) -> None:
    half = (np.array(datasets[1].ImagePositionPatient) - np.array(datasets[0].ImagePositionPatient)) / 2
    for dataset in datasets:
        dataset.ImagePositionPatient = [f"{mm:.4f}" for mm in np.array(dataset.ImagePositionPatient) + half]


def _half_a_thick_slice_further(datasets: list[Dataset]) -> None:
    for _ in range(3):
        _half_a_slice_further(datasets)


def _turned_round_within_a_slab(datasets: list[Dataset]) -> None:
    for first in range(0, len(datasets), 3):
        one, other = datasets[first], datasets[first + 2]
        one.PixelData, other.PixelData = other.PixelData, one.PixelData


def _in_a_random_order(datasets: list[Dataset]) -> None:
    datasets[2].InstanceNumber, datasets[3].InstanceNumber = datasets[3].InstanceNumber, datasets[2].InstanceNumber


def _another_slope(datasets: list[Dataset]) -> None:
    for dataset in datasets:
        dataset.RescaleSlope = "0.52"


def _another_intercept(datasets: list[Dataset]) -> None:
    for dataset in datasets:
        dataset.RescaleIntercept = "0"


def _ten_times_in_the_file(datasets: list[Dataset]) -> None:
    for dataset in datasets:
        dataset.RescaleSlope = "5"


def _one_too_few(datasets: list[Dataset]) -> None:
    del datasets[4]


def _one_twice(datasets: list[Dataset]) -> None:
    datasets[4] = datasets[5]


def _another_patient(datasets: list[Dataset]) -> None:
    datasets[4].PatientID = "somebody else"


def _no_patient(datasets: list[Dataset]) -> None:
    del datasets[4].PatientID


def _another_study(datasets: list[Dataset]) -> None:
    datasets[4].StudyInstanceUID = "1.2.3"


def _thick_as_the_source(datasets: list[Dataset]) -> None:
    for dataset in datasets:
        dataset.SliceThickness = "4"


def _broken_pixels(datasets: list[Dataset]) -> None:
    datasets[4].PixelData = datasets[4].PixelData[:100]


@pytest.mark.parametrize(
    ("spoil", "check"),
    [
        (_rows_for_columns, Check.ENCODED_AVERAGES),
        (_other_directions, Check.HEADER),
        (_other_spacing, Check.HEADER),
        (_half_a_slice_further, Check.PLACE),
        (_half_a_thick_slice_further, Check.PLACE),
        (_turned_round_within_a_slab, Check.VALUES),
        (_in_a_random_order, Check.HEADER),
        (_another_slope, Check.ENCODED_AVERAGES),
        (_another_intercept, Check.ENCODED_AVERAGES),
        (_ten_times_in_the_file, Check.ENCODED_AVERAGES),
        (_one_too_few, Check.HEADER),
        (_one_twice, Check.HEADER),
        (_another_patient, Check.HEADER),
        (_no_patient, Check.HEADER),
        (_another_study, Check.HEADER),
        (_thick_as_the_source, Check.HEADER),
        (_broken_pixels, Check.HEADER),
    ],
)
def test_files_that_are_wrong_are_held(made: Made, spoil: Callable[[list[Dataset]], None], check: Check) -> None:
    datasets = made.datasets
    spoil(datasets)
    found = _reread(made, datasets)
    assert found[check].holds


def test_a_sentence_names_the_attribute_and_not_its_value(made: Made) -> None:
    datasets = made.datasets
    datasets[4].PatientName = "Doe^Jane"
    sentence = _reread(made, datasets)[Check.HEADER].sentence
    assert "Patient's Name" in sentence
    assert "Doe" not in sentence


def test_a_series_under_the_patient_of_the_archive_says_nothing_of_the_other_one(tmp_path: Path) -> None:
    """One file under the source's patient, or with one attribute of that patient, holds the series."""
    theirs = {
        "PatientName": "Right^Person", "PatientID": "P-77", "IssuerOfPatientID": "", "PatientBirthDate": "19700102",
        "PatientSex": "F", "AccessionNumber": "A-9",
    }  # fmt: skip
    sources = Phantom(slices=7, rows=40, columns=40).datasets()
    made = made_of(tmp_path, sources, plan=replace(PLAN, patient=theirs))
    assert not _reread(made, made.datasets, theirs)[Check.HEADER].holds
    assert "Patient ID" in _reread(made, made.datasets)[Check.HEADER].sentence
    datasets = made.datasets
    datasets[4].OtherPatientIDs = "X-1"
    found = _reread(made, datasets, theirs)[Check.HEADER]
    assert found.holds
    assert "Other Patient IDs" in found.sentence
