"""The result gate: good series pass; what is spoilt on purpose is held, by the generator or in the files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicomnode import gate
from dicomnode.gate import Check
from dicomnode.generators.base import Generated, Generator, thin_volume
from dicomnode.generators.cubic_dc import CubicDc
from dicomnode.generators.model_dir import load_generator
from dicomnode.generators.served import ServedNetwork, Stack
from dicomnode.generators.thin import ThinNet
from dicomnode.imaging.frame import read_frames
from dicomnode.imaging.profile import thin_grid
from dicomnode.imaging.stack import load_volume
from dicomnode.imaging.volume import Volume
from tests.support.derived import Made, made_of
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
    return {found.check for found in gate.look_at_volume(thick, made, consistency=True) if found.holds}


def _made_by(generator: Generator) -> Generated:
    thick = _part(BRAIN)
    return generator.generate(thick, thin_grid(thick, RATIO), device="cpu")


@pytest.mark.parametrize("folder", [BRAIN, PROSTATE], ids=["brain", "prostate"])
def test_the_shipped_model_and_interpolation_pass(folder: Path) -> None:
    thick = _part(folder)
    found = gate.look_at_volume(thick, _good(folder), consistency=True)
    assert [one.check for one in found] == list(Check)[:9], "every check of the volume was made"
    assert [one.sentence for one in found if one.holds] == []
    assert _held(CubicDc().generate(thick, thin_grid(thick, RATIO), device="cpu"), thick) == set()


def test_a_series_that_is_too_small_for_figures_of_its_detail_is_checked_for_range_and_averages(tmp_path: Path) -> None:
    made = made_of(tmp_path, Phantom(slices=6, rows=20, columns=24).datasets())
    thick = made.stack.volume
    thin = CubicDc().generate(thick, thin_grid(thick, 3), device="cpu")
    assert [one.check for one in gate.look_at_volume(thick, thin, consistency=True)] == [Check.RANGE, Check.AVERAGES]


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


@cache
def _trial() -> gate.Trial:
    trial = gate.trial_of(load_volume(read_frames(sorted(PROSTATE.glob("*.dcm")))).volume)
    assert trial is not None
    return trial


def test_of_a_series_like_those_it_was_trained_on_the_model_brings_back_more_than_interpolation() -> None:
    merged = _trial().merged
    made = _shipped().generate(merged, thin_grid(merged, 2), device="cpu")
    found = gate.look_at_trial(_trial(), made)
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
    made = dataclasses.replace(_shipped(), refine=refine).generate(merged, thin_grid(merged, 2), device="cpu")
    assert gate.look_at_trial(_trial(), made).holds


def test_a_small_series_is_not_tried_on_its_own_slices() -> None:
    """Eleven slices make five pairs, and a window that is large enough would be more than a twentieth of the job."""
    volume = _part(BRAIN)
    assert gate.trial_of(volume) is None
    wide = np.zeros((11, 512, 512), dtype=np.float32)
    assert gate.trial_of(replace(volume, voxels=wide)) is None


def test_a_voxel_that_is_no_number_is_told() -> None:
    thin = _good(BRAIN).thin
    voxels = thin.voxels.copy()
    voxels[7, 8, 9] = np.nan
    assert gate.is_number(thin)
    assert not gate.is_number(replace(thin, voxels=voxels))
    assert Check.RANGE not in _held(_good(BRAIN), _part(BRAIN))


# What is wrong in the files.


@pytest.fixture(scope="module", params=[False, True], ids=["numbers rise", "numbers fall"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Square, so that rows and columns can be exchanged unnoticed; with a rescale."""
    phantom = Phantom(slices=7, rows=40, columns=40, rescale=(0.5, -3.0), numbers_fall=request.param)
    return made_of(tmp_path_factory.mktemp("phantom"), phantom.datasets(), ratio=3)


def _reread(made: Made, datasets: list[Dataset]) -> dict[Check, gate.Finding]:
    thick = made.stack.volume
    reread = gate.Reread(
        made.stack, CubicDc().generate(thick, thin_grid(thick, 3), device="cpu").thin, consistency=True
    )
    for dataset in datasets:
        content = BytesIO()
        dataset.save_as(content)
        reread.add(content.getvalue())
    return {found.check: found for found in reread.findings()}


def test_files_as_they_were_encoded_pass_in_any_order(made: Made) -> None:
    for datasets in (made.datasets, made.datasets[::-1]):
        found = _reread(made, datasets)
        assert [one.sentence for one in found.values() if one.holds] == []
        assert list(found) == list(Check)[10:]


