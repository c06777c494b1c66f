"""This bench lays ``thin`` side by side with what else derives thin slices: same volumes, mask and metrics, in one run.

    python bench/quality.py --studies DATA            every peer on two validation heads
    python bench/quality.py --studies DATA --budget 4 networks train four times as long
    python bench/quality.py --studies DATA --volumes philips_mprage --peers eclare thin
    python bench/quality.py --toy                     a phantom and few peers, to see that it still runs
    python bench/quality.py … --json                  a JSON object a line: each row, then what the bar was held against

A volume of the inventory (trainer/data/open_data.toml) is cropped to its middle pixels and averaged into thick slices
along its first axis. Each peer gets the thick stack as a NIfTI file and leaves a thin one, in a process of its own with
one thread; what is foreign runs in a virtual environment of its own, which is made here with pinned versions
(bench/quality_eclare.txt), and is never imported. All results are judged by ``trainer.judging`` alone, with baselines
that are computed beside them. Bar: ``thin`` at least 0.6 dB above ECLARE on philips_mprage.

Everything is kept in --work: a result that is there is not made again, so a run that was broken off goes on, and a peer
or a volume can be added later. What failed is a row with its reason, and is tried again only if its .json is removed.

Networks that are trained get fixed numbers of steps or patches, which on one core with AVX2 take
about as long for each; the table says how long they took. ECLARE learns anew from each series and from nothing else;
SRCNN and VDSR learn once, from the training volumes of the inventory that ``thin`` learned from, too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # from a checkout that is not installed, too

from dicomnode.generators.base import Generated, Progress, no_sharpness, thin_volume
from dicomnode.generators.infer import restore_measured
from dicomnode.imaging.picture import Cut, Panel, draw_panels, png_bytes
from dicomnode.imaging.profile import ThinGrid, assumed_thickness_over_spacing
from dicomnode.imaging.volume import Volume
from trainer import features
from trainer.data.inventory import OPEN_DATA, read_inventory
from trainer.data.sources import Source, Split
from trainer.data.volumes import volume_of
from trainer.judging.cases import Case, is_thin, prepare
from trainer.judging.judge import Judged, judge
from trainer.judging.methods import Method, baselines, load_methods, thinned
from trainer.training import handoff, loop
from trainer.training import plan as plans
from trainer.training import recipe as recipes
from trainer.training.plan import Plan, Use

FloatArray = NDArray[np.float32]

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "quality"  # git ignores it
VOLUMES = ("philips_mprage", "m2307_t2")  # validation heads that no peer here has been trained on
PLANE, RATIO = 0, 4
MIDDLE, TOY_MIDDLE = 64, 24  # pixels each way: ECLARE's network takes 60 MFLOP for each thick voxel
FEATURES = "vgg19:relu3_4"
OURS = "thin"
BAR_DB, BAR_VOLUME = 0.6, "philips_mprage"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

SRCNN_STEPS, VDSR_STEPS = 4500, 960
ECLARE_PATCHES, ECLARE_BATCH = 2400, 8
ECLARE, REQUIREMENTS = "eclare", Path(__file__).with_name("quality_eclare.txt")

# Other peers, and why they have no figures; docs/peers.md says more.
ABSENT = {
    "unires": "not run: the package index has neither it nor nitorch, which it needs",
    "smore": "not run: the package of this name is another program; ECLARE is the later method of the same group",
    "synthsr": "not run: the package index does not have it, and its weights come by download",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A method to compare with: a function that derives thin slices in a process of its own, and one that trains it."""

    name: str
    derive: Callable[[Job], None]
    train: Callable[[Runs], None] | None = None  # once for all volumes


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One peer on one volume."""

    peer: str
    thick: Path  # NIfTI, slices along its first axis
    result: Path  # npz: method → (n·ratio, H, W)
    runs: Runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """The setting of the processes that are started: their folder, studies and budget, and the log of their output."""

    work: Path
    studies: tuple[Path, ...]
    budget: float
    log: Path

    def start(self, *command: str | Path) -> None:
        """Run to the end; CalledProcessError with all output in the log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            subprocess.run(
                [str(word) for word in command],
                env=dict(os.environ) | ONE_THREAD,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=True,
            )

    def this_script(self, *options: str | Path) -> None:
        """Run one of the functions of this file that run in a process of their own."""
        self.start(sys.executable, Path(__file__).resolve(), *options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of a peer's process: its processor time, or the reason why there is no result."""

    peer: str
    volume: str
    reason: str = ""  # why there is no result
    core_s: float = 0.0  # processor time for this volume
    training_core_s: float = 0.0  # … of the training that serves all volumes


# The peers.


def shipped(name: str) -> Peer:
    """Return the peer that is a model of the package."""

    def derive(job: Job) -> None:
        job.runs.this_script("--derive", name, "--thick", job.thick, "--result", job.result)

    return Peer(name=name, derive=derive)


def trained(name: str, steps: int) -> Peer:
    """Return the peer that is a network, trained here by the recipe of that name, from scratch."""

    def folder(runs: Runs) -> Path:
        return runs.work / "trained" / f"{name}-{_scaled(steps, runs)}"

    def train(runs: Runs) -> None:
        studies = [word for path in runs.studies for word in ("--studies", path)]
        runs.this_script("--train", name, "--steps", str(_scaled(steps, runs)), *studies, "--result", folder(runs))

    def derive(job: Job) -> None:
        model = folder(job.runs) / "models" / name
        job.runs.this_script("--derive", model, "--thick", job.thick, "--result", job.result)

    return Peer(name=name, derive=derive, train=train)


def _scaled(count: int, runs: Runs) -> int:
    """Return the number of steps or patches that the budget gives."""
    return max(round(count * runs.budget), 1)


def derive_by_eclare(job: Job) -> None:
    """Train on the thick stack and thin it, by the program that the package installs.

    It is given the true profile, a box as wide as the spacing in units of its pixels, and need not estimate it.
    """
    programs = job.runs.work / "environments" / ECLARE / "bin"
    zooms = nibabel.load(job.thick).header.get_zooms()  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        job.runs.start(
            programs / "run-eclare",
            *("--in-fpath", job.thick, "--out-dir", folder),
            *("--relative-slice-profile-type", "rect", "--relative-slice-thickness", f"{zooms[0] / min(zooms[1:]):g}"),
            *("--n-patches", str(_scaled(ECLARE_PATCHES, job.runs)), "--batch-size", str(ECLARE_BATCH)),
        )
        (thin,) = Path(folder).glob("*_eclare.nii.gz")
        voxels = np.asarray(nibabel.load(thin).dataobj, np.float32)  # type: ignore[attr-defined]
    _write_result(job.result, {ECLARE: voxels})


def install_eclare(runs: Runs) -> None:
    """Make the virtual environment; one that is whole is left as it is."""
    environment = runs.work / "environments" / ECLARE
    if not (environment / "bin" / "run-eclare").exists():
        runs.start(sys.executable, "-m", "venv", "--clear", environment)
        runs.start(environment / "bin" / "pip", "install", "--requirement", REQUIREMENTS)


PEERS = {
    peer.name: peer
    for peer in (
        shipped(OURS),
        Peer(name=ECLARE, derive=derive_by_eclare),
        trained("srcnn", SRCNN_STEPS),
        trained("vdsr", VDSR_STEPS),
        shipped("paper-model1-srresnet"),
        shipped("paper-model1-srgan"),
    )
}
TOY_PEERS = (OURS, "unires")
DRAWN = ("cubic-dc", ECLARE, "srcnn", "vdsr", "paper-model1-srgan", OURS)


# Running them.


def outcomes(names: Sequence[str], case: Case, runs: Runs) -> Iterator[Outcome]:
    """Yield the outcome of each peer on one volume; what is there from an earlier run is read, not made."""
    folder = runs.work / case.label
    folder.mkdir(parents=True, exist_ok=True)
    thick = folder / "thick.nii.gz"
    if not thick.exists():
        _write_thick(case, thick)
    for name in names:
        kept = folder / f"{name}.json"
        if not kept.exists():
            own = replace(runs, log=folder / f"{name}.log")
            job = Job(peer=name, thick=thick, result=folder / f"{name}.npz", runs=own)
            outcome = _run(job, case)
            kept.write_text(json.dumps(asdict(outcome)))
        yield Outcome(**json.loads(kept.read_text()))


def _run(job: Job, case: Case) -> Outcome:
    nothing = Outcome(peer=job.peer, volume=case.label)
    if job.peer not in PEERS:
        return replace(nothing, reason=ABSENT[job.peer])
    peer = PEERS[job.peer]
    try:
        if peer.name == ECLARE:
            install_eclare(job.runs)
        training = _trained_once(peer, job.runs)
        before = _core_s()
        peer.derive(job)
        outcome = replace(nothing, core_s=_core_s() - before, training_core_s=training)
        shapes = {name: image.shape for name, image in read_result(job.result).items()}
    except (OSError, subprocess.CalledProcessError) as error:
        return replace(nothing, reason=f"failed: {_last_line(job.runs.log) or type(error).__name__}")
    if any(shape != case.truth.shape for shape in shapes.values()):
        return replace(outcome, reason=f"failed: it left {shapes}, and the truth has {case.truth.shape}")
    return outcome


def _trained_once(peer: Peer, runs: Runs) -> float:
    """Return the seconds of processor time that the training of a peer took, now or in an earlier run.

    Of a training that was broken off, those of its last part.
    """
    if peer.train is None:
        return 0.0
    kept = runs.work / "trained" / f"{peer.name}-{runs.budget:g}.json"
    if not kept.exists():
        before = _core_s()
        peer.train(runs)
        kept.write_text(json.dumps(_core_s() - before))
    return float(json.loads(kept.read_text()))


def _core_s() -> float:
    """Return the processor time of the processes that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _write_thick(case: Case, path: Path) -> None:
    thick = case.thick_volume()
    zooms = (thick.slice_spacing_mm, thick.row_spacing_mm, thick.column_spacing_mm)
    nibabel.save(nibabel.Nifti1Image(thick.voxels, np.diag([*zooms, 1.0])), path)  # type: ignore[no-untyped-call]


def _read_thick(path: Path) -> Volume:
    image = nibabel.load(path)
    across, rows, columns = (float(zoom) for zoom in image.header.get_zooms())  # type: ignore[attr-defined]
    return Volume(
        voxels=np.asarray(image.dataobj, np.float32),  # type: ignore[attr-defined]
        origin_mm=np.zeros(3),
        row_direction=np.array([1.0, 0.0, 0.0]),
        column_direction=np.array([0.0, 1.0, 0.0]),
        slice_step_mm=np.array([0.0, 0.0, across]),
        row_spacing_mm=rows,
        column_spacing_mm=columns,
        slice_thickness_mm=across,
    )


def _write_result(path: Path, images: dict[str, FloatArray]) -> None:
    whole = path.with_suffix(".part")
    with whole.open("wb") as file:
        np.savez(file, **images)  # type: ignore[arg-type]
    whole.rename(path)


def read_result(path: Path) -> dict[str, FloatArray]:
    """Read the derived stacks of a peer, by method, from the file that ``_write_result`` wrote."""
    with np.load(path) as images:
        return {name: images[name] for name in images.files}


# Functions that run in a process of their own.


def derive_here(model: str, thick: Path, result: Path) -> None:
    """Derive by a model of ours, or one trained here: as the node serves it and, where that differs, as published."""
    torch.set_num_threads(1)
    methods = [method for method in load_methods([model]) if method.is_model]
    volume = _read_thick(thick)
    images = thinned(methods, volume, RATIO, device="cpu")
    _write_result(result, {method.name: image for method, image in images})


def train_here(recipe: str, steps: int, studies: Sequence[Path], run: Path) -> None:
    """Train on the training volumes of the inventory; a run that was broken off goes on."""
    torch.set_num_threads(1)
    if not (run / plans.PLAN_FILE).exists():
        found = read_inventory(OPEN_DATA, studies, note=print)
        plan = Plan(
            recipe=recipes.load(recipe),
            steps=(steps,),
            seed=1,
            precision="float32",
            sources=tuple(
                plans.planned(one, Use.THIN) for one in found if one.split is Split.TRAIN and is_thin(volume_of(one))
            ),
        )
        run.mkdir(parents=True, exist_ok=True)
        plans.write(plan, run)
    loop.train(run, report=print, stop=lambda: False, device=torch.device("cpu"))
    handoff.write_models(run, name=None, licence=None, report=print)


# Judging.


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A generator whose thin stack is there already, for ``trainer.judging`` to judge."""

    name: str
    image: FloatArray
    digest: str = ""
    consistency: bool = False
    sharpness: float | None = None

    def at(self, sharpness: float) -> Self:
        """Raise the error for a sharpness: there is one stack."""
        raise no_sharpness(self.name, sharpness)

    def generate(self, thick: Volume, grid: ThinGrid, *, device: str, progress: Progress | None = None) -> Generated:
        """Return the stack."""
        del device, progress
        return Generated(thin=thin_volume(self.image, thick, grid))


def judge_all(case: Case, found: Sequence[Outcome], folder: Path, seen_by: features.Features | None) -> Judged:
    """Judge the baselines and every result; that of ECLARE also with the averages that it lost put back."""
    methods = list(baselines())
    for outcome in found:
        if outcome.reason:
            continue
        images = read_result(folder / f"{outcome.peer}.npz")
        if outcome.peer == ECLARE:
            thick = case.thick_volume()
            images[f"{ECLARE}, projected"] = projected = images[ECLARE].copy()
            restore_measured(projected, thick.voxels, assumed_thickness_over_spacing(thick))
        for name, image in images.items():
            stored = Stored(name=name, image=image)
            methods.append(Method(name=name, generator=stored, kind="peer", digest=name, is_model=True))
    return judge(case, methods, features=seen_by, keep_results=True)


def rows_of(judged: Judged, found: Sequence[Outcome]) -> Iterator[dict[str, str | float | None]]:
    """Yield a row for each method, and one for each peer that has no result."""
    peers = {outcome.peer: outcome for outcome in found}
    for row in judged.rows:
        own = peers.get(row.method.partition(",")[0], Outcome(peer=row.method, volume=judged.case.label))
        yield {
            "bench": "quality",
            "volume": judged.case.label,
            "method": row.method,
            "psnr": round(row.scores.psnr, 2),
            "gain": round(row.gain, 2),
            "worst_phase_psnr": round(row.scores.worst_phase_psnr, 2),
            "ssim": round(row.scores.ssim, 4),
            "haarpsi": round(row.scores.haarpsi, 4),
            "feature_distance": None if row.scores.feature_distance is None else round(row.scores.feature_distance, 4),
            "z_detail": round(row.scores.z_detail, 3),
            "residual": round(row.scores.residual, 3),
            "training_core_min": round(own.training_core_s / 60, 1),
            "core_min": round(own.core_s / 60, 2),
        }
    for outcome in found:
        if outcome.reason:
            yield {
                "bench": "quality", "volume": outcome.volume, "method": outcome.peer, "reason": outcome.reason,
            }  # fmt: skip


def summary(rows: Sequence[dict[str, str | float | None]]) -> dict[str, str | dict[str, float]]:
    """Return the lead of ``thin`` over ECLARE in dB on each volume that both were run on, and the bar for it."""
    gains: dict[tuple[str, str], float] = {}
    for row in rows:
        if isinstance(gain := row.get("gain"), float):
            gains[str(row["volume"]), str(row["method"])] = gain
    ahead = {
        volume: round(gain - gains[volume, ECLARE], 2)
        for (volume, method), gain in gains.items()
        if method == OURS and (volume, ECLARE) in gains
    }
    return {"bench": "quality", "ahead_of_eclare_db": ahead, "bar": f">= {BAR_DB:g} dB on {BAR_VOLUME}"}


def table(rows: Sequence[dict[str, str | float | None]]) -> str:
    """Return the rows of one volume in Markdown."""
    lines = [
        "| method | PSNR, dB | gain, dB | SSIM | HaarPSI | feature distance | z-detail | residual, σ | core-minutes: "
        "training; this series |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "reason" in row:
            lines.append(f"| {row['method']} | {row['reason']} | | | | | | | |")
            continue
        distance = "–" if row["feature_distance"] is None else f"{row['feature_distance']:.4f}"
        lines.append(
            f"| {row['method']} | {row['psnr']:.2f} | {row['gain']:+.2f} | {row['ssim']:.4f} | {row['haarpsi']:.4f} | "
            f"{distance} | {row['z_detail']:.3f} | {row['residual']:.3f} | {row['training_core_min']}; "
            f"{row['core_min']} |"
        )
    return "\n".join(lines)


def draw(judged: Judged, folder: Path) -> None:
    """Draw ``peers-<volume>.png``: a cut across the slices of each result, between what was received and the truth."""
    case = judged.case
    panels = [Panel(title="received", volume=case.placed(judged.thick.voxels), shows_slices=True)]
    panels += [
        Panel(title=row.method, volume=case.placed(judged.results[row.method]), caption=f"{row.scores.psnr:.2f} dB")
        for row in judged.rows
        if row.method in DRAWN
    ]
    panels.append(Panel(title="truth", volume=case.placed(case.truth)))
    picture = draw_panels(panels, cut=Cut.ROW, footer=f"{case.name}, the middle {case.truth.shape[1]} pixels each way.")
    (folder / f"peers-{case.label}.png").write_bytes(png_bytes(picture))


# The volumes.


def middle_of(case: Case, pixels: int) -> Case:
    """Crop a case to its middle rows and columns, with all slices."""
    begin = [max((extent - pixels) // 2, 0) for extent in case.truth.shape[1:]]
    rows, columns = (slice(first, first + pixels) for first in begin)
    truth = np.ascontiguousarray(case.truth[:, rows, columns])
    return replace(case, truth=truth, mask=np.ascontiguousarray(case.mask[:, rows, columns]))


def cases_of(options: argparse.Namespace) -> Iterator[Case]:
    """Yield the volumes that were asked for, cropped."""
    if options.toy:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "phantom.nii.gz"
            nibabel.save(nibabel.Nifti1Image(_phantom(), np.eye(4)), path)  # type: ignore[no-untyped-call]
            phantom = Source(label="phantom", subject="phantom", split=Split.VALIDATION, licence="CC0", paths=(path,))
            yield middle_of(prepare(phantom, volume_of(phantom), plane=PLANE, ratio=RATIO), TOY_MIDDLE)
        return
    found = {one.label: one for one in read_inventory(OPEN_DATA, options.studies, note=print)}
    for label in options.volumes:
        assert found[label].split is not Split.TRAIN, label
        yield middle_of(prepare(found[label], volume_of(found[label]), plane=PLANE, ratio=RATIO), options.middle)


def _phantom() -> FloatArray:
    """Return a ball of waves in air."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, 40)] * 3, indexing="ij")
    waves = 500 + 150 * (np.sin(9 * z + 4 * y) + np.sin(17 * y - 5 * x) + np.sin(25 * x + 8 * z))
    return np.where(z**2 + y**2 + x**2 < 0.95, waves, 0).clip(0, 1000).astype(np.float32)


def main() -> None:
    """Run what is missing, judge all of it, print."""
    options = _options()
    if options.derive:
        derive_here(options.derive, options.thick, options.result)
        return
    if options.train:
        train_here(options.train, options.steps, options.studies, options.result)
        return
    if not options.studies and not options.toy:
        print("quality: nothing was compared, because --studies names no folder with volumes")
        return
    with tempfile.TemporaryDirectory() as toy:
        runs = Runs(
            work=Path(toy) if options.toy else options.work,
            studies=tuple(options.studies),
            budget=options.budget,
            log=Path(toy) / "log",
        )
        compare(options, runs)


def compare(options: argparse.Namespace, runs: Runs) -> None:
    """Compare on one volume after the other, and print the rows and the summary."""
    seen_by = None
    if options.features_file is not None:
        seen_by = features.load(FEATURES, file=options.features_file, sha256=options.features_sha256)
    said = []
    for case in cases_of(options):
        found = list(outcomes(options.peers or (TOY_PEERS if options.toy else (*PEERS, *ABSENT)), case, runs))
        judged = judge_all(case, found, runs.work / case.label, seen_by)
        if options.pictures is not None:
            draw(judged, options.pictures)
        rows = list(rows_of(judged, found))
        said += rows
        print("\n".join(map(json.dumps, rows)) if options.json else f"{case.name}:\n\n{table(rows)}\n", flush=True)
    print(json.dumps(summary(said)) if options.json else _sentence(summary(said)))


def _sentence(result: dict[str, str | dict[str, float]]) -> str:
    ahead = result["ahead_of_eclare_db"]
    assert isinstance(ahead, dict)
    leads = " and ".join(f"{lead} dB ahead of ECLARE on {volume}" for volume, lead in ahead.items())
    return f"thin is {leads or 'not compared with ECLARE'} (bar {result['bar']})"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=Path, nargs="+", default=[], help="folders with the inventory's volumes")
    parser.add_argument("--work", type=Path, default=WORK, help="where environments, networks and results are kept")
    parser.add_argument("--volumes", nargs="+", default=VOLUMES, help="labels of the inventory")
    parser.add_argument("--peers", nargs="+", choices=[*PEERS, *ABSENT], help="all if left out")
    parser.add_argument("--budget", type=float, default=1.0, help="times the steps and patches")
    parser.add_argument("--middle", type=int, default=MIDDLE, help="pixels each way")
    parser.add_argument("--features-file", type=Path, help="weights of VGG19, for the feature distance")
    parser.add_argument("--features-sha256", help="digest of that file")
    parser.add_argument("--pictures", type=Path, help="folder for a picture of each volume")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--json", action="store_true")
    # The options of the processes that this one starts:
    parser.add_argument("--derive", help=argparse.SUPPRESS)
    parser.add_argument("--train", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--thick", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
