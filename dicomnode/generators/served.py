"""Networks as generators: what goes in, what is done with what comes out, and what was measured put back.

All start from cubic-dc, computed into the array that is returned, and refine it in place:
``thin`` adds residuals to it, ``slice`` replaces its slices, ``slab3`` averages three predictions of each. Of the
networks that are only compared with, ``srcnn`` replaces slices and ``vdsr`` adds residuals to them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self, TypeVar

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from dicomnode.errors import ModelError
from dicomnode.generators.base import Generated, Progress, no_sharpness, thin_volume
from dicomnode.generators.card import REINSTALL, VerifiedModel
from dicomnode.generators.cubic_dc import cubic_dc
from dicomnode.generators.device import choose_device
from dicomnode.generators.infer import Forward, PlaneNetwork, restore_measured, stream
from dicomnode.generators.kinds import NETWORKS, Kind, Prediction, new_network
from dicomnode.generators.srcnn import SRCNN
from dicomnode.generators.srresnet import SRResNet, fold_batch_norm
from dicomnode.generators.thin import SHRINK, ThinNet, thick_windows
from dicomnode.generators.vdsr import VDSR
from dicomnode.imaging.body import body_rectangle, body_scale, body_window
from dicomnode.imaging.profile import ThinGrid, assumed_thickness_over_spacing, missing_from
from dicomnode.imaging.volume import Volume

FloatArray = NDArray[np.float32]
Net = TypeVar("Net", bound=nn.Module)

NETWORK_SHARE = 0.98  # of the work; the rest is the projection
# Tensors of a residual block at its widest: long skip, block input, and two of conv–ReLU–conv–add; and half as much
# again that the allocator holds between them (measured on resident memory, ``test_infer``).
LIVE_TENSORS = 6
BODY_MARGIN = 8  # pixels around the body that are derived like it: the skin's blur, and what detection may miss
CHAIN_LIVE_TENSORS = 3  # without a skip: what a convolution reads and writes, and half as much again
# Zero padding at the picture's border moved a constant by up to 0.002 and a ramp by up to 0.014 of the scale, ratio 4.
# With eight repeated pixels it is 0.0002 and 0.002; more of them change little and cost more.
REPEATED_PIXELS = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stack:
    """A stack for a network to refine: ``thin`` (n·r, H, W) holds cubic-dc of ``thick`` (n, H, W) and is written to."""

    thick: FloatArray
    thin: FloatArray
    ratio: int
    scale: float  # value of 1.0 in the network's units

    @property
    def plane(self) -> tuple[int, int]:
        """(H, W)."""
        return self.thick.shape[1:]


Refine = Callable[[nn.Module, Stack, torch.device, Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ServedNetwork:
    """A generator whose weights came from a model directory."""

    name: str
    kind: Kind
    digest: str
    ratios: tuple[int, int]
    consistency: bool
    net: nn.Module  # as ``refine`` takes it: the interpolated one where there are two sets of weights
    refine: Refine
    sharpness: float | None = None
    both: tuple[nn.Module, nn.Module] | None = None  # with the fidelity weights, and with the adversarial ones

    def at(self, sharpness: float) -> Self:
        """The same model with weights that lie ``sharpness`` of the way from the fidelity to the adversarial ones.

        Each weight is interpolated (ESRGAN, Wang 2018, arXiv 1809.00219, §3.4), which makes a working network only
        because the adversarial stage began with the fidelity weights.
        """
        assert 0.0 <= sharpness <= 1.0
        if self.both is None:
            raise no_sharpness(self.name, sharpness)
        return replace(self, net=_interpolated(*self.both, sharpness), sharpness=sharpness)

    def generate(self, thick: Volume, grid: ThinGrid, *, device: str, progress: Progress | None = None) -> Generated:
        """``thick`` sampled on ``grid``; ModelError where the model was not made for that ratio."""
        lowest, highest = self.ratios
        if not lowest <= grid.ratio <= highest:
            raise ModelError(
                f"Model {self.name} derives {lowest} to {highest} slices from each; {grid.ratio} were asked for.",
                hint="Use another model, or another target_mm in the rule.",
            )
        chosen = choose_device(device)
        thickness_over_spacing = assumed_thickness_over_spacing(thick)
        stack = Stack(
            scale=body_scale(thick.voxels),  # first: its copies of the thick stack are gone before there is a thin one
            thick=thick.voxels,
            thin=cubic_dc(thick.voxels, grid.ratio, thickness_over_spacing),
            ratio=grid.ratio,
        )
        report = progress or (lambda _share: None)
        part = around_body(self.net, stack)
        self.refine(self.net, part, chosen, lambda share: report(NETWORK_SHARE * share))
        missing = None
        if self.consistency:
            rows, columns = body_window(thick.voxels)
            middle = np.s_[:, rows, columns]
            missing = missing_from(stack.thin[middle], thick.voxels[middle], grid.ratio, thickness_over_spacing)
            restore_measured(stack.thin, thick.voxels, thickness_over_spacing)
        report(1.0)
        return Generated(
            thin=thin_volume(stack.thin, thick, grid),
            missing=missing,
            network_share=part.thick.size / stack.thick.size,
        )


def serve(verified: VerifiedModel) -> ServedNetwork:
    """The generator of a verified model directory; ModelError where card and weights do not fit each other."""
    card = verified.card
    net = _network(verified, verified.weights)
    served = ServedNetwork(
        name=card.name,
        kind=card.kind,
        digest=verified.digest,
        ratios=card.ratios,
        consistency=card.consistency,
        net=fold_batch_norm(net) if isinstance(net, SRResNet) else net,
        refine=_REFINE[NETWORKS[card.kind].prediction],
    )
    if card.sharpness is None:
        return served
    return replace(served, both=(net, _network(verified, verified.adversarial_weights))).at(card.sharpness)


def around_body(net: nn.Module, stack: Stack) -> Stack:
    """Views of the rows and columns on which ``net`` runs; the air beyond them stays as cubic-dc made it.

    For ``thin`` they hold the body, a margin, and all that the network sees from there: in the body and its margin the
    result is that of the whole plane. Networks that replace slices, as they are published, get whole ones.
    """
    if not isinstance(net, ThinNet):
        return stack
    margin = BODY_MARGIN + thin_planes(net, stack.ratio).border_rows
    rows, columns = body_rectangle(stack.thick, stack.scale, margin)
    return replace(stack, thick=stack.thick[:, rows, columns], thin=stack.thin[:, rows, columns])


def add_residuals(net: nn.Module, stack: Stack, device: torch.device, progress: Progress) -> None:
    """``thin``: the residual of a thick slice's thin ones, from a window of thick slices around it."""
    assert isinstance(net, ThinNet)
    thick, thin, ratio = _as_tensor(stack.thick), torch.from_numpy(stack.thin), stack.ratio

    def read(start: int, stop: int) -> Tensor:
        return thick_windows(thick, net.window, start, stop).div_(stack.scale)

    def write(start: int, residuals: Tensor) -> None:
        thin[start * ratio :][: len(residuals) * ratio].add_(residuals.flatten(0, 1), alpha=stack.scale)

    stream(thin_planes(net, ratio), len(thick), stack.plane, read=read, write=write, device=device, progress=progress)


