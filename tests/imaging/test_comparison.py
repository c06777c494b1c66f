"""In what two objects under one UID differ: names of attributes, and nothing for what only looks different."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from dicomnode.imaging.comparison import Comparison, compare
from tests.support.dicom import write_part10
from tests.support.mr_series import mr_datasets

SAME = Comparison(identity=(), place=(), others=(), has_same_pixels=True)


@pytest.fixture
def image() -> Dataset:
    (one,) = mr_datasets(slices=1)
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "T-D1100", "SRT", "Head"
    one.AnatomicRegionSequence = Sequence([code])
    one.add_new(0x00091001, "LO", "private")
    one.add_new(0x00090010, "LO", "MAKER")
    return one


def compared(tmp_path: Path, one: Dataset, two: Dataset, syntax: str = "1.2.840.10008.1.2.1") -> Comparison | None:
    kept = write_part10(tmp_path / "kept.dcm", copy.deepcopy(one))
    return compare(kept, write_part10(tmp_path / "other.dcm", two, syntax))


def other(image: Dataset, **attributes: object) -> Dataset:
    changed = copy.deepcopy(image)
    for keyword, value in attributes.items():
        setattr(changed, keyword, value)
    return changed


def test_another_encoding_is_no_difference(tmp_path: Path, image: Dataset) -> None:
    assert compared(tmp_path, image, copy.deepcopy(image), ImplicitVRLittleEndian) == SAME


def test_another_way_to_write_lengths_and_numbers_is_no_difference(tmp_path: Path, image: Dataset) -> None:
    two = other(image, ImagePositionPatient=["-8", "-8.000", "0.0"])
    two.AnatomicRegionSequence.is_undefined_length = True
    two.AnatomicRegionSequence[0].is_undefined_length_sequence_item = True
    assert compared(tmp_path, image, two) == SAME


def test_a_lossless_compression_keeps_the_pixels(tmp_path: Path, image: Dataset) -> None:
    two = write_part10(tmp_path / "two.dcm", copy.deepcopy(image))
    kept = write_part10(tmp_path / "one.dcm", image)
    dataset = copy.deepcopy(image)
    dataset.compress(RLELossless, generate_instance_uid=False)
    write_part10(two, dataset, RLELossless)
    assert compare(kept, two) == SAME


def test_another_order_of_bytes_keeps_the_pixels(tmp_path: Path, image: Dataset) -> None:
    swapped = np.frombuffer(image.PixelData, dtype="<u2").astype(">u2").tobytes()
    two = other(image, PixelData=swapped)
    two.file_meta = FileMetaDataset()
    two.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    two.save_as(tmp_path / "two.dcm", enforce_file_format=True)
    assert compare(write_part10(tmp_path / "one.dcm", image), tmp_path / "two.dcm") == SAME


@pytest.mark.parametrize(("offset", "is_rounding"), [(0.0004, True), (0.01, False)])
def test_numbers_with_fewer_digits_are_no_difference_where_rounding_is_allowed(
    tmp_path: Path, image: Dataset, offset: float, is_rounding: bool
) -> None:
    x, y, z = map(float, image.ImagePositionPatient)
    kept = write_part10(tmp_path / "kept.dcm", copy.deepcopy(image))
    two = write_part10(tmp_path / "other.dcm", other(image, ImagePositionPatient=[x, y, round(z + offset, 6)]))
    position = Comparison(identity=(), place=("Image Position (Patient)",), others=(), has_same_pixels=True)
    assert compare(kept, two) == position
    assert compare(kept, two, allow_rounding=True) == (SAME if is_rounding else position)


@pytest.mark.parametrize(
    ("attributes", "field", "names"),
    [
        (
            {"PatientName": "B^A", "PatientBirthDate": "19700101"},
            "identity",
            ("Patient's Name", "Patient's Birth Date"),
        ),
        ({"ClinicalTrialSubjectID": "S1"}, "identity", ("Clinical Trial Subject ID",)),
        ({"StudyInstanceUID": "1.2.3"}, "identity", ("Study Instance UID",)),
        ({"ImagePositionPatient": [0, 0, 1], "Rows": 8}, "place", ("Image Position (Patient)", "Rows")),
        ({"RescaleSlope": "2"}, "place", ("Rescale Slope",)),
        ({"EchoTime": "90", "SeriesDescription": "T1"}, "others", ("Series Description", "Echo Time")),
    ],
)
def test_what_differs_is_named_and_not_told(
    tmp_path: Path, image: Dataset, attributes: dict[str, object], field: str, names: tuple[str, ...]
) -> None:
    found = compared(tmp_path, image, other(image, **attributes))
    assert found is not None
    assert getattr(found, field) == names
    rest = {"identity", "place", "others"} - {field}
    assert all(getattr(found, one) == () for one in rest)


def test_private_attributes_are_one_word_and_an_item_of_a_sequence_counts(tmp_path: Path, image: Dataset) -> None:
    two = copy.deepcopy(image)
    two[0x00091001].value = "something else"
    two.AnatomicRegionSequence[0].CodeMeaning = "Neck"
    found = compared(tmp_path, image, two)
    assert found is not None
    assert found.others == ("Anatomic Region Sequence", "private attributes")


def test_one_other_pixel_is_a_difference(tmp_path: Path, image: Dataset) -> None:
    pixels = np.frombuffer(image.PixelData, dtype="<u2").copy()
    pixels[100] += 1
    found = compared(tmp_path, image, other(image, PixelData=pixels.tobytes()))
    assert found == Comparison(identity=(), place=(), others=(), has_same_pixels=False)


def test_a_file_that_is_none_cannot_be_compared(tmp_path: Path, image: Dataset) -> None:
    kept = write_part10(tmp_path / "kept.dcm", image)
    (tmp_path / "other.dcm").write_bytes(b"no DICOM at all" * 100)
    assert compare(kept, tmp_path / "other.dcm") is None
