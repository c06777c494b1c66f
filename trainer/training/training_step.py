"""One step of one stage: the generator's losses and, in an adversarial stage, the discriminator's turn before them.

The kind of a sample (a strip, a slice) matters here, in ``predictions`` and in the two sample files; the loop around
this handles steps only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from dicomnode.generators.kinds import NETWORKS
from trainer import features
from trainer.published import code_vgg_input
from trainer.training import discriminators, losses, predictions
from trainer.training.batches import Batch
from trainer.training.recipe import Recipe
from trainer.training.recipe_tables import Discriminator, DiscriminatorKind, TrainingStage
from trainer.training.strips import StripBatch
from trainer.training.trained_network import TrainedNetwork

REFORMATS_EVERY = 8  # rows and columns; neighbours say the same, and each has its turn


@dataclass(slots=True, kw_only=True)
class StepReport:
    """Losses and norms of one step; tensors, so that no step waits for the GPU to report them."""

    terms: dict[str, Tensor] = field(default_factory=dict)  # each loss term, weighted
    gradient_norm: Tensor | None = None
    discriminator_loss: Tensor | None = None
    accuracy: float | None = None  # share of pairs in which the discriminator found the real one
    adversarial_gradient: float | None = None  # norm of the adversarial term's gradient ÷ the other terms'


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingStep:
    """The training of one stage: the networks, and what decides their losses."""

    recipe: Recipe
    stage: TrainingStage
    dtype: torch.dtype
    device: torch.device
    generator: TrainedNetwork
    discriminator: TrainedNetwork | None
    feature_net: features.Features | None

    def run(self, batch: Batch, number: int, rate: float, *, look_closer: bool) -> StepReport:
        """Step ``number`` of the stage.

        With ``look_closer`` it also measures how large the adversarial gradient is, which costs another pass.
        """
        report = StepReport()
        predicted, unprojected = predictions.predict(self.generator.net, batch, self.dtype, self.device)
        truth = predictions.truth_of(batch, self.device)
        if self.discriminator is not None:
            real, fake = (self.seen(images, batch, number) for images in (truth, predicted.detach()))
            self._train_discriminator(real, fake, number, rate, report)
        terms = self._terms(batch, predicted, unprojected, truth, number)
        if look_closer and "adversarial" in terms:
            report.adversarial_gradient = self._gradient_share(terms)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        report.terms = {name: term.detach() for name, term in terms.items()}
        report.gradient_norm = self.generator.step(rate, self.recipe.clip_norm)
        return report

    def seen(self, images: Tensor, batch: Batch, number: int) -> Tensor:
        """The images that the discriminator is shown: slices as they are, or reformats of strips."""
        if not isinstance(batch, StripBatch):
            return images
        base = torch.from_numpy(batch.base).to(self.device)
        return discriminators.reformats(images, base, every=REFORMATS_EVERY, first=number % REFORMATS_EVERY)

    def _train_discriminator(self, real: Tensor, fake: Tensor, number: int, rate: float, report: StepReport) -> None:
        rules, discriminator = self.stage.discriminator, self.discriminator
        assert rules is not None
        assert discriminator is not None
        real_logits, fake_logits = discriminator.net(real), discriminator.net(fake)
        if rules.loss == "relativistic":
            loss = losses.relativistic_discriminator_loss(real_logits, fake_logits)
        else:
            loss = losses.paper_discriminator_loss(real_logits, fake_logits)
        report.discriminator_loss = loss.detach()
        report.accuracy = losses.discriminator_accuracy(real_logits, fake_logits)
        if number % rules.penalty_every == 0:
            for weight, images in ((rules.r1, real), (rules.r2, fake)):
                if weight > 0:
                    loss = loss + weight * rules.penalty_every * losses.gradient_penalty(discriminator.net, images)
        loss.backward()  # type: ignore[no-untyped-call]
        discriminator.step(_discriminator_rate(rules, rate), 0.0)

    def _terms(
        self, batch: Batch, predicted: Tensor, unprojected: Tensor, truth: Tensor, number: int
    ) -> dict[str, Tensor]:
        weights = self.stage.losses
        terms: dict[str, Tensor] = {}
        if weights.mse:
            terms["mse"] = weights.mse * losses.mse(predicted, truth)
        if weights.charbonnier:
            terms["charbonnier"] = weights.charbonnier * losses.charbonnier(predicted - truth)
        if weights.z_gradient:
            terms["z_gradient"] = weights.z_gradient * losses.z_gradient(predicted, truth)
        if weights.z_energy:
            terms["z_energy"] = weights.z_energy * losses.z_energy(predicted, truth)
        if weights.mirror:
            assert isinstance(batch, StripBatch)
            mirrored, _ = predictions.predict(self.generator.net, batch.mirrored(), self.dtype, self.device)
            terms["mirror"] = weights.mirror * losses.mse(predicted, mirrored.flip(-3))
        if weights.structure:
            terms["structure"] = weights.structure * losses.structure_loss(predicted, truth)
        if weights.consistency:
            assert isinstance(batch, StripBatch)
            thick, profile = predictions.measured(batch, self.device), predictions.profile(batch, self.device)
            terms["consistency"] = weights.consistency * losses.consistency_loss(unprojected, thick, profile)
        if self.feature_net is not None:
            looked_at = [_looked_at(images, batch, number) for images in (predicted, truth)]
            if weights.content:
                distance = losses.content_distance(self.feature_net, *looked_at)
                terms["content"] = weights.content / self.feature_net.energy * distance
            if weights.content_raw:
                fed = [code_vgg_input(images) for images in looked_at]
                terms["content_raw"] = weights.content_raw * losses.content_distance(self.feature_net, *fed)
        if weights.adversarial:
            terms["adversarial"] = weights.adversarial * self._adversarial(batch, predicted, truth, number)
        return terms

    def _adversarial(self, batch: Batch, predicted: Tensor, truth: Tensor, number: int) -> Tensor:
        assert self.discriminator is not None
        assert self.stage.discriminator is not None
        net = self.discriminator.net
        for parameter in net.parameters():
            parameter.requires_grad_(False)
        fake = net(self.seen(predicted, batch, number))
        if self.stage.discriminator.loss == "relativistic":
            with torch.no_grad():
                real = net(self.seen(truth, batch, number))
            loss = losses.relativistic_generator_loss(real, fake)
        else:
            loss = losses.paper_generator_loss(fake)
        for parameter in net.parameters():
            parameter.requires_grad_(True)
        return loss

    def _gradient_share(self, terms: dict[str, Tensor]) -> float:
        parameters = list(self.generator.net.parameters())

        def norm(names: list[str]) -> float:
            total = torch.stack([terms[name] for name in names]).sum()
            found = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
            return math.sqrt(sum(float(gradient.float().square().sum()) for gradient in found if gradient is not None))

        others = norm([name for name in terms if name != "adversarial"])
        return norm(["adversarial"]) / others if others > 0 else math.inf


def new_training_step(
    recipe: Recipe,
    stage: TrainingStage,
    net: nn.Module,
    *,
    seed: int,
    dtype: torch.dtype,
    device: torch.device,
    features_file: Path | None,
    features_sha256: str | None,
) -> TrainingStep:
    """The step of a stage; the generator begins with the weights of ``net``, the discriminator at random."""
    feature_net = None
    if stage.features is not None:
        feature_net = features.load(stage.features, file=features_file, sha256=features_sha256).to(device)
    discriminator = None
    if (rules := stage.discriminator) is not None:
        torch.manual_seed(seed + 1)
        row = NETWORKS[recipe.network.kind]
        channels = row.slices_predicted if row.is_of_slices else discriminators.REFORMAT_CHANNELS
        opposing = discriminators.build(DiscriminatorKind(rules.kind), channels=channels)
        discriminator = TrainedNetwork(opposing, stage, dtype=torch.float32, device=device, average_decay=0.0)
    return TrainingStep(
        recipe=recipe,
        stage=stage,
        dtype=dtype,
        device=device,
        generator=TrainedNetwork(net, stage, dtype=dtype, device=device, average_decay=recipe.average_decay),
        discriminator=discriminator,
        feature_net=feature_net,
    )


def _looked_at(images: Tensor, batch: Batch, number: int) -> Tensor:
    """The images that a content loss compares: slices, or views of strips from the side, which hold the slice axis."""
    if not isinstance(batch, StripBatch):
        return images
    return discriminators.side_views(images.unsqueeze(1), every=REFORMATS_EVERY, first=number % REFORMATS_EVERY)


def _discriminator_rate(rules: Discriminator, rate: float) -> float:
    """The discriminator's own rate, or the generator's where it has none, as in the published code."""
    return rate if rules.learning_rate is None else rules.learning_rate
