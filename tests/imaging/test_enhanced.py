"""Enhanced MR objects as frames: where their slices lie, what each frame's header says, and what is refused."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEGLSLossless

from dicomnode.imaging import enhanced
from dicomnode.imaging.comparison import compare
from dicomnode.imaging.dicom_file import UnreadableHeader
from dicomnode.imaging.enhanced import FRAMES_LIMIT, frame_datasets
from dicomnode.imaging.frame import Frame, StoredValues, frames_of, read_frames, stored_values
from dicomnode.imaging.headers import InstanceHeader
from dicomnode.imaging.stack import Stack, load_volume
from dicomnode.imaging.wholeness import break_off, no_image
from tests.support.enhanced import EnhancedPhantom, group
from tests.support.phantom import BALLS, Phantom
from tests.support.shared import DATA, needs_shared

SMALL = Phantom(slices=6, rows=20, columns=24, spacing_mm=4.0)
ONE = EnhancedPhantom(phantom=SMALL, seed=1)
BIG = Phantom(slices=20)


def _headers(paths: list[Path]) -> list[InstanceHeader]:
    return [frame.header for frame in _frames(paths)]


def _frames(paths: list[Path]) -> list[Frame]:
    found = read_frames(paths)
    frames = [one for one in found if isinstance(one, Frame)]
    assert len(frames) == len(found)
    return frames


def _farthest_mm(stack: Stack) -> float:
    """How far the centroid of a ball lies from where it is known to be."""
    volume = stack.volume
    index = np.stack(np.meshgrid(*map(np.arange, volume.voxels.shape), indexing="ij"), axis=-1).astype(np.float64)
    places = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    found = []
    for ball in BALLS:
        near = np.linalg.norm(places - np.asarray(ball.centre_mm), axis=-1) < ball.radius_mm + 4.0
        weights = volume.voxels[near].astype(np.float64)
        found.append(np.linalg.norm((places[near] * weights[:, None]).sum(axis=0) / weights.sum() - ball.centre_mm))
    return float(max(found))


@pytest.mark.parametrize("orientation", ["axial", "sagittal", "double oblique"])
def test_an_analytic_phantom_lies_where_it_is(tmp_path: Path, orientation: str) -> None:
    """Frames in random order, two scalings, two concatenated parts."""
    phantom = replace(BIG, orientation=orientation)
    paths = EnhancedPhantom(phantom=phantom, seed=3, parts=2, second_slope=0.5).write(tmp_path)
    stack = load_volume(_frames(paths))
    assert _farthest_mm(stack) < 0.1
    for index, values in enumerate(stack.volume.voxels):
        np.testing.assert_allclose(values, np.rint(phantom.frame(index)), atol=0.5)


def _by_index(datasets: list[Dataset]) -> list[Dataset]:
    """A reader that believes the dimension indices: the positions sorted as these count."""
    positions = [dataset["ImagePositionPatient"] for dataset in datasets]
    return [_with(dataset, place) for dataset, place in zip(datasets, sorted(positions, key=str), strict=True)]


def _with(dataset: Dataset, position: object) -> Dataset:
    dataset["ImagePositionPatient"] = position  # type: ignore[assignment]
    return dataset


def _unscaled(datasets: list[Dataset]) -> list[Dataset]:
    for dataset in datasets:
        del dataset.RescaleSlope
    return datasets


@pytest.mark.parametrize("mutant", [_by_index, _unscaled])
def test_the_phantom_catches_a_reader_that_goes_by_index_or_forgets_the_scaling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutant: Callable[[list[Dataset]], list[Dataset]]
) -> None:
    paths = EnhancedPhantom(phantom=BIG, seed=3, second_slope=0.5).write(tmp_path)

    def wrong(dataset: Dataset) -> list[Dataset] | str:
        found = frame_datasets(dataset)  # type: ignore[arg-type]
        assert not isinstance(found, str)
        return mutant(found)

    monkeypatch.setattr("dicomnode.imaging.frame.frame_datasets", wrong)
    assert _farthest_mm(load_volume(_frames(paths))) > 0.1


def test_the_phantom_catches_a_reader_that_ignores_what_frames_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = ONE.write(tmp_path)
    monkeypatch.setattr(enhanced, "SHARED", "SourceImageSequence")
    assert _headers(paths)[0].orientation is None


def test_a_frame_reads_like_the_classic_image_of_the_same_slice(tmp_path: Path) -> None:
    classic = {h.position_mm: h for h in _headers(SMALL.write(tmp_path / "classic"))}
    of_frames = {h.position_mm: h for h in _headers(ONE.write(tmp_path / "enhanced"))}
    assert classic.keys() == of_frames.keys()
    for place, one in classic.items():
        other = of_frames[place]
        for keyword in (
            "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "RepetitionTime",
            "EchoTime", "EchoTrainLength", "FlipAngle", "MagneticFieldStrength", "ScanningSequence", "SequenceVariant",
            "ScanOptions", "MRAcquisitionType", "AcquisitionDate", "AcquisitionTime", "WindowCenter", "WindowWidth",
            "AcquisitionNumber", "PatientPosition", "SeriesDescription",
        ):  # fmt: skip
            assert other.text(keyword) == one.text(keyword), keyword
        assert other.identity == one.identity
        assert other.number_of_frames is None
        assert other.text("AcquisitionMatrix") == "88\\0\\0\\72"
        assert other.text("InPlanePhaseEncodingDirection") == "COL"
        assert other.text("NumberOfPhaseEncodingSteps") == "72"
        assert (other.text("ImagedNucleus"), other.text("SequenceName")) == ("1H", "TSE")


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, JPEGLSLossless])
def test_the_transfer_syntax_changes_nothing(tmp_path: Path, syntax: UID) -> None:
    plain = load_volume(_frames(ONE.write(tmp_path / "plain"))).volume
    (dataset,) = ONE.datasets()
    if syntax == JPEGLSLossless:
        dataset.compress(syntax, generate_instance_uid=False)
    else:
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
    dcmwrite(tmp_path / "other.dcm", dataset, enforce_file_format=True)
    other = load_volume(_frames([tmp_path / "other.dcm"])).volume
    np.testing.assert_array_equal(other.voxels, plain.voxels)
    np.testing.assert_array_equal(other.affine, plain.affine)


def test_a_frames_own_group_counts_and_the_shared_one_elsewhere(tmp_path: Path) -> None:
    def change(dataset: Dataset) -> None:
        own = dataset.PerFrameFunctionalGroupsSequence
        own[0].MREchoSequence = group(EffectiveEchoTime=12.5)
        own[1].MREchoSequence = []  # stands there and says nothing
        dataset.EchoTime = "999"  # of a vendor that writes the classic attribute as well

    found = [header.text("EchoTime") for header in _headers(ONE.write(tmp_path, change=change))]
    assert found == ["12.5", "90", "90", "90", "90", "90"]


def test_private_groups_and_copies_at_the_top_level_say_nothing(tmp_path: Path) -> None:
    def change(dataset: Dataset) -> None:
        dataset.InversionTime, dataset.PixelSpacing, dataset.SliceThickness = "5", [9, 9], "77"
        dataset.add_new(0x00190010, "LO", "SIEMENS MR HEADER")
        dataset.add_new(0x0019100C, "IS", "800")

    header = _headers(ONE.write(tmp_path, change=change))[0]
    assert (header.text("InversionTime"), header.b_value) == ("", None)
    assert header.pixel_spacing_mm == (1.3, 1.1)
    assert header.slice_thickness_mm == 4.0
    assert not any(tag.is_private for tag in header.dataset.keys())  # noqa: SIM118


def test_the_terms_of_a_classic_image_tell_the_sequence(tmp_path: Path) -> None:
    def change(dataset: Dataset) -> None:
        dataset.EchoPulseSequence, dataset.EchoPlanarPulseSequence = "GRADIENT", "YES"
        dataset.SegmentedKSpaceTraversal, dataset.SteadyStatePulseSequence = "SINGLE", "FREE_PRECESSION"
        dataset.SpectrallySelectedSuppression = "FAT"
        shared = dataset.SharedFunctionalGroupsSequence[0]
        shared.MRModifierSequence[0].InversionRecovery = "YES"
        shared.MRModifierSequence[0].InversionTimes = 150.0
        shared.MRModifierSequence[0].Spoiling = "RF"
        shared.MRModifierSequence[0].PartialFourierDirection = "PHASE"
        shared.MRFOVGeometrySequence[0].InPlanePhaseEncodingDirection = "OTHER"

    header = _headers(ONE.write(tmp_path, change=change))[0]
    assert header.text("ScanningSequence") == "GR\\IR\\EP"
    assert header.text("SequenceVariant") == "SS\\SP"
    assert header.text("ScanOptions") == "PFP\\FS"
    assert header.text("InversionTime") == "150"
    assert header.text("InPlanePhaseEncodingDirection") == ""


@pytest.mark.parametrize(("meaning", "agent"), [("Gadobutrol", "Gadobutrol"), ("Gadobutról", "")])
def test_the_contrast_agent_is_named_in_words(tmp_path: Path, meaning: str, agent: str) -> None:
    def change(dataset: Dataset) -> None:
        dataset.ContrastBolusAgentSequence = group(
            CodeValue="1", CodingSchemeDesignator="99X", CodeMeaning=meaning, ContrastBolusAgentNumber=1
        )

    header = _headers(ONE.write(tmp_path, change=change))[0]
    assert header.text("ContrastBolusAgent") == agent
    assert not header.has("ContrastBolusAgentSequence")


def test_one_agent_is_told_with_its_route_volume_and_concentration_and_several_are_not(tmp_path: Path) -> None:
    def agent(number: int) -> Dataset:
        (item,) = group(
            CodeValue="1", CodingSchemeDesignator="99X", CodeMeaning="Gadobutrol", ContrastBolusAgentNumber=number,
            ContrastBolusVolume="7.5", ContrastBolusIngredientConcentration="604.72",
        )  # fmt: skip
        item.ContrastBolusAdministrationRouteSequence = group(
            CodeValue="47625008", CodingSchemeDesignator="SCT", CodeMeaning="Intravenous route"
        )
        return item

    def change(dataset: Dataset) -> None:
        dataset.ContrastBolusAgentSequence = [agent(1)]

    def change_to_two(dataset: Dataset) -> None:
        dataset.ContrastBolusAgentSequence = [agent(1), agent(2)]

    one = _headers(ONE.write(tmp_path / "one", change=change))[0]
    keywords = (
        "ContrastBolusAgent",
        "ContrastBolusRoute",
        "ContrastBolusVolume",
        "ContrastBolusIngredientConcentration",
    )
    assert [one.text(keyword) for keyword in keywords] == ["Gadobutrol", "Intravenous route", "7.5", "604.72"]
    two = _headers(ONE.write(tmp_path / "two", change=change_to_two))[0]
    assert [two.text(keyword) for keyword in keywords] == ["Gadobutrol", "", "", ""]


def timing(dataset: Dataset, output: tuple[str, float], *rates: tuple[str, float]) -> None:
    """State the gradients' output and absorption rates in the group of all frames."""
    item = dataset.SharedFunctionalGroupsSequence[0].MRTimingAndRelatedParametersSequence[0]
    item.GradientOutputType, item.GradientOutput = output
    item.SpecificAbsorptionRateSequence = [
        group(SpecificAbsorptionRateDefinition=definition, SpecificAbsorptionRateValue=value)[0]
        for definition, value in rates
    ]


