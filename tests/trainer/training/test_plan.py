"""The plan: what was written is what is gone on with, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicomnode.errors import InputError
from tests.support.recipes import nifti_sources, plan_of, thin_recipe
from trainer.data.sources import Split
from trainer.training import plan as plans


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    plan = plan_of(thin_recipe(), nifti_sources(tmp_path, [Split.TRAIN, Split.VALIDATION]), (8,))
    plans.write(plan, tmp_path / "run")
    assert plans.read(tmp_path / "run") == plan


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    plan = plan_of(thin_recipe(), nifti_sources(tmp_path, [Split.TRAIN]), (8,))
    with pytest.raises(InputError, match="is not empty; nothing was trained"):
        plans.write(plan, tmp_path)
    assert not (tmp_path / plans.PLAN_FILE).exists()


def test_a_run_does_not_go_on_with_other_data(tmp_path: Path) -> None:
    """By its label: the path may name the patient."""
    (source,) = nifti_sources(tmp_path, [Split.TRAIN])
    plans.write(plan_of(thin_recipe(), [source], (8,)), tmp_path / "run")
    source.paths[0].write_bytes(source.paths[0].read_bytes() + b"\0")
    with pytest.raises(InputError, match="files of volume-0") as caught:
        plans.read(tmp_path / "run")
    assert str(tmp_path) not in caught.value.sentence


def test_a_folder_without_a_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        plans.read(tmp_path)


def test_a_plan_that_could_not_be_begun_with_is_taken_back_and_one_that_was_is_kept(tmp_path: Path) -> None:
    plan = plan_of(thin_recipe(), nifti_sources(tmp_path, [Split.TRAIN]), (8,))
    run = tmp_path / "run"
    plans.write(plan, run)
    (run / "fidelity").mkdir()
    plans.withdraw(run)
    assert list(run.iterdir()) == []
    plans.write(plan, run)
    (run / "fidelity").mkdir()
    (run / "fidelity" / "metrics.jsonl").write_text("{}\n")
    plans.withdraw(run)
    assert plans.read(run) == plan
