"""Measure how near a thin volume is to the truth, by definitions from which two people get one number.

All volumes are divided by the truth's ``body_scale`` first, so the range is 1 (docs/science.md#metrics). Axis 0 is z.
PSNR, SSIM and HaarPSI say how much is wrong; edge width, z-detail, gradient error and slice noise say what it looks
like across the slices; noise and ceiling say how much could be gained at all.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dicomnode.imaging.profile import Matrix
from dicomnode.imaging.smoothing import gaussian

FloatArray = NDArray[np.float32]
Mask = NDArray[np.bool_]

SSIM_SIGMA, SSIM_RADIUS = 1.5, 5  # Wang 2004: Gaussian window of 11 voxels
SSIM_K1, SSIM_K2 = 0.01, 0.03  # Wang 2004
SSIM_SLICES_AT_ONCE = 32  # bounds its double-precision maps; neighbours within the window are read beside them
HAAR_C = 30.0  # Reisenhofer 2018, fitted for values 0…255
HAAR_ALPHA = 4.2  # Reisenhofer 2018
HAAR_RANGE = 255.0
HAAR_COMPARED, HAAR_WEIGHING = (2, 4), 8  # widths in pixels of the wavelets that are compared and that weigh
REFORMATS_AT_ONCE = 16  # bounds the wavelet coefficients to a few hundred MB
MAD_OF_UNIT_NORMAL = 0.6745  # median of |x| where x is normal with σ = 1
FLAT_SIGMA, FLAT_RADIUS = 1.5, 5  # of the smoothing before the gradient, so that noise is no structure
FLAT_SHARE = 0.3  # of the body voxels, those with the smallest gradient, are flat …
FLAT_LEVEL = 0.15  # … where they are brighter than the air of the mask's margin
EDGE_SHARE = 0.01  # of the voxels, those that change most across the slices, are edges
EDGE_LOW, EDGE_HIGH = 0.1, 0.9


def mse(image: FloatArray, truth: FloatArray, mask: Mask) -> float:
    """Mean squared error inside the mask; times the square of the scale it is in raw units."""
    assert image.shape == truth.shape == mask.shape
    return float(np.mean(np.square(image[mask] - truth[mask], dtype=np.float64)))


def psnr(image: FloatArray, truth: FloatArray, mask: Mask) -> float:
    """Peak signal to noise ratio inside the mask, dB, range 1; infinite for equal volumes."""
    error = mse(image, truth, mask)
    return -10.0 * math.log10(error) if error > 0 else math.inf


def worst_phase_psnr(image: FloatArray, truth: FloatArray, mask: Mask, ratio: int) -> float:
    """PSNR of the worst slice position inside the slab: those at its edge are the hard ones."""
    phases = [slice(phase, None, ratio) for phase in range(ratio)]
    return min(psnr(image[phase], truth[phase], mask[phase]) for phase in phases)


def ssim(image: FloatArray, truth: FloatArray, mask: Mask) -> float:
    """Mean 3-D structural similarity inside the mask, range 1 (Wang 2004, population covariance).

    Of a single slice (1, H, W) it is the 2-D similarity.
    """
    assert image.shape == truth.shape == mask.shape
    total = 0.0
    for start in range(0, len(truth), SSIM_SLICES_AT_ONCE):
        stop = min(start + SSIM_SLICES_AT_ONCE, len(truth))
        low, high = max(start - SSIM_RADIUS, 0), min(stop + SSIM_RADIUS, len(truth))
        own = slice(start - low, stop - low)
        total += float(_similarity_map(image[low:high], truth[low:high])[own][mask[start:stop]].sum())
    voxels = int(np.count_nonzero(mask))
    return total / voxels if voxels else math.nan


def _similarity_map(image: FloatArray, truth: FloatArray) -> NDArray[np.float64]:
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
    return similarity


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


def gradient_error(image: FloatArray, truth: FloatArray, mask: Mask) -> float:
    """Root mean square error of the step from one thin slice to the next, both inside the mask; range 1 per slice."""
    assert image.shape == truth.shape == mask.shape
    inside = mask[1:] & mask[:-1]
    difference = image - truth
    return _rms((difference[1:] - difference[:-1])[inside])


def z_detail(image: FloatArray, truth: FloatArray, mask: Mask) -> float:
    """Power of the finest detail across the slices: rms of the second z-difference, as a share of the truth's.

    1 is right, less is blurred, more is invented or noise (docs/science.md#metrics). Nan where the truth has no detail.
    """
    assert image.shape == truth.shape == mask.shape
    inside = mask[1:-1]
    of_truth = _rms(_second_difference(truth)[inside])
    return _rms(_second_difference(image)[inside]) / of_truth if of_truth > 0 else math.nan


def flat_regions(truth: FloatArray, mask: Mask) -> Mask:
    """Voxels of tissue where the smoothed truth hardly changes: what varies there from slice to slice is noise."""
    slopes = np.gradient(gaussian(truth, sigma=FLAT_SIGMA, radius=FLAT_RADIUS))
    steepness = np.sqrt(sum(slope**2 for slope in slopes))
    tissue = mask & (truth > FLAT_LEVEL)
    if not tissue.any():
        return tissue
    flat: Mask = tissue & (steepness <= np.quantile(steepness[tissue], FLAT_SHARE))
    return flat


def phase_noise(image: FloatArray, flat: Mask, ratio: int) -> tuple[float, ...]:
    """σ of slice-to-slice noise at each position inside the slab, range 1, as if it were white.

    From the second difference with both neighbours, whose variance is six times that of white noise; robust (MAD), so
    that a vessel counts little. Phases that differ show as stripes across the slices (docs/science.md#metrics: within
    15 %).
    """
    assert image.shape == flat.shape
    second, position = _second_difference(image), np.arange(1, len(image) - 1)
    sigmas = []
    for phase in range(ratio):
        chosen = position % ratio == phase
        values = second[chosen][flat[1:-1][chosen]]
        sigmas.append(_mad_sigma(values) / math.sqrt(6.0))
    return tuple(sigmas)


def edge_width(image: FloatArray, truth: FloatArray, mask: Mask, reach: int) -> float:
    """10–90 % width of edges across the slices, in thin slices; nan where the mean edge has no such width.

    The edges are found in the truth (so all methods are measured at the same places): the ``EDGE_SHARE`` of the mask's
    voxels that change most from the slice before to the slice after. Their profiles, ``reach`` slices each way and
    turned to rise, are averaged; 0 and 100 % are where the mean profile stops to fall and to rise around its middle,
    because what lies beyond an edge of real anatomy is no plateau. 1.6 is the least that can come out: the step of one
    slice is found from both its sides.
    """
    assert image.shape == truth.shape == mask.shape
    reach = min(reach, (len(truth) - 1) // 2)
    if reach < 2:
        return math.nan
    middle = slice(reach, len(truth) - reach)
    rise = np.zeros_like(truth)
    rise[1:-1] = truth[2:] - truth[:-2]
    candidates = np.abs(rise[middle]) * mask[middle]
    if not candidates.any():
        return math.nan
    strongest = candidates >= max(float(np.quantile(candidates[mask[middle]], 1.0 - EDGE_SHARE)), 1e-6)
    z, y, x = np.nonzero(strongest)
    sign = np.sign(rise[middle][strongest])
    profile = [float((image[z + offset, y, x] * sign).mean(dtype=np.float64)) for offset in range(2 * reach + 1)]
    return _rise_width(np.array(profile))


def consistency_residual(thin: FloatArray, thick: FloatArray, profile: Matrix) -> float:
    """Root mean square of A·thin − thick: how far the averages are from what was measured, in the volumes' unit."""
    assert profile.shape == (len(thick), len(thin))
    return _rms(np.tensordot(profile.astype(np.float32), thin, axes=1) - thick)


def noise_sigma(volume: FloatArray, mask: Mask) -> float:
    """σ of white noise, in the volume's unit: the finest diagonal Haar band (HHH) inside the mask, by MAD.

    The background would under-read filtered or skull-stripped volumes (docs/science.md#noise-floor). Nan without a
    block of 2³ voxels.
    """
    assert volume.shape == mask.shape
    even = tuple(slice(extent // 2 * 2) for extent in volume.shape)
    band, inside = volume[even], mask[even]
    for axis in range(3):
        first, second = (tuple(slice(k, None, 2) if i == axis else slice(None) for i in range(3)) for k in (0, 1))
        band, inside = (band[first] - band[second]) / np.float32(math.sqrt(2.0)), inside[first] & inside[second]
    return _mad_sigma(band[inside])


def psnr_ceiling(sigma: float, ratio: int, *, consistent: bool) -> float:
    """PSNR against a truth of noise σ that a generator of the noiseless anatomy would get, dB.

    See docs/science.md#noise-floor.

    ``consistent``: the mean noise of each slab is put back, which the noisy truth shares.
    """
    if not sigma > 0:
        return math.inf
    return -20.0 * math.log10(sigma) + (10.0 * math.log10(ratio / (ratio - 1)) if consistent else 0.0)


def _second_difference(volume: FloatArray) -> FloatArray:
    difference: FloatArray = volume[2:] - 2 * volume[1:-1] + volume[:-2]
    return difference


def _rms(values: FloatArray) -> float:
    return math.sqrt(float(np.mean(np.square(values, dtype=np.float64)))) if values.size else math.nan


def _mad_sigma(values: FloatArray) -> float:
    """σ of zero-mean normal values with outliers among them."""
    return float(np.median(np.abs(values))) / MAD_OF_UNIT_NORMAL if values.size else math.nan


def _rise_width(profile: NDArray[np.float64]) -> float:
    """10–90 % width of the rise through the middle of a profile, between its foot and its top on either side."""
    steps = np.diff(profile)
    middle = len(profile) // 2
    foot = top = middle
    while foot > 0 and steps[foot - 1] > 0:
        foot -= 1
    while top < len(steps) and steps[top] > 0:
        top += 1
    if foot == middle or top == middle:
        return math.nan
    rise = profile[foot : top + 1]
    share = (rise - rise[0]) / (rise[-1] - rise[0])
    return float(np.interp(EDGE_HIGH, share, np.arange(len(share))) - np.interp(EDGE_LOW, share, np.arange(len(share))))


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
    """The similarity of a pair of coefficient magnitudes (2, …): 1 where they are equal."""
    image, reference = magnitudes
    similarity: FloatArray = (2 * image * reference + HAAR_C) / (image**2 + reference**2 + HAAR_C)
    return similarity
