"""The generators' benches still run, and say what they promise to say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("script", "number"), [("generator.py", "cheaper_times"), ("infer.py", "peak_to_result")])
def test_a_bench_prints_its_ratio_and_its_bar(script: str, number: str) -> None:
    command = [sys.executable, str(ROOT / "bench" / script), "--toy"]
    report = subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    result = json.loads(report)
    assert result[number] > 0
    assert result["bar"]
    sentence = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "bar" in sentence
    assert sentence.count("\n") == 1
