"""Three balls at known places, as a clean thick series in any orientation: what geometry is measured against.

Intensities are computed, not sampled, across the slice: the share of a box profile that a ball fills along the normal
is a chord, which has a formula. Pixels are not square and the balls not symmetric, so that swapped rows and columns,
swapped spacings, a reversed stack and a shift by half a block all move a centroid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from scipy.spatial.transform import Rotation

Vector = NDArray[np.float64]

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
SUBPIXELS = 4  # per side: a ball's rim is not a staircase


@dataclass(frozen=True, slots=True, kw_only=True)
class Ball:
    """A bright sphere, LPS mm."""

    centre_mm: tuple[float, float, float]
    radius_mm: float
    brightness: float


BALLS = (
    Ball(centre_mm=(-17.3, 9.1, 21.7), radius_mm=9.0, brightness=900.0),
    Ball(centre_mm=(14.9, -16.2, 4.3), radius_mm=7.5, brightness=700.0),
    Ball(centre_mm=(3.1, 12.4, -19.6), radius_mm=8.2, brightness=1100.0),
)


def turned(degrees: Sequence[float], row: Sequence[float], column: Sequence[float]) -> tuple[Vector, Vector]:
    """Row and column direction of a plane after turning it about x, y and z."""
    rotation = Rotation.from_euler("xyz", degrees, degrees=True)
    return rotation.apply(np.asarray(row, dtype=float)), rotation.apply(np.asarray(column, dtype=float))


ORIENTATIONS: dict[str, tuple[Vector, Vector]] = {
    "axial": turned((0, 0, 0), (1, 0, 0), (0, 1, 0)),
    "sagittal": turned((0, 0, 0), (0, 1, 0), (0, 0, -1)),
    "coronal": turned((0, 0, 0), (1, 0, 0), (0, 0, -1)),
    "double oblique": turned((17, -12, 8), (1, 0, 0), (0, 1, 0)),
    "oblique sagittal": turned((9, 0, -14), (0, 1, 0), (0, 0, -1)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantom:
    """A series to be: geometry and what the scanner writes about it."""

    orientation: str = "axial"
    slices: int = 26
    spacing_mm: float = 4.0
    thickness_mm: float = 4.0
    rows: int = 72
    columns: int = 88
    row_spacing_mm: float = 1.3
    column_spacing_mm: float = 1.1
    numbers_fall: bool = False  # Instance Numbers against the normal
    is_signed: bool = False
    bits_stored: int = 12
    rescale: tuple[float, float] | None = None  # slope, intercept
    changes: dict[str, object] = field(default_factory=dict)  # attributes of every slice; None removes one

    @property
    def directions(self) -> tuple[Vector, Vector, Vector]:
        """Row, column and normal."""
        row, column = ORIENTATIONS[self.orientation]
        return row, column, np.cross(row, column)

    def position_mm(self, index: float) -> Vector:
        """Centre of the first voxel of a slice, counted along the normal; the slab is centred on the origin."""
        row, column, normal = self.directions
        middle = (self.slices - 1) / 2
        return np.asarray(
            normal * (index - middle) * self.spacing_mm
            - row * (self.columns - 1) / 2 * self.column_spacing_mm
            - column * (self.rows - 1) / 2 * self.row_spacing_mm
        )

    def frame(self, index: int) -> NDArray[np.float64]:
        """Modality values (rows, columns) of one slice."""
        row, column, normal = self.directions
        offsets = (np.arange(SUBPIXELS) + 0.5) / SUBPIXELS - 0.5
        down = ((np.arange(self.rows)[:, None] + offsets).ravel() * self.row_spacing_mm)[:, None, None]
        along = ((np.arange(self.columns)[:, None] + offsets).ravel() * self.column_spacing_mm)[None, :, None]
        places = self.position_mm(index) + down * column + along * row
        total = np.zeros(places.shape[:2])
        for ball in BALLS:
            to_ball = places - np.asarray(ball.centre_mm)
            depth = to_ball @ normal
            half_chord = np.sqrt(np.maximum(ball.radius_mm**2 - ((to_ball**2).sum(axis=-1) - depth**2), 0.0))
            near = np.maximum(depth - self.thickness_mm / 2, -half_chord)
            far = np.minimum(depth + self.thickness_mm / 2, half_chord)
            total += ball.brightness * np.maximum(far - near, 0.0) / self.thickness_mm
        return np.asarray(total.reshape(self.rows, SUBPIXELS, self.columns, SUBPIXELS).mean(axis=(1, 3)))

    def datasets(self) -> list[Dataset]:
        """The instances, ascending along the normal."""
        study, series, frame_of_reference = generate_uid(), generate_uid(), generate_uid()
        made = []
        for index in range(self.slices):
            dataset = _attributes(self, index)
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
            dataset.FrameOfReferenceUID = frame_of_reference
            slope, intercept = self.rescale or (1.0, 0.0)
            stored = np.rint((self.frame(index) - intercept) / slope)
            dataset.PixelData = stored.astype("<i2" if self.is_signed else "<u2").tobytes()
            dataset["PixelData"].VR = "OW"
            for keyword, value in self.changes.items():
                _change(dataset, keyword, value)
            made.append(dataset)
        return made

    def write(self, folder: Path) -> list[Path]:
        """The files, ascending along the normal; their names say nothing of the order."""
        return write_datasets(folder, self.datasets())


def write_datasets(folder: Path, datasets: Sequence[Dataset]) -> list[Path]:
    """Write instances, Part 10, under names that sort in another order than the slices."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for place, dataset in enumerate(datasets):
        path = folder / f"{(place * 7919) % 10007:05d}.dcm"
        dcmwrite(path, dataset, enforce_file_format=True)
        paths.append(path)
    return paths


