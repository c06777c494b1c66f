"""What a network makes of stacks whose right answer is known: a constant, a ramp, noise, a lesion put into a head.

Interpolation "invents" too (it rings), so every figure stands beside that of cubic-dc (SCIENCE §3.5, §4.7).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dicomnode.generators.cubic_dc import cubic_dc
from dicomnode.generators.thin import ThinNet
from dicomnode.imaging.profile import profile_matrix
from trainer import sources
from trainer.cases import Case, prepare
from trainer.evaluate import thin_stack
from trainer.simulate import FloatArray
from trainer.sources import Split

SLICES, EXTENT = 12, 64  # of the empty stacks
END_SLICES = 2  # left out at each end, where interpolation of a ramp bends
NOISE_SIGMA = 0.02
LESIONS = 12
LESION_RADIUS_PIXELS = 3.0
LESION_CONTRAST = 0.3  # of the scale
LESION_EXTENTS = (0.5, 1.0, 2.0)  # along z, in thick slices
LESION_TISSUE = 0.25  # lesions go where the scan is brighter than this: into tissue
SEED = 7
PROBED_SUBJECT, PROBED_PLANE, PROBED_RATIO = "philips_mprage", 0, 4  # of the validation split


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One figure, of both methods."""

    what: str
    cubic_dc: float
    model: float


Thin = Callable[[FloatArray], FloatArray]


def probed_case(data: Path) -> Case:
    """The head that lesions are put into."""
    voxels = sources.load(PROBED_SUBJECT, data, Split.VALIDATION)
    return prepare(PROBED_SUBJECT, Split.VALIDATION, voxels, plane=PROBED_PLANE, ratio=PROBED_RATIO)


def probe(net: ThinNet, case: Case) -> list[Probe]:
    """Every probe at the ratio of ``case``, into whose truth the lesions are put."""

    def by_cubic_dc(thick: FloatArray) -> FloatArray:
        return cubic_dc(thick, case.ratio, 1.0)

    def by_model(thick: FloatArray) -> FloatArray:
        return thin_stack(net, thick, by_cubic_dc(thick), case.ratio)

    figures = (dict(_figures(method, case)) for method in (by_cubic_dc, by_model))
    base, model = figures
    return [Probe(what=what, cubic_dc=base[what], model=model[what]) for what in base]


def _figures(thin: Thin, case: Case) -> Iterator[tuple[str, float]]:
    flat = np.ones((SLICES, EXTENT, EXTENT), dtype=np.float32)
    yield "constant 0.5: largest deviation", float(np.abs(thin(flat * np.float32(0.5)) - 0.5).max())

    rise = np.linspace(0.0, 1.0, SLICES, dtype=np.float32)
    step = 1.0 / (SLICES - 1)
    position = (np.arange(SLICES * case.ratio) + 0.5) / case.ratio - 0.5
    deviation = np.abs(thin(flat * rise[:, None, None]) - (position * step)[:, None, None])
    yield "ramp 0 to 1 along z: largest deviation", float(_middle(deviation, case.ratio).max())

    noise = NOISE_SIGMA * np.random.default_rng(SEED).standard_normal(flat.shape, dtype=np.float32)
    yield "white noise on 0.5: σ out / σ in", float(_middle(thin(flat * 0.5 + noise), case.ratio).std() / NOISE_SIGMA)

    profile = profile_matrix(len(case.truth) // case.ratio, case.ratio).astype(np.float32)
    healthy = thin(np.tensordot(profile, case.truth, axes=1))
    for extent in LESION_EXTENTS:
        lesions = draw_lesions(case, extent)
        for sign, word in ((1.0, "bright"), (-1.0, "dark")):
            changed = case.truth + np.float32(sign * LESION_CONTRAST) * lesions
            difference = thin(np.tensordot(profile, changed, axes=1)) - healthy
            recovered = float(difference[lesions > 0].mean()) / (sign * LESION_CONTRAST)
            yield f"{word} lesion, {extent:g} × slice spacing long: share of its contrast recovered", recovered


def draw_lesions(case: Case, extent: float) -> FloatArray:
    """1 inside ellipsoids at random places of the tissue, 0 elsewhere; ``extent`` in thick slices along z."""
    rng = np.random.default_rng(SEED)
    radii = np.array([extent * case.ratio / 2, LESION_RADIUS_PIXELS, LESION_RADIUS_PIXELS])
    margin = np.array([3 * case.ratio, 8, 8])
    tissue = np.argwhere(case.truth > LESION_TISSUE)
    tissue = tissue[((tissue >= margin) & (tissue < case.truth.shape - margin)).all(axis=1)]
    lesions = np.zeros_like(case.truth)
    for centre in tissue[rng.choice(len(tissue), LESIONS, replace=False)] + rng.uniform(-0.5, 0.5, (LESIONS, 3)):
        low = np.floor(centre - radii).astype(int)
        high = np.ceil(centre + radii).astype(int) + 1
        box = tuple(slice(start, stop) for start, stop in zip(low, high, strict=True))
        grid = np.stack(np.meshgrid(*(np.arange(b.start, b.stop) for b in box), indexing="ij"), axis=-1)
        lesions[box][(((grid - centre) / radii) ** 2).sum(axis=-1) <= 1.0] = 1.0
    return lesions


def _middle(volume: NDArray[np.float32], ratio: int) -> NDArray[np.float32]:
    return volume[END_SLICES * ratio : -END_SLICES * ratio]