def replace_slices(net: nn.Module, stack: Stack, device: torch.device, progress: Progress) -> None:
    """``slice`` and ``srcnn``: each slice of cubic-dc becomes what the network makes of it."""

    def write(start: int, predicted: Tensor) -> None:
        stack.thin[start : start + len(predicted)] = predicted[:, 0].numpy() * np.float32(stack.scale)

    planes = paper_planes(net) if isinstance(net, SRResNet) else chain_planes(net)
    _stream_slices(planes, stack, write, device, progress)


def add_slice_residuals(net: nn.Module, stack: Stack, device: torch.device, progress: Progress) -> None:
    """``vdsr``: each slice of cubic-dc gets, in float32, what the network says that it lacks."""

    def write(start: int, residuals: Tensor) -> None:
        stack.thin[start : start + len(residuals)] += residuals[:, 0].numpy() * np.float32(stack.scale)

    _stream_slices(chain_planes(net), stack, write, device, progress)


def average_predictions(net: nn.Module, stack: Stack, device: torch.device, progress: Progress) -> None:
    """``slab3``: a slice becomes the mean of what it and its two neighbours say of it; two at the ends."""
    assert isinstance(net, SRResNet)
    thin = stack.thin
    said_of_next = np.zeros_like(thin[0])  # by the last slice so far, of one that is still to be read

    def write(start: int, predicted: Tensor) -> None:
        before, itself, after = np.moveaxis(predicted.numpy() * np.float32(stack.scale), 1, 0)
        stop = start + len(itself)
        thin[start:stop] = itself
        thin[start : stop - 1] += before[1:]
        thin[start + 1 : stop] += after[:-1]
        thin[start] += said_of_next
        if start > 0:
            thin[start - 1] += before[0]
        said_of_next[...] = after[-1]

    _stream_slices(paper_planes(net), stack, write, device, progress)
    thin[1:-1] /= 3
    thin[[0, -1]] /= 2


