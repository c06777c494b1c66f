"""What the standard's validators say of a derived series, beside what they say of its source.

See docs/derived-objects.md#checks-by-other-programs.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.support.derived import CLEAN, REAL, SMALL, made_from, spread_from
from tests.support.enhanced import EnhancedPhantom
from tests.support.shared import DATA, SAMPLES, needs_shared, real_series

ABDOMEN = "philips_abdomen_loc_20frames"
BIRTH_DATE = "Attribute present in one instance but not the other - Element=<PatientBirthDate>"

needs_dciodvfy = pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools are not installed")


def _complaints(path: Path) -> set[str]:
    """dciodvfy's errors. Its exit status says nothing, and it writes to both streams.

    See docs/derived-objects.md#checks-by-other-programs.
    """
    done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, timeout=60, check=False)
    lines = (done.stdout + done.stderr).decode("latin-1").splitlines()
    return {line for line in lines if line.startswith("Error")}


def _entity_complaints(paths: Sequence[Path]) -> str:
    done = subprocess.run(["dcentvfy", *map(str, paths)], capture_output=True, timeout=60, check=False)
    return (done.stdout + done.stderr).decode("latin-1")


@needs_dciodvfy
@pytest.mark.parametrize("orientation", ["axial", "double oblique"])
def test_a_clean_source_gives_a_clean_series(tmp_path: Path, orientation: str) -> None:
    sources = replace(SMALL, orientation=orientation).write(tmp_path / "thick")
    paths = made_from(sources, 3).write(tmp_path / "thin")
    assert {complaint for path in paths for complaint in _complaints(path)} == set()
    assert _entity_complaints([*sources, *paths]) == ""


@needs_dciodvfy
@pytest.mark.parametrize("folder", real_series(REAL))
def test_a_real_source_gets_no_new_complaint(tmp_path: Path, folder: Path) -> None:
    """Sets over every file of the source, first, middle and last of the result (all files: SMALL above)."""
    sources = sorted(folder.iterdir())
    paths = made_from(sources, 3).write(tmp_path / "thin")
    known = {complaint for path in sources for complaint in _complaints(path)}
    assert (known == set()) == (folder.is_relative_to(SAMPLES) or str(folder.relative_to(DATA)) in CLEAN)
    found = {complaint for path in (paths[0], paths[len(paths) // 2], paths[-1]) for complaint in _complaints(path)}
    assert found - known == set()
    assert _entity_complaints([*sources, *paths]) == ""


@needs_dciodvfy
def test_a_clean_enhanced_source_gives_a_clean_classic_series(tmp_path: Path) -> None:
    sources = EnhancedPhantom(phantom=SMALL, seed=1, second_slope=0.5).write(tmp_path / "thick")
    paths = made_from(sources, 3).write(tmp_path / "thin")
    assert {complaint for path in paths for complaint in _complaints(path)} == set()
    assert _entity_complaints([*sources, *paths]) == ""


@needs_dciodvfy
@needs_shared
@pytest.mark.parametrize("folder", ["philips_phantom_tse_12frames", "philips_phantom_ffe_24frames", ABDOMEN])
def test_a_real_enhanced_source_gets_no_new_complaint(tmp_path: Path, folder: str) -> None:
    """Sets over the source, and first, middle and last of the result."""
    sources = sorted((DATA / "enhanced" / folder).iterdir())
    paths = made_from(sources, 3).write(tmp_path / "thin")
    known = {complaint for path in sources for complaint in _complaints(path)}
    found = {complaint for path in (paths[0], paths[len(paths) // 2], paths[-1]) for complaint in _complaints(path)}
    assert found - known == set()
    # The source has no Patient's Birth Date, which is type 2: the result has an empty one, and that is said.
    others = [line for line in _entity_complaints([*sources, *paths]).splitlines() if BIRTH_DATE not in line]
    assert others == []
    assert folder == ABDOMEN or _entity_complaints([*sources, *paths]) == ""


@needs_dciodvfy
@pytest.mark.parametrize("folder", real_series(CLEAN))
def test_the_series_of_the_spread_is_clean_too(tmp_path: Path, folder: Path) -> None:
    sources = sorted(folder.iterdir())
    paths = spread_from(sources, 3)[0].write(tmp_path / "spread")
    found = {complaint for path in (paths[0], paths[len(paths) // 2], paths[-1]) for complaint in _complaints(path)}
    assert found == set()
    assert _entity_complaints([*sources, *paths]) == ""


@needs_dciodvfy
def test_the_judge_can_say_no(tmp_path: Path) -> None:
    paths = made_from(SMALL.write(tmp_path / "thick"), 4).write(tmp_path / "thin")
    dataset = dcmread(paths[0])
    dataset.PatientBirthDate = "19991231"
    del dataset.ScanningSequence
    dataset.save_as(paths[0])
    assert _complaints(paths[0])
    assert "Error" in _entity_complaints(paths)
