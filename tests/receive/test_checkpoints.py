"""The fault wrapper reaches the command it runs and the processes that the command spawns."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkpoints import parse_fault


def main(arguments: list[str]) -> None:
    """Pass a checkpoint twice here, or in a spawned child: its exit code is ours."""
    import multiprocessing

    if arguments == ["spawn"]:
        child = multiprocessing.get_context("spawn").Process(target=pass_twice)
        child.start()
        child.join()
        sys.exit(abs(child.exitcode or 0))
    pass_twice()


def pass_twice() -> None:
    """Two hits of one checkpoint."""
    from dicomnode.seams import checkpoint

    checkpoint("test.seam")
    checkpoint("test.seam")


def run(*words: str) -> int:
    command = [sys.executable, "-m", "tests.support.checkpoints", "--module", "tests.receive.test_checkpoints", *words]
    return subprocess.run(
        command, cwd=Path(__file__).resolve().parents[2], check=False, timeout=120, stderr=subprocess.DEVNULL
    ).returncode


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--kill", "test.seam:2", "--"], -9),
        (["--kill", "test.seam:3", "--"], 0),
        (["--kill", "test.other", "--"], 0),
        (["--error", "test.seam:1+:ENOSPC", "--"], 1),
        (["--delay", "test.seam:1:0.01", "--"], 0),
        (["--kill", "test.seam:2", "--", "spawn"], 9),
    ],
)
def test_a_fault_happens_at_its_hit_in_whichever_process(words: list[str], code: int) -> None:
    assert run(*words) == code


def test_a_fault_that_is_none_is_refused() -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse_fault("kill", "no place at all")
