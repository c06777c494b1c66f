"""The archive keeps bytes as they came, under names of our own."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from pydicom import dcmread

from dicomnode.archive.digests import dataset_digest
from dicomnode.archive.origin import read_origin
from dicomnode.archive.store import Archive, FileState
from dicomnode.errors import StorageError
from dicomnode.ids import InstanceId
from tests.support.dicom import dataset_bytes, made, mr_dataset, write_part10
from tests.support.mounts import unreachable, unreadable
from tests.support.pdu import EXPLICIT
from tests.support.stored import AT, SERIES, put_file


def test_a_file_is_named_by_our_ids_and_holds_the_bytes_as_received(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    one = made(1)
    file = put_file(archive, 255, dataset=one.dataset)
    assert file == "7/00000000000000ff.dcm"
    assert dataset_bytes(archive.path(file)) == one.dataset
    assert archive.path(file).read_bytes().endswith(one.dataset)


def test_a_file_is_part_10_for_pydicom_and_keeps_its_origin(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    one = made(1)
    file = archive.put(
        SERIES,
        InstanceId(1),
        sop_class_uid=one.sop_class_uid,
        sop_instance_uid=one.sop_instance_uid,
        transfer_syntax_uid=EXPLICIT,
        dataset=one.dataset,
        peer="mr1",
        received_at=AT,
    )
    read = dcmread(archive.path(file))
    assert read.file_meta.MediaStorageSOPInstanceUID == one.sop_instance_uid == read.SOPInstanceUID
    assert read.file_meta.TransferSyntaxUID == EXPLICIT
    length = read.file_meta.FileMetaInformationGroupLength
    assert archive.path(file).read_bytes()[144 + length :] == one.dataset
    origin = read_origin(archive.path(file))
    assert origin is not None
    assert (origin.id, origin.peer, origin.received_at) == (1, "mr1", AT)


def test_dcmdump_reads_the_file_without_complaint(tmp_path: Path) -> None:
    dcmdump = pytest.importorskip("tests.support.dcmtk").find_program("dcmdump")
    if dcmdump is None:
        pytest.skip("DCMTK is not installed")
    archive = Archive(tmp_path)
    told = subprocess.run([dcmdump, archive.path(put_file(archive))], capture_output=True, text=True, check=False)
    assert told.returncode == 0
    assert "W:" not in told.stderr
    assert "E:" not in told.stderr


def test_a_foreign_part_10_file_gives_its_dataset_too(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.folder_of(SERIES).mkdir(parents=True)
    path = write_part10(archive.folder_of(SERIES) / "x.dcm", mr_dataset())
    assert dataset_digest(archive.path("7/x.dcm")) == hashlib.sha256(dataset_bytes(path)).hexdigest()
    assert read_origin(path) is None


def test_verify_tells_whole_altered_and_missing_apart(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    file = put_file(archive, dataset=b"abcd")
    digest = hashlib.sha256(b"abcd").hexdigest()
    assert archive.verify(file, digest) is FileState.WHOLE
    assert dataset_digest(archive.path(file)) == digest
    content = bytearray(archive.path(file).read_bytes())
    content[-1] ^= 1
    archive.path(file).write_bytes(content)
    assert archive.verify(file, digest) is FileState.ALTERED
    archive.path(file).write_bytes(b"no DICOM at all")
    assert archive.verify(file, digest) is FileState.ALTERED
    archive.path(file).unlink()
    assert archive.verify(file, digest) is FileState.MISSING


def test_a_file_whose_meta_no_longer_leads_to_its_dataset_is_altered(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    file = put_file(archive, dataset=b"abcd")
    content = bytearray(archive.path(file).read_bytes())
    content[140] ^= 1  # the group length
    archive.path(file).write_bytes(content)
    assert archive.verify(file, hashlib.sha256(b"abcd").hexdigest()) is FileState.ALTERED
    with pytest.raises(StorageError, match="does not begin"):
        dataset_digest(archive.path(file))


def test_a_dataset_that_begins_with_elements_of_the_meta_group_comes_back_whole(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    dataset = b"\x02\0\x10\0UI\x02\x001\0" + made(1).dataset
    file = put_file(archive, dataset=dataset)
    assert dataset_bytes(archive.path(file)) == dataset
    assert archive.verify(file, hashlib.sha256(dataset).hexdigest()) is FileState.WHOLE


@pytest.mark.parametrize("disk", [unreadable, unreachable])
def test_a_disk_that_cannot_be_read_is_no_verdict_on_the_file(
    tmp_path: Path, disk: Callable[[Path], AbstractContextManager[None]]
) -> None:
    archive = Archive(tmp_path)
    file = put_file(archive, dataset=b"abcd")
    digest = hashlib.sha256(b"abcd").hexdigest()
    with disk(archive.path(file)), pytest.raises(StorageError, match="could not be read"):
        archive.verify(file, digest)
    assert archive.verify(file, digest) is FileState.WHOLE


def test_an_altered_file_is_not_read(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    file = put_file(archive)
    archive.path(file).write_bytes(b"x" * 200)
    with pytest.raises(StorageError, match="does not begin"):
        dataset_digest(archive.path(file))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"7/1\.dcm"):
        dataset_digest(Archive(tmp_path).path("7/1.dcm"))


def test_a_path_that_leaves_the_archive_is_our_own_mistake(tmp_path: Path) -> None:
    for file in ("../x", "/etc/passwd", "a/b/c", "x"):
        with pytest.raises(AssertionError):
            Archive(tmp_path).path(file)
