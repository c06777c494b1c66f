"""Tags of one instance: parsed from the bytes as they stand, never a crash, never a patient in a sentence."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicomnode.errors import InputError, StorageError
from dicomnode.imaging import headers
from dicomnode.imaging.dicom_file import UnreadableHeader
from dicomnode.imaging.representation import Misfit, copy_of
from dicomnode.own_output import PRODUCT
from tests.support.phantom import Phantom
from tests.support.shared import PROSTATE
from tests.support.thorough import times

SMALL = Phantom(slices=1, rows=8, columns=8)


def _written(tmp_path: Path, dataset: Dataset) -> headers.InstanceHeader:
    path = tmp_path / "one.dcm"
    dcmwrite(path, dataset, enforce_file_format=True)
    return headers.read_header(path)


def _with_raw(tmp_path: Path, keyword: str, old: bytes, new: bytes) -> headers.InstanceHeader:
    """A header whose value was replaced in the file by another one of the same length, valid or not."""
    assert len(old) == len(new)
    dataset = SMALL.datasets()[0]
    setattr(dataset, keyword, old.decode())
    path = tmp_path / "raw.dcm"
    dcmwrite(path, dataset, enforce_file_format=True)
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    return headers.read_header(path)


def test_what_is_no_dicom_file_is_said_in_words(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear colleague,")
    with pytest.raises(InputError, match=r"letter\.txt cannot be used: it is not a DICOM file"):
        headers.read_header(path)
    found = headers.read_header_or_reason(path)
    assert isinstance(found, UnreadableHeader)
    assert found.reason == "it is not a DICOM file"


def test_a_disk_that_fails_is_not_the_images_fault(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        headers.read_header_or_reason(tmp_path / "missing.dcm")


def test_values_come_typed_and_absent_ones_as_none(tmp_path: Path) -> None:
    header = _written(tmp_path, SMALL.datasets()[0])
    assert header.pixel_spacing_mm == (1.3, 1.1)
    assert header.orientation == (1, 0, 0, 0, 1, 0)
    assert header.slice_thickness_mm == 4.0
    assert (header.rows, header.columns, header.bits_stored, header.series_number) == (8, 8, 12, 7)
    assert header.rescale_slope is None
    assert header.number_of_frames is None
    assert header.text("NoSuchKeyword") == ""
    assert header.text("ScanOptions") == ""
    assert header.text("ImageType") == "ORIGINAL\\PRIMARY\\OTHER"
    assert header.malformed == ()


@pytest.mark.parametrize(
    ("keyword", "old", "new"),
    [
        ("PixelSpacing", b"1.25\\1.75", b"1.25 1.75"),
        ("PixelSpacing", b"1.25\\1.75", b"1.25\\one!"),
        ("SliceThickness", b"3.3371", b"nan   "),
        ("EchoTime", b"77.1234", b"7,12345"),
        ("ImagePositionPatient", b"11.5\\22.5\\33.5", b"11.5\\22.5     "),
    ],
)
def test_a_value_that_cannot_be_parsed_is_named_and_nothing_breaks(
    tmp_path: Path, keyword: str, old: bytes, new: bytes
) -> None:
    """Written by hand into the file: pydicom itself would refuse or repair them."""
    if b"\\" in old:
        dataset = SMALL.datasets()[0]
        setattr(dataset, keyword, old.decode().split("\\"))
        path = tmp_path / "raw.dcm"
        dcmwrite(path, dataset, enforce_file_format=True)
        path.write_bytes(path.read_bytes().replace(old, new))
        header = headers.read_header(path)
    else:
        header = _with_raw(tmp_path, keyword, old, new)
    assert header.malformed == (keyword,)


def test_a_broken_series_number_is_no_reason_to_refuse(tmp_path: Path) -> None:
    header = _with_raw(tmp_path, "SeriesNumber", b"4711", b"4x11")
    assert header.series_number is None
    assert header.malformed == ()


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_the_transfer_syntax_changes_no_value(tmp_path: Path, syntax: UID) -> None:
    dataset = SMALL.datasets()[0]
    dataset.PatientName = "Mamária^Test"
    explicit = _written(tmp_path, dataset)
    path = tmp_path / "other.dcm"
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = bytes(len(dataset.PixelData))
    dcmwrite(
        path, dataset, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=syntax != ExplicitVRBigEndian,
        enforce_file_format=True,
    )  # fmt: skip
    other = headers.read_header(path)
    assert other.identity == explicit.identity
    assert other.identity_digest == explicit.identity_digest
    for name in ("position_mm", "orientation", "pixel_spacing_mm", "rows", "bits_stored", "series_uid", "image_type"):
        assert getattr(other, name) == getattr(explicit, name)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("PatientID", "BALL-2"), ("PatientWeight", "70"), ("OtherPatientNames", "B"), ("ClinicalTrialSubjectID", "S")],
)
def test_the_identity_digest_covers_patient_and_trial(tmp_path: Path, keyword: str, value: str) -> None:
    dataset = SMALL.datasets()[0]
    before = _written(tmp_path, dataset).identity_digest
    dataset.StudyDescription = "another"
    assert _written(tmp_path, dataset).identity_digest == before
    setattr(dataset, keyword, value)
    assert _written(tmp_path, dataset).identity_digest != before


@pytest.mark.parametrize(
    ("charset", "text"),
    [
        ("ISO_IR 100", "RM Mamária"),
        ("ISO_IR 192", "頭部 T2"),
        (["", "ISO 2022 IR 87"], "頭部 T2"),
        ("ISO_IR 144", "Люкceмбypг"),
    ],
)
def test_text_is_decoded_for_rules(tmp_path: Path, charset: str | list[str], text: str) -> None:
    dataset = SMALL.datasets()[0]
    dataset.SpecificCharacterSet = charset
    dataset.SeriesDescription = text
    assert _written(tmp_path, dataset).text("SeriesDescription") == text


def test_an_unknown_character_set_leaves_readable_text_readable(tmp_path: Path) -> None:
    dataset = SMALL.datasets()[0]
    dataset.SeriesDescription = "T2 balls"
    path = tmp_path / "one.dcm"
    dcmwrite(path, dataset, enforce_file_format=True)
    path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", b"ISO_XX 999"))
    assert headers.read_header(path).text("SeriesDescription") == "T2 balls"


@pytest.mark.parametrize(
    ("group", "creator", "element", "vr", "value", "expected"),
    [
        (0x0019, "SIEMENS MR HEADER", 0x0C, "IS", "800", 800.0),
        (0x0043, "GEMS_PARM_01", 0x39, "IS", ["1000000700", "8", "0", "0"], 700.0),
        (0x2001, "Philips Imaging DD 001", 0x03, "FL", 400.0, 400.0),
    ],
)
def test_a_vendors_b_value_is_found(
    tmp_path: Path, group: int, creator: str, element: int, vr: str, value: object, expected: float
) -> None:
    dataset = SMALL.datasets()[0]
    dataset.private_block(group, creator, create=True).add_new(element, vr, value)
    header = _written(tmp_path, dataset)
    assert header.b_value == expected
    assert not any(tag.is_private for tag in header.dataset.keys())  # noqa: SIM118 (elements otherwise)


def test_the_makers_of_an_instance_are_found_in_its_contributors_too(tmp_path: Path) -> None:
    dataset = SMALL.datasets()[0]
    node = Dataset()
    node.Manufacturer = PRODUCT
    dataset.ContributingEquipmentSequence = [node]
    assert _written(tmp_path, dataset).makers == ("Ball Works", "dicomnode")


def test_a_traceback_with_a_header_in_it_names_no_patient(tmp_path: Path) -> None:
    header = _written(tmp_path, SMALL.datasets()[0])
    assert "Phantom" not in f"{header!r} {header}"


def test_what_is_verbatim_keeps_malformed_text(tmp_path: Path) -> None:
    header = _with_raw(tmp_path, "StudyID", b"AB12", b"A\xff1\x01")
    element = copy_of(header.dataset, header.dataset.get_item("StudyID").tag)
    assert element is not None
    assert not isinstance(element, Misfit)
    assert element.value == b"A\xff1\x01"


@pytest.fixture(scope="module")
def encoded() -> bytes:
    """One instance of 1.5 kB."""
    buffer = io.BytesIO()
    dcmwrite(buffer, SMALL.datasets()[0], enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.faults
@settings(max_examples=times(150, 10_000), deadline=None)
@given(place=st.integers(132, 1400), noise=st.binary(min_size=1, max_size=12), cut=st.booleans())
def test_broken_bytes_give_a_header_or_a_reason(
    encoded: bytes, tmp_path_factory: pytest.TempPathFactory, place: int, noise: bytes, cut: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.dcm"
    broken = encoded[:place] + noise + (b"" if cut else encoded[place + len(noise) :])
    path.write_bytes(broken)
    found = headers.read_header_or_reason(path)
    if isinstance(found, headers.InstanceHeader):
        assert isinstance(found.text("PatientName"), str)
        assert isinstance(found.identity_digest, str)
    else:
        assert found.reason in ("it is not a DICOM file", "its header cannot be read")


def test_a_header_is_what_pydicom_reads() -> None:
    path = PROSTATE / "0005.dcm"
    header, dataset = headers.read_header(path), dcmread(path, stop_before_pixels=True)
    assert header.position_mm == tuple(dataset.ImagePositionPatient)
    assert header.echo_time_ms == dataset.EchoTime
    assert header.text("PatientName") == str(dataset.PatientName)
    assert header.transfer_syntax_uid == dataset.file_meta.TransferSyntaxUID != ExplicitVRLittleEndian
