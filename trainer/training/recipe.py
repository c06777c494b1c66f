"""A recipe: everything that decides how a network is trained, but for the data, the seed and the number of steps.

In: a name of ``recipes`` beside this file, or a TOML file. Out: a frozen ``Recipe``; keys that are unknown or do not
fit are one InputError that names all of them. They are explained in ``thin.toml`` and ``paper-model1.toml``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from dicomnode.errors import InputError
from dicomnode.generators.kinds import NetworkName
from dicomnode.imaging.profile import RATIO_LIMITS, ProfileKind
from dicomnode.strict_toml import MistakesError, NotTomlError, StrictModel, check, parse
from trainer.training import fit

RECIPES = Path(__file__).resolve().parent / "recipes"
BUILT_IN = tuple(sorted(path.stem for path in RECIPES.glob("*.toml")))

UnitInterval = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]  # at 1 nothing would ever be learned
Logarithm = Annotated[float, Field(ge=0, le=3)]  # of a gain or an exponent: twentyfold, far beyond any scanner's
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Ratio = Annotated[int, Field(ge=RATIO_LIMITS[0], le=RATIO_LIMITS[1])]
SMALLEST_PATCH = 8  # pixels; smaller ones hold no structure, and normalisations need values to take statistics of
# Thickness ÷ spacing: narrower slices fall between the samples of a profile, wider ones beyond a strip's margin.
THICKNESSES = (0.1, 3.0)
THICKNESS = re.compile(r"[0-9]+(\.[0-9]+)?")
FARTHEST_OFFSET = 0.5  # of a thick spacing: beyond it the next slice is nearer


class _Table(StrictModel):
    model_config = ConfigDict(allow_inf_nan=False)


class Network(_Table):
    """Which network, and its shape; what is left out is the paper's. Not every kind has every key: ``fit``."""

    kind: NetworkName
    channels: int = Field(default=64, ge=1, le=1024)
    blocks: int = Field(default=16, ge=1, le=128)  # residual blocks; VDSR: layers
    window: int = Field(default=5, ge=1, le=15)  # ``thin`` only: thick slices that it sees
    batch_norm_momentum: UnitInterval = 0.01  # torch's meaning: 0.1 is the published code's decay of 0.9


class Input(StrEnum):
    """What a slice-by-slice network is shown."""

    THICK = "thick"  # the thick slice as it is (the paper)
    CUBIC = "cubic"  # the slice that cubic interpolation puts where the thin one lies (SRCNN, VDSR)


class Scale(StrEnum):
    """The unit of the network's numbers."""

    ROBUST = "robust"  # 1 = 99.5th percentile of the body, as the node serves it
    RAW = "raw"  # modality units as they are (the published code)


class Order(StrEnum):
    """In which order samples come."""

    SHUFFLED = "shuffled"
    SERIES = "series"  # slice after slice, patient after patient (the published code)


class Samples(_Table):
    """What one step is shown. A strip is eleven thick slices of which three are thinned; a slice is one image."""

    design: Literal["strips", "slices"]
    batch: int = Field(ge=1, le=1024)  # strips (three windows each) or slices of a step, over all processes
    patch: int = Field(default=64, ge=0, le=1024)  # pixels; 0: whole slices
    ratios: Annotated[tuple[Ratio, ...], Field(min_length=1)] = tuple(range(RATIO_LIMITS[0], RATIO_LIMITS[1] + 1))
    input: Input = Input.THICK
    scale: Scale = Scale.ROBUST
    order: Order = Order.SHUFFLED

    @field_validator("patch")
    @classmethod
    def _is_large_enough(cls, patch: int) -> int:
        if 0 < patch < SMALLEST_PATCH:
            raise ValueError(f"a patch is {SMALLEST_PATCH} pixels wide at least, or 0: whole slices")
        return patch


class Degradation(_Table):
    """From what the thickening of thin slices is drawn (SCIENCE §2.1)."""

    profiles: dict[ProfileKind, Weight] = Field(default={ProfileKind.BOX: 1.0})  # kind → share
    thicknesses: dict[str, Weight] = Field(default={"1.0": 1.0})  # thickness ÷ spacing → share
    offset: Annotated[float, Field(ge=0, le=FARTHEST_OFFSET)] = (
        0.0  # largest shift of the thick grid against the thin one, in thick spacings
    )
    noise_share: UnitInterval = 0.0  # of samples that get Rician noise
    noise_max: UnitInterval = 0.0  # its largest σ, 1 = the series' scale
    flicker_share: UnitInterval = 0.0  # of samples whose slices differ in gain
    flicker_max: Logarithm = 0.0  # largest σ of the gain's logarithm

    @field_validator("profiles", "thicknesses")
    @classmethod
    def _has_shares(cls, shares: dict[str, float]) -> dict[str, float]:
        if not any(share > 0 for share in shares.values()):
            raise ValueError("none of them has a share")
        return shares

    @field_validator("thicknesses")
    @classmethod
    def _are_numbers(cls, shares: dict[str, float]) -> dict[str, float]:
        lowest, highest = THICKNESSES
        for word in shares:
            if not THICKNESS.fullmatch(word) or not lowest <= float(word) <= highest:
                raise ValueError(
                    f'"{word}" is no thickness ÷ spacing: a number from {lowest} to {highest}, such as "0.8"'
                )
        return shares


