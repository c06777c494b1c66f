"""Every key of every recipe has an effect on what comes out, or is refused by its name before anything runs."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from safetensors.torch import save_file

from dicomnode.errors import InputError
from tests.support.recipes import nifti_sources, plan_of
from trainer.data.sources import Split
from trainer.training import loop, networks
from trainer.training import plan as plans
from trainer.training import recipe as recipes
from trainer.training.batches import BatchShare, draw_batch, load_material
from trainer.training.recipe import BUILT_IN, RECIPES, Recipe, learning_rate, stage_steps
from trainer.training.trained_network import set_weights
from trainer.training.training_step import new_training_step

STEPS = 2  # of a stage
CPU = torch.device("cpu")
Key = tuple[str | int, ...]

# What is tried of each key: values that differ much from those of the recipes.
TRIED: dict[str, list[Any]] = {
    "name": ["other"], "about": ["another"], "steps": [30], "average_decay": [0.5], "clip_norm": [1e-4],
    "recalibrate_batch_norm": [True, False],
    "network.kind": ["srcnn", "vdsr", "slice", "slab3", "thin"],
    "network.channels": [6, 64], "network.blocks": [1, 3, 16],
    "network.window": [3, 4, 5, 11], "network.batch_norm_momentum": [0.01, 0.6],
    "samples.design": ["slices", "strips"], "samples.batch": [1, 3], "samples.patch": [0, 1, 17, [16, 9], [16, 0]],
    "samples.ratios": [[], [3, 2]], "samples.input": ["thick", "cubic"], "samples.scale": ["robust", "raw"],
    "samples.order": ["shuffled", "series"],
    "degradation.profiles": [{}, {"box": 0.0}, {"gaussian": 1.0}, {"round": 1.0}],
    "degradation.thicknesses": [
        {}, {"wide": 1.0}, {"0.7": 0.0}, {"0.0": 1.0}, {"nan": 1.0}, {"1e3": 1.0}, {"1.4": 1.0},
    ],
    "degradation.offset": [0.4, 1.0], "degradation.noise_share": [0.9], "degradation.noise_max": [0.5],
    "degradation.flicker_share": [0.9], "degradation.flicker_max": [0.5],
    "augmentation.gamma_log": [2.0], "augmentation.remap_share": [0.95], "augmentation.inversion_share": [0.95],
    "augmentation.gain_log": [2.0], "augmentation.warp_share": [0.95], "augmentation.ramp_share": [0.9, 1.0],
    "augmentation.pure_ramp_share": [0.9], "augmentation.smoothing_share": [0.9], "augmentation.lesion_share": [0.9],
    "stage.name": ["other", "models", "board", "Two Words"], "stage.share": [3],
    "stage.losses.mse": [0.7], "stage.losses.charbonnier": [0.7], "stage.losses.z_gradient": [0.7],
    "stage.losses.z_energy": [0.7], "stage.losses.mirror": [0.7], "stage.losses.structure": [0.7],
    "stage.losses.consistency": [0.7], "stage.losses.content": [0.7], "stage.losses.content_raw": [0.7],
    "stage.losses.adversarial": [0.7],
    "stage.optimizer": ["adam", "adamw", "muon"], "stage.muon_rate": [1.0, 3.0], "stage.beta1": [0.5, 1.0],
    "stage.beta2": [0.5, 1.0], "stage.weight_decay": [0.5], "stage.learning_rate": [0.01, float("inf"), float("nan")],
    "stage.warm_up_steps": [50],
    "stage.rates": [[], [[0.5, 0.1]], [[0.0, 1.0], [0.5, 0.1], [0.3, 2.0]], [[0.0, 1.0], [1.0, 0.1]], [[0.0, 0.3]]],
    "stage.cosine_to": [0.3], "stage.features": ["vgg19:relu1_1", "vgg19:conv5_4", "resnet"],
    "stage.discriminator": [{"kind": "patch"}],
    "stage.discriminator.kind": ["paper", "code", "patch"], "stage.discriminator.loss": ["paper", "relativistic"],
    "stage.discriminator.learning_rate": [0.02], "stage.discriminator.r1": [0.7], "stage.discriminator.r2": [0.7],
    "stage.discriminator.penalty_every": [1, 2],
}  # fmt: skip


def fields_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of a recipe by its dotted name."""
    for name, field in model.model_fields.items():
        kinds = [kind for kind in _leaves(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        for kind in kinds:
            yield from fields_of(kind, f"{prefix}{name}.")
        if not kinds or field.default is None:
            yield f"{prefix}{name}"


def _leaves(annotation: Any) -> Iterator[Any]:
    arguments = getattr(annotation, "__args__", ())
    yield annotation
    for argument in arguments:
        yield from _leaves(argument)


def test_every_key_is_tried() -> None:
    assert set(fields_of(Recipe)) == set(TRIED)


def small(name: str) -> dict[str, Any]:
    """A shipped recipe as its file has it, but so small that a step takes a moment."""
    raw = tomllib.loads((RECIPES / f"{name}.toml").read_text())
    raw["network"]["channels"] = 4
    if "blocks" in raw["network"]:
        raw["network"]["blocks"] = 3
    raw["samples"]["ratios"] = [2, 3]
    if raw["samples"]["patch"]:
        raw["samples"]["patch"] = 16
    for stage in raw["stage"]:
        stage["learning_rate"] = 1e-3
        if "content_raw" in stage["losses"]:  # beside the squares of raw values it vanishes, as its file says
            stage["losses"]["content_raw"] = 1e4
        if "features" in stage:
            stage["features"] = "vgg19:relu1_2"
        if stage.get("discriminator", {}).get("kind") in ("paper", "code"):
            stage["discriminator"]["kind"] = "patch"
    return raw


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One phantom, and the first two layers of a VGG19 of nobody."""
    folder = tmp_path_factory.mktemp("place")
    nifti_sources(folder, [Split.TRAIN])
    torch.manual_seed(0)
    shapes = {"features.0.weight": (64, 3, 3, 3), "features.0.bias": (64,)}
    shapes |= {"features.2.weight": (64, 64, 3, 3), "features.2.bias": (64,)}
    save_file({key: 0.1 * torch.randn(shape) for key, shape in shapes.items()}, folder / "vgg.safetensors")
    return folder


def loaded(raw: dict[str, Any], name: str = "mine.toml") -> Recipe | str:
    """The recipe, or the sentence by which it is refused."""
    try:
        return recipes._checked(raw, name)
    except InputError as refused:
        return refused.sentence


@cache
def outcome(text: str, folder: Path) -> str:
    """Digest of all that comes of a recipe: names, steps, weights, statistics and averages after a few steps."""
    recipe = Recipe.model_validate_json(text)
    file = folder / "vgg.safetensors"
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    plan = plan_of(recipe, nifti_sources(folder, [Split.TRAIN]), (STEPS,) * len(recipe.stage))
    plan = plan.model_copy(update={"features_file": file, "features_sha256": sha256})
    assert plans.Plan.model_validate_json(plan.model_dump_json()) == plan, "a run goes on with the recipe it began with"
    found = hashlib.sha256(repr((recipe.name, recipe.about, stage_steps(recipe, recipe.steps))).encode())
    try:
        loop.check_features(plan)
        material = load_material(plan, Split.TRAIN)
    except InputError as refused:  # what only pictures or a file tell is refused before the first step, too
        return refused.sentence
    torch.manual_seed(1)
    net = networks.build(recipe.network)
    for number, stage in enumerate(recipe.stage):
        training_step = new_training_step(
            recipe, stage, net, seed=1, dtype=torch.float32, device=CPU, features_file=file, features_sha256=sha256
        )
        drawn = [draw_batch(material, plan, plan.first_step(number) + step, BatchShare()) for step in range(STEPS)]
        for step, batch in enumerate(drawn):
            training_step.run(batch, step, learning_rate(stage, step, STEPS), look_closer=True)
        if recipe.recalibrate_batch_norm:
            loop._recalibrate(training_step, iter(drawn))
        tensors = training_step.generator.state("generator") | (
            training_step.discriminator.state("discriminator") if training_step.discriminator else {}
        )
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values()), "it broke"
        found.update(stage.name.encode())
        for name in sorted(tensors):
            found.update(name.encode() + tensors[name].numpy().tobytes())
        net = networks.build(recipe.network)
        set_weights(net, tensors, "generator")
    return found.hexdigest()


def places_of(raw: dict[str, Any], key: str) -> Iterator[Key]:
    """Where in a recipe a key stands or could stand: once for each stage."""
    words = key.split(".")
    if words[0] != "stage":
        yield tuple(words)
        return
    for number, stage in enumerate(raw["stage"]):
        if words[1] != "discriminator" or len(words) == 2 or "discriminator" in stage:
            yield ("stage", number, *words[1:])


def with_value(raw: dict[str, Any], where: Key, value: Any) -> dict[str, Any]:
    """A copy with another value."""
    changed = json.loads(json.dumps(raw))
    table = changed
    for word in where[:-1]:
        table = table[word] if isinstance(word, int) else table.setdefault(word, {})
    table[where[-1]] = value
    return changed  # type: ignore[no-any-return]


def value_at(raw: dict[str, Any], where: Key) -> Any:
    """What stands there; None if nothing does."""
    table: Any = raw
    for word in where:
        if isinstance(table, dict) and word not in table:
            return None
        table = table[word]
    return table


@pytest.mark.parametrize("key", TRIED)
@pytest.mark.parametrize("name", BUILT_IN)
def test_a_key_has_an_effect_or_is_refused_by_its_name(name: str, key: str, place: Path) -> None:
    torch.set_num_threads(1)
    raw = small(name)
    if key == "stage.optimizer":  # without a decay AdamW is Adam
        raw["stage"] = [stage | {"weight_decay": 0.1} for stage in raw["stage"]]
    before = loaded(raw)
    assert isinstance(before, Recipe), before
    for where in places_of(raw, key):
        for value in TRIED[key]:
            if value == value_at(raw, where):
                continue
            after = loaded(with_value(raw, where, value))
            if isinstance(after, str):
                assert re.search(rf"\b{where[-1]}\b", after), (where, value, after)
                continue
            stated = value_at(json.loads(before.model_dump_json()), where)
            if json.dumps(value_at(json.loads(after.model_dump_json()), where)) == json.dumps(stated):
                continue  # the value that it has anyway
            changed = outcome(after.model_dump_json(), place) != outcome(before.model_dump_json(), place)
            assert changed, (where, value)
