"""The cluster's bench still runs, and says what it promises to say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[2] / "bench" / "cluster.py"


def test_the_cluster_bench_prints_what_a_call_costs_and_its_bar() -> None:
    ran = subprocess.run([sys.executable, str(BENCH), "--toy"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "the cluster adds" in ran.stdout
    assert "bar 3 s" in ran.stdout
