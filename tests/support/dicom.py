"""Small MR objects as bytes, and foreign senders that bring files to a port."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import dcmwrite, write_dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from tests.support.dcmtk import environment, program
from tests.support.pdu import MR_IMAGE

SEND_LIMIT_S = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One object and what it is called."""

    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    dataset: bytes  # explicit little endian


def mr_dataset(
    number: int = 1, *, size: int = 16, series_uid: str = "", study_uid: str = "", sop_instance_uid: str = ""
) -> Dataset:
    """An MR instance with just what the receiver looks at, and pixels that differ from number to number."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    dataset.SOPClassUID = MR_IMAGE
    dataset.SOPInstanceUID = sop_instance_uid or generate_uid()
    dataset.StudyDate = "20200102"
    dataset.Modality = "MR"
    dataset.PatientName, dataset.PatientID = "Phantom^Made", "P-1"
    dataset.StudyInstanceUID = study_uid or generate_uid()
    dataset.SeriesInstanceUID = series_uid or generate_uid()
    dataset.InstanceNumber = number
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = size, size
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.PixelData = bytes((number + index) % 251 for index in range(64)) * (size * size * 2 // 64)
    return dataset


def encoded(dataset: Dataset, *, implicit: bool = False) -> bytes:
    """The dataset as it goes over the wire."""
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, implicit
    write_dataset(stream, dataset)
    return stream.getvalue()


def made(number: int = 1, *, size: int = 16, series_uid: str = "", sop_instance_uid: str = "") -> Made:
    """An MR object, ready to be sent."""
    dataset = mr_dataset(number, size=size, series_uid=series_uid, sop_instance_uid=sop_instance_uid)
    return Made(
        sop_class_uid=MR_IMAGE,
        sop_instance_uid=str(dataset.SOPInstanceUID),
        series_uid=str(dataset.SeriesInstanceUID),
        dataset=encoded(dataset),
    )


def write_part10(path: Path, dataset: Dataset, transfer_syntax: str = ExplicitVRLittleEndian) -> Path:
    """A file that any sender takes."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(transfer_syntax)
    dcmwrite(
        path,
        dataset,
        enforce_file_format=True,
        implicit_vr=transfer_syntax == ImplicitVRLittleEndian,
        little_endian=True,
    )
    return path


def write_series(
    folder: Path, count: int, *, size: int = 16, transfer_syntax: str = ExplicitVRLittleEndian
) -> list[Path]:
    """One series of MR files."""
    folder.mkdir(parents=True, exist_ok=True)
    series_uid, study_uid = generate_uid(), generate_uid()
    return [
        write_part10(
            folder / f"{number:04d}.dcm",
            mr_dataset(number, size=size, series_uid=series_uid, study_uid=study_uid),
            transfer_syntax,
        )
        for number in range(1, count + 1)
    ]


def dataset_bytes(path: Path) -> bytes:
    """The part of a Part 10 file that a sender puts on the wire: all after the meta group, whose length it states."""
    content = path.read_bytes()
    return content[144 + int.from_bytes(content[140:144], "little") :]


def storescu(
    port: int,
    files: Sequence[Path],
    *options: str,
    calling: str = "TEST",
    called: str = "DICOMNODE",
    nodelay: bool = True,
) -> subprocess.CompletedProcess[str]:
    """DCMTK's sender: stops at the first failure status, and says so by its exit code."""
    surroundings = environment()
    if not nodelay:
        del surroundings["TCP_NODELAY"]
    command = [program("storescu"), "-aet", calling, "-aec", called, *options, "127.0.0.1", str(port), *map(str, files)]
    return subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False, timeout=SEND_LIMIT_S)


def dcmsend(
    port: int, files: Sequence[Path], report: Path, *options: str, calling: str = "TEST", called: str = "DICOMNODE"
) -> str:
    """DCMTK's other sender; its report, since it exits with 0 whatever was refused."""
    command = [
        program("dcmsend"), "-aet", calling, "-aec", called, "+crf", str(report), *options,
        "127.0.0.1", str(port), *map(str, files),
    ]  # fmt: skip
    subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=SEND_LIMIT_S)
    return report.read_text() if report.exists() else ""
