"""The time of a generator on this machine: of the right size, for every model that may be asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicomnode.errors import SettingsError
from dicomnode.generators.cubic_dc import CubicDc
from dicomnode.generators.model_dir import load_generator
from dicomnode.generators.pace import LATE_S, seconds_for_reference
from tests.support.model_folders import random_thin, write_thin


def _measured(folder: Path, **shape: int) -> float:
    return seconds_for_reference(load_generator(write_thin(folder, net=random_thin(**shape))), (2, 6), device="cpu")


def test_interpolation_is_in_time_on_any_machine() -> None:
    assert 0 < seconds_for_reference(CubicDc(), (2, 6), device="cpu") < LATE_S


def test_a_network_of_sixty_times_the_operations_takes_longer(tmp_path: Path) -> None:
    small = _measured(tmp_path / "small", channels=8, blocks=1)
    assert _measured(tmp_path / "large", channels=48, blocks=6) > 2 * small


def test_a_model_of_other_ratios_is_timed_at_one_of_its_own(tmp_path: Path) -> None:
    generator = load_generator(write_thin(tmp_path, ratios=(2, 3)))
    assert seconds_for_reference(generator, (2, 3), device="cpu") > 0


def test_a_device_that_is_not_here_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        seconds_for_reference(load_generator(write_thin(tmp_path)), (2, 6), device="cuda:9")
