"""The page's bench still runs, and says what it promises to say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[2] / "bench" / "page.py"


def test_the_bench_measures_every_page_and_the_door_beside_slow_clients(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(BENCH), "--toy"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    pages = {line["page"]: line for line in lines if "page" in line}
    assert {"/", "/series", "/scanners", "/models", "/first"} <= pages.keys()
    assert all(line["bytes"] < 100_000 for line in pages.values())
    alone, beside = (line for line in lines if "echoes" in line)
    assert (alone["slow_clients_of_the_page"], beside["slow_clients_of_the_page"]) == (0, 20)
    assert alone["failed"] == beside["failed"] == 0
    assert list(tmp_path.iterdir()) == []
