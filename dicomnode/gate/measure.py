"""Figures of a derived volume against the thick series, before it is encoded.

In: the thick volume and what a generator made of it. Out: findings. Range and averages are taken of all voxels.
What was added to cubic interpolation is judged in a window in the middle of the body, and only where that is large
enough for its figures not to be chance. No voxel is changed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dicomnode.gate.rule import RANGE_MARGIN, Check, Finding, finding, in_steps, rms, step_of
from dicomnode.generators.base import Generated
from dicomnode.generators.cubic_dc import cubic_dc
from dicomnode.imaging.body import body_mask, body_scale, body_window
from dicomnode.imaging.metrics import Mask, noise_sigma
from dicomnode.imaging.profile import assumed_thickness_over_spacing, missing_from
from dicomnode.imaging.volume import Volume

FloatArray = NDArray[np.float32]

NOTHING_ADDED: Final = 1e-3  # steps; less has no structure to judge

# Below these, the figures of the detail are chance.
SMALLEST_WINDOW: Final = 64  # pixels each way
FEWEST_SLICES: Final = 4
FEWEST_VOXELS: Final = 20_000  # of thick body
FEWEST_PIXELS: Final = 100  # of body in a thin slice, for a correlation


def is_number(thin: Volume) -> bool:
    """Are all voxels finite numbers? A volume with others cannot be encoded."""
    return all(math.isfinite(float(frame.sum(dtype=np.float64))) for frame in thin.voxels)


def look_at_volume(thick: Volume, made: Generated, *, consistency: bool) -> list[Finding]:
    """Check what a generator made of ``thick``, before it is encoded.

    ``consistency``: does the generator promise that the thin slices average to the thick ones?
    """
    ratio, thickness = len(made.thin.voxels) // len(thick.voxels), assumed_thickness_over_spacing(thick)
    findings = [_range(thick, made.thin)]
    if consistency:
        findings.append(_averages(made.thin, thick, ratio))
    scene = _scene_of(thick)
    if scene is None:
        return findings
    thin = made.thin.voxels[:, scene.rows, scene.columns]
    missing = missing_from(thin, scene.thick, ratio, thickness) if made.missing is None else made.missing
    findings.append(_put_back(missing, scene))
    detail = cubic_dc(scene.thick, ratio, thickness)
    np.subtract(thin, detail, out=detail)  # in place: a window is as large as the whole of a small series
    if max(map(rms, detail)) > NOTHING_ADDED * scene.step:
        findings += _of_detail(detail, thin, missing, ratio, scene)
    return findings


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Scene:
    """The window of a thick series in which its figures are measured, and the units of these figures."""

    rows: slice  # of the window
    columns: slice
    thick: FloatArray  # (n, h, w) within the window
    mask: Mask  # (n, h, w): body
    step: float
    steps: NDArray[np.float64]  # (n - 1,) of each pair of neighbours, within the window
    noise: float


def _scene_of(thick: Volume) -> _Scene | None:
    """Find the window around the middle of the body; None where the series is too small to say anything of it."""
    rows, columns = body_window(thick.voxels)
    inside = thick.voxels[:, rows, columns]
    if len(inside) < FEWEST_SLICES or min(inside.shape[1:]) < SMALLEST_WINDOW:
        return None
    mask = body_mask(inside / np.float32(body_scale(inside)))
    steps = np.array([rms(after - before) for before, after in pairwise(inside)])
    step = rms(steps)
    if np.count_nonzero(mask) < FEWEST_VOXELS or step == 0:
        return None
    return _Scene(
        rows=rows,
        columns=columns,
        thick=inside,
        mask=mask,
        step=step,
        steps=steps,
        noise=noise_sigma(inside, mask),
    )


def _range(thick: Volume, thin: Volume) -> Finding:
    lowest, highest = float(thick.voxels.min()), float(thick.voxels.max())
    margin = RANGE_MARGIN * (highest - lowest)
    low, high = np.float32(lowest - margin), np.float32(highest + margin)
    outside = sum(
        int(np.count_nonzero((frame < low) | (frame > high)))
        for frame in thin.voxels
        if frame.min() < low or frame.max() > high
    )
    return finding(Check.RANGE, outside / thin.voxels.size)


def _averages(thin: Volume, thick: Volume, ratio: int) -> Finding:
    thickness, step = assumed_thickness_over_spacing(thick), step_of(thick)
    left = [
        rms(missing_from(thin.voxels[owner * ratio : (owner + 1) * ratio], thick.voxels[[owner]], ratio, thickness))
        for owner in range(len(thick.voxels))
    ]
    return finding(Check.AVERAGES, in_steps(max(left), step))


def _put_back(missing: FloatArray, scene: _Scene) -> Finding:
    return finding(Check.PUT_BACK, max(map(rms, missing)) / scene.step, noise=scene.noise / scene.step)


def _of_detail(detail: FloatArray, thin: FloatArray, missing: FloatArray, ratio: int, scene: _Scene) -> list[Finding]:
    """Check what the generator added to cubic interpolation, within the window."""
    near = np.maximum(_nearest(scene.steps), scene.step / 2)  # slices that hold nothing differ by nothing
    of_slab = np.array([rms(slab) for slab in detail.reshape(len(near), -1)])
    jumps = np.array([rms(after - before) for before, after in pairwise(thin)])
    return [
        finding(Check.AMOUNT, float((of_slab / near).max())),
        _symmetry(detail, ratio, scene.mask),
        _lean(detail, missing, ratio, scene.mask),
        finding(Check.JUMP, float((jumps / np.repeat(near, ratio)[:-1]).max())),
        _grain(detail, ratio, scene.mask),
        _edges(detail, thin, ratio, scene.mask),
    ]


def _symmetry(detail: FloatArray, ratio: int, mask: Mask) -> Finding:
    """Compare the finest detail at each place in a slab with that at the mirrored place.

    A slab has no upper and lower side, so on average over a series the two hold the same amount.
    """
    medians = [float(np.median(np.abs(_finest(detail[phase::ratio])[mask[:, 1:, 1:]]))) for phase in range(ratio)]
    least = max(medians) * 1e-6
    return finding(
        Check.SYMMETRY,
        max(one / max(other, least) for one, other in zip(medians, reversed(medians), strict=True)) if least else 1.0,
    )


def _lean(detail: FloatArray, missing: FloatArray, ratio: int, mask: Mask) -> Finding:
    """Correlate what the projection put back with the difference of the detail between the ends of the slab.

    Detail that was made for other places in the slab than those where it was put leaves its average off to one side.
    """
    slabs = detail.reshape(-1, ratio, *detail.shape[1:])
    half = ratio // 2
    difference = slabs[:, ratio - half :].sum(axis=1) - slabs[:, :half].sum(axis=1)
    one, other = missing[mask], difference[mask]
    measured = abs(float(np.corrcoef(one, other)[0, 1])) if one.any() and other.any() else 0.0
    return finding(Check.LEAN, measured)


def _grain(detail: FloatArray, ratio: int, mask: Mask) -> Finding:
    """Measure how much of the added detail is of the size of a pixel, at the worst place in the slabs."""
    shares = []
    for phase in range(ratio):
        of_phase = detail[phase::ratio]
        whole = rms(of_phase[mask])
        shares.append(rms(_finest(of_phase)[mask[:, 1:, 1:]]) / whole if whole > 0 else 0.0)
    return finding(Check.GRAIN, max(shares))


def _edges(detail: FloatArray, thin: FloatArray, ratio: int, mask: Mask) -> Finding:
    """Measure whether detail was added where the anatomy has edges: the median correlation over the thin slices."""
    correlations = []
    for index in range(1, len(thin) - 1):
        inside = mask[index // ratio]
        added = np.abs(detail[index][inside])
        if added.size >= FEWEST_PIXELS and added.any():
            before, cubic, after = thin[index - 1 : index + 2] - detail[index - 1 : index + 2]
            down, along = np.gradient(cubic)
            across = (after - before) / 2
            edges = np.sqrt(down**2 + along**2 + across**2)[inside]
            correlations.append(float(np.corrcoef(added, edges)[0, 1]))
    return finding(Check.EDGES, float(np.median(correlations)) if correlations else 1.0)


def _finest(frames: FloatArray) -> FloatArray:
    """Detail of the size of a pixel, of frames (N, H, W): one σ of white noise comes out as one σ."""
    across = frames[:, :, 1:] - frames[:, :, :-1]
    finest: FloatArray = (across[:, 1:] - across[:, :-1]) * np.float32(0.5)
    return finest


def _nearest(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) for each slice: the larger one of the differences to its neighbours (n - 1,)."""
    nearest: NDArray[np.float64] = np.maximum(np.append(steps[:1], steps), np.append(steps, steps[-1:]))
    return nearest
