"""Gaussian smoothing of volumes as three small matrix products: no image library is needed for it."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Real = TypeVar("Real", np.float32, np.float64)


def gaussian(volume: NDArray[Real], *, sigma: float, radius: int) -> NDArray[Real]:
    """``volume`` smoothed along each axis, cut at ``radius`` voxels, mirrored at its faces (edge voxels repeated)."""
    smooth = volume
    for axis, extent in enumerate(volume.shape):
        kernel = _smoothing_matrix(extent, sigma, radius).astype(volume.dtype)
        smooth = np.moveaxis(np.tensordot(kernel, smooth, axes=(1, axis)), 0, axis)
    return smooth


def _smoothing_matrix(extent: int, sigma: float, radius: int) -> NDArray[np.float64]:
    """(extent, extent): row i holds the weights of voxel i's neighbours."""
    reach = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (reach / sigma) ** 2)
    weights /= weights.sum()
    source = (np.arange(extent)[:, None] + reach[None, :]) % (2 * extent)
    mirrored = np.where(source < extent, source, 2 * extent - 1 - source)
    matrix = np.zeros((extent, extent))
    np.add.at(matrix, (np.arange(extent)[:, None], mirrored), weights[None, :])
    return matrix
