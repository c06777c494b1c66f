"""Where a network runs, and in which precision."""

from __future__ import annotations

import pytest
import torch

from dicomnode.errors import SettingsError
from dicomnode.generators import device
from dicomnode.generators.device import choose_device, serving_dtype

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


def test_cpu_is_the_cpu() -> None:
    assert choose_device("cpu") == torch.device("cpu")


@without_cuda
def test_auto_falls_back_to_the_cpu() -> None:
    assert choose_device("auto") == torch.device("cpu")


@without_cuda
@pytest.mark.parametrize("text", ["cuda", "cuda:0"])
def test_a_gpu_that_was_asked_for_and_is_not_there_is_an_error_in_words(text: str) -> None:
    with pytest.raises(SettingsError, match=f"{text} is not on this machine"):
        choose_device(text)


@needs_cuda
def test_auto_takes_the_first_gpu() -> None:
    assert choose_device("auto") == choose_device("cuda") == choose_device("cuda:0") == torch.device("cuda", 0)


@needs_cuda
def test_a_gpu_beyond_those_of_the_machine_is_an_error_in_words() -> None:
    with pytest.raises(SettingsError, match="cuda:99 is not on this machine"):
        choose_device("cuda:99")


@pytest.mark.parametrize("text", ["", "gpu", "CPU", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "auto "])
def test_what_is_no_device_is_an_error_in_words(text: str) -> None:
    with pytest.raises(SettingsError, match="is no device"):
        choose_device(text)


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({}, torch.float32),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
    ],
)
def test_a_cpu_computes_bfloat16_only_where_it_has_instructions_for_it(
    capabilities: dict[str, bool], dtype: torch.dtype
) -> None:
    assert device.cpu_dtype(capabilities) == dtype


def test_torch_names_the_instructions_as_the_rule_does() -> None:
    """On x86; elsewhere the names are absent and float32 serves."""
    capabilities = torch.cpu.get_capabilities()
    if capabilities["architecture"] == "x86_64":
        assert set(device.BFLOAT16_INSTRUCTIONS) <= capabilities.keys()
    assert serving_dtype(torch.device("cpu")) == device.cpu_dtype(capabilities)


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((9, 0), torch.bfloat16), ((8, 0), torch.bfloat16), ((7, 5), torch.float16), ((6, 1), torch.float32)],
)
def test_a_gpu_serves_in_the_best_half_precision_that_it_has(capability: tuple[int, int], dtype: torch.dtype) -> None:
    assert device.cuda_dtype(capability) == dtype
