"""A recipe: everything that decides how a network is trained, but for the data, the seed and the number of steps.

In: a name of ``recipes`` beside this file, or a TOML file. Out: a frozen ``Recipe``; keys that are unknown or do not
fit are one InputError that names all of them. They are explained in ``thin.toml`` and ``paper-model1.toml``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import (
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from dicomnode.errors import InputError
from dicomnode.strict_toml import MistakesError, NotTomlError, check, parse
from trainer.training import fit
from trainer.training.recipe_tables import RecipeTables, TrainingStage

RECIPES = Path(__file__).resolve().parent / "recipes"
BUILT_IN = tuple(sorted(path.stem for path in RECIPES.glob("*.toml")))


class Recipe(RecipeTables):
    """A recipe whose keys fit together."""

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        mistakes = [*fit.clashes(self), *fit.half_pairs(self)]
        mistakes += [f"{key} has no effect: {why}" for key, why in fit.without_effect(self) if _is_set(self, key)]
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    @model_serializer(mode="wrap")
    def _with_effect(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """All that decides something, and what would be refused when it is read again left out."""
        entries: dict[str, Any] = dump(self)
        for key, _ in fit.without_effect(self):
            *path, last = key.split(".")
            table: Any = entries
            for word in path:
                table = table[int(word)] if isinstance(table, list | tuple) else table[word]
            table.pop(last, None)
        return entries


def _is_set(recipe: Recipe, key: str) -> bool:
    """Does a dotted key stand in the recipe itself, be it with the value that it has anyway?"""
    *path, last = key.split(".")
    table: Any = recipe
    for word in path:
        table = table[int(word)] if isinstance(table, tuple) else getattr(table, word)
    return last in table.model_fields_set


def load(name: str) -> Recipe:
    """The recipe of that name, or of that file."""
    path = RECIPES / f"{name}.toml" if name in BUILT_IN else Path(name)
    try:
        return _checked(parse(path.read_bytes()), path.name)
    except OSError as exc:
        raise InputError(
            f"There is no recipe {name}: {exc.strerror}.", hint=f"Use one of {', '.join(BUILT_IN)}, or a TOML file."
        ) from exc
    except NotTomlError as exc:
        raise InputError(f"The recipe {path.name} is not a TOML file: {exc}.") from exc


def with_features(recipe: Recipe, features: str) -> Recipe:
    """The recipe with other features in the stages that look at some; InputError where none does."""
    if not any(stage.features for stage in recipe.stage):
        raise InputError(
            f"The recipe {recipe.name} has no content loss, so features have no effect; nothing was trained.",
            hint="Leave out --features, or take a recipe with a content loss.",
        )
    stages = [stage.model_copy(update={"features": features}) if stage.features else stage for stage in recipe.stage]
    return _checked(recipe.model_copy(update={"stage": tuple(stages)}).model_dump(mode="json"), recipe.name)


def _checked(tables: Mapping[str, object], name: str) -> Recipe:
    try:
        return check(Recipe, tables)
    except MistakesError as exc:
        raise InputError(
            f"The recipe {name} is not one: {exc}.", hint="trainer/training/recipes/thin.toml explains every key."
        ) from exc


def stage_steps(recipe: Recipe, steps: int) -> tuple[int, ...]:
    """The steps of each stage, at least one; together ``steps`` where that is possible."""
    total = sum(stage.share for stage in recipe.stage)
    ends = [round(steps * sum(s.share for s in recipe.stage[: k + 1]) / total) for k in range(len(recipe.stage))]
    return tuple(max(end - begin, 1) for begin, end in zip([0, *ends], ends, strict=False))


def learning_rate(stage: TrainingStage, step: int, steps: int) -> float:
    """The learning rate at a step (from 0) of a stage that has ``steps``.

    >>> from trainer.training.recipe_tables import Losses
    >>> rates = ((0.0, 1.0), (0.5, 0.1))
    >>> stage = TrainingStage(name="a", share=1, losses=Losses(mse=1), learning_rate=1e-4, rates=rates)
    >>> [round(learning_rate(stage, step, 4), 6) for step in range(4)]
    [0.0001, 0.0001, 1e-05, 1e-05]
    """
    rate = stage.learning_rate * min(1.0, (step + 1) / max(stage.warm_up_steps, 1))
    if stage.rates is not None:
        return rate * [factor for begin, factor in stage.rates if step >= begin * steps][-1]
    if stage.cosine_to is not None:
        return rate * (stage.cosine_to + (1 - stage.cosine_to) * 0.5 * (1 + math.cos(math.pi * step / steps)))
    return rate
