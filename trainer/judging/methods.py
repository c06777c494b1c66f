"""The methods that are judged: interpolations without weights, and models exactly as the node serves them.

Each is a generator of the node's protocol. A model that the node projects onto what was measured is judged without
that projection too where its network replaces slices, because the published figures have none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from dicomnode.generators import cubic_dc, model_dir
from dicomnode.generators.base import Generated, Generator, Progress, no_sharpness, thin_volume
from dicomnode.generators.infer import restore_measured
from dicomnode.generators.kinds import NETWORKS, NetworkKind
from dicomnode.generators.served import ServedNetwork
from dicomnode.imaging.profile import (
    RATIO_LIMITS,
    Matrix,
    ThinGrid,
    assumed_thickness_over_spacing,
    spline_matrix,
    thin_grid,
)
from dicomnode.imaging.volume import Volume

FloatArray = NDArray[np.float32]

BASELINE = cubic_dc.NAME  # gains are over this
SHOWN_DIGEST = 8  # hexadecimal digits that tell models of one name apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpolation:
    """A generator without weights: one matrix along the slice axis, nothing put back."""

    name: str
    matrix: Callable[[int, int], Matrix]  # thick slices, ratio → (n·r, n)

    @property
    def digest(self) -> str:
        """The name: there are no weights to tell apart."""
        return self.name

    @property
    def consistency(self) -> bool:
        """False: nothing that was measured is put back."""
        return False

    @property
    def sharpness(self) -> float | None:
        """None: there are no weights to choose from."""
        return None

    def at(self, sharpness: float) -> Self:
        """Always an error: nothing was learned here."""
        raise no_sharpness(self.name, sharpness)

    def generate(self, thick: Volume, grid: ThinGrid, *, device: str, progress: Progress | None = None) -> Generated:
        """One matrix product; ``device`` is not used."""
        del device
        matrix = self.matrix(len(thick.voxels), grid.ratio).astype(np.float32)
        voxels = np.tensordot(matrix, thick.voxels, axes=1)
        if progress is not None:
            progress(1.0)
        return Generated(thin=thin_volume(voxels, thick, grid))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Method:
    """A generator under the name that reports give it."""

    name: str
    generator: Generator
    kind: str  # of a model's card; "interpolation" otherwise
    digest: str
    ratios: tuple[int, int] = RATIO_LIMITS
    is_projected: bool = False  # onto what was measured
    is_model: bool = False
    is_twin: bool = False  # of the method before it: the same network, not projected
    model: str = ""  # the name without the sharpness; of a model

    @property
    def network(self) -> NetworkKind | None:
        """The kind of its network; None for a method that has no network."""
        return NETWORKS[self.generator.kind] if isinstance(self.generator, ServedNetwork) else None

    def thin(self, thick: Volume, ratio: int, *, device: str) -> FloatArray:
        """(n·ratio, H, W) in the units of ``thick``."""
        return self.generator.generate(thick, thin_grid(thick, ratio), device=device).thin.voxels

    def serves(self, ratio: int) -> bool:
        """Was it made for that ratio?"""
        return self.ratios[0] <= ratio <= self.ratios[1]


def thinned(
    methods: Sequence[Method], thick: Volume, ratio: int, *, device: str
) -> Iterator[tuple[Method, FloatArray]]:
    """Each method that serves ``ratio``, and its thin stack in the units of ``thick``.

    A network that is judged with and without the projection runs once: it is what takes the time.
    """
    serving = [method for method in methods if method.serves(ratio)]
    twins = {method.digest: method for method in serving if method.is_twin}
    for method in serving:
        if method.is_twin:
            continue
        if (twin := twins.get(method.digest)) is None:
            yield method, method.thin(thick, ratio, device=device)
            continue
        plain = twin.thin(thick, ratio, device=device)
        projected = plain.copy()
        restore_measured(projected, thick.voxels, assumed_thickness_over_spacing(thick))
        yield method, projected
        yield twin, plain


def nearest_matrix(thick_slices: int, ratio: int) -> Matrix:
    """The thick slices as they are, each shown ``ratio`` times: the identity that the paper did not compare with."""
    return np.repeat(np.eye(thick_slices), ratio, axis=0)


def linear_matrix(thick_slices: int, ratio: int) -> Matrix:
    """Linear interpolation between the two nearest centres; outside the outermost ones their slice is repeated."""
    position = ((np.arange(thick_slices * ratio) + 0.5) / ratio - 0.5).clip(0, thick_slices - 1)
    return np.maximum(1.0 - np.abs(position[:, None] - np.arange(thick_slices)[None, :]), 0.0)


def baselines() -> tuple[Method, ...]:
    """Nearest, linear, cubic, cubic-dc."""
    plain = [
        Interpolation(name="nearest", matrix=nearest_matrix),
        Interpolation(name="linear", matrix=linear_matrix),
        Interpolation(name="cubic", matrix=spline_matrix),
    ]
    baseline = model_dir.load_generator(BASELINE)
    return (
        *(Method(name=one.name, generator=one, kind="interpolation", digest=one.digest) for one in plain),
        Method(name=BASELINE, generator=baseline, kind=BASELINE, digest=baseline.digest, is_projected=True),
    )


def load_methods(models: Sequence[str | Path], sharpness: Sequence[float] = ()) -> tuple[Method, ...]:
    """The baselines and the models, by name or directory; ModelError where one is not whole.

    A model with two sets of weights is judged at each ``sharpness``, where none is given at the one of its card.
    """
    served = {}
    for model in models:
        generator = model_dir.load_generator(model)
        if isinstance(generator, ServedNetwork):  # cubic-dc is there already
            served[generator.digest] = generator
    names = [generator.name for generator in served.values()]
    found = list(baselines())
    for generator in served.values():
        is_one_of_several = names.count(generator.name) > 1
        name = f"{generator.name} {generator.digest[:SHOWN_DIGEST]}" if is_one_of_several else generator.name
        if generator.sharpness is None or not sharpness:
            found.extend(as_methods(generator, name))
            continue
        for share in sharpness:
            at = as_methods(generator.at(share), f"{name} at {share:g}")
            found.extend(dataclasses.replace(method, model=name) for method in at)
    return tuple(found)


def as_methods(generator: ServedNetwork, name: str) -> Iterator[Method]:
    """The method as it is served, and where its network replaces slices also without the projection."""

    def method(shown: str, one: ServedNetwork) -> Method:
        return Method(
            name=shown,
            generator=one,
            kind=generator.kind.value,
            digest=generator.digest,
            ratios=generator.ratios,
            is_projected=one.consistency,
            is_model=True,
            is_twin=one is not generator,
            model=name,
        )

    yield method(name, generator)
    if generator.consistency and NETWORKS[generator.kind].is_of_slices:
        yield method(f"{name}, not projected", dataclasses.replace(generator, consistency=False))
