"""The overhead bench still runs, and says what it promises to say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.dcmtk import needs_dcmtk

BENCH = Path(__file__).resolve().parents[2] / "bench" / "overhead.py"


@needs_dcmtk
def test_the_overhead_bench_prints_its_ratio_and_its_bar() -> None:
    ran = subprocess.run([sys.executable, str(BENCH), "--toy"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "ratio" in ran.stdout
    assert "(bar 1.5)" in ran.stdout
