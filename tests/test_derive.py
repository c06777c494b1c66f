"""The derived series: geometry, identity, pixels, labels and UIDs, read back from its bytes by others than us."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import dcmread, dcmwrite
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian, generate_uid

from dicomnode.derivation import RuleLimits
from dicomnode.derive import attributes, mr_attributes
from dicomnode.derive.decimals import decimal_text
from dicomnode.generators.cubic_dc import CubicDc
from dicomnode.ids import AeTitle
from dicomnode.imaging.frame import Frame
from dicomnode.imaging.headers import header_of
from dicomnode.imaging.identity import IDENTITY_GROUPS
from dicomnode.imaging.judge import judge
from dicomnode.imaging.profile import thin_grid
from dicomnode.imaging.verdict import Limits, VerdictReason
from dicomnode.imaging.volume import Volume
from tests.support.derived import PLAN, SMALL, Made, made_from, made_of, unchanged
from tests.support.phantom import BALLS, ORIENTATIONS, Phantom, write_datasets
from tests.support.shared import real_series
from tests.support.simpleitk import read_folder

UNMOVED_MM = 1e-4  # how far the middle of the volume may move: rounding to 16 characters

ENHANCED = ("enhanced/philips_phantom_tse_12frames", "enhanced/philips_abdomen_loc_20frames")

needs_dcm2niix = pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="dcm2niix is not installed")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A small phantom, derived once."""
    return made_from(SMALL.write(tmp_path_factory.mktemp("small")), 4)


# Geometry


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_balls_stay_where_they_are(tmp_path: Path, orientation: str) -> None:
    """Read back by SimpleITK from the files. A half-block shift is 1.3 mm, the bar 0.1 mm.

    See docs/derived-objects.md#checks-by-other-programs.
    """
    numbers_fall, ratio = orientation in ("axial", "sagittal"), 4 if orientation != "coronal" else 3
    phantom = Phantom(orientation=orientation, numbers_fall=numbers_fall)
    made = made_from(phantom.write(tmp_path / "thick"), ratio)
    made.write(tmp_path / "thin")
    image = read_folder(tmp_path / "thin")
    places, values = image.places, image.voxels
    for ball in BALLS:
        centre = np.asarray(ball.centre_mm)
        near = np.linalg.norm(places - centre, axis=-1) < ball.radius_mm + 4.0
        centroid = (places[near] * values[near][:, None]).sum(axis=0) / values[near].sum()
        assert np.linalg.norm(centroid - centre) < 0.1


@pytest.mark.parametrize("folder", real_series(["prostatex/t2_cor", "lumbar/t2_sag", "brain_t1_fl2d"]))
def test_the_middle_of_a_real_volume_does_not_move(folder: Path) -> None:
    """As highdicom sees both series."""
    paths = sorted(folder.iterdir())
    made = made_from(paths, 3)
    thick = highdicom.get_volume_from_series([dcmread(path) for path in paths])
    thin = highdicom.get_volume_from_series(made.datasets)
    middles = [volume.affine @ (*((np.array(volume.spatial_shape) - 1) / 2), 1.0) for volume in (thick, thin)]
    np.testing.assert_allclose(middles[0], middles[1], atol=UNMOVED_MM)
    assert thin.spacing_between_slices == pytest.approx(thick.spacing_between_slices / 3, abs=1e-4)
    assert thin.spatial_shape[0] == 3 * len(paths)


