"""Streaming: strips and batches that change nothing, memory that is bounded, and what happens when it is short."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dicomnode import seams
from dicomnode.errors import ModelError
from dicomnode.generators import allocator, infer
from dicomnode.generators.device import CPU
from dicomnode.generators.infer import PlaneNetwork, Step, first_step, restore_measured, smaller_step, stream
from dicomnode.generators.served import paper_planes, thin_planes
from dicomnode.generators.srresnet import fold_batch_norm
from dicomnode.imaging.profile import consistency
from tests.support.model_folders import random_srresnet, random_thin

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")

NETWORKS = {
    "thin": (3, thin_planes(random_thin(), 4)),
    "slice": (1, paper_planes(fold_batch_norm(random_srresnet(outputs=1)))),
    "slab3": (1, paper_planes(fold_batch_norm(random_srresnet(outputs=3)))),
}


@pytest.fixture
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a difference is one of streaming and not of rounding."""
    monkeypatch.setattr(infer, "serving_dtype", lambda _device: torch.float32)


@pytest.fixture
def hook() -> Iterator[Callable[[Callable[[str], None]], None]]:
    """Sets the checkpoint hook, and takes it away again."""
    yield seams.set_checkpoint_hook
    seams.set_checkpoint_hook(None)


def streamed(network: PlaneNetwork, planes: Tensor, device: torch.device = CPU) -> Tensor:
    """All predictions of (N, C, H, W), in the order that they were written in."""
    written: list[Tensor] = []

    def write(start: int, predicted: Tensor) -> None:
        assert start == sum(map(len, written))
        assert predicted.dtype == torch.float32
        written.append(predicted)

    height, width = planes.shape[-2:]
    stream(network, len(planes), (height, width), read=lambda a, b: planes[a:b], write=write, device=device)
    return torch.cat(written)


def whole_planes(network: PlaneNetwork, planes: Tensor) -> Tensor:
    """The network on planes that were made larger by hand; the prediction is cut to their size."""
    height, width = planes.shape[-2:]
    repeated = network.repeated_pixels
    padded = np.pad(planes.numpy(), ((0, 0), (0, 0), (repeated, repeated), (repeated, repeated)), mode="edge")
    with torch.inference_mode():
        predicted = network.place(CPU, torch.float32)(torch.from_numpy(padded))
    return predicted[..., repeated : repeated + height, repeated : repeated + width]


