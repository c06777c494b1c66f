"""The loader process: the batches of any step again, and no process left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.wait import wait_until
from trainer.batches import Batch, batches, draw_batch, training_volumes

SEED = 3


def take(data: Path, start: int, stop: int) -> list[Batch]:
    """Batches of one strip, by way of the loader."""
    with batches(data, strips=1, seed=SEED, start=start, stop=stop) as drawn:
        return list(drawn)


def test_a_later_start_gives_the_same_batches(phantom_data: Path) -> None:
    whole, rest = take(phantom_data, 0, 5), take(phantom_data, 3, 5)
    assert len(whole) == 5
    for expected, found in zip(whole[3:], rest, strict=True):
        assert expected.ratio == found.ratio
        np.testing.assert_array_equal(expected.thick, found.thick)
        np.testing.assert_array_equal(expected.truth, found.truth)


def test_the_loader_draws_what_the_function_draws(phantom_data: Path) -> None:
    (batch,) = take(phantom_data, 7, 8)
    expected = draw_batch(training_volumes(phantom_data), 1, SEED, 7)
    np.testing.assert_array_equal(batch.base, expected.base)


def test_a_block_left_early_ends_the_loader(phantom_data: Path) -> None:
    with batches(phantom_data, strips=1, seed=SEED, start=0, stop=10**6) as drawn:
        next(drawn)
        assert multiprocessing.active_children()
    assert not multiprocessing.active_children()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the loader in /proc")
def test_a_killed_trainer_leaves_no_loader(phantom_data: Path) -> None:
    """Its process group is only this test's: an orphan in it is the loader."""
    script = (
        "import sys, pathlib, trainer.batches as b\n"
        "if __name__ == '__main__':\n"
        "    with b.batches(pathlib.Path(sys.argv[1]), strips=1, seed=3, start=0, stop=10**6) as drawn:\n"
        "        next(drawn); print('drawn', flush=True); sys.stdin.read()\n"
    )
    trainer = subprocess.Popen(
        [sys.executable, "-c", script, str(phantom_data)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=Path(__file__).parents[2],
    )
    with trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == b"drawn\n"
        os.kill(trainer.pid, signal.SIGKILL)
    wait_until(lambda: not group_exists(trainer.pid), limit_s=30)


def group_exists(group: int) -> bool:
    """Is any process of the group alive?"""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
