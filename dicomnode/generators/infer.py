"""Streaming inference: a stack of any size through a network, in memory that does not grow with it.

A network is given *planes* (C, H, W), a few at a time, whole where that fits and else in strips of rows. Strips
overlap by the network's receptive field, so neither strips nor batches change the result beyond rounding. Where the
network asks for it, a plane is first made larger on all sides by repeating its outermost pixels, and the prediction is
cut to the plane's size: zero padding inside the network would pull the prediction at the picture's border.

Peak memory of ``generate`` beyond torch itself, in bytes, for n thick slices of H × W at ratio r:

    4·n·H·W              the thick stack, which is the caller's
  + 4·n·r·H·W            the thin stack, which is returned (before it is there: three copies of the thick one)
  + WORKING_BYTES        activations of one step, on the device
  + 4·(C + 2·O)·H·W·k    the k planes of one step, C channels in and O out (repeated pixels count as WORKING_BYTES)
  or, before the network, 8·n·32·W for the rows of cubic-dc, and after it 4·n·128² for what the averages lacked

On exhausted memory a step is repeated with fewer planes, then with fewer rows, then on the CPU, each time with
a warning in the log; a finished plane is never computed twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dicomnode import log
from dicomnode.errors import ModelError
from dicomnode.generators.allocator import freed_memory_kept
from dicomnode.generators.base import Progress
from dicomnode.generators.device import CPU, serving_dtype
from dicomnode.imaging.profile import slab_weights
from dicomnode.seams import checkpoint

LOGGER = logging.getLogger(__name__)

WORKING_BYTES = 512 << 20  # more than half a plane of 1024² through the paper's network, in half precision
BATCH_BYTES = 64 << 20  # on the CPU, beyond a single plane: larger batches leave the cache and are slower
CUDA_SHARE = 0.25  # of the GPU's free memory, if that is less: the estimate knows nothing of cuDNN's workspaces
# Words in the errors of torch's allocator, oneDNN (seen under a limit of the address space), cuDNN and cuBLAS, and a
# full GPU's driver: none of them raises torch.OutOfMemoryError.
OUT_OF_MEMORY_WORDS = (
    "DefaultCPUAllocator",
    "could not create a primitive",
    "ALLOC_FAILED",
    "CUDA error: out of memory",
)
MIN_STRIP_ROWS = 32  # fewer are mostly border
PROJECTED_ROWS = 32

Forward = Callable[[Tensor], Tensor]
Read = Callable[[int, int], Tensor]
Write = Callable[[int, Tensor], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlaneNetwork:
    """A network, with the figures of it that streaming needs."""

    place: Callable[[torch.device, torch.dtype], Forward]  # (N, C, h, w) → (N, O, h, w) on that device
    border_rows: int  # receptive field to one side
    repeated_pixels: int = 0  # the plane's outermost pixels are repeated so far outward; a multiple of the alignment
    alignment_rows: int  # strips begin at multiples of it
    live_values: int  # per pixel of a plane, at the widest point of the network


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The part of the work that goes through the network at once."""

    device: torch.device
    dtype: torch.dtype
    planes: int
    rows: int  # of a strip, without its borders


def stream(
    network: PlaneNetwork,
    planes: int,
    shape: tuple[int, int],
    *,
    read: Read,
    write: Write,
    device: torch.device,
    progress: Progress | None = None,
) -> None:
    """Send ``planes`` planes of ``shape`` (H, W) through a network, in order.

    ``read(start, stop)`` gives float32 (stop - start, C, H, W); ``write(start, predicted)`` takes float32
    (stop - start, O, H, W). Plane ``stop`` is not read before all planes up to it are written, so both may use
    the same array.
    """
    step, forward = _start(network, planes, shape, device)
    done = 0
    with torch.inference_mode(), freed_memory_kept():
        while done < planes:
            stop = min(done + step.planes, planes)
            predicted = _try_step(network, forward, read, range(done, stop), step)
            if predicted is None:
                smaller = smaller_step(network, step, planes, shape)
                if smaller.device != step.device:
                    forward = network.place(smaller.device, smaller.dtype)
                step = smaller
                continue
            if not predicted.sum().isfinite():  # one pass; a sum is finite where all its terms are
                raise ModelError(
                    f"The network's result is not a number somewhere in planes {done} to {stop - 1} "
                    f"({step.dtype} on {step.device}). Nothing was derived.",
                    hint="Verify the model; then try device cpu.",
                )
            write(done, predicted)
            done = stop
            if progress is not None:
                progress(done / planes)


