"""This bench trains a recurrent and a 3-D trunk beside that of ``thin``: as many operations, as many steps.

    python bench/sequence.py --studies DATA                 1,000 steps of each, then judged on the validation subjects
    python bench/sequence.py … --trunks recurrent           one of them; --steps, --work
    python bench/sequence.py --toy                          a phantom and two steps, to see that it still runs
    python bench/sequence.py … --json                       a JSON object a line

``window`` is the network of ``thin``: five thick slices in, the thin ones of the middle slice out. ``recurrent`` and
``volume`` (trainer/training/sequences.py) see the whole strip of eleven slices and, when they are judged, the whole
stack. All three learn by the recipe ``thin`` (volumes, losses, Muon, a cosine to 1 %) at ratio 4, from the same batches
of two strips of 48 × 48, and are projected in the same way. Each is judged on every validation subject of the
inventory, plane 0, ratio 4, by ``trainer.judging``. Multiplications are those of the convolutions for one output pixel
of a long stack at ratio 4. One thread; a trunk that is trained is not trained again, and one that was broken off goes
on from its last checkpoint in --work.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # from a checkout that is not installed, too

from dicomnode.generators.base import Generated, Progress, no_sharpness, thin_volume
from dicomnode.generators.cubic_dc import cubic_dc
from dicomnode.generators.infer import restore_measured
from dicomnode.generators.thin import ThinNet, thick_windows
from dicomnode.imaging.body import body_scale
from dicomnode.imaging.profile import ThinGrid, assumed_thickness_over_spacing
from dicomnode.imaging.volume import Volume
from trainer.data.inventory import OPEN_DATA, read_inventory
from trainer.data.sources import Source, Split
from trainer.data.volumes import volume_of
from trainer.judging.cases import Selection, cases_of, is_thin
from trainer.judging.judge import judge
from trainer.judging.methods import Method, baselines
from trainer.training import checkpoint, losses, predictions, sequences
from trainer.training import plan as plans
from trainer.training import recipe as recipes
from trainer.training.batches import BatchShare, Material, draw_batch, load_material
from trainer.training.checkpoint import Checkpoint
from trainer.training.plan import Plan, Use
from trainer.training.recipe import Recipe, learning_rate
from trainer.training.sequences import SequenceNet
from trainer.training.strips import StripBatch
from trainer.training.trained_network import TrainedNetwork, set_weights

WORK = Path(__file__).resolve().parents[1] / "build" / "sequence"  # git ignores it
CPU = torch.device("cpu")
RATIO = 4
STEPS, BATCH, PATCH = 1000, 2, 48
SEED = 1
LINE_EVERY = 50  # steps; also a checkpoint
COUNTED_SLICES, COUNTED_SIDE = 40, 32  # of the stack whose operations are counted
TRUNKS: dict[str, Callable[[], nn.Module]] = {
    "window": ThinNet,
    "recurrent": sequences.recurrent,
    "volume": sequences.volumetric,
}
TOY_TRUNKS: dict[str, Callable[[], nn.Module]] = {
    "window": lambda: ThinNet(channels=8, blocks=1),
    "recurrent": lambda: sequences.recurrent(channels=8, blocks=2),
    "volume": lambda: sequences.volumetric(channels=8, blocks=1),
}


def residuals(net: nn.Module, stack: Tensor, ratio: int) -> Tensor:
    """(n, H, W) → (n, ratio, H, W), whichever trunk it is."""
    if isinstance(net, ThinNet):
        found: Tensor = net(thick_windows(stack, net.window, 0, len(stack)), ratio)
    else:
        found = net(stack[None], ratio)[0]
    return found


def operations(net: nn.Module) -> float:
    """Multiplications for one output pixel, in thousands."""
    stack = torch.zeros(COUNTED_SLICES, COUNTED_SIDE, COUNTED_SIDE)
    with torch.inference_mode(), FlopCounterMode(display=False) as counted:
        residuals(net, stack, RATIO)
    total: int = counted.get_total_flops()
    return total / 2 / (stack.numel() * RATIO) / 1000


# Training.


def train(net: nn.Module, plan: Plan, material: Material, path: Path) -> Checkpoint:
    """``plan.steps`` steps of the stage; a checkpoint that is there is gone on from."""
    recipe, (steps,) = plan.recipe, plan.steps
    stage = recipe.stage[0]
    trained = TrainedNetwork(net, stage, dtype=torch.float32, device=CPU, average_decay=recipe.average_decay)
    done, spent = 0, 0.0
    if path.exists():
        saved = checkpoint.load(path)
        done, spent = saved.step, saved.seconds
        trained.restore("generator", saved.tensors, done)
    began = time.process_time()
    while True:
        state = Checkpoint(
            step=done,
            best_psnr=-np.inf,
            seconds=spent + time.process_time() - began,
            tensors=trained.state("generator"),
        )
        checkpoint.save(state, path)
        if done >= steps:
            return state
        total = 0.0
        until = min(done + LINE_EVERY, steps)
        for step in range(done, until):
            batch = draw_batch(material, plan, step, BatchShare())
            assert isinstance(batch, StripBatch)
            loss = _loss(trained.net, batch, recipe)
            loss.backward()  # type: ignore[no-untyped-call]
            trained.step(learning_rate(stage, step, steps), recipe.clip_norm)
            total += float(loss.detach())
        print(f"{path.stem}: step {until} of {steps}, loss {total / (until - done):.5f}", file=sys.stderr, flush=True)
        done = until


def _loss(net: nn.Module, batch: StripBatch, recipe: Recipe) -> Tensor:
    if isinstance(net, SequenceNet):
        predicted = sequences.predict(net, batch)
    else:
        predicted, _ = predictions.predict(net, batch, torch.float32, CPU)
    truth, weights = predictions.truth_of(batch, CPU), recipe.stage[0].losses
    values = weights.charbonnier * losses.charbonnier(predicted - truth)
    return values + weights.z_gradient * losses.z_gradient(predicted, truth)


def plan_of(found: Sequence[Source], steps: int, *, is_toy: bool) -> Plan:
    """The recipe ``thin`` at the ratio that is judged, with less in a step, and without its moving average, which would
    hold on to the beginning of so short a run."""
    recipe = recipes.load("thin").model_copy(update={"average_decay": 0.0})
    samples = recipe.samples.model_copy(update={"batch": BATCH, "patch": (PATCH, PATCH), "ratios": (RATIO,)})
    if is_toy:
        samples = samples.model_copy(update={"patch": (16, 16)})
    taught = [one for one in found if one.split is Split.TRAIN and is_thin(volume_of(one))]
    return Plan(
        recipe=recipe.model_copy(update={"samples": samples}),
        steps=(steps,),
        seed=SEED,
        precision="float32",
        sources=tuple(plans.planned(one, Use.THIN) for one in taught),
    )


# Judging.


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trunk:
    """A generator of the node's protocol around one of the networks."""

    name: str
    net: nn.Module
    digest: str = ""
    consistency: bool = True
    sharpness: float | None = None

    def at(self, sharpness: float) -> Self:
        """Always an error: there is one set of weights."""
        raise no_sharpness(self.name, sharpness)

    def generate(self, thick: Volume, grid: ThinGrid, *, device: str, progress: Progress | None = None) -> Generated:
        """cubic-dc plus the residuals of the whole stack, projected; on the CPU."""
        del device, progress
        scale, thickness = body_scale(thick.voxels), assumed_thickness_over_spacing(thick)
        with torch.inference_mode():
            found = residuals(self.net, torch.from_numpy(thick.voxels / np.float32(scale)), grid.ratio)
        thin = cubic_dc(thick.voxels, grid.ratio, thickness)
        thin += found.flatten(0, 1).numpy() * np.float32(scale)
        restore_measured(thin, thick.voxels, thickness)
        return Generated(thin=thin_volume(thin, thick, grid))


