"""A recipe: everything that decides how a network is trained, but for the data, the seed and the number of steps.

In: a name of ``recipes`` beside this file, or a TOML file. Out: a frozen ``Recipe``; keys that are unknown or do not
fit are one InputError that names all of them. They are explained in ``thin.toml`` and ``paper-model1.toml``.
"""

from __future__ import annotations

import json
import math
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dicomnode.errors import InputError
from dicomnode.generators.card import Kind
from dicomnode.imaging.profile import RATIO_LIMITS, ProfileKind

NO_STAGES = ("models", "board")  # folders of a run beside those of its stages
RECIPES = Path(__file__).resolve().parent / "recipes"
BUILT_IN = tuple(sorted(path.stem for path in RECIPES.glob("*.toml")))

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Ratio = Annotated[int, Field(ge=RATIO_LIMITS[0], le=RATIO_LIMITS[1])]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Network(_Strict):
    """Which network, and its shape; what is left out is the paper's."""

    kind: Literal[Kind.THIN, Kind.SLICE, Kind.SLAB3, Kind.SRCNN, Kind.VDSR]
    channels: int = Field(default=64, ge=1, le=1024)
    blocks: int = Field(default=16, ge=1, le=128)  # residual blocks; VDSR: layers
    window: int = Field(default=5, ge=1, le=15)  # ``thin`` only: thick slices that it sees
    batch_norm_momentum: Share = 0.01  # torch's meaning: 0.1 is the published code's decay of 0.9


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


class Samples(_Strict):
    """What one step is shown. A strip is eleven thick slices of which three are thinned; a slice is one image."""

    design: Literal["strips", "slices"]
    batch: int = Field(ge=1, le=1024)  # strips (three windows each) or slices of a step, over all processes
    patch: int = Field(default=64, ge=0, le=1024)  # pixels; 0: whole slices
    ratios: tuple[Ratio, ...] = tuple(range(RATIO_LIMITS[0], RATIO_LIMITS[1] + 1))
    input: Input = Input.THICK
    scale: Scale = Scale.ROBUST
    order: Order = Order.SHUFFLED


class Degradation(_Strict):
    """From what the thickening of thin slices is drawn (SCIENCE §2.1)."""

    profiles: dict[ProfileKind, Weight] = {ProfileKind.BOX: 1.0}  # kind → share
    thicknesses: dict[str, Weight] = {"1.0": 1.0}  # thickness ÷ spacing → share
    offset: Share = 0.0  # largest shift of the thick grid against the thin one, in thick spacings
    noise_share: Share = 0.0  # of samples that get Rician noise
    noise_max: Weight = 0.0  # its largest σ, 1 = the series' scale
    flicker_share: Share = 0.0  # of samples whose slices differ in gain
    flicker_max: Weight = 0.0  # largest σ of the gain's logarithm


class Augmentation(_Strict):
    """How samples are varied beyond flips and transposition."""

    gamma_log: Weight = 0.0
    remap_share: Share = 0.0
    inversion_share: Share = 0.0
    gain_log: Weight = 0.0
    warp_share: Share = 0.0
    ramp_share: Share = 0.0  # a ramp along z is added
    pure_ramp_share: Share = 0.0  # … and nothing else


class Losses(_Strict):
    """Weights of the loss terms; a term of weight 0 is not computed."""

    mse: Weight = 0.0
    charbonnier: Weight = 0.0
    z_gradient: Weight = 0.0  # Charbonnier of the steps along z (strips only)
    consistency: Weight = 0.0  # squared residual of the thick slices before the projection (strips only)
    content: Weight = 0.0  # squared distance of ``features`` ÷ their energy: some 30 times that of the values
    content_raw: Weight = 0.0  # the same of raw values, not divided: as the published code had it
    adversarial: Weight = 0.0


class Discriminator(_Strict):
    """The opponent of an adversarial stage."""

    kind: Literal["paper", "code", "patch"]
    loss: Literal["paper", "relativistic"] = "paper"
    learning_rate: Positive | None = None  # None: the generator's, as it changes
    r1: Weight = 0.0  # zero-centred gradient penalty on real images (R3GAN, eq. 8)
    r2: Weight = 0.0  # … on generated ones
    penalty_every: int = Field(default=1, ge=1, le=1000)  # steps


