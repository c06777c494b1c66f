"""How much of the processor's arithmetic the whole training loop uses: data, both passes, optimiser, average.

    python bench/train.py                  thin with 12 and 24 windows, both stages of the paper's recipes
    python bench/train.py --row thin-12    one of them; --seconds, --stretch-steps, --threads, --device
    python bench/train.py --toy            small and short, to see that it still runs
    python bench/train.py --json           one JSON object a row

The reference is measured in the same process before and after: a convolution of 3 × 3 from 64 to 64 channels on 256²,
batch 8, channels_last, forward and backward, best of 5, in the precision of the run: bfloat16 where the processor
computes it by itself, else float32. Operations are those of the convolutions and dense layers of one step, counted
as torch dispatches them (backward = 2 × forward but for the first layer, whose input needs no gradient); what else
a step does is time and no operation. The loop is ``trainer.training.loop.train`` with its loader process, on phantoms.

The number is the loop's operations per second ÷ the reference's. Both are the best of five, because others' load only
ever adds time: the loop's of five stretches of one run, each longer than the queue of batches that were made ahead, so
that a loader that is too slow shows. ``mean_of_reference`` is the same of the whole run. Bars: ``thin`` 70 %, the
paper's recipes 55 %, on a quiet machine.

Peak memory is VmHWM of each process, the trainer's reset before the run. Not ``ru_maxrss``: a child's begins with its
parent's. Each row is a process of its own, with OMP_WAIT_POLICY=PASSIVE and OPENBLAS_NUM_THREADS=1 unless set.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import nibabel
import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # from a checkout that is not installed, too

from dicomnode import ids
from dicomnode.generators.device import choose_device, serving_dtype
from trainer.data.sources import Source, Split
from trainer.training import loop, networks
from trainer.training import plan as plans
from trainer.training import recipe as recipes
from trainer.training.batches import BatchShare, Material, draw_batch, load_material
from trainer.training.plan import Plan, Use
from trainer.training.recipe import Recipe
from trainer.training.recipe_tables import Discriminator
from trainer.training.strips import StripBatch
from trainer.training.training_step import TrainingStep, new_training_step

KIB = 1024
STRETCHES = 5
NEVER = 10**9  # steps: the clock ends the run
DRAWS = 60  # batches within which every ratio of a recipe is met
SETTINGS = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}
# VGG19 up to its last convolution, numbered as torchvision does; the speed does not depend on the weights.
VGG19 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512, 512, 512)  # 0: a pooling


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    recipe: str
    stage: int
    bar: float
    batch: int | None = None  # None: the recipe's


ROWS = {
    "thin-12": Row(recipe="thin", stage=0, bar=0.70, batch=4),
    "thin-24": Row(recipe="thin", stage=0, bar=0.70, batch=8),
    "paper-model1-srresnet": Row(recipe="paper-model1", stage=0, bar=0.55),
    "paper-model1-srgan": Row(recipe="paper-model1", stage=1, bar=0.55),
    "paper-model2-srresnet": Row(recipe="paper-model2", stage=0, bar=0.55),
    "paper-model2-srgan": Row(recipe="paper-model2", stage=1, bar=0.55),
}
TOY_ROWS = ("thin-12", "paper-model1-srgan")
TOY_DISCRIMINATOR = {
    "features": "vgg19:relu1_2",
    "discriminator": Discriminator(kind="patch"),
}  # the paper's has 23 million


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The amount that is measured."""

    extent: int  # voxels along each side of the phantom
    reference: tuple[int, int, int]  # batch, channels, side
    seconds: float  # of the measured steps at least
    warm_up_steps: int
    stretch_steps: int  # in each stretch at least: more than are made ahead


FULL = Size(extent=144, reference=(8, 64, 256), seconds=30.0, warm_up_steps=10, stretch_steps=20)
TOY = Size(extent=48, reference=(2, 8, 32), seconds=0.0, warm_up_steps=1, stretch_steps=1)


