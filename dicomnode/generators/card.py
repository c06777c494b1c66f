"""A model's card: what it is, what it was trained on, what it is for, where it fails; read without torch."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from dicomnode.errors import ModelError
from dicomnode.imaging.profile import RATIO_LIMITS

REINSTALL = "Install the model again; do not edit a model directory in place."


class Kind(StrEnum):
    """How a generator is served (DESIGN §8); of these, ``cubic-dc`` has no weights and so no directory."""

    CUBIC_DC = "cubic-dc"
    SLICE = "slice"
    SLAB3 = "slab3"
    THIN = "thin"
    SRCNN = "srcnn"  # these two to be compared with; no rule may use them
    VDSR = "vdsr"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ThinParameters(_Strict):
    """Shape of ``thin.ThinNet``."""

    window: int = Field(ge=1, le=15)  # thick slices that the network sees, odd
    channels: int = Field(ge=1, le=1024)
    blocks: int = Field(ge=1, le=128)

    @model_validator(mode="after")
    def _has_a_middle(self) -> ThinParameters:
        if self.window % 2 == 0:
            raise ValueError("window must be odd, so that a slice is in its middle")
        return self


class SRResNetParameters(_Strict):
    """Shape of ``srresnet.SRResNet``; the defaults are the paper's."""

    channels: int = Field(default=64, ge=1, le=1024)
    blocks: int = Field(default=16, ge=1, le=128)


class SRCNNParameters(_Strict):
    """Shape of ``srcnn.SRCNN``; the defaults are its authors' best."""

    channels: int = Field(default=64, ge=1, le=1024)
    mapped: int = Field(default=32, ge=1, le=1024)
    middle: Literal[1, 3, 5] = 5  # pixels, side of the second kernel


class VDSRParameters(_Strict):
    """Shape of ``vdsr.VDSR``; the defaults are its authors'."""

    channels: int = Field(default=64, ge=1, le=1024)
    layers: int = Field(default=20, ge=2, le=128)


class DataRow(_Strict):
    """A volume that the model has met, and in which role."""

    volume: str = Field(min_length=1)
    subject: str = Field(min_length=1)  # volumes of one person never stand in two splits
    split: Literal["train", "validation"]
    licence: str = Field(min_length=1)
    pairs: str = ""  # simulated, real: how its slices came to have a truth
    field_strength_t: float | None = None  # as its headers say; NIfTI says nothing
    sequence: str = ""  # such as "3D, GR\\IR"


class MetricRow(_Strict):
    """One line of the card's summary."""

    volume: str = Field(min_length=1)
    measure: str = Field(min_length=1)  # in words, with unit, ratios and planes: it must be readable alone
    value: float


Ratio = Annotated[int, Field(ge=RATIO_LIMITS[0], le=RATIO_LIMITS[1])]


class _Card(_Strict):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    ratios: tuple[Ratio, Ratio]  # lowest and highest that it may be asked for
    consistency: bool = True  # is what was measured put back after the network?
    licence: str = Field(min_length=1)
    intended_use: str = Field(min_length=1)
    failure_modes: tuple[str, ...] = Field(min_length=1)
    recipe: str = ""  # of the trainer
    training: str = ""  # in words: steps, pairs, what it cost
    data: tuple[DataRow, ...] = Field(min_length=1)
    metrics: tuple[MetricRow, ...] = ()

    @model_validator(mode="after")
    def _is_sound(self) -> _Card:
        if self.ratios[0] > self.ratios[1]:
            raise ValueError("ratios must be [lowest, highest]")
        splits: dict[str, str] = {}
        for row in self.data:
            if splits.setdefault(row.subject, row.split) != row.split:
                raise ValueError(f"subject {row.subject} stands in two splits")
        return self


class ThinCard(_Card):
    """Card of the kind ``thin``."""

    kind: Literal[Kind.THIN] = Kind.THIN
    parameters: ThinParameters


class SRResNetCard(_Card):
    """Card of the paper's kinds: ``slice`` predicts a slice from itself, ``slab3`` its two neighbours as well."""

    kind: Literal[Kind.SLICE, Kind.SLAB3]
    parameters: SRResNetParameters = SRResNetParameters()


class SRCNNCard(_Card):
    """Card of the kind ``srcnn``, which predicts a slice from its interpolation."""

    kind: Literal[Kind.SRCNN] = Kind.SRCNN
    parameters: SRCNNParameters = SRCNNParameters()


class VDSRCard(_Card):
    """Card of the kind ``vdsr``, which predicts what an interpolated slice lacks."""

    kind: Literal[Kind.VDSR] = Kind.VDSR
    parameters: VDSRParameters = VDSRParameters()


Card = ThinCard | SRResNetCard | SRCNNCard | VDSRCard
_CARD: TypeAdapter[Card] = TypeAdapter(Annotated[Card, Field(discriminator="kind")])


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedModel:
    """A model directory whose every file had the digest that it was listed with."""

    card: Card
    digest: str
    weights: bytes = b""


def parse_card(text: bytes, path: Path) -> Card:
    """The card in TOML; ModelError names ``path`` and every key that is wrong."""
    try:
        raw = tomllib.loads(text.decode())
        # By way of JSON: only there does strict mode take an array for a tuple and text for an enumeration.
        return _CARD.validate_json(json.dumps(raw, default=str))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ModelError(f"{path} is not a TOML file: {exc}.", hint=REINSTALL) from exc
    except ValidationError as exc:
        mistakes = "; ".join(f"{_dotted(error['loc'])}: {error['msg']}" for error in exc.errors())
        raise ModelError(f"{path} is not a model card: {mistakes}.", hint="docs/models.md has every key.") from exc


def _dotted(location: tuple[str | int, ...]) -> str:
    # The first part is pydantic's tag of the union, which is the kind and no key.
    return ".".join(str(part) for part in location if part not in tuple(Kind)) or "card"


def card_toml(card: Card) -> str:
    """The card as TOML: keys of the card itself first, then its tables."""
    entries = card.model_dump(mode="json")
    plain = {key: value for key, value in entries.items() if key not in ("parameters", "data", "metrics")}
    sections = [_toml_lines(plain), "[parameters]\n" + _toml_lines(entries["parameters"])]
    sections += [f"[[{key}]]\n" + _toml_lines(row) for key in ("data", "metrics") for row in entries[key]]
    return "\n".join(sections)


def _toml_lines(entries: Mapping[str, object]) -> str:
    # Strings, numbers, booleans and flat arrays of them look the same in JSON and in TOML.
    filled = {key: value for key, value in entries.items() if value not in (None, "")}
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in filled.items())