@pytest.mark.usefixtures("in_float32")
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("shape", [(97, 64), (64, 33), (131, 7)])
def test_strips_and_batches_do_not_change_the_result(
    kind: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    channels, network = NETWORKS[kind]
    planes = torch.rand(5, channels, *shape)
    whole = whole_planes(network, planes)
    monkeypatch.setattr(infer, "BATCH_BYTES", 2 * shape[0] * shape[1] * network.live_values * 4)
    torch.testing.assert_close(streamed(network, planes), whole, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(infer, "WORKING_BYTES", 0)
    assert first_step(network, 5, shape, CPU).rows < shape[0], "the matrix must not fit into one strip"
    torch.testing.assert_close(streamed(network, planes), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_border_is_exactly_the_receptive_field(kind: str) -> None:
    """Which rows of the input move the rows of an aligned strip, by the gradient."""
    thin, paper = random_thin(), fold_batch_norm(random_srresnet(outputs=1))
    for parameter in (*thin.parameters(), *paper.parameters()):
        parameter.data.abs_()  # so that nothing cancels and no ReLU cuts off
    channels, network = (3, thin_planes(thin, 4)) if kind == "thin" else (1, paper_planes(paper))
    planes = torch.rand(1, channels, 96, 8).requires_grad_()
    first, last = 48, 48 + network.alignment_rows - 1
    strip = network.place(CPU, torch.float32)(planes)[..., first : last + 1, :]
    (gradient,) = torch.autograd.grad(strip.sum(), planes)
    moving = torch.nonzero(gradient.sum(dim=(0, 1, 3))).flatten().tolist()
    assert (first - moving[0], moving[-1] - last) == (network.border_rows, network.border_rows)


@pytest.mark.parametrize("kind", NETWORKS)
def test_half_precision_stays_near_full_precision(kind: str) -> None:
    channels, network = NETWORKS[kind]
    planes = torch.rand(2, channels, 40, 40)
    with torch.inference_mode():
        full = network.place(CPU, torch.float32)(planes)
        half = network.place(CPU, torch.bfloat16)(planes.bfloat16()).float()
    assert (half - full).abs().max() < 0.03 * full.abs().max()


def test_the_first_step_is_bounded_by_bytes() -> None:
    for _, network in NETWORKS.values():
        repeated = 2 * network.repeated_pixels
        for shape in [(64, 64), (512, 512), (2048, 2048), (20000, 4000)]:
            step = first_step(network, 1000, shape, CPU)
            rows = min(step.rows + 2 * network.border_rows, shape[0] + repeated)
            in_use = step.planes * rows * (shape[1] + repeated) * network.live_values * step.dtype.itemsize
            assert in_use <= infer.WORKING_BYTES
            assert step.rows % network.alignment_rows == 0
        assert first_step(network, 3, (8, 8), CPU).planes == 3


@pytest.mark.usefixtures("in_float32")
def test_a_step_that_memory_does_not_suffice_for_is_repeated_smaller_and_said_in_words(
    hook: Callable[[Callable[[str], None]], None], caplog: pytest.LogCaptureFixture
) -> None:
    _, network = NETWORKS["slice"]
    planes = torch.rand(4, 1, 96, 8)
    whole = streamed(network, planes)
    refusals = iter([True, True, True, False, True])

    def exhaust(name: str) -> None:
        if name == "infer.step" and next(refusals, False):
            raise torch.OutOfMemoryError("out of memory")

    hook(exhaust)
    with caplog.at_level(logging.WARNING, logger="dicomnode.generators.infer"):
        torch.testing.assert_close(streamed(network, planes), whole, rtol=1e-5, atol=1e-6)
    assert [record.getMessage() for record in caplog.records] == ["memory_short"] * 4
    said = [record.__dict__["dicomnode_fields"]["detail"] for record in caplog.records]
    assert said[0].startswith("4 planes of 96 rows at once on cpu did not fit into memory; going on with ")
    assert [sentence.rpartition("with ")[2] for sentence in said] == [
        "2 planes of 96 rows at once on cpu",
        "1 plane of 96 rows at once on cpu",
        "1 plane of 48 rows at once on cpu",
        "1 plane of 32 rows at once on cpu",
    ]


def test_when_the_smallest_step_does_not_fit_either_the_error_rises(
    hook: Callable[[Callable[[str], None]], None],
) -> None:
    def exhaust(_name: str) -> None:
        raise MemoryError

    hook(exhaust)
    with pytest.raises(MemoryError):
        streamed(NETWORKS["slice"][1], torch.rand(4, 1, 96, 8))


def test_an_error_that_is_not_of_memory_is_not_tried_again(hook: Callable[[Callable[[str], None]], None]) -> None:
    calls = []

    def fail(name: str) -> None:
        calls.append(name)
        raise RuntimeError("something else")

    hook(fail)
    with pytest.raises(RuntimeError, match="something else"):
        streamed(NETWORKS["slice"][1], torch.rand(4, 1, 96, 8))
    assert len(calls) == 1


def test_after_the_smallest_step_on_a_gpu_comes_the_cpu() -> None:
    _, network = NETWORKS["thin"]
    step = Step(device=torch.device("cuda", 0), dtype=torch.bfloat16, planes=1, rows=infer.MIN_STRIP_ROWS)
    assert smaller_step(network, step, 7, (64, 64)) == first_step(network, 7, (64, 64), CPU)


REAL_LIMIT = """
import logging, resource, sys
import torch
from dicomnode import log
from dicomnode.generators import infer
from dicomnode.generators.device import CPU
from dicomnode.generators.served import paper_planes
from dicomnode.generators.srresnet import SRResNet, fold_batch_norm
log.start_logging("info", "text")
torch.set_num_threads(1)
network = paper_planes(fold_batch_norm(SRResNet(outputs=1, channels=64, blocks=1)))
infer.serving_dtype = lambda device: torch.float32
planes = torch.rand(8, 1, 256, 256)  # all at once: 128 MiB for each tensor of the block
done = []
run = lambda: infer.stream(network, 8, (256, 256), read=lambda a, b: planes[a:b],
                           write=lambda a, p: done.append(p[:, :, ::32, ::32].clone()), device=CPU)
run()  # so that threads and kernels have what they need before the limit
whole = torch.cat(done)
infer.BATCH_BYTES = infer.WORKING_BYTES = 8 << 30  # an estimate that is far too high for the machine
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (200 << 20)  # kernels for new shapes and a heap take some of it
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
run()
assert torch.allclose(torch.cat(done)[-8:], whole, atol=1e-5), "another result under the limit"
"""


def test_a_real_limit_of_the_machines_memory_costs_only_speed() -> None:
    finished = subprocess.run([sys.executable, "-c", REAL_LIMIT], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "memory_short" in finished.stderr
    assert "going on with" in finished.stderr


BOUNDED = """
import torch
from dicomnode.generators import infer
from dicomnode.generators.device import CPU
from dicomnode.generators.served import paper_planes
from dicomnode.generators.srresnet import SRResNet, fold_batch_norm
torch.set_num_threads(1)
infer.serving_dtype = lambda device: torch.float32
infer.WORKING_BYTES = 48 << 20
network = paper_planes(fold_batch_norm(SRResNet(outputs=1, channels=64, blocks=1)))
def derive(extent):
    plane = torch.rand(1, 1, extent, extent)
    infer.stream(network, 1, (extent, extent), read=lambda a, b: plane, write=lambda a, p: None, device=CPU)
def resident(field):  # not ru_maxrss: a child's begins with its parent's
    return int(open("/proc/self/status").read().partition(field + ":")[2].split()[0]) * 1024
derive(64)
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
before = resident("VmRSS")
derive(512)
print(resident("VmHWM") - before)
"""


def test_the_working_memory_of_a_large_matrix_stays_within_its_bound() -> None:
    """Whole, the activations of this plane would be 256 MiB; the plane itself is there, in strips and joined."""
    report = subprocess.run([sys.executable, "-c", BOUNDED], capture_output=True, text=True, check=True).stdout
    plane_bytes = 512 * 512 * 4
    # Half as much again is what the allocator may hold beside the tensors that the bound counts.
    assert int(report) < 1.5 * (48 << 20) + 4 * plane_bytes


STATED = """
import sys
import torch
from pathlib import Path
from dicomnode.generators import infer
from dicomnode.generators.model_dir import load_generator
from dicomnode.generators.thin import ThinNet
from dicomnode.imaging.profile import thin_grid
from tests.support.model_folders import random_stack, write_thin
torch.set_num_threads(1)
infer.serving_dtype = lambda device: torch.float32
infer.WORKING_BYTES = 24 << 20
generator = load_generator(write_thin(Path(sys.argv[1]), net=ThinNet(blocks=1)))
def derive(slices, extent):
    thick = random_stack(slices, extent, extent)
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    before = resident("VmRSS")
    generator.generate(thick, thin_grid(thick, 6), device="cpu")
    return resident("VmHWM") - before
def resident(field):
    return int(open("/proc/self/status").read().partition(field + ":")[2].split()[0]) * 1024
derive(2, 64)
print(derive(24, 256))
"""


def test_a_series_takes_the_memory_that_is_stated(tmp_path: Path) -> None:
    """The thick stack is read-only here, so the network gets a copy of it, which the formula counts."""
    report = subprocess.run([sys.executable, "-c", STATED, tmp_path], capture_output=True, text=True, check=True)
    slices, ratio, channels, plane_bytes = 24, 6, 5, 4 * 256 * 256
    stated = slices * (1 + ratio) * plane_bytes + (24 << 20) + (channels + 2 * ratio) * plane_bytes
    # Half of the activations again is what the allocator may hold beside the tensors that the bound counts.
    assert int(report.stdout) < stated + (12 << 20) + 4 * slices * 128**2


KEPT = """
import resource
import torch
from dicomnode.generators import infer
from dicomnode.generators.device import CPU
from dicomnode.generators.served import thin_planes
from dicomnode.generators.thin import ThinNet
torch.set_num_threads(1)
infer.serving_dtype = lambda device: torch.float32
network, extent = thin_planes(ThinNet(blocks=2), 4), 384
planes = torch.rand(1, 5, extent, extent)
def cleared(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    read = lambda a, b: planes.expand(b - a, -1, -1, -1)
    infer.stream(network, count, (extent, extent), read=read, write=lambda a, p: None, device=CPU)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def resident():
    return int(open("/proc/self/status").read().partition("VmRSS:")[2].split()[0]) * 1024
cleared(4)
before = resident()
print(cleared(4), cleared(12), resident() - before)
"""


@pytest.mark.skipif(not allocator.IS_GLIBC, reason="this C library's allocator is not glibc's")
def test_planes_share_the_memory_of_the_first_and_none_stays_after_the_last() -> None:
    """Each page that the kernel clears anew costs time: without this, the twelve planes need 200,000 pages."""
    report = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True).stdout
    four, twelve, stays_bytes = map(int, report.split())
    assert twelve < 1.3 * four
    assert stays_bytes < 8 << 20


def test_a_result_that_is_not_a_number_derives_nothing() -> None:
    def place(_device: torch.device, _dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        return lambda planes: planes.log()

    network = PlaneNetwork(place=place, border_rows=0, alignment_rows=1, live_values=100_000)  # so: one at a time
    with pytest.raises(ModelError, match="not a number somewhere in planes 1 to 1"):
        stream(
            network,
            2,
            (32, 32),
            read=lambda start, _stop: torch.full((1, 1, 32, 32), 1.0 - 2.0 * start),
            write=lambda _start, _predicted: None,
            device=CPU,
        )


def test_progress_rises_to_one() -> None:
    shares: list[float] = []
    stream(
        NETWORKS["slice"][1],
        5,
        (8, 8),
        read=lambda start, stop: torch.rand(stop - start, 1, 8, 8),
        write=lambda _start, _predicted: None,
        device=CPU,
        progress=shares.append,
    )
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


@pytest.mark.parametrize("ratio", [2, 5])
def test_projection_gives_back_block_means_for_contiguous_slices(ratio: int) -> None:
    rng = np.random.default_rng(1)
    thick: NDArray[np.float32] = rng.random((4, 37, 5), dtype=np.float32)
    thin: NDArray[np.float32] = rng.random((4 * ratio, 37, 5), dtype=np.float32)
    off_before = np.abs(thin.reshape(4, ratio, 37, 5).mean(axis=1) - thick).max()
    restore_measured(thin, thick, 1.0)
    off_after = np.abs(thin.reshape(4, ratio, 37, 5).mean(axis=1) - thick).max()
    assert off_after <= 1.01e-3 * off_before  # the relative λ of 1e-3


@pytest.mark.parametrize(("slices", "ratio", "thickness"), [(1, 2, 1.0), (5, 3, 0.8), (30, 5, 1.0), (7, 6, 0.5)])
def test_projection_is_that_of_the_whole_stacks_matrices(slices: int, ratio: int, thickness: float) -> None:
    rng = np.random.default_rng(2)
    thick: NDArray[np.float32] = rng.random((slices, 41, 3), dtype=np.float32)
    thin: NDArray[np.float32] = rng.random((slices * ratio, 41, 3), dtype=np.float32)
    matrices = consistency(slices, ratio, thickness)
    missing = thick - np.tensordot(matrices.profile, thin, axes=1)
    expected = thin + np.tensordot(matrices.operator, missing, axes=1)
    restore_measured(thin, thick, thickness)
    np.testing.assert_allclose(thin, expected, atol=2e-6)


@needs_cuda
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_gpu_predicts_what_the_cpu_does(kind: str) -> None:
    channels, network = NETWORKS[kind]
    planes = torch.rand(5, channels, 97, 64)
    full = whole_planes(network, planes)
    found = streamed(network, planes, torch.device("cuda", 0))
    assert (found - full).abs().max() < 0.03 * full.abs().max()
