"""The bench of a large archive still runs, and says what it promises to say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.dcmtk import needs_dcmtk

BENCH = Path(__file__).resolve().parents[2] / "bench" / "archive_size.py"


@needs_dcmtk
def test_the_bench_fills_an_archive_measures_it_and_leaves_nothing(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(BENCH), "--toy"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    lines = {line["what"]: line for line in map(json.loads, ran.stdout.splitlines())}
    assert lines["archive"]["instances"] == 5 * 40 * 5
    bars = {what for what, line in lines.items() if "bar" in line}
    assert bars == {
        "ready_s", "ready_after_kill_s", "status_s", "series_list_s", "receive_at_start_s", "receive_s",
        "receive_while_swept_s",
    }  # fmt: skip
    assert all(lines[what]["full_s"] > 0 for what in bars)
    assert list(tmp_path.iterdir()) == []