@pytest.mark.parametrize(
    ("output", "rates", "found"),
    [
        (("DB_DT", 54.25), [("IEC_PARTIAL_BODY", 1.5), ("IEC_WHOLE_BODY", 0.375)], ("0.375", "54.25")),
        (("PER_NERVE_STIM", 0.75), [("IEC_HEAD", 0.5)], ("", "")),
        (("ELECTRIC_FIELD", 2.0), [], ("", "")),
        (("DB_DT", float("nan")), [("IEC_WHOLE_BODY", float("inf"))], ("", "")),
    ],
    ids=["both", "other definitions", "a field", "no numbers"],
)
def test_sar_is_that_of_the_whole_body_and_db_dt_is_no_other_output(
    tmp_path: Path, output: tuple[str, float], rates: list[tuple[str, float]], found: tuple[str, str]
) -> None:
    def change(dataset: Dataset) -> None:
        timing(dataset, output, *rates)
        dataset.SAR, dataset.dBdt = "99", "99"  # a copy of a vendor's own, which does not count

    header = _headers(ONE.write(tmp_path, change=change))[0]
    assert (header.text("SAR"), header.text("dBdt")) == found


def test_an_object_that_does_not_say_what_its_echo_is_gets_no_scanning_sequence(tmp_path: Path) -> None:
    def change(dataset: Dataset) -> None:
        del dataset.EchoPulseSequence

    assert not _headers(ONE.write(tmp_path, change=change))[0].has("ScanningSequence")


