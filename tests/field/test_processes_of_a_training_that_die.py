"""A training whose loader, or whose other process, is killed, fails or hangs says so within seconds, and what to do.

Seen in the field: a loader that ran out of memory was noticed after ten minutes, as one that was slow.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dicomnode.errors import InputError, ProcessError
from tests.support.phantom_sources import phantom, write_series
from tests.support.recipes import nifti_sources, plan_of, slice_recipe, thin_recipe
from tests.support.wait import wait_until
from trainer.data.sources import Split
from trainer.training import loader as loading
from trainer.training import plan as plans
from trainer.training.batches import BatchShare, load_material
from trainer.training.loader import batches

ROOT = Path(__file__).parents[2]
SECONDS = 60  # a loaded machine's; ten minutes were the fault
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody has the patience for; its batches are larger than a pipe holds."""
    folder = tmp_path_factory.mktemp("run")
    recipe = thin_recipe(batch=16)
    plans.write(plan_of(recipe, nifti_sources(folder.parent, [Split.TRAIN]), (10**6,)), folder)
    return folder


def children_of(pid: int | None) -> list[int]:
    """The children of a process's first thread."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def loader_of(pid: int) -> int:
    """The loader among a process's children; 0 as long as there is none."""
    for child in children_of(pid):
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
            return child
    return 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
@pytest.mark.parametrize("taken", [0, 2], ids=["while it reads", "in the middle of a batch"])
def test_a_loader_that_is_killed_is_told_from_a_slow_one(planned: Path, taken: int, number: signal.Signals) -> None:
    with batches(planned, BatchShare(), start=0, stop=10**6) as drawn:
        for _ in range(taken):
            next(drawn)
        (loader,) = multiprocessing.active_children()
        assert loader.pid is not None
        os.kill(loader.pid, number)
        began = time.monotonic()
        with pytest.raises(ProcessError, match=f"was ended by {number.name}") as caught:
            for _ in drawn:
                pass
        assert time.monotonic() - began < SECONDS
    assert ("when memory runs out" in caught.value.hint) == (number == signal.SIGKILL)
    assert "--resume" in caught.value.hint
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_maker_that_is_killed_ends_the_loader_and_the_other_makers(planned: Path, number: signal.Signals) -> None:
    with batches(planned, BatchShare(), start=0, stop=10**6, makers=3) as drawn:
        next(drawn)
        (loader,) = multiprocessing.active_children()
        makers = children_of(loader.pid)
        assert len(makers) == 3
        os.kill(makers[1], number)
        began = time.monotonic()
        with pytest.raises(ProcessError, match=f"was ended by {number.name}"):
            for _ in drawn:
                pass
        assert time.monotonic() - began < SECONDS
    wait_until(lambda: not any(Path(f"/proc/{maker}").exists() for maker in makers), limit_s=SECONDS)


@pytest.mark.parametrize("taken", [0, 2], ids=["while it reads", "in the middle of a batch"])
def test_a_loader_that_hangs_is_told_from_one_that_died_and_ends_with_the_block(
    planned: Path, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with batches(planned, BatchShare(), start=0, stop=10**6) as drawn:
        for _ in range(taken):
            next(drawn)
        (loader,) = multiprocessing.active_children()
        assert loader.pid is not None
        os.kill(loader.pid, signal.SIGSTOP)
        monkeypatch.setattr(loading, "LOADER_TIMEOUT_S", 2)
        with pytest.raises(ProcessError, match="is alive but has made none for 2 s"):
            for _ in drawn:
                pass
    assert not multiprocessing.active_children(), "a stopped process heeds no SIGTERM"


def test_a_loader_that_fails_says_where(planned: Path) -> None:
    """Sixteen strips for three processes: our own mistake, which only the loader meets."""
    with (
        pytest.raises(ProcessError, match="failed: AssertionError") as caught,
        batches(planned, BatchShare(world=3), start=0, stop=1) as drawn,
    ):
        next(drawn)
    assert "batch % self.world == 0" in str(caught.value.__cause__)


def test_a_loader_that_cannot_use_the_data_keeps_its_hint_apart(tmp_path: Path) -> None:
    plans.write(plan_of(slice_recipe(patch=64), nifti_sources(tmp_path, [Split.TRAIN]), (8,)), tmp_path / "run")
    with pytest.raises(InputError) as caught, batches(tmp_path / "run", BatchShare(), start=0, stop=1) as drawn:
        next(drawn)
    assert caught.value.hint
    assert caught.value.hint not in caught.value.sentence


def test_reading_many_studies_is_no_hanging(tmp_path: Path) -> None:
    """Each source that was read begins the wait anew."""
    sources = nifti_sources(tmp_path, [Split.TRAIN] * 3)
    plans.write(plan_of(thin_recipe(), sources, (8,)), tmp_path / "run")
    read: list[str] = []
    load_material(plans.read(tmp_path / "run"), Split.TRAIN, on_read=lambda: read.append("one"))
    assert len(read) == 3


def test_the_command_says_it_too_and_its_plan_stays_to_go_on_with(tmp_path: Path) -> None:
    write_series(tmp_path / "studies", phantom(0, extent=97), slice_spacing_mm=1.0)
    run = tmp_path / "run"
    words = ["train", "--studies", str(tmp_path / "studies"), "--out", str(run), "--steps", "1000000"]
    command = [sys.executable, "-m", "dicomnode", *words, "--device", "cpu", "--threads", "1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as training:
        wait_until(lambda: loader_of(training.pid) != 0, limit_s=100, what="a loader was started")
        os.kill(loader_of(training.pid), signal.SIGKILL)
        began = time.monotonic()
        _, err = training.communicate(timeout=SECONDS)
    assert time.monotonic() - began < SECONDS
    assert training.returncode == 3, err
    assert "was ended by SIGKILL" in err
    assert "Traceback" not in err
    assert (run / "plan.json").is_file()


def test_a_process_of_the_group_that_is_killed_ends_the_others_with_a_sentence(tmp_path: Path) -> None:
    sources = nifti_sources(tmp_path, [Split.TRAIN])
    plans.write(plan_of(thin_recipe(batch=4), sources, (10**6,)), tmp_path / "run")
    group = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "trainer"]
    command = [*group, str(tmp_path / "run"), "--device=cpu", "--threads=1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        assert '"stage": "fidelity"' in launcher.stdout.readline(), "it trains"
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        workers = [int(one) for one in children if str(tmp_path / "run") in Path(f"/proc/{one}/cmdline").read_text()]
        assert len(workers) == 2
        os.kill(workers[1], signal.SIGKILL)
        _, err = launcher.communicate(timeout=300)
    assert launcher.returncode != 0
    assert "Another process of this run ended or does not answer" in err, err
