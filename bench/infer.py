"""Time and memory of deriving one series: 30 slices of 512 × 512 at ratio 5, as a spine or a prostate comes.

    python bench/infer.py                the default model on the CPU
    python bench/infer.py --model M      another name, or the path of a model directory
    python bench/infer.py --toy          small and short, to see that it still runs
    python bench/infer.py --json         one JSON object

Time: from the DICOM files to the thin ones, flushed, as ``dicomnode infer`` does it without its start; beside it, from
the same run, the time within the network. ``infer_to_network`` is the quotient: 1 would be a reading, an encoding and a
writing that cost nothing. Bar: at most 1.3. The series is a round body with noise in the air around it, uncompressed.

Memory: from the thick stack in memory to the thin one. The number is peak resident memory beyond what the process held
before (torch and the thick stack among it), divided by the size of the thin stack that is returned: 1 would be no
working memory at all, and nothing in it may grow with the number of slices. Bar: at most 2.

``processor_s`` is what all threads together worked, waiting for each other included; on a busy machine it says more
than the seconds do.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # from a checkout that is not installed, too

from dicomnode import durable
from dicomnode.derivation import DerivationParameters
from dicomnode.derive.encode import DerivedFile
from dicomnode.derive.facts import DerivationPlan
from dicomnode.generators import model_dir
from dicomnode.generators.served import ServedNetwork
from dicomnode.ids import AeTitle
from dicomnode.imaging.profile import thin_grid
from dicomnode.imaging.volume import Volume
from dicomnode.pipeline import run_pipeline
from tests.support.mr_series import mr_datasets, write_series

RATIO = 5
BAR = 2.0
TIME_BAR = 1.3
FULL_SHAPE = (30, 512, 512)
TOY_SHAPE = (6, 64, 64)  # a series of fewer slices is not derived
WARM_UP_SHAPE = (2, 64, 64)
KIB = 1024


def measure(model: str, shape: tuple[int, int, int], device: str) -> dict[str, float | str]:
    """Memory of one ``generate``, then the time of one whole derivation."""
    generator = model_dir.load_generator(model)
    assert isinstance(generator, ServedNetwork), "cubic-dc has no network"
    warm_up, thick = noise(WARM_UP_SHAPE), noise(shape)
    # Kernels, threads and the allocator's first pages belong to the process and not to the series.
    generator.generate(warm_up, thin_grid(warm_up, RATIO), device=device)
    _reset_peak()
    before = _resident_bytes("VmRSS")
    thin = generator.generate(thick, thin_grid(thick, RATIO), device=device).thin
    grown = _resident_bytes("VmHWM") - before
    memory: dict[str, float | str] = {
        "peak_to_result": round(grown / thin.voxels.nbytes, 2),
        "bar": f"<= {BAR:g}",
        "peak_mib": round(grown / KIB**2),
        "result_mib": round(thin.voxels.nbytes / KIB**2),
        "process_mib": round(_resident_bytes("VmHWM") / KIB**2),
        "slices": len(thin.voxels),
    }
    del thin, thick
    return {
        "bench": "infer",
        **memory,
        **derived(generator, model_dir.model_facts(model), shape, device),
        "time_bar": f"<= {TIME_BAR:g}",
        "model": generator.name,
        "device": device,
        "threads": torch.get_num_threads(),
    }


def derived(
    generator: ServedNetwork, facts: model_dir.ModelFacts, shape: tuple[int, int, int], device: str
) -> dict[str, float | str]:
    """Seconds of one derivation, from files to files, and of its parts."""
    plan = DerivationPlan(
        parameters=DerivationParameters(rule="bench", model=facts.name, model_digest=facts.digest, ratio=RATIO),
        model_kind=facts.kind,
        namespace=uuid.uuid4(),
        ae_title=AeTitle("BENCH"),
        created_at=datetime.now(UTC),
    )
    network = _Stopwatch(generator.net)
    with tempfile.TemporaryDirectory() as folder:
        paths, out = _write_body(Path(folder) / "thick", shape), Path(folder) / "thin"
        out.mkdir()

        def write(file: DerivedFile) -> None:
            durable.write_file(out / f"{file.instance_number:04d}.dcm", [file.content])

        began, busy = time.perf_counter(), time.process_time()
        result = run_pipeline(
            paths, generator=generator, plan=plan, ratios=generator.ratios, device=device, write=write
        )
        seconds, processor_s = time.perf_counter() - began, time.process_time() - busy
    assert len(result.instances) == shape[0] * RATIO, result.verdict.sentence
    return {
        "infer_to_network": round(seconds / network.seconds, 2),
        "seconds": round(seconds, 2),
        "processor_s": round(processor_s, 2),
        "network_s": round(network.seconds, 2),
        **{f"{stage}_s": round(spent_s, 2) for stage, spent_s in result.stages.items()},
    }


class _Stopwatch:
    """Seconds within a network and its copies: where it runs, it runs as a copy, with the hooks of the original."""

    def __init__(self, net: nn.Module) -> None:
        self.seconds = 0.0
        net.register_forward_pre_hook(lambda _net, _planes: self._add(-time.perf_counter()))
        net.register_forward_hook(lambda _net, _planes, _predicted: self._add(time.perf_counter()))

    def _add(self, seconds: float) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds += seconds


def _write_body(folder: Path, shape: tuple[int, int, int]) -> list[Path]:
    """A thick series, one millimetre to a pixel, whose spacing asks for the ratio."""
    slices, size, _ = shape
    datasets = mr_datasets(slices=slices, size=size, slice_spacing_mm=float(RATIO))
    across = np.linspace(-1.1, 1.1, size)
    is_body = across[:, None] ** 2 + across[None, :] ** 2 < 1
    rng = np.random.default_rng(0)
    for dataset in datasets:
        pixels = np.frombuffer(dataset.PixelData, dtype="<u2").reshape(size, size)
        air = rng.integers(0, 30, (size, size), dtype=np.uint16)
        dataset.PixelData = np.where(is_body, pixels + air, air).astype("<u2").tobytes()
    return write_series(folder, datasets)


def noise(shape: tuple[int, int, int]) -> Volume:
    """A stack whose content costs as much as any other."""
    return Volume(
        voxels=np.random.default_rng(0).random(shape, dtype=np.float32) * 1000,
        origin_mm=np.zeros(3),
        row_direction=np.array([1.0, 0.0, 0.0]),
        column_direction=np.array([0.0, 1.0, 0.0]),
        slice_step_mm=np.array([0.0, 0.0, 5.0]),
        row_spacing_mm=0.5,
        column_spacing_mm=0.5,
        slice_thickness_mm=5.0,
    )


def _resident_bytes(field: str) -> int:
    """``VmRSS``, or ``VmHWM``: its peak since the last reset. Not ``ru_maxrss``, which begins with the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) * KIB


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=model_dir.default_model())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.model, TOY_SHAPE if options.toy else FULL_SHAPE, options.device)
    if options.json:
        print(json.dumps(result))
        return
    print(
        f"{result['model']} derives {result['slices']} slices in {result['seconds']} s, {result['infer_to_network']} "
        f"times its network's {result['network_s']} s (bar {result['time_bar']}), with {result['peak_mib']} MiB, "
        f"{result['peak_to_result']} times the {result['result_mib']} MiB of the result (bar {result['bar']}), "
        f"on {result['device']}, {result['threads']} threads"
    )


if __name__ == "__main__":
    main()
