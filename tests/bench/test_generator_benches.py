"""The generators' benches still run, and say what they promise to say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *options: str) -> str:
    """One thread: at toy size more only wait for each other."""
    command = [sys.executable, str(ROOT / "bench" / script), "--toy", *options]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=one_thread, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("script", "number"), [("generator.py", "cheaper_times"), ("infer.py", "peak_to_result")])
def test_a_bench_prints_its_ratio_and_its_bar(script: str, number: str) -> None:
    report = run(script, "--json")
    result = json.loads(report)
    assert result[number] > 0
    assert result["bar"]
    sentence = run(script)
    assert "bar" in sentence
    assert sentence.count("\n") == 1