class Stage(_Strict):
    """One stretch of the training, with its own optimiser and folder."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    share: Positive  # of the run's steps, beside the other stages' shares
    losses: Losses
    optimizer: Literal["adam", "adamw", "muon"] = "adam"
    muon_rate: Positive = 1.0  # × learning_rate; of the convolutions that muon takes, AdamW has the other weights
    beta1: Share = 0.9
    beta2: Share = 0.999
    weight_decay: Weight = 0.0
    learning_rate: Positive
    warm_up_steps: int = Field(default=0, ge=0)
    rates: tuple[tuple[Share, Positive], ...] | None = None  # (from this share of the stage on, × learning_rate)
    cosine_to: Share | None = None  # a cosine that ends at this share of the rate
    features: str | None = None  # such as "vgg19:relu3_4"
    discriminator: Discriminator | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Stage:
        if (self.losses.adversarial > 0) != (self.discriminator is not None):
            raise ValueError("an adversarial weight and a discriminator belong together")
        if (self.losses.content + self.losses.content_raw > 0) != (self.features is not None):
            raise ValueError("a content weight and features belong together")
        if self.rates is not None and self.cosine_to is not None:
            raise ValueError("rates and cosine_to exclude each other")
        if self.muon_rate != 1.0 and self.optimizer != "muon":
            raise ValueError("muon_rate is for the optimizer muon")
        if not any(self.losses.model_dump().values()):
            raise ValueError("no loss has a weight")
        return self


class Recipe(_Strict):
    """See the module."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    about: str = Field(min_length=1)
    steps: int = Field(ge=1)  # of all stages together, where neither --steps nor --minutes is given
    average_decay: Share = (
        0.0  # of the exponential moving average that is judged and shipped; 0: the weights themselves
    )
    clip_norm: Weight = 0.0  # 0: none
    recalibrate_batch_norm: bool = True  # statistics over the training set after each stage (SCIENCE §1.1)
    network: Network
    samples: Samples
    degradation: Degradation = Degradation()
    augmentation: Augmentation = Augmentation()
    stage: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if (self.network.kind is Kind.THIN) != (self.samples.design == "strips"):
            raise ValueError("strips are for the kind thin, slices for all others")
        if len({stage.name for stage in self.stage}) != len(self.stage):
            raise ValueError("two stages have one name")
        for stage in self.stage:
            if self.samples.design == "slices" and (stage.losses.z_gradient or stage.losses.consistency):
                raise ValueError("z_gradient and consistency need strips: a slice has no z")
        if self.samples.patch == 0 and self.samples.batch > 1:
            raise ValueError("whole slices differ in size: their batch is 1")
        return self


def load(name: str) -> Recipe:
    """The recipe of that name, or of that file."""
    path = RECIPES / f"{name}.toml" if name in BUILT_IN else Path(name)
    try:
        text = path.read_bytes().decode()
        raw = tomllib.loads(text)
    except OSError as exc:
        raise InputError(
            f"There is no recipe {name}: {exc.strerror}.", hint=f"Use one of {', '.join(BUILT_IN)}, or a TOML file."
        ) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise InputError(f"The recipe {path.name} is not a TOML file: {exc}.") from exc
    try:
        # By way of JSON: only there does strict mode take an array for a tuple and text for an enumeration.
        return Recipe.model_validate_json(json.dumps(raw, default=str))
    except ValidationError as exc:
        mistakes = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}" for e in exc.errors())
        raise InputError(
            f"The recipe {path.name} is not one: {mistakes}.",
            hint="trainer/training/recipes/thin.toml explains every key.",
        ) from exc


def stage_steps(recipe: Recipe, steps: int) -> tuple[int, ...]:
    """The steps of each stage, at least one; together ``steps`` where that is possible."""
    total = sum(stage.share for stage in recipe.stage)
    ends = [round(steps * sum(s.share for s in recipe.stage[: k + 1]) / total) for k in range(len(recipe.stage))]
    return tuple(max(end - begin, 1) for begin, end in zip([0, *ends], ends, strict=False))


def learning_rate(stage: Stage, step: int, steps: int) -> float:
    """Of the step (from 0) of a stage that has ``steps``.

    >>> stage = Stage(name="a", share=1, losses=Losses(mse=1), learning_rate=1e-4, rates=((0.0, 1.0), (0.5, 0.1)))
    >>> [round(learning_rate(stage, step, 4), 6) for step in range(4)]
    [0.0001, 0.0001, 1e-05, 1e-05]
    """
    rate = stage.learning_rate * min(1.0, (step + 1) / max(stage.warm_up_steps, 1))
    if stage.rates is not None:
        return rate * [factor for begin, factor in stage.rates if step >= begin * steps][-1]
    if stage.cosine_to is not None:
        return rate * (stage.cosine_to + (1 - stage.cosine_to) * 0.5 * (1 + math.cos(math.pi * step / steps)))
    return rate
