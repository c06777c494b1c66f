"""Physics of a simulated series: what is drawn is what is applied."""

from __future__ import annotations

import numpy as np
import pytest

from dicomnode.imaging.profile import ProfileKind
from dicomnode.imaging.volume import Volume
from tests.support.phantom_sources import phantom
from trainer.training import simulate
from trainer.training.recipe_tables import Degradation
from trainer.training.simulate import Drawn, acquire, draw_degradation, grey_volume, in_plane_volume

CLEAN = Drawn(profile=ProfileKind.BOX, thickness_over_spacing=1.0, offset=0.0, noise_sigma=0.0, flicker_sigma=0.0)
WIDE = Degradation(
    profiles={ProfileKind.BOX: 0.5, ProfileKind.SINC: 0.5},
    thicknesses={"1.0": 0.5, "0.8": 0.5},
    offset=0.3,
    noise_share=0.5,
    noise_max=0.02,
    flicker_share=0.5,
    flicker_max=0.05,
)


def test_parameters_are_drawn_from_what_the_recipe_says() -> None:
    drawn = [draw_degradation(WIDE, np.random.default_rng(seed)) for seed in range(200)]
    assert {one.profile for one in drawn} == {ProfileKind.BOX, ProfileKind.SINC}
    assert {one.thickness_over_spacing for one in drawn} == {1.0, 0.8}
    assert max(abs(one.offset) for one in drawn) <= 0.3
    assert 60 < sum(one.noise_sigma > 0 for one in drawn) < 140
    assert 60 < sum(one.flicker_sigma > 0 for one in drawn) < 140
    assert drawn[7] == draw_degradation(WIDE, np.random.default_rng(7))


def test_nothing_is_added_where_nothing_was_drawn() -> None:
    thick = phantom(0, extent=20)
    assert acquire(thick, CLEAN, np.random.default_rng(0)) is thick


def test_noise_is_rician() -> None:
    """In air the mean of the magnitude is σ·√(π/2) (Gudbjartsson & Patz 1995); far above the noise it is Gaussian."""
    noisy = Drawn(profile=ProfileKind.BOX, thickness_over_spacing=1.0, offset=0.0, noise_sigma=0.1, flicker_sigma=0.0)
    air = acquire(np.zeros((4, 100, 100), np.float32), noisy, np.random.default_rng(1))
    assert air.mean() == pytest.approx(0.1 * np.sqrt(np.pi / 2), rel=0.02)
    tissue = acquire(np.full((4, 100, 100), 5, np.float32), noisy, np.random.default_rng(1))
    assert tissue.std() == pytest.approx(0.1, rel=0.02)
    assert tissue.dtype == np.float32


def test_flicker_is_one_gain_a_slice() -> None:
    drawn = Drawn(profile=ProfileKind.BOX, thickness_over_spacing=1.0, offset=0.0, noise_sigma=0.0, flicker_sigma=0.1)
    gains = acquire(np.ones((50, 3, 3), np.float32), drawn, np.random.default_rng(2))
    assert np.ptp(gains, axis=(1, 2)).max() == 0
    assert np.log(gains[:, 0, 0]).std() == pytest.approx(0.1, rel=0.3)


def test_grey_levels_keep_the_values() -> None:
    levels = grey_volume(phantom(0, extent=41)).levels
    values = levels * (simulate.BRIGHTEST / simulate.GREY_LEVELS)
    assert np.isclose(np.percentile(values[values > 0.08], 99.5), 1.0, atol=3e-3)
    assert levels.dtype == np.uint16


def test_a_grey_volume_is_cropped_to_its_body() -> None:
    small = phantom(0, extent=41)
    assert all(length <= 41 + 2 * 6 for length in grey_volume(np.pad(small, 30)).levels.shape)


def test_a_thick_stack_gives_its_rows_and_columns_and_never_its_slices() -> None:
    """Twelve slices of 4 mm with pixels of 1 mm: 48 slices of 1 mm, mirrored until 60 are there; or as they are."""
    x, y, z = np.eye(3)
    volume = Volume(
        voxels=phantom(0, extent=41)[10:22], origin_mm=np.zeros(3), row_direction=x, column_direction=y,
        slice_step_mm=4 * z, row_spacing_mm=1.0, column_spacing_mm=1.0, slice_thickness_mm=4.0,
    )  # fmt: skip
    grey = in_plane_volume(volume, smallest=60, is_native=False)
    assert (grey.slice_axes, grey.is_native) == ((1, 2), False)
    assert len(grey.levels) == 60
    np.testing.assert_array_equal(grey.levels[5], grey.levels[6])
    native = in_plane_volume(volume, smallest=9, is_native=True)
    assert (native.slice_axes, native.is_native) == ((1, 2), True)
    np.testing.assert_array_equal(native.levels, grey_volume(volume.voxels).levels)
    mirrored = in_plane_volume(volume, smallest=14, is_native=True).levels
    assert len(mirrored) == 14
    np.testing.assert_array_equal(mirrored[0], mirrored[1])