def _change(dataset: Dataset, keyword: str, value: object) -> None:
    if value is None:
        if keyword in dataset:
            delattr(dataset, keyword)
    else:
        setattr(dataset, keyword, value)


def _attributes(phantom: Phantom, index: int) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    row, column, normal = phantom.directions
    number = phantom.slices - index if phantom.numbers_fall else index + 1
    values: dict[str, object] = {
        "SpecificCharacterSet": "ISO_IR 100",
        "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
        "SOPClassUID": UID(MR_IMAGE_STORAGE),
        "SOPInstanceUID": generate_uid(),
        "StudyDate": "20200102",
        "StudyTime": "101112",
        "SeriesDate": "20200102",
        "SeriesTime": "101200",
        "AcquisitionDate": "20200102",
        "AcquisitionTime": f"1013{index % 60:02d}.500000",
        "ContentDate": "20200102",
        "ContentTime": f"1014{index % 60:02d}",
        "AccessionNumber": "A1",
        "Modality": "MR",
        "Manufacturer": "Ball Works",
        "ManufacturerModelName": "Three",
        "DeviceSerialNumber": "S-3",
        "SoftwareVersions": ["v1", "v2"],
        "StationName": "MR1",
        "InstitutionName": "Test House",
        "ReferringPhysicianName": "",
        "StudyDescription": "Balls",
        "SeriesDescription": "T2 balls",
        "OperatorsName": "Operator^One",
        "PatientName": "Phantom^Ball",
        "PatientID": "BALL-1",
        "PatientBirthDate": "19700102",
        "PatientSex": "O",
        "BodyPartExamined": "HEAD",
        "ScanningSequence": "SE",
        "SequenceVariant": "SK",
        "ScanOptions": "",
        "MRAcquisitionType": "2D",
        "SliceThickness": phantom.thickness_mm,
        "RepetitionTime": "3000",
        "EchoTime": "90",
        "EchoTrainLength": "9",
        "MagneticFieldStrength": "1.5",
        "SpacingBetweenSlices": phantom.spacing_mm,
        "FlipAngle": "150",
        "PatientPosition": "HFS",
        "StudyID": "1",
        "SeriesNumber": 7,
        "AcquisitionNumber": 1,
        "InstanceNumber": number,
        "ImagePositionPatient": [f"{mm:.10g}"[:16] for mm in phantom.position_mm(index)],
        "ImageOrientationPatient": [f"{cosine:.10g}"[:16] for cosine in (*row, *column)],
        "PositionReferenceIndicator": "",
        "SliceLocation": f"{float(phantom.position_mm(index) @ normal):.6f}",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": phantom.rows,
        "Columns": phantom.columns,
        "PixelSpacing": [phantom.row_spacing_mm, phantom.column_spacing_mm],
        "BitsAllocated": 16,
        "BitsStored": phantom.bits_stored,
        "HighBit": phantom.bits_stored - 1,
        "PixelRepresentation": int(phantom.is_signed),
        "WindowCenter": str(500 + index),
        "WindowWidth": str(1000 + index),
    }
    if phantom.rescale is not None:
        values |= {"RescaleSlope": phantom.rescale[0], "RescaleIntercept": phantom.rescale[1], "RescaleType": "US"}
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset
