"""The soak at toy size, so that it cannot rot; its bar is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[2] / "bench" / "soak.py"


def test_the_soak_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH), "--toy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[-1]["instances"] >= 300
    assert all(line["memory_mb"] > 0 for line in lines)
