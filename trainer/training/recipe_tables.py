"""The tables of a recipe: every key, its type and its bounds. How keys fit together is ``fit``'s matter."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from dicomnode.generators.kinds import NetworkName
from dicomnode.imaging.profile import RATIO_LIMITS, ProfileKind
from dicomnode.strict_toml import StrictModel, fail

UnitInterval = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]  # at 1 nothing would ever be learned
Logarithm = Annotated[float, Field(ge=0, le=3)]  # of a gain or an exponent: twentyfold, far beyond any scanner's
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Ratio = Annotated[int, Field(ge=RATIO_LIMITS[0], le=RATIO_LIMITS[1])]
LARGEST_PATCH = 1024  # pixels
SMALLEST_PATCH = 8  # pixels; smaller ones hold no structure, and normalisations need values to take statistics of
# Thickness ÷ spacing: narrower slices fall between the samples of a profile, wider ones beyond a strip's margin.
THICKNESSES = (0.1, 3.0)
THICKNESS = re.compile(r"[0-9]+(\.[0-9]+)?")
FARTHEST_OFFSET = 0.5  # of a thick spacing: beyond it the next slice is nearer


class _Table(StrictModel):
    model_config = ConfigDict(allow_inf_nan=False)


class Network(_Table):
    """The network and its shape; what is left out is the paper's. Not every kind has every key: ``fit``."""

    kind: NetworkName
    channels: int = Field(default=64, ge=1, le=1024)
    blocks: int = Field(default=16, ge=1, le=128)  # residual blocks; VDSR: layers
    window: int = Field(default=5, ge=1, le=15)  # ``thin`` only: thick slices that it sees
    batch_norm_momentum: UnitInterval = 0.01  # torch's meaning: 0.1 is the published code's decay of 0.9


class Input(StrEnum):
    """The kinds of input of a slice-by-slice network."""

    THICK = "thick"  # the thick slice as it is (the paper)
    CUBIC = "cubic"  # the slice that cubic interpolation puts where the thin one lies (SRCNN, VDSR)


class Scale(StrEnum):
    """The unit of the network's numbers."""

    ROBUST = "robust"  # 1 = 99.5th percentile of the body, as the node serves it
    RAW = "raw"  # modality units as they are (the published code)


class Order(StrEnum):
    """The order in which samples come."""

    SHUFFLED = "shuffled"
    SERIES = "series"  # slice after slice, patient after patient (the published code)


def _two_sides(value: object) -> tuple[object, ...]:
    """One side stands for a square."""
    sides = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(sides) != 2 or not all(type(side) is int and 0 <= side <= LARGEST_PATCH for side in sides):
        fail(f"expected one side or two, in pixels, 0 to {LARGEST_PATCH}")
    return sides


class Samples(_Table):
    """The samples of one step. A strip is eleven thick slices of which three are thinned; a slice is one image."""

    design: Literal["strips", "slices"]
    batch: int = Field(ge=1, le=1024)  # strips (three windows each) or slices of a step, over all processes
    # Pixels, one side or two; 0: whole slices. Two that differ are for strips: a batch has them one way or the other,
    # and of a thick stack that teaches by its rows and columns the shorter one lies along its slices.
    patch: Annotated[tuple[int, int], BeforeValidator(_two_sides)] = (64, 64)
    ratios: Annotated[tuple[Ratio, ...], Field(min_length=1)] = tuple(range(RATIO_LIMITS[0], RATIO_LIMITS[1] + 1))
    input: Input = Input.THICK
    scale: Scale = Scale.ROBUST
    order: Order = Order.SHUFFLED

    @field_validator("patch")
    @classmethod
    def _is_large_enough(cls, patch: tuple[int, int]) -> tuple[int, int]:
        if any(patch) and min(patch) < SMALLEST_PATCH:
            raise ValueError(f"a patch is {SMALLEST_PATCH} pixels wide at least, or 0: whole slices")
        return patch

    @property
    def is_square(self) -> bool:
        """Are the sides of a patch equal?"""
        return self.patch[0] == self.patch[1]


class Degradation(_Table):
    """The degradation that makes thin slices thick: the ranges that are drawn from (docs/science.md#slice-profile)."""

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
    """The variations of samples beyond flips and transposition."""

    gamma_log: Logarithm = 0.0
    remap_share: UnitInterval = 0.0
    inversion_share: UnitInterval = 0.0
    gain_log: Logarithm = 0.0
    warp_share: UnitInterval = 0.0
    ramp_share: UnitInterval = 0.0  # a ramp along z is added
    pure_ramp_share: UnitInterval = 0.0  # … and nothing else
    smoothing_share: UnitInterval = 0.0  # of samples as of a series that was resampled or denoised
    lesion_share: UnitInterval = 0.0  # of samples that small lesions are put into


class Losses(_Table):
    """Weights of the loss terms; a term of weight 0 is not computed."""

    mse: Weight = 0.0
    charbonnier: Weight = 0.0
    z_gradient: Weight = 0.0  # Charbonnier of the steps along z (strips only)
    z_energy: Weight = 0.0  # squared difference of the detail's strength along z, times our strength (strips only)
    mirror: Weight = 0.0  # squared difference from what the reversed stack gives, derived beside it (strips only)
    structure: Weight = 0.0  # squared excess of large errors, smoothed (strips only)
    consistency: Weight = 0.0  # squared residual of the thick slices before the projection (strips only)
    content: Weight = 0.0  # squared distance of ``features`` ÷ their energy: some 30 times that of the values
    content_raw: Weight = 0.0  # the same of raw values, not divided: as the published code had it
    adversarial: Weight = 0.0


class DiscriminatorKind(StrEnum):
    """The kinds of discriminator as recipes name them."""

    PAPER = "paper"
    CODE = "code"
    PATCH = "patch"


PREDICTED_SLICES = 3  # thick slices of a strip that are predicted: a loss sees the seams between them

# A smaller image leaves a batch of one with a single value to take statistics of.
MIN_SIDE_PIXELS = {DiscriminatorKind.PAPER: 32, DiscriminatorKind.CODE: 128, DiscriminatorKind.PATCH: 2}


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


class RecipeTables(_Table):
    """A whole recipe whose keys need not fit together."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    about: str = Field(min_length=1)
    steps: int = Field(ge=1)  # of all stages together, where neither --steps nor --minutes is given
    average_decay: Decay = (
        0.0  # of the exponential moving average that is judged and shipped; 0: the weights themselves
    )
    clip_norm: Weight = 0.0  # 0: none
    # statistics over the training set after each stage (docs/paper.md#paper-code-recipes)
    recalibrate_batch_norm: bool = True
    network: Network
    samples: Samples
    degradation: Degradation = Degradation()
    augmentation: Augmentation = Augmentation()
    stage: tuple[TrainingStage, ...] = Field(min_length=1)
