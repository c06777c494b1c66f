"""The benches run at toy size, so that they cannot rot; no bar is judged here, where other tests use the machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.dcmtk import needs_dcmtk

BENCH = Path(__file__).resolve().parents[2] / "bench"


def run(name: str, tmp_path: Path, *options: str) -> list[dict[str, float]]:
    command = [sys.executable, str(BENCH / name), "--toy", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@needs_dcmtk
def test_the_receive_bench_runs(tmp_path: Path) -> None:
    one, four, sixteen = run("receive.py", tmp_path)
    assert one["time_to_bare_and_flushes"] > 0
    assert min(four["throughput_to_bare"], sixteen["throughput_to_bare"]) > 0


@needs_dcmtk
def test_the_receive_bench_runs_under_tls(tmp_path: Path) -> None:
    (line,) = run("receive.py", tmp_path, "--tls", "--senders", "1")
    assert line["tls_throughput_to_plain"] > 0


def test_the_door_bench_runs(tmp_path: Path) -> None:
    for line in run("door.py", tmp_path):
        assert line["failed"] == 0
        assert line["echoes"] > 0


def test_the_bench_of_silent_associations_runs(tmp_path: Path) -> None:
    (line,) = run("door.py", tmp_path, "--silent", "5")
    assert line["served"] == line["silent"] == 5
    assert line["cores"] >= 0
