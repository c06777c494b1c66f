"""The bench of sequence models still runs: each trunk is trained, and judged on the same volumes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_trunk_is_trained_and_judged() -> None:
    command = [sys.executable, str(ROOT / "bench" / "sequence.py"), "--toy", "--json"]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    printed = subprocess.run(command, cwd=ROOT, env=one_thread, capture_output=True, text=True, check=True).stdout
    rows = [json.loads(line) for line in printed.splitlines()]
    assert [row["trunk"] for row in rows if "steps" in row] == ["window", "recurrent", "volume"]
    assert [row["trunk"] for row in rows if "gain" in row] == ["window", "recurrent", "volume"]
