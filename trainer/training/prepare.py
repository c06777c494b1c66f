"""A request becomes the plan of a run, or the table of a dry run; nothing is written here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dicomnode.errors import InputError
from dicomnode.generators.device import serving_dtype
from trainer.data.inventory import read_inventory
from trainer.data.leakage import check_leakage
from trainer.data.pairs import Pairing
from trainer.data.partners import PairTable, find_pairs
from trainer.data.scan import scan
from trainer.data.series import Role, Series, describe
from trainer.data.sources import UNSTATED_LICENCE, Source, Split, split_subjects
from trainer.data.survey import Survey, maybe_one_person, summary_line, survey
from trainer.training import loop, networks, recipe
from trainer.training.plan import PairKind, Plan, PlannedPair, Use, planned
from trainer.training.recipe import Recipe
from trainer.training.recipe_tables import Input


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request for a training."""

    studies: tuple[Path, ...]
    inventory: Path | None = None
    validate: tuple[Path, ...] = ()  # folders of studies that are only judged on
    recipe: str = "thin"
    steps: tuple[int, ...] = ()  # of all stages together, or one number for each; () takes the recipe's
    minutes: float | None = None  # instead
    seed: int = 1
    pairs: PairKind = PairKind.SIMULATED
    pairing: Pairing = Pairing.MONOTONE
    allow_contrast: bool = False
    in_plane: bool = False  # thick stacks give their rows and columns as thin slices
    begin_with: str | None = None  # a model's name or folder
    features: str | None = None  # instead of the recipe's
    features_file: Path | None = None
    features_sha256: str | None = None


def dry_run(request: Request) -> Survey:
    """Survey what there is, what would be paired, and why the rest would not; InputError for a recipe that is none."""
    made = _recipe(request)
    _steps(made, request.steps)
    notes: list[str] = []
    found = _find(request, notes.append)
    table = _pairs(request, found)
    return survey(_split(request, found, _uses(request, found, table)), table, notes=notes)


def prepare(request: Request, device: torch.device, *, report: Callable[[str], None] = lambda _: None) -> Plan:
    """Make the plan. InputError where the studies hold nothing to train on, or one person in two splits.

    ``report`` is called with a line for each group of subjects that may be one person, and with one line on what is
    learned from and what is left out.
    """
    made = _recipe(request)
    notes: list[str] = []
    found = _find(request, notes.append)
    table = _pairs(request, found) if request.pairs is not PairKind.SIMULATED else PairTable(pairs=(), rejections=())
    uses = _uses(request, found, table)
    found = _split(request, found, uses)
    chosen = [series.source for series in found if series.source.label in uses]
    if not any(source.split is Split.TRAIN for source in chosen):
        raise _nothing_to_train_on(request, found, table)
    for sentence in maybe_one_person(found):
        report(sentence)
    report(summary_line(found, uses, notes))
    if any(source.split is Split.VALIDATION for source in chosen):
        check_leakage(chosen)
    plan = Plan(
        recipe=made,
        steps=_steps(made, request.steps),
        seed=request.seed,
        precision="bfloat16" if serving_dtype(device) is torch.bfloat16 else "float32",
        sources=tuple(planned(source, uses[source.label]) for source in chosen),
        pairs=request.pairs,
        real=tuple(
            PlannedPair(
                thick=pair.thick.source.label,
                thin=pair.thin.source.label,
                matches=pair.matches,
                registration=pair.registration,
                contrast=pair.contrast,
            )
            for pair in table.pairs
        ),
        **_beginning(request, made, chosen),
        features_file=None if request.features_file is None else request.features_file.resolve(),
        features_sha256=request.features_sha256,
    )
    loop.check_features(plan)
    if request.minutes is not None:
        plan = plan.model_copy(update={"steps": loop.steps_in(plan, request.minutes, device)})
    return plan


def _beginning(request: Request, made: Recipe, chosen: Sequence[Source]) -> dict[str, Any]:
    """The plan's fields on the model whose weights are begun with; InputError where its subjects are judged on here."""
    if request.begin_with is None:
        return {}
    is_folder = Path(request.begin_with).is_dir()  # by its whole path: the run may go on from elsewhere
    model = str(Path(request.begin_with).resolve()) if is_folder else request.begin_with
    digest, card = networks.begin_with(networks.build(made.network), model)
    learned = tuple(row for row in card.data if row.split == "train")
    # Words that a scan gave mean nothing beyond it.
    judged = {s.subject for s in chosen if s.split is Split.VALIDATION and s.licence != UNSTATED_LICENCE}
    if leaked := sorted(judged & {row.subject for row in learned}):
        raise InputError(
            f"The model {card.name} was trained on {leaked[0]}, who is to be judged on here.",
            hint="Begin with another model, or take the subject out of validation.",
        )
    return {"begin_with": model, "begin_digest": digest, "begin_data": learned}


