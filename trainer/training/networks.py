"""From a recipe's ``[network]`` to the network, and to the card's words for it."""

from __future__ import annotations

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from dicomnode.errors import InputError
from dicomnode.generators import model_dir
from dicomnode.generators.card import Card, Kind
from dicomnode.generators.srcnn import SRCNN
from dicomnode.generators.srresnet import SRResNet
from dicomnode.generators.thin import ThinNet
from dicomnode.generators.vdsr import VDSR
from trainer.training.recipe import Network


def build(network: Network) -> nn.Module:
    """A new network in float32, its weights drawn from torch's generator."""
    net: nn.Module
    match network.kind:
        case Kind.THIN:
            net = ThinNet(window=network.window, channels=network.channels, blocks=network.blocks)
        case Kind.SLICE | Kind.SLAB3:
            outputs = 3 if network.kind is Kind.SLAB3 else 1
            net = SRResNet(outputs=outputs, channels=network.channels, blocks=network.blocks)
        case Kind.SRCNN:
            net = SRCNN(channels=network.channels)
        case Kind.VDSR:
            net = VDSR(channels=network.channels, layers=network.blocks)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = network.batch_norm_momentum
    return net


def begin_with(net: nn.Module, model: str) -> tuple[str, Card]:
    """Put the weights of a model, a name or a folder, into ``net``; returns its digest and card.

    InputError where the model is of another network than the recipe's.
    """
    verified = model_dir.find_verified(model)
    try:
        weights = safetensors.torch.load(verified.weights)
        with torch.no_grad():
            net.load_state_dict(weights)
    except (SafetensorError, RuntimeError) as exc:
        raise InputError(
            f"The weights of {verified.card.name} are not those of the recipe's network; nothing was trained.",
            hint="Begin with a model of the same kind and size.",
        ) from exc
    return verified.digest, verified.card
