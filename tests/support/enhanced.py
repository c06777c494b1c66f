"""The analytic phantom as Enhanced MR objects: frames in any order, one group shared or each frame's own, two scalings.

Written by hand after PS3.3 A.36 with pydicom alone: what is tested reads it by its own code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from tests.support.phantom import Phantom, write_datasets

ENHANCED_MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4.1"

# Attributes that stand at the top level of a classic image and in a functional group of an Enhanced one.
IN_GROUPS = (
    "ImageType", "AcquisitionDate", "AcquisitionTime", "ScanningSequence", "SequenceVariant", "ScanOptions",
    "SliceThickness", "RepetitionTime", "EchoTime", "EchoTrainLength", "SpacingBetweenSlices", "FlipAngle",
    "ImagePositionPatient", "ImageOrientationPatient", "SliceLocation", "PixelSpacing", "WindowCenter", "WindowWidth",
    "RescaleSlope", "RescaleIntercept", "RescaleType", "AcquisitionNumber", "InstanceNumber",
)  # fmt: skip

Change = Callable[[Dataset], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnhancedPhantom:
    """A phantom whose slices become the frames of Enhanced MR objects, and how they do."""

    phantom: Phantom
    seed: int | None = None  # of the order of the frames; None: ascending
    parts: int = 1  # of a concatenation
    second_slope: float | None = None  # of every other slice; the first ones have the slope 1

    @property
    def order(self) -> list[int]:
        """The slice of each frame, counted along the normal."""
        slices = list(range(self.phantom.slices))
        if self.seed is not None:
            np.random.default_rng(self.seed).shuffle(slices)
        return slices

    def slope(self, index: int) -> float:
        """The rescale slope of a slice."""
        return self.second_slope if self.second_slope and index % 2 else 1.0

    def datasets(self) -> list[Dataset]:
        """One object, or one for each part."""
        classic = self.phantom.datasets()
        concatenation = generate_uid()
        made: list[Dataset] = []
        for part, chosen in enumerate(np.array_split(self.order, self.parts), start=1):
            slices = [int(index) for index in chosen]
            dataset = _object(classic[0], [self._frame(classic[index], index) for index in slices])
            values = [np.rint(self.phantom.frame(index) / self.slope(index)).astype("<u2") for index in slices]
            dataset.PixelData = np.stack(values).tobytes()
            dataset["PixelData"].VR = "OW"
            dataset.InstanceNumber = part
            if self.parts > 1:
                dataset.ConcatenationUID = concatenation
                dataset.InConcatenationNumber, dataset.InConcatenationTotalNumber = part, self.parts
                dataset.ConcatenationFrameOffsetNumber = sum(one.NumberOfFrames or 0 for one in made)
            made.append(dataset)
        return made

    def write(self, folder: Path, *, change: Change = lambda _: None) -> list[Path]:
        """The files of the objects, each changed before it is written."""
        datasets = self.datasets()
        for dataset in datasets:
            change(dataset)
        return write_datasets(folder, datasets)

    def _frame(self, classic: Dataset, index: int) -> Dataset:
        """The item of one frame."""
        frame = Dataset()
        content = group(
            StackID="1",
            InStackPositionNumber=int(index) + 1,
            DimensionIndexValues=[1, self.phantom.slices - int(index)],  # against the normal, on purpose
            FrameAcquisitionDateTime=f"{classic.AcquisitionDate}{classic.AcquisitionTime}",
            FrameAcquisitionNumber=1,
        )
        frame.FrameContentSequence = content
        frame.PlanePositionSequence = group(ImagePositionPatient=classic.ImagePositionPatient)
        frame.FrameVOILUTSequence = group(WindowCenter=classic.WindowCenter, WindowWidth=classic.WindowWidth)
        frame.PixelValueTransformationSequence = group(
            RescaleIntercept="0", RescaleSlope=f"{self.slope(index):.12g}", RescaleType="US"
        )
        return frame


def enhanced_of(classic: Sequence[Dataset]) -> Dataset:
    """One object with the slices of a classic series as its frames, in the order given."""
    frames = []
    for place, dataset in enumerate(classic, start=1):
        frame = Dataset()
        frame.FrameContentSequence = group(StackID="1", InStackPositionNumber=place)
        frame.PlanePositionSequence = group(ImagePositionPatient=dataset.ImagePositionPatient)
        frame.PixelValueTransformationSequence = group(
            RescaleIntercept=dataset.get("RescaleIntercept", "0"),
            RescaleSlope=dataset.get("RescaleSlope", "1"),
            RescaleType="US",
        )
        frames.append(frame)
    made = _object(classic[0], frames)
    made.PixelData = b"".join(dataset.PixelData for dataset in classic)
    made["PixelData"].VR = "OW"
    return made


def group(**attributes: object) -> list[Dataset]:
    """A functional group: a sequence of one item; an attribute that is None is left out."""
    item = Dataset()
    for keyword, value in attributes.items():
        if value is not None:
            setattr(item, keyword, value)
    return [item]


def _object(first: Dataset, frames: Sequence[Dataset]) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = first.file_meta
    for element in first:
        if element.keyword not in IN_GROUPS:
            setattr(dataset, element.keyword, element.value)  # an element of its own
    dataset.SOPClassUID, dataset.SOPInstanceUID = ENHANCED_MR_IMAGE_STORAGE, generate_uid()
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER", "NONE"]
    dataset.NumberOfFrames = len(frames)
    dataset.EchoPulseSequence, dataset.SegmentedKSpaceTraversal = "SPIN", "PARTIAL"
    dataset.ResonantNucleus, dataset.PulseSequenceName = "1H", "TSE"
    shared = Dataset()
    shared.PixelMeasuresSequence = group(
        PixelSpacing=first.PixelSpacing,
        SliceThickness=first.SliceThickness,
        SpacingBetweenSlices=first.get("SpacingBetweenSlices"),
    )
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=first.ImageOrientationPatient)
    shared.MRImageFrameTypeSequence = group(
        FrameType=["ORIGINAL", "PRIMARY", "OTHER", "NONE"],
        VolumeBasedCalculationTechnique="NONE",
        ComplexImageComponent="MAGNITUDE",
    )
    shared.MRTimingAndRelatedParametersSequence = group(
        RepetitionTime=first.RepetitionTime, FlipAngle=first.get("FlipAngle"), EchoTrainLength=first.EchoTrainLength
    )
    shared.MREchoSequence = group(EffectiveEchoTime=float(first.EchoTime))
    shared.MRModifierSequence = group(
        InversionRecovery="NO", FlowCompensation="NONE", Spoiling="NONE", SpatialPresaturation="NONE",
        PartialFourier="NO",
    )  # fmt: skip
    shared.MRImagingModifierSequence = group(
        MagnetizationTransfer="NONE", PixelBandwidth="200", TransmitterFrequency=63.87
    )
    shared.MRFOVGeometrySequence = group(
        InPlanePhaseEncodingDirection="COLUMN",
        MRAcquisitionFrequencyEncodingSteps=88,
        MRAcquisitionPhaseEncodingStepsInPlane=72,
        PercentSampling="100",
        PercentPhaseFieldOfView="100",
    )
    shared.MRAveragesSequence = group(NumberOfAverages="1")
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = list(frames)
    return dataset
