"""A recipe's ``[network]`` becomes a network, and words on the card."""

from __future__ import annotations

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from dicomnode.errors import InputError
from dicomnode.generators import model_dir
from dicomnode.generators.card import Card
from dicomnode.generators.kinds import NETWORKS, Parameters, new_network
from trainer.training import fit
from trainer.training.recipe_tables import Network


def parameters_of(network: Network) -> Parameters:
    """The shape of a recipe's network, as the card of its kind states it."""
    keys = fit.parameter_keys(network)
    return NETWORKS[network.kind].parameters.model_validate({name: getattr(network, key) for name, key in keys.items()})


def build(network: Network) -> nn.Module:
    """A new network in float32, its weights drawn from torch's generator."""
    net = new_network(network.kind, parameters_of(network))
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
