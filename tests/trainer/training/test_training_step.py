"""One step of a stage: does it learn, and is it what the recipe says?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dicomnode.generators.kinds import Kind
from tests.support.phantom_sources import phantom
from tests.support.recipes import FIDELITY, SHARP, Trainable, slice_recipe, thin_recipe
from trainer.features import Features
from trainer.training import losses, networks, predictions, slices, strips
from trainer.training.batches import Batch
from trainer.training.recipe import Recipe
from trainer.training.recipe_tables import Degradation, Discriminator, Losses, TrainingStage
from trainer.training.simulate import grey_volume
from trainer.training.training_step import REFORMATS_EVERY, TrainingStep, new_training_step

CPU = torch.device("cpu")


def strip_batch(recipe: Recipe) -> strips.StripBatch:
    """Three strips of ratio 3, without noise."""
    clean = recipe.model_copy(update={"degradation": Degradation()})
    volumes = (grey_volume(phantom(0, extent=41)),)
    drawn = [strips.draw_strip(volumes, 3, clean, np.random.default_rng(seed)) for seed in range(3)]
    return strips.stacked(drawn, 3)


def slice_batch(recipe: Recipe) -> slices.SliceBatch:
    """Two patches."""
    pairs = list(slices.simulated(phantom(0, extent=41), "person-0", recipe, np.random.default_rng(0), axes=(0,)))
    return slices.draw_batch(pairs, recipe, range(2), seed=1, step=0)


def step_of(recipe: Recipe, stage: TrainingStage) -> TrainingStep:
    """Freshly begun."""
    torch.manual_seed(0)
    net = networks.build(recipe.network)
    return new_training_step(
        recipe, stage, net, seed=1, dtype=torch.float32, device=CPU, features_file=None, features_sha256=None
    )


def run_steps(one: TrainingStep, batch: Batch, steps: int, rate: float) -> Sequence[float]:
    """The weighted loss of each step."""
    reports = [one.run(batch, number, rate, look_closer=False) for number in range(steps)]
    return [float(sum(step.terms.values())) for step in reports]


def test_the_thin_network_starts_at_cubic_dc_and_gets_better() -> None:
    """One batch, seen twenty-five times."""
    recipe = thin_recipe()
    batch = strip_batch(recipe)
    base, truth = torch.from_numpy(batch.base), torch.from_numpy(batch.truth)
    found = run_steps(step_of(recipe, FIDELITY), batch, 25, 3e-3)
    at_start = losses.charbonnier(base - truth) + 0.5 * losses.z_gradient(base, truth)  # the stage's weights
    assert found[0] == pytest.approx(at_start.item(), rel=0.02)
    assert found[-1] < 0.985 * found[0]


def test_a_mirrored_stack_comes_to_give_the_mirrored_slices() -> None:
    """From weights at random, which prefer one side of a slab."""
    stage = FIDELITY.model_copy(update={"losses": Losses(mse=1, mirror=1)})
    recipe = thin_recipe(stage)
    one = step_of(recipe, stage)
    with torch.no_grad():
        for parameter in one.generator.net.parameters():
            parameter.normal_(std=0.1)
    batch = strip_batch(recipe)
    found = [float(one.run(batch, number, 3e-3, look_closer=False).terms["mirror"]) for number in range(25)]
    assert found[-1] < 0.5 * found[0]


@pytest.mark.parametrize("kind", [Kind.SLICE, Kind.SLAB3, Kind.SRCNN, Kind.VDSR])
def test_every_slice_network_learns(kind: Trainable) -> None:
    recipe = slice_recipe(kind, input="cubic" if kind in (Kind.SRCNN, Kind.VDSR) else "thick")
    found = run_steps(step_of(recipe, recipe.stage[0]), slice_batch(recipe), 12, 1e-3)
    assert found[-1] < 0.97 * found[0]  # SRCNN and VDSR begin at cubic interpolation, which is good already


def test_the_discriminator_learns_to_tell_and_the_generator_moves_against_it() -> None:
    """With the adversarial term alone leading, the generator's logit must rise against a resting discriminator."""
    recipe = thin_recipe(FIDELITY, SHARP)
    one = step_of(recipe, SHARP)
    batch = strip_batch(recipe)
    before = one.discriminator.master.clone() if one.discriminator is not None else None
    report = one.run(batch, 0, 1e-3, look_closer=True)
    assert one.discriminator is not None
    assert before is not None
    assert not torch.equal(one.discriminator.master, before)
    assert report.discriminator_loss is not None
    assert float(report.discriminator_loss) == pytest.approx(np.log(2), abs=0.2)  # undecided at first
    assert report.adversarial_gradient is not None
    assert 0 < report.adversarial_gradient < 10


