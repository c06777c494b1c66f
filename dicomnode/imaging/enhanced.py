"""An Enhanced MR object (PS3.3 A.36) → a data set for each of its frames, as a classic MR image would have it.

In: the data set of one object, without its pixels. Out: for each frame, in the order of its pixels, the attributes of
the object with those of the frame's functional groups (PS3.3 C.7.6.16). A group is taken from the frame's own item, or
else from the item that all frames share. What these groups state counts; a copy of it at the top level of the object,
which some vendors write, and private groups do not. Dimension indices are not read. Nothing is decoded, and nothing is
repaired: a value that cannot be read is handed on as it stands, or the object as a whole cannot be read.

Attributes that Enhanced MR expresses in other words are translated into those of a classic image: Scanning Sequence,
Sequence Variant, Scan Options, Acquisition Matrix, the phase encoding direction, SAR, dB/dt, and the contrast agent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.tag import BaseTag, Tag

from dicomnode.imaging.representation import MALFORMED, Element, items_of
from dicomnode.imaging.texts import texts, whole_number

ENHANCED_MR_IMAGE_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.4.1"

FRAMES_LIMIT: Final = 5_000  # a stack has hundreds; a header of some 20 kB is kept for each frame

SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
MAPPING = "RealWorldValueMappingSequence"

# Functional group → the attributes of its item that a frame's data set gets.
GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "FrameContentSequence": (
        "StackID", "TemporalPositionIndex", "FrameAcquisitionNumber", "FrameAcquisitionDateTime",
    ),
    "FrameAnatomySequence": ("AnatomicRegionSequence", "PrimaryAnatomicStructureSequence", "FrameLaterality"),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope", "RescaleType"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
    "CardiacSynchronizationSequence": ("NominalCardiacTriggerDelayTime",),
    "RespiratorySynchronizationSequence": ("NominalRespiratoryTriggerDelayTime",),
    "TemporalPositionSequence": ("TemporalPositionTimeOffset",),
    "ContrastBolusUsageSequence": ("ContrastBolusAgentPhase", "ContrastBolusAgentAdministered"),
    "MRImageFrameTypeSequence": ("FrameType", "VolumeBasedCalculationTechnique", "ComplexImageComponent"),
    "MRTimingAndRelatedParametersSequence": ("RepetitionTime", "FlipAngle", "EchoTrainLength"),
    "MRFOVGeometrySequence": (
        "InPlanePhaseEncodingDirection", "MRAcquisitionFrequencyEncodingSteps",
        "MRAcquisitionPhaseEncodingStepsInPlane", "PercentSampling", "PercentPhaseFieldOfView",
    ),
    "MREchoSequence": ("EffectiveEchoTime",),
    "MRModifierSequence": (
        "InversionRecovery", "InversionTimes", "FlowCompensation", "Spoiling", "SpatialPresaturation",
        "PartialFourier", "PartialFourierDirection",
    ),
    "MRImagingModifierSequence": ("MagnetizationTransfer", "PixelBandwidth", "TransmitterFrequency"),
    "MRReceiveCoilSequence": ("ReceiveCoilName",),
    "MRTransmitCoilSequence": ("TransmitCoilName",),
    "MRAveragesSequence": ("NumberOfAverages",),
    "MRDiffusionSequence": ("DiffusionBValue",),
    "MRVelocityEncodingSequence": (
        "VelocityEncodingDirection", "VelocityEncodingMinimumValue", "VelocityEncodingMaximumValue",
    ),
    "MRArterialSpinLabelingSequence": ("ASLContext",),
    "MRMetaboliteMapSequence": ("MetaboliteMapDescription",),
}  # fmt: skip
# Group → a sequence in its item, and the attributes of that one's item.
NESTED: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "MRDiffusionSequence": ("DiffusionGradientDirectionSequence", ("DiffusionGradientOrientation",)),
}
SEVERAL_ITEMS: Final = frozenset({"ContrastBolusUsageSequence", "MRVelocityEncodingSequence"})  # the first counts

# Attribute of Enhanced MR → the one of a classic image that states the same. Decimal numbers lose no digit that counts.
RENAMED: Final[Mapping[str, str]] = {
    "FrameType": "ImageType",
    "EffectiveEchoTime": "EchoTime",
    "TransmitterFrequency": "ImagingFrequency",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "FrameLaterality": "ImageLaterality",
    "MRAcquisitionPhaseEncodingStepsInPlane": "NumberOfPhaseEncodingSteps",
    "ResonantNucleus": "ImagedNucleus",
    "PulseSequenceName": "SequenceName",
}
TIMING: Final = "MRTimingAndRelatedParametersSequence"
WHOLE_BODY, DB_DT = "IEC_WHOLE_BODY", "DB_DT"  # what SAR and dB/dt of a classic image are (PS3.3 Table C.8-4)
OF_OBJECT: Final = ("ResonantNucleus", "PulseSequenceName")  # renamed, and the same for all frames
LARGEST_US: Final = 65535
SPELLED: Final = frozenset({"DS", "IS"})  # VRs of numbers as text

# Attributes of the echo and the signal processing, in the terms of Scanning Sequence, Sequence Variant and Scan Options
# (PS3.3 C.8.3.1.1.2 and Table C.8-4): (attribute, its values) → term.
ECHOES: Final[Mapping[str, tuple[str, ...]]] = {"SPIN": ("SE",), "GRADIENT": ("GR",), "BOTH": ("SE", "GR")}
SEQUENCE_TERMS: Final = (
    ("InversionRecovery", ("YES",), "IR"),
    ("EchoPlanarPulseSequence", ("YES",), "EP"),
)
VARIANT_TERMS: Final = (
    ("SegmentedKSpaceTraversal", ("PARTIAL",), "SK"),
    ("MagnetizationTransfer", ("ON_RESONANCE", "OFF_RESONANCE"), "MTC"),
    ("SteadyStatePulseSequence", ("FREE_PRECESSION", "TRANSVERSE", "TIME_REVERSED", "LONGITUDINAL"), "SS"),
    ("Spoiling", ("RF", "GRADIENT", "RF_AND_GRADIENT"), "SP"),
    ("OversamplingPhase", ("2D", "3D", "2D_3D"), "OSP"),
)
OPTION_TERMS: Final = (
    ("FlowCompensation", ("ACCELERATION", "VELOCITY", "OTHER"), "FC"),
    ("PartialFourierDirection", ("FREQUENCY", "COMBINATION"), "PFF"),
    ("PartialFourierDirection", ("PHASE", "COMBINATION"), "PFP"),
    ("SpatialPresaturation", ("SLAB",), "SP"),
    ("SpectrallySelectedSuppression", ("FAT", "FAT_AND_WATER"), "FS"),
)
PHASE_DIRECTIONS: Final[Mapping[str, str]] = {"ROW": "ROW", "COLUMN": "COL"}
NO_TECHNIQUE: Final = ("", "NONE", "MIXED")  # of volume based calculation: MIXED is said of an object, not of a frame

_MOMENT = re.compile(r"(\d{8})(\d{2,6}(?:\.\d{1,6})?)(?:[+-]\d{4})?")  # a DT with a whole date (PS3.5 section 6.2)

Elements = dict[BaseTag, Element]


def frame_datasets(dataset: FileDataset) -> list[Dataset] | str:
    """A data set for each frame; why the object cannot be taken apart, completing "Slice 1 cannot be used: …".

    Instance Number is the number of the frame, counted over all parts of a concatenation, as viewers count.
    """
    count = _whole(dataset, "NumberOfFrames")
    if count > FRAMES_LIMIT:
        return f"its {count} frames are more than the {FRAMES_LIMIT} that are read"
    try:
        shared, per_frame = _items(dataset, SHARED), _items(dataset, PER_FRAME)
        if len(per_frame) != count or not per_frame:
            return f"its Number of Frames is {count or 'missing'}, and it describes {len(per_frame)} frames"
        if len(shared) > 1:
            return "it has several items of shared functional groups"
        common = _of_object(dataset)
        for item in shared:
            common |= _of_groups(item)
        offset = _whole(dataset, "ConcatenationFrameOffsetNumber")
        return [
            _frame(dataset, common | _of_groups(item), number)
            for number, item in enumerate(per_frame, start=1 + offset)
        ]
    except MALFORMED:
        return "its functional groups cannot be read"


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    return items_of(dataset.get_item(keyword)) if keyword in dataset else []


def _of_object(dataset: FileDataset) -> Elements:
    """Collect the elements of the top level, which hold for all frames; the functional groups state the others."""
    passed_over = {
        _tag(keyword) for keyword in (SHARED, PER_FRAME, MAPPING, "NumberOfFrames", "InversionTime", "SAR", "dBdt")
    }
    for keywords in (*GROUPS.values(), *(keywords for _, keywords in NESTED.values())):
        passed_over |= {_tag(keyword) for keyword in keywords}
        passed_over |= {_tag(RENAMED[keyword]) for keyword in keywords if keyword in RENAMED}
    passed_over -= {_tag(keyword) for keyword in ("AcquisitionNumber", "ImageType")}  # where no frame states its own
    found: Elements = {
        tag: dataset.get_item(tag)
        for tag in dataset.keys()  # noqa: SIM118 (iterating a Dataset itself gives elements, decoded)
        if not tag.is_private and tag not in passed_over
    }
    for keyword in OF_OBJECT:
        if value := texts(dataset, keyword):
            found[_tag(RENAMED[keyword])] = _spelled(RENAMED[keyword], value)
    _name_agent(dataset, found)
    return found


def _name_agent(dataset: FileDataset, found: Elements) -> None:
    """Name the contrast agent in words, as a classic image does, in place of the items of Enhanced MR."""
    agents = _items(dataset, "ContrastBolusAgentSequence")
    if agents:
        _put_meaning(found, "ContrastBolusAgent", agents[0])
    if len(agents) == 1:  # of several agents a classic image has room for one route, volume and concentration
        for route in _items(agents[0], "ContrastBolusAdministrationRouteSequence")[:1]:
            _put_meaning(found, "ContrastBolusRoute", route)
        found |= _stated(agents[0], ("ContrastBolusVolume", "ContrastBolusIngredientConcentration"))
    found.pop(_tag("ContrastBolusAgentSequence"), None)


def _put_meaning(found: Elements, keyword: str, code: Dataset) -> None:
    meaning = texts(code, "CodeMeaning")
    if meaning and "".join(meaning).isascii():  # in other characters it would have to be encoded as the object says
        found[_tag(keyword)] = _spelled(keyword, meaning)


def _of_groups(item: Dataset) -> Elements:
    """Collect the elements that the functional groups of one item hold."""
    found: Elements = {}
    for group, keywords in GROUPS.items():
        items = _items(item, group)
        if len(items) > 1 and group not in SEVERAL_ITEMS:
            raise ValueError("a functional group with several items")
        if items:
            found |= _stated(items[0], keywords)
            if group in NESTED:
                sequence, below = NESTED[group]
                for one in _items(items[0], sequence):
                    found |= _stated(one, below)
            if group == TIMING:
                found |= _exposure(items[0])
    if _items(item, MAPPING):
        found[_tag(MAPPING)] = item.get_item(MAPPING)
    return found


def _stated(item: Dataset, keywords: tuple[str, ...]) -> Elements:
    found: Elements = {}
    for keyword in keywords:
        if keyword not in item:
            continue
        found[_tag(keyword)] = item.get_item(keyword)
        if keyword in RENAMED:
            found[_tag(RENAMED[keyword])] = _spelled(RENAMED[keyword], texts(item, keyword))
    return found


def _exposure(timing: Dataset) -> Elements:
    """SAR of the whole body in W/kg, and dB/dt in T/s; for other definitions a classic image has no attribute."""
    stated = [("dBdt", "GradientOutput", timing)] if "".join(texts(timing, "GradientOutputType")) == DB_DT else []
    for rate in _items(timing, "SpecificAbsorptionRateSequence"):
        if "".join(texts(rate, "SpecificAbsorptionRateDefinition")) == WHOLE_BODY:
            stated.append(("SAR", "SpecificAbsorptionRateValue", rate))
    values = [(keyword, texts(item, value)) for keyword, value, item in stated]
    return {
        _tag(keyword): _spelled(keyword, value)
        for keyword, value in values
        if len(value) == 1 and math.isfinite(float(value[0]))
    }


def _frame(dataset: FileDataset, elements: Elements, number: int) -> Dataset:
    frame = Dataset()
    frame.file_meta = dataset.file_meta
    for tag, element in elements.items():
        frame[tag] = element
    _put(frame, "InstanceNumber", (str(number),))
    _put_moment(frame)
    echoes = ECHOES.get("".join(texts(frame, "EchoPulseSequence")))
    if echoes is not None:  # nothing is made up of an object that does not say what its echo is
        _put(frame, "ScanningSequence", (*echoes, *_terms(frame, SEQUENCE_TERMS)))
        _put(frame, "SequenceVariant", _terms(frame, VARIANT_TERMS) or ("NONE",))
    _put(frame, "ScanOptions", _terms(frame, OPTION_TERMS))
    _put_phase_encoding(frame)
    times = texts(frame, "InversionTimes")
    if len(times) == 1 and "IR" in texts(frame, "ScanningSequence"):  # for several a classic image has no room
        _put(frame, "InversionTime", times)
    technique = "".join(texts(frame, "VolumeBasedCalculationTechnique"))
    if technique not in NO_TECHNIQUE:
        _put(frame, "ImageType", (*texts(frame, "ImageType"), technique))
    return frame


def _put_moment(frame: Dataset) -> None:
    """Date and time of the acquisition, of the frame or else of the object."""
    stated = texts(frame, "FrameAcquisitionDateTime") or texts(frame, "AcquisitionDateTime")
    if match := _MOMENT.fullmatch("".join(stated)):
        _put(frame, "AcquisitionDate", (match[1],))
        _put(frame, "AcquisitionTime", (match[2],))


def _put_phase_encoding(frame: Dataset) -> None:
    """Direction and steps of phase encoding; a classic image has no direction but those of rows and columns."""
    direction = PHASE_DIRECTIONS.get("".join(texts(frame, "InPlanePhaseEncodingDirection")), "")
    if "InPlanePhaseEncodingDirection" in frame:
        del frame["InPlanePhaseEncodingDirection"]
    if not direction:
        return
    _put(frame, "InPlanePhaseEncodingDirection", (direction,))
    frequency, phase = (
        _whole(frame, keyword)
        for keyword in ("MRAcquisitionFrequencyEncodingSteps", "MRAcquisitionPhaseEncodingStepsInPlane")
    )
    if (
        0 < min(frequency, phase) <= max(frequency, phase) <= LARGEST_US
    ):  # frequency rows and columns, then those of the phase (PS3.3 Table C.8-4)
        steps = [0, frequency, phase, 0] if direction == "ROW" else [frequency, 0, 0, phase]
        frame.AcquisitionMatrix = steps


def _terms(frame: Dataset, table: tuple[tuple[str, tuple[str, ...], str], ...]) -> tuple[str, ...]:
    return tuple(term for keyword, values, term in table if "".join(texts(frame, keyword)) in values)


def _put(frame: Dataset, keyword: str, values: tuple[str, ...]) -> None:
    frame[_tag(keyword)] = _spelled(keyword, values)


def _spelled(keyword: str, values: tuple[str, ...]) -> RawDataElement:
    """An attribute of a classic image as text; a number gets the ten digits that fit a DS. Raises ValueError."""
    tag, vr = _tag(keyword), dictionary_VR(keyword)
    if vr in SPELLED:
        values = tuple(f"{float(value):.10g}" for value in values)
    content = "\\".join(values).encode("ascii", "replace")  # codes; a name in other characters is no code
    content += b" " * (len(content) % 2)
    return RawDataElement(tag, vr, len(content), content, 0, False, True)


def _whole(dataset: Dataset, keyword: str) -> int:
    return whole_number("".join(texts(dataset, keyword))) or 0


def _tag(keyword: str) -> BaseTag:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return Tag(tag)
