"""The voxels of a source lie where its files say, and none is read across what is missing."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from dicomnode.errors import InputError
from tests.support.mr_series import write_mr_series
from tests.support.phantom_sources import phantom, source
from tests.support.shared import DATA, needs_shared
from trainer.data.inventory import OPEN_DATA, read_inventory
from trainer.data.volumes import volume_of


def test_slices_are_sorted_by_position_and_rescaled(phantom_data: Path) -> None:
    """The phantom's file names run against its positions."""
    found = read_inventory(OPEN_DATA, [phantom_data])
    volume = volume_of(found[0])
    np.testing.assert_allclose(volume.voxels, phantom(0), atol=2.0)
    assert volume.slice_spacing_mm == pytest.approx(1.0)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, 1)])
def test_every_voxel_of_a_nifti_volume_lands_where_the_files_affine_says(
    signs: tuple[int, ...], tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    voxels = rng.uniform(0, 100, (5, 6, 7)).astype(np.float32)
    affine = np.diag([*np.array(signs) * (1.5, 0.8, 1.1), 1.0])
    affine[:3, 3] = (10, -20, 30)
    path = tmp_path / "v.nii.gz"
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)  # type: ignore[no-untyped-call]
    volume = volume_of(source(path))
    assert volume.voxels.shape == voxels.shape
    for index in [(0, 0, 0), (4, 1, 6), (2, 5, 3)]:
        x, y, z = (volume.affine @ [*index, 1.0])[:3]
        ras = np.array([-x, -y, z])
        stored = np.linalg.solve(affine, [*ras, 1.0])[:3]
        assert volume.voxels[index] == voxels[tuple(np.rint(stored).astype(int))]
        np.testing.assert_allclose(stored, np.rint(stored), atol=1e-9)


def test_a_nifti_file_that_is_cut_off_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "cut.nii.gz"
    nibabel.save(nibabel.Nifti1Image(phantom(1, extent=20), np.eye(4)), path)  # type: ignore[no-untyped-call]
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(InputError, match=r"cut.nii cannot be used: its NIfTI file cannot be read"):
        volume_of(source(path))


def test_a_missing_slice_is_never_trained_across(tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path / "a", slices=9)
    del paths[4]
    with pytest.raises(InputError, match="missing"):
        volume_of(source(*paths))


def test_pixels_that_break_off_are_named_with_their_slice(tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path / "a", slices=6)
    paths[2].write_bytes(paths[2].read_bytes()[:-100])
    with pytest.raises(InputError, match="Slice 3 cannot be used"):
        volume_of(source(*paths))


@needs_shared
def test_the_real_volumes_have_the_measured_shapes() -> None:
    found = {source.label: source for source in read_inventory(OPEN_DATA, [DATA])}
    assert volume_of(found["stroke_a_t2"]).voxels.shape == (124, 160, 140)
    assert volume_of(found["philips_mprage"]).voxels.shape == (170, 256, 256)
    assert volume_of(found["lumbar_t2_sag"]).voxels.min() < 0
