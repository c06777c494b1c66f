"""Gaussian smoothing, against scipy's."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from dicomnode.imaging.smoothing import gaussian


@given(st.tuples(*[st.integers(1, 17)] * 3), st.integers(0, 2**32 - 1))
def test_it_is_the_mirrored_gaussian_filter(shape: tuple[int, int, int], seed: int) -> None:
    volume = np.random.default_rng(seed).standard_normal(shape)
    expected = ndimage.gaussian_filter(volume, 1.5, radius=5, mode="reflect")
    np.testing.assert_allclose(gaussian(volume, sigma=1.5, radius=5), expected, atol=1e-12)


def test_the_precision_of_the_input_is_kept() -> None:
    assert gaussian(np.ones((3, 3, 3), dtype=np.float32), sigma=1.0, radius=2).dtype == np.float32
