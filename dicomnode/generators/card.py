"""A model's card: what it is, what it was trained on, what it is for, where it fails; read without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, ValidatorFunctionWrapHandler, field_validator, model_validator

from dicomnode.errors import ModelError
from dicomnode.generators.kinds import NETWORKS, NetworkName, Parameters
from dicomnode.imaging.profile import RATIO_LIMITS
from dicomnode.strict_toml import MistakesError, NotTomlError, StrictModel, check, parse

REINSTALL = "Install the model again; do not edit a model directory in place."


class DataRow(StrictModel):
    """A volume that the model has met, and in which role."""

    volume: str = Field(min_length=1)
    subject: str = Field(min_length=1)  # volumes of one person never stand in two splits
    split: Literal["train", "validation"]
    licence: str = Field(min_length=1)
    pairs: str = ""  # simulated, real: how its slices came to have a truth
    field_strength_t: float | None = None  # as its headers say; NIfTI says nothing
    sequence: str = ""  # such as "3D, GR\\IR"


class MetricRow(StrictModel):
    """One line of the card's summary."""

    volume: str = Field(min_length=1)
    measure: str = Field(min_length=1)  # in words, with unit, ratios and planes: it must be readable alone
    value: float


Dial = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Ratio = Annotated[int, Field(ge=RATIO_LIMITS[0], le=RATIO_LIMITS[1])]


class Card(StrictModel):
    """A model directory's description of its network; ``kind`` decides which ``parameters`` it has."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    kind: NetworkName
    ratios: tuple[Ratio, Ratio]  # lowest and highest that it may be asked for
    consistency: bool = True  # is what was measured put back after the network?
    # Default of the dial between the fidelity weights (0) and the adversarial ones (1); None: there is one set only.
    sharpness: Dial | None = None
    licence: str = Field(min_length=1)
    intended_use: str = Field(min_length=1)
    failure_modes: tuple[str, ...] = Field(min_length=1)
    recipe: str = ""  # of the trainer
    training: str = ""  # in words: steps, pairs, what it cost
    parameters: Parameters = Field(default_factory=dict, validate_default=True)
    data: tuple[DataRow, ...] = Field(min_length=1)
    metrics: tuple[MetricRow, ...] = ()

    @field_validator("parameters", mode="wrap")
    @classmethod
    def _are_of_the_kind(cls, value: object, _any: ValidatorFunctionWrapHandler, info: ValidationInfo) -> object:
        if "kind" not in info.data:  # a wrong kind is reported already
            return value
        return NETWORKS[info.data["kind"]].parameters.model_validate(value)

    @model_validator(mode="after")
    def _is_sound(self) -> Card:
        (lowest, highest), (least, most) = self.ratios, NETWORKS[self.kind].ratios
        if lowest > highest:
            raise ValueError("ratios must be [lowest, highest]")
        if lowest < least or highest > most:
            raise ValueError(f"ratios: the kind {self.kind} has outputs for {least} to {most}")
        if self.sharpness is not None and NETWORKS[self.kind].has_batch_norm:
            raise ValueError(f"sharpness: statistics of the kind {self.kind} cannot be interpolated")
        splits: dict[str, str] = {}
        for row in self.data:
            if splits.setdefault(row.subject, row.split) != row.split:
                raise ValueError(f"subject {row.subject} stands in two splits")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedModel:
    """A model directory whose every file had the digest that it was listed with."""

    card: Card
    digest: str
    weights: bytes = b""
    adversarial_weights: bytes = b""  # where the card has a sharpness


def parse_card(text: bytes, path: Path) -> Card:
    """The card in TOML; ModelError names ``path`` and every key that is wrong."""
    try:
        return check(Card, parse(text))
    except NotTomlError as exc:
        raise ModelError(f"{path} is not a TOML file: {exc}.", hint=REINSTALL) from exc
    except MistakesError as exc:
        raise ModelError(f"{path} is not a model card: {exc}.", hint="docs/models.md has every key.") from exc


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
