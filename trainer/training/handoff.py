"""A stage of a run becomes a model directory that the node can serve; its card says where it comes from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from dicomnode import durable
from dicomnode.errors import InputError, ModelError
from dicomnode.generators import model_dir
from dicomnode.generators.card import Card, DataRow, MetricRow
from dicomnode.generators.kinds import NETWORKS
from dicomnode.imaging.frame import Frame, frames_of
from trainer.data.sources import Split
from trainer.judging.card_metrics import card_metrics
from trainer.judging.cases import Selection
from trainer.judging.evaluate import Request, evaluate, preferred_ratio
from trainer.judging.report import to_json
from trainer.training import checkpoint, networks
from trainer.training import plan as plans
from trainer.training.loop import LAST
from trainer.training.plan import PairKind, Plan, PlannedSource, Use
from trainer.training.recipe import Recipe
from trainer.training.trained_network import set_weights

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")  # as a card has it
RESTRICTED = "not for redistribution: the licence of the training data is not stated, or not a permissive one"
# Licences that do not restrict, as SPDX or people write them; whatever else an inventory says ("internal", CC BY-SA,
# CC BY-NC) restricts.
PERMISSIVE = re.compile(
    r"(?:MIT|ISC|CC0|PDDL|0BSD|BSD|Apache|CC[ -]BY|ODC[ -]By)(?:[ -]v?[0-9.]+(?:[ -]Clause)?)?", re.IGNORECASE
)

INTENDED_USE = (
    "Research and education: thinner slices of structural MR series that were taken in thick ones, for viewing "
    "reformats and for testing software. Not for diagnosis."
)
COMMON_FAILURES = (
    "What lies within a thick slice is a guess from its neighbours; only the mean over each thick slice is measured.",
    "Small findings lose contrast, by any method.",
    "On anatomy, contrast or scanners that are not in the data below it was not judged.",
    "Where the true slice profile is not the box of the header's thickness, the gain is smaller.",
    "Noise of the thick slices is kept: all thin slices of one thick slice carry the same noise.",
    "Slices that moved between excitations show steps at slab borders, as cubic-dc does.",
)
SLICE_FAILURE = (
    "It sees one slice at a time and nothing of its neighbours: it changes the look of the slices that cubic-dc made, "
    "and cannot thin a series by itself."
)
GAN_FAILURE = (
    "Its last stage was trained against a discriminator: fine texture may be invented, and PSNR is below that of the "
    "stage before, the more so the higher the sharpness."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The part of a model directory that an evaluation adds."""

    metrics: tuple[MetricRow, ...] = ()
    rows_json: str = "{}\n"  # all of it, for metrics.json


def model_name(recipe: Recipe, stage: int, name: str | None) -> str:
    """The name asked for or the recipe's, and which stage where it has several."""
    called = recipe.name if name is None else name
    return called if len(recipe.stage) == 1 else f"{called}-{recipe.stage[stage].name}"


