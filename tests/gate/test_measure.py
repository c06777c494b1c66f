"""Figures of the volume: good series pass, and what is spoilt on purpose is held."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dicomnode.gate.measure import is_number, look_at_volume
from dicomnode.gate.rule import Check
from dicomnode.generators.base import Generated, Generator, thin_volume
from dicomnode.generators.cubic_dc import CubicDc
from dicomnode.generators.model_dir import load_generator
from dicomnode.generators.served import ServedNetwork, Stack
from dicomnode.generators.thin import ThinNet
from dicomnode.imaging.frame import read_frames
from dicomnode.imaging.profile import thin_grid
from dicomnode.imaging.stack import load_volume
from dicomnode.imaging.volume import Volume
from tests.support.derived import made_of
from tests.support.phantom import Phantom
from tests.support.shared import BRAIN, PROSTATE

FloatArray = NDArray[np.float32]

RATIO = 4
SIDE, SLICES = 96, 12  # of the part of a real series that is used
NOISE = 60.0  # twice that of the brain, in its units
MIDDLE = 5  # a slab


@cache
def _part(folder: Path) -> Volume:
    volume = load_volume(read_frames(sorted(folder.glob("*.dcm")))).volume
    first, top, left = (
        (extent - size) // 2 for extent, size in zip(volume.voxels.shape, (SLICES, SIDE, SIDE), strict=True)
    )
    part = volume.voxels[first : first + SLICES, top : top + SIDE, left : left + SIDE].copy()
    part.setflags(write=False)
    return replace(volume, voxels=part)


@cache
def _shipped() -> ServedNetwork:
    generator = load_generator("thin")
    assert isinstance(generator, ServedNetwork)
    return generator


@cache
def _good(folder: Path) -> Generated:
    thick = _part(folder)
    return _shipped().generate(thick, thin_grid(thick, RATIO), device="cpu")


def _held(made: Generated, thick: Volume) -> set[Check]:
    return {found.check for found in look_at_volume(thick, made, consistency=True) if found.holds}


def _made_by(generator: Generator) -> Generated:
    thick = _part(BRAIN)
    return generator.generate(thick, thin_grid(thick, RATIO), device="cpu")


@pytest.mark.parametrize("folder", [BRAIN, PROSTATE], ids=["brain", "prostate"])
def test_the_shipped_model_and_interpolation_pass(folder: Path) -> None:
    thick = _part(folder)
    found = look_at_volume(thick, _good(folder), consistency=True)
    assert [one.check for one in found] == list(Check)[:9], "every check of the volume was made"
    assert [one.sentence for one in found if one.holds] == []
    assert _held(CubicDc().generate(thick, thin_grid(thick, RATIO), device="cpu"), thick) == set()


def test_a_series_that_is_too_small_for_figures_of_its_detail_is_checked_for_range_and_averages(tmp_path: Path) -> None:
    made = made_of(tmp_path, Phantom(slices=6, rows=20, columns=24).datasets())
    thick = made.stack.volume
    thin = CubicDc().generate(thick, thin_grid(thick, 3), device="cpu")
    assert [one.check for one in look_at_volume(thick, thin, consistency=True)] == [Check.RANGE, Check.AVERAGES]


def _turned(thin: FloatArray) -> FloatArray:
    return thin.transpose(0, 2, 1)


def _half_a_slab_further(thin: FloatArray) -> FloatArray:
    return np.roll(thin, RATIO // 2, axis=0)


def _ten_times(thin: FloatArray) -> FloatArray:
    return thin * np.float32(10)


def _mirrored(thin: FloatArray) -> FloatArray:
    return thin[:, :, ::-1]


def _a_slab_repeated(thin: FloatArray) -> FloatArray:
    spoilt = thin.copy()
    spoilt[MIDDLE * RATIO : (MIDDLE + 1) * RATIO] = spoilt[(MIDDLE - 1) * RATIO : MIDDLE * RATIO]
    return spoilt


def _a_slab_inverted(thin: FloatArray) -> FloatArray:
    spoilt = thin.copy()
    slab = spoilt[MIDDLE * RATIO : (MIDDLE + 1) * RATIO]
    slab[...] = 2 * slab.mean() - slab
    return spoilt


def _a_noisy_place(thin: FloatArray) -> FloatArray:
    spoilt = thin.copy()
    spoilt[1::RATIO] += np.random.default_rng(0).normal(0.0, NOISE, spoilt[1::RATIO].shape).astype(np.float32)
    return spoilt


SPOILT = [_turned, _half_a_slab_further, _ten_times, _mirrored, _a_slab_repeated, _a_slab_inverted, _a_noisy_place]


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_network_whose_result_is_spoilt_before_the_projection_is_held(
    spoil: Callable[[FloatArray], FloatArray],
) -> None:
    """The projection hides the harm from whoever looks at the averages alone."""

    def refine(net: torch.nn.Module, stack: Stack, device: torch.device, progress: Callable[[float], None]) -> None:
        _shipped().refine(net, stack, device, progress)
        stack.thin[...] = spoil(stack.thin)

    assert _held(_made_by(dataclasses.replace(_shipped(), refine=refine)), _part(BRAIN))


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_volume_that_is_spoilt_after_the_projection_is_held(spoil: Callable[[FloatArray], FloatArray]) -> None:
    thick, good = _part(BRAIN), _good(BRAIN)
    thin = thin_volume(np.ascontiguousarray(spoil(good.thin.voxels)), thick, thin_grid(thick, RATIO))
    assert Check.AVERAGES in _held(Generated(thin=thin, missing=good.missing), thick)


def _random_weights(net: ThinNet) -> None:
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.std())


def _heads_of_another_ratio(net: ThinNet) -> None:
    own, other = (dict(net.tails[str(ratio)].named_parameters()) for ratio in (RATIO, RATIO + 1))
    for name, parameter in own.items():
        parameter.copy_(other[name][: len(parameter)])


@pytest.mark.parametrize(("spoil", "check"), [(_random_weights, Check.GRAIN), (_heads_of_another_ratio, Check.LEAN)])
def test_wrong_weights_are_held(spoil: Callable[[ThinNet], None], check: Check) -> None:
    generator = load_generator("thin")
    assert isinstance(generator, ServedNetwork)
    assert isinstance(generator.net, ThinNet)
    with torch.no_grad():
        spoil(generator.net)
    assert check in _held(_made_by(generator), _part(BRAIN))


def test_a_voxel_that_is_no_number_is_told() -> None:
    thin = _good(BRAIN).thin
    voxels = thin.voxels.copy()
    voxels[7, 8, 9] = np.nan
    assert is_number(thin)
    assert not is_number(replace(thin, voxels=voxels))
    assert Check.RANGE not in _held(_good(BRAIN), _part(BRAIN))