@dataclass(slots=True, kw_only=True)
class Clock:
    """Asked after every step whether to stop; notes when it was asked."""

    size: Size
    device: torch.device
    moments: list[float] = field(default_factory=list)
    loader_peak: int = 0

    def __call__(self) -> bool:
        """True once enough was measured; the loader is still alive then."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.moments.append(time.perf_counter())
        if self.steps < STRETCHES * self.size.stretch_steps or self.measured_s < self.size.seconds:
            return False
        loaders = [child.pid for child in multiprocessing.active_children()]
        self.loader_peak = max(_peak_bytes(str(pid)) for pid in loaders)
        return True

    @property
    def steps(self) -> int:
        """Measured so far."""
        return len(self.moments) - 1 - self.size.warm_up_steps

    @property
    def measured_s(self) -> float:
        """After the warm-up."""
        return self.moments[-1] - self.moments[self.size.warm_up_steps]

    def seconds_per_step(self) -> tuple[float, float]:
        """(of the best stretch, of all)."""
        ends = np.linspace(self.size.warm_up_steps, len(self.moments) - 1, STRETCHES + 1).astype(int)
        moments = np.array(self.moments)[ends]
        return float((np.diff(moments) / np.diff(ends)).min()), float((moments[-1] - moments[0]) / (ends[-1] - ends[0]))


def measure(name: str, size: Size, device: torch.device) -> dict[str, float | str]:
    """One row."""
    row = ROWS[name]
    dtype = serving_dtype(device)
    precision: str = "bfloat16" if dtype is torch.bfloat16 else "float32"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        plan = _plan(row, size, folder, precision)
        plans.write(plan, folder / "run")
        counted = _operations(plan, row.stage, device)
        reference = _reference(size, dtype, device)
        Path("/proc/self/clear_refs").write_text("5")
        clock = Clock(size=size, device=device)
        loop.train(folder / "run", report=lambda _line: None, stop=clock, device=device)
        trainer_peak = _peak_bytes("self")
        reference = max(reference, _reference(size, dtype, device))
    best_s, mean_s = clock.seconds_per_step()
    images = plan.recipe.samples.batch * (3 if plan.recipe.samples.design == "strips" else 1)
    return {
        "bench": "train",
        "row": name,
        "of_reference": round(counted / best_s / reference, 3),
        "bar": f">= {row.bar:g}",
        "mean_of_reference": round(counted / mean_s / reference, 3),
        "steps_per_s": round(1 / best_s, 2),
        "images_per_s": round(images / best_s, 1),
        "gflop_per_step": round(counted / 1e9, 4),
        "reference_gflop_per_s": round(reference / 1e9, 2),
        "trainer_peak_mib": round(trainer_peak / KIB**2),
        "loader_peak_mib": round(clock.loader_peak / KIB**2),
        "device_peak_mib": round(torch.cuda.max_memory_allocated(device) / KIB**2) if device.type == "cuda" else 0,
        "measured_steps": clock.steps,
        "images_per_step": images,
        "precision": precision,
        "device": str(device),
        "threads": torch.get_num_threads(),
    }


def _plan(row: Row, size: Size, folder: Path, precision: str) -> Plan:
    """A run of the one stage that never ends, on a phantom."""
    recipe = _resized(recipes.load(row.recipe), row, is_toy=size.extent == TOY.extent)
    path = folder / "phantom.nii.gz"
    nibabel.save(nibabel.Nifti1Image(_phantom(size.extent), np.eye(4)), path)  # type: ignore[no-untyped-call]
    source = Source(label="phantom", subject="phantom", split=Split.TRAIN, licence="CC0", paths=(path,))
    vgg = folder / "vgg19.safetensors"
    digest = _write_features(vgg, recipe.stage[row.stage].features)
    return Plan.model_validate(
        {
            "recipe": recipe,
            "steps": tuple(NEVER if number == row.stage else 0 for number in range(len(recipe.stage))),
            "seed": 1,
            "precision": precision,
            "sources": (plans.planned(source, Use.THIN),),
            "features_file": vgg if digest else None,
            "features_sha256": digest,
        }
    )


def _resized(recipe: Recipe, row: Row, *, is_toy: bool) -> Recipe:
    samples, network, stages = recipe.samples, recipe.network, recipe.stage
    if row.batch is not None:
        samples = samples.model_copy(update={"batch": row.batch})
    if is_toy:
        samples = samples.model_copy(update={"patch": (16, 16), "ratios": (2, 3)})
        network = network.model_copy(update={"channels": 8, "blocks": 1})
        stages = tuple(stage.model_copy(update=TOY_DISCRIMINATOR) if stage.features else stage for stage in stages)
    return recipe.model_copy(update={"samples": samples, "network": network, "stage": stages})


def _phantom(extent: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """A ball of waves in air, 0 … 1000: as much work as a head."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, extent)] * 3, indexing="ij")
    waves = 500 + 150 * (np.sin(9 * z + 4 * y) + np.sin(17 * y - 5 * x) + np.sin(25 * x + 8 * z))
    return np.where(z**2 + y**2 + x**2 < 0.95, waves, 0).clip(0, 1000).astype(np.float32)