def first_step(network: PlaneNetwork, planes: int, shape: tuple[int, int], device: torch.device) -> Step:
    """The largest step that is both fast and within the memory bound."""
    height, width = (extent + 2 * network.repeated_pixels for extent in shape)
    dtype = serving_dtype(device)
    row_bytes = width * network.live_values * dtype.itemsize
    working_bytes, batch_bytes = WORKING_BYTES, BATCH_BYTES
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        working_bytes = batch_bytes = min(WORKING_BYTES, int(free_bytes * CUDA_SHARE))
    if height * row_bytes <= working_bytes:
        count = max(1, min(planes, batch_bytes // (height * row_bytes)))
        return Step(device=device, dtype=dtype, planes=count, rows=shape[0])
    rows = max(working_bytes // row_bytes - 2 * network.border_rows, MIN_STRIP_ROWS)
    return Step(device=device, dtype=dtype, planes=1, rows=_aligned(rows, network.alignment_rows))


def smaller_step(network: PlaneNetwork, step: Step, planes: int, shape: tuple[int, int]) -> Step:
    """Choose the step after one that memory did not suffice for: fewer planes, then fewer rows, then the CPU."""
    if step.planes > 1:
        smaller = replace(step, planes=step.planes // 2)
    elif step.rows > MIN_STRIP_ROWS:
        smaller = replace(step, rows=_aligned(max(step.rows // 2, MIN_STRIP_ROWS), network.alignment_rows))
    else:
        smaller = first_step(network, planes, shape, CPU)
    _note(step.device, f"{_in_words(step)} did not fit into memory; going on with {_in_words(smaller)}")
    return smaller


def restore_measured(thin: NDArray[np.float32], thick: NDArray[np.float32], thickness_over_spacing: float) -> None:
    """Project ``thin`` (n·r, H, W) in place onto the stacks that average to ``thick`` (n, H, W).

    float32 on the CPU whatever the network ran in, a few rows of one thick slice at a time.
    """
    ratio = len(thin) // len(thick)
    weights = slab_weights(ratio, thickness_over_spacing)
    for owner, measured in enumerate(thick):
        slab = thin[owner * ratio : (owner + 1) * ratio]
        for start in range(0, thin.shape[1], PROJECTED_ROWS):
            rows = slice(start, start + PROJECTED_ROWS)
            missing = measured[rows] - np.tensordot(weights.profile, slab[:, rows], axes=1)
            for plane, share in zip(slab[:, rows], weights.operator, strict=True):
                plane += share * missing


def _start(network: PlaneNetwork, planes: int, shape: tuple[int, int], device: torch.device) -> tuple[Step, Forward]:
    """The first step, and the network where it is to run; on the CPU where a GPU is too full for even that."""
    try:
        step = first_step(network, planes, shape, device)
        return step, network.place(step.device, step.dtype)
    except RuntimeError as exc:
        if device == CPU or not _is_out_of_memory(exc):
            raise
    _note(device, f"{device} has no memory left for the network; going on with cpu")
    return _start(network, planes, shape, CPU)


def _try_step(network: PlaneNetwork, forward: Forward, read: Read, planes: range, step: Step) -> Tensor | None:
    """The predictions of some planes, float32 on the CPU; None where memory did not suffice."""
    try:
        checkpoint("infer.step")
        batch = read(planes.start, planes.stop)
        strips = [_predict_strip(network, forward, batch, rows, step) for rows in _strips(batch.shape[-2], step.rows)]
        return torch.cat(strips, dim=-2) if len(strips) > 1 else strips[0]
    except (RuntimeError, MemoryError) as exc:
        if not _is_out_of_memory(exc) or _is_smallest(step):
            raise
    # Only here, past the except block, does the traceback let go of the failed step's tensors.
    if step.device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def _predict_strip(network: PlaneNetwork, forward: Forward, batch: Tensor, rows: range, step: Step) -> Tensor:
    height, width = batch.shape[-2:]
    reach, repeated = network.border_rows, network.repeated_pixels
    top, bottom = max(rows.start - reach, 0), min(rows.stop + reach, height)
    # No more than the strip's own reach: what lies beyond it does not change the strip.
    above = min(repeated, top - (rows.start - reach))
    below = min(repeated, rows.stop + reach - bottom)
    strip = batch[..., top:bottom, :].to(step.device, step.dtype)
    if repeated:
        strip = functional.pad(strip, (repeated, repeated, above, below), mode="replicate")
    strip = strip.contiguous(memory_format=torch.channels_last)  # by the same name: the copy before it is gone
    predicted = forward(strip)
    first = rows.start - top + above
    return predicted[..., first : first + len(rows), repeated : repeated + width].to(CPU, torch.float32)


def _strips(height: int, rows: int) -> Iterator[range]:
    return (range(start, min(start + rows, height)) for start in range(0, height, rows))


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    told = any(words in str(error) for words in OUT_OF_MEMORY_WORDS)
    return told or isinstance(error, (torch.OutOfMemoryError, MemoryError))


def _is_smallest(step: Step) -> bool:
    return step.planes == 1 and step.rows <= MIN_STRIP_ROWS and step.device == CPU


def _note(device: torch.device, detail: str) -> None:
    log.event(LOGGER, "memory_short", level=logging.WARNING, device=str(device), detail=detail)


def _in_words(step: Step) -> str:
    return f"{step.planes} plane{'s' if step.planes > 1 else ''} of {step.rows} rows at once on {step.device}"


def _aligned(rows: int, alignment: int) -> int:
    return max(rows // alignment, 1) * alignment
