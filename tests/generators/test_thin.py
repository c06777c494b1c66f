"""The thin network: its shape, its windows and its projection."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomnode.generators.thin import RATIOS, ThinNet, consistency_tensors, project, thick_windows
from dicomnode.imaging.profile import consistency


def randomised(net: ThinNet) -> ThinNet:
    """Weights that no zero initialisation hides."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.uniform_(-0.1, 0.1)
    return net


@pytest.mark.parametrize(("channels", "parameters"), [(64, 690_128), (48, 400_112), (32, 188_432)])
def test_it_has_the_parameters_of_the_measured_design(channels: int, parameters: int) -> None:
    assert sum(parameter.numel() for parameter in ThinNet(channels=channels).parameters()) == parameters


@pytest.mark.parametrize("ratio", RATIOS)
def test_untrained_it_adds_nothing_to_cubic_dc(ratio: int) -> None:
    residual = ThinNet(channels=8, blocks=2)(torch.randn(2, 5, 8, 6), ratio)
    assert residual.shape == (2, ratio, 8, 6)
    assert not residual.any()


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(RATIOS))
def test_any_matrix_size_keeps_its_size(height: int, width: int, ratio: int) -> None:
    net = randomised(ThinNet(channels=4, blocks=1))
    assert net(torch.randn(1, 5, height, width), ratio).shape == (1, ratio, height, width)


def test_an_odd_matrix_is_padded_by_its_last_row_and_column() -> None:
    net = randomised(ThinNet(channels=4, blocks=1))
    windows = torch.randn(1, 5, 7, 9)
    padded = torch.cat([windows, windows[..., -1:]], dim=-1)
    padded = torch.cat([padded, padded[..., -1:, :]], dim=-2)
    torch.testing.assert_close(net(windows, 3), net(padded, 3)[..., :7, :9])


def test_ratios_differ_by_head_and_by_bias() -> None:
    net = ThinNet(channels=4, blocks=2)
    net(torch.randn(1, 5, 8, 8), 4).sum().backward()
    biases = [block.get_submodule("ratio_bias").get_parameter("weight") for block in net.blocks]
    assert all(tail.get_parameter("weight").grad is None for ratio, tail in net.tails.items() if ratio != "4")
    assert net.tails["4"].get_parameter("weight").grad is not None
    for bias in biases:
        assert bias.grad is not None
        assert not bias.grad[[row for row in range(len(bias)) if row != 4]].any()


def test_windows_repeat_the_end_slices() -> None:
    thick = torch.arange(4.0).view(4, 1, 1)
    windows = thick_windows(thick, 5, 0, 4)[..., 0, 0]
    expected = [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3], [0, 1, 2, 3, 3], [1, 2, 3, 3, 3]]
    assert windows.tolist() == expected
    assert thick_windows(thick, 5, 2, 3)[..., 0, 0].tolist() == expected[2:3]


@settings(deadline=None)
@given(st.integers(1, 9), st.sampled_from(RATIOS), st.sampled_from([0.6, 0.8, 1.0]), st.integers(0, 2**31))
def test_projection_gives_back_the_measured_slices(slices: int, ratio: int, thickness: float, seed: int) -> None:
    torch.manual_seed(seed)
    candidate, thick = torch.randn(slices * ratio, 3, 4), torch.randn(slices, 3, 4)
    profile, operator = consistency_tensors(consistency(slices, ratio, thickness), "cpu")
    projected = project(candidate, thick, profile, operator)
    left = thick - torch.einsum("ij,jhw->ihw", profile, projected)
    missed = thick - torch.einsum("ij,jhw->ihw", profile, candidate)
    assert left.norm() <= 1.1e-3 * missed.norm() + 1e-5


def test_projection_refuses_half_precision() -> None:
    profile, operator = consistency_tensors(consistency(2, 2, 1.0), "cpu")
    with pytest.raises(AssertionError):
        project(torch.zeros(4, 2, 2, dtype=torch.bfloat16), torch.zeros(2, 2, 2), profile, operator)