def rows_of(trunks: dict[str, nn.Module], found: Sequence[Source]) -> Iterator[dict[str, str | float]]:
    """A row for each validation subject and trunk."""
    methods = [method for method in baselines() if method.is_projected]
    for name, net in trunks.items():
        trunk = Trunk(name=name, net=net)
        methods.append(Method(name=name, generator=trunk, kind="trunk", digest=name, is_projected=True, is_model=True))
    selection = Selection(planes=(0,), ratios=(RATIO,), mismatches=False)
    for source in found:
        if source.split is not Split.VALIDATION:
            continue
        for case in cases_of(source, volume_of(source), selection):
            for row in judge(case, methods).rows:
                if row.method in trunks:
                    yield {
                        "bench": "sequence",
                        "volume": case.label,
                        "trunk": row.method,
                        "gain": round(row.gain, 3),
                        "haarpsi": round(row.scores.haarpsi, 4),
                        "z_detail": round(row.scores.z_detail, 3),
                    }


def main() -> None:
    """Train what is missing, judge, print."""
    options = _options()
    torch.set_num_threads(1)
    if not options.studies and not options.toy:
        print("sequence: nothing was trained, because --studies names no folder with volumes")
        return
    with tempfile.TemporaryDirectory() as toy:
        if options.toy:
            options.work, options.steps = Path(toy), 2
        found = phantoms(Path(toy)) if options.toy else read_inventory(OPEN_DATA, options.studies, note=print)
        compare(options, found)