def refuse_name(recipe: Recipe, name: str | None) -> None:
    """InputError where a model could not bear the name asked for: better now than when it is trained."""
    for stage in range(len(recipe.stage)):
        called = model_name(recipe, stage, name)
        if not NAME.fullmatch(called):
            raise InputError(
                f"A model cannot be called {called!r}; nothing was trained.",
                hint="Take 32 small letters, digits and hyphens at most, with the stage's name.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenModel:
    """A sealed directory."""

    name: str
    folder: Path
    digest: str


def refuse_sharpness(recipe: Recipe, sharpness: float | None) -> None:
    """InputError where no stage of the recipe makes a model with two sets of weights."""
    if sharpness is not None and not any(_may_have_two(recipe, stage) for stage in range(len(recipe.stage))):
        raise InputError(
            f"No stage of the recipe {recipe.name} makes a model with two sets of weights, so a sharpness has no "
            "effect; nothing was trained.",
            hint="Leave out --sharpness, or take a recipe such as thin-sharp.",
        )


def write_models(
    run: Path, *, name: str | None, licence: str | None, sharpness: float | None = None, report: Callable[[str], None]
) -> list[WrittenModel]:
    """The model of each stage of a finished run, in ``RUN/models/<name>``, judged on the validation subjects.

    An adversarial stage leaves a model with two sets of weights: those that it began with and its own. ``sharpness``
    is what its card says, 0 unless it is given. Judged at one plane and one ratio, as the node serves it, which takes
    minutes; ``dicomnode evaluate`` judges more.
    """
    plan = plans.read(run)
    written = []
    for stage in range(len(plan.recipe.stage)):
        if plan.steps[stage] == 0:
            continue
        called = model_name(plan.recipe, stage, name)
        folder = run / "models" / called
        _refuse_altered(folder)
        with durable.growing_folder(folder, replaces=True) as growing:
            wishes: _Wishes = {"name": called, "licence": licence, "sharpness": sharpness}
            write_model(run, stage, growing, **wishes, judged=Judged())
            judged = _judge(plan, growing, called, report)
            digest = write_model(run, stage, growing, **wishes, judged=judged)
        written.append(WrittenModel(name=called, folder=folder, digest=digest))
    return written


def _refuse_altered(folder: Path) -> None:
    """Raise InputError where the folder is there and holds no model as it was sealed: only such a one is replaced."""
    if not folder.exists():
        return
    try:
        model_dir.verify(folder)
    except (ModelError, OSError) as exc:
        raise InputError(
            f"{folder} is there and is no model as it was written; nothing was written there.",
            hint="Move it away, or give the model another name with --name.",
        ) from exc


def _judge(plan: Plan, folder: Path, called: str, report: Callable[[str], None]) -> Judged:
    """Judge the model; the result is empty where there is nobody to judge on."""
    held_out = tuple(source.source() for source in plan.of_split(Split.VALIDATION) if source.use is Use.THIN)
    if not held_out:
        report("No validation subject: the card holds no metrics.")
        return Judged()
    ratio = preferred_ratio(Selection(ratios=plan.recipe.samples.ratios))
    selection = Selection(planes=(0,), ratios=(ratio,), mismatches=False)
    evaluation, _ = evaluate(Request(sources=held_out, models=(folder,), selection=selection), report=report)
    return Judged(metrics=card_metrics(evaluation, called), rows_json=to_json(evaluation))


class _Wishes(TypedDict):
    name: str
    licence: str | None
    sharpness: float | None


def write_model(
    run: Path,
    stage: int,
    folder: Path,
    *,
    name: str,
    licence: str | None = None,
    sharpness: float | None = None,
    judged: Judged,
) -> str:
    """Write and seal the directory of a finished stage; returns the model's digest.

    Weights are half precision, statistics of normalisations single. InputError where the stage is not finished, or
    where ``folder`` holds something that is no model directory.
    """
    plan = plans.read(run)
    saved = checkpoint.load(run / plan.recipe.stage[stage].name / LAST)
    steps = plan.steps[stage]
    if saved.step < steps:
        raise InputError(
            f"{saved.step} of {steps} steps of {plan.recipe.stage[stage].name} are done; no model was made.",
            hint="Finish the run with --resume.",
        )
    net = networks.build(plan.recipe.network)
    set_weights(net, saved.tensors, "generator")
    fidelity = _began_with(run, plan, stage) if _may_have_two(plan.recipe, stage) else None
    dial = None if fidelity is None else sharpness or 0.0
    card = _card(plan, stage, name, licence, dial, saved.seconds, judged)
    if folder.exists() and any(path.name not in _FILES for path in folder.iterdir()):
        raise InputError(f"{folder} holds other files; no model was written.", hint="Name a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    durable.write_file(folder / model_dir.WEIGHTS_FILE, [safetensors_bytes(_half(fidelity or net))])
    if fidelity is not None:
        durable.write_file(folder / model_dir.ADVERSARIAL_FILE, [safetensors_bytes(_half(net))])
    durable.write_file(folder / model_dir.METRICS_FILE, [judged.rows_json.encode()])
    model_dir.write_card(folder, card)
    return model_dir.seal(folder)


_FILES = frozenset(
    {
        model_dir.WEIGHTS_FILE,
        model_dir.ADVERSARIAL_FILE,
        model_dir.METRICS_FILE,
        model_dir.CARD_FILE,
        model_dir.SUMS_FILE,
    }
)


def _may_have_two(recipe: Recipe, stage: int) -> bool:
    """Is it an adversarial stage, of a network whose weights may be interpolated? Statistics may not."""
    is_adversarial = recipe.stage[stage].discriminator is not None
    return is_adversarial and not NETWORKS[recipe.network.kind].has_batch_norm


def _began_with(run: Path, plan: Plan, stage: int) -> nn.Module | None:
    """The network as the stage found it: of the stage before it, or of the model begun with; None: at random."""
    net = networks.build(plan.recipe.network)
    before = [number for number in range(stage) if plan.steps[number]]
    if before:
        saved = checkpoint.load(run / plan.recipe.stage[before[-1]].name / LAST)
        set_weights(net, saved.tensors, "generator")
        return net
    if plan.begin_with is None:
        return None
    digest, _ = networks.begin_with(net, plan.begin_with)
    if digest != plan.begin_digest:
        raise InputError(
            f"The model {plan.begin_with} is not the one that the run began with; no model was written.",
            hint="Put it back, and give the run again with --resume.",
        )
    return net


def _half(net: nn.Module) -> dict[str, Tensor]:
    """All weights in half precision: rounding them costs less than 0.001 dB, and halves what is shipped."""
    parameters = {name for name, _ in net.named_parameters()}
    state = {
        name: tensor.detach().to(torch.float16 if name in parameters else tensor.dtype).contiguous()
        for name, tensor in net.state_dict().items()
    }
    overflown = [name for name, tensor in state.items() if not torch.isfinite(tensor.float()).all()]
    if overflown:
        raise InputError(
            f"The weights {overflown[0]} are not numbers in half precision; no model was written.",
            hint="The training diverged: look at metrics.jsonl, and take a smaller learning rate.",
        )
    return state


def _card(
    plan: Plan, stage: int, name: str, licence: str | None, sharpness: float | None, seconds: float, judged: Judged
) -> Card:
    recipe = plan.recipe
    return Card(
        name=name,
        kind=recipe.network.kind,
        ratios=(min(recipe.samples.ratios), max(recipe.samples.ratios)),
        sharpness=sharpness,
        licence=licence or (RESTRICTED if _is_restricted(plan) else "MIT"),
        intended_use=INTENDED_USE,
        failure_modes=tuple(_failure_modes(plan, stage)),
        recipe=recipe.name,
        training=_training_words(plan, stage, seconds),
        parameters=networks.parameters_of(recipe.network),
        data=tuple(_data_rows(plan)),
        metrics=judged.metrics,
    )


def _failure_modes(plan: Plan, stage: int) -> Iterable[str]:
    subjects = {source.subject for source in plan.of_split(Split.TRAIN)}
    if NETWORKS[plan.recipe.network.kind].is_of_slices:
        yield SLICE_FAILURE
    if plan.recipe.stage[stage].discriminator is not None:
        yield GAN_FAILURE
    differing = sorted({words for pair in plan.real for words in pair.contrast})
    if differing:
        yield f"Its thick and thin slices differ in contrast, which it learned to translate: {'; '.join(differing)}."
    yield from COMMON_FAILURES
    yield f"Trained on {len(subjects)} {'person' if len(subjects) == 1 else 'people'}."


def _training_words(plan: Plan, stage: int, seconds: float) -> str:
    stages = ", ".join(
        f"{plan.steps[k]} steps of stage {plan.recipe.stage[k].name}" for k in range(stage + 1) if plan.steps[k]
    )
    if plan.begin_with is not None:
        assert plan.begin_digest is not None
        stages = f"begun with the model of digest {plan.begin_digest[:12]}; {stages}"
    return (
        f"{stages}; batch {plan.recipe.samples.batch}, seed {plan.seed}, {plan.precision}, {plan.pairs} pairs; "
        f"the last stage took {seconds / 60:.0f} minutes."
    )


def _is_restricted(plan: Plan) -> bool:
    """True unless every licence of the training data is known to ask for no more than to be named."""
    licences = [source.licence for source in plan.of_split(Split.TRAIN)] + [row.licence for row in plan.begin_data]
    return not all(PERMISSIVE.fullmatch(licence.strip()) for licence in licences)


def _data_rows(plan: Plan) -> Iterable[DataRow]:
    splits: Sequence[tuple[Split, Literal["train", "validation"]]] = (
        (Split.TRAIN, "train"),
        (Split.VALIDATION, "validation"),
    )
    for split, word in splits:
        for source in plan.of_split(split):
            strength, sequence = _acquisition(source)
            yield DataRow(
                volume=source.label,
                subject=source.subject,
                split=word,
                licence=source.licence,
                pairs=str(PairKind.SIMULATED if plan.recipe.samples.design == "strips" else plan.pairs),
                field_strength_t=strength,
                sequence=sequence,
            )
    own = {(source.label, source.subject) for source in plan.sources}
    for row in plan.begin_data:
        if (row.volume, row.subject) not in own:
            yield row.model_copy(update={"subject": f"{row.subject}, by the model begun with"})


def _acquisition(source: PlannedSource) -> tuple[float | None, str]:
    """(field strength in tesla, sequence in the header's words), of what the first header says."""
    first = None if source.source().is_nifti else frames_of(source.paths[0])[0]
    if not isinstance(first, Frame):
        return None, ""
    header = first.header
    words = [header.text(keyword).replace("\\", "/") for keyword in ("MRAcquisitionType", "ScanningSequence")]
    try:
        strength = float(header.text("MagneticFieldStrength"))
    except ValueError:
        return None, ", ".join(filter(None, words))
    return strength, ", ".join(filter(None, words))