_REFINE: dict[Prediction, Refine] = {
    Prediction.THIN_RESIDUALS: add_residuals,
    Prediction.SLICE: replace_slices,
    Prediction.THREE_SLICES: average_predictions,
    Prediction.SLICE_RESIDUAL: add_slice_residuals,
}


def thin_planes(net: ThinNet, ratio: int) -> PlaneNetwork:
    """``net`` at one ratio, as streaming sees it: two convolutions a block, and head, join and tail."""

    def place(device: torch.device, dtype: torch.dtype) -> Forward:
        placed = _placed(net, device, dtype)
        return lambda windows: placed(windows, ratio)

    channels = net.join.out_channels
    return PlaneNetwork(
        place=place,
        border_rows=(2 * len(net.blocks) + 3) * SHRINK,
        repeated_pixels=REPEATED_PIXELS,
        alignment_rows=SHRINK,
        live_values=LIVE_TENSORS * channels // SHRINK**2,
    )


def paper_planes(net: SRResNet) -> PlaneNetwork:
    """A folded ``net`` as streaming sees it; its last convolution stays in float32."""

    def place(device: torch.device, dtype: torch.dtype) -> Forward:
        placed = _placed(net, device, dtype)
        placed.tail.float()
        return placed

    return PlaneNetwork(
        place=place,
        border_rows=2 * len(net.blocks) + 3,
        alignment_rows=1,
        live_values=LIVE_TENSORS * net.join.out_channels,
    )


def chain_planes(net: nn.Module) -> PlaneNetwork:
    """A chain of convolutions, of the networks to be compared with, as streaming sees it."""

    def place(device: torch.device, dtype: torch.dtype) -> Forward:
        placed = _placed(net, device, dtype)
        if isinstance(placed, VDSR):
            return placed.residual
        assert isinstance(placed, SRCNN)
        placed.tail.float()
        return placed

    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    return PlaneNetwork(
        place=place,
        border_rows=sum(convolution.kernel_size[0] // 2 for convolution in convolutions),
        alignment_rows=1,
        live_values=CHAIN_LIVE_TENSORS * max(convolution.out_channels for convolution in convolutions),
    )


def _network(verified: VerifiedModel, content: bytes) -> nn.Module:
    """The network of the card with the weights in ``content``."""
    net = new_network(verified.card.kind, verified.card.parameters)
    try:
        weights = safetensors.torch.load(content)
        net.load_state_dict(weights)
    except (SafetensorError, RuntimeError) as exc:
        raise ModelError(
            f"The weights of model {verified.card.name} are not those of the network that its card describes.",
            hint=REINSTALL,
        ) from exc
    if not all(torch.isfinite(weight).all() for weight in weights.values()):
        raise ModelError(f"A weight of model {verified.card.name} is not a number.", hint=REINSTALL)
    return net.eval().requires_grad_(False)


def _interpolated(fidelity: nn.Module, adversarial: nn.Module, sharpness: float) -> nn.Module:
    net = copy.deepcopy(fidelity)
    for weight, sharp in zip(net.parameters(), adversarial.parameters(), strict=True):
        weight.lerp_(sharp, sharpness)
    return net


def _placed(net: Net, device: torch.device, dtype: torch.dtype) -> Net:
    placed = copy.deepcopy(net).to(device=device, dtype=dtype)
    # The layout that oneDNN and cuDNN compute in; any other is converted at each convolution.
    convert_conv2d_weight_memory_format(placed, torch.channels_last)
    return placed


def _stream_slices(
    planes: PlaneNetwork, stack: Stack, write: Callable[[int, Tensor], None], device: torch.device, progress: Progress
) -> None:
    """The slices of ``stack.thin``, in order, through a network that sees one at a time."""
    thin = torch.from_numpy(stack.thin)

    def read(start: int, stop: int) -> Tensor:
        return thin[start:stop, None] / stack.scale

    stream(planes, len(stack.thin), stack.plane, read=read, write=write, device=device, progress=progress)


def _as_tensor(voxels: FloatArray) -> Tensor:
    # A read-only array would make torch warn of writes that do not happen here.
    return torch.from_numpy(voxels if voxels.flags.writeable else voxels.copy())
