"""Discriminators: images in, logits out, large where an image is held for real.

``paper``   SRGAN's (Ledig 2017, fig. 4), which figure 2 of Narcomey and Gu (2018) shows. Its dense layer belongs
            to 96² patches; at their 512² it would hold 537 million weights, so the features are pooled to 6 × 6
            (18.9 million weights in that layer, 23.6 in all).
``code``    what the published code of Narcomey and Gu ran instead: six strided convolutions and a residual block
            (docs/paper.md#paper-code-recipes); flattened by pooling to 8 × 8, which at 512² changes nothing.
``patch``   for ``thin-sharp``: judges reformats, which hold the slice axis, place by place
(docs/science.md#adversarial-stage).

Batch norm takes the statistics of the batch always and keeps none: no discriminator outlives its training.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from trainer.training.recipe_tables import DiscriminatorKind

LEAK = 0.2
INITIAL_SIGMA = 0.02  # of convolutions and dense layers of the published code
CODE_GAIN_SIGMA = 0.02  # of its normalisations' gain
REFORMAT_CHANNELS = 2  # of what ``reformats`` makes
RESIDUAL_GAIN, BASE_GAIN = 8.0, 2.0  # bring what `thin` adds, and what it adds it to, to about the same size


def build(kind: DiscriminatorKind, *, channels: int) -> nn.Module:
    """A new discriminator of images (N, ``channels``, H, W); ``patch`` needs the two channels of ``reformats``."""
    return _BUILDERS[kind](channels)


def reformats(thin: Tensor, base: Tensor, *, every: int = 1, first: int = 0) -> Tensor:
    """The images that ``patch`` judges: rows and columns of a strip seen from the side.

    ``thin`` and its cubic-dc ``base`` (B, D, H, W), H = W, become (B·2·rows, 2, D, W): every ``every``-th row from
    ``first`` on, then as many columns. Channels: 8 · (thin - base), 2 · base: both are of about the same size, so
    neither the anatomy nor the detail under judgement drowns.
    """
    assert thin.shape == base.shape
    channels = torch.stack([RESIDUAL_GAIN * (thin - base), BASE_GAIN * base], dim=1)
    return side_views(channels, every=every, first=first)


def side_views(channels: Tensor, *, every: int = 1, first: int = 0) -> Tensor:
    """Rows and columns of (B, C, D, H, W), H = W, seen from the side: (B·2·rows, C, D, W)."""
    assert channels.shape[-1] == channels.shape[-2], "rows and columns go into one batch"
    rows = channels[:, :, :, first::every].permute(0, 3, 1, 2, 4)
    columns = channels[..., first::every].permute(0, 4, 1, 2, 3)
    return torch.cat([rows.flatten(0, 1), columns.flatten(0, 1)])


class PaperDiscriminator(nn.Module):
    """Eight 3 × 3 convolutions, 64 to 512 channels, every second one strided; dense 1024; one logit (N, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [64, 64, 128, 128, 256, 256, 512, 512]
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1), nn.LeakyReLU(LEAK)]
        for index in range(1, len(widths)):
            layers += [
                nn.Conv2d(widths[index - 1], widths[index], 3, stride=1 + index % 2, padding=1, bias=False),
                _batch_norm(widths[index]),
                nn.LeakyReLU(LEAK),
            ]
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(6), nn.Flatten(), nn.Linear(512 * 6 * 6, 1024), nn.LeakyReLU(LEAK), nn.Linear(1024, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) → (N, 1)."""
        logits: Tensor = self.head(self.trunk(images))
        return logits


class CodeDiscriminator(nn.Module):
    """The published code's ``SRGAN_d``: 48,166,209 parameters for one channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [64, 128, 256, 512, 1024, 2048]
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(LEAK)]
        for before, width in pairwise(widths):
            layers += [
                nn.Conv2d(before, width, 4, stride=2, padding=1, bias=False),
                _batch_norm(width),
                nn.LeakyReLU(LEAK),
            ]
        layers += [
            *(nn.Conv2d(2048, 1024, 1, bias=False), _batch_norm(1024), nn.LeakyReLU(LEAK)),
            *(nn.Conv2d(1024, 512, 1, bias=False), _batch_norm(512)),
        ]
        self.trunk = nn.Sequential(*layers)
        self.residual = nn.Sequential(
            *(nn.Conv2d(512, 128, 1, bias=False), _batch_norm(128), nn.LeakyReLU(LEAK)),
            *(nn.Conv2d(128, 128, 3, padding=1, bias=False), _batch_norm(128), nn.LeakyReLU(LEAK)),
            *(nn.Conv2d(128, 512, 3, padding=1, bias=False), _batch_norm(512)),
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(512 * 8 * 8, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=INITIAL_SIGMA)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, mean=1.0, std=CODE_GAIN_SIGMA)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) → (N, 1)."""
        features = self.trunk(images)
        logits: Tensor = self.head(leaky_relu(features + self.residual(features), LEAK))
        return logits


class PatchDiscriminator(nn.Module):
    """Five 3 × 3 convolutions without norm; the slice axis, which is short, is strided once, the other twice.

    Narrow on purpose: of a strip it sees more pixels than the generator, and a step must not become its step.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, 32, 3, padding=1), nn.LeakyReLU(LEAK)),
            *(nn.Conv2d(32, 64, 3, padding=1, stride=2), nn.LeakyReLU(LEAK)),
            *(nn.Conv2d(64, 64, 3, padding=1), nn.LeakyReLU(LEAK)),
            *(nn.Conv2d(64, 64, 3, padding=1, stride=(1, 2)), nn.LeakyReLU(LEAK)),
            nn.Conv2d(64, 1, 3, padding=1),
        )
        for module in self.layers:
            if isinstance(module, nn.Conv2d):  # torch's own initial weights let the signal fade without norms
                nn.init.kaiming_normal_(module.weight, a=LEAK)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Reformats (N, C, D, W) → a map of logits (N, 1, ⌈D/2⌉, ⌈W/4⌉), each for the 17 × 21 pixels around it."""
        logits: Tensor = self.layers(images)
        return logits


_BUILDERS: dict[DiscriminatorKind, type[PaperDiscriminator | CodeDiscriminator | PatchDiscriminator]] = {
    DiscriminatorKind.PAPER: PaperDiscriminator,
    DiscriminatorKind.CODE: CodeDiscriminator,
    DiscriminatorKind.PATCH: PatchDiscriminator,
}


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-5, track_running_stats=False)
