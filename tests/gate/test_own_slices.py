"""The trial on the series' own slices: a model that does harm there is held, and a small series is not tried."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from dicomnode.gate.own_slices import RATIO, Trial, look_at_trial, trial_of
from dicomnode.generators.model_dir import load_generator
from dicomnode.generators.served import ServedNetwork, Stack
from dicomnode.imaging.frame import read_frames
from dicomnode.imaging.profile import thin_grid
from dicomnode.imaging.stack import load_volume
from dicomnode.imaging.volume import Volume
from tests.support.shared import BRAIN, PROSTATE


@cache
def _volume(folder: Path) -> Volume:
    return load_volume(read_frames(sorted(folder.glob("*.dcm")))).volume


@cache
def _shipped() -> ServedNetwork:
    generator = load_generator("thin")
    assert isinstance(generator, ServedNetwork)
    return generator


@cache
def _trial() -> Trial:
    trial = trial_of(_volume(PROSTATE))
    assert trial is not None
    return trial


def test_of_a_series_like_those_it_was_trained_on_the_model_brings_back_more_than_interpolation() -> None:
    merged = _trial().merged
    made = _shipped().generate(merged, thin_grid(merged, RATIO), device="cpu")
    found = look_at_trial(_trial(), made)
    assert not found.holds
    assert found.measured < -0.3, "dB; negative is better"
    merged_back = (made.thin.voxels[::2] + made.thin.voxels[1::2]) / 2
    np.testing.assert_allclose(merged_back, merged.voxels, atol=0.01 * float(np.ptp(merged.voxels)))


def test_a_model_that_does_harm_to_the_slices_of_the_series_itself_is_held() -> None:
    def refine(net: torch.nn.Module, stack: Stack, device: torch.device, progress: Callable[[float], None]) -> None:
        cubic = stack.thin.copy()
        _shipped().refine(net, stack, device, progress)
        stack.thin[...] = 2 * cubic - stack.thin  # all that it adds, with the wrong sign

    merged = _trial().merged
    made = dataclasses.replace(_shipped(), refine=refine).generate(merged, thin_grid(merged, RATIO), device="cpu")
    assert look_at_trial(_trial(), made).holds


def test_a_small_series_is_not_tried_on_its_own_slices() -> None:
    """Eleven slices make five pairs, and a window that is large enough would be more than a twentieth of the job."""
    volume = _volume(BRAIN)
    assert trial_of(replace(volume, voxels=volume.voxels[:12, :96, :96])) is None
    wide = np.zeros((11, 512, 512), dtype=np.float32)
    assert trial_of(replace(volume, voxels=wide)) is None
