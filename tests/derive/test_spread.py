"""The series of the spread: where it lies, what it says of itself, and that nothing takes it for anatomy."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from dicomnode.derive.encode import derive_spread
from dicomnode.generators.base import thin_volume
from dicomnode.imaging.frame import Frame
from dicomnode.imaging.headers import header_of
from dicomnode.imaging.judge import judge
from dicomnode.imaging.profile import thin_grid
from dicomnode.imaging.verdict import Limits, VerdictReason
from tests.support.derived import PLAN, SMALL, made_from, spread_from
from tests.support.simpleitk import read_folder


@pytest.mark.parametrize("is_signed", [False, True], ids=["unsigned", "signed"])
def test_the_spread_lies_where_the_thin_slices_lie_and_keeps_its_values(tmp_path: Path, is_signed: bool) -> None:
    """Read back by SimpleITK, which applies the rescale."""
    sources = replace(SMALL, orientation="double oblique", is_signed=is_signed).write(tmp_path / "thick")
    made_from(sources, 3).write(tmp_path / "thin")
    made, deviation = spread_from(sources, 3)
    made.write(tmp_path / "spread")
    thin, spread = read_folder(tmp_path / "thin"), read_folder(tmp_path / "spread")
    np.testing.assert_array_equal(spread.affine, thin.affine)
    assert spread.voxels.shape == thin.voxels.shape
    step = float(made.datasets[0].RescaleSlope)
    assert step < 0.01 * float(deviation.voxels.max()), "small values are not lost in the steps of the source"
    np.testing.assert_allclose(spread.voxels, deviation.voxels, atol=0.51 * step)


def test_the_spread_says_in_every_place_that_it_shows_no_anatomy(tmp_path: Path) -> None:
    sources = replace(SMALL, changes={"WindowCenter": "400", "WindowWidth": "900", "VOILUTFunction": "SIGMOID"})
    paths = sources.write(tmp_path / "thick")
    thin = made_from(paths, 4).datasets
    spread = spread_from(paths, 4)[0].datasets
    first = spread[0]
    assert list(first.ImageType) == ["DERIVED", "SECONDARY", "OTHER", "STD_DEVIATION"]
    assert first.SeriesDescription == "INTERP SPREAD, NO ANATOMY 1.0mm DERIVED T2 balls"
    assert "no image of the patient's anatomy" in first.ImageComments
    assert first.ImageComments.endswith("Read with series 7.")
    assert first.DerivationDescription.startswith("No image of the patient's anatomy: each value is the standard dev")
    assert "in the unit of the source's values" in first.DerivationDescription
    assert (first.SeriesNumber, thin[0].SeriesNumber) == (775, 750)
    assert first.RescaleType == "US"
    for keyword in ("WindowCenter", "WindowWidth", "VOILUTFunction"):
        assert keyword in thin[0]
        assert keyword not in first
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName"):
        assert first[keyword] == thin[0][keyword]
    assert first.SeriesInstanceUID != thin[0].SeriesInstanceUID
    assert not {one.SOPInstanceUID for one in spread} & {one.SOPInstanceUID for one in thin}


def test_the_spread_is_never_derived_again(tmp_path: Path) -> None:
    """Also where a PACS has written another manufacturer over ours."""
    paths = spread_from(SMALL.write(tmp_path / "thick"), 3)[0].write(tmp_path / "spread")
    for change in ({}, {"Manufacturer": "Archive", "ContributingEquipmentSequence": []}):
        frames = []
        for path in paths:
            dataset = dcmread(path)
            for keyword, value in change.items():
                setattr(dataset, keyword, value)
            frames.append(Frame(header=header_of(dataset, path)))
        verdict = judge(frames, Limits())
        assert verdict.reason is VerdictReason.OWN_OUTPUT


def test_where_nothing_differs_the_spread_is_zero(tmp_path: Path) -> None:
    stack = made_from(SMALL.write(tmp_path / "thick"), 3).stack
    grid = thin_grid(stack.volume, 3)
    none = thin_volume(np.zeros((grid.slices, 20, 24), dtype=np.float32), stack.volume, grid)
    file = next(derive_spread(stack, none, PLAN).files())
    assert not dcmread(BytesIO(file.content)).pixel_array.any()
