"""No command removes or writes over what it did not make, and what a crash leaves is in nobody's way.

Seen in the field: ``infer SRC res`` deleted the folder ``res.tmp`` of somebody's results, exit code 0.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dicomnode import durable
from dicomnode.demo.measure import Measured
from dicomnode.demo.picture import draw
from dicomnode.errors import InputError
from dicomnode.generators import model_dir
from dicomnode.imaging.volume import Volume
from tests.cli.conftest import Run, _no_settings_of_this_machine, run
from tests.support.model_folders import random_thin, write_thin
from tests.support.mr_series import write_mr_series
from tests.support.phantom_sources import phantom, write_series
from tests.support.recipes import nifti_sources, plan_of, thin_recipe
from trainer.data.sources import Split
from trainer.training import plan as plans
from trainer.training.handoff import write_models
from trainer.training.loop import train

__all__ = ["_no_settings_of_this_machine", "run"]

ROOT = Path(__file__).parents[2]


def written(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["res.tmp", ".res.tmp", "res.part", "res.new", "res.old.tmp"])
def test_a_folder_beside_the_result_stays_as_it_was(run: Run, tmp_path: Path, name: str) -> None:
    write_mr_series(tmp_path / "in")
    (tmp_path / name / "deep").mkdir(parents=True)
    (tmp_path / name / "deep" / "thesis.txt").write_text("three years")
    ran = run("infer", tmp_path / "in", tmp_path / "res", "--model", "cubic-dc")
    assert ran.code == 0, ran.err
    assert (tmp_path / name / "deep" / "thesis.txt").read_text() == "three years"
    assert {path.name for path in tmp_path.iterdir()} == {"in", "res", name}


def test_a_derivation_that_fails_removes_its_own_folder_alone(run: Run, tmp_path: Path) -> None:
    write_mr_series(tmp_path / "in", slices=4)
    (tmp_path / "res.tmp").mkdir()
    assert run("infer", tmp_path / "in", tmp_path / "res", "--model", "cubic-dc").code == 2
    assert {path.name for path in tmp_path.iterdir()} == {"in", "res.tmp"}


def test_a_killed_derivation_leaves_no_result_and_does_not_hinder_the_next(run: Run, tmp_path: Path) -> None:
    write_mr_series(tmp_path / "in")
    words = ["infer", str(tmp_path / "in"), str(tmp_path / "res"), "--model", "cubic-dc"]
    killed = [sys.executable, "-m", "tests.support.checkpoints", "--kill", "durable.written:3", "--", *words]
    done = subprocess.run(killed, cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "res").exists(), "half a series is no result"
    (left,) = [path for path in tmp_path.iterdir() if path.name != "in"]
    assert left.name.startswith("."), "nor does a listing show it as one"
    assert run(*words).code == 0
    assert len(list((tmp_path / "res").iterdir())) == 24


@pytest.mark.parametrize("kind", ["the folder that one is in", "a link to an empty folder", "filled meanwhile"])
def test_where_the_result_may_go_is_known_before_anything_is_derived(
    run: Run, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mr_series(tmp_path / "in")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    if kind == "the folder that one is in":
        monkeypatch.chdir(tmp_path / "empty")
        ran = run("infer", tmp_path / "in", ".", "--model", "cubic-dc")
        assert (ran.code, "is the folder that you are in" in ran.err) == (2, True)
    elif kind == "a link to an empty folder":
        ran = run("infer", tmp_path / "in", tmp_path / "link", "--model", "cubic-dc")
        assert ran.code == 0, ran.err
        assert len(list((tmp_path / "empty").iterdir())) == 24
    else:
        real = durable.rename_folder

        def rename(folder: Path, target: Path) -> None:
            target.mkdir(exist_ok=True)
            (target / "mine.txt").write_text("came in between")
            real(folder, target)

        monkeypatch.setattr(durable, "rename_folder", rename)
        ran = run("infer", tmp_path / "in", tmp_path / "res", "--model", "cubic-dc")
        assert (ran.code, "is not empty any more" in ran.err) == (2, True)
        assert written(tmp_path / "res") == {"mine.txt": b"came in between"}


def test_a_disk_that_takes_nothing_is_a_sentence(run: Run, tmp_path: Path) -> None:
    """A file where the folder of the result should be made."""
    write_mr_series(tmp_path / "in")
    (tmp_path / "file").write_text("x")
    ran = run("infer", tmp_path / "in", tmp_path / "file" / "res", "--model", "cubic-dc")
    assert (ran.code, "could not be written: File exists; nothing was derived." in ran.err) == (3, True), ran.err


@pytest.mark.parametrize("name", ["a.json.tmp", ".a.json.tmp", "a.tmp", "a.new"])
def test_a_file_is_written_by_way_of_a_name_that_nothing_had(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    durable.write_file(tmp_path / "a.json", [b"{}"])
    with durable.growing_file(tmp_path / "a.safetensors") as growing:
        growing.write_bytes(b"x")
    assert written(tmp_path) == {name: b"mine", "a.json": b"{}", "a.safetensors": b"x"}


def test_a_link_that_has_such_a_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "a.tmp").symlink_to(tmp_path / "precious")
    durable.write_file(tmp_path / "a", [b"ours"])
    assert (tmp_path / "precious").read_text() == "mine"


def test_the_key_of_an_earlier_reader_study_is_never_lost(run: Run, tmp_path: Path) -> None:
    """Its page was handed to readers and moved away; without the key their answers could not be counted."""
    write_series(tmp_path / "studies" / "thick", phantom(1, extent=41)[14:26], slice_spacing_mm=4.0)
    model = write_thin(tmp_path / "net", net=random_thin(blocks=1))
    words = ["evaluate", "--studies", tmp_path / "studies", "--model", model]
    (tmp_path / "page.html.key.json").write_text("the key")
    ran = run(*words, "--reader-study", tmp_path / "page.html")
    assert (ran.code, "page.html.key.json is there already" in ran.err) == (2, True)
    assert "panels for readers" not in ran.err, "said before the minutes that it takes"
    assert (tmp_path / "page.html.key.json").read_text() == "the key"
    assert not (tmp_path / "page.html").exists()


def test_a_report_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    """A kill between its two files."""
    write_series(tmp_path / "studies" / "thick", phantom(1, extent=41)[14:26], slice_spacing_mm=4.0)
    words = ["evaluate", "--studies", str(tmp_path / "studies"), "--out", str(tmp_path / "report")]
    killed = [sys.executable, "-m", "tests.support.checkpoints", "--kill", "durable.renamed", "--", *words]
    done = subprocess.run(killed, cwd=ROOT, capture_output=True, timeout=100, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "report").exists()


def test_a_picture_of_the_demo_is_never_written_over(tmp_path: Path) -> None:
    x, y, z = np.eye(3)
    volume = Volume(
        voxels=np.random.default_rng(0).uniform(0, 100, (8, 16, 16)).astype(np.float32), origin_mm=np.zeros(3),
        row_direction=x, column_direction=y, slice_step_mm=z, row_spacing_mm=1.0, column_spacing_mm=1.0,
        slice_thickness_mm=1.0,
    )  # fmt: skip
    measured = Measured(
        found=8, is_identical=True, thick=volume, cubic=volume, derived=volume, truth=None, gain_db=None
    )
    paths = [draw("knee", "unseen", "thin", measured, tmp_path) for _ in range(3)]
    assert [path.name for path in paths] == [f"before-after-knee{number}.png" for number in ("", "-2", "-3")]
    assert all(path.stat().st_size for path in paths)


def test_a_model_that_somebody_altered_is_not_made_anew_over_it(tmp_path: Path) -> None:
    plans.write(plan_of(thin_recipe(), nifti_sources(tmp_path, (Split.TRAIN,)), (1,)), tmp_path / "run")
    assert train(tmp_path / "run", report=lambda _line: None, stop=lambda: False, device=torch.device("cpu"))

    def write() -> Path:
        (made,) = write_models(tmp_path / "run", name="mine", licence=None, report=lambda _line: None)
        return made.folder

    folder = write()
    before = written(folder)
    assert write() == folder, "as --resume of a run that is done does"
    assert written(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]
    (folder / "card.toml").write_text("# my notes\n" + (folder / "card.toml").read_text())
    altered = written(folder)
    with pytest.raises(InputError, match="is no model as it was written"):
        write()
    assert written(folder) == altered


def test_no_model_is_there_before_it_was_judged(tmp_path: Path) -> None:
    """Judging takes minutes; a kill in them must not leave a sealed model whose card says nothing of it."""
    sources = nifti_sources(tmp_path, (Split.TRAIN, Split.VALIDATION))
    plans.write(plan_of(thin_recipe(), sources, (1,)), tmp_path / "run")
    assert train(tmp_path / "run", report=lambda _line: None, stop=lambda: False, device=torch.device("cpu"))
    seen: list[bool] = []
    (made,) = write_models(
        tmp_path / "run", name="mine", licence=None,
        report=lambda _line: seen.append((tmp_path / "run" / "models" / "mine").exists()),
    )  # fmt: skip
    assert seen
    assert not any(seen)
    assert model_dir.verify(made.folder) == made.digest


def test_a_run_that_was_killed_at_its_plan_can_be_begun_again_and_withdrawing_it_takes_no_folder_of_others(
    tmp_path: Path,
) -> None:
    plan = plan_of(thin_recipe(), nifti_sources(tmp_path, [Split.TRAIN]), (8,))
    code = "import sys, pathlib, dicomnode.durable as d; p = pathlib.Path(sys.argv[1]); p.mkdir(); "
    code += "d.write_file(p / 'plan.json', [b'x'])"
    hooked = "import os, signal, dicomnode.seams as s; "
    hooked += "s.set_checkpoint_hook(lambda name: os.kill(os.getpid(), signal.SIGKILL)); "
    done = subprocess.run([sys.executable, "-c", hooked + code, str(tmp_path / "run")], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert list((tmp_path / "run").iterdir()), "the kill came too late"
    plans.write(plan, tmp_path / "run")
    (tmp_path / "run" / "notes").mkdir()
    (tmp_path / "run" / "fidelity").mkdir()
    plans.withdraw(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir() if path.is_dir()] == ["notes"]
    assert not (tmp_path / "run" / "plan.json").exists()
