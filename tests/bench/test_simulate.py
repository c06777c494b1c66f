"""The simulation of a region still runs, comes to the same numbers, and its page has the times that it uses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench" / "simulate.py"
PAGE = ROOT / "docs" / "region.md"


def simulated() -> str:
    """What the script prints of a fiftieth of the day."""
    ran = subprocess.run([sys.executable, str(BENCH), "--toy"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_the_simulation_prints_the_times_of_the_page_and_its_bars_and_repeats_itself() -> None:
    first = simulated()
    times, sizes = first.split("\n\n")[:2]
    assert times in PAGE.read_text("utf-8"), "python bench/simulate.py --write"
    assert sizes in PAGE.read_text("utf-8")
    assert "worker-seconds a series" in first
    assert "bar 15%" in first
    assert simulated() == first
