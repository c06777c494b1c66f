"""The kinds of generators, as one table: what a card says of a network, how it is built, and what it predicts.

Model cards, serving and the trainer read this table. A new kind of network is a name in ``Kind``, a model of its
parameters, a row of ``NETWORKS`` and a file with the network itself. torch is loaded only where a network is built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from dicomnode.generators import cubic_dc
from dicomnode.imaging.profile import RATIO_LIMITS
from dicomnode.strict_toml import StrictModel, fail

if TYPE_CHECKING:
    from torch import nn


class Kind(StrEnum):
    """The name of a kind, as cards, recipes and the ledger hold it; ``cubic-dc`` is no network and needs no card."""

    CUBIC_DC = cubic_dc.NAME
    SLICE = "slice"
    SLAB3 = "slab3"
    THIN = "thin"
    SRCNN = "srcnn"
    VDSR = "vdsr"


class ThinParameters(StrictModel):
    """Shape of ``thin.ThinNet``."""

    window: int = Field(ge=1, le=15)  # thick slices that the network sees, odd
    channels: int = Field(ge=1, le=1024)
    blocks: int = Field(ge=1, le=128)

    @model_validator(mode="after")
    def _has_a_middle(self) -> ThinParameters:
        if self.window % 2 == 0:
            raise ValueError("window must be odd, so that a slice is in its middle")
        return self


class SRResNetParameters(StrictModel):
    """Shape of ``srresnet.SRResNet``; the defaults are the paper's."""

    channels: int = Field(default=64, ge=1, le=1024)
    blocks: int = Field(default=16, ge=1, le=128)


class SRCNNParameters(StrictModel):
    """Shape of ``srcnn.SRCNN``; the defaults are its authors' best."""

    channels: int = Field(default=64, ge=1, le=1024)
    mapped: int = Field(default=32, ge=1, le=1024)
    middle: Literal[1, 3, 5] = 5  # pixels, side of the second kernel


class VDSRParameters(StrictModel):
    """Shape of ``vdsr.VDSR``; the defaults are its authors'."""

    channels: int = Field(default=64, ge=1, le=1024)
    layers: int = Field(default=20, ge=2, le=128)


Parameters = ThinParameters | SRResNetParameters | SRCNNParameters | VDSRParameters


class Prediction(StrEnum):
    """The prediction of a network, which decides what its input is and how its output becomes thin slices."""

    THIN_RESIDUALS = "thin residuals"  # of a window of thick slices: what the middle one's thin slices lack in cubic-dc
    SLICE = "slice"  # of one slice: the slice itself
    THREE_SLICES = "three slices"  # of one slice: the slice before, itself, the slice after
    SLICE_RESIDUAL = "slice residual"  # of one slice: what the slice lacks


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkKind:
    """One row of the table."""

    parameters: type[Parameters]  # named as the arguments of ``build``
    build: Callable[..., nn.Module]  # a new network in float32, its weights drawn from torch's generator
    prediction: Prediction
    ratios: tuple[int, int] = RATIO_LIMITS  # lowest and highest that a card may promise
    has_batch_norm: bool = False
    # Made to sharpen interpolated slices. Such a network is there to be compared with: no rule may use it.
    is_compared_only: bool = False

    @property
    def is_of_slices(self) -> bool:
        """Does the network see one slice at a time, and nothing of its neighbours?"""
        return self.prediction is not Prediction.THIN_RESIDUALS

    @property
    def slices_predicted(self) -> int:
        """The number of slices that a network of slices predicts from each one."""
        assert self.is_of_slices
        return 3 if self.prediction is Prediction.THREE_SLICES else 1


def _build_thin(*, window: int, channels: int, blocks: int) -> nn.Module:
    from dicomnode.generators.thin import ThinNet

    return ThinNet(window=window, channels=channels, blocks=blocks)


def _build_slice(*, channels: int, blocks: int) -> nn.Module:
    from dicomnode.generators.srresnet import SRResNet

    return SRResNet(outputs=1, channels=channels, blocks=blocks)


def _build_slab3(*, channels: int, blocks: int) -> nn.Module:
    from dicomnode.generators.srresnet import SRResNet

    return SRResNet(outputs=3, channels=channels, blocks=blocks)


def _build_srcnn(*, channels: int, mapped: int, middle: int) -> nn.Module:
    from dicomnode.generators.srcnn import SRCNN

    return SRCNN(channels=channels, mapped=mapped, middle=middle)


def _build_vdsr(*, channels: int, layers: int) -> nn.Module:
    from dicomnode.generators.vdsr import VDSR

    return VDSR(channels=channels, layers=layers)


NETWORKS: Final[dict[Kind, NetworkKind]] = {
    Kind.SLICE: NetworkKind(
        parameters=SRResNetParameters, build=_build_slice, prediction=Prediction.SLICE, has_batch_norm=True
    ),
    Kind.SLAB3: NetworkKind(
        parameters=SRResNetParameters, build=_build_slab3, prediction=Prediction.THREE_SLICES, has_batch_norm=True
    ),
    Kind.THIN: NetworkKind(
        parameters=ThinParameters,
        build=_build_thin,
        prediction=Prediction.THIN_RESIDUALS,
        ratios=(2, 6),  # one output head each: ``thin.RATIOS``
    ),
    Kind.SRCNN: NetworkKind(
        parameters=SRCNNParameters, build=_build_srcnn, prediction=Prediction.SLICE, is_compared_only=True
    ),
    Kind.VDSR: NetworkKind(
        parameters=VDSRParameters, build=_build_vdsr, prediction=Prediction.SLICE_RESIDUAL, is_compared_only=True
    ),
}


def _is_a_network(kind: Kind) -> Kind:
    if kind not in NETWORKS:
        fail(f"expected one of {', '.join(NETWORKS)}")
    return kind


NetworkName = Annotated[Kind, AfterValidator(_is_a_network)]  # in a file


def new_network(kind: Kind, parameters: Parameters) -> nn.Module:
    """A network of that kind and shape."""
    row = NETWORKS[kind]
    assert isinstance(parameters, row.parameters)
    return row.build(**parameters.model_dump())


def is_compared_only(kind: Kind) -> bool:
    """Is the kind there for evaluations only, so that no rule may use it?"""
    return kind in NETWORKS and NETWORKS[kind].is_compared_only
