"""Real series: both samples of the package, and those beside the checkout, which only our own machines have."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

import dicomnode

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
DATA = SHARED / "data"
WEIGHTS = SHARED / "weights"
SAMPLES = Path(dicomnode.__file__).parent / "samples"
PROSTATE = SAMPLES / "prostatex_t2_tra"  # 19 slices, 3 mm apart, JPEG-LS
BRAIN = SAMPLES / "brain_m2307_t2" / "thick"  # 37 slices, 4 mm apart

needs_shared = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is not beside the checkout")


def real_series(folders: Iterable[str]) -> list[object]:
    """Parameters: the folders of both samples, and those of the shared data, skipped where there is none."""
    samples = [pytest.param(folder, id=str(folder.relative_to(SAMPLES.parent))) for folder in (PROSTATE, BRAIN)]
    return [*samples, *(pytest.param(DATA / folder, id=folder, marks=needs_shared) for folder in folders)]
