"""Choose the device on which a network runs, and its precision.

Precision is chosen by what the processor can do by itself, not by what torch accepts: every CPU computes
bfloat16 somehow, and without an instruction for it slower than float32.

| device | served in | because |
|---|---|---|
| CPU with AMX or AVX512-BF16 | bfloat16 | two to five times faster (docs/science.md#speed-on-a-cpu) |
| any other CPU | float32 | bfloat16 is emulated |
| CUDA, capability 8.0 on | bfloat16 | float16's speed without its limit of 65,504 |
| CUDA, capability 7.x | float16 | has no bfloat16 |
| older CUDA | float32 | has neither |

Consistency with what was measured is computed in float32 on every device, after the network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from dicomnode.errors import SettingsError

CPU = torch.device("cpu")
BFLOAT16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16")  # names in torch.cpu.get_capabilities()
_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]+)?")


def choose_device(text: str) -> torch.device:
    """The device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` means on this machine."""
    if _DEVICE.fullmatch(text) is None:
        raise SettingsError(f"{text} is no device.", hint="Use auto, cpu, cuda or cuda:N.")
    if text == "cpu" or (text == "auto" and not torch.cuda.is_available()):
        return CPU
    index = int(text.partition(":")[2] or 0)
    count = torch.cuda.device_count()
    if index >= count:
        raise SettingsError(
            f"The device {text} is not on this machine, which has {count} that CUDA can use.",
            hint="Use auto or cpu, or look at the GPU's driver with nvidia-smi.",
        )
    return torch.device("cuda", index)


def serving_dtype(device: torch.device) -> torch.dtype:
    """The precision of the network's weights and activations, by the table above."""
    if device.type == "cuda":
        return cuda_dtype(torch.cuda.get_device_capability(device))
    return cpu_dtype(torch.cpu.get_capabilities())


def cuda_dtype(capability: tuple[int, int]) -> torch.dtype:
    """Choose the number format of a GPU by its compute capability."""
    if capability >= (8, 0):
        return torch.bfloat16
    return torch.float16 if capability >= (7, 0) else torch.float32


def cpu_dtype(capabilities: Mapping[str, object]) -> torch.dtype:
    """Choose the number format of a CPU by what ``torch.cpu.get_capabilities`` says of it."""
    has_bfloat16 = any(capabilities.get(name) for name in BFLOAT16_INSTRUCTIONS)
    return torch.bfloat16 if has_bfloat16 else torch.float32
