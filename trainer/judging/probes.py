"""Try methods on stacks whose right answer is known: a constant, a ramp, noise, a lesion put into a head.

Interpolation "invents" too (it rings), so every figure stands beside that of cubic-dc
(docs/science.md#invented-and-lost-detail).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dicomnode.imaging.profile import profile_matrix
from dicomnode.imaging.volume import Volume
from trainer.judging.cases import Case
from trainer.judging.methods import BASELINE, Method

FloatArray = NDArray[np.float32]

SLICES, EXTENT = 12, 64  # of the empty stacks
END_SLICES = 2  # left out at each end, where interpolation of a ramp bends
NOISE_SIGMA = 0.02
# Single lesions come back with anything between half and one and a half of what cubic-dc recovers of them: the mean
# over 12 was off by .05, over 192 it is off by about .01.
LESIONS = 192
LESIONS_FILL = 0.02  # of the tissue at most: a small volume has its lesions put in a few at a time
LESION_RADIUS_PIXELS = 3.0
LESION_CONTRAST = 0.3  # of the scale
LESION_EXTENTS = (0.5, 1.0, 2.0)  # along z, in thick slices
LESION_TISSUE = 0.25  # lesions go where the scan is brighter than this: into tissue
LESION_MARGIN_SLICES, LESION_MARGIN_PIXELS = 3, 8  # from the volume's faces: thick slices, pixels
# Invented structure: as large as half a lesion of the middle length, and as strong as half of one.
BLOB_SMOOTHING_VOXELS = 1.0
BLOB_CONTRAST = LESION_CONTRAST / 2
BLOB_VOLUME_SHARE = 0.5
LESION = "lesion"
BLOBS = "blobs that are not in the truth: how many"
SEED = 7
PROBED_PLANE, PROBED_RATIO = 0, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One figure, of a method and of cubic-dc."""

    what: str
    label: str  # the volume that lesions were put into; "made" for stacks without anatomy
    method: str
    cubic_dc: float
    model: float


def is_probed(case: Case) -> bool:
    """Are lesions put into this case? A thin truth, one plane, one ratio, and room for lesions."""
    margin = LESION_MARGIN_SLICES * case.ratio, LESION_MARGIN_PIXELS, LESION_MARGIN_PIXELS
    has_room = all(extent > 2 * edge for extent, edge in zip(case.truth.shape, margin, strict=True))
    return (
        has_room
        and not case.is_rethickened
        and case.is_nominal
        and (case.plane, case.ratio) == (PROBED_PLANE, PROBED_RATIO)
    )


def probe(methods: Sequence[Method], case: Case, *, device: str = "cpu") -> list[Probe]:
    """Every probe of every model at the ratio of ``case``, into whose truth the lesions are put."""
    base = next(method for method in methods if method.name == BASELINE)
    models = [method for method in methods if method.is_model and method.serves(case.ratio)]
    if not models:
        return []
    of_base = dict(_figures(base, case, device))
    return [
        Probe(what=what, label=label, method=method.name, cubic_dc=of_base[what, label], model=value)
        for method in models
        for (what, label), value in _figures(method, case, device)
    ]


