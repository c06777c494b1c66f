"""The samples in the package: whole, small, processed by the node, and true to where they come from."""

from __future__ import annotations

import numpy as np
import pytest

from dicomnode.imaging.frame import read_frames
from dicomnode.imaging.judge import judge
from dicomnode.imaging.profile import thin_grid
from dicomnode.imaging.stack import load_volume
from dicomnode.imaging.verdict import Limits
from tests.support.shared import DATA, SAMPLES, needs_shared
from tests.support.simpleitk import read_files

BRAIN = SAMPLES / "brain_m2307_t2"
SIZE_LIMIT_BYTES = 12 << 20


@pytest.mark.parametrize(("folder", "slices", "ratio"), [("prostatex_t2_tra", 19, 3), ("brain_m2307_t2/thick", 37, 4)])
def test_the_node_processes_a_sample(folder: str, slices: int, ratio: int) -> None:
    found = judge(read_frames(sorted((SAMPLES / folder).glob("*.dcm"))), Limits())
    assert found.process
    assert (found.slices, found.ratio) == (slices, ratio)


def test_the_truth_lies_on_the_grid_that_the_thick_series_is_derived_to() -> None:
    thick, truth = (load_volume(read_frames(sorted((BRAIN / kind).iterdir()))) for kind in ("thick", "thin"))
    grid = thin_grid(thick.volume, 4)
    assert grid.slices == len(truth.volume.voxels)
    np.testing.assert_allclose(grid.origin_mm, truth.volume.origin_mm, atol=1e-4)
    np.testing.assert_allclose(grid.slice_step_mm, truth.volume.slice_step_mm, atol=1e-4)
    assert thick.headers[0].frame_of_reference_uid == truth.headers[0].frame_of_reference_uid
    means = truth.volume.voxels.reshape(37, 4, *truth.volume.voxels.shape[1:]).mean(axis=1)
    assert np.abs(means - thick.volume.voxels).max() <= 0.5, "the mean of four, to rounding"


@needs_shared
def test_the_truth_lies_where_simpleitk_sees_the_nifti() -> None:
    """An independent way from the file's RAS to LPS: corner by corner, voxel by voxel."""
    truth = load_volume(read_frames(sorted((BRAIN / "thin").iterdir()))).volume
    nifti = read_files([DATA / "thin_nifti" / "m2307_t2.nii.gz"])
    slices, rows, columns = truth.voxels.shape
    for index in [(0, 0, 0), (slices - 1, 0, 0), (70, 80, 60), (30, rows - 1, columns - 1)]:
        place = np.linalg.solve(nifti.affine, truth.affine @ (*index, 1.0))[:3]
        there = tuple(np.rint(place).astype(int))
        np.testing.assert_allclose(place, there, atol=0.01)
        assert truth.voxels[index] == nifti.voxels[there]
    assert truth.voxels.sum(dtype=np.float64) == nifti.voxels.sum()


@needs_shared
def test_the_prostate_is_the_file_of_its_source() -> None:
    for path in (SAMPLES / "prostatex_t2_tra").iterdir():
        assert path.read_bytes() == (DATA / "prostatex" / "t2_tra" / path.name).read_bytes()


def test_samples_are_small_and_say_whose_they_are() -> None:
    assert sum(path.stat().st_size for path in SAMPLES.rglob("*") if path.is_file()) < SIZE_LIMIT_BYTES
    text = (SAMPLES / "README.md").read_text()
    for words in ("CC BY 4.0", "10.7937/K9TCIA.2017.MURS5CL", "recompressed, identifying text removed", "CC0"):
        assert words in text
