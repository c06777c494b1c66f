"""What the headers of a series tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom import dcmread

from tests.support.phantom_sources import phantom, source
from tests.support.phantom_sources import write_series as write_volume
from trainer.data.series import describe


def test_positions_ascend_along_the_normal_whatever_the_file_names(tmp_path: Path) -> None:
    paths = write_volume(tmp_path / "a", phantom(2, extent=12), slice_spacing_mm=4.0, first_mm=-7.0)
    series = describe(source(*paths))
    expected = sorted(float(dcmread(path).ImagePositionPatient[2]) for path in paths)
    np.testing.assert_allclose(series.offsets_mm, expected)
    assert (series.rows, series.columns, series.pixel_spacing_mm) == (12, 12, (1.0, 1.0))
