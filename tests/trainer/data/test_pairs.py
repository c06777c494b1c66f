"""Which thin slice is taken for a thick one, by the published rule and by ours."""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dicomnode.errors import InputError
from tests.support.phantom_sources import phantom, write_series
from tests.support.shared import DATA, needs_shared
from trainer.data import pairs
from trainer.data.pairs import Distances, Origin, Pairing, monotone_pairing, published_pairing, simulated_pairs
from trainer.data.register import Registration
from trainer.data.scan import scan
from trainer.data.series import Role
from trainer.data.sources import Source, Split

THICK_SLICES = 30


def line(offsets_mm: NDArray[np.floating]) -> NDArray[np.float64]:
    """Positions on the slice axis."""
    return np.stack([np.zeros(len(offsets_mm)), np.zeros(len(offsets_mm)), offsets_mm.astype(np.float64)], axis=1)


def apart(thick_mm: float, thin_mm: float, *, thin_slices: int, start_mm: float = 0.0, turn: bool = False) -> str:
    """Median and maximum distance that the published rule leaves on 30 thick slices, or the slice where it fails."""
    thick = thick_mm * np.arange(THICK_SLICES)
    thin = start_mm + thin_mm * np.arange(thin_slices)
    thin = thin[::-1] if turn else thin
    found = published_pairing(line(thick), line(thin))
    distances = [abs(thick[i] - thin[j]) for i, j in found]
    return f"{np.median(distances):.2f} / {max(distances):.2f}"


def test_the_published_rule_stays_near_where_the_thin_stack_starts_with_the_thick_one() -> None:
    assert apart(3.3, 0.9, thin_slices=110) == "0.30 / 0.30"


def test_the_published_rule_is_exact_at_ten_thin_slices_a_thick_one() -> None:
    assert apart(5.0, 0.5, thin_slices=300) == "0.00 / 0.00"


def test_the_published_rule_lags_for_ever_where_its_window_is_too_short() -> None:
    assert apart(6.0, 0.5, thin_slices=360) == "14.50 / 29.00"


def test_the_published_rule_catches_up_with_a_thin_stack_that_starts_earlier() -> None:
    assert apart(3.3, 0.9, thin_slices=133, start_mm=-20.0) == "0.20 / 11.90"


def test_the_published_rule_pairs_a_reversed_stack_without_an_error() -> None:
    median, _, _ = apart(3.3, 0.9, thin_slices=110, turn=True).partition(" /")
    assert round(float(median)) == 44


def test_the_published_rule_fails_where_the_thick_stack_is_longer() -> None:
    """A hundred thin slices end with thick slice 27, at 89.1 mm; there the published code said ``remove(inf)``."""
    with pytest.raises(InputError, match="no thin slice left for thick slice 28 of 30"):
        apart(3.3, 0.9, thin_slices=100)


def test_a_longer_window_mends_the_lag() -> None:
    found = published_pairing(line(6.0 * np.arange(30)), line(0.5 * np.arange(400)), window=12)
    assert all(12 * i == j for i, j in found)


OFFSETS = st.lists(st.integers(0, 60), min_size=1, max_size=5, unique=True).map(lambda mm: np.sort(np.array(mm) / 2.0))


@given(thick=OFFSETS, thin=OFFSETS, cap_mm=st.sampled_from([0.5, 2.0, 6.0]))
def test_the_monotone_pairing_has_the_most_pairs_and_of_those_the_nearest(
    thick: NDArray[np.float64], thin: NDArray[np.float64], cap_mm: float
) -> None:
    """Against every choice of rising pairs there is."""
    best = (0, 0.0)
    for count in range(1, min(len(thick), len(thin)) + 1):
        for chosen in combinations(range(len(thick)), count):
            for taken in combinations(range(len(thin)), count):
                distances = np.abs(thick[list(chosen)] - thin[list(taken)])
                if distances.max() <= cap_mm:
                    best = max(best, (count, -float(distances.sum())))
    found = monotone_pairing(thick, thin, cap_mm=cap_mm)
    assert (len(found), -float(sum(abs(thick[i] - thin[j]) for i, j in found))) == pytest.approx(best)
    assert all(i < k and j < m for (i, j), (k, m) in pairwise(found))


def test_slices_beyond_the_thin_stack_are_left_out_by_the_monotone_pairing() -> None:
    found = monotone_pairing(np.linspace(0.0, 95.7, 30), np.linspace(0.0, 44.1, 50), cap_mm=2.1)
    assert [i for i, _ in found] == list(range(15))  # to 44.1 mm of thin slices, and 2.1 mm farther


def test_slices_that_lie_nowhere_near_each_other_make_no_pair() -> None:
    assert monotone_pairing(np.arange(5.0), 100 + np.arange(5.0), cap_mm=2.0) == ()


