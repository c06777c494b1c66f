"""Batches as tensors: what a network makes of one, and what the losses hold against that.

How samples are drawn is in ``strips`` and ``slices``. Those two need no torch, and so the loader process loads none.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dicomnode.generators.thin import ThinNet, consistency_tensors, project, thick_windows
from dicomnode.imaging.profile import consistency
from trainer.training.batches import Batch
from trainer.training.recipe_tables import PREDICTED_SLICES
from trainer.training.slices import SliceBatch
from trainer.training.strips import StripBatch


def predict(net: nn.Module, batch: Batch, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """(as served, before the projection), each (B, C, P, P) in float32."""
    if isinstance(batch, StripBatch):
        return _predict_strips(net, batch, dtype, device)
    predicted = _predict_slices(net, batch, dtype, device)
    return predicted, predicted


def truth_of(batch: Batch, device: torch.device) -> Tensor:
    """(B, C, P, P): what should have been predicted."""
    return torch.from_numpy(batch.truth if isinstance(batch, StripBatch) else batch.targets).to(device)


def measured(batch: StripBatch, device: torch.device) -> Tensor:
    """(B, 3, P, P): the thick slices whose thin ones are predicted."""
    pieces = [strip[f : f + PREDICTED_SLICES] for strip, f in zip(batch.thick, batch.first, strict=True)]
    return torch.from_numpy(np.stack(pieces)).to(device)


def profile(batch: StripBatch, device: torch.device) -> Tensor:
    """(B, 3, 3·ratio): what averages the predicted slices to the measured ones."""
    return _matrices(batch, device)[0]


def _predict_strips(
    net: nn.Module, batch: StripBatch, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """See ``projected``, of the network's residual."""
    assert isinstance(net, ThinNet)
    thick = torch.from_numpy(batch.thick).to(device)
    windows = torch.cat(
        [
            thick_windows(strip, net.window, first, first + PREDICTED_SLICES)
            for strip, first in zip(thick, batch.first, strict=True)
        ]
    )
    residual = net(windows.to(dtype, memory_format=torch.channels_last), batch.ratio).float()
    return projected(residual.reshape(batch.base.shape), batch, device)


def projected(residual: Tensor, batch: StripBatch, device: torch.device) -> tuple[Tensor, Tensor]:
    """cubic-dc plus ``residual`` (B, 3·ratio, P, P), projected onto what was measured; and as it was before that."""
    thin = torch.from_numpy(batch.base).to(device) + residual
    averaging, operator = _matrices(batch, device)
    return project(thin, measured(batch, device), averaging, operator), thin


def _predict_slices(net: nn.Module, batch: SliceBatch, dtype: torch.dtype, device: torch.device) -> Tensor:
    inputs = torch.from_numpy(batch.inputs).to(device, dtype)
    predicted: Tensor = net(inputs.contiguous(memory_format=torch.channels_last))
    return predicted.float()


def _matrices(batch: StripBatch, device: torch.device) -> tuple[Tensor, Tensor]:
    """Profile and operator (B, …). With t ≤ s the projection of three slabs does not depend on their neighbours."""
    matrices = [
        consistency_tensors(consistency(PREDICTED_SLICES, batch.ratio, thickness), device)
        for thickness in batch.thickness_over_spacing
    ]
    averaging, operator = (torch.stack(group) for group in zip(*matrices, strict=True))
    return averaging, operator
