"""The gate's bench still runs: a good series passes, and what is asked of the gate is held."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_good_series_passes_and_gross_damages_of_it_are_held() -> None:
    command = [sys.executable, str(ROOT / "bench" / "gate.py"), "--toy", "--json"]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=one_thread, capture_output=True, text=True, check=True)
    *lines, summary = map(json.loads, ended.stdout.splitlines())
    assert summary["bench"] == "gate"
    assert (summary["good_series"], summary["false_holds"], summary["bar"]) == (1, 0, "0 false holds")
    assert [line["held_by"] for line in lines if line["part"] == "good"] == [[]]
    held = {line["damage"]: line["held_by"] for line in lines if line["part"] == "damage"}
    assert len(held) == summary["damages"]
    for damage in (
        "weights: random weights",
        "weights: weights of another ratio",
        "network: rows and columns exchanged",
        "network: half a slab further",
        "network: ten times the intensities",
        "volume: a voxel that is no number",
        "files: half a slice further",
        "files: Rescale Slope 4 % higher",
        "files: the patient's name of another in one file *",
    ):
        assert held[damage], damage
