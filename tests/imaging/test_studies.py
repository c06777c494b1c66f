"""What every file of a folder is: image, copy, or passed over; and when a series is not to be trusted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, generate_uid

from dicomnode.imaging.studies import Listing, list_files, passed_over_lines
from tests.support.mr_series import mr_datasets, write_mr_series, write_series

COPY = "the same as another file, which counts once"


def reasons(listed: Listing) -> dict[str, str]:
    return {path.name: reason for path, reason in listed.passed_over.items()}


def the_only_fault(listed: Listing) -> str:
    (series,) = listed.series
    return series.fault


def test_wherever_an_image_breaks_off_its_series_is_never_silently_short(tmp_path: Path) -> None:
    """The last slice, which no gap gives away; every second byte, since lengths are even but in the preamble."""
    last = write_mr_series(tmp_path, slices=2)[-1]
    content = last.read_bytes()
    for length in (129, 131, *range(0, len(content), 2), len(content) - 1):
        last.write_bytes(content[:length])
        listed = list_files([tmp_path])
        assert len(listed.series) == 1, length
        assert the_only_fault(listed).startswith("The file 0002.dcm "), length
    last.write_bytes(content)
    assert the_only_fault(list_files([tmp_path])) == ""


def test_an_encapsulated_image_that_breaks_off_keeps_its_series_out(tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path)
    for path in paths:
        dataset = dcmread(path)
        dataset.compress(RLELossless)
        dataset.save_as(path)
    assert the_only_fault(list_files([tmp_path])) == ""
    paths[2].write_bytes(paths[2].read_bytes()[:-20])
    assert the_only_fault(list_files([tmp_path])) == "The file 0003.dcm breaks off within its pixels."


def test_in_a_folder_of_many_series_only_those_are_doubted_that_a_broken_header_may_be_of(tmp_path: Path) -> None:
    for number, description in enumerate(("T1 SE SAG", "T2 TSE TRA")):
        for path in write_mr_series(tmp_path / "made", attributes={"SeriesDescription": description}):
            path.rename(tmp_path / f"{number}{path.name}")
    broken = tmp_path / "00006.dcm"
    content = broken.read_bytes()
    broken.write_bytes(content[: content.index(b"T1 SE SAG") + 20])
    by_size = {len(series.paths): series.fault for series in list_files([tmp_path]).series}
    assert "00006.dcm breaks off" in by_size[5]
    assert by_size[6] == ""


@pytest.mark.parametrize("name", ["empty.dcm", "README", "notes.txt"])
def test_an_empty_file_of_another_name_is_passed_over(name: str, tmp_path: Path) -> None:
    write_mr_series(tmp_path)
    (tmp_path / name).touch()
    listed = list_files([tmp_path])
    assert the_only_fault(listed) == ""
    assert reasons(listed) == {name: "empty, or nothing but zeros"}


def test_an_empty_file_that_is_named_as_the_next_image_may_be_one(tmp_path: Path) -> None:
    """In a folder of two series: the neighbour's."""
    first = write_mr_series(tmp_path / "made")
    second = write_mr_series(tmp_path / "made2")
    for number, path in enumerate([*first, *second], start=1):
        path.rename(tmp_path / f"IM{number}")
    (tmp_path / "IM13").write_bytes(bytes(1000))
    faults = [series.fault for series in list_files([tmp_path]).series]
    assert sorted(map(bool, faults)) == [False, True]
    assert "The file IM13 is empty or nothing but zeros, and may be an image of this series." in faults


@pytest.mark.parametrize("name", ["DICOMDIR", "dicomdir", "DICOMDIR.;1", "cd.dcm", "0000"])
def test_a_directory_file_is_no_image_whatever_its_name(name: str, tmp_path: Path) -> None:
    write_mr_series(tmp_path)
    record = Dataset()
    record.DirectoryRecordType = "PATIENT"
    directory = Dataset()
    directory.FileSetID, directory.DirectoryRecordSequence = "CD", [record]
    directory.file_meta = FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.1.3.10")
    directory.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.save_as(tmp_path / name, enforce_file_format=True)
    listed = list_files([tmp_path])
    assert reasons(listed) == {name: "a directory of DICOM files (DICOMDIR), no image"}
    assert the_only_fault(listed) == ""


