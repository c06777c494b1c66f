"""The loop: stages one after another, and a resume that nobody can tell from an uninterrupted run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dicomnode.errors import InputError
from dicomnode.generators.kinds import Kind
from tests.support.dcmtk import free_port
from tests.support.recipes import FIDELITY, SHARP, nifti_sources, plan_of, slice_recipe, thin_recipe
from trainer.data.sources import Split
from trainer.training import checkpoint, loop
from trainer.training import plan as plans
from trainer.training.handoff import write_models
from trainer.training.loop import LAST, Line, train
from trainer.training.recipe import Recipe
from trainer.training.recipe_tables import Discriminator, Losses, TrainingStage

MUON = FIDELITY.model_copy(update={"optimizer": "muon"})

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[3]
GUIDE = ROOT / "docs" / "training.md"
GAN = TrainingStage(
    name="srgan",
    share=1,
    losses=Losses(mse=1.0, adversarial=1e-3),
    learning_rate=1e-4,
    discriminator=Discriminator(kind="patch"),
)


def planned(folder: Path, recipe: Recipe, steps: tuple[int, ...]) -> Path:
    """A run on one phantom, judged on another."""
    folder.mkdir(exist_ok=True)
    sources = nifti_sources(folder, [Split.TRAIN, Split.VALIDATION])
    plans.write(plan_of(recipe, sources, steps), folder / "run")
    return folder / "run"


def run_through(run: Path, stops_after: int | None = None) -> tuple[bool, list[Line]]:
    """Is it done? And the lines it told. ``stops_after``: so many steps of this call."""
    asked = [0]
    lines: list[Line] = []

    def stop() -> bool:
        asked[0] += 1
        return asked[0] == stops_after

    return train(run, report=lines.append, stop=stop, device=CPU), lines


def in_two_processes(run: Path) -> subprocess.CompletedProcess[str]:
    """As the documentation says to."""
    group = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "trainer"]
    command = [*group, str(run), "--device=cpu", "--threads=1"]
    return subprocess.run(command, cwd=ROOT, check=False, timeout=250, capture_output=True, text=True)


def on_two_machines(run: Path) -> list[tuple[int, str]]:
    """Exit code and complaints of the two commands of the documentation; both machines are this one, without GPUs."""
    guide = GUIDE.read_text("utf-8")
    commands = re.findall(r"^  gpu[12]\$ python (-m torch.distributed.run .*) RUN$", guide, re.MULTILINE)
    assert len(commands) == 2
    here = {"--nproc-per-node 2": "--nproc-per-node 1", "gpu1": "127.0.0.1", "29500": str(free_port())}
    started = []
    for command in commands:
        for there, word in here.items():
            assert there in command
            command = command.replace(there, word)
        words = [sys.executable, *command.split(), str(run), "--device=cpu", "--threads=1"]
        started.append(subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=250)[1] for process in started]
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


def tensors_of(run: Path, stage: str) -> dict[str, torch.Tensor]:
    """All state of a stage."""
    return checkpoint.load(run / stage / LAST).tensors


@pytest.mark.parametrize(
    ("recipe", "stages"),
    [
        (thin_recipe(FIDELITY, SHARP), ("fidelity", "sharp")),
        (thin_recipe(MUON, SHARP), ("fidelity", "sharp")),
        (slice_recipe(Kind.SLICE, slice_recipe().stage[0], GAN), ("mse", "srgan")),
    ],
    ids=["thin-sharp", "muon", "paper"],
)
def test_interrupted_in_both_stages_a_run_ends_bit_for_bit_the_same(
    recipe: Recipe, stages: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "RECALIBRATION_BATCHES", 3)
    whole, broken = (planned(tmp_path / name, recipe, (2, 2)) for name in ("whole", "broken"))
    assert run_through(whole)[0]
    assert not run_through(broken, stops_after=1)[0]
    assert not run_through(broken, stops_after=1)[0]  # one step ends the first stage, one begins the second
    assert run_through(broken)[0]
    for stage in stages:
        expected, found = tensors_of(whole, stage), tensors_of(broken, stage)
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            assert torch.equal(tensor, found[name]), (stage, name)


def test_the_second_stage_begins_where_the_first_ended(tmp_path: Path) -> None:
    """One step at a rate of nothing: what stage two has is what stage one left."""
    still = SHARP.model_copy(update={"learning_rate": 1e-30})
    run = planned(tmp_path, thin_recipe(FIDELITY, still), (3, 1))
    run_through(run)
    torch.testing.assert_close(
        tensors_of(run, "sharp")["generator.average"], tensors_of(run, "fidelity")["generator.average"]
    )


def test_the_journal_says_who_leads_in_an_adversarial_stage(tmp_path: Path) -> None:
    run = planned(tmp_path, thin_recipe(FIDELITY, SHARP), (2, 2))
    run_through(run)
    (line,) = [json.loads(text) for text in (run / "sharp" / "metrics.jsonl").read_text().splitlines()]
    assert set(line["terms"]) == {"charbonnier", "adversarial"}
    assert line["discriminator_loss"] > 0
    assert 0 <= line["accuracy"] <= 1
    assert line["adversarial_gradient"] > 0
    assert 0 < line["adversarial_share"] < 1


def test_lines_of_steps_that_a_kill_took_back_leave_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY_STEPS", 1)
    run = planned(tmp_path, thin_recipe(), (4,))
    run_through(run, stops_after=2)
    with (run / "fidelity" / "metrics.jsonl").open("a") as journal:
        journal.write('{"step": 3}\n{"step": 4, "lo')  # the kill came as a line was written
    run_through(run)
    steps = [json.loads(line)["step"] for line in (run / "fidelity" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


def test_statistics_of_normalisations_are_of_many_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the published code's momentum, which leaves those of the last few."""
    monkeypatch.setattr(loop, "RECALIBRATION_BATCHES", 4)
    recipe = slice_recipe()
    kept = planned(tmp_path / "kept", recipe.model_copy(update={"recalibrate_batch_norm": False}), (2,))
    renewed = planned(tmp_path / "renewed", recipe, (2,))
    for run in (kept, renewed):
        run_through(run)
    first, second = tensors_of(kept, "mse"), tensors_of(renewed, "mse")
    assert torch.equal(first["generator.master"], second["generator.master"])
    assert not torch.equal(first["generator.buffers"], second["generator.buffers"])


