"""A thick and a thin series of one phantom, as one study of one patient: what pairs are found in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.support.phantom_sources import phantom, write_series

EXTENT = 48
RATIO = 4  # slices of 1 mm and of 4 mm
STUDY_UID, FRAME_UID = "2.25.1", "2.25.2"


def lopsided(seed: int = 11, *, extent: int = EXTENT) -> NDArray[np.float32]:
    """A ball of waves whose brightness rises in one direction, so that no turn looks like another."""
    return phantom(seed, extent=extent) * np.linspace(0.4, 1.0, extent, dtype=np.float32)


def averaged(thin: NDArray[np.float32]) -> NDArray[np.float32]:
    """Box slices of RATIO thin ones."""
    blocks = thin.reshape(len(thin) // RATIO, RATIO, *thin.shape[1:])
    means: NDArray[np.float32] = blocks.mean(axis=1)
    return means


def write_thick(folder: Path, thin: NDArray[np.float32], **attributes: object) -> list[Path]:
    """The thick series that the thin volume gives."""
    stated = {"StudyInstanceUID": STUDY_UID, "FrameOfReferenceUID": FRAME_UID, **attributes}
    middle_mm = (RATIO - 1) / 2  # of the first block
    return write_series(folder, averaged(thin), slice_spacing_mm=float(RATIO), first_mm=middle_mm, **stated)  # type: ignore[arg-type]


def write_thin(folder: Path, thin: NDArray[np.float32], *, first_mm: float = 0.0, **attributes: object) -> list[Path]:
    """The thin series itself."""
    stated = {"StudyInstanceUID": STUDY_UID, "FrameOfReferenceUID": FRAME_UID, **attributes}
    return write_series(folder, thin, slice_spacing_mm=1.0, first_mm=first_mm, **stated)  # type: ignore[arg-type]