def _write_features(path: Path, spec: str | None) -> str | None:
    """Random weights for as many layers as any ``spec`` asks for; their digest."""
    if spec is None:
        return None
    tensors: dict[str, torch.Tensor] = {}
    number, before = 0, 3
    for width in VGG19:
        if width:
            sigma = (2 / (9 * before)) ** 0.5  # He: activations keep their size
            tensors[f"features.{number}.weight"] = torch.randn(width, before, 3, 3) * sigma
            tensors[f"features.{number}.bias"] = torch.zeros(width)
            before = width
        number += 2 if width else 1  # a convolution is followed by its ReLU
    content = safetensors.torch.save(tensors)
    path.write_bytes(content)
    return ids.digest(content)


def _operations(plan: Plan, stage: int, device: torch.device) -> float:
    """Count the operations of one step: at each ratio, and their mean, as each ratio is drawn as often."""
    material = load_material(plan, Split.TRAIN)
    training_step = new_training_step(
        plan.recipe,
        plan.recipe.stage[stage],
        networks.build(plan.recipe.network),
        seed=plan.seed,
        dtype=getattr(torch, plan.precision),
        device=device,
        features_file=plan.features_file,
        features_sha256=plan.features_sha256,
    )
    wanted = len(plan.recipe.samples.ratios) if plan.recipe.samples.design == "strips" else 1
    counted: dict[int, int] = {}
    for step in range(DRAWS):
        _count_step(training_step, material, plan, step, counted)
        if len(counted) == wanted:
            return sum(counted.values()) / wanted
    raise AssertionError("a ratio of the recipe is never drawn")


def _count_step(
    training_step: TrainingStep, material: Material, plan: Plan, step: int, counted: dict[int, int]
) -> None:
    batch = draw_batch(material, plan, step, BatchShare())
    ratio = batch.ratio if isinstance(batch, StripBatch) else 0
    if ratio not in counted:
        with FlopCounterMode(display=False) as counter:
            training_step.run(batch, step, 1e-6, look_closer=False)
        counted[ratio] = counter.get_total_flops()


def _reference(size: Size, dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second of the convolution, the best of 5 after one to choose its kernel."""
    batch, channels, side = size.reference
    layer = nn.Conv2d(channels, channels, 3, padding=1, device=device, dtype=dtype)
    layer = layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(batch, channels, side, side, device=device, dtype=dtype)
    images = images.contiguous(memory_format=torch.channels_last).requires_grad_(True)
    slopes = torch.rand_like(images)

    def both() -> None:
        layer.zero_grad()
        images.grad = None
        layer(images).backward(slopes)

    with FlopCounterMode(display=False) as counter:
        both()
    operations: int = counter.get_total_flops()
    assert operations == 3 * 2 * batch * side**2 * channels**2 * 9
    return operations / min(_seconds(both, device) for _ in range(5))


def _seconds(call: Callable[[], None], device: torch.device) -> float:
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _peak_bytes(process: str) -> int:
    """Largest resident memory of a process that is alive."""
    status = Path("/proc", process, "status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * KIB


def _sentence(result: dict[str, float | str]) -> str:
    return (
        f"{result['row']}: {float(result['of_reference']):.0%} of the reference convolution's speed (bar "
        f"{result['bar']}; mean of the run {float(result['mean_of_reference']):.0%}), {result['steps_per_s']} steps/s, "
        f"{result['images_per_s']} images/s; peak memory {result['trainer_peak_mib']} MiB and the loader's "
        f"{result['loader_peak_mib']} MiB; {result['precision']} on {result['device']}, {result['threads']} threads"
    )


def main() -> None:
    """Measure and print; without --row every row, in a process of its own each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", choices=list(ROWS))
    parser.add_argument("--seconds", type=float, help="of measured steps of each row, at least")
    parser.add_argument("--stretch-steps", type=int, help="in each of the five stretches, at least")
    parser.add_argument("--threads", type=int, help="of the trainer; all of them if left out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.row is None:
        _every_row(TOY_ROWS if options.toy else tuple(ROWS))
        return
    if options.threads:
        torch.set_num_threads(options.threads)
    size = TOY if options.toy else FULL
    if options.seconds is not None:
        size = replace(size, seconds=options.seconds)
    if options.stretch_steps is not None:
        size = replace(size, stretch_steps=options.stretch_steps)
    result = measure(options.row, size, choose_device(options.device))
    print(json.dumps(result) if options.json else _sentence(result), flush=True)


def _every_row(names: Sequence[str]) -> None:
    for name in names:
        command = [sys.executable, __file__, *sys.argv[1:], "--row", name]
        subprocess.run(command, env=SETTINGS | dict(os.environ), check=True)


if __name__ == "__main__":
    main()
