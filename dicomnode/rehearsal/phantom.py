"""Five test images, encoded by the code that encodes derived series, so that a peer sees what it will get.

In: a folder and our AE title. Out: instances in explicit VR little endian, with UIDs drawn anew, as files of that
folder. They hold a bright ball and no patient. The patient's name says what they are; nothing of them is written to the
archive or the ledger.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicomnode.derivation import DerivationParameters
from dicomnode.derive.encode import derive
from dicomnode.derive.facts import DerivationPlan
from dicomnode.generators.cubic_dc import NAME
from dicomnode.ids import AeTitle
from dicomnode.imaging.frame import read_frames
from dicomnode.imaging.stack import load_volume
from dicomnode.push.carrier import InstanceFormat, OutgoingInstance
from dicomnode.wire import MR_IMAGE

SLICES = 5
SIZE = 64  # rows and columns, of 1 mm
PATIENT_NAME = "TEST^DICOMNODE"
PATIENT_ID = "DICOMNODE-TEST"
DESCRIPTION = "TEST IMAGES OF DICOMNODE, DELETE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantom:
    """The test series."""

    study_uid: str
    series_uid: str
    instances: tuple[OutgoingInstance, ...]


def make_phantom(folder: Path, ae_title: AeTitle, created_at: datetime) -> Phantom:
    """Draw the UIDs and encode the images into this folder. ``created_at`` is aware; it becomes their date and time."""
    study_uid, namespace = _new_uid(), uuid.uuid4()
    plan = DerivationPlan(
        parameters=DerivationParameters(rule="rehearsal", model=NAME, model_digest="test images"),
        model_kind=NAME,
        namespace=namespace,
        ae_title=ae_title,
        created_at=created_at,
    )
    stack = load_volume(read_frames(_write_sources(folder, study_uid, created_at)))
    derivation = derive(stack, stack.volume, plan, consistency=True)
    instances: list[OutgoingInstance] = []
    for number, file in enumerate(derivation.files(), 1):
        path = folder / f"derived{number}.dcm"
        path.write_bytes(file.content)
        instances.append(
            OutgoingInstance(
                format=InstanceFormat(sop_class_uid=MR_IMAGE, transfer_syntax_uid=file.transfer_syntax_uid),
                sop_instance_uid=file.sop_instance_uid,
                path=path,
            )
        )
    return Phantom(study_uid=study_uid, series_uid=derivation.series_uid, instances=tuple(instances))


def _write_sources(folder: Path, study_uid: str, made_at: datetime) -> Iterator[Path]:
    """Write slices as a scanner would have sent them: the encoder inherits what it writes from a source."""
    series_uid, frame_uid = _new_uid(), _new_uid()
    for number, picture in enumerate(_ball(), 1):
        dataset = Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID = MR_IMAGE, _new_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study_uid, series_uid
        dataset.FrameOfReferenceUID = frame_uid
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
        dataset.StudyDate, dataset.StudyTime = f"{made_at:%Y%m%d}", f"{made_at:%H%M%S}"
        dataset.PatientName, dataset.PatientID = PATIENT_NAME, PATIENT_ID
        dataset.PatientBirthDate, dataset.PatientSex = "", "O"
        dataset.StudyID, dataset.AccessionNumber, dataset.ReferringPhysicianName = "TEST", "", ""
        dataset.StudyDescription = dataset.SeriesDescription = DESCRIPTION
        dataset.Modality, dataset.Manufacturer = "MR", "dicomnode"
        dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "RM", "NONE", ""
        dataset.MRAcquisitionType, dataset.EchoTrainLength = "2D", "1"
        dataset.EchoTime, dataset.RepetitionTime = "1", "1"
        dataset.SliceThickness = dataset.SpacingBetweenSlices = "1"
        dataset.SeriesNumber, dataset.InstanceNumber = 1, number
        dataset.ImagePositionPatient = [-SIZE / 2, -SIZE / 2, float(number)]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.PatientPosition, dataset.PositionReferenceIndicator = "HFS", ""
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.Rows, dataset.Columns, dataset.PixelSpacing = SIZE, SIZE, [1.0, 1.0]
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
        dataset.PixelData = picture.tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = UID(ExplicitVRLittleEndian)
        path = folder / f"{number}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        yield path


def _ball() -> NDArray[np.uint16]:
    """Return a ball of smooth brightness, (slices, rows, columns)."""
    z, y, x = np.mgrid[:SLICES, :SIZE, :SIZE].astype(np.float64)
    squared = (x - SIZE / 2) ** 2 + (y - SIZE / 2) ** 2 + (z - SLICES // 2) ** 2
    return np.asarray(1000 * np.exp(-squared / (2 * (SIZE / 5) ** 2)), dtype="<u2")


def _new_uid() -> str:
    """Make a UID from a random UUID (PS3.5 section B.2)."""
    return f"2.25.{uuid.uuid4().int}"
