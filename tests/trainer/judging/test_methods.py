"""Interpolations against other people's, and models as the node serves them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from scipy import ndimage

from dicomnode.errors import ModelError
from dicomnode.generators import model_dir
from dicomnode.generators.kinds import Kind
from dicomnode.generators.srresnet import SRResNet
from dicomnode.imaging.profile import thin_grid
from tests.support.model_folders import random_srresnet, random_stack, random_thin, write_paper, write_thin
from trainer.judging.methods import baselines, linear_matrix, load_methods, nearest_matrix, thinned

STACK = random_stack(7, 5, 6)
SPLINE_ORDERS: dict[str, Literal[0, 1, 3]] = {"nearest": 0, "linear": 1, "cubic": 3}


@pytest.mark.parametrize("name", SPLINE_ORDERS)
@pytest.mark.parametrize("ratio", [3, 5])
def test_interpolations_are_those_of_scipy(name: str, ratio: int) -> None:
    """At the centres of a block-aligned grid, end slices repeated outward. Odd ratios: no nearest tie."""
    (method,) = (one for one in baselines() if one.name == name)
    position = (np.arange(7 * ratio) + 0.5) / ratio - 0.5
    places = np.stack(np.meshgrid(position, np.arange(5.0), np.arange(6.0), indexing="ij"))
    expected = ndimage.map_coordinates(STACK.voxels, places, order=SPLINE_ORDERS[name], mode="nearest")
    np.testing.assert_allclose(method.thin(STACK, ratio, device="cpu"), expected, atol=0.05)  # of 1000


def test_nearest_is_the_thick_slices_as_they_are() -> None:
    np.testing.assert_array_equal(nearest_matrix(3, 2) @ [10, 20, 30], [10, 10, 20, 20, 30, 30])
    np.testing.assert_allclose(linear_matrix(2, 2) @ [10, 20], [10, 12.5, 17.5, 20])


def test_a_model_is_judged_as_the_node_serves_it(tmp_path: Path) -> None:
    folder = write_thin(tmp_path / "model")
    *_, method = load_methods([folder])
    served = model_dir.load_generator(folder).generate(STACK, thin_grid(STACK, 3), device="cpu").thin
    np.testing.assert_array_equal(method.thin(STACK, 3, device="cpu"), served.voxels)
    assert (method.name, method.kind, method.digest) == ("small", "thin", model_dir.verify(folder))


def test_a_slice_network_is_judged_without_the_projection_too(tmp_path: Path) -> None:
    """The published figures have none; without it averages are no longer what was measured."""
    folder = write_paper(tmp_path / "model", Kind.SLICE, net=random_srresnet(outputs=1))
    found = {method.name: method for method in load_methods([folder])}
    assert list(found) == ["nearest", "linear", "cubic", "cubic-dc", "small", "small, not projected"]
    projected, plain = (found[name].thin(STACK, 3, device="cpu") for name in ("small", "small, not projected"))
    residual = {
        name: np.abs(stack.reshape(7, 3, 5, 6).mean(axis=1) - STACK.voxels).max()
        for name, stack in (("projected", projected), ("plain", plain))
    }
    assert residual["projected"] < 5 < residual["plain"]
    assert (found["small"].is_projected, found["small, not projected"].is_projected) == (True, False)


def test_a_thin_network_has_no_twin_and_cubic_dc_comes_once(tmp_path: Path) -> None:
    names = [method.name for method in load_methods(["cubic-dc", write_thin(tmp_path / "model")])]
    assert names == ["nearest", "linear", "cubic", "cubic-dc", "small"]


def test_a_model_with_two_sets_of_weights_is_judged_at_each_sharpness(tmp_path: Path) -> None:
    both = write_thin(tmp_path / "both", adversarial=random_thin(seed=1), sharpness=0.3, name="both")
    one = write_thin(tmp_path / "one", name="one")
    shown = {
        method.name: method.generator.sharpness for method in load_methods([both, one], (0.0, 0.5)) if method.model
    }
    assert shown == {"both at 0": 0.0, "both at 0.5": 0.5, "one": None}
    assert {method.name: method.generator.sharpness for method in load_methods([both])}["both"] == 0.3


def test_models_of_one_name_are_told_apart_by_their_digest(tmp_path: Path) -> None:
    folders = [write_thin(tmp_path / "one"), write_thin(tmp_path / "two", net=random_thin(blocks=1))]
    names = [method.name for method in load_methods(folders) if method.is_model]
    assert names == [f"small {model_dir.verify(folder)[:8]}" for folder in folders]


def test_a_model_that_is_not_there_or_not_whole_is_an_error_before_anything_is_computed(tmp_path: Path) -> None:
    folder = write_thin(tmp_path / "model")
    (folder / "metrics.json").write_text("{ }\n")
    with pytest.raises(ModelError, match="is not the file that was sealed"):
        load_methods([folder])
    with pytest.raises(ModelError, match="There is no model named nonesuch"):
        load_methods(["nonesuch"])


def test_a_network_that_is_judged_twice_runs_once_and_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_paper(tmp_path / "model", Kind.SLICE, net=random_srresnet(outputs=1))
    methods = load_methods([folder])
    expected = {method.name: method.thin(STACK, 3, device="cpu") for method in methods}
    runs: list[int] = []
    forward = SRResNet.forward

    def counted(net: SRResNet, images: torch.Tensor) -> torch.Tensor:
        runs.append(len(images))
        return forward(net, images)

    monkeypatch.setattr(SRResNet, "forward", counted)
    found = dict(thinned(methods, STACK, 3, device="cpu"))
    assert [method.name for method in found] == list(expected)
    for method, stack in found.items():
        np.testing.assert_array_equal(stack, expected[method.name], err_msg=method.name)
    assert sum(runs) == 7 * 3, "a thin slice each"
