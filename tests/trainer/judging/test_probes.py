"""Probes with known answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dicomnode.generators.thin import ThinNet
from tests.support.model_folders import write_thin
from tests.support.phantom_sources import phantom
from tests.trainer.judging.test_cases import SOURCE, volume_of
from trainer.judging.cases import Case, prepare
from trainer.judging.lesions import LESION_TISSUE, LESIONS, LESIONS_FILL, draw_lesions
from trainer.judging.methods import baselines, load_methods
from trainer.judging.probes import Probe, is_probed, probe

RATIO = 4


@pytest.fixture(scope="module")
def case() -> Case:
    return prepare(SOURCE, volume_of(phantom(3, extent=64)), plane=0, ratio=RATIO)


@pytest.fixture(scope="module")
def probes(case: Case, tmp_path_factory: pytest.TempPathFactory) -> list[Probe]:
    """Of an untrained net."""
    folder = write_thin(tmp_path_factory.mktemp("model") / "net", net=ThinNet(channels=8, blocks=1))
    return probe(load_methods([folder]), case)


def test_an_untrained_net_probes_as_cubic_dc(probes: list[Probe]) -> None:
    assert len(probes) == 3 + 6
    for figure in probes:
        assert figure.method == "small"
        assert figure.model == pytest.approx(figure.cubic_dc, abs=2e-3), figure.what


def test_interpolation_keeps_a_constant_and_a_ramp_and_loses_short_lesions(probes: list[Probe]) -> None:
    figures = {figure.what: figure.cubic_dc for figure in probes}
    assert figures["constant 0.5: largest deviation"] < 1e-4
    assert figures["ramp 0 to 1 along z: largest deviation"] < 2e-3
    bright = [value for what, value in figures.items() if what.startswith("bright")]
    dark = [value for what, value in figures.items() if what.startswith("dark")]
    assert bright == sorted(bright)  # longer ones come back better
    assert dark == pytest.approx(bright, abs=1e-3)  # cubic-dc is linear
    assert 0.1 < bright[0] < 0.5


def test_lesions_are_ellipsoids_inside_the_tissue(case: Case) -> None:
    lesions = list(draw_lesions(case, 2.0))
    volume = 4 / 3 * np.pi * RATIO * 3 * 3
    assert sum(float(some.sum()) for some in lesions) == pytest.approx(LESIONS * volume, rel=0.15)
    assert all(0 < some.sum() <= LESIONS_FILL * (case.truth > LESION_TISSUE).sum() for some in lesions), "not crowded"
    assert all(some.max() == 1.0 for some in lesions)


def test_only_a_thin_truth_with_room_is_probed(case: Case) -> None:
    assert is_probed(case)
    assert not is_probed(replace(case, is_rethickened=True))
    assert not is_probed(replace(case, ratio=3))
    assert not is_probed(replace(case, truth=case.truth[:20], mask=case.mask[:20]))


def test_without_a_model_there_is_nothing_to_probe(case: Case) -> None:
    assert probe(baselines(), case) == []