def test_frames_count_over_the_parts_of_a_concatenation(tmp_path: Path) -> None:
    paths = EnhancedPhantom(phantom=SMALL, parts=2).write(tmp_path)
    assert [header.instance_number for header in _headers(paths)] == [1, 2, 3, 4, 5, 6]
    assert [frame.number for frame in _frames(paths)] == [1, 2, 3, 1, 2, 3]  # as the files count


def _few(dataset: Dataset) -> None:
    dataset.NumberOfFrames = 7


def _none(dataset: Dataset) -> None:
    del dataset.NumberOfFrames


def _nothing(dataset: Dataset) -> None:
    del dataset.NumberOfFrames
    del dataset.PerFrameFunctionalGroupsSequence


def _endless(dataset: Dataset) -> None:
    dataset.add_new("NumberOfFrames", "UT", "9" * 5000)  # more digits than Python makes a number of


def _many(dataset: Dataset) -> None:
    dataset.NumberOfFrames = FRAMES_LIMIT + 1


def _ambiguous(dataset: Dataset) -> None:
    frame = dataset.PerFrameFunctionalGroupsSequence[2]
    frame.PlanePositionSequence = [*frame.PlanePositionSequence, *group(ImagePositionPatient=[0, 0, 0])]


def _no_number(dataset: Dataset) -> None:
    dataset.PerFrameFunctionalGroupsSequence[0].MREchoSequence = group(EchoTime="12")
    dataset.PerFrameFunctionalGroupsSequence[0].MREchoSequence[0].add_new(0x00189082, "LO", "soon")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_few, "its Number of Frames is 7, and it describes 6 frames"),
        (_none, "its Number of Frames is missing, and it describes 6 frames"),
        (_nothing, "its Number of Frames is missing, and it describes 0 frames"),
        (_endless, "its Number of Frames is missing, and it describes 6 frames"),
        (_many, "its 5001 frames are more than the 5000 that are read"),
        (_ambiguous, "its functional groups cannot be read"),
        (_no_number, "its functional groups cannot be read"),
    ],
)
def test_an_object_that_contradicts_itself_is_refused_whole(
    tmp_path: Path, change: Callable[[Dataset], None], words: str
) -> None:
    (found,) = frames_of(ONE.write(tmp_path, change=change)[0])
    assert isinstance(found, UnreadableHeader)
    assert found.reason == words


