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

from dicomnode.imaging.profile import profile_matrix
from dicomnode.imaging.volume import Volume
from trainer.judging.cases import Case
from trainer.judging.lesions import LESION_CONTRAST, LESION_EXTENTS, draw_lesions, has_room
from trainer.judging.methods import BASELINE, Method

FloatArray = NDArray[np.float32]

SLICES, EXTENT = 12, 64  # of the empty stacks
END_SLICES = 2  # left out at each end, where interpolation of a ramp bends
NOISE_SIGMA = 0.02
LESION = "lesion"
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
    return (
        has_room(case)
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


def _with_voxels(template: Volume, voxels: FloatArray) -> Volume:
    return replace(template, voxels=np.ascontiguousarray(voxels, dtype=np.float32))


def _middle(volume: NDArray[np.float32], ratio: int) -> NDArray[np.float32]:
    return volume[END_SLICES * ratio : -END_SLICES * ratio]