class Augmentation(_Table):
    """How samples are varied beyond flips and transposition."""

    gamma_log: Logarithm = 0.0
    remap_share: UnitInterval = 0.0
    inversion_share: UnitInterval = 0.0
    gain_log: Logarithm = 0.0
    warp_share: UnitInterval = 0.0
    ramp_share: UnitInterval = 0.0  # a ramp along z is added
    pure_ramp_share: UnitInterval = 0.0  # … and nothing else


class Losses(_Table):
    """Weights of the loss terms; a term of weight 0 is not computed."""

    mse: Weight = 0.0
    charbonnier: Weight = 0.0
    z_gradient: Weight = 0.0  # Charbonnier of the steps along z (strips only)
    consistency: Weight = 0.0  # squared residual of the thick slices before the projection (strips only)
    content: Weight = 0.0  # squared distance of ``features`` ÷ their energy: some 30 times that of the values
    content_raw: Weight = 0.0  # the same of raw values, not divided: as the published code had it
    adversarial: Weight = 0.0


class Discriminator(_Table):
    """The discriminator of an adversarial stage, and how it is trained."""

    kind: Literal["paper", "code", "patch"]
    loss: Literal["paper", "relativistic"] = "paper"
    learning_rate: Positive | None = None  # None: the generator's, as it changes
    r1: Weight = 0.0  # zero-centred gradient penalty on real images (R3GAN, eq. 8)
    r2: Weight = 0.0  # … on generated ones
    penalty_every: int = Field(default=1, ge=1, le=1000)  # steps


class TrainingStage(_Table):
    """One part of the training, with its own optimiser and folder."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    share: Positive  # of the run's steps, beside the other stages' shares
    losses: Losses
    optimizer: Literal["adam", "adamw", "muon"] = "adam"
    muon_rate: Positive = 1.0  # × learning_rate; of the convolutions that muon takes, AdamW has the other weights
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    weight_decay: Weight = 0.0
    learning_rate: Positive
    warm_up_steps: int = Field(default=0, ge=0)
    rates: tuple[tuple[UnitInterval, Positive], ...] | None = None  # (from this share of the stage on, × learning_rate)
    cosine_to: UnitInterval | None = None  # a cosine that ends at this share of the rate
    features: str | None = None  # such as "vgg19:relu3_4"
    discriminator: Discriminator | None = None

    @field_validator("rates")
    @classmethod
    def _begin_and_rise(cls, rates: tuple[tuple[float, float], ...] | None) -> tuple[tuple[float, float], ...] | None:
        if rates is not None:
            begins = [begin for begin, _ in rates]
            if not begins or begins[0] != 0:
                raise ValueError("the first rate must begin at 0.0: the first step needs one")
            if begins != sorted(set(begins)) or begins[-1] >= 1:
                raise ValueError("each rate must begin later than the one before, and before 1.0, where the stage ends")
        return rates

    @model_validator(mode="after")
    def _is_whole(self) -> TrainingStage:
        if (self.losses.adversarial > 0) != (self.discriminator is not None):
            raise ValueError("losses.adversarial and a discriminator belong together")
        if (self.losses.content + self.losses.content_raw > 0) != (self.features is not None):
            raise ValueError("losses.content or content_raw, and features, belong together")
        if self.rates is not None and self.cosine_to is not None:
            raise ValueError("rates and cosine_to exclude each other")
        if not any(self.losses.model_dump().values()):
            raise ValueError("no loss has a weight")
        return self


class Recipe(_Table):
    """See the module."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    about: str = Field(min_length=1)
    steps: int = Field(ge=1)  # of all stages together, where neither --steps nor --minutes is given
    average_decay: Decay = (
        0.0  # of the exponential moving average that is judged and shipped; 0: the weights themselves
    )
    clip_norm: Weight = 0.0  # 0: none
    recalibrate_batch_norm: bool = True  # statistics over the training set after each stage (SCIENCE §1.1)
    network: Network
    samples: Samples
    degradation: Degradation = Degradation()
    augmentation: Augmentation = Augmentation()
    stage: tuple[TrainingStage, ...] = Field(min_length=1)

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
    """Of the step (from 0) of a stage that has ``steps``.

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
