"""A trial of the model on slices that were measured: is the series like those that it was trained on?

The series' own slices are merged two by two, and the model parts them again. Its result must not be much worse than
interpolation. In: the thick volume and what the generator made of the merged slices. Out: one finding. The network sees
a twentieth of the job's pixels once more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dicomnode.gate.rule import Check, Finding, finding, rms
from dicomnode.generators.base import Generated
from dicomnode.generators.cubic_dc import cubic_dc
from dicomnode.imaging.body import WINDOW, body_window
from dicomnode.imaging.profile import assumed_thickness_over_spacing
from dicomnode.imaging.volume import Volume

RATIO: Final = 2
FEWEST_SLICES: Final = 12  # six pairs; of five, a good series lost 0.4 dB by chance
SMALLEST_SIDE: Final = 64  # pixels
SHARE: Final = 0.1  # of the pixels of a slice; each second slice makes it a twentieth
BORDER: Final = 12  # pixels: what lies beyond the part is unknown to the network, and alters it that far


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """A part of a series whose slices are known: ``merged`` holds the means of two neighbours each."""

    merged: Volume
    slices: NDArray[np.float32]  # (2·n, h, w), the ones that were merged


def trial_of(thick: Volume) -> Trial | None:
    """Merge the slices of a part of ``thick`` two by two; None where the series is too small for it."""
    pairs, pixels = len(thick.voxels) // 2, thick.voxels[0].size
    side = min(int(math.sqrt(SHARE * pixels)), WINDOW)
    if 2 * pairs < FEWEST_SLICES or side < SMALLEST_SIDE or side > min(thick.voxels.shape[1:]):
        return None
    rows, columns = body_window(thick.voxels, side)
    slices = thick.voxels[: 2 * pairs, rows, columns]
    merged = replace(
        thick,
        voxels=(slices[::2] + slices[1::2]) / np.float32(2),
        origin_mm=thick.origin_mm + thick.slice_step_mm / 2,  # the part lies elsewhere, which no generator sees
        slice_step_mm=2 * thick.slice_step_mm,
        slice_thickness_mm=thick.slice_spacing_mm + thick.slice_thickness_mm,
    )
    return Trial(merged=merged, slices=slices)


def look_at_trial(trial: Trial, made: Generated) -> Finding:
    """Compare the slices that a generator made of merged ones, and interpolation, with those that were measured."""
    cubic = cubic_dc(trial.merged.voxels, RATIO, assumed_thickness_over_spacing(trial.merged))
    inner = np.s_[:, BORDER:-BORDER, BORDER:-BORDER]
    error, of_cubic = (rms((thin - trial.slices)[inner]) for thin in (made.thin.voxels, cubic))
    return finding(Check.OWN_SLICES, 20 * math.log10(error / of_cubic) if min(error, of_cubic) > 0 else 0.0)
