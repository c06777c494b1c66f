"""Small model directories with random weights, and stacks to put through them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from dicomnode.generators import model_dir
from dicomnode.generators.card import Card, DataRow
from dicomnode.generators.kinds import Kind
from dicomnode.generators.srcnn import SRCNN
from dicomnode.generators.srresnet import SRResNet
from dicomnode.generators.thin import ThinNet
from dicomnode.generators.vdsr import VDSR
from dicomnode.imaging.volume import Volume

DATA = (DataRow(volume="noise", subject="nobody", split="train", licence="CC0-1.0"),)
FACTS: dict[str, object] = {
    "name": "small",
    "ratios": (2, 6),
    "licence": "CC0-1.0",
    "intended_use": "Tests.",
    "failure_modes": ("Knows nothing.",),
    "data": DATA,
}


def random_stack(slices: int, height: int, width: int, *, seed: int = 0) -> Volume:
    """Noise of 0 to 1000 with slices of 5 mm, read-only as the node hands it over."""
    voxels = np.random.default_rng(seed).random((slices, height, width), dtype=np.float32) * 1000
    voxels.setflags(write=False)
    return Volume(
        voxels=voxels,
        origin_mm=np.array([-20.0, 30.0, 5.0]),
        row_direction=np.array([1.0, 0.0, 0.0]),
        column_direction=np.array([0.0, 1.0, 0.0]),
        slice_step_mm=np.array([0.0, 0.0, 5.0]),
        row_spacing_mm=1.0,
        column_spacing_mm=1.0,
        slice_thickness_mm=5.0,
    )


def random_thin(*, window: int = 3, channels: int = 8, blocks: int = 2, seed: int = 0) -> ThinNet:
    """A network whose every weight matters: none is zero, as tails and biases are at the start of training."""
    return _randomised(ThinNet(window=window, channels=channels, blocks=blocks), seed)


def random_srresnet(*, outputs: int, channels: int = 8, blocks: int = 2) -> SRResNet:
    """A network as if trained: the normalisations have statistics."""
    net = SRResNet(outputs=outputs, channels=channels, blocks=blocks)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.bias, std=0.1)
    return net.eval()


def write_thin(
    folder: Path, *, net: ThinNet | None = None, adversarial: ThinNet | None = None, **changes: object
) -> Path:
    """A sealed directory of the kind ``thin``; ``changes`` go into its card."""
    net = net or random_thin()
    shape = {"window": net.window, "channels": net.join.out_channels, "blocks": len(net.blocks)}
    if adversarial is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / model_dir.ADVERSARIAL_FILE).write_bytes(save(adversarial.state_dict()))
    return _write(folder, Kind.THIN, shape, net, changes)


def write_paper(folder: Path, kind: Kind, *, net: SRResNet, **changes: object) -> Path:
    """A sealed directory of the kind ``slice`` or ``slab3``; ``changes`` go into its card."""
    shape = {"channels": net.join.out_channels, "blocks": len(net.blocks)}
    return _write(folder, kind, shape, net, changes)


def write_srcnn(folder: Path, net: SRCNN, **changes: object) -> Path:
    """A sealed directory of the kind ``srcnn``; ``changes`` go into its card."""
    shape = {"channels": net.head.out_channels, "mapped": net.middle.out_channels, "middle": net.middle.kernel_size[0]}
    return _write(folder, Kind.SRCNN, shape, net, changes)


def write_vdsr(folder: Path, net: VDSR, **changes: object) -> Path:
    """A sealed directory of the kind ``vdsr``; ``changes`` go into its card."""
    shape = {"channels": net.head.out_channels, "layers": len(net.trunk) + 2}
    return _write(folder, Kind.VDSR, shape, net, changes)


def _write(folder: Path, kind: Kind, shape: Mapping[str, int], net: nn.Module, changes: Mapping[str, object]) -> Path:
    card = Card.model_validate({**FACTS, "kind": kind, "parameters": shape, **changes})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / model_dir.WEIGHTS_FILE).write_bytes(save(net.state_dict()))
    (folder / model_dir.METRICS_FILE).write_text("{}\n")
    model_dir.write_card(folder, card)
    model_dir.seal(folder)
    return folder


def _randomised(net: ThinNet, seed: int) -> ThinNet:
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.05, generator=generator)
    return net.eval()
