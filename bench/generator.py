"""This bench compares the cost of a thin slice: the paper's generator against ``thin`` and ``thin-fast``.

    python bench/generator.py            512 × 512 at ratio 4, eight alternating rounds
    python bench/generator.py --toy      small and short, to see that it still runs
    python bench/generator.py --json     one JSON object
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python bench/generator.py --float32
                                         as on a processor with AVX2 and without bfloat16

The paper's generator (SRResNet, 16 blocks of 64, one slice in, one out) is given its best form: normalisations
folded into the convolutions, channels_last, and of float32 and the machine's half precision whichever is faster
here. ``thin`` runs as it is served, with the pixels that are repeated beyond the border of its picture. One call of
``thin`` makes four thin slices, one call of the paper's makes one; both have cubic-dc before them and the projection
behind them, which is not counted. All run alternately in one process and the best round of each counts, because
others' load only ever adds time. Weights are random: no multiplication is faster for being by zero. Bars, on a quiet
machine: at least 40 times for ``thin``, 100 times for ``thin-fast``.

``fewer_operations_times`` is the part of it that no machine can change, 28 for ``thin``. The rest is memory: the
paper's network moves four times the pixels through each layer, and pays for that where the processor multiplies faster
than it reads, as with AMX. Where multiplying is what takes the time, as with AVX512-BF16, the two numbers come close.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # from a checkout that is not installed, too

from dicomnode.generators.allocator import freed_memory_kept
from dicomnode.generators.device import choose_device, serving_dtype
from dicomnode.generators.kinds import ThinParameters
from dicomnode.generators.served import paper_planes, thin_planes
from dicomnode.generators.srresnet import SRResNet, fold_batch_norm
from dicomnode.generators.thin import ThinNet

RATIO = 4
THIN = ThinParameters(window=5, channels=64, blocks=8)  # as in the recipes of the same names
THIN_FAST = ThinParameters(window=5, channels=32, blocks=8)
BAR, FAST_BAR = 40.0, 100.0
FULL_EXTENT, FULL_ROUNDS = 512, 8
TOY_EXTENT, TOY_ROUNDS = 32, 1


def measure(extent: int, rounds: int, device: torch.device, served: torch.dtype) -> dict[str, float | str]:
    """Seconds per thin slice of each, and what ours gain over the paper's. ``served``: the precision of ours."""
    thin, fast = (thin_planes(ThinNet(**shape.model_dump()), RATIO) for shape in (THIN, THIN_FAST))
    paper = paper_planes(fold_batch_norm(SRResNet(outputs=1)))
    calls: dict[str, Callable[[], object]] = {}
    for name, network, channels, dtype in (
        ("thin", thin, THIN.window, served),
        ("fast", fast, THIN_FAST.window, served),
        ("paper", paper, 1, served),
        ("paper_float32", paper, 1, torch.float32),
    ):
        side = extent + 2 * network.repeated_pixels
        planes = torch.rand(1, channels, side, side, device=device, dtype=dtype)
        planes = planes.contiguous(memory_format=torch.channels_last)
        calls[name] = _waiting(network.place(device, dtype), planes)
    best = _best_of(calls, rounds)
    operations = {name: _operations(call) for name, call in calls.items()}
    thin_s, fast_s, paper_s = best["thin"] / RATIO, best["fast"] / RATIO, min(best["paper"], best["paper_float32"])
    return {
        "bench": "generator",
        "cheaper_times": round(paper_s / thin_s, 1),
        "bar": f">= {BAR:g}",
        "fewer_operations_times": round(operations["paper"] / operations["thin"] * RATIO, 1),
        "fast_cheaper_times": round(paper_s / fast_s, 1),
        "fast_bar": f">= {FAST_BAR:g}",
        "fast_fewer_operations_times": round(operations["paper"] / operations["fast"] * RATIO, 1),
        "thin_s_per_slice": round(thin_s, 5),
        "fast_s_per_slice": round(fast_s, 5),
        "paper_s_per_slice": round(paper_s, 5),
        "paper_float32_s_per_slice": round(best["paper_float32"], 5),
        "extent": extent,
        "ratio": RATIO,
        "precision": str(served).removeprefix("torch."),
        "device": str(device),
        "threads": torch.get_num_threads(),
    }


def _waiting(forward: Callable[[torch.Tensor], torch.Tensor], planes: torch.Tensor) -> Callable[[], object]:
    """One call, and on a GPU the wait for its result."""
    return lambda: forward(planes).flatten()[0].item()


def _operations(call: Callable[[], object]) -> int:
    with torch.inference_mode(), FlopCounterMode(display=False) as counted:
        call()
    total: int = counted.get_total_flops()
    return total


def _best_of(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of one call each. Short calls are repeated until they take as long as the longest: what disturbs a
    machine would else spare them."""
    best: dict[str, float] = {}
    with torch.inference_mode(), freed_memory_kept():
        for name, call in calls.items():
            call()  # chooses kernels, and brings weights into their layout
            best[name] = _seconds(call)
        times = {name: max(1, round(max(best.values()) / seconds)) for name, seconds in best.items()}
        for _ in range(rounds):
            for name, call in calls.items():
                best[name] = min(best[name], _seconds(call, times[name]))
    return best


def _seconds(call: Callable[[], object], times: int = 1) -> float:
    began = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - began) / times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--float32", action="store_true", help="no half precision, as where the machine has none")
    options = parser.parse_args()
    extent, rounds = (TOY_EXTENT, TOY_ROUNDS) if options.toy else (FULL_EXTENT, FULL_ROUNDS)
    device = choose_device(options.device)
    result = measure(extent, rounds, device, torch.float32 if options.float32 else serving_dtype(device))
    if options.json:
        print(json.dumps(result))
        return
    print(
        f"thin is {result['cheaper_times']} times cheaper than the paper's generator (bar {result['bar']}), thin-fast "
        f"{result['fast_cheaper_times']} times (bar {result['fast_bar']}): {result['thin_s_per_slice']} and "
        f"{result['fast_s_per_slice']} against {result['paper_s_per_slice']} s per thin slice of {extent} × {extent} "
        f"at ratio {RATIO}, {result['precision']} on {result['device']}, {result['threads']} threads"
    )


if __name__ == "__main__":
    main()
