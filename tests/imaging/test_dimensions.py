"""What beside the place tells the frames of Enhanced MR objects apart is a reason to keep them, and is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from dicomnode.imaging.frame import read_frames
from dicomnode.imaging.judge import judge
from dicomnode.imaging.verdict import Limits, Verdict, VerdictReason
from tests.support.enhanced import EnhancedPhantom, group
from tests.support.phantom import Phantom, write_datasets

SMALL = Phantom(slices=6, rows=20, columns=24, spacing_mm=4.0)
ONE = EnhancedPhantom(phantom=SMALL, seed=1)


def _judged(paths: list[Path], limits: Limits | None = None) -> Verdict:
    return judge(read_frames(paths), limits or Limits())


def _in_last(keyword: str, **attributes: object) -> Callable[[Dataset], None]:
    """The last frame gets a group of its own."""

    def change(dataset: Dataset) -> None:
        setattr(dataset.PerFrameFunctionalGroupsSequence[-1], keyword, group(**attributes))

    return change


def _in_last_content(**attributes: object) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        for keyword, value in attributes.items():
            setattr(dataset.PerFrameFunctionalGroupsSequence[-1].FrameContentSequence[0], keyword, value)

    return change


def _diffusion(dataset: Dataset) -> None:
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        direction = group(DiffusionGradientOrientation=[1.0, 0.0, float(number == 0)])
        frame.MRDiffusionSequence = group(DiffusionBValue=800.0, DiffusionGradientDirectionSequence=direction)


FRAME_TYPE = {"FrameType": ["ORIGINAL", "PRIMARY", "OTHER", "NONE"], "VolumeBasedCalculationTechnique": "NONE"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_in_last("MREchoSequence", EffectiveEchoTime=120.0), "2 echo times: 90 ms, 120 ms"),
        (_in_last("MRDiffusionSequence", DiffusionBValue=1000.0), "2 b-values: 0, 1000"),
        (_diffusion, "2 diffusion directions: 1.0 0.0 0.0, 1.0 0.0 1.0"),
        (
            _in_last("MRImageFrameTypeSequence", **FRAME_TYPE, ComplexImageComponent="PHASE"),
            "2 complex components: MAGNITUDE, PHASE",
        ),
        (
            _in_last(
                "MRImageFrameTypeSequence", FrameType=["ORIGINAL", "PRIMARY", "OTHER", "P"],
                ComplexImageComponent="MAGNITUDE",
            ),
            "2 image types: NONE OTHER, OTHER P",
        ),
        (
            _in_last("MRModifierSequence", InversionTimes=900.0, InversionRecovery="NO"),
            "2 inversion times: none, 900.0 ms",
        ),
        (
            _in_last("CardiacSynchronizationSequence", NominalCardiacTriggerDelayTime=400.0),
            "2 cardiac trigger delays: none, 400.0 ms",
        ),
        (_in_last_content(TemporalPositionIndex=2), "2 temporal positions: none, 2"),
        (_in_last("TemporalPositionSequence", TemporalPositionTimeOffset=2.5), "2 time offsets: none, 2.5 s"),
        (
            _in_last("MRVelocityEncodingSequence", VelocityEncodingDirection=[0.0, 0.0, 1.0]),
            "2 velocity encodings: none, 0.0 0.0 1.0",
        ),
        (_in_last("MRArterialSpinLabelingSequence", ASLContext="LABEL"), "2 spin labelling states: none, LABEL"),
        (
            _in_last("ContrastBolusUsageSequence", ContrastBolusAgentPhase="POST_CONTRAST"),
            "2 contrast agent phases: none, POST_CONTRAST",
        ),
        (_in_last("MRMetaboliteMapSequence", MetaboliteMapDescription="FAT"), "2 metabolites: none, FAT"),
        (_in_last_content(StackID="2"), "2 stacks: 1, 2"),
    ],
)  # fmt: skip
def test_a_second_value_of_anything_but_the_place_is_a_reason(
    tmp_path: Path, change: Callable[[Dataset], None], words: str
) -> None:
    found = _judged(ONE.write(tmp_path, change=change))
    assert found.reason is VerdictReason.DIMENSION
    assert found.sentence == f"The frames have {words}; send them as separate series."


def test_what_a_sender_wrote_is_not_quoted_where_it_may_be_a_name(tmp_path: Path) -> None:
    found = _judged(ONE.write(tmp_path, change=_in_last_content(StackID="Doe^Jane")))
    assert found.sentence == "The frames have 2 stacks: 1, unreadable; send them as separate series."


def test_a_localizer_is_told_by_its_orientations(tmp_path: Path) -> None:
    def change(dataset: Dataset) -> None:
        for frame in dataset.PerFrameFunctionalGroupsSequence[3:]:
            frame.FrameContentSequence[0].StackID = "2"
            frame.PlaneOrientationSequence = group(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])

    assert _judged(ONE.write(tmp_path, change=change)).reason is VerdictReason.ORIENTATIONS


def test_a_plain_stack_is_processed_whatever_its_dimension_indices_say(tmp_path: Path) -> None:
    found = _judged(ONE.write(tmp_path))
    assert found.sentence == "6 slices, 4 mm apart, 4 mm thick → 24 slices of 1 mm by rule default."


def test_a_part_of_a_concatenation_waits_for_the_others(tmp_path: Path) -> None:
    paths = EnhancedPhantom(phantom=Phantom(slices=15, rows=20, columns=24), parts=3).write(tmp_path)
    found = _judged([paths[0], paths[2]])
    assert found.reason is VerdictReason.PARTS
    assert found.sentence == (
        "2 of 3 parts of a multi-frame object are here; the series is judged again when another one arrives."
    )
    assert _judged(paths[::-1]).process


def test_the_parts_are_counted_by_their_numbers_where_no_total_is_stated(tmp_path: Path) -> None:
    datasets = EnhancedPhantom(phantom=Phantom(slices=15, rows=20, columns=24), parts=3).datasets()
    for dataset in datasets:
        del dataset.InConcatenationTotalNumber
    paths = write_datasets(tmp_path, datasets)
    assert _judged(paths[1:]).reason is VerdictReason.PARTS
    assert _judged(paths).process


def test_a_part_with_an_absurd_number_is_no_burden(tmp_path: Path) -> None:
    def change(dataset: Dataset) -> None:
        dataset.ConcatenationUID = generate_uid()
        dataset.add_new("InConcatenationNumber", "UL", 2**32 - 1)

    found = _judged(ONE.write(tmp_path, change=change))
    assert (found.reason, found.sentence[:18]) == (VerdictReason.PARTS, "1 of 4294967295 pa")


def _again(datasets: list[Dataset], time: str) -> list[Dataset]:
    """The same volume once more, as a scanner sends the next time point of a series."""
    for dataset in datasets:
        dataset.SOPInstanceUID = generate_uid()
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            frame.FrameContentSequence[0].FrameAcquisitionDateTime = f"20200102{time}"
    return datasets


def test_objects_that_each_hold_the_whole_volume_are_not_one_stack(tmp_path: Path) -> None:
    first = ONE.datasets()
    second = _again(ONE.datasets(), "102030")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(second[0], keyword, getattr(first[0], keyword))
    found = _judged(write_datasets(tmp_path, [*first, *second]))
    assert found.reason is VerdictReason.REPEATED
    assert (
        found.sentence
        == "2 objects hold slices at the same positions, 6 in all: a time series, or repeated measurements."
    )


def test_objects_that_each_hold_a_part_of_the_volume_are_one_stack(tmp_path: Path) -> None:
    datasets = EnhancedPhantom(phantom=Phantom(slices=12, rows=20, columns=24), parts=2).datasets()
    for dataset in datasets:
        for keyword in ("ConcatenationUID", "InConcatenationNumber", "InConcatenationTotalNumber"):
            delattr(dataset, keyword)
    found = _judged(write_datasets(tmp_path, datasets))
    assert (found.process, found.slices) == (True, 12)


def test_times_within_one_object_are_a_time_series(tmp_path: Path) -> None:
    def change(dataset: Dataset) -> None:
        first, second = dataset.PerFrameFunctionalGroupsSequence[:2]
        second.PlanePositionSequence = first.PlanePositionSequence

    found = _judged(ONE.write(tmp_path, change=change))
    assert found.sentence == "1 positions occur more than once: a time or diffusion series."


def test_a_mapping_to_real_world_values_is_reported(tmp_path: Path) -> None:
    change = _in_last("RealWorldValueMappingSequence", LUTLabel="Maker", RealWorldValueSlope=2.0)
    found = _judged(ONE.write(tmp_path, change=change))
    assert found.process
    assert "A Real World Value Mapping of the source is neither applied to its values nor copied." in found.notes


def test_a_projection_is_told_by_the_technique_that_made_it(tmp_path: Path) -> None:
    def change(dataset: Dataset) -> None:
        frame_type = dataset.SharedFunctionalGroupsSequence[0].MRImageFrameTypeSequence[0]
        frame_type.VolumeBasedCalculationTechnique = "MAX_IP"

    found = _judged(ONE.write(tmp_path, change=change))
    assert found.sentence == "This is a MAX_IP image, not an anatomical stack."


def test_a_sender_whose_objects_are_only_stored_gets_that_reason(tmp_path: Path) -> None:
    found = _judged(ONE.write(tmp_path), Limits(enhanced=False))
    assert found.reason is VerdictReason.ENHANCED
    assert _judged(SMALL.write(tmp_path / "classic"), Limits(enhanced=False)).process


@pytest.mark.parametrize(
    ("sop_class", "name"),
    [
        ("1.2.840.10008.5.1.4.1.1.4.3", "Enhanced MR Color Image Storage"),
        ("1.2.840.10008.5.1.4.1.1.4.2", "MR Spectroscopy Storage"),
    ],
)
def test_the_other_multi_frame_classes_are_refused_by_name(tmp_path: Path, sop_class: str, name: str) -> None:
    def change(dataset: Dataset) -> None:
        dataset.SOPClassUID = sop_class

    found = _judged(ONE.write(tmp_path, change=change))
    assert found.sentence == f"Objects of class {name} are stored but not processed."


def test_classic_and_enhanced_images_in_one_series_disagree(tmp_path: Path) -> None:
    datasets = ONE.datasets()
    classic = SMALL.datasets()
    for dataset in classic:
        dataset.SeriesInstanceUID = datasets[0].SeriesInstanceUID
    found = _judged(write_datasets(tmp_path, [*datasets, *classic]))
    assert found.reason is VerdictReason.DISAGREE