def test_an_object_that_breaks_off_is_not_whole(tmp_path: Path) -> None:
    path = ONE.write(tmp_path)[0]
    header = _headers([path])[0]
    assert break_off(path, replace(header, number_of_frames=6)) is None
    path.write_bytes(path.read_bytes()[:-100])
    assert break_off(path, replace(header, number_of_frames=6)) == "breaks off within its pixels"


def test_two_objects_of_one_uid_differ_in_place_where_a_frame_moved(tmp_path: Path) -> None:
    (dataset,) = ONE.datasets()
    dcmwrite(tmp_path / "one.dcm", dataset, enforce_file_format=True)
    dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient = [0, 0, 99]
    dcmwrite(tmp_path / "two.dcm", dataset, enforce_file_format=True)
    found = compare(tmp_path / "one.dcm", tmp_path / "two.dcm")
    assert found is not None
    assert found.place == ("Per-Frame Functional Groups Sequence",)


def test_a_spectroscopy_object_is_told_by_name(tmp_path: Path) -> None:
    def change(dataset: Dataset) -> None:
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4.2"
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID

    path = ONE.write(tmp_path, change=change)[0]
    (found,) = frames_of(path)
    assert no_image(path, found if isinstance(found, UnreadableHeader) else found.header) == (
        "a DICOM object without an image (MR Spectroscopy Storage)"
    )


REAL = (
    "philips_phantom_tse_12frames", "philips_phantom_ffe_24frames", "philips_abdomen_loc_20frames", "xa30_t1_tfl_2mm",
    "xa30_asl_7p5mm",
)  # fmt: skip