def compare(options: argparse.Namespace, found: Sequence[Source]) -> None:
    """Trunk after trunk."""
    plan = plan_of(found, options.steps, is_toy=options.toy)
    material = load_material(plan, Split.TRAIN)
    trunks: dict[str, nn.Module] = {}
    for name in options.trunks:
        torch.manual_seed(SEED)
        net = (TOY_TRUNKS if options.toy else TRUNKS)[name]()
        facts: dict[str, str | float] = {
            "bench": "sequence",
            "trunk": name,
            "thousand_multiplications": round(operations(net), 1),
            "parameters": sum(parameter.numel() for parameter in net.parameters()),
        }
        state = train(net, plan, material, options.work / f"{name}-{options.steps}.safetensors")
        set_weights(net, state.tensors, "generator")
        trunks[name] = net.eval()
        _say(facts | {"steps": options.steps, "core_s_per_step": round(state.seconds / options.steps, 3)}, options)
    for row in rows_of(trunks, found):
        _say(row, options)


def _say(row: dict[str, str | float], options: argparse.Namespace) -> None:
    print(json.dumps(row) if options.json else ", ".join(f"{name} {value}" for name, value in row.items()), flush=True)


def phantoms(folder: Path) -> tuple[Source, ...]:
    """Two balls of waves in air: one to learn from, one to judge on."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, 56)] * 3, indexing="ij")
    waves: NDArray[np.float64] = 500 + 150 * (np.sin(9 * z + 4 * y) + np.sin(17 * y - 5 * x) + np.sin(25 * x + 8 * z))
    ball = np.where(z**2 + y**2 + x**2 < 0.95, waves, 0).clip(0, 1000).astype(np.float32)
    found = []
    for split in (Split.TRAIN, Split.VALIDATION):
        path = folder / f"{split}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(ball, np.eye(4)), path)  # type: ignore[no-untyped-call]
        found.append(Source(label=str(split), subject=str(split), split=split, licence="CC0", paths=(path,)))
    return tuple(found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=Path, nargs="+", default=[], help="folders with the inventory's volumes")
    parser.add_argument("--work", type=Path, default=WORK, help="where checkpoints are kept")
    parser.add_argument("--trunks", nargs="+", choices=list(TRUNKS), default=list(TRUNKS))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
