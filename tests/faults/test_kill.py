"""kill -9 of the whole service at its seams: a few of those that ``bench/kill.py`` makes by the hundred."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.dcmtk import needs_dcmtk
from tests.support.thorough import times

BENCH = Path(__file__).resolve().parents[2] / "bench" / "kill.py"
KILLS = times(5, 200)


@needs_dcmtk
@pytest.mark.faults
@pytest.mark.timeout(900 + 20 * KILLS)
def test_nothing_acknowledged_is_lost_changed_or_sent_again_whatever_seam_the_service_dies_at(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH), "--kills", str(KILLS), "--seed", "7", "--keep", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{KILLS} kills" in ran.stdout
    assert "mistakes: 0" in ran.stdout