def _rows_for_columns(datasets: list[Dataset]) -> None:
    for dataset in datasets:
        dataset.PixelData = np.ascontiguousarray(dataset.pixel_array.T).tobytes()


def _other_directions(datasets: list[Dataset]) -> None:
    for dataset in datasets:
        dataset.ImageOrientationPatient = [*dataset.ImageOrientationPatient[3:], *dataset.ImageOrientationPatient[:3]]


def _other_spacing(datasets: list[Dataset]) -> None:
    for dataset in datasets:
        dataset.PixelSpacing = dataset.PixelSpacing[::-1]


def _half_a_slice_further(datasets: list[Dataset]) -> None:
    half = (np.array(datasets[1].ImagePositionPatient) - np.array(datasets[0].ImagePositionPatient)) / 2
    for dataset in datasets:
        dataset.ImagePositionPatient = [f"{mm:.4f}" for mm in np.array(dataset.ImagePositionPatient) + half]


def _half_a_thick_slice_further(datasets: list[Dataset]) -> None:
    for _ in range(3):
        _half_a_slice_further(datasets)


def _turned_round_within_a_slab(datasets: list[Dataset]) -> None:
    for first in range(0, len(datasets), 3):
        one, other = datasets[first], datasets[first + 2]
        one.PixelData, other.PixelData = other.PixelData, one.PixelData


def _in_a_random_order(datasets: list[Dataset]) -> None:
    datasets[2].InstanceNumber, datasets[3].InstanceNumber = datasets[3].InstanceNumber, datasets[2].InstanceNumber


def _another_slope(datasets: list[Dataset]) -> None:
    for dataset in datasets:
        dataset.RescaleSlope = "0.52"


def _another_intercept(datasets: list[Dataset]) -> None:
    for dataset in datasets:
        dataset.RescaleIntercept = "0"


def _ten_times_in_the_file(datasets: list[Dataset]) -> None:
    for dataset in datasets:
        dataset.RescaleSlope = "5"


def _one_too_few(datasets: list[Dataset]) -> None:
    del datasets[4]


def _one_twice(datasets: list[Dataset]) -> None:
    datasets[4] = datasets[5]


def _another_patient(datasets: list[Dataset]) -> None:
    datasets[4].PatientID = "somebody else"


def _no_patient(datasets: list[Dataset]) -> None:
    del datasets[4].PatientID


def _another_study(datasets: list[Dataset]) -> None:
    datasets[4].StudyInstanceUID = "1.2.3"


def _thick_as_the_source(datasets: list[Dataset]) -> None:
    for dataset in datasets:
        dataset.SliceThickness = "4"


def _broken_pixels(datasets: list[Dataset]) -> None:
    datasets[4].PixelData = datasets[4].PixelData[:100]


@pytest.mark.parametrize(
    ("spoil", "check"),
    [
        (_rows_for_columns, Check.ENCODED_AVERAGES),
        (_other_directions, Check.HEADER),
        (_other_spacing, Check.HEADER),
        (_half_a_slice_further, Check.PLACE),
        (_half_a_thick_slice_further, Check.PLACE),
        (_turned_round_within_a_slab, Check.VALUES),
        (_in_a_random_order, Check.HEADER),
        (_another_slope, Check.ENCODED_AVERAGES),
        (_another_intercept, Check.ENCODED_AVERAGES),
        (_ten_times_in_the_file, Check.ENCODED_AVERAGES),
        (_one_too_few, Check.HEADER),
        (_one_twice, Check.HEADER),
        (_another_patient, Check.HEADER),
        (_no_patient, Check.HEADER),
        (_another_study, Check.HEADER),
        (_thick_as_the_source, Check.HEADER),
        (_broken_pixels, Check.HEADER),
    ],
)
def test_files_that_are_wrong_are_held(made: Made, spoil: Callable[[list[Dataset]], None], check: Check) -> None:
    datasets = made.datasets
    spoil(datasets)
    found = _reread(made, datasets)
    assert found[check].holds


def test_a_sentence_names_the_attribute_and_not_its_value(made: Made) -> None:
    datasets = made.datasets
    datasets[4].PatientName = "Doe^Jane"
    sentence = _reread(made, datasets)[Check.HEADER].sentence
    assert "Patient's Name" in sentence
    assert "Doe" not in sentence
