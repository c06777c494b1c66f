"""Do the keys of a recipe fit together, and has each of them an effect? Sentences; a whole recipe gets none.

``clashes`` are keys that each are in order and together break a training, perhaps hours later. ``without_effect`` are
keys that nothing looks at in a recipe of this kind: whoever sets one means something that would not happen.
"""

from __future__ import annotations

from collections.abc import Iterator

from dicomnode.generators.kinds import NETWORKS, Kind, Prediction
from trainer.feature_names import SPEC
from trainer.training.recipe_tables import (
    MIN_SIDE_PIXELS,
    PREDICTED_SLICES,
    DiscriminatorKind,
    Network,
    RecipeTables,
    TrainingStage,
)

# Parameters of a card whose key in [network] has another name.
RENAMED = {"layers": "blocks"}
WIDEST_WINDOW = 9  # around the middle three of a strip's eleven slices; a wider one would see repeated ends
OUTER_LAYERS = 2  # of VDSR, which muon leaves to AdamW
ALONG_Z = ("z_gradient", "z_energy", "mirror", "structure", "consistency")  # losses of strips alone
NAME_LIMIT = 32  # of a model, as its card has it
NO_STAGES = ("models", "board")  # folders of a run beside those of its stages


def clashes(recipe: RecipeTables) -> Iterator[str]:
    """Name, in a sentence each, the keys that would break a training of this recipe."""
    network, samples = recipe.network, recipe.samples
    is_strips = samples.design == "strips"
    if NETWORKS[network.kind].is_of_slices == is_strips:
        yield "network.kind and samples.design: strips are for the kind thin, slices for all others"
    if network.kind is Kind.THIN and (network.window % 2 == 0 or network.window > WIDEST_WINDOW):
        yield f"network.window must be odd, so that a slice is in its middle, and {WIDEST_WINDOW} at most"
    if network.kind is Kind.VDSR and network.blocks < OUTER_LAYERS:
        yield f"network.blocks must be {OUTER_LAYERS} at least: VDSR's first and last layer are among them"
    if NETWORKS[network.kind].prediction is Prediction.THREE_SLICES and samples.input == "cubic":
        yield f'samples.input = "cubic" has no effect: the kind {network.kind} is shown the thick slice'
    if not samples.is_square and not is_strips:
        yield "samples.patch: a slice is cut with one side; two are for strips"
    if 0 in samples.patch and (is_strips or samples.batch > 1):
        yield "whole slices differ in size: their batch is 1, and a strip needs a samples.patch"
    if recipe.augmentation.ramp_share + recipe.augmentation.pure_ramp_share > 1:
        yield "augmentation.ramp_share and pure_ramp_share are more than 1 together"
    if len({stage.name for stage in recipe.stage}) != len(recipe.stage):
        yield "two stages have one name"
    if len(recipe.stage) == 1 and recipe.stage[0].share != 1:
        yield "stage.share has no effect on a single stage, which has all steps: write 1"
    for stage in recipe.stage:
        yield from _clashes_of(stage, recipe)


def _clashes_of(stage: TrainingStage, recipe: RecipeTables) -> Iterator[str]:
    network, samples = recipe.network, recipe.samples
    is_strips = samples.design == "strips"
    if stage.name in NO_STAGES:
        yield f"stage.name cannot be {stage.name}, which is another folder of a run"
    if len(recipe.stage) > 1 and len(f"{recipe.name}-{stage.name}") > NAME_LIMIT:
        yield f"{recipe.name}-{stage.name}, the name of a model, is longer than {NAME_LIMIT} letters"
    along_z = [name for name in ALONG_Z if getattr(stage.losses, name)]
    if not is_strips and along_z:
        yield f"stage.losses: a slice has no z for {' and '.join(along_z)}; samples.design must be strips"
    if stage.optimizer == "muon" and network.kind is Kind.VDSR and network.blocks <= OUTER_LAYERS:
        yield "the optimizer muon is for the layers between the first and the last, and the network has none"
    if is_strips and not samples.is_square and (stage.discriminator is not None or stage.features is not None):
        yield "samples.patch: a discriminator and a content loss see rows and columns of one length; give one side"
    if stage.discriminator is not None:
        side = MIN_SIDE_PIXELS[DiscriminatorKind(stage.discriminator.kind)]
        if is_strips and stage.discriminator.kind == "code":
            yield f"discriminator.kind: code needs {side} pixels each way, and a strip is a few slices high"
        if not is_strips and 0 < min(samples.patch) < side:
            yield f"discriminator.kind: {stage.discriminator.kind} needs a samples.patch of {side} at least"
    if stage.features is not None:
        match = SPEC.fullmatch(stage.features)
        if match is None:
            yield f"{stage.features!r} names no features, as vgg19:relu3_4 or vgg19:pool4@224 do"
            return
        # A strip is seen from the side, where it is as high as the slices that are predicted.
        shown = PREDICTED_SLICES * min(samples.ratios) if is_strips else min(samples.patch)
        side, smallest = int(match["side"] or shown), _smallest_seen(stage.features)
        if 0 < side < smallest:
            yield f"stage.features: {stage.features} needs images of {smallest} pixels at least; {side} is smaller"


