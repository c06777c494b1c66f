"""The table of kinds: each row's network is the one that its parameters and its prediction describe."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dicomnode.generators.kinds import NETWORKS, Kind, is_compared_only, new_network
from dicomnode.generators.thin import RATIOS

SMALL = {"window": 3, "channels": 4, "blocks": 1, "mapped": 3, "middle": 1, "layers": 2}


def _small(kind: Kind) -> nn.Module:
    shape = NETWORKS[kind].parameters
    return new_network(kind, shape.model_validate({name: SMALL[name] for name in shape.model_fields}))


def test_every_kind_but_cubic_dc_is_a_network() -> None:
    assert {*NETWORKS, Kind.CUBIC_DC} == set(Kind)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_is_as_wide_as_its_parameters_say(kind: Kind) -> None:
    widths = {module.out_channels for module in _small(kind).modules() if isinstance(module, nn.Conv2d)}
    assert SMALL["channels"] in widths
    assert any(isinstance(module, nn.BatchNorm2d) for module in _small(kind).modules()) == NETWORKS[kind].has_batch_norm


@pytest.mark.parametrize("kind", [kind for kind, row in NETWORKS.items() if row.is_of_slices])
def test_a_network_of_slices_predicts_as_many_of_each_as_its_row_says(kind: Kind) -> None:
    with torch.no_grad():
        assert _small(kind)(torch.rand(2, 1, 8, 8)).shape == (2, NETWORKS[kind].slices_predicted, 8, 8)


def test_thin_has_an_output_for_every_ratio_that_its_card_may_promise() -> None:
    lowest, highest = NETWORKS[Kind.THIN].ratios
    assert tuple(range(lowest, highest + 1)) == RATIOS


def test_networks_made_to_sharpen_interpolated_slices_are_compared_only() -> None:
    assert {kind for kind in Kind if is_compared_only(kind)} == {Kind.SRCNN, Kind.VDSR}
