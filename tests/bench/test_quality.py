"""The bench of peers still runs: what a peer leaves is judged, and what cannot be had is a row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*options: str) -> list[dict[str, object]]:
    """The rows that a run prints."""
    command = [sys.executable, str(ROOT / "bench" / "quality.py"), "--toy", "--json", *options]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    printed = subprocess.run(command, cwd=ROOT, env=one_thread, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in printed.splitlines()]


def test_a_peer_is_judged_beside_interpolation_and_one_that_is_absent_or_fails_is_a_row_that_says_why() -> None:
    *rows, summary = run("--peers", "srcnn", "thin", "unires", "--budget", "0.0001")
    by_method = {row["method"]: row for row in rows}
    assert by_method["cubic-dc"]["gain"] == 0.0
    assert float(str(by_method["thin"]["gain"])) > 0.5
    assert "package index" in str(by_method["unires"]["reason"])
    assert str(by_method["srcnn"]["reason"]).startswith("failed: "), "with the last line that it printed"
    assert summary["bar"]
    assert summary["ahead_of_eclare_db"] == {}, "ECLARE was not among them"
