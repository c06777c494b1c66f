"""The paper's Table 1: its column, the true one, and its missing rows, on slices whose errors are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import nn

from dicomnode.generators.kinds import Kind
from dicomnode.generators.srresnet import SRResNet
from dicomnode.generators.vdsr import VDSR
from tests.support.model_folders import random_srresnet, random_stack, write_paper, write_thin, write_vdsr
from tests.support.phantom_sources import phantom
from trainer.data.pairs import Origin, SlicePairs, simulated_pairs
from trainer.judging.methods import baselines, load_methods, thinned
from trainer.judging.paper_table import (
    ALL_CHANNELS,
    CHANNELS,
    LOW,
    LOW_SCALED,
    PAIRS_JUDGED,
    PairRow,
    judge_pairs,
    thin_stacks,
)


def real_pairs(matches: int = 5) -> SlicePairs:
    """Thin slices of another brightness: raw thin = 300 × thin, raw thick = 100 × thick, where thick equals thin."""
    thin = (phantom(1, extent=40) / 600).astype(np.float32)[8:32]
    return SlicePairs(
        subject="somebody",
        origin=Origin.REAL,
        thick=thin[1::4][:matches].copy(),
        thin=thin,
        thick_scale=100.0,
        thin_scale=300.0,
        matches=tuple((k, 4 * k + 1) for k in range(matches)),
    )


def found(rows: list[PairRow], method: str, channel: str = "") -> PairRow:
    (one,) = (row for row in rows if (row.method, row.channel) == (method, channel))
    return one


def test_the_low_slice_as_it_is_stands_beside_the_models_in_both_units() -> None:
    """Raw values differ threefold; scaled they are equal. The table's column is the width times the true error."""
    pairs = real_pairs()
    rows, _ = judge_pairs(pairs, baselines(), stacks={})
    low = found(rows, LOW)
    truth = np.stack([pairs.thin[j] for _, j in pairs.matches]).astype(np.float64)
    assert low.mse == pytest.approx(np.mean((200.0 * truth) ** 2), rel=1e-5)
    assert low.mse_table == pytest.approx(40 * low.mse)
    assert found(rows, LOW_SCALED).mse == 0.0
    assert {row.method for row in rows} == {LOW, LOW_SCALED}, "a real pair shares no grid that could be interpolated to"


def test_similarity_and_psnr_are_those_of_scikit_image() -> None:
    pairs = real_pairs()
    noisy = pairs.thick + 0.05 * np.random.default_rng(0).standard_normal(pairs.thick.shape).astype(np.float32)
    pairs = SlicePairs(
        subject="s", origin=Origin.REAL, thick=noisy, thin=pairs.thin, thick_scale=300.0, thin_scale=300.0,
        matches=pairs.matches[2:3],
    )  # fmt: skip
    rows, _ = judge_pairs(pairs, baselines(), stacks={})
    ((thick, thin),) = pairs.matches
    _, similarity = structural_similarity(  # type: ignore[no-untyped-call]
        pairs.thin[thin].astype(np.float64),
        noisy[thick].astype(np.float64),
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    low = found(rows, LOW)
    assert low.psnr == pytest.approx(-20 * np.log10(0.05), abs=0.4)
    assert low.ssim == pytest.approx(similarity[pairs.thin[thin] > 0.2].mean(), abs=0.08)


def passing_through(outputs: int) -> SRResNet:
    """A network whose every output is its input, by way of the first channel of head and tail."""
    net = random_srresnet(outputs=outputs, channels=4, blocks=1)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    head = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        head.weight[0, 0, 1, 1] = 1.0
        net.tail.weight[:, 0, 1, 1] = 1.0
    return net


def test_of_three_outputs_each_is_held_against_its_own_slice(tmp_path: Path) -> None:
    """The network repeats its input three times: right in the middle, wrong by one slice beside it."""
    folder = write_paper(tmp_path / "model", Kind.SLAB3, net=passing_through(3))
    pairs = real_pairs()
    rows, pictures = judge_pairs(pairs, load_methods([folder]), stacks={})
    truth = pairs.thin.astype(np.float64)
    for step, channel in zip((-1, 0, 1), CHANNELS, strict=True):
        expected = np.mean([(truth[j] - truth[j + step]) ** 2 for _, j in pairs.matches]) * 300.0**2
        assert found(rows, "small", channel).mse == pytest.approx(expected, rel=1e-3, abs=1e-6), channel
    each = [found(rows, "small", channel).mse for channel in CHANNELS]
    assert found(rows, "small", ALL_CHANNELS).mse == pytest.approx(np.mean(each))
    assert list(pictures.results) == ["small, before", "small", "small, after"]


def test_simulated_pairs_have_interpolations_and_served_models_beside_the_slice_network(tmp_path: Path) -> None:
    models = [
        write_paper(tmp_path / "slice", Kind.SLICE, net=passing_through(1), name="slice"),
        write_thin(tmp_path / "thin", name="stack"),
    ]
    methods = load_methods(models)
    pairs = simulated_pairs(phantom(2, extent=48), "somebody", plane=0, ratio=3)
    thick = replace(random_stack(len(pairs.thick), 48, 48), voxels=pairs.thick)
    results = {method.name: image for method, image in thinned(methods, thick, 3, device="cpu")}
    rows, _ = judge_pairs(pairs, methods, stacks=thin_stacks(results, methods))
    names = {row.method for row in rows}
    assert {LOW, "nearest", "linear", "cubic", "cubic-dc"} <= names
    assert {"slice", "slice, as served", "slice, not projected", "stack, as served"} <= names
    assert "stack" not in names, "it sees a stack, not a slice"
    assert found(rows, "nearest").mse == pytest.approx(found(rows, LOW).mse, rel=1e-5)
    assert found(rows, "slice").mse == pytest.approx(found(rows, LOW_SCALED).mse, rel=1e-3)
    assert {row.origin for row in rows} == {Origin.SIMULATED}


def test_a_network_that_refines_interpolation_is_shown_it(tmp_path: Path) -> None:
    """VDSR that adds nothing gives what it is shown: the cubic slice, or of a real pair, which has none, the thick."""
    net = VDSR(channels=4, layers=3)
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    methods = load_methods([write_vdsr(tmp_path / "vdsr", net)])
    simulated = simulated_pairs(phantom(2, extent=48), "somebody", plane=0, ratio=3)
    thick = replace(random_stack(len(simulated.thick), 48, 48), voxels=simulated.thick)
    stacks = {method.name: stack for method, stack in thinned(baselines(), thick, 3, device="cpu")}
    rows, _ = judge_pairs(simulated, methods, stacks=stacks)
    assert found(rows, "small").mse == pytest.approx(found(rows, "cubic").mse, rel=1e-5)
    rows, _ = judge_pairs(real_pairs(), methods, stacks={})
    assert found(rows, "small").mse == found(rows, LOW_SCALED).mse


def test_of_many_pairs_some_are_judged_and_their_number_is_said() -> None:
    pairs = simulated_pairs(phantom(2, extent=96), "somebody", plane=0, ratio=2)
    rows, _ = judge_pairs(pairs, (), stacks={})
    assert len(pairs.matches) > PAIRS_JUDGED
    assert {row.pairs for row in rows} == {PAIRS_JUDGED}