def test_the_generators_update_leaves_the_discriminator_as_it_is() -> None:
    """A generator's step leaves no gradient in the discriminator."""
    recipe = thin_recipe(FIDELITY, SHARP)
    one = step_of(recipe, SHARP)
    one.run(strip_batch(recipe), 0, 1e-3, look_closer=True)
    assert one.discriminator is not None
    assert all(parameter.grad is None for parameter in one.discriminator.net.parameters())
    assert all(parameter.requires_grad for parameter in one.discriminator.net.parameters())


def test_the_published_weights_make_the_adversarial_term_vanish() -> None:
    """Raw values: beside an MSE of 1e4 and more, 1e-3 of a cross entropy is less than 1e-5.

    See docs/paper.md#to-repeat-it.
    """
    stage = TrainingStage(
        name="srgan",
        share=1,
        losses=Losses(mse=1.0, adversarial=1e-3),
        learning_rate=1e-4,
        discriminator=Discriminator(kind="paper"),
    )
    recipe = slice_recipe(Kind.SLICE, stage, scale="raw", patch=32)
    report = step_of(recipe, stage).run(slice_batch(recipe), 0, 1e-4, look_closer=False)
    assert float(report.terms["adversarial"]) < 1e-5 * float(sum(report.terms.values()))


def test_the_content_of_a_strip_is_compared_in_views_that_hold_the_slice_axis() -> None:
    """Features that see steps between slices alone find the z gradient's square of every eighth row and column."""
    stage = FIDELITY.model_copy(update={"losses": Losses(content=1.0), "features": "vgg19:relu1_2"})
    recipe = thin_recipe(stage)
    one = replace(step_of(recipe, FIDELITY), stage=stage, feature_net=StepsBetweenSlices())
    batch = strip_batch(recipe)
    report = one.run(batch, 3, 1e-4, look_closer=False)
    off = (batch.base - batch.truth)[:, :, 3::REFORMATS_EVERY], (batch.base - batch.truth)[..., 3::REFORMATS_EVERY]
    expected = np.mean([np.square(np.diff(each, axis=1)).mean() for each in off])
    assert float(report.terms["content"]) == pytest.approx(expected, rel=0.05)  # the untrained network adds little


class StepsBetweenSlices(Features):
    """Features of energy 1 whose activations are the steps along an image's first axis."""

    def __init__(self) -> None:
        super().__init__("steps", nn.Sequential(nn.Identity()), None)
        self.energy = 1.0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.diff(dim=-2)


def test_a_consistency_term_is_zero_behind_the_projection_only() -> None:
    stage = FIDELITY.model_copy(update={"losses": Losses(consistency=1.0, charbonnier=1.0)})
    recipe = thin_recipe(stage)
    one = step_of(recipe, stage)
    with torch.no_grad():
        for parameter in one.generator.net.parameters():
            parameter.uniform_(-0.1, 0.1)
    batch = strip_batch(recipe)
    served, before = predictions.predict(one.generator.net, batch, torch.float32, CPU)
    thick, profile = predictions.measured(batch, CPU), predictions.profile(batch, CPU)
    assert losses.consistency_loss(served, thick, profile) < 1e-5 * losses.consistency_loss(before, thick, profile)