@needs_shared
@pytest.mark.parametrize("folder", REAL)
def test_highdicom_reads_the_same_positions(folder: str) -> None:
    (path,) = sorted((DATA / "enhanced" / folder).iterdir())
    stack = load_volume(_frames([path]))
    theirs = highdicom.imread(path).get_volume(dtype=np.float64)
    ours = stack.volume
    assert theirs.spatial_shape == ours.voxels.shape
    # Its slices run against the normal; both affines take (slice, row, column, 1) to LPS.
    last = len(ours.voxels) - 1
    for corner in ((0, 0, 0), (last, 0, 0), (0, ours.voxels.shape[1] - 1, ours.voxels.shape[2] - 1)):
        mirrored = (last - corner[0], *corner[1:])
        np.testing.assert_allclose(ours.affine @ (*corner, 1), theirs.affine @ (*mirrored, 1), atol=1e-3)


@needs_shared
def test_an_object_has_the_geometry_of_its_classic_twin() -> None:
    """One acquisition of a Philips scanner, sent in both forms."""
    twins = [
        load_volume(_frames(sorted((DATA / folder).iterdir()))).volume
        for folder in ("enhanced/philips_phantom_ffe_24frames", "philips_phantom_ffe_classic")
    ]
    assert twins[0].voxels.shape == twins[1].voxels.shape
    np.testing.assert_allclose(twins[0].affine, twins[1].affine, atol=1e-3)


@needs_shared
def test_an_object_tells_of_the_acquisition_what_its_classic_twin_tells() -> None:
    """The scanner wrote both, so the classic one says how it puts its own groups into a classic image's words."""
    enhanced, classic = (
        _headers(sorted((DATA / folder).iterdir()))[0]
        for folder in ("enhanced/philips_phantom_ffe_24frames", "philips_phantom_ffe_classic")
    )
    for keyword in ("SAR", "dBdt", "RepetitionTime", "EchoTime", "FlipAngle", "EchoTrainLength", "NumberOfAverages"):
        assert float(enhanced.text(keyword)) == pytest.approx(float(classic.text(keyword)), rel=1e-6), keyword
    for keyword in ("AcquisitionMatrix", "InPlanePhaseEncodingDirection", "ScanningSequence", "B1rms"):
        assert enhanced.text(keyword) == classic.text(keyword), keyword


@needs_shared
def test_the_pixels_of_a_real_object_are_those_that_pydicom_decodes() -> None:
    (path,) = sorted((DATA / "enhanced/philips_phantom_tse_12frames").iterdir())
    stack = load_volume(_frames([path]))
    reference = dcmread(path).pixel_array
    for frame, stored in zip(stack.frames, stack.stored, strict=True):
        assert frame.number is not None
        np.testing.assert_array_equal(stored, reference[frame.number - 1])


@pytest.mark.parametrize("syntax", [None, JPEGLSLossless])
def test_no_frame_is_decoded_twice_and_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: UID | None
) -> None:
    """Decoding all frames at once would hold the object three times over."""
    decoded: list[int | None] = []

    def counted(dataset: FileDataset, index: int | None = None) -> StoredValues:
        decoded.append(index)
        return stored_values(dataset, index)

    monkeypatch.setattr("dicomnode.imaging.frame.stored_values", counted)
    (dataset,) = ONE.datasets()
    if syntax:
        dataset.compress(syntax, generate_instance_uid=False)
    dcmwrite(tmp_path / "one.dcm", dataset, enforce_file_format=True)
    stack = load_volume(_frames([tmp_path / "one.dcm"]))
    assert decoded == [0, 1, 2, 3, 4, 5]
    assert len(stack.stored) == 6


@pytest.mark.alone
def test_an_object_of_many_frames_takes_the_memory_of_its_pixels(tmp_path: Path) -> None:
    """Stored values, the file, and the volume of float32; headers beside them take some 20 kB for each frame."""
    (path,) = EnhancedPhantom(phantom=Phantom(slices=40, rows=96, columns=96, spacing_mm=1.0)).write(tmp_path)
    pixels = path.stat().st_size
    tracemalloc.start()
    try:
        frames = _frames([path])
        held, _ = tracemalloc.get_traced_memory()
        assert held < 30_000 * len(frames)
        tracemalloc.reset_peak()
        load_volume(frames)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - held < 5 * pixels
