"""Small MR series made from nothing: a stack of slices that the node would process, and what a test changes of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"


def mr_datasets(
    *,
    slices: int = 6,
    slice_spacing_mm: float = 4.0,
    size: int = 16,
    series_uid: str | None = None,
    attributes: Mapping[str, object] | None = None,
) -> list[Dataset]:
    """An axial stack of ``slices``, ``size`` × ``size`` pixels of 1 mm, with smooth structure along the slices."""
    study_uid, frame_uid = generate_uid(), generate_uid()
    series_uid = series_uid or generate_uid()
    rows, columns = np.mgrid[:size, :size]
    made = []
    for number in range(slices):
        dataset = Dataset()
        dataset.SOPClassUID = MR_IMAGE_STORAGE
        dataset.SOPInstanceUID = generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study_uid, series_uid
        dataset.FrameOfReferenceUID = frame_uid
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
        dataset.StudyDate, dataset.StudyTime = "20200102", "101112"
        dataset.StudyID, dataset.AccessionNumber = "1", ""
        dataset.ReferringPhysicianName = ""
        dataset.Modality, dataset.Manufacturer = "MR", "Maker"
        dataset.SeriesDescription = "T2 TSE TRA"
        dataset.PatientName, dataset.PatientID = "Phantom^Made", "P-1"
        dataset.PatientBirthDate, dataset.PatientSex = "", "O"
        dataset.ScanningSequence, dataset.SequenceVariant = "SE", "SK"
        dataset.ScanOptions, dataset.MRAcquisitionType = "", "2D"
        dataset.EchoTime, dataset.RepetitionTime, dataset.EchoTrainLength = "100", "4000", "16"
        dataset.SliceThickness = f"{slice_spacing_mm:g}"
        dataset.SeriesNumber, dataset.InstanceNumber = 3, number + 1
        dataset.ImagePositionPatient = [-8.0, -8.0, slice_spacing_mm * number]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.PatientPosition, dataset.PositionReferenceIndicator = "HFS", ""
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.Rows, dataset.Columns, dataset.PixelSpacing = size, size, [1.0, 1.0]
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
        wave = 400 + 200 * np.sin(0.5 * number + 0.4 * rows) + 100 * np.cos(0.6 * columns)
        dataset.PixelData = wave.astype("<u2").tobytes()
        for keyword, value in (attributes or {}).items():
            setattr(dataset, keyword, value)
        made.append(dataset)
    return made


def write_series(folder: Path, datasets: list[Dataset]) -> list[Path]:
    """Part 10 files, explicit little endian, named by their place in the list."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, dataset in enumerate(datasets, 1):
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"{number:04}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def write_mr_series(folder: Path, **wanted: object) -> list[Path]:
    """``write_series`` of ``mr_datasets``."""
    return write_series(folder, mr_datasets(**wanted))  # type: ignore[arg-type]  # the same keywords
