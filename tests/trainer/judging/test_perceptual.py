"""LPIPS and DISTS with weights that nobody trained, against piq with the same."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from dicomnode.errors import InputError
from tests.support.piq import import_piq
from trainer.judging import perceptual

# Simonyan & Zisserman 2014, table 1, column D: channels of the convolutions, and where torchvision numbers them.
CHANNELS = [64, 64, 128, 128, *[256] * 3, *[512] * 6]
NUMBERS = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]

Image = NDArray[np.float32]


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """VGG16 as if trained: signals neither fade nor grow; and what the two distances add to it."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    before = 3
    for number, channels in zip(NUMBERS, CHANNELS, strict=True):
        weight = torch.randn(channels, before, 3, 3, generator=generator) * (2 / (9 * before)) ** 0.5
        tensors |= {f"features.{number}.weight": weight, f"features.{number}.bias": torch.zeros(channels)}
        before = channels
    for stage, channels in enumerate((64, 128, 256, 512, 512)):
        tensors[f"lpips.{stage}"] = torch.rand(channels, generator=generator)
    return tensors | {f"dists.{name}": torch.rand(1475, generator=generator) for name in ("alpha", "beta")}


@pytest.fixture(scope="module")
def file(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vgg16.safetensors"
    path.write_bytes(save(weights))
    return path


@pytest.fixture
def piq(monkeypatch: pytest.MonkeyPatch, weights: dict[str, Tensor]) -> ModuleType:
    """piq, which would download its weights, with ours."""
    module = import_piq("piq.perceptual")
    build = module.vgg16

    def with_our_weights(**_: object) -> torch.nn.Module:
        with torch.device("meta"):
            net: torch.nn.Module = build(weights=None)
        trunk = {name.removeprefix("features."): one for name, one in weights.items() if name.startswith("features.")}
        net.features.load_state_dict(trunk, assign=True)  # type: ignore[union-attr]
        return net

    def extra(url: str, **_: object) -> object:
        if "lpips" in url:
            return [weights[f"lpips.{stage}"][None, :, None, None] for stage in range(5)]
        alpha, beta = (weights[f"dists.{name}"] for name in ("alpha", "beta"))
        total = alpha.sum() + beta.sum()
        return {"alpha": (alpha / total)[None, :, None, None], "beta": (beta / total)[None, :, None, None]}

    monkeypatch.setattr(module, "vgg16", with_our_weights)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", extra)
    return module


def pair(height: int, width: int) -> tuple[Image, Image]:
    """A smooth picture, and the same with noise and less contrast."""
    rng = np.random.default_rng(height)
    y, x = np.meshgrid(np.linspace(0, 6, height), np.linspace(0, 9, width), indexing="ij")
    truth = (0.5 + 0.4 * np.sin(x + y)).astype(np.float32)
    return (0.8 * truth + rng.uniform(0, 0.2, truth.shape)).astype(np.float32), truth


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("lpips", (40, 56)),
        ("lpips", (33, 47)),
        ("dists", (40, 56)),
        ("dists", (33, 47)),
        ("dists", (270, 300)),  # which DISTS makes smaller first
    ],
)
def test_distances_are_those_of_piq(piq: ModuleType, file: Path, name: str, shape: tuple[int, int]) -> None:
    ours = perceptual.load(file, sha256(file.read_bytes()).hexdigest())[name]
    theirs: Callable[[Tensor, Tensor], Tensor] = getattr(piq, name.upper())()
    image, truth = pair(*shape)
    images = [torch.from_numpy(one).expand(1, 3, -1, -1) for one in (image, truth)]
    assert ours(image, truth) == pytest.approx(theirs(*images).item(), rel=1e-3, abs=1e-5)
    assert ours(image, truth) > 100 * abs(ours(truth, truth))


def test_what_four_poolings_leave_nothing_of_is_no_number(file: Path) -> None:
    image, truth = pair(12, 40)
    for distance in perceptual.load(file, sha256(file.read_bytes()).hexdigest()).values():
        assert np.isnan(distance(image, truth))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"lpips.0": None, "dists.alpha": None}, "holds the weights of neither LPIPS nor DISTS"),
        ({"lpips.3": torch.zeros(7)}, r"weights lpips\.0 to lpips\.4 of .* are not one for each channel"),
        ({"dists.beta": None}, r"weights dists\.alpha to dists\.beta of .* are not one for each channel"),
        ({"features.28.weight": None}, r"does not reach as far as VGG16: it has no features\.28\.weight"),
    ],
    ids=["neither", "short", "half", "cut"],
)
def test_a_file_that_does_not_hold_them_is_one_sentence(
    weights: dict[str, Tensor], tmp_path: Path, changed: dict[str, Tensor | None], sentence: str
) -> None:
    content = save({name: one for name, one in (weights | changed).items() if one is not None})
    (tmp_path / "f.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        perceptual.load(tmp_path / "f.safetensors", sha256(content).hexdigest())


def test_another_file_than_was_meant_is_not_read(file: Path) -> None:
    with pytest.raises(InputError, match="expected sha256 0000"):
        perceptual.load(file, "0000")
    with pytest.raises(InputError, match="was not given; it was not read") as caught:
        perceptual.load(file, None)
    assert "--perceptual-sha256" in caught.value.hint