def test_companion_files_of_operating_systems_are_passed_over(tmp_path: Path) -> None:
    for path in write_mr_series(tmp_path):
        path.with_name("._" + path.name).write_bytes(bytes.fromhex("00051607") + bytes(4092))
    (tmp_path / "._v.nii.gz").write_bytes(bytes.fromhex("00051607") + bytes(4092))
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).write_bytes(b"\xd0\xcf\x11\xe0")
    listed = list_files([tmp_path])
    assert (the_only_fault(listed), listed.nifti) == ("", ())
    assert set(reasons(listed).values()) == {"a file of macOS or Windows, no image"}
    (line,) = passed_over_lines(listed.passed_over)
    assert line.endswith(" and 7 more: a file of macOS or Windows, no image.")


def without_image(folder: Path, name: str, sop_class: str, **attributes: object) -> None:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.InstanceNumber = 1
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(folder / name, enforce_file_format=True)


def test_objects_without_an_image_are_passed_over_by_their_class(tmp_path: Path) -> None:
    """Also where they stand in the images' own series, as some archives put them."""
    first = dcmread(write_mr_series(tmp_path)[0])
    without_image(tmp_path, "sr.dcm", "1.2.840.10008.5.1.4.1.1.88.33", SeriesInstanceUID=first.SeriesInstanceUID)
    without_image(tmp_path, "pr.dcm", "1.2.840.10008.5.1.4.1.1.11.1")
    without_image(tmp_path, "raw.dcm", "1.3.12.2.1107.5.9.1")
    without_image(tmp_path, "mrs.dcm", "1.2.840.10008.5.1.4.1.1.4.2", Rows=1, Columns=1)
    without_image(tmp_path, "0007.dcm", "1.2.840.10008.5.1.4.1.1.4", SeriesInstanceUID="", Rows=2, Columns=2)
    listed = list_files([tmp_path])
    assert the_only_fault(listed) == ""
    assert reasons(listed) == {
        "sr.dcm": "a DICOM object without an image (Comprehensive SR Storage)",
        "pr.dcm": "a DICOM object without an image (Grayscale Softcopy Presentation State Storage)",
        "raw.dcm": "a DICOM object without an image (of a private class)",
        "mrs.dcm": "a DICOM object without an image (MR Spectroscopy Storage)",
        "0007.dcm": "a DICOM object that names no series",
    }


def test_an_image_without_a_file_header_keeps_its_series_out(tmp_path: Path) -> None:
    path = write_mr_series(tmp_path)[-1]
    content = path.read_bytes()
    path.write_bytes(content[content.index(b"\x08\x00\x08\x00CS") :])
    assert the_only_fault(list_files([tmp_path])) == "The file 0006.dcm has no DICOM file header (PS3.10)."


def test_byte_identical_copies_count_once_and_the_plain_name_is_kept(tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path / "a")
    shutil.copy(paths[2], tmp_path / "a" / "0003(1).dcm")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    listed = list_files([tmp_path])
    assert listed.series[0].paths == tuple(paths)
    assert (the_only_fault(listed), set(reasons(listed).values())) == ("", {COPY})


def test_an_image_in_another_transfer_syntax_or_under_another_file_header_is_a_copy(tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path / "a")
    (tmp_path / "b").mkdir()
    packed = dcmread(paths[0])
    packed.compress(RLELossless, generate_instance_uid=False)
    packed.save_as(tmp_path / "b" / "packed.dcm")
    implicit = dcmread(paths[1])
    implicit.ImagePositionPatient = ["-8.000000", "-8", "4.0002"]  # as a program rounds what it writes anew
    implicit.InstitutionName = "ELSEWHERE"
    implicit.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    implicit.save_as(tmp_path / "b" / "implicit.dcm", implicit_vr=True, little_endian=True)
    renamed = dcmread(paths[2])
    renamed.file_meta.ImplementationVersionName = "OTHER"
    renamed.save_as(tmp_path / "b" / "meta.dcm")
    listed = list_files([tmp_path])
    assert (the_only_fault(listed), len(listed.series[0].paths)) == ("", 6)
    assert set(reasons(listed)) == {"packed.dcm", "implicit.dcm", "meta.dcm"}


