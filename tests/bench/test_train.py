"""The training bench still runs, and says what it promises to say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.alone  # it measures: beside other tests too few steps fit into its seconds

ROOT = Path(__file__).resolve().parents[2]


def run(*options: str) -> list[str]:
    """One thread: at toy size more only wait for each other."""
    command = [sys.executable, str(ROOT / "bench" / "train.py"), "--toy", *options]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=one_thread, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_row_is_a_share_of_the_reference_with_the_memory_of_both_processes() -> None:
    (row,) = map(json.loads, run("--row", "thin-12", "--json"))
    assert (row["row"], row["bar"], row["images_per_step"]) == ("thin-12", ">= 0.7", 12)
    assert 0 < row["mean_of_reference"] <= row["of_reference"]
    assert row["measured_steps"] >= 5
    # At this size both processes hold hardly more than PyTorch; a peak that was not measured would be 0.
    assert min(row["trainer_peak_mib"], row["loader_peak_mib"]) > 100
    # The loop's own figures, by hand: share = operations a second of the loop ÷ those of the reference.
    share = row["steps_per_s"] * row["gflop_per_step"] / row["reference_gflop_per_s"]
    assert abs(share - row["of_reference"]) < 0.05 * share


def test_an_adversarial_stage_is_a_sentence_with_its_bar() -> None:
    (sentence,) = run("--row", "paper-model1-srgan")
    assert sentence.startswith("paper-model1-srgan: ")
    assert "(bar >= 0.55" in sentence
    assert "peak memory" in sentence
