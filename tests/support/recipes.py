"""Recipes that train in a second, and the plans of runs on phantoms."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np

from dicomnode.generators.kinds import Kind
from dicomnode.imaging.profile import ProfileKind
from tests.support.phantom_sources import phantom
from trainer.data.sources import Source, Split
from trainer.training import plan as plans
from trainer.training.plan import Plan, Use
from trainer.training.recipe import Recipe
from trainer.training.recipe_tables import (
    Augmentation,
    Degradation,
    Discriminator,
    Losses,
    Network,
    Samples,
    TrainingStage,
)

EXTENT = 41
Trainable = Literal[Kind.SLICE, Kind.SLAB3, Kind.SRCNN, Kind.VDSR]

FIDELITY = TrainingStage(
    name="fidelity",
    share=1,
    losses=Losses(charbonnier=1.0, z_gradient=0.5),
    optimizer="adamw",
    learning_rate=1e-3,
    warm_up_steps=2,
    cosine_to=0.1,
)
SHARP = TrainingStage(
    name="sharp",
    share=1,
    losses=Losses(charbonnier=1.0, adversarial=5e-3),
    learning_rate=1e-4,
    discriminator=Discriminator(kind="patch", loss="relativistic", learning_rate=2e-4, r1=0.1, r2=0.1, penalty_every=2),
)


def thin_recipe(*stages: TrainingStage, batch: int = 2) -> Recipe:
    """A tiny ``thin``; every branch of its samples is drawn sooner or later."""
    return Recipe(
        name="tiny-thin",
        about="for tests",
        steps=8,
        average_decay=0.9,
        clip_norm=1.0,
        network=Network(kind=Kind.THIN, channels=8, blocks=1, window=3),
        samples=Samples(design="strips", batch=batch, patch=(16, 16), ratios=(2, 3)),
        degradation=Degradation(
            profiles={ProfileKind.BOX: 0.8, ProfileKind.GAUSSIAN: 0.2},
            thicknesses={"1.0": 0.8, "0.8": 0.2},
            noise_share=0.5,
            noise_max=0.01,
        ),
        augmentation=Augmentation(
            gamma_log=0.4, remap_share=0.2, inversion_share=0.1, gain_log=0.3, warp_share=0.3, ramp_share=0.2
        ),
        stage=stages or (FIDELITY,),
    )


def slice_recipe(kind: Trainable = Kind.SLICE, *stages: TrainingStage, **samples: object) -> Recipe:
    """A tiny SRResNet or another slice-by-slice network."""
    chosen = {"design": "slices", "batch": 2, "patch": 16, "ratios": (2, 3)} | samples
    return Recipe(
        name="tiny-slice",
        about="for tests",
        steps=8,
        network=Network(kind=kind, channels=8) if kind is Kind.SRCNN else Network(kind=kind, channels=8, blocks=2),
        samples=Samples.model_validate_json(json.dumps(chosen)),
        stage=stages or (TrainingStage(name="mse", share=1, losses=Losses(mse=1.0), learning_rate=1e-3),),
    )


def nifti_sources(folder: Path, splits: Sequence[Split]) -> tuple[Source, ...]:
    """A phantom of each split, each another person's."""
    made = []
    for number, split in enumerate(splits):
        path = folder / f"{number}.nii.gz"
        image = nibabel.Nifti1Image(phantom(number, extent=EXTENT), np.eye(4))  # type: ignore[no-untyped-call]
        nibabel.save(image, path)
        made.append(
            Source(label=f"volume-{number}", subject=f"person-{number}", split=split, licence="CC0", paths=(path,))
        )
    return tuple(made)


def plan_of(recipe: Recipe, sources: Sequence[Source], steps: tuple[int, ...], seed: int = 3) -> Plan:
    """A run on thin volumes, in single precision."""
    return Plan(
        recipe=recipe,
        steps=steps,
        seed=seed,
        precision="float32",
        sources=tuple(plans.planned(source, Use.THIN) for source in sources),
    )