def test_a_run_may_begin_with_the_weights_of_a_model(tmp_path: Path) -> None:
    """The first stage is passed over; one step at a rate of nothing leaves what it began with."""
    first = planned(tmp_path / "first", thin_recipe(), (3,))
    run_through(first)
    (made,) = write_models(first, name="begun", licence=None, report=lambda _line: None)
    still = SHARP.model_copy(update={"learning_rate": 1e-30})
    plan = plan_of(thin_recipe(FIDELITY, still), nifti_sources(tmp_path, [Split.TRAIN]), (0, 1))
    plan = plan.model_copy(update={"begin_with": str(made.folder), "begin_digest": made.digest})
    plans.write(plan, tmp_path / "second")
    run_through(tmp_path / "second")
    assert not (tmp_path / "second" / "fidelity").exists()
    torch.testing.assert_close(
        tensors_of(tmp_path / "second", "sharp")["generator.average"],
        tensors_of(first, "fidelity")["generator.average"],
        atol=1e-4, rtol=1e-3,  # a model's weights are half precision
    )  # fmt: skip


def test_minutes_become_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "TIMED_STEPS", 4)
    run = planned(tmp_path, thin_recipe(), (1,))
    plan = plans.read(run)
    (few,), (many,) = (loop.steps_in(plan, minutes, CPU) for minutes in (0.1, 10.0))
    assert 1 <= few < many


@pytest.mark.faults
@pytest.mark.thorough  # what two machines do next, two processes of one do, too
def test_processes_that_share_a_batch_end_where_one_would(tmp_path: Path) -> None:
    """Two processes with half of the batch each, against one: the sum of gradients is taken in another order."""
    recipe = thin_recipe(FIDELITY, MUON.model_copy(update={"name": "muon"}), batch=4)
    alone, shared = (planned(tmp_path / name, recipe, (3, 3)) for name in ("alone", "shared"))
    run_through(alone)
    done = in_two_processes(shared)
    assert done.returncode == 0, done.stderr
    for stage in ("fidelity", "muon"):
        expected, found = (tensors_of(run, stage)["generator.average"] for run in (alone, shared))
        assert (expected - found).abs().max() < 1e-5 * expected.abs().max()


def test_the_commands_for_two_machines_make_the_weights_that_one_makes(tmp_path: Path) -> None:
    recipe = thin_recipe(FIDELITY, MUON.model_copy(update={"name": "muon"}), batch=4)
    alone, shared = (planned(tmp_path / name, recipe, (3, 3)) for name in ("alone", "shared"))
    run_through(alone)
    ended = on_two_machines(shared)
    assert [code for code, _ in ended] == [0, 0], ended
    for stage in ("fidelity", "muon"):
        expected, found = (tensors_of(run, stage)["generator.average"] for run in (alone, shared))
        assert (expected - found).abs().max() < 1e-5 * expected.abs().max()


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    run = planned(tmp_path, thin_recipe(batch=3), (1,))
    done = in_two_processes(run)
    assert done.returncode != 0
    assert "2 processes cannot share a batch of 3." in done.stderr


def test_a_run_of_other_data_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    run = planned(tmp_path, thin_recipe(), (1,))
    plans.read(run).sources[0].paths[0].unlink()
    with pytest.raises(InputError, match="not those that the run began with"):
        run_through(run)