@pytest.mark.parametrize(
    ("keyword", "value", "words"),
    [
        ("PixelData", bytes(512), "their pixels"),
        ("ImagePositionPatient", [-8.0, -8.0, 99.0], "Image Position (Patient)"),
        ("PatientName", "Other^Person", "Patient's Name"),
        ("RescaleSlope", "0.001", "Rescale Slope"),
        ("EchoTime", "91", "Echo Time"),
        ("InstanceNumber", "77", "Instance Number"),
    ],
)
def test_two_images_under_one_instance_uid_keep_their_series_out(
    keyword: str, value: object, words: str, tmp_path: Path
) -> None:
    paths = write_mr_series(tmp_path)
    other = dcmread(paths[2])
    setattr(other, keyword, value)
    other.save_as(tmp_path / "other.dcm")
    fault = the_only_fault(list_files([tmp_path]))
    assert fault == (f"Two different images carry one SOP Instance UID; 0003.dcm and other.dcm differ in {words}.")
    assert str(other.SOPInstanceUID) not in fault


def test_two_series_that_share_an_instance_uid_are_both_kept_out(tmp_path: Path) -> None:
    one, two = mr_datasets(), mr_datasets()
    two[4].SOPInstanceUID = one[4].SOPInstanceUID
    write_series(tmp_path / "1", one)
    write_series(tmp_path / "2", two)
    first, second = list_files([tmp_path]).series
    assert first.fault == second.fault
    assert first.fault.startswith("Two different images carry one SOP Instance UID; two files named 0005.dcm")


def test_of_a_whole_and_a_broken_copy_the_whole_one_counts(tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path)
    (tmp_path / "0.dcm").write_bytes(paths[0].read_bytes()[:-30])
    listed = list_files([tmp_path])
    assert (the_only_fault(listed), listed.series[0].paths) == ("", tuple(paths))
    assert reasons(listed) == {"0.dcm": "a part of an image that is here whole"}


def test_links_never_double_a_series_nor_hang(tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path / "a")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "again.dcm").symlink_to(paths[0])
    os.mkfifo(tmp_path / "pipe")
    listed = list_files([tmp_path, tmp_path / "a", tmp_path])
    assert len(listed.series[0].paths) == 6
    assert reasons(listed) == {
        "loop": "a link to a folder, which is not followed",
        "self": "a link to nothing",
        "gone": "a link to nothing",
        "again.dcm": COPY,
        "pipe": "no regular file",
    }


def test_a_file_that_the_disk_refuses_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    """The memory of this process, from its first byte on, is a file that opens and cannot be read."""
    write_mr_series(tmp_path)
    (tmp_path / "bad.dcm").symlink_to("/proc/self/mem")
    listed = list_files([tmp_path])
    assert the_only_fault(listed) == ""
    assert reasons(listed) == {"bad.dcm": "a file that cannot be opened (Input/output error)"}
    (tmp_path / "bad.dcm").rename(tmp_path / "0007.dcm")
    assert the_only_fault(list_files([tmp_path])).startswith("The file 0007.dcm cannot be opened, and may be")


def test_a_name_of_any_bytes_can_be_printed(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff\n\x1bd.txt")).write_text("x")
    (line,) = passed_over_lines(list_files([tmp_path]).passed_over)
    assert line == r"Passed over: b\udcff\x0a\x1bd.txt: neither DICOM nor NIfTI."


def test_whoever_waits_is_told_how_many_files_were_looked_at(tmp_path: Path) -> None:
    write_mr_series(tmp_path)
    told: list[int] = []
    list_files([tmp_path], progress=told.append)
    assert told == [1, 2, 3, 4, 5, 6]
