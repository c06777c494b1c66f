"""The paper's Table 1, slice by slice, with the columns and rows that it lacks (docs/paper.md#to-repeat-it).

Columns: its own error (Σ over a slice ÷ rows, which is 512 times the mean), the true mean squared error, PSNR, SSIM.
Rows: the low-resolution slice as it is, which the paper never compared with; interpolations where the thin slices lie
on the grid that thick ones are thinned to; slice networks on the thick slice itself, as the paper runs them, or on
the interpolated one where they were made to refine it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dicomnode.generators.device import choose_device
from dicomnode.generators.kinds import NETWORKS
from dicomnode.generators.served import ServedNetwork
from dicomnode.imaging import metrics
from dicomnode.imaging.body import body_mask
from trainer.data.pairs import Origin, SlicePairs
from trainer.judging.methods import Method
from trainer.published import table_mse, true_mse

FloatArray = NDArray[np.float32]

PAIRS_JUDGED = 24  # of each patient, evenly spread: the paper's network takes seconds for a slice without a GPU
LOW = "low as it is"
LOW_SCALED = "low, both series scaled"
CUBIC = "cubic"  # the interpolation that refining networks were trained on
CHANNELS = ("before", "middle", "after")  # of a network that predicts a slice and its neighbours
ALL_CHANNELS = "all three"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRow:
    """One method on the slice pairs of one patient."""

    subject: str
    origin: Origin
    method: str
    channel: str  # of a network with three outputs; empty otherwise
    pairs: int
    mse_table: float  # raw units squared: Σ over a slice ÷ its rows, mean over slices
    mse: float  # raw units squared: Σ ÷ pixels, mean over slices
    psnr: float  # dB, inside the body mask of the thin slices, range 1 = their scale
    ssim: float  # 2-D, inside the mask, mean over slices


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairPictures:
    """One pair as every method shows it, in units of the thin scale."""

    subject: str
    origin: Origin
    low: FloatArray  # (H, W), by its own scale
    high: FloatArray
    results: dict[str, FloatArray]  # method → (H, W); of three outputs the middle one, neighbours under their own name


@dataclass(slots=True)
class _Sums:
    """The figures from which a row is made, gathered slice after slice."""

    squares: list[float] = field(default_factory=list)  # per slice, all pixels, thin scale squared
    tables: list[float] = field(default_factory=list)
    masked: float = 0.0
    voxels: int = 0
    similarities: list[float] = field(default_factory=list)

    def add(self, image: FloatArray, truth: FloatArray, mask: metrics.Mask) -> None:
        self.squares.append(true_mse(image, truth))
        self.tables.append(table_mse(image, truth))
        self.masked += float(np.square(image[mask] - truth[mask], dtype=np.float64).sum())
        self.voxels += int(np.count_nonzero(mask))
        if mask.any():
            self.similarities.append(metrics.ssim(image[None], truth[None], mask[None]))


def judge_pairs(
    pairs: SlicePairs, methods: Sequence[Method], *, stacks: Mapping[str, FloatArray], device: str = "cpu"
) -> tuple[list[PairRow], PairPictures]:
    """Every method on the same pairs of one patient.

    ``stacks``: what methods made of the whole thick stack, (m, H, W) in units of the thin scale, under the names of
    ``thin_stacks``. Real pairs have none: their thin slices do not tile the thick ones.
    """
    mask = body_mask(pairs.thin)
    chosen = _spread(pairs.matches)
    sums: dict[tuple[str, str], _Sums] = {}
    results: dict[str, FloatArray] = {}
    pictured = chosen[len(chosen) // 2]
    for thick_index, thin_index in chosen:
        low = pairs.thick[thick_index]
        found = {
            (LOW, ""): (low * np.float32(pairs.thick_scale / pairs.thin_scale), thin_index),
            (LOW_SCALED, ""): (low, thin_index),
        }
        found |= {(name, ""): (stack[thin_index], thin_index) for name, stack in stacks.items()}
        for method in methods:
            refines_interpolation = method.network is not None and method.network.is_compared_only
            shown = stacks[CUBIC][thin_index] if refines_interpolation and CUBIC in stacks else low
            found |= _predicted(method, shown, thin_index, len(pairs.thin), device)
        for key, (image, index) in found.items():
            sums.setdefault(key, _Sums()).add(image, pairs.thin[index], mask[index])
            if key[1] in CHANNELS:
                sums.setdefault((key[0], ALL_CHANNELS), _Sums()).add(image, pairs.thin[index], mask[index])
            if (thick_index, thin_index) == pictured and key[0] not in (LOW, LOW_SCALED):
                results[key[0] if key[1] in ("", CHANNELS[1]) else f"{key[0]}, {key[1]}"] = image
    rows = [_row(pairs, method, channel, len(chosen), own) for (method, channel), own in sums.items()]
    pictures = PairPictures(
        subject=pairs.subject,
        origin=pairs.origin,
        low=pairs.thick[pictured[0]],
        high=pairs.thin[pictured[1]],
        results=results,
    )
    return rows, pictures


def thin_stacks(results: Mapping[str, FloatArray], methods: Sequence[Method]) -> dict[str, FloatArray]:
    """Stacks that methods made, under names that tell a network on thin slices from the same one on the thick slice."""
    served = {method.name for method in methods if method.is_model and not method.is_twin}
    return {f"{name}, as served" if name in served else name: stack for name, stack in results.items()}


def pair_line(row: PairRow) -> str:
    """The line of a progress report on a row."""
    channel = f", {row.channel}" if row.channel else ""
    return (
        f"{row.subject}, {row.pairs} {row.origin} pairs: {row.method}{channel} "
        f"MSE {row.mse:.4g}, PSNR {row.psnr:.2f} dB, SSIM {row.ssim:.4f}"
    )


def _row(pairs: SlicePairs, method: str, channel: str, count: int, sums: _Sums) -> PairRow:
    unit = pairs.thin_scale**2
    error = sums.masked / sums.voxels if sums.voxels else math.nan
    return PairRow(
        subject=pairs.subject,
        origin=pairs.origin,
        method=method,
        channel=channel,
        pairs=count,
        mse_table=math.fsum(sums.tables) / len(sums.tables) * unit,
        mse=math.fsum(sums.squares) / len(sums.squares) * unit,
        psnr=-10.0 * math.log10(error) if error > 0 else math.inf if error == 0 else math.nan,
        ssim=math.fsum(sums.similarities) / len(sums.similarities) if sums.similarities else math.nan,
    )


def _spread(matches: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    if len(matches) <= PAIRS_JUDGED:
        return list(matches)
    places = (np.arange(PAIRS_JUDGED) + 0.5) / PAIRS_JUDGED * len(matches)
    return [matches[int(place)] for place in places]


def _predicted(
    method: Method, low: FloatArray, thin_index: int, thin_slices: int, device: str
) -> dict[tuple[str, str], tuple[FloatArray, int]]:
    """(method, channel) → the slice that a network makes of the low one, and which thin slice that is.

    A projected twin has the same network, so it is passed over; ``thin`` networks see a stack, not a slice.
    """
    served = method.generator
    if not isinstance(served, ServedNetwork) or not NETWORKS[served.kind].is_of_slices or method.is_twin:
        return {}
    outputs = _run(served.net, low, device)
    if len(outputs) == 1:
        return {(method.name, ""): (outputs[0], thin_index)}
    if thin_slices < len(CHANNELS):
        return {}
    middle = min(max(thin_index, 1), thin_slices - 2)  # the published code shifted the stack at its ends instead
    return {
        (method.name, channel): (output, middle + step)
        for step, channel, output in zip((-1, 0, 1), CHANNELS, outputs, strict=True)
    }


def _run(net: nn.Module, low: FloatArray, device: str) -> FloatArray:
    chosen = choose_device(device)
    placed = net.to(chosen)
    with torch.inference_mode():
        outputs: FloatArray = placed(torch.from_numpy(low[None, None].copy()).to(chosen))[0].float().cpu().numpy()
    return outputs
