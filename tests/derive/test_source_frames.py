"""What a derived series says of a source whose slices are frames of one object."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from pydicom import dcmread

from dicomnode.derive.encode import DerivedFile
from dicomnode.generators.cubic_dc import CubicDc
from dicomnode.pipeline import run_pipeline
from tests.support.derived import PLAN, SMALL, made_from
from tests.support.enhanced import EnhancedPhantom


def test_each_slice_names_the_frames_that_it_was_computed_from(tmp_path: Path) -> None:
    """Of an Enhanced MR object whose frames lie in random order; the standard wants the frame beside the object."""
    phantom = EnhancedPhantom(phantom=SMALL, seed=1)
    made = made_from(phantom.write(tmp_path), 3)
    (source,) = phantom.datasets()
    by_position = sorted(made.datasets, key=lambda dataset: float(dataset.ImagePositionPatient[2]))
    assert {dataset.SOPClassUID.name for dataset in by_position} == {"MR Image Storage"}
    for place, dataset in enumerate(by_position):
        owner = place // 3
        near = [index for index in range(owner - 2, owner + 3) if 0 <= index < SMALL.slices]
        assert [item.ReferencedFrameNumber for item in dataset.SourceImageSequence] == [
            phantom.order.index(index) + 1 for index in near
        ]
        assert {item.ReferencedSOPClassUID for item in dataset.SourceImageSequence} == {source.SOPClassUID}


def test_frames_and_files_of_the_same_slices_give_the_same_series(tmp_path: Path) -> None:
    """Pixels, positions and what says how the slices were acquired; the gate finds nothing in either."""
    kept: list[list[DerivedFile]] = [[], []]
    sources = SMALL.write(tmp_path / "classic"), EnhancedPhantom(phantom=SMALL, seed=1, parts=2).write(tmp_path / "e")
    for paths, files in zip(sources, kept, strict=True):
        result = run_pipeline(paths, generator=CubicDc(), plan=PLAN, device="cpu", write=files.append)
        assert (result.verdict.process, result.objections) == (True, ())
    classic, enhanced = (
        sorted((dcmread(BytesIO(file.content)) for file in files), key=lambda one: float(one.ImagePositionPatient[2]))
        for files in kept
    )
    for one, other in zip(classic, enhanced, strict=True):
        assert one.PixelData == other.PixelData
        for keyword in (
            "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RepetitionTime",
            "EchoTime", "FlipAngle", "ScanningSequence", "SequenceVariant", "ScanOptions", "AcquisitionDate",
            "AcquisitionTime", "WindowCenter", "WindowWidth", "PatientName", "SeriesDescription", "SeriesNumber",
        ):  # fmt: skip
            assert one[keyword].value == other[keyword].value, keyword
