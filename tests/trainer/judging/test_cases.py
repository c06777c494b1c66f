"""The cases: which there are, and that axes, slabs, scale and place are those of the volume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dicomnode.errors import InputError
from dicomnode.imaging.profile import ProfileKind
from dicomnode.imaging.volume import Volume
from tests.support.phantom_sources import phantom
from trainer.data.inventory import OPEN_DATA, read_inventory
from trainer.data.sources import Source, Split
from trainer.judging.cases import Selection, cases, cases_of, is_thin, judged_sources, prepare

SOURCE = Source(label="ball", subject="somebody", split=Split.VALIDATION, licence="CC0-1.0", paths=(Path("none"),))


def volume_of(voxels: np.ndarray[tuple[int, int, int], np.dtype[np.float32]], *, slice_mm: float = 1.0) -> Volume:
    """Sagittal slices of 1.0 × 1.2 mm pixels: rising slice, row and column index go left, down and back."""
    return Volume(
        voxels=voxels,
        origin_mm=np.zeros(3),
        row_direction=np.array([0.0, 1.0, 0.0]),
        column_direction=np.array([0.0, 0.0, -1.0]),
        slice_step_mm=np.array([-slice_mm, 0.0, 0.0]),
        row_spacing_mm=1.0,
        column_spacing_mm=1.2,
        slice_thickness_mm=slice_mm,
    )


def test_a_case_holds_whole_slabs_of_the_chosen_axis() -> None:
    voxels = phantom(0, extent=49)
    voxels[:20] = 0  # the axes differ, so a mix-up would show
    case = prepare(SOURCE, volume_of(voxels), plane=0, ratio=4)
    assert len(case.truth) % 4 == 0
    assert len(case.truth) < 49 - 20 + 8
    assert case.truth.shape == case.mask.shape
    across = prepare(SOURCE, volume_of(voxels), plane=2, ratio=4)
    np.testing.assert_array_equal(across.truth[:8, :8, :8], case.truth.transpose(2, 0, 1)[:8, :8, :8])
    assert case.voxel_mm == (1.0, 1.0, 1.2)
    assert across.voxel_mm == (1.2, 1.0, 1.0)


def test_thick_slices_are_means_of_the_truth_in_raw_units_by_the_scale() -> None:
    voxels = phantom(1, extent=49)
    case = prepare(SOURCE, volume_of(voxels), plane=1, ratio=3)
    thick = case.thick_volume()
    expected = case.truth.reshape(-1, 3, *case.truth.shape[1:]).mean(axis=1)
    np.testing.assert_allclose(thick.voxels, expected, atol=1e-5)
    assert case.truth.max() * case.scale == pytest.approx(voxels.max(), rel=1e-5)
    assert thick.slice_spacing_mm == pytest.approx(3.0)


@pytest.mark.parametrize("plane", [0, 1, 2])
def test_a_stack_is_shown_where_it_lies_whatever_axis_its_slices_were_taken_along(plane: int) -> None:
    """A bright corner: at the patient's right, top and front in every placing."""
    voxels = phantom(2, extent=48)
    case = prepare(SOURCE, volume_of(voxels), plane=plane, ratio=2)
    marked = np.zeros_like(case.truth)
    order = [plane, *(axis for axis in range(3) if axis != plane)]
    # Index of the patient's right, top and front end along the volume's axes: last (it steps to −x), first, first.
    ends = {0: -1, 1: 0, 2: 0}
    marked[tuple(ends[axis] for axis in order)] = 1.0
    placed = case.placed(marked)
    corner = np.argwhere(placed.voxels == 1.0)[0]
    middle = (np.array(placed.voxels.shape) - 1) / 2
    offset_mm = placed.affine[:3, :3] @ (corner - middle)
    assert (np.sign(offset_mm) == [-1, -1, 1]).all()


def test_every_validation_cell_and_every_thick_series_is_judged(phantom_data: Path) -> None:
    found = read_inventory(OPEN_DATA, [phantom_data])
    judged = [
        (case.label, case.plane, case.ratio, case.profile, case.thickness_over_spacing, case.is_rethickened)
        for case in cases(found)
    ]
    assert len(judged) == len(set(judged)) == 6 * (9 + 2) + 11
    assert ("philips_mprage", 2, 5, ProfileKind.BOX, 1.0, False) in judged
    assert ("lumbar_t2_sag", 0, 2, ProfileKind.BOX, 1.0, True) in judged
    assert ("fernando_flair", 0, 2, ProfileKind.BOX, 1.0, True) in judged
    assert not {label for label, *_ in judged} & {"fnndsc_10yr", "stroke_a_t2"}, "trained on"


def test_planes_ratios_and_subjects_can_be_chosen() -> None:
    volume = volume_of(phantom(0, extent=49))
    chosen = list(cases_of(SOURCE, volume, Selection(planes=(2,), ratios=(3, 4))))
    assert [(case.plane, case.ratio, case.is_nominal) for case in chosen] == [(2, 3, True), (2, 4, True)]
    other = replace(SOURCE, label="other", subject="else")
    assert judged_sources([SOURCE, other], Selection(subjects=("else",))) == (other,)
    with pytest.raises(InputError, match="No source to judge on is called nobody"):
        judged_sources([SOURCE], Selection(subjects=("nobody",)))


def test_nothing_that_was_trained_on_is_judged() -> None:
    with pytest.raises(InputError, match="Every source is to be trained on"):
        judged_sources([replace(SOURCE, split=Split.TRAIN)], Selection())


def test_a_thick_series_is_its_own_truth_and_a_short_one_is_passed_over() -> None:
    volume = volume_of(phantom(0, extent=49)[18:30], slice_mm=4.0)
    assert not is_thin(volume)
    (case,) = cases_of(SOURCE, volume, Selection())
    assert (case.ratio, case.is_rethickened, case.voxel_mm[0]) == (2, True, 4.0)
    assert list(cases_of(SOURCE, volume_of(phantom(0, extent=49)[18:24], slice_mm=4.0), Selection())) == []