def smallest_side(recipe: RecipeTables) -> int:
    """The least width and height of a slice, in pixels; of whole slices only the pictures tell whether they have it."""
    sides = [max(recipe.samples.patch)]
    for stage in recipe.stage:
        if stage.discriminator is not None:
            sides.append(MIN_SIDE_PIXELS[DiscriminatorKind(stage.discriminator.kind)])
        if stage.features is not None and "@" not in stage.features:
            sides.append(_smallest_seen(stage.features))
    return max(sides)


def _smallest_seen(features: str) -> int:
    """Side of the smallest image of which a layer of VGG19 sees a pixel: every pooling before it halves it."""
    match = SPEC.fullmatch(features)
    assert match is not None
    layer = match["layer"]
    poolings = int(layer[-1]) if layer.startswith("pool") else int(layer[4]) - 1
    return 1 << poolings


def parameter_keys(network: Network) -> dict[str, str]:
    """Parameter of the kind's card → the key of [network] that states it; other parameters keep their defaults."""
    named = {name: RENAMED.get(name, name) for name in NETWORKS[network.kind].parameters.model_fields}
    return {name: key for name, key in named.items() if key in type(network).model_fields}


def without_effect(recipe: RecipeTables) -> Iterator[tuple[str, str]]:
    """(dotted key, why) of the keys that a recipe of this kind has no use for, set or not."""
    kind = recipe.network.kind
    has_batch_norm = NETWORKS[kind].has_batch_norm
    shape = {"kind", *parameter_keys(recipe.network).values()} | ({"batch_norm_momentum"} if has_batch_norm else set())
    unknown = sorted(type(recipe.network).model_fields.keys() - shape)
    yield from ((f"network.{key}", f"the kind {kind} has none") for key in unknown)
    if not has_batch_norm:
        yield "recalibrate_batch_norm", f"the kind {kind} has no batch normalisation"
    elif recipe.recalibrate_batch_norm:
        yield "network.batch_norm_momentum", "recalibrate_batch_norm measures the statistics anew"
    if recipe.samples.design == "strips":
        for key in ("input", "scale", "order"):
            yield f"samples.{key}", "it is of slices, not of strips"
    else:
        for key in type(recipe.augmentation).model_fields:
            if key != "gain_log":
                yield f"augmentation.{key}", "slices are varied by gain_log alone"
    for number, stage in enumerate(recipe.stage):
        if stage.optimizer != "muon":
            yield f"stage.{number}.muon_rate", "muon_rate is for the optimizer muon"
        if stage.discriminator is not None and not stage.discriminator.r1 and not stage.discriminator.r2:
            yield f"stage.{number}.discriminator.penalty_every", "without r1 and r2 there is no penalty"


def half_pairs(recipe: RecipeTables) -> Iterator[str]:
    """Name each share whose size is 0, and each size whose share is 0: neither has an effect."""
    degradation = recipe.degradation
    for what in ("noise", "flicker"):
        share, largest = getattr(degradation, f"{what}_share"), getattr(degradation, f"{what}_max")
        if (share > 0) != (largest > 0):
            lame, zero = (f"{what}_share", f"{what}_max") if share > 0 else (f"{what}_max", f"{what}_share")
            yield f"degradation.{lame} has no effect: {zero} is 0"
