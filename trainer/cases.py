"""The cases that networks are judged on.

Thin volumes of the validation split are averaged into thick slices along each of their three axes. Thick series
of the unseen split have no thin truth: their own slices serve as one and are averaged by twos (SCIENCE §4.6).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dicomnode.imaging import metrics
from dicomnode.imaging.body import body_box, body_mask, body_scale
from dicomnode.imaging.profile import ProfileKind
from trainer import sources
from trainer.simulate import FloatArray
from trainer.sources import Split

VALIDATION_RATIOS = (3, 4, 5)
PLANES = (0, 1, 2)
RETHICKENED_RATIO = 2  # more would leave too few slices
MISMATCHES = ((ProfileKind.GAUSSIAN, 1.0), (ProfileKind.BOX, 0.8))  # true profiles, t/s; judged at …
MISMATCH_RATIO, MISMATCH_PLANE = 4, 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """A thin truth in scale units, slice axis first, cropped to the body and to whole slabs."""

    subject: str
    split: Split
    plane: int
    ratio: int
    profile: ProfileKind = ProfileKind.BOX
    thickness_over_spacing: float = 1.0
    truth: FloatArray
    mask: metrics.Mask


def cases(data: Path) -> Iterator[Case]:
    """Validation subjects × planes × ratios, some with another profile, then the re-thickened series."""
    for name in sources.names(Split.VALIDATION):
        voxels = sources.load(name, data, Split.VALIDATION)
        for plane in PLANES:
            for ratio in VALIDATION_RATIOS:
                yield prepare(name, Split.VALIDATION, voxels, plane=plane, ratio=ratio)
        nominal = prepare(name, Split.VALIDATION, voxels, plane=MISMATCH_PLANE, ratio=MISMATCH_RATIO)
        for kind, thickness in MISMATCHES:
            yield replace(nominal, profile=kind, thickness_over_spacing=thickness)
    for name in sources.names(Split.UNSEEN):
        yield prepare(name, Split.UNSEEN, sources.load(name, data, Split.UNSEEN), plane=0, ratio=RETHICKENED_RATIO)


def prepare(subject: str, split: Split, voxels: FloatArray, *, plane: int, ratio: int) -> Case:
    """Scale, mask, crop, and put the slice axis first; slices beyond the last whole slab are left out."""
    scaled = voxels / np.float32(body_scale(voxels))
    mask = body_mask(scaled)
    box = body_box(mask)
    truth, mask = np.moveaxis(scaled[box], plane, 0), np.moveaxis(mask[box], plane, 0)
    whole = len(truth) // ratio * ratio
    return Case(
        subject=subject,
        split=split,
        plane=plane,
        ratio=ratio,
        truth=np.ascontiguousarray(truth[:whole]),
        mask=np.ascontiguousarray(mask[:whole]),
    )
