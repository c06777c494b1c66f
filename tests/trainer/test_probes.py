"""Probes with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from dicomnode.generators.thin import ThinNet
from tests.support.phantom_sources import phantom
from trainer.cases import Case, prepare
from trainer.probes import LESIONS, draw_lesions, probe
from trainer.sources import Split

RATIO = 4


@pytest.fixture(scope="module")
def case() -> Case:
    """One phantom."""
    return prepare("philips_mprage", Split.VALIDATION, phantom(3, extent=80), plane=0, ratio=RATIO)


def test_an_untrained_net_probes_as_cubic_dc(case: Case) -> None:
    probes = probe(ThinNet(channels=8, blocks=1), case)
    assert len(probes) == 3 + 6
    for figure in probes:
        assert figure.model == pytest.approx(figure.cubic_dc, abs=2e-3), figure.what


def test_interpolation_keeps_a_constant_and_a_ramp_and_loses_short_lesions(case: Case) -> None:
    figures = {figure.what: figure.cubic_dc for figure in probe(ThinNet(channels=8, blocks=1), case)}
    assert figures["constant 0.5: largest deviation"] < 1e-4
    assert figures["ramp 0 to 1 along z: largest deviation"] < 2e-3
    bright = [value for what, value in figures.items() if what.startswith("bright")]
    dark = [value for what, value in figures.items() if what.startswith("dark")]
    assert bright == sorted(bright)  # longer ones come back better
    assert dark == pytest.approx(bright, abs=1e-3)  # cubic-dc is linear
    assert 0.1 < bright[0] < 0.5


def test_lesions_are_ellipsoids_inside_the_tissue(case: Case) -> None:
    lesions = draw_lesions(case, 2.0)
    volume = 4 / 3 * np.pi * RATIO * 3 * 3
    assert lesions.sum() == pytest.approx(LESIONS * volume, rel=0.15)
    assert lesions.max() == 1.0
