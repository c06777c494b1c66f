"""Sources: the volumes that may be trained on and judged on, each of one person and in one split.

Label and subject are words of ours, never a header's: reports, plans and errors say nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np

from dicomnode.imaging.studies import NIFTI_SUFFIXES

UNSTATED_LICENCE = "not stated"  # of what was scanned; such data never reach weights that ship
VALIDATION_SHARE = 0.2  # of the subjects


class Split(StrEnum):
    """The splits: what a volume may be used for."""

    TRAIN = "train"
    VALIDATION = "validation"  # models are chosen on these
    UNSEEN = "unseen"  # judged on and never trained on


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One volume: a DICOM series or a NIfTI file. Label and subject are our words, never a header's."""

    label: str
    subject: str  # volumes of one person never sit in two splits
    split: Split
    licence: str
    paths: tuple[Path, ...]  # the instances of a series, or one NIfTI file
    fault: str = ""  # why it cannot be used, as far as it was seen when its files were listed

    @property
    def is_nifti(self) -> bool:
        """Tell whether it is a NIfTI file."""
        return len(self.paths) == 1 and self.paths[0].name.lower().endswith(NIFTI_SUFFIXES)


def split_subjects(
    sources: Sequence[Source],
    *,
    share: float = VALIDATION_SHARE,
    seed: int = 0,
    usable: Collection[str] | None = None,
) -> tuple[Source, ...]:
    """Move ``share`` of the training subjects (at least one of two) to validation; return all sources.

    Whole subjects move, and which ones depends on the seed and the number of subjects alone. They are drawn among
    those with a source whose label is in ``usable``, all for None: who has nothing to be judged on judges nothing.
    Sources of the other splits stay; where some stand in validation already, nothing moves.
    """
    if any(source.split is Split.VALIDATION for source in sources):
        return tuple(sources)
    counting = [source for source in sources if usable is None or source.label in usable]
    subjects = list(dict.fromkeys(source.subject for source in counting if source.split is Split.TRAIN))
    count = min(max(1, round(share * len(subjects))), len(subjects) - 1)
    if count < 1:
        return tuple(sources)
    drawn = np.random.default_rng(seed).choice(len(subjects), count, replace=False)
    moved = {subjects[k] for k in drawn}
    return tuple(replace(source, split=Split.VALIDATION) if source.subject in moved else source for source in sources)


def of_split(sources: Iterable[Source], split: Split) -> tuple[Source, ...]:
    """Return the sources of one split, in their order."""
    return tuple(source for source in sources if source.split is split)
