"""The generators' benches still run, and say what they promise to say."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def run(script: str) -> str:
    """The JSON of a process of its own. One thread: at toy size more only wait for each other."""
    command = [sys.executable, str(ROOT / "bench" / script), "--toy", "--json"]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=one_thread, capture_output=True, text=True, check=True).stdout


def run_here(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Print the sentence, in this process: another one would spend most of its time on importing torch."""
    monkeypatch.setattr(sys, "argv", [script, "--toy"])
    monkeypatch.setattr(sys, "path", sys.path[:])  # the script adds to it
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runpy.run_path(str(ROOT / "bench" / script), run_name="__main__")
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("script", "number"), [("generator.py", "cheaper_times"), ("infer.py", "peak_to_result")])
def test_a_bench_prints_its_ratio_and_its_bar(
    script: str, number: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = json.loads(run(script))
    assert result[number] > 0
    assert result["bar"]
    run_here(script, monkeypatch)
    sentence = capsys.readouterr().out
    assert "bar" in sentence
    assert sentence.count("\n") == 1
