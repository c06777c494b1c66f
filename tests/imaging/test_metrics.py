"""Metrics against scikit-image and piq."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from dicomnode.imaging import metrics

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
    # piq imports torchvision, which fails where its compiled operators are absent unless their names are known.
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)  # type: ignore[no-untyped-call]
    piq = importlib.import_module("piq")
    pair = (torch.from_numpy(volume)[:, None].double() for volume in (images, references))
    similarity: NDArray[np.float64] = piq.haarpsi(*pair, reduction="none").flatten().numpy()
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
