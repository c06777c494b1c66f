"""Estimate how long a generator takes on this machine for a series of everyday size, in about a second.

In: a loaded generator and a device. Out: the seconds that the reference series would take, scaled up from a small stack
of noise, which no generator can leave out as air. Reading, writing and the result gate are not in them. Nothing is
decided here.
"""

from __future__ import annotations

import time

import numpy as np

from dicomnode.generators.base import Generator
from dicomnode.imaging.profile import thin_grid
from dicomnode.imaging.volume import Volume

# A brain in slices of 5 mm, at a ratio of 5: what most protocols hold several times.
REFERENCE_SLICES, REFERENCE_EXTENT, REFERENCE_RATIO = 30, 512, 5
REFERENCE = (
    f"a series of {REFERENCE_SLICES} slices of {REFERENCE_EXTENT} × {REFERENCE_EXTENT} at ratio {REFERENCE_RATIO}"
)
# A scanner needs some four minutes for such a series. A node derives one series after the other, so with two scanners
# each series may take two minutes; beyond that the queue grows for as long as both of them work.
LATE_S = 120.0
SAMPLE_SLICES, SAMPLE_EXTENT = 2, 256
TIMED_S = 1.0  # after a first run that chooses kernels


def seconds_for_reference(generator: Generator, ratios: tuple[int, int], *, device: str) -> float:
    """The seconds of ``generate`` for the reference series, from the fastest run: others' load only ever adds time.

    ``ratios``: the lowest and highest that the generator was made for; the one nearest to the reference's is taken.
    """
    lowest, highest = ratios
    thick = _sample()
    grid = thin_grid(thick, min(max(REFERENCE_RATIO, lowest), highest))
    generator.generate(thick, grid, device=device)
    fastest_s, spent_s = float("inf"), 0.0
    while spent_s < TIMED_S:
        began = time.perf_counter()
        generator.generate(thick, grid, device=device)
        taken_s = time.perf_counter() - began
        fastest_s, spent_s = min(fastest_s, taken_s), spent_s + taken_s
    return fastest_s * REFERENCE_SLICES * REFERENCE_EXTENT**2 / (SAMPLE_SLICES * SAMPLE_EXTENT**2)


def _sample() -> Volume:
    x, y, z = np.eye(3)
    voxels = np.random.default_rng(0).random((SAMPLE_SLICES, SAMPLE_EXTENT, SAMPLE_EXTENT), dtype=np.float32)
    return Volume(
        voxels=voxels, origin_mm=np.zeros(3), row_direction=x, column_direction=y, slice_step_mm=5.0 * z,
        row_spacing_mm=1.0, column_spacing_mm=1.0, slice_thickness_mm=5.0,
    )  # fmt: skip
