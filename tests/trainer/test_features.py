"""VGG19's activations: the right layer of the right file, or one sentence about what is wrong with it."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from dicomnode.errors import InputError
from tests.support.shared import WEIGHTS, needs_shared
from trainer import features
from trainer.training.losses import content_distance, mse

OXFORD = WEIGHTS / "vgg19_relu3_4.safetensors"
OXFORD_SHA256 = "8c6aa0e5fbf5192176b82ed155229e8a20845ffaeacc105d9eb40b96d2f8ef72"
# Simonyan & Zisserman 2014, table 1, column E: channels of the convolutions, and where torchvision numbers them.
CHANNELS = [64, 64, 128, 128, *[256] * 4, *[512] * 8]
NUMBERS = [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]


def random_weights(convolutions: int) -> dict[str, Tensor]:
    """VGG19's first layers as if trained: signals neither fade nor grow."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    before = 3
    for number, channels in list(zip(NUMBERS, CHANNELS, strict=True))[:convolutions]:
        weight = torch.randn(channels, before, 3, 3, generator=generator) * (2 / (9 * before)) ** 0.5
        tensors |= {f"features.{number}.weight": weight, f"features.{number}.bias": torch.zeros(channels)}
        before = channels
    return tensors


def load_tensors(spec: str, tensors: Mapping[str, Tensor], folder: Path) -> features.Features:
    """By way of a file."""
    content = save(dict(tensors))
    (folder / "vgg19.safetensors").write_bytes(content)
    return features.load(spec, file=folder / "vgg19.safetensors", sha256=sha256(content).hexdigest())


def test_activations_are_those_of_a_replicated_and_normalised_grey_image(tmp_path: Path) -> None:
    """ImageNet's means and deviations as torchvision documents them; both convolutions written out."""
    tensors = random_weights(2)
    image = torch.rand(1, 1, 9, 11)
    rgb = torch.stack([(image[0, 0] - m) / s for m, s in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))])[None]
    first = functional.conv2d(rgb, tensors["features.0.weight"], padding=1).clamp(min=0)
    second = functional.conv2d(first, tensors["features.2.weight"], padding=1)
    torch.testing.assert_close(load_tensors("vgg19:conv1_2", tensors, tmp_path)(image), second)
    torch.testing.assert_close(load_tensors("vgg19:relu1_2", tensors, tmp_path)(image), second.clamp(min=0))
    torch.testing.assert_close(
        load_tensors("vgg19:pool1", tensors, tmp_path)(image), functional.max_pool2d(second.clamp(min=0), 2)
    )


def test_three_slices_are_three_grey_images(tmp_path: Path) -> None:
    """Not the three colours of one: Model 2's code did that."""
    net = load_tensors("vgg19:relu1_1", random_weights(1), tmp_path)
    slices = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(
        net(slices), torch.cat([net(slices[n : n + 1, c : c + 1]) for n in (0, 1) for c in (0, 1, 2)])
    )


def test_layers_of_the_paper_and_of_its_code_are_found_where_they_are(tmp_path: Path) -> None:
    """Sizes as the code's comments and the VGG paper have them; before its ReLU a layer has negative values."""
    tensors = {name: tensor.half() for name, tensor in random_weights(16).items()}
    pooled = load_tensors("vgg19:pool4@224", tensors, tmp_path)(torch.rand(1, 1, 40, 50))
    assert pooled.shape == (1, 512, 14, 14)
    conv = load_tensors("vgg19:conv5_4", tensors, tmp_path)
    assert list(conv.layers.state_dict())[-2:] == ["34.weight", "34.bias"]  # torchvision's number of conv5_4
    activations = conv(torch.rand(1, 1, 32, 48))
    assert activations.shape == (1, 512, 2, 3)
    assert activations.min() < 0


def test_only_the_layers_that_are_needed_are_built(tmp_path: Path) -> None:
    net = load_tensors("vgg19:relu1_1", random_weights(3), tmp_path)
    assert sum(parameter.numel() for parameter in net.parameters()) == 3 * 3 * 3 * 64 + 64


def test_nothing_of_it_is_trained_and_the_image_gets_the_gradient(tmp_path: Path) -> None:
    net = load_tensors("vgg19:relu2_1", random_weights(3), tmp_path)
    image = torch.rand(1, 1, 8, 8, requires_grad=True)
    content_distance(net, image, torch.rand(1, 1, 8, 8)).backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None
    assert image.grad.any()
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_a_distance_in_units_of_energy_does_not_know_who_trained_the_weights(tmp_path: Path) -> None:
    """The same net on another scale, as Oxford's is of torchvision's."""
    small = random_weights(2)
    large = small | {"features.2.weight": small["features.2.weight"] * 50}
    one, other = torch.rand(2, 1, 1, 12, 12)
    distances = []
    for tensors in (small, large):
        net = load_tensors("vgg19:relu1_2", tensors, tmp_path)
        distances.append(content_distance(net, one, other).item() / net.energy)
    assert distances[1] == pytest.approx(distances[0], rel=0.01)  # energies are rounded


