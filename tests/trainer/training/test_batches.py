"""The loader process: the batches of any step again, shared among processes, and no process left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from dicomnode.errors import InputError
from tests.support.phantom_sources import phantom
from tests.support.recipes import EXTENT, nifti_sources, plan_of, slice_recipe, thin_recipe
from tests.support.wait import wait_until
from trainer.data.sources import Source, Split
from trainer.training import plan as plans
from trainer.training.batches import Batch, BatchShare, draw_batch, load_material
from trainer.training.loader import batches, default_makers
from trainer.training.plan import Use
from trainer.training.strips import StripBatch

ALONE = BatchShare()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A planned run of the thin network."""
    folder = tmp_path_factory.mktemp("run")
    plans.write(plan_of(thin_recipe(), nifti_sources(folder.parent, [Split.TRAIN]), (8,)), folder)
    return folder


def take(run: Path, start: int, stop: int, share: BatchShare = ALONE, makers: int = 1) -> list[StripBatch]:
    """Batches by way of the loader."""
    with batches(run, share, start=start, stop=stop, makers=makers) as drawn:
        found: list[Batch] = list(drawn)
    return [batch for batch in found if isinstance(batch, StripBatch)]


def test_a_later_start_gives_the_same_batches_and_the_function_draws_them_too(run: Path) -> None:
    whole, rest = take(run, 0, 4), take(run, 3, 4)
    assert len(whole) == 4
    plan = plans.read(run)
    drawn = draw_batch(load_material(plan, Split.TRAIN), plan, 3, ALONE)
    assert isinstance(drawn, StripBatch)
    for found in (rest[0], drawn):
        assert whole[3].ratio == found.ratio
        np.testing.assert_array_equal(whole[3].thick, found.thick)
        np.testing.assert_array_equal(whole[3].truth, found.truth)


def test_several_makers_give_the_batches_of_one_in_its_order(run: Path) -> None:
    one, three = take(run, 2, 9), take(run, 2, 9, makers=3)
    assert [batch.ratio for batch in one] == [batch.ratio for batch in three]
    for single, shared in zip(one, three, strict=True):
        np.testing.assert_array_equal(single.thick, shared.thick)
        np.testing.assert_array_equal(single.truth, shared.truth)


def test_a_gpu_gets_the_makers_that_the_processors_allow_and_a_cpu_one() -> None:
    processors = len(os.sched_getaffinity(0))
    assert default_makers(torch.device("cpu"), 1) == 1
    assert default_makers(torch.device("cuda"), 1) == max(processors - 1, 1)
    assert default_makers(torch.device("cuda"), processors + 1) == 1


def test_two_processes_see_together_what_one_would_have_seen(run: Path) -> None:
    plan = plans.read(run)
    material = load_material(plan, Split.TRAIN)
    whole, *halves = (
        draw_batch(material, plan, 5, share) for share in (ALONE, BatchShare(world=2), BatchShare(rank=1, world=2))
    )
    assert isinstance(whole, StripBatch)
    np.testing.assert_array_equal(
        whole.thick, np.concatenate([half.thick for half in halves if isinstance(half, StripBatch)])
    )


def test_a_block_left_early_ends_the_loader(run: Path) -> None:
    with batches(run, ALONE, start=0, stop=10**6) as drawn:
        next(drawn)
        assert multiprocessing.active_children()
    assert not multiprocessing.active_children()


def test_what_the_loader_cannot_use_is_the_trainers_sentence(tmp_path: Path) -> None:
    """Patches larger than the volume: found where the volume is decoded, which is in the loader."""
    recipe = slice_recipe(patch=64)
    folder = tmp_path / "run"
    plans.write(plan_of(recipe, nifti_sources(tmp_path, [Split.TRAIN]), (8,)), folder)
    with (
        pytest.raises(InputError, match="No pair of slices of at least 64"),
        batches(folder, ALONE, start=0, stop=1) as drawn,
    ):
        next(drawn)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the loader in /proc")
@pytest.mark.parametrize("makers", [1, 3])
def test_a_killed_trainer_leaves_no_loader(run: Path, makers: int) -> None:
    """Its process group is only this test's: an orphan in it is the loader."""
    script = (
        "import sys, pathlib, trainer.training.loader as b\n"
        "if __name__ == '__main__':\n"
        "    run, makers = pathlib.Path(sys.argv[1]), int(sys.argv[2])\n"
        "    with b.batches(run, b.BatchShare(), start=0, stop=10**6, makers=makers) as drawn:\n"
        "        next(drawn); print('drawn', flush=True); sys.stdin.read()\n"
    )
    trainer = subprocess.Popen(
        [sys.executable, "-c", script, str(run), str(makers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=Path(__file__).parents[3],
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


def test_a_thick_stack_teaches_by_rows_and_columns_in_patches_of_both_orientations(tmp_path: Path) -> None:
    """Twelve slices of 4 mm: too few for a square patch of 16 pixels that may be turned, enough for one of 16 × 9."""
    path = tmp_path / "thick.nii.gz"
    image = nibabel.Nifti1Image(  # type: ignore[no-untyped-call]
        phantom(0, extent=EXTENT)[14:26].transpose(2, 1, 0), np.diag([1.0, 1.0, 4.0, 1.0])
    )
    nibabel.save(image, path)
    source = Source(label="thick", subject="one", split=Split.TRAIN, licence="CC0", paths=(path,))
    recipe = thin_recipe()
    recipe = recipe.model_copy(update={"samples": recipe.samples.model_copy(update={"patch": (16, 9)})})
    plan = plan_of(recipe, [source], (8,)).model_copy(update={"sources": (plans.planned(source, Use.IN_PLANE),)})
    material = load_material(plan, Split.TRAIN)
    (volume,) = material.volumes
    assert volume.is_native
    assert len(volume.levels) == 12
    drawn = [draw_batch(material, plan, step, ALONE) for step in range(8)]
    assert {batch.thick.shape[-2:] for batch in drawn if isinstance(batch, StripBatch)} == {(16, 9), (9, 16)}
