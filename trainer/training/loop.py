"""The training loop: stage after stage, everything scheduled by step.

A run is a function of its plan: samples depend on the step, the schedule on the step, and a checkpoint holds the
rest, so an interrupted run ends bit for bit where an uninterrupted one does (on one device, with one number of
threads). Processes of ``torch.distributed.run`` share each batch; the first of them writes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.optim.swa_utils import update_bn

from dicomnode import durable
from dicomnode.errors import InputError
from trainer import features
from trainer.data.sources import Split
from trainer.training import checkpoint, group, networks
from trainer.training import plan as plans
from trainer.training.batches import Batch, BatchShare, Material, draw_batch, load_material
from trainer.training.checkpoint import Checkpoint
from trainer.training.loader import batches, default_makers
from trainer.training.plan import Plan
from trainer.training.predictions import predict, truth_of
from trainer.training.recipe import learning_rate, stage_steps
from trainer.training.slices import SliceBatch
from trainer.training.trained_network import buffers, flatten, set_weights, unflatten
from trainer.training.training_step import StepReport, TrainingStep, new_training_step

LAST, BEST, JOURNAL = "last.safetensors", "best.safetensors", "metrics.jsonl"
CHECKPOINT_EVERY_S = 240  # wall time: what a kill may cost
LOG_EVERY_STEPS = 50
VALIDATE_EVERY_STEPS = 500
VALIDATION_BATCHES = 8  # drawn once, by the run's seed
RECALIBRATION_BATCHES = 64  # whose mean statistics the normalisations keep
TIMED_STEPS, TIMING_LIMIT_S = 30, 60  # of each stage, for --minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The progress of the run, as the journal keeps it and a progress bar shows it."""

    stage: str
    step: int  # of the stage, done
    steps: int
    loss: float  # mean since the last line, weighted terms together
    terms: dict[str, float]  # the same, term by term
    gradient_norm: float
    learning_rate: float
    images_per_s: float
    seconds_left: float  # of the stage
    discriminator_loss: float | None = None
    accuracy: float | None = None  # mean since the last line
    adversarial_gradient: float | None = None  # ÷ that of the other terms, at the last step
    adversarial_share: float | None = None  # of the loss
    validation_psnr: float | None = None  # dB, of the averaged weights, where it was looked at


Report = Callable[[Line], None]
Stop = Callable[[], bool]


def train(run: Path, *, report: Report, stop: Stop, device: torch.device, loaders: int | None = None) -> bool:
    """Go on with the run planned in a folder, from wherever it is; False where ``stop`` ended it early.

    ``loaders`` is how many processes make batches; None: as many as the device needs. Raises InputError for data that
    cannot be used or a batch that the processes cannot share.
    """
    plan = plans.read(run)
    share = _join_processes(plan)
    makers = default_makers(device, group.processes_here()) if loaders is None else loaders
    torch.manual_seed(plan.seed)
    net = networks.build(plan.recipe.network)
    if plan.begin_with is not None and networks.begin_with(net, plan.begin_with)[0] != plan.begin_digest:
        raise InputError(
            f"The model {plan.begin_with} is not the one that the run began with; nothing was trained.",
            hint="Put it back, or begin a new run.",
        )
    with group.left():
        for number, stage in enumerate(plan.recipe.stage):
            if plan.steps[number] == 0:
                continue
            folder = run / stage.name
            training_step = _new_training_step(plan, number, net, device)
            if not _run_stage(plan, number, training_step, folder, share, run, makers, report=report, stop=stop):
                return False
            net = networks.build(plan.recipe.network)
            set_weights(net, checkpoint.load(folder / LAST).tensors, "generator")
    return True


def steps_in(plan: Plan, minutes: float, device: torch.device) -> tuple[int, ...]:
    """Return the steps of each stage that take ``minutes`` together, after a short timing of each."""
    material = load_material(plan, Split.TRAIN)
    share, seconds = BatchShare(), []
    for number, stage in enumerate(plan.recipe.stage):
        torch.manual_seed(plan.seed)
        training_step = _new_training_step(plan, number, networks.build(plan.recipe.network), device)
        drawn = [draw_batch(material, plan, step, share) for step in range(TIMED_STEPS)]
        training_step.run(drawn[0], 0, stage.learning_rate, look_closer=False)
        began = time.monotonic()
        for step, batch in enumerate(drawn[1:], start=1):
            training_step.run(batch, step, stage.learning_rate, look_closer=False)
            if time.monotonic() - began > TIMING_LIMIT_S:
                break
        seconds.append((time.monotonic() - began) / step)
    shares = [stage.share for stage in plan.recipe.stage]
    per_share = sum(second * share for second, share in zip(seconds, shares, strict=True))
    return stage_steps(plan.recipe, max(round(minutes * 60 / per_share * sum(shares)), len(shares)))