@pytest.mark.parametrize(
    "spec", ["vgg16:relu3_4", "vgg19", "vgg19:relu6_1", "vgg19:relu1_3", "vgg19:pool4@0", "vgg19:pool4@x", "relu3_4"]
)
def test_a_layer_that_does_not_exist_is_named(spec: str) -> None:
    with pytest.raises(InputError, match=r"no features|no layer") as caught:
        features.load(spec, file=Path("never-read"), sha256="0" * 64)
    assert "vgg19:relu3_4" in caught.value.hint


def test_a_file_with_another_sha256_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "vgg19.safetensors"
    file.write_bytes(save(random_weights(1)))
    with pytest.raises(InputError, match=f"expected sha256 {'0' * 64}, found [0-9a-f]{{64}}. Nothing was loaded"):
        features.load("vgg19:relu1_1", file=file, sha256="0" * 64)


def test_a_file_without_its_sha256_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "vgg19.safetensors"
    file.write_bytes(save(random_weights(1)))
    with pytest.raises(InputError, match="was not given; it was not read"):
        features.load("vgg19:relu1_1", file=file)
    with pytest.raises(InputError, match="but no file"):
        features.load("vgg19:relu1_1", sha256="0" * 64)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing.safetensors cannot be read: No such file"):
        features.load("vgg19:relu1_1", file=tmp_path / "missing.safetensors", sha256="0" * 64)


class Intruder:
    """Whoever unpickles one runs its code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('unpickled')",))


def test_a_pickle_is_refused_and_never_unpickled(tmp_path: Path) -> None:
    content = pickle.dumps(Intruder())
    (tmp_path / "vgg19.pth").write_bytes(content)
    with pytest.raises(InputError, match="not a safetensors file"):
        features.load("vgg19:relu1_1", file=tmp_path / "vgg19.pth", sha256=sha256(content).hexdigest())


def test_a_file_that_ends_too_early_says_where(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not reach as far as vgg19:relu2_1: it has no features\.5\.weight"):
        load_tensors("vgg19:relu2_1", random_weights(2), tmp_path)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    tensors = random_weights(2) | {"features.2.weight": torch.zeros(64, 64, 5, 5)}
    with pytest.raises(InputError, match="does not hold the layers of VGG"):
        load_tensors("vgg19:relu1_2", tensors, tmp_path)


def test_without_internet_one_sentence_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that nobody listens at: the download really fails."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("urllib.request._opener", None)  # it remembers the proxies of its first use
    with pytest.raises(InputError, match=r"could not be downloaded: .*refused") as caught:
        features.load("vgg19:conv5_4")
    assert "--features-file" in caught.value.hint
    assert not list(tmp_path.rglob("*.pth"))


def test_the_reference_picture_has_the_spectrum_of_a_natural_image() -> None:
    """Amplitude falls as 1/f: eight times the frequency, about an eighth of it."""
    picture = features.reference_picture()[0, 0].numpy()
    assert picture.mean() == pytest.approx(0.4, abs=0.02)
    assert picture.std() == pytest.approx(0.2, abs=0.02)
    assert picture.min() >= 0.0
    assert picture.max() <= 1.0
    spectrum = np.abs(np.fft.rfft2(picture))
    ring = np.round(np.hypot(np.fft.fftfreq(96)[:, None], np.fft.rfftfreq(96)[None]) * 96)
    assert spectrum[ring == 4].mean() / spectrum[ring == 32].mean() == pytest.approx(8, rel=0.3)


def test_nothing_else_touches_torchvision() -> None:
    """Whoever imports it first, and not by way of this file, breaks it for the whole process."""
    root = Path(features.__file__).resolve().parents[1]
    files = [path for room in ("trainer", "dicomnode", "bench") for path in (root / room).rglob("*.py")]
    importers = [
        path.name for path in files if re.search(r"^\s*(?:from|import) torchvision", path.read_text("utf-8"), re.M)
    ]
    assert importers == ["features.py"]


@needs_shared
def test_the_offline_weights_are_oxfords_and_end_at_relu3_4() -> None:
    """Values that independent public code prints for Keras' VGG19; a content distance against that of values.

    The file's first layer takes images of ImageNet's mean and deviation instead of 0 to 255 less Caffe's mean.
    """
    net = features.load("vgg19:relu3_4", file=OXFORD, sha256=OXFORD_SHA256)
    weight, bias = net.layers.state_dict()["0.weight"], net.layers.state_dict()["0.bias"]
    caffe_mean = torch.tensor([123.68, 116.779, 103.939])
    original = weight / (255 * net.sigma)
    shift = (original.sum((2, 3)) * (255 * net.mean.flatten() - caffe_mean)).sum(1)
    assert original[0, :, 0, 0].tolist() == pytest.approx([0.394167, 0.464184, 0.341195], abs=2e-3)
    assert (bias - shift)[:4].tolist() == pytest.approx([0.730178, 0.064936, 0.034288, 0.826039], abs=2e-3)
    assert net.energy == pytest.approx(8.9e5, rel=0.01)
    sharp = features.reference_picture()
    soft = functional.avg_pool2d(functional.pad(sharp, (1, 1, 1, 1), mode="reflect"), 3, stride=1)
    assert 10 < content_distance(net, soft, sharp).item() / net.energy / mse(soft, sharp).item() < 100
    with pytest.raises(InputError, match=r"does not reach as far as vgg19:conv5_4: it has no features\.19\.weight"):
        features.load("vgg19:conv5_4", file=OXFORD, sha256=OXFORD_SHA256)