def test_a_simulated_pair_says_so_and_its_thick_slices_are_means_of_thin_ones() -> None:
    voxels = phantom(4, extent=30)
    made = simulated_pairs(voxels, "ball", plane=1, ratio=4)
    assert (made.origin, made.subject) == (Origin.SIMULATED, "ball")
    assert made.thick.shape == (7, 30, 30)
    np.testing.assert_allclose(made.thin * made.thin_scale, voxels.transpose(1, 0, 2)[:28], rtol=1e-5)
    np.testing.assert_allclose(made.thick, made.thin.reshape(7, 4, 30, 30).mean(axis=1), atol=1e-5)
    assert made.thick_scale == made.thin_scale


@pytest.mark.parametrize("ratio", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("pairing", list(Pairing))
def test_a_simulated_thick_slice_meets_the_thin_one_in_its_middle(ratio: int, pairing: Pairing) -> None:
    """By both rules: the grids share their start, and no ratio is longer than the window."""
    made = simulated_pairs(phantom(4, extent=36), "ball", plane=0, ratio=ratio, pairing=pairing)
    assert made.matches == tuple((i, ratio * i + (ratio - 1) // 2) for i in range(36 // ratio))


def test_a_volume_too_small_for_the_ratio_is_one_sentence() -> None:
    with pytest.raises(InputError, match="ball has 3 slices along axis 0"):
        simulated_pairs(np.ones((3, 9, 9), np.float32), "ball", plane=0, ratio=4)


def source(label: str, paths: list[Path]) -> Source:
    return Source(label=label, subject="ball", split=Split.TRAIN, licence="MIT", paths=tuple(paths))


def test_thin_slices_come_onto_the_thick_grid_and_values_come_back_by_their_scale(tmp_path: Path) -> None:
    """The thin series has half the field of view, from row and column 10 on, so 0 beside it."""
    voxels = phantom(5, extent=40)
    thick = write_series(tmp_path / "thick", voxels.reshape(10, 4, 40, 40).mean(axis=1), slice_spacing_mm=4.0)
    thin = write_series(
        tmp_path / "thin", voxels[:, 10:30, 10:30], slice_spacing_mm=1.0, first_mm=-1.5, corner_mm=(10.0, 10.0)
    )
    loaded = pairs.load_pairs(source("thick", thick), source("thin", thin), matches=((0, 1), (1, 5)))
    assert (loaded.origin, loaded.matches) == (Origin.REAL, ((0, 1), (1, 5)))
    expected = np.zeros_like(voxels)
    expected[:, 10:30, 10:30] = voxels[:, 10:30, 10:30]
    np.testing.assert_allclose(loaded.thin * loaded.thin_scale, expected, atol=2.5)  # stored by twos
    np.testing.assert_allclose(loaded.thick * loaded.thick_scale, voxels.reshape(10, 4, 40, 40).mean(axis=1), atol=2.5)


def test_a_pair_whose_thin_slice_motion_took_away_is_dropped(tmp_path: Path) -> None:
    voxels = phantom(5, extent=40)
    thick = write_series(tmp_path / "thick", voxels.reshape(10, 4, 40, 40).mean(axis=1), slice_spacing_mm=4.0)
    thin = write_series(tmp_path / "thin", voxels, slice_spacing_mm=1.0, first_mm=-1.5)
    moved = Registration(
        shift_mm=(0.0, 0.0, 6.0),
        rotation_deg=(0.0, 0.0, 0.0),
        centre_mm=(20.0, 20.0, 18.0),
        across_mm=6.0,
        edges_before=0.0,
        edges_after=1.0,
        information_before=0.0,
        information_after=1.0,
    )
    matches = tuple((i, 4 * i + 1) for i in range(10))
    loaded = pairs.load_pairs(source("thick", thick), source("thin", thin), matches=matches, registration=moved)
    assert loaded.matches == matches[:-1]


@needs_shared
def test_both_rules_give_the_measured_pairs_of_the_one_real_pair() -> None:
    """Real series: 18 pairs, 0.26 and 0.34 mm along the normal, 15.9 mm in space because the fields of view differ."""
    found = {series.role: series for series in scan([DATA / "mimbcd_uta11"])}
    for rule in Pairing:
        apart = pairs.distances(found[Role.THICK], found[Role.THIN], rule)
        assert isinstance(apart, Distances)
        assert apart.pairs == 18
        assert apart.normal_median_mm == pytest.approx(0.26, abs=0.005)
        assert apart.normal_max_mm == pytest.approx(0.34, abs=0.005)
        assert apart.corner_median_mm == pytest.approx(15.9, abs=0.05)