def _figures(method: Method, case: Case, device: str) -> Iterator[tuple[tuple[str, str], float]]:
    template = replace(case, thickness_over_spacing=1.0).thick_volume()

    def thin(thick: FloatArray) -> FloatArray:
        return method.thin(_with_voxels(template, thick), case.ratio, device=device)

    flat = np.ones((SLICES, EXTENT, EXTENT), dtype=np.float32)
    yield ("constant 0.5: largest deviation", "made"), float(np.abs(thin(flat * np.float32(0.5)) - 0.5).max())

    rise = np.linspace(0.0, 1.0, SLICES, dtype=np.float32)
    step = 1.0 / (SLICES - 1)
    position = (np.arange(SLICES * case.ratio) + 0.5) / case.ratio - 0.5
    deviation = np.abs(thin(flat * rise[:, None, None]) - (position * step)[:, None, None])
    yield ("ramp 0 to 1 along z: largest deviation", "made"), float(_middle(deviation, case.ratio).max())

    noise = NOISE_SIGMA * np.random.default_rng(SEED).standard_normal(flat.shape, dtype=np.float32)
    gain = float(_middle(thin(flat * np.float32(0.5) + noise), case.ratio).std() / NOISE_SIGMA)
    yield ("white noise on 0.5: σ out / σ in", "made"), gain

    profile = profile_matrix(len(case.truth) // case.ratio, case.ratio).astype(np.float32)
    healthy = thin(np.tensordot(profile, case.truth, axes=1))
    yield (BLOBS, case.label), float(count_blobs(healthy, case))
    for extent in LESION_EXTENTS:
        found, voxels = {1: 0.0, -1: 0.0}, 0
        for lesions in draw_lesions(case, extent):
            inside = lesions > 0
            voxels += int(inside.sum())
            for sign in found:
                changed = case.truth + np.float32(sign * LESION_CONTRAST) * lesions
                difference = thin(np.tensordot(profile, changed, axes=1)) - healthy
                found[sign] += float(difference[inside].sum(dtype=np.float64)) / (sign * LESION_CONTRAST)
        for sign, word in ((1, "bright"), (-1, "dark")):
            what = f"{word} {LESION}, {extent:g} × slice spacing long: share of its contrast recovered"
            yield (what, case.label), found[sign] / voxels if voxels else math.nan


def draw_lesions(case: Case, extent: float) -> Iterator[FloatArray]:
    """1 inside ellipsoids at random places of the tissue, 0 elsewhere; ``extent`` in thick slices along z.

    ``LESIONS`` in all, in as many arrays as the share ``LESIONS_FILL`` of the tissue asks for.
    """
    rng = np.random.default_rng(SEED)
    radii = np.array([extent * case.ratio / 2, LESION_RADIUS_PIXELS, LESION_RADIUS_PIXELS])
    margin = np.array([LESION_MARGIN_SLICES * case.ratio, LESION_MARGIN_PIXELS, LESION_MARGIN_PIXELS])
    tissue = np.argwhere(case.truth > LESION_TISSUE)
    tissue = tissue[((tissue >= margin) & (tissue < case.truth.shape - margin)).all(axis=1)]
    if not len(tissue):
        return
    at_once = max(int(LESIONS_FILL * len(tissue) / (4 / 3 * np.pi * radii.prod())), 1)
    for first in range(0, LESIONS, at_once):
        chosen = rng.choice(len(tissue), min(at_once, LESIONS - first, len(tissue)), replace=False)
        centres = tissue[chosen] + rng.uniform(-0.5, 0.5, (len(chosen), 3))
        yield _ellipsoids(case.truth.shape, centres, radii)


def _ellipsoids(shape: tuple[int, ...], centres: NDArray[np.float64], radii: NDArray[np.float64]) -> FloatArray:
    found = np.zeros(shape, dtype=np.float32)
    for centre in centres:
        low = np.floor(centre - radii).astype(int)
        high = np.ceil(centre + radii).astype(int) + 1
        box = tuple(slice(start, stop) for start, stop in zip(low, high, strict=True))
        grid = np.stack(np.meshgrid(*(np.arange(b.start, b.stop) for b in box), indexing="ij"), axis=-1)
        found[box][(((grid - centre) / radii) ** 2).sum(axis=-1) <= 1.0] = 1.0
    return found


def count_blobs(thin: FloatArray, case: Case) -> int:
    """Connected regions of the body that differ from the truth by half a lesion's contrast, as large as half a lesion.

    Interpolation makes such regions, too: a slab that is spread over its neighbours lies beside its truth.
    """
    deviation = ndimage.gaussian_filter(thin - case.truth, BLOB_SMOOTHING_VOXELS)
    volume = 4 / 3 * np.pi * (case.ratio / 2) * LESION_RADIUS_PIXELS**2
    count = 0
    for sign in (1, -1):
        labels, _ = ndimage.label((sign * deviation > BLOB_CONTRAST) & case.mask)
        count += int((np.bincount(labels.ravel())[1:] >= BLOB_VOLUME_SHARE * volume).sum())
    return count


def _with_voxels(template: Volume, voxels: FloatArray) -> Volume:
    return replace(template, voxels=np.ascontiguousarray(voxels, dtype=np.float32))


def _middle(volume: NDArray[np.float32], ratio: int) -> NDArray[np.float32]:
    return volume[END_SLICES * ratio : -END_SLICES * ratio]
