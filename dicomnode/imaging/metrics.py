"""How near a thin volume is to the truth: PSNR, SSIM and HaarPSI, stated so that two people get one number.

All volumes are divided by the truth's ``body_scale`` first, so the range is 1 (SCIENCE §3.2). Axis 0 is z.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dicomnode.imaging.smoothing import gaussian

FloatArray = NDArray[np.float32]
Mask = NDArray[np.bool_]

SSIM_SIGMA, SSIM_RADIUS = 1.5, 5  # Wang 2004: Gaussian window of 11 voxels
SSIM_K1, SSIM_K2 = 0.01, 0.03  # Wang 2004
HAAR_C = 30.0  # Reisenhofer 2018, fitted for values 0…255
HAAR_ALPHA = 4.2  # Reisenhofer 2018
HAAR_RANGE = 255.0
HAAR_COMPARED, HAAR_WEIGHING = (2, 4), 8  # widths in pixels of the wavelets that are compared and that weigh
REFORMATS_AT_ONCE = 16  # bounds the wavelet coefficients to a few hundred MB


def psnr(image: FloatArray, truth: FloatArray, mask: Mask) -> float:
    """Peak signal to noise ratio inside the mask, dB, range 1; infinite for equal volumes."""
    assert image.shape == truth.shape == mask.shape
    error = float(np.mean(np.square(image[mask] - truth[mask], dtype=np.float64)))
    return -10.0 * math.log10(error) if error > 0 else math.inf


def worst_phase_psnr(image: FloatArray, truth: FloatArray, mask: Mask, ratio: int) -> float:
    """PSNR of the worst slice position inside the slab: those at its edge are the hard ones."""
    phases = [slice(phase, None, ratio) for phase in range(ratio)]
    return min(psnr(image[phase], truth[phase], mask[phase]) for phase in phases)


def ssim(image: FloatArray, truth: FloatArray, mask: Mask) -> float:
    """Mean 3-D structural similarity inside the mask, range 1 (Wang 2004, population covariance)."""
    assert image.shape == truth.shape == mask.shape

    def local_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return gaussian(values, sigma=SSIM_SIGMA, radius=SSIM_RADIUS)

    x, y = image.astype(np.float64), truth.astype(np.float64)  # variances are small differences of large numbers
    x_mean, y_mean = local_mean(x), local_mean(y)
    x_variance = local_mean(x * x) - x_mean**2
    y_variance = local_mean(y * y) - y_mean**2
    covariance = local_mean(x * y) - x_mean * y_mean
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    similarity = (2 * x_mean * y_mean + c1) * (2 * covariance + c2)
    similarity /= (x_mean**2 + y_mean**2 + c1) * (x_variance + y_variance + c2)
    return float(similarity[mask].mean())


def haarpsi(images: FloatArray, references: FloatArray) -> NDArray[np.float64]:
    """Haar wavelet perceptual similarity (N,) of pairs of images (N, H, W), range 1 (Reisenhofer 2018, subsampled).

    Values are clipped to the range, as the reference implementations demand. Two empty images score 1, where
    piq 0.8 gives infinity.
    """
    assert images.shape == references.shape
    assert images.ndim == 3
    both = np.stack([images, references]).clip(0.0, 1.0) * np.float32(HAAR_RANGE)
    both = _halved(both)
    weighted = np.zeros(len(images))
    total = np.zeros(len(images))
    for axis in (2, 3):
        weight = np.abs(_haar(both, HAAR_WEIGHING, axis)).max(axis=0)
        similarity = sum(_similarity(np.abs(_haar(both, width, axis))) for width in HAAR_COMPARED) / len(HAAR_COMPARED)
        weighted += (weight / (1.0 + np.exp(-HAAR_ALPHA * similarity))).sum(axis=(1, 2), dtype=np.float64)
        total += weight.sum(axis=(1, 2), dtype=np.float64)
    alike = 1.0 / (1.0 + math.exp(-HAAR_ALPHA))  # also of two empty images, where nothing weighs
    score = np.divide(weighted, total, out=np.full_like(total, alike), where=total > 0)
    psi: NDArray[np.float64] = (np.log(score / (1.0 - score)) / HAAR_ALPHA) ** 2
    return psi


def reformat_haarpsi(image: FloatArray, truth: FloatArray, mask: Mask) -> float:
    """Mean HaarPSI over both reformats that contain z; within a slice plane it does not see the problem.

    Reformats that hold no mask are left out: air compared with air is 1.
    """
    assert image.shape == truth.shape == mask.shape
    means = []
    for axis in (1, 2):
        held = mask.any(axis=tuple({0, 1, 2} - {axis}))
        images, truths = (np.moveaxis(volume, axis, 0)[held] for volume in (image, truth))
        starts = range(0, len(images), REFORMATS_AT_ONCE)
        scores = [haarpsi(images[i : i + REFORMATS_AT_ONCE], truths[i : i + REFORMATS_AT_ONCE]) for i in starts]
        means.append(float(np.concatenate(scores).mean()))
    return sum(means) / len(means)


def _halved(images: FloatArray) -> FloatArray:
    """Means of 2 × 2 pixels of (…, H, W); if either extent is odd both are padded with a zero, as in the source."""
    odd = max(images.shape[-2] % 2, images.shape[-1] % 2)
    padded = np.pad(images, [(0, 0)] * (images.ndim - 2) + [(0, odd)] * 2)
    height, width = (extent // 2 * 2 for extent in padded.shape[-2:])
    padded = padded[..., :height, :width]
    rows = padded[..., ::2, :] + padded[..., 1::2, :]
    quarter: FloatArray = (rows[..., ::2] + rows[..., 1::2]) * np.float32(0.25)
    return quarter


def _haar(images: FloatArray, width: int, axis: int) -> FloatArray:
    """Haar coefficients of one width across ``axis`` (2 or 3) of (P, N, H, W), same size, zeros outside."""
    before, after = width // 2 - 1, width // 2
    padded = np.pad(images, [(0, 0), (0, 0), (before, after), (before, after)])
    along = _window_sums(padded, width, 5 - axis)
    halves = _window_sums(along, width // 2, axis)
    length = images.shape[axis]
    coefficients: FloatArray = halves.take(range(length), axis) - halves.take(range(after, after + length), axis)
    return coefficients / np.float32(width)


def _window_sums(values: FloatArray, width: int, axis: int) -> FloatArray:
    """Sums of ``width`` (a power of two) neighbours along an axis that gets shorter by ``width`` - 1."""
    if width == 1:
        return values
    half = _window_sums(values, width // 2, axis)
    length = half.shape[axis] - width // 2
    sums: FloatArray = half.take(range(length), axis) + half.take(range(width // 2, width // 2 + length), axis)
    return sums


def _similarity(magnitudes: FloatArray) -> FloatArray:
    """Of the coefficient magnitudes of a pair (2, …): 1 where equal."""
    image, reference = magnitudes
    similarity: FloatArray = (2 * image * reference + HAAR_C) / (image**2 + reference**2 + HAAR_C)
    return similarity
