"""LPIPS and DISTS: distances whose weights were fitted to what people say of photographs. Never trained with here.

Both compare activations of VGG16 behind the last convolution of each of its five stages. The weights are not ours to
ship; one safetensors file brings them: VGG16's under torchvision's names (``features.0.weight`` …), and either or
both of ``lpips.0`` … ``lpips.4`` (a weight for each channel; Zhang 2018, arXiv 1801.03924, eq. 1) and ``dists.alpha``
with ``dists.beta`` (1,475 each; Ding 2020, arXiv 2004.07728, eqs. 3–6). A grey image is three equal colours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dicomnode.errors import InputError
from dicomnode.imaging.metrics import FloatArray
from trainer import features
from trainer.judging.perception import Distance

LPIPS, DISTS = "lpips", "dists"

STAGE_ENDS = (4, 9, 16, 23, 30)  # of VGG16 in torchvision's count: behind relu1_2, 2_2, 3_3, 4_3, 5_3
CHANNELS = (3, 64, 128, 256, 512, 512)  # of the image and of each stage
SMALLEST_SIDE_PIXELS = 16  # four poolings leave nothing of less
DISTS_SIDE_PIXELS = 256  # larger images are brought to it, as its authors do
LPIPS_EPSILON, DISTS_EPSILON, POOL_EPSILON = 1e-10, 1e-6, 1e-12
HINT = "Name the file that docs/evaluate.md describes (--perceptual-file) and its sha256 (--perceptual-sha256)."

Stages = tuple[nn.Sequential, ...]  # of VGG16; each but the first begins with a pooling
Pool = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lpips:
    """The LPIPS of one pair (H, W), 1.0 = white: 0 where they are equal; nan where they are too small."""

    stages: Stages
    weights: tuple[Tensor, ...]  # (channels,) of each stage

    def __call__(self, image: FloatArray, truth: FloatArray) -> float:
        if min(image.shape) < SMALLEST_SIDE_PIXELS:
            return math.nan
        distance = torch.zeros(())
        with torch.inference_mode():
            for found, weights in zip(_activations(self.stages, _grey(image, truth)), self.weights, strict=True):
                unit = found / (found.square().sum(dim=1, keepdim=True).sqrt() + LPIPS_EPSILON)
                distance += ((unit[0] - unit[1]).square() * weights[:, None, None]).sum(dim=0).mean()
        return float(distance)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dists:
    """The DISTS of one pair (H, W), 1.0 = white: 0 where equal, about 1 at most; nan where they are too small."""

    stages: Stages
    of_means: Tensor  # (1475,): of the image's channels, then of each stage's
    of_textures: Tensor  # the same; all weights together are 1

    def __call__(self, image: FloatArray, truth: FloatArray) -> float:
        side = min(image.shape)
        if side < SMALLEST_SIDE_PIXELS:
            return math.nan
        pair = _grey(image, truth)
        if side > DISTS_SIDE_PIXELS:
            pair = functional.interpolate(pair, scale_factor=DISTS_SIDE_PIXELS / side, mode="bilinear")
        means, variances, covariances = [], [], []
        with torch.inference_mode():
            for found in (pair, *_activations(self.stages, pair, pool=_l2_pool)):
                means.append(found.mean(dim=(2, 3)))
                variances.append((found - means[-1][:, :, None, None]).square().mean(dim=(2, 3)))
                covariances.append((found[0] * found[1]).mean(dim=(1, 2)) - means[-1][0] * means[-1][1])
        first, second = torch.cat(means, dim=1)
        same_mean = (2 * first * second + DISTS_EPSILON) / (first**2 + second**2 + DISTS_EPSILON)
        same_texture = (2 * torch.cat(covariances) + DISTS_EPSILON) / (
            torch.cat(variances, dim=1).sum(dim=0) + DISTS_EPSILON
        )
        return 1.0 - float((self.of_means * same_mean + self.of_textures * same_texture).sum())


def load(file: Path, sha256: str | None) -> dict[str, Distance]:
    """The distances that a file holds weights of, by name; InputError where it is not the one meant, or has none."""
    layers, tensors = features.load_vgg16(file, sha256, end=STAGE_ENDS[-1], hint=HINT)
    starts = (0, *STAGE_ENDS[:-1])
    stages = tuple(nn.Sequential(*list(layers)[start:end]) for start, end in zip(starts, STAGE_ENDS, strict=True))
    found: dict[str, Distance] = {}
    if "lpips.0" in tensors:
        names = [f"lpips.{stage}" for stage in range(len(stages))]
        found[LPIPS] = Lpips(stages=stages, weights=_vectors(tensors, names, CHANNELS[1:], file))
    if "dists.alpha" in tensors:
        alpha, beta = _vectors(tensors, ["dists.alpha", "dists.beta"], [sum(CHANNELS)] * 2, file)
        total = alpha.sum() + beta.sum()
        found[DISTS] = Dists(stages=stages, of_means=alpha / total, of_textures=beta / total)
    if not found:
        raise InputError(f"{file.name} holds the weights of neither LPIPS nor DISTS.", hint=HINT)
    return found


def _vectors(
    tensors: Mapping[str, Tensor], names: Sequence[str], lengths: Sequence[int], file: Path
) -> tuple[Tensor, ...]:
    found = [tensors[name].flatten().float() if name in tensors else torch.empty(0) for name in names]
    if [len(one) for one in found] != list(lengths):
        raise InputError(
            f"The weights {names[0]} to {names[-1]} of {file.name} are not one for each channel of VGG16.", hint=HINT
        )
    return tuple(found)


def _activations(stages: Stages, pair: Tensor, *, pool: Pool | None = None) -> Iterator[Tensor]:
    """The activations of each stage for images (2, 3, H, W); ``pool`` instead of the largest of four."""
    mean, sigma = (torch.tensor(of).view(1, 3, 1, 1) for of in (features.MEAN, features.SIGMA))
    found = (pair - mean) / sigma
    for number, stage in enumerate(stages):
        found = stage[1:](pool(found)) if pool is not None and number > 0 else stage(found)
        yield found


def _grey(image: FloatArray, truth: FloatArray) -> Tensor:
    """(2, 3, H, W)."""
    return torch.from_numpy(np.stack([image, truth]).astype(np.float32))[:, None].expand(-1, 3, -1, -1)


def _l2_pool(activations: Tensor) -> Tensor:
    """Root of the mean square under a Hann window of three pixels, every second pixel (Ding 2020, §3.1)."""
    window = torch.hann_window(5, periodic=False)[1:-1]
    kernel = torch.outer(window, window) / window.sum() ** 2
    channels = activations.shape[1]
    squares = functional.conv2d(
        activations.square(), kernel.expand(channels, 1, 3, 3), stride=2, padding=1, groups=channels
    )
    return (squares + POOL_EPSILON).sqrt()