@needs_dcm2niix
@pytest.mark.parametrize("folder", real_series(["prostatex/t2_cor", "lumbar/t2_sag", *ENHANCED]))
def test_dcm2niix_and_simpleitk_see_the_same_corners(tmp_path: Path, folder: Path) -> None:
    paths = sorted(folder.iterdir())
    made = made_from(paths, 3)
    made.write(tmp_path / "thin")
    command = ["dcm2niix", "-b", "y", "-z", "n", "-p", "n", "-o", str(tmp_path), "-f", "x", str(tmp_path / "thin")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    image = nibabel.Nifti1Image.from_filename(tmp_path / "x.nii")
    theirs = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(image.affine)  # RAS to LPS
    itk = read_folder(tmp_path / "thin")
    assert image.shape == itk.voxels.shape[::-1]
    ours = [itk.affine @ (*corner, 1) for corner in _corners(itk.voxels.shape)]
    for corner in _corners(image.shape):  # it may have flipped an axis: the same set of corners, then
        assert min(np.linalg.norm(theirs @ (*corner, 1) - other) for other in ours) < 0.01
    sidecar = json.loads((tmp_path / "x.json").read_text())
    scanner = str(dcmread(paths[0], stop_before_pixels=True).Manufacturer)
    assert ("Manufacturer" in sidecar) == bool(scanner), "one sample comes from no scanner"
    assert sidecar.get("Manufacturer", "").lower() in scanner.lower(), "it stands last among the contributors"


def _corners(shape: Sequence[int]) -> list[NDArray[np.int64]]:
    return [np.array(ends) * (np.array(shape) - 1) for ends in np.ndindex(2, 2, 2)]


def test_a_thin_slice_is_a_thin_slice(small: Made) -> None:
    """Viewer contract: the limits of cornerstone3D, Slicer and OHIF, without a browser."""
    datasets = small.datasets
    positions = np.array([dataset.ImagePositionPatient for dataset in datasets], dtype=float)
    distances = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    assert np.ptp(distances) < 0.01
    assert distances == pytest.approx(1.0, abs=1e-6)
    one_value = (
        "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID", "StudyInstanceUID", "SeriesInstanceUID",
        "ContentDate", "ContentTime", "AcquisitionDate", "AcquisitionTime", "SeriesDate", "SeriesTime",
        "SliceThickness", "SpacingBetweenSlices", "WindowCenter", "WindowWidth", "SeriesNumber", "ImageType",
    )  # fmt: skip
    for keyword in one_value:
        assert len({str(dataset[keyword].value) for dataset in datasets}) == 1, keyword
    assert datasets[0].SpacingBetweenSlices == datasets[0].SliceThickness == 1.0
    assert "TriggerTime" not in datasets[0]
    assert [dataset.InstanceNumber for dataset in datasets] == list(range(1, 25))
    assert datasets[0].FrameOfReferenceUID == small.stack.headers[0].frame_of_reference_uid
    assert datasets[0].ImageOrientationPatient == [1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("numbers_fall", [False, True])
def test_scrolling_goes_the_way_it_went(tmp_path: Path, numbers_fall: bool) -> None:
    made = made_of(tmp_path, replace(SMALL, numbers_fall=numbers_fall).datasets())
    heights = [float(dataset.ImagePositionPatient[2]) for dataset in made.datasets]
    assert heights == sorted(heights, reverse=numbers_fall)


def test_slice_location_stays_on_the_scanners_axis(tmp_path: Path) -> None:
    datasets = SMALL.datasets()
    for index, dataset in enumerate(datasets):
        dataset.SliceLocation = f"{100 - 4.0 * index:.3f}"
    made = made_of(tmp_path, datasets, ratio=4).datasets
    assert [float(dataset.SliceLocation) for dataset in made[:3]] == pytest.approx([101.5, 100.5, 99.5])
    for dataset in datasets:
        dataset.SliceLocation = "1"
    datasets[2].SliceLocation = "77"
    made = made_of(tmp_path, datasets, ratio=4).datasets
    assert float(made[0].SliceLocation) == pytest.approx(float(made[0].ImagePositionPatient[2]))


def test_orientations_that_differ_by_rounding_become_their_median(tmp_path: Path) -> None:
    datasets = SMALL.datasets()
    datasets[2].ImageOrientationPatient = [1, 0.0004, 0, -0.0004, 1, 0]
    datasets[3].PixelSpacing = [1.30001, 1.1]
    made = made_of(tmp_path, datasets).datasets[0]
    assert made.ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
    assert made.PixelSpacing == [1.3, 1.1]


# Pixels


@pytest.mark.parametrize("folder", real_series(["lumbar/t2_sag"]))
def test_at_ratio_one_the_stored_values_come_back_bit_for_bit(folder: Path) -> None:
    paths = sorted(folder.iterdir())
    made = made_from(paths, 1, generate=unchanged)
    source = {dataset.InstanceNumber: dataset for dataset in map(dcmread, paths)}
    for place, dataset in enumerate(made.datasets):
        np.testing.assert_array_equal(dataset.pixel_array, source[sorted(source)[place]].pixel_array)


@pytest.mark.parametrize("rescale", [(2.36166056166056, 0.0), (0.0123, -7.5), (1.0, -1024.0), None])
@pytest.mark.parametrize("is_signed", [False, True])
def test_a_rescale_is_undone_exactly(tmp_path: Path, rescale: tuple[float, float] | None, is_signed: bool) -> None:
    phantom = replace(SMALL, rescale=rescale, is_signed=is_signed)
    datasets = phantom.datasets()
    rng = np.random.default_rng(7)
    low, high = (-2048, 2048) if is_signed else (0, 4096)
    for dataset in datasets:
        dataset.PixelData = rng.integers(low, high, (20, 24)).astype("<i2" if is_signed else "<u2").tobytes()
    made = made_from(write_datasets(tmp_path, datasets), 1, generate=unchanged).datasets
    for before, after in zip(datasets, made, strict=True):
        assert before.PixelData == after.PixelData
        for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
            assert before.get(keyword) == after.get(keyword)


def test_slopes_that_differ_become_one_in_the_same_units(tmp_path: Path) -> None:
    datasets = SMALL.datasets()
    for index, dataset in enumerate(datasets):
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1.0 + 0.1 * index, 2, "XX"
    made = made_from(write_datasets(tmp_path, datasets), 1, generate=unchanged)
    for place, dataset in enumerate(made.datasets):
        assert dataset.RescaleIntercept == 0
        assert dataset.RescaleType == "XX"
        values = dataset.pixel_array * float(dataset.RescaleSlope)
        np.testing.assert_allclose(values, made.stack.volume.voxels[place], atol=float(dataset.RescaleSlope) / 2 + 1e-4)
    assert max(dataset.pixel_array.max() for dataset in made.datasets) == 4095, "the whole pixel format is used"
    assert any("varies between the source slices" in note for note in made.notes)


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("unit", [1.0, 1e-12])
def test_values_below_zero_outlive_slopes_that_differ(tmp_path: Path, is_signed: bool, unit: float) -> None:
    datasets = replace(SMALL, is_signed=is_signed).datasets()
    for index, dataset in enumerate(datasets):
        dataset.RescaleSlope, dataset.RescaleIntercept = f"{unit * (1 + index)}", f"{-3000 * unit}"
    made = made_from(write_datasets(tmp_path, datasets), 1, generate=unchanged)
    assert made.stack.minimum < 0
    for place, dataset in enumerate(made.datasets):
        values = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        np.testing.assert_allclose(values, made.stack.volume.voxels[place], atol=1.01 * float(dataset.RescaleSlope) / 2)


def test_the_mean_of_the_thin_slices_is_the_thick_slice(small: Made) -> None:
    """Data consistency as a receiver finds it: in the decoded files, in modality units, to rounding."""
    thin = np.stack([dataset.pixel_array for dataset in small.datasets]).astype(float)
    thick = small.stack.volume.voxels
    inside = np.stack([(thin[k : k + 4] > 0).all(axis=0) for k in range(0, 24, 4)])  # clipped at zero elsewhere
    error = thin.reshape(6, 4, 20, 24).mean(axis=1) - thick
    assert inside.any()
    assert np.abs(error[inside]).max() < 1.0


def test_nothing_falls_below_the_sources_least_value(tmp_path: Path) -> None:
    """A spline swings under the air beside an edge; a magnitude image has nothing there."""
    datasets = replace(SMALL, is_signed=True).datasets()
    for index, dataset in enumerate(datasets):
        dataset.PixelData = np.full((20, 24), -30 if index % 2 else 1500, dtype="<i2").tobytes()
    made = made_of(tmp_path, datasets, ratio=4)
    assert min(int(dataset.pixel_array.min()) for dataset in made.datasets) == -30


def test_what_is_too_bright_is_clipped_counted_and_said(tmp_path: Path) -> None:
    datasets = SMALL.datasets()
    for index, dataset in enumerate(datasets):
        dataset.PixelData = np.full((20, 24), 4000 if index in (2, 3) else 0, dtype="<u2").tobytes()
    made = made_of(tmp_path, datasets, ratio=4)
    assert max(int(dataset.pixel_array.max()) for dataset in made.datasets) == 4095
    assert made.clipped > 0
    assert re.search(rf"^{made.clipped} voxels \(.* %\) were brighter than the pixel format holds", made.notes[0])


def test_padding_comes_back_where_it_was(tmp_path: Path) -> None:
    datasets = replace(SMALL, is_signed=True, changes={"PixelPaddingValue": -2000}).datasets()
    for dataset in datasets:
        frame = np.full((20, 24), 100, dtype="<i2")
        frame[0] = -2000
        dataset.PixelData = frame.tobytes()
    for dataset in made_of(tmp_path, datasets).datasets:
        assert (dataset.pixel_array[0] == -2000).all()
        assert (dataset.pixel_array[1:] == 100).all()
        assert dataset.PixelPaddingValue == -2000
        assert dataset["PixelPaddingValue"].VR == "SS"


def test_a_padding_value_without_padding_is_left_out(tmp_path: Path) -> None:
    made = made_of(tmp_path, replace(SMALL, changes={"PixelPaddingValue": 4000}).datasets())
    assert "PixelPaddingValue" not in made.datasets[0]


def test_eight_bits_stay_eight_bits(tmp_path: Path) -> None:
    datasets = replace(SMALL, rows=19, columns=23, bits_stored=8).datasets()
    for dataset in datasets:
        dataset.BitsAllocated = 8
        dataset.PixelData = bytes(np.arange(19 * 23, dtype=np.uint8)) + b"\0"
        dataset["PixelData"].VR = "OB"
    made = made_from(write_datasets(tmp_path, datasets), 1, generate=unchanged).datasets
    assert all(dataset.PixelData == datasets[0].PixelData for dataset in made), "an odd count of bytes is padded"


# Attributes


def test_every_attribute_of_the_standards_modules_was_decided_on() -> None:
    """The modules of a classic MR image as the standard lists them, in machine-readable form inside highdicom."""
    tables = Path(highdicom.__file__).parent / "_standard"
    modules = json.loads((tables / "module_attribute_map.json").read_text())
    iods = json.loads((tables / "iod_module_map.json").read_text())
    listed = {
        attribute["keyword"]
        for module in iods["mr-image"]
        for attribute in modules[module["key"]]
        if not attribute["path"]
    }
    by_group = {keyword for keyword in listed if (tag_for_keyword(keyword) or 0) >> 16 in IDENTITY_GROUPS}
    decided = [
        *by_group,
        *attributes.SERIES_ATTRIBUTES,
        *attributes.SLAB_ATTRIBUTES,
        *attributes.INSTANCE_ATTRIBUTES,
        attributes.PIXEL_DATA,
    ]
    for table in (mr_attributes.COPIED, mr_attributes.DROPPED):
        decided += [keyword for keywords in table.values() for keyword in keywords]
    assert listed - set(decided) == set()
    assert len(decided) == len(set(decided)), "each by one table"


def test_only_what_a_table_names_comes_out(tmp_path: Path) -> None:
    """The source carries a foreign value in every attribute of the dictionary's image groups that is not its own."""
    datasets = SMALL.datasets()
    for dataset in datasets:
        dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", b"\1\2")
        dataset.private_block(0x0011, "NEAR THE PATIENT", create=True).add_new(0x10, "LO", "x")
        dataset.add_new(0x60000010, "US", 20)
        dataset.AcquisitionUID, dataset.TriggerTime, dataset.ImagesInAcquisition = generate_uid(), "1", 45
        dataset.SmallestImagePixelValue = 3
        dataset.PerformedProcedureStepID, dataset.ImageTriggerDelay = "P", "1"
        item = Dataset()
        item.ScheduledProcedureStepID = "S1"
        item.private_block(0x0029, "INSIDE", create=True).add_new(0x10, "LO", "x")
        dataset.RequestAttributesSequence = [item]
    made = made_of(tmp_path, datasets).datasets[0]
    named = {keyword for keywords in mr_attributes.COPIED.values() for keyword in keywords}
    named |= {
        *attributes.SERIES_ATTRIBUTES,
        *attributes.SLAB_ATTRIBUTES,
        *attributes.INSTANCE_ATTRIBUTES,
        attributes.PIXEL_DATA,
    }
    for element in made:
        assert not element.tag.is_private
        assert element.tag.group in IDENTITY_GROUPS or keyword_for_tag(element.tag) in named
    (item,) = made.RequestAttributesSequence
    assert [element.keyword for element in item] == ["ScheduledProcedureStepID"]


def test_what_differs_between_slices_is_empty_where_it_must_be_there_and_gone_elsewhere(tmp_path: Path) -> None:
    datasets = SMALL.datasets()
    for index, dataset in enumerate(datasets):
        dataset.RepetitionTime, dataset.FlipAngle, dataset.ScanOptions = 3000 + index, 100 + index, f"PFF{index}"
        dataset.SAR = 0.25
    made = made_of(tmp_path, datasets).datasets[0]
    assert made["RepetitionTime"].is_empty
    assert made["ScanOptions"].is_empty
    assert "FlipAngle" not in made
    assert made.SAR == 0.25


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_the_sources_transfer_syntax_changes_only_the_uids(tmp_path: Path, small: Made, syntax: UID) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    for place, header in enumerate(small.stack.headers):
        dataset = dcmread(header.path)
        dataset.ProcedureCodeSequence = []
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
        implicit = syntax == ImplicitVRLittleEndian
        dcmwrite(
            folder / str(place),
            dataset,
            implicit_vr=implicit,
            little_endian=syntax != ExplicitVRBigEndian,
            enforce_file_format=True,
        )
    other = made_from(sorted(folder.iterdir()), 4).datasets
    for one, two in zip(small.datasets, other, strict=True):
        for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
            assert one[keyword] != two[keyword]
            del one[keyword], two[keyword]
        assert two["ProcedureCodeSequence"].is_empty
        del two["ProcedureCodeSequence"]
        assert one == two


def test_identity_is_copied_whole_and_byte_for_byte(tmp_path: Path) -> None:
    """Text that is not valid in its character set included: a receiver compares bytes."""
    datasets = SMALL.datasets()
    for dataset in datasets:
        dataset.PatientName = "NAMENAME^GIVEN"
        dataset.OtherPatientNames = ["One^Two", "Three"]
        dataset.PatientWeight = "70.50"
        dataset.OtherPatientIDs = "RETIRED"
        dataset.ClinicalTrialSubjectID = "T9"
        dataset.StudyDescription = "STUDYTEXT"
        del dataset.PatientBirthDate
    paths = write_datasets(tmp_path, datasets)
    for path in paths:
        content = (
            path.read_bytes().replace(b"NAMENAME", b"N\xffM\xe9NAM\x9c").replace(b"STUDYTEXT", b"STUDY\xe1\xff\x01T")
        )
        path.write_bytes(content)
    made = made_from(paths, 3).files[0].content
    for kept in (b"N\xffM\xe9NAM\x9c^GIVEN", b"One^Two\\Three ", b"70.50 ", b"RETIRED ", b"T9", b"STUDY\xe1\xff\x01T"):
        assert kept in made
    derived = dcmread(BytesIO(made))
    assert derived["PatientBirthDate"].is_empty, "type 2: there, though the source had none"


def test_the_label_is_in_every_place_a_reader_looks_at(small: Made) -> None:
    dataset = small.datasets[0]
    assert list(dataset.ImageType) == ["DERIVED", "SECONDARY", "OTHER", "RESAMPLED"]
    assert dataset.SeriesDescription == "INTERP 1.0mm DERIVED T2 balls"
    assert dataset.SeriesNumber == 750
    assert dataset.Manufacturer == dataset.ManufacturerModelName == "dicomnode"
    assert dataset.StationName == "DICOMNODE"
    assert dataset.ImageComments == "Computed thin slices. Not for primary diagnosis. Read with series 7."
    assert dataset.ContentQualification == "RESEARCH"
    assert dataset.DerivationDescription == (
        "4 thin slices computed for each of 6 thick ones by dicomnode 0.1.0 with model cubic-dc (digest cubic-dc/1). "
        "Source: series 7, slices 4 mm apart, 4 mm thick, gap fraction 0.00. Not for primary diagnosis."
    )
    assert dataset.DerivationCodeSequence[0].CodeValue == "113085"
    assert "SyntheticData" not in dataset


def test_a_thickness_that_nobody_knows_is_not_stated(tmp_path: Path) -> None:
    made = made_of(tmp_path, replace(SMALL, changes={"SliceThickness": None}).datasets()).datasets[0]
    assert "slices 4 mm apart, of unknown thickness." in made.DerivationDescription


def test_a_learned_model_is_called_ai_and_named_by_digest(tmp_path: Path) -> None:
    learned = replace(PLAN.parameters, model="thin", model_digest="ab" * 32)
    plan = replace(PLAN, parameters=learned, model_kind="thin", derivation_number=2)
    made = made_of(tmp_path, SMALL.datasets(), plan=plan).datasets[0]
    assert made.SeriesDescription == "AI 1.3mm DERIVED r2 T2 balls"
    assert made.SeriesNumber == 751
    assert "model thin (digest abababababababab)" in made.DerivationDescription
    assert "Replaces series 750." in made.DerivationDescription
    assert made.ContributingEquipmentSequence[0].SoftwareVersions[1] == "ab" * 32


def test_the_scanner_is_the_last_contributor(tmp_path: Path) -> None:
    datasets = SMALL.datasets()
    for dataset in datasets:
        earlier = Dataset()
        earlier.Manufacturer = "Earlier"
        dataset.ContributingEquipmentSequence = [earlier]
    items = made_of(tmp_path, datasets).datasets[0].ContributingEquipmentSequence
    assert [item.Manufacturer for item in items] == ["Earlier", "dicomnode", "Ball Works"]
    assert [item.PurposeOfReferenceCodeSequence[0].CodeValue for item in items[1:]] == ["109102", "109101"]
    assert items[2].ManufacturerModelName == "Three"
    assert list(items[2].SoftwareVersions) == ["v1", "v2"]
    assert items[2].InstitutionName == "Test House"
    assert items[1].ContributionDateTime == "20260304050607.089000+0000"


def test_each_thin_slice_names_the_thick_ones_around_it(small: Made) -> None:
    uids = [header.sop_instance_uid for header in small.stack.headers]
    for place, dataset in enumerate(small.datasets):
        owner = place // 4
        named = [item.ReferencedSOPInstanceUID for item in dataset.SourceImageSequence]
        assert named == uids[max(owner - 2, 0) : owner + 3]
        assert len(named) <= 5
        assert {item.SpatialLocationsPreserved for item in dataset.SourceImageSequence} == {"NO"}


def test_times_are_those_of_the_job_and_of_the_earliest_slice(tmp_path: Path) -> None:
    datasets = SMALL.datasets()
    for index, dataset in enumerate(datasets):
        dataset.AcquisitionDate = "20200103" if index < 3 else "20200102"  # past midnight
        dataset.AcquisitionTime = "000102" if index < 3 else f"23595{index}"
        dataset.TimezoneOffsetFromUTC = "+0530"
    made = made_of(tmp_path, datasets).datasets[0]
    assert (made.AcquisitionDate, made.AcquisitionTime) == ("20200102", "235953")
    for kind in ("Series", "Content", "InstanceCreation"):
        assert made[f"{kind}Date"].value == "20260304"
        assert made[f"{kind}Time"].value == "103607.089000", "on the clock of the source's other times"


def test_one_window_serves_all_slices(tmp_path: Path, small: Made) -> None:
    assert (small.datasets[0].WindowCenter, small.datasets[0].WindowWidth) == (502.5, 1002.5)
    datasets = SMALL.datasets()
    for index, dataset in enumerate(datasets):
        dataset.WindowCenter, dataset.WindowWidth = [str(40 + index), "600"], ["80", "1500"]
    del datasets[5].WindowCenter
    made = made_of(tmp_path, datasets).datasets[0]
    assert (made.WindowCenter, made.WindowWidth) == (42, 80), "the first pair; a slice without one has no say"


NO_WINDOW = (None, None)


@pytest.mark.parametrize(
    ("centres", "widths", "function", "expected"),
    [
        ("800", "1600", None, (800, 1600)),
        ("0", "0", None, NO_WINDOW),
        ("800", "-1600", None, NO_WINDOW),
        ("800", None, None, NO_WINDOW),
        (None, "1600", None, NO_WINDOW),
        ("800", "0.5", None, NO_WINDOW),
        ("800", "0.5", "LINEAR", NO_WINDOW),
        ("0.2", "0.5", "LINEAR_EXACT", (0.2, 0.5)),
        ("0.2", "0.5", "SIGMOID", (0.2, 0.5)),
        ("0.2", "0", "SIGMOID", NO_WINDOW),
        (["0", "400"], ["0", "900"], None, (400, 900)),
        (["800", "400"], "1600", None, (800, 1600)),
    ],
)
def test_a_window_is_a_pair_that_a_viewer_can_use(
    tmp_path: Path, centres: object, widths: object, function: str | None, expected: tuple[object, object]
) -> None:
    changes = {"WindowCenter": centres, "WindowWidth": widths, "VOILUTFunction": function}
    made = made_of(tmp_path, replace(SMALL, changes=changes).datasets()).datasets[0]
    assert (made.get("WindowCenter"), made.get("WindowWidth")) == expected


def test_slices_without_a_usable_window_have_no_say_in_it(tmp_path: Path) -> None:
    datasets = SMALL.datasets()
    for dataset in datasets[:4]:
        dataset.WindowCenter, dataset.WindowWidth = "0", "0"
    made = made_of(tmp_path, datasets).datasets[0]
    assert (made.WindowCenter, made.WindowWidth) == (504.5, 1004.5)


def test_the_past_of_a_lossy_source_is_not_forgotten(tmp_path: Path) -> None:
    datasets = SMALL.datasets()
    for index, dataset in enumerate(datasets[:3]):
        dataset.LossyImageCompression = "01"
        dataset.LossyImageCompressionRatio = [8.0 + index]
        dataset.LossyImageCompressionMethod = ["ISO_10918_1" if index else "ISO_15444_1"]
    for dataset in made_of(tmp_path, datasets).datasets:
        assert dataset.LossyImageCompression == "01"
        assert dataset.LossyImageCompressionRatio == 10
        assert list(dataset.LossyImageCompressionMethod) == ["ISO_10918_1", "ISO_15444_1"]
    assert "LossyImageCompression" not in made_of(tmp_path, SMALL.datasets()).datasets[0]


def test_our_output_is_recognised_when_it_comes_back(small: Made) -> None:
    found = judge([Frame(header=header_of(dataset, Path("back.dcm"))) for dataset in small.datasets], Limits())
    assert found.reason is VerdictReason.OWN_OUTPUT
    assert "from series 7;" in found.sentence


@pytest.mark.parametrize(
    ("source", "derivation", "expected"),
    [
        (7, 1, 750),
        (7, 3, 752),
        (0, 1, 50),
        (21474835, 1, 2147483550),
        (21474836, 2, 99002),
        (-3, 1, 99001),
        (None, 1, 99001),
    ],
)
def test_series_numbers_keep_their_distance(tmp_path: Path, source: int | None, derivation: int, expected: int) -> None:
    datasets = replace(SMALL, changes={"SeriesNumber": source}).datasets()
    made = made_of(tmp_path, datasets, plan=replace(PLAN, derivation_number=derivation)).datasets[0]
    assert made.SeriesNumber == expected
    if source is None:
        assert "Read with series of unknown number." in made.ImageComments


@pytest.mark.parametrize(("charset", "letter"), [("ISO_IR 100", "é"), ("ISO_IR 192", "頭"), (None, "x")])
def test_a_long_description_is_cut_at_its_end(tmp_path: Path, charset: str | None, letter: str) -> None:
    datasets = replace(SMALL, changes={"SpecificCharacterSet": charset, "SeriesDescription": letter * 60}).datasets()
    made = made_of(tmp_path, datasets).datasets[0]
    assert made.SeriesDescription == f"INTERP 1.3mm DERIVED {letter * 43}"


# UIDs and bytes


def test_the_same_job_writes_the_same_bytes(small: Made) -> None:
    again = made_from([header.path for header in reversed(small.stack.headers)], 4)
    assert [file.content for file in again.files] == [file.content for file in small.files]
    assert len({file.sop_instance_uid for file in small.files}) == 24


def test_an_instance_is_what_pydicom_would_write_of_it_at_once(tmp_path: Path, small: Made) -> None:
    """Instances are put together of elements encoded once; sequences may have come without a length."""
    datasets = SMALL.datasets()
    for dataset in datasets:
        inner = Dataset()
        inner.RequestedProcedureID = "7"
        inner.is_undefined_length_sequence_item = True
        dataset.RequestAttributesSequence = [inner]
        dataset["RequestAttributesSequence"].is_undefined_length = True
        other = Dataset()
        other.PatientID, other.TypeOfPatientID = "1", "TEXT"
        dataset.OtherPatientIDsSequence = [other]
        dataset["OtherPatientIDsSequence"].is_undefined_length = True
    nested = made_of(tmp_path, datasets)
    assert nested.datasets[0].RequestAttributesSequence[0].RequestedProcedureID == "7"
    assert nested.datasets[0].OtherPatientIDsSequence[0].PatientID == "1"
    for file in (*small.files, *nested.files):
        whole = BytesIO()
        dcmwrite(whole, dcmread(BytesIO(file.content)), enforce_file_format=True)
        assert whole.getvalue() == file.content


@pytest.mark.parametrize(
    "change",
    [
        {"derivation_number": 2},
        {"parameters": replace(PLAN.parameters, model_digest="cubic-dc/2")},
        {"namespace": uuid.UUID(int=1)},
        {"parameters": replace(PLAN.parameters, limits=RuleLimits(target_mm=2.0))},
        {"ae_title": AeTitle("OTHER")},
        {"parameters": replace(PLAN.parameters, model="Cubic")},
        {"created_at": datetime(2027, 1, 1, tzinfo=UTC)},  # other times in the bytes
    ],
)
def test_another_job_makes_other_uids(small: Made, change: dict[str, object]) -> None:
    plan = replace(PLAN, **change)  # type: ignore[arg-type]  # a dict of keywords
    other = made_from([header.path for header in small.stack.headers], 4, plan)
    uids = {file.sop_instance_uid for file in small.files} | {small.datasets[0].SeriesInstanceUID}
    assert uids.isdisjoint({file.sop_instance_uid for file in other.files} | {other.datasets[0].SeriesInstanceUID})


def test_voxels_that_differ_in_the_last_bit_make_other_uids(small: Made) -> None:
    """As another device, precision, thread count or library makes them: nobody can list all that they depend on."""

    def nearly(thick: Volume) -> Volume:
        thin = CubicDc().generate(thick, thin_grid(thick, 4), device="cpu").thin
        thin.voxels[7, 3, 4] = np.nextafter(thin.voxels[7, 3, 4], np.float32(np.inf))
        return thin

    other = made_from([header.path for header in small.stack.headers], 4, generate=nearly)
    assert {file.sop_instance_uid for file in other.files}.isdisjoint({file.sop_instance_uid for file in small.files})
    assert other.datasets[0].SeriesInstanceUID != small.datasets[0].SeriesInstanceUID


@pytest.mark.parametrize("changed", ["dicomnode", "pydicom"])
def test_an_upgrade_between_two_attempts_makes_other_uids(
    small: Made, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Software Versions are in the bytes, and another encoder may write others."""
    if changed == "dicomnode":
        monkeypatch.setattr("dicomnode.derive.facts.__version__", "9.9.9")
    else:
        monkeypatch.setattr("pydicom.__version__", "9.9.9")
    other = made_from([header.path for header in small.stack.headers], 4)
    assert {file.sop_instance_uid for file in other.files}.isdisjoint({file.sop_instance_uid for file in small.files})


@pytest.mark.parametrize(("stated", "is_same"), [("+0100", True), (None, False)])
def test_a_planned_zone_that_is_written_makes_other_uids_and_one_that_is_not_does_not(
    tmp_path: Path, stated: str | None, is_same: bool
) -> None:
    """Where the source states its own, that is written."""
    datasets = replace(SMALL, changes={"TimezoneOffsetFromUTC": stated}).datasets()
    zone = timezone(timedelta(hours=5))
    one, two = (
        made_of(tmp_path, datasets, plan=replace(PLAN, created_at=moment))
        for moment in (PLAN.created_at, PLAN.created_at.astimezone(zone))
    )
    assert (one.files[0].content == two.files[0].content) == is_same
    assert (one.files[0].sop_instance_uid == two.files[0].sop_instance_uid) == is_same


@pytest.mark.parametrize(
    ("offset", "expected"),
    [("+0530", "103607"), ("-0800", "210607"), ("+9999", None), ("summer", None), (None, None)],
)
def test_the_job_is_told_on_the_sources_clock_or_the_planned_one(
    tmp_path: Path, offset: str | None, expected: str | None
) -> None:
    made = made_of(tmp_path, replace(SMALL, changes={"TimezoneOffsetFromUTC": offset}).datasets()).datasets[0]
    assert made.SeriesTime == (expected or "050607") + ".089000"


@pytest.mark.parametrize("change", ["pixel", "identity"])
def test_a_changed_source_makes_a_new_series(tmp_path: Path, small: Made, change: str) -> None:
    datasets = [dcmread(header.path) for header in small.stack.headers]
    for dataset in datasets if change == "identity" else datasets[:1]:
        if change == "identity":
            dataset.PatientID = "BALL-1 corrected"
        else:
            dataset.PixelData = b"\1" + dataset.PixelData[1:]
    made = made_of(tmp_path, datasets, ratio=4)
    assert made.datasets[0].SeriesInstanceUID != small.datasets[0].SeriesInstanceUID


def test_uids_are_uuids_and_files_are_what_they_say(small: Made) -> None:
    for file, dataset in zip(small.files, small.datasets, strict=True):
        for uid in (dataset.SOPInstanceUID, dataset.SeriesInstanceUID):
            assert uid.is_valid
            assert uuid.UUID(int=int(uid.removeprefix("2.25."))).version == 5
        meta = dataset.file_meta
        assert meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID == file.sop_instance_uid
        assert meta.MediaStorageSOPClassUID == dataset.SOPClassUID == file.sop_class_uid
        assert meta.TransferSyntaxUID == file.transfer_syntax_uid == "1.2.840.10008.1.2.1"
        assert file.size_bytes == len(file.content) - 144 - meta.FileMetaInformationGroupLength


@settings(deadline=None)
@given(st.floats(-9999, 9999))
@example(-9.99999999999999995)
@example(0.00012345678901234567)
@example(-1.2345678901234567e-8)
def test_a_coordinate_is_a_decimal_string_and_keeps_its_place(number: float) -> None:
    text = decimal_text(number)
    assert len(text) <= 16
    assert re.fullmatch(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", text)
    assert float(text) == pytest.approx(number, abs=1e-9, rel=1e-9)
