"""The protocol of every generator: a thick stack and a thin grid in, the thin stack out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import ModelError
from dicomnode.imaging.profile import ThinGrid
from dicomnode.imaging.volume import Volume

Progress = Callable[[float], None]  # called with the share that is done, 0…1, rising


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Generated:
    """A thin volume, and what its averages lacked of the thick slices before the projection put that back."""

    thin: Volume
    missing: NDArray[np.float32] | None = None  # (n, h, w) within ``body_window``; None: nothing was put back
    network_share: float | None = None  # of the pixels that a network ran on; None: there was none


class Generator(Protocol):
    """Derives thin slices; sees arrays and geometry, never DICOM (docs/models.md)."""

    @property
    def name(self) -> str:
        """The name by which a rule calls this model."""

    @property
    def digest(self) -> str:
        """Identifies code or weights: the sha256 of a model directory's SHA256SUMS, or a version of the method."""

    @property
    def consistency(self) -> bool:
        """Is what was measured put back: do the thin slices average to the thick ones?"""

    @property
    def sharpness(self) -> float | None:
        """The place between the fidelity weights, 0, and the adversarial ones, 1; None: there are not two sets."""

    def at(self, sharpness: float) -> Self:
        """The same generator with another sharpness, 0…1; ModelError where there are not two sets of weights."""

    def generate(self, thick: Volume, grid: ThinGrid, *, device: str, progress: Progress | None = None) -> Generated:
        """``thick`` sampled on ``grid``, in the units of ``thick``."""


def no_sharpness(name: str, wanted: float) -> ModelError:
    """The error of ``at`` where there is nothing to choose from."""
    return ModelError(
        f"Model {name} does not have two sets of weights, so sharpness {wanted:g} cannot be chosen for it.",
        hint="Leave the sharpness out, or use a model whose card states one.",
    )


def thin_volume(voxels: NDArray[np.float32], thick: Volume, grid: ThinGrid) -> Volume:
    """``voxels`` (grid.slices, H, W) placed in the patient; each thin slice is as thick as its spacing."""
    assert voxels.shape == (grid.slices, *thick.voxels.shape[1:]), voxels.shape
    return Volume(
        voxels=voxels,
        origin_mm=grid.origin_mm,
        row_direction=thick.row_direction,
        column_direction=thick.column_direction,
        slice_step_mm=grid.slice_step_mm,
        row_spacing_mm=thick.row_spacing_mm,
        column_spacing_mm=thick.column_spacing_mm,
        slice_thickness_mm=grid.slice_spacing_mm,
    )
