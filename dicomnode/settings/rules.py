"""The keys of a rule: the series that it takes, the derivation, and the peers that get the result."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PlainValidator, model_validator

from dicomnode.settings.match import Match, parse_match
from dicomnode.settings.values import Word
from dicomnode.strict_toml import StrictModel, fail


class RuleSettings(StrictModel):
    """One rule: the series that it matches, their derivation, and the recipients. The first rule that matches wins."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    match: Annotated[Match, PlainValidator(parse_match)] = Match()
    model: Word | None = None  # None: the default model
    deliver_to: tuple[str, ...] = ()  # names of peers; empty: the result stays in the archive
    forward_originals: tuple[str, ...] = ()  # names of peers that get the series as it was received
    target_mm: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = 1.0
    min_ratio: Annotated[float, Field(ge=1, le=6, allow_inf_nan=False)] = 1.5
    max_gap_fraction: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.5
    derived: Literal["process", "keep"] = "process"
    allow_lossy: bool = False
    refuse_terms: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = ()
    sharpness: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None  # None: as the model's card says
    uncertainty: bool = False
    priority: Literal["urgent", "normal", "offpeak"] = "normal"
    release: Literal["auto", "review", "shadow"] = "auto"
    select: Literal["all", "most_slices"] = "all"  # choice among the series of one study that the rule takes

    @model_validator(mode="after")
    def _review_is_of_deliveries(self) -> Self:
        if self.release == "review" and not self.deliver_to:
            fail('release is "review", and deliver_to names no peer, so nothing would ever wait for review')
        return self
