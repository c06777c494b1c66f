"""The spread over the symmetries of the picture, against the same arithmetic written out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from dicomnode.generators.base import Generated, Progress, no_sharpness, thin_volume
from dicomnode.generators.cubic_dc import CubicDc
from dicomnode.generators.model_dir import load_generator
from dicomnode.generators.spread import SYMMETRIES, deviation_of, spread_of
from dicomnode.imaging.body import body_mask, body_scale
from dicomnode.imaging.profile import ThinGrid, thin_grid
from dicomnode.imaging.volume import Volume
from tests.support.model_folders import random_stack, write_thin


@dataclass(frozen=True)
class Ramp:
    """Adds what depends on the place in the picture: a ramp along the rows."""

    name: str = "ramp"
    digest: str = ""
    consistency: bool = False
    sharpness: float | None = None

    def at(self, sharpness: float) -> Self:
        """Refuse."""
        raise no_sharpness(self.name, sharpness)

    def generate(self, thick: Volume, grid: ThinGrid, *, device: str, progress: Progress | None = None) -> Generated:
        """Each thin slice is its thick one and the ramp."""
        del device, progress
        voxels = np.repeat(thick.voxels, grid.ratio, axis=0)
        voxels += np.arange(voxels.shape[2], dtype=np.float32)
        return Generated(thin=thin_volume(voxels, thick, grid))


def _bright(slices: int, height: int, width: int) -> Volume:
    """A stack that is body everywhere."""
    stack = random_stack(slices, height, width)
    return replace(stack, voxels=stack.voxels + np.float32(1000))


def test_what_depends_on_the_place_in_the_picture_is_the_spread() -> None:
    thick = _bright(5, 9, 14)
    rows, columns = np.mgrid[:9, :14].astype(np.float64)
    added = [columns, 13 - columns, rows, 8 - rows]  # each in a quarter of the symmetries
    deviation = np.std(np.repeat(added, 4, axis=0), axis=0, ddof=1)
    mask = body_mask(thick.voxels / np.float32(body_scale(thick.voxels)))
    assert mask.all()
    found_map = deviation_of(Ramp(), thick, thin_grid(thick, 3), device="cpu")
    assert found_map.voxels.shape == (15, 9, 14)
    np.testing.assert_allclose(found_map.voxels, np.broadcast_to(deviation, (15, 9, 14)), rtol=1e-3)
    found = spread_of(found_map, thick)
    scale = body_scale(thick.voxels)
    assert found.average == pytest.approx(np.sqrt(np.mean(deviation**2)) / scale, rel=1e-3)
    assert found.high == pytest.approx(np.percentile(deviation, 99) / scale, rel=2e-2)


def test_interpolation_has_none_and_a_network_has_some(tmp_path: Path) -> None:
    thick = _bright(6, 20, 16)
    grid = thin_grid(thick, 4)
    shares: list[float] = []
    none = deviation_of(CubicDc(), thick, grid, device="cpu", progress=shares.append)
    assert spread_of(none, thick).average < 1e-6
    assert len(shares) == len(SYMMETRIES) == 16
    assert shares[-1] == 1.0
    found = spread_of(deviation_of(load_generator(write_thin(tmp_path)), thick, grid, device="cpu"), thick)
    assert found.average > 1e-4
    assert f"{found.average:.2%}" in found.sentence
    assert "in 16 ways" in found.sentence