def _find(request: Request, note: Callable[[str], None]) -> tuple[Series, ...]:
    """Every series, of the inventory or of the folders named, with the split that these state."""
    if request.inventory is None:
        return scan(request.studies, validate=request.validate, note=note)
    if request.validate:
        raise InputError("An inventory states the splits already.", hint="Leave out --validate or --inventory.")
    listed = read_inventory(request.inventory, request.studies, note=note)
    return tuple(replace(describe(source), source=source) for source in listed)


def _split(request: Request, found: Sequence[Series], uses: Collection[str]) -> tuple[Series, ...]:
    """Draw the splits by the seed, whole subjects among those who are of use; an inventory states its own."""
    if request.inventory is not None:
        return tuple(found)
    split = split_subjects([series.source for series in found], seed=request.seed, usable=uses)
    return tuple(replace(series, source=source) for series, source in zip(found, split, strict=True))


def _pairs(request: Request, found: Sequence[Series]) -> PairTable:
    return find_pairs(found, pairing=request.pairing, allow_contrast=request.allow_contrast)


def _uses(request: Request, found: Sequence[Series], table: PairTable) -> dict[str, Use]:
    """The use of each series in the run, by label; without those that are of none."""
    uses = {series.source.label: use for series in found if (use := _use(request, series)) is not None}
    for pair in table.pairs if request.pairs is not PairKind.SIMULATED else ():
        uses |= {pair.thick.source.label: Use.THICK, pair.thin.source.label: Use.THIN}
    return uses


def _use(request: Request, series: Series) -> Use | None:
    """The use of a series by itself; None: it has none, or that of a side of a pair at most."""
    if series.source.split is Split.UNSEEN:
        return None
    if series.role is Role.THIN and request.pairs is not PairKind.REAL:
        return Use.THIN
    if series.role is Role.THICK and request.in_plane:
        return Use.IN_PLANE
    return None


def _nothing_to_train_on(request: Request, found: Sequence[Series], table: PairTable) -> InputError:
    reason = next((f"{' with '.join(no.labels)}: {no.sentence}" for no in table.rejections), None)
    if reason is None:
        first = found[0]
        reason = f"{first.source.label}: {first.sentence}"
    kinds = "real pairs" if request.pairs is PairKind.REAL else "thin series"
    return InputError(
        f"The studies hold no {kinds} to train on; {reason}", hint="--dry-run shows every series and its reason."
    )


def _recipe(request: Request) -> Recipe:
    made = recipe.load(request.recipe)
    if request.pairs is not PairKind.SIMULATED and made.samples.design == "strips":
        raise InputError(
            f"The recipe {made.name} is trained on simulated pairs only: its ratios are whole numbers.",
            hint="Leave out --pairs, or take a recipe of the paper.",
        )
    if request.pairs is not PairKind.SIMULATED and made.samples.input is Input.CUBIC:
        raise InputError(f"The recipe {made.name} takes interpolated slices, which real pairs do not have.")
    if request.pairs is PairKind.REAL and made.degradation.model_fields_set:
        raise InputError(
            f"The recipe {made.name} says how thick slices are made from thin ones, which has no effect on real pairs.",
            hint="Leave its [degradation] out, or take --pairs simulated or both.",
        )
    if not any(stage.features for stage in made.stage) and (request.features_file or request.features_sha256):
        raise InputError(
            f"The recipe {made.name} has no content loss, so a features file has no effect; nothing was trained.",
            hint="Leave out --features-file and --features-sha256, or take a recipe with a content loss.",
        )
    return made if request.features is None else recipe.with_features(made, request.features)


def _steps(made: Recipe, asked: tuple[int, ...]) -> tuple[int, ...]:
    if not asked:
        return recipe.stage_steps(made, made.steps)
    if len(asked) == len(made.stage) and any(asked):
        return asked
    if len(asked) > 1:
        raise InputError(f"{len(asked)} numbers of steps were given, and {made.name} has {len(made.stage)} stages.")
    return recipe.stage_steps(made, asked[0])