def check_features(plan: Plan) -> None:
    """Raise InputError where features that a later stage needs are missing: better now than after the first stage."""
    for stage in plan.recipe.stage:
        if stage.features is not None:
            features.load(stage.features, file=plan.features_file, sha256=plan.features_sha256)


def _new_training_step(plan: Plan, number: int, net: nn.Module, device: torch.device) -> TrainingStep:
    return new_training_step(
        plan.recipe,
        plan.recipe.stage[number],
        net,
        seed=plan.seed,
        dtype=getattr(torch, plan.precision),
        device=device,
        features_file=plan.features_file,
        features_sha256=plan.features_sha256,
    )


def _run_stage(
    plan: Plan,
    number: int,
    training_step: TrainingStep,
    folder: Path,
    share: BatchShare,
    run: Path,
    makers: int,
    *,
    report: Report,
    stop: Stop,
) -> bool:
    """Run what is left of a stage; False: it was stopped before its end."""
    steps, begin = plan.steps[number], plan.first_step(number)
    done, best, spent = _resume(training_step, folder / LAST)
    if done >= steps:
        return True
    writes = share.rank == 0
    validation = _validation_batches(plan) if writes else []
    folder.mkdir(parents=True, exist_ok=True)
    meter = _Meter(training_step, steps, done, folder / JOURNAL if writes else None)
    began_at = saved_at = time.monotonic()

    def state(*, whole: bool = True) -> Checkpoint:
        return _state(training_step, done, best, spent + time.monotonic() - began_at, whole=whole)

    recalibrates = plan.recipe.recalibrate_batch_norm and bool(buffers(training_step.generator.net))
    extra = RECALIBRATION_BATCHES if recalibrates else 0
    with batches(run, share, start=begin + done, stop=begin + steps + extra, makers=makers) as drawn:
        for batch in islice(drawn, steps - done):
            is_logged = (done + 1) % LOG_EVERY_STEPS == 0 or done + 1 == steps
            rate = learning_rate(training_step.stage, done, steps)
            step_report = training_step.run(batch, done, rate, look_closer=is_logged)
            done += 1
            meter.add(batch, step_report)
            psnr = None
            if validation and (done % VALIDATE_EVERY_STEPS == 0 or done == steps):
                psnr = _validate(training_step, validation)
                if psnr > best:
                    best = psnr
                    checkpoint.save(state(whole=False), folder / BEST)
            if is_logged and writes:
                report(meter.line(done, rate, psnr))
            if done == steps:  # what is not yet recalibrated is not yet whole
                break
            stopped = group.is_asked_by_any(stop())
            if writes and (stopped or time.monotonic() - saved_at > CHECKPOINT_EVERY_S):
                checkpoint.save(state(), folder / LAST)
                saved_at = time.monotonic()
            if stopped:
                return False
        if recalibrates:
            _recalibrate(training_step, drawn)
    if writes:
        checkpoint.save(state(), folder / LAST)
    group.wait_for_all()
    return True


def _resume(training_step: TrainingStep, last: Path) -> tuple[int, float, float]:
    """Steps that are done, the best PSNR so far, seconds spent."""
    if not last.exists():
        return 0, -math.inf, 0.0
    saved = checkpoint.load(last)
    training_step.generator.restore("generator", saved.tensors, saved.step)
    if training_step.discriminator is not None:
        training_step.discriminator.restore("discriminator", saved.tensors, saved.step)
    return saved.step, saved.best_psnr, saved.seconds


def _state(training_step: TrainingStep, step: int, best: float, seconds: float, *, whole: bool) -> Checkpoint:
    """All that the stage needs to go on; not ``whole``: what a model is made of."""
    tensors = training_step.generator.state("generator")
    if not whole:
        tensors = {name: tensors[name] for name in ("generator.average", "generator.buffers")}
    elif training_step.discriminator is not None:
        tensors |= training_step.discriminator.state("discriminator")
    return Checkpoint(step=step, best_psnr=best, seconds=seconds, tensors=tensors)


