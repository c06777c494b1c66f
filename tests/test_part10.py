"""The file meta and the data set are found as a foreign reader finds them, and in files that break the rules."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom.dsutils import split_dataset

from dicomnode.ids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.part10 import META_START, FileMeta, dataset_sha256, element, file_meta, read_meta
from tests.support.dicom import dataset_bytes, mr_dataset, write_part10
from tests.support.pdu import EXPLICIT, MR_IMAGE
from tests.support.shared import DATA, needs_shared

ROOT = Path(__file__).resolve().parents[1]
REST = b"\x08\x00\x05\x00CS\x04\x00ABCD"  # the data set of the files below


def _meta(private: bytes | None = None) -> bytes:
    return file_meta(sop_class_uid=MR_IMAGE, sop_instance_uid="1.2.3", transfer_syntax_uid=EXPLICIT, private=private)


def _read(content: bytes) -> tuple[FileMeta, bytes]:
    file = BytesIO(content)
    meta = read_meta(file)
    assert meta is not None
    return meta, file.read()


def _part10(*elements: bytes) -> bytes:
    return bytes(128) + b"DICM" + b"".join(elements) + REST


@pytest.mark.parametrize("private", [None, b'{"peer": "mr1"}'])
def test_what_we_write_is_what_pydicom_writes(private: bytes | None) -> None:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(MR_IMAGE), UID("1.2.3")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    if private is not None:
        meta.PrivateInformationCreatorUID, meta.PrivateInformation = UID(IMPLEMENTATION_CLASS_UID), private
    buffer = DicomBytesIO()
    write_file_meta_info(buffer, meta)
    assert _meta(private) == bytes(128) + b"DICM" + buffer.getvalue()


def _is_read_as_pynetdicom_reads_it(path: Path) -> bool:
    theirs, start = split_dataset(path)
    with path.open("rb") as file:
        ours = read_meta(file)
        assert ours is not None
        assert file.tell() == ours.start == start
    assert ours.transfer_syntax_uid == theirs.get("TransferSyntaxUID", "")
    assert ours.sop_class_uid == theirs.get("MediaStorageSOPClassUID", "")
    assert ours.sop_instance_uid == theirs.get("MediaStorageSOPInstanceUID", "")
    return ours.is_length_right


def test_every_sample_is_read_as_another_reader_reads_it() -> None:
    paths = sorted((ROOT / "dicomnode" / "samples").rglob("*.dcm"))
    assert len(paths) > 20
    assert all(map(_is_read_as_pynetdicom_reads_it, paths))


@needs_shared
def test_every_real_file_is_read_as_another_reader_reads_it() -> None:
    paths = [path for path in sorted(DATA.rglob("*.dcm")) if path.read_bytes()[128:META_START] == b"DICM"]
    assert sum(map(_is_read_as_pynetdicom_reads_it, paths)) > 50


def test_elements_of_the_meta_group_that_a_sender_put_into_the_data_set_are_part_of_it() -> None:
    stray = element(0x00020010, "UI", b"1.2.840.10008.1.2\0")
    meta, rest = _read(_meta() + stray + REST)
    assert rest == stray + REST
    assert (meta.transfer_syntax_uid, meta.is_length_right) == (EXPLICIT, True)


@pytest.mark.parametrize("length", [b"", b"\0\0\0\0", b"\x05\0\0\0", b"\xff\xff\xff\xff", b"\0\x10\0\0"])
def test_a_group_length_that_is_wrong_or_missing_is_seen_and_passed_over(length: bytes) -> None:
    stated = element(0x00020000, "UL", length) if length else b""
    syntax = element(0x00020010, "UI", EXPLICIT.encode() + b"\0" * (len(EXPLICIT) % 2))
    found, rest = _read(_part10(stated, syntax))
    assert (rest, found.is_length_right, found.transfer_syntax_uid) == (REST, False, EXPLICIT)


def test_a_file_without_preamble_is_none_and_is_read_from_its_beginning() -> None:
    for content in (b"", b"DICM", bytes(132), b"DICM" * 40 + REST, REST):
        file = BytesIO(content)
        assert content[128:132] == b"DICM" or read_meta(file) is None
        assert content[128:132] == b"DICM" or file.read() == content


@given(
    st.binary(max_size=200), st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=4), st.integers(0)
)
def test_whatever_the_bytes_are_an_answer_comes(junk: bytes, edits: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(_meta() + junk)
    for place, value in edits:
        content[place % len(content)] = value
    damaged = bytes(content[: cut % len(content)])
    for bytes_read in (damaged, bytes(128) + b"DICM" + junk):
        file = BytesIO(bytes_read)
        meta = read_meta(file)
        assert (meta is None) == (bytes_read[128:META_START] != b"DICM")
        assert meta is None or meta.start >= META_START
        assert bytes_read.endswith(file.read())


def test_the_digest_is_that_of_the_data_set_alone(tmp_path: Path) -> None:
    """File meta is rewritten by every hop; the reference finds the data set by its first element."""
    path = write_part10(tmp_path / "one.dcm", mr_dataset())
    content = path.read_bytes()
    expected = hashlib.sha256(content[content.index(b"\x08\x00\x05\x00CS") :]).hexdigest()
    assert _digest(path) == expected
    dataset = dcmread(path)
    dataset.file_meta.SourceApplicationEntityTitle = "ELSEWHERE"
    dataset.file_meta.PrivateInformationCreatorUID = UID("1.2.3")
    dataset.file_meta.PrivateInformation = b"\x02\x00\x10\x00UI"
    dcmwrite(path, dataset)
    assert path.read_bytes() != content
    assert _digest(path) == expected


@pytest.mark.parametrize("made", [lambda path: path.open("rb"), lambda path: BytesIO(path.read_bytes())])
def test_the_digest_is_the_same_of_a_file_and_of_its_bytes(tmp_path: Path, made: Callable[[Path], BytesIO]) -> None:
    path = write_part10(tmp_path / "one.dcm", mr_dataset(size=512))  # more than one piece
    with made(path) as file:
        assert dataset_sha256(file) == hashlib.sha256(dataset_bytes(path)).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return dataset_sha256(file)
