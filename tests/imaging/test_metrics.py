"""Metrics against scikit-image and piq."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from dicomnode.imaging import metrics
from tests.support.piq import import_piq

FloatArray = NDArray[np.float32]


def noisy_pair(shape: tuple[int, ...], *, noise: float = 0.1, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """A textured volume in 0…1 and a noisy copy."""
    rng = np.random.default_rng(seed)
    truth = rng.random(shape, dtype=np.float32)
    return np.clip(truth + noise * rng.standard_normal(shape, dtype=np.float32), 0, 1), truth


def test_psnr_counts_the_mask_alone() -> None:
    truth = np.zeros((2, 3, 4), dtype=np.float32)
    image = truth.copy()
    image[0] += 0.1
    image[1] += 7.0
    mask = np.zeros(truth.shape, dtype=bool)
    mask[0] = True
    assert metrics.psnr(image, truth, mask) == pytest.approx(20.0, abs=1e-4)
    assert metrics.psnr(truth, truth, mask) == math.inf


def test_the_worst_phase_is_the_worst_position_in_the_slab() -> None:
    truth = np.zeros((6, 4, 4), dtype=np.float32)
    image = truth + 0.01
    image[2::3] = 0.1
    assert metrics.worst_phase_psnr(image, truth, truth == 0, 3) == pytest.approx(20.0, abs=1e-4)


@pytest.mark.parametrize("shape", [(20, 30, 25), (11, 40, 12)])
def test_ssim_is_that_of_scikit_image(shape: tuple[int, int, int]) -> None:
    image, truth = noisy_pair(shape)
    mask = np.random.default_rng(1).random(shape) > 0.5
    _, similarity = structural_similarity(  # type: ignore[no-untyped-call]
        truth.astype(np.float64),
        image.astype(np.float64),
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    assert metrics.ssim(image, truth, mask) == pytest.approx(similarity[mask].mean(), abs=1e-9)


def piq_haarpsi(images: FloatArray, references: FloatArray) -> NDArray[np.float64]:
    """Of (N, H, W) pairs."""
    pair = (torch.from_numpy(volume)[:, None].double() for volume in (images, references))
    similarity: NDArray[np.float64] = import_piq().haarpsi(*pair, reduction="none").flatten().numpy()
    return similarity


@pytest.mark.parametrize("shape", [(4, 40, 33), (4, 40, 40), (3, 41, 57), (2, 17, 16)])
def test_haarpsi_is_that_of_piq(shape: tuple[int, int, int]) -> None:
    pair = noisy_pair(shape)
    np.testing.assert_allclose(metrics.haarpsi(*pair), piq_haarpsi(*pair), atol=1e-5)


def test_haarpsi_of_equal_and_of_empty_images_is_one() -> None:
    _, truth = noisy_pair((2, 20, 20))
    np.testing.assert_allclose(metrics.haarpsi(truth, truth), 1.0, atol=1e-6)
    np.testing.assert_allclose(metrics.haarpsi(truth * 0, truth * 0), 1.0, atol=1e-6)


def test_reformat_haarpsi_averages_both_planes_that_contain_z() -> None:
    image, truth = noisy_pair((24, 20, 18))
    mask = np.zeros(truth.shape, dtype=bool)
    mask[:, 3:15, 2:16] = True
    across_rows = piq_haarpsi(*(np.ascontiguousarray(v.transpose(1, 0, 2)[3:15]) for v in (image, truth))).mean()
    across_columns = piq_haarpsi(*(np.ascontiguousarray(v.transpose(2, 0, 1)[2:16]) for v in (image, truth))).mean()
    expected = (across_rows + across_columns) / 2
    assert metrics.reformat_haarpsi(image, truth, mask) == pytest.approx(expected, abs=1e-5)


def test_ssim_of_a_tall_volume_is_that_of_scikit_image() -> None:
    """More slices than are looked at in one go."""
    image, truth = noisy_pair((75, 14, 15))
    _, similarity = structural_similarity(  # type: ignore[no-untyped-call]
        truth.astype(np.float64),
        image.astype(np.float64),
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    assert metrics.ssim(image, truth, truth >= 0) == pytest.approx(similarity.mean(), abs=1e-9)


def test_ssim_of_one_slice_is_the_two_dimensional_one() -> None:
    image, truth = noisy_pair((1, 30, 25))
    _, similarity = structural_similarity(  # type: ignore[no-untyped-call]
        truth[0].astype(np.float64),
        image[0].astype(np.float64),
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    assert metrics.ssim(image, truth, truth >= 0) == pytest.approx(similarity.mean(), abs=1e-9)


def test_mse_is_the_square_of_a_constant_offset_and_ignores_what_is_outside() -> None:
    truth = np.zeros((2, 3, 4), dtype=np.float32)
    image = np.full_like(truth, 0.5)
    image[1] = 9.0
    mask = np.zeros(truth.shape, dtype=bool)
    mask[0] = True
    assert metrics.mse(image, truth, mask) == pytest.approx(0.25)


def test_the_gradient_error_sees_steps_and_not_an_offset() -> None:
    truth = np.zeros((6, 3, 3), dtype=np.float32)
    everywhere = truth == 0
    assert metrics.gradient_error(truth + np.float32(0.3), truth, everywhere) == pytest.approx(0.0, abs=1e-6)
    stairs = truth + np.float32(0.1) * (np.arange(6, dtype=np.float32)[:, None, None] % 2)
    assert metrics.gradient_error(stairs, truth, everywhere) == pytest.approx(0.1, rel=1e-5)


def test_z_detail_is_the_share_of_the_finest_detail_that_came_back() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((20, 8, 8), dtype=np.float32)
    smooth = np.broadcast_to(np.linspace(0, 1, 20, dtype=np.float32)[:, None, None], truth.shape)
    everywhere = truth >= 0
    assert metrics.z_detail(np.float32(0.5) * truth + smooth, truth, everywhere) == pytest.approx(0.5, abs=1e-5)
    assert metrics.z_detail(np.ascontiguousarray(smooth), truth, everywhere) == pytest.approx(0.0, abs=1e-5)
    assert math.isnan(metrics.z_detail(truth, np.zeros_like(truth), everywhere))


def blurred_step(width: float, shape: str) -> FloatArray:
    """(41, 4, 4) with one step across the slices, blurred by a Gaussian of σ or a box of full width ``width``."""
    z = np.arange(41) - 20.0
    if shape == "gaussian":
        values = np.array([0.5 * (1 + math.erf(place / width / math.sqrt(2))) for place in z])
    else:
        values = np.clip(z / width + 0.5, 0, 1)
    return np.broadcast_to(values.astype(np.float32)[:, None, None], (41, 4, 4)).copy()


@pytest.mark.parametrize(
    ("shape", "width", "expected"), [("gaussian", 2.0, 2 * 1.2816 * 2.0), ("box", 8.0, 6.4), ("box", 5.0, 4.0)]
)
def test_the_edge_width_is_the_analytic_one(shape: str, width: float, expected: float) -> None:
    """10–90 %: 2 · 1.2816 σ of a Gaussian, 0.8 of a box; the edge falls in one half, so that its sign is turned."""
    truth = blurred_step(0.5, "gaussian")
    image = blurred_step(width, shape)
    for volume in (truth, image):
        volume[:, :2] = 1 - volume[:, :2]
    assert metrics.edge_width(image, truth, truth >= 0, 12) == pytest.approx(expected, rel=0.03)


def test_an_edge_has_no_width_where_there_is_none() -> None:
    flat = np.full((20, 4, 4), 0.5, dtype=np.float32)
    assert math.isnan(metrics.edge_width(flat, flat, flat > 0, 6))
    two = blurred_step(1.0, "gaussian")[19:22]
    assert math.isnan(metrics.edge_width(two, two, two >= 0, 6))


def test_the_noise_of_a_textured_volume_is_found_inside_the_mask() -> None:
    """A smooth anatomy, white noise of known σ inside the mask, much more outside."""
    rng = np.random.default_rng(3)
    z, y, x = np.meshgrid(*[np.linspace(0, 3, 40)] * 3, indexing="ij")
    anatomy = 0.5 + 0.3 * np.sin(z) * np.cos(y + x)
    mask = (z - 1.5) ** 2 + (y - 1.5) ** 2 + (x - 1.5) ** 2 < 1.9
    noise = np.where(mask, 0.02, 0.2) * rng.standard_normal(mask.shape)
    volume = (anatomy + noise).astype(np.float32)
    assert metrics.noise_sigma(volume, mask) == pytest.approx(0.02, rel=0.05)
    assert math.isnan(metrics.noise_sigma(volume[:1], mask[:1]))


@pytest.mark.parametrize(("ratio", "extra"), [(3, 1.76), (4, 1.25), (5, 0.97)])
def test_the_ceiling_is_the_noise_less_what_consistency_shares(ratio: int, extra: float) -> None:
    """The published figures: −20 log10 σ, and 10 log10 (r / (r − 1)) more."""
    assert metrics.psnr_ceiling(0.01, ratio, consistent=False) == pytest.approx(40.0)
    assert metrics.psnr_ceiling(0.01, ratio, consistent=True) == pytest.approx(40.0 + extra, abs=0.005)
    assert metrics.psnr_ceiling(0.0, ratio, consistent=True) == math.inf


def test_the_ceiling_is_what_the_noiseless_anatomy_gets() -> None:
    """Measured: anatomy, and anatomy with the slab mean of the noise, against anatomy with noise."""
    rng = np.random.default_rng(5)
    sigma, ratio = 0.03, 4
    anatomy = np.full((40, 30, 30), 0.5, dtype=np.float32)
    noise = (sigma * rng.standard_normal(anatomy.shape)).astype(np.float32)
    shared = np.repeat(noise.reshape(10, ratio, 30, 30).mean(axis=1), ratio, axis=0)
    everywhere = anatomy > 0
    for perfect, consistent in ((anatomy, False), (anatomy + shared, True)):
        found = metrics.psnr(perfect, anatomy + noise, everywhere)
        assert found == pytest.approx(metrics.psnr_ceiling(sigma, ratio, consistent=consistent), abs=0.1)


def test_slice_noise_tells_the_phases_apart_in_flat_tissue() -> None:
    rng = np.random.default_rng(1)
    truth = np.full((60, 24, 24), 0.6, dtype=np.float32)
    truth[:, :, 12:] = 0.2  # an edge, which is not flat
    mask = truth > 0
    flat = metrics.flat_regions(truth, mask)
    assert flat.any()
    assert not flat[:, :, 11:13].any()
    white = (truth + 0.02 * rng.standard_normal(truth.shape)).astype(np.float32)
    assert metrics.phase_noise(white, flat, 3) == pytest.approx([0.02] * 3, rel=0.05)
    flickering = truth.copy()
    flickering[1::3] += (0.02 * rng.standard_normal(flickering[1::3].shape)).astype(np.float32)
    noise = metrics.phase_noise(flickering, flat, 3)
    assert max(noise) == noise[1]  # twice the weight of a neighbour in a second difference
    assert noise[1] > 1.9 * noise[0]


def test_flat_regions_of_air_are_none() -> None:
    air = np.zeros((8, 8, 8), dtype=np.float32)
    assert not metrics.flat_regions(air, air == 0).any()


def test_the_consistency_residual_is_what_the_averages_miss() -> None:
    thin = np.random.default_rng(2).random((12, 5, 5), dtype=np.float32)
    thick = thin.reshape(4, 3, 5, 5).mean(axis=1)
    profile = np.kron(np.eye(4), np.full((1, 3), 1 / 3))
    assert metrics.consistency_residual(thin, thick, profile) == pytest.approx(0.0, abs=1e-6)
    assert metrics.consistency_residual(thin + np.float32(0.1), thick, profile) == pytest.approx(0.1, rel=1e-4)