def _validation_batches(plan: Plan) -> list[Batch]:
    """A few samples of the validation subjects, always the same ones; none where there are no such subjects."""
    if not plan.of_split(Split.VALIDATION):
        return []
    material = load_material(plan, Split.VALIDATION)
    if material == Material():
        return []
    return [draw_batch(material, plan, step, BatchShare()) for step in range(VALIDATION_BATCHES)]


def _validate(training_step: TrainingStep, validation: list[Batch]) -> float:
    """PSNR of the averaged weights over all validation samples, dB, range 1: of patches, so no figure to publish."""
    net, device = training_step.generator.averaged(), training_step.device
    with torch.no_grad():
        errors = [
            (predict(net, batch, torch.float32, device)[0] - truth_of(batch, device)).square().mean()
            for batch in validation
        ]
    return -10.0 * math.log10(float(torch.stack(errors).mean()))


def _recalibrate(training_step: TrainingStep, drawn: Iterator[Batch]) -> None:
    """Compute the statistics of the averaged weights over training samples, instead of those of the last few.

    See docs/paper.md#paper-code-recipes.
    """
    net = training_step.generator.averaged()
    inputs = (torch.from_numpy(batch.inputs) for batch in drawn if isinstance(batch, SliceBatch))
    update_bn(inputs, net, device=training_step.device)
    unflatten(flatten(buffers(net)), buffers(training_step.generator.net))


def _join_processes(plan: Plan) -> BatchShare:
    rank, world = group.join()
    if plan.recipe.samples.batch % world:
        raise InputError(
            f"{world} processes cannot share a batch of {plan.recipe.samples.batch}.",
            hint="Take a number of processes that divides samples.batch of the recipe.",
        )
    return BatchShare(rank=rank, world=world)


def local_device(device: torch.device) -> torch.device:
    """The device of this process: of the GPUs of one machine, each process takes its own."""
    if device.type != "cuda" or not distributed.is_torchelastic_launched():
        return device
    own = torch.device("cuda", distributed.get_node_local_rank(0))
    torch.cuda.set_device(own)
    return own


class _Meter:
    """Collects what steps tell, and makes a line of it now and then."""

    def __init__(self, training_step: TrainingStep, steps: int, done: int, journal: Path | None) -> None:
        self.training_step, self.steps, self.journal = training_step, steps, journal
        if journal is not None and journal.exists():  # lines of steps that a kill took back
            kept = [line for line in journal.read_text().splitlines() if _is_of_steps(line, done)]
            durable.write_file(journal, ["".join(line + "\n" for line in kept).encode()])
        self._clear()

    def _clear(self) -> None:
        self.reports: list[StepReport] = []
        self.images = 0
        self.began = time.monotonic()

    def add(self, batch: Batch, report: StepReport) -> None:
        self.reports.append(report)
        self.images += batch.images

    def line(self, step: int, rate: float, psnr: float | None) -> Line:
        """The means since the last line; also into the journal."""
        seconds = time.monotonic() - self.began
        terms = {name: _mean([report.terms[name] for report in self.reports]) for name in self.reports[0].terms}
        last = self.reports[-1]
        norms = [report.gradient_norm for report in self.reports if report.gradient_norm is not None]
        losses = [report.discriminator_loss for report in self.reports if report.discriminator_loss is not None]
        accuracies = [report.accuracy for report in self.reports if report.accuracy is not None]
        loss = sum(terms.values())
        line = Line(
            stage=self.training_step.stage.name,
            step=step,
            steps=self.steps,
            loss=loss,
            terms=terms,
            gradient_norm=_mean(norms),
            learning_rate=rate,
            images_per_s=self.images / seconds,
            seconds_left=(self.steps - step) * seconds / len(self.reports),
            discriminator_loss=_mean(losses) if losses else None,
            accuracy=sum(accuracies) / len(accuracies) if accuracies else None,
            adversarial_gradient=last.adversarial_gradient,
            adversarial_share=terms["adversarial"] / loss if "adversarial" in terms else None,
            validation_psnr=psnr,
        )
        if self.journal is not None:
            with self.journal.open("a") as journal:
                journal.write(json.dumps(asdict(line)) + "\n")
        self._clear()
        return line


def _is_of_steps(line: str, done: int) -> bool:
    """Is it a line of the steps that are done? The last one may be cut off where a kill came."""
    try:
        return bool(json.loads(line)["step"] <= done)
    except json.JSONDecodeError:
        return False


def _mean(values: list[Tensor]) -> float:
    return float(torch.stack(values).mean())
