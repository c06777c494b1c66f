"""Time and memory of deriving one series: 30 slices of 512 × 512 at ratio 5, as a spine or a prostate comes.

    python bench/infer.py                the default model on the CPU
    python bench/infer.py --model M      another name, or the path of a model directory
    python bench/infer.py --toy          small and short, to see that it still runs
    python bench/infer.py --json         one JSON object

From the thick stack in memory to the thin one: cubic-dc, network, projection; no DICOM is read or written. The
number is peak resident memory beyond what the process held before (torch and the thick stack among it), divided by
the size of the thin stack that is returned: 1 would be no working memory at all, and nothing in it may grow with
the number of slices. Bar: at most 2, and 10 s on two cores with AMX. ``processor_s`` is what all threads together
worked, waiting for each other included; on a busy machine it says more than the seconds do.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # from a checkout that is not installed, too

from dicomnode.generators import model_dir
from dicomnode.imaging.profile import thin_grid
from dicomnode.imaging.volume import Volume

RATIO = 5
BAR = 2.0
FULL_SHAPE = (30, 512, 512)
TOY_SHAPE = (4, 64, 64)
WARM_UP_SHAPE = (2, 64, 64)
KIB = 1024


def measure(model: str, shape: tuple[int, int, int], device: str) -> dict[str, float | str]:
    """Seconds and peak memory of one ``generate``."""
    generator = model_dir.load_generator(model)
    warm_up, thick = noise(WARM_UP_SHAPE), noise(shape)
    # Kernels, threads and the allocator's first pages belong to the process and not to the series.
    generator.generate(warm_up, thin_grid(warm_up, RATIO), device=device)
    _reset_peak()
    before = _resident_bytes("VmRSS")
    began, busy = time.perf_counter(), time.process_time()
    thin = generator.generate(thick, thin_grid(thick, RATIO), device=device).thin
    seconds, processor_s = time.perf_counter() - began, time.process_time() - busy
    grown = _resident_bytes("VmHWM") - before
    return {
        "bench": "infer",
        "peak_to_result": round(grown / thin.voxels.nbytes, 2),
        "bar": f"<= {BAR:g}",
        "seconds": round(seconds, 2),
        "processor_s": round(processor_s, 2),
        "peak_mib": round(grown / KIB**2),
        "result_mib": round(thin.voxels.nbytes / KIB**2),
        "process_mib": round(_resident_bytes("VmHWM") / KIB**2),
        "slices": len(thin.voxels),
        "model": generator.name,
        "device": device,
        "threads": torch.get_num_threads(),
    }


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
        f"{result['model']} derives {result['slices']} slices in {result['seconds']} s and {result['peak_mib']} MiB: "
        f"{result['peak_to_result']} times the {result['result_mib']} MiB of the result (bar {result['bar']}), "
        f"on {result['device']}, {result['threads']} threads"
    )


if __name__ == "__main__":
    main()
