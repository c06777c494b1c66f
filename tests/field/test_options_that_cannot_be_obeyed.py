"""An option that a run cannot obey is refused by its name before anything is looked at, never passed over in silence.

Seen in the field: ``train --resume --steps N`` went on to the old number of steps, and nobody was told.
"""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from dicomnode.cli.evaluate import evaluate
from dicomnode.cli.train import train
from tests.cli.conftest import Run, _no_settings_of_this_machine, run
from tests.cli.test_train import TINY
from tests.support.phantom_sources import phantom, write_series
from tests.support.recipes import nifti_sources, plan_of, thin_recipe
from trainer.data.sources import Split
from trainer.training import plan as plans

__all__ = ["_no_settings_of_this_machine", "run"]

RESUMED = {"resume", "out", "device", "threads", "loaders", "name", "licence", "sharpness", "tensorboard", "as_json"}
STUDIED = {"studies", "inventory", "models", "subjects", "ratios", "reader_study", "device", "seed", "config"}
SCORED = {"reader_scores", "as_json"}


def value_for(option: click.Option, file: Path) -> list[str]:
    """Words that give an option a value, be it the one that it has anyway."""
    if option.is_flag:
        return [option.opts[0]]
    if isinstance(option.type, click.Choice):
        return [option.opts[0], str(option.type.choices[0])]
    if isinstance(option.type, click.types.IntParamType | click.types.FloatParamType):
        return [option.opts[0], "1"]
    if isinstance(option.type, click.Path) and not option.type.file_okay:
        return [option.opts[0], str(file.with_name("folder"))]
    return [option.opts[0], str(file)]


def others(command: click.Command, kept: set[str]) -> list[str]:
    """Names of the parameters that are refused."""
    return [one.name for one in command.params if one.name and one.name not in kept]


def option_of(command: click.Command, name: str) -> click.Option:
    """The option of a parameter."""
    (found,) = [one for one in command.params if one.name == name]
    assert isinstance(found, click.Option)
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """For options that want one."""
    path = tmp_path / "file"
    path.write_text("")
    return path


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run with a plan."""
    plans.write(plan_of(thin_recipe(), nifti_sources(tmp_path, [Split.TRAIN]), (8,)), tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("name", others(train, RESUMED))
def test_a_run_that_has_begun_takes_no_option_that_its_plan_decided(
    run: Run, begun: Path, file: Path, name: str
) -> None:
    option = option_of(train, name)
    ran = run("train", "--resume", "--out", begun, *value_for(option, file))
    assert ran.code == 2
    assert f"{option.opts[0]} has no effect on a run that has begun" in ran.err
    assert [path.name for path in begun.iterdir()] == ["plan.json"]


def test_all_of_them_are_named_at_once(run: Run, begun: Path) -> None:
    ran = run("train", "--resume", "--out", begun, "--steps", "5", "--seed", "1")
    assert "--steps and --seed have no effect" in ran.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--dry-run", "--plan-only"], "--plan-only has no effect with --dry-run"),
        (["--plan-only", "--name", "x"], "--name has no effect with --plan-only"),
        (["--plan-only", "--licence", "x"], "--licence has no effect with --plan-only"),
        (["--plan-only", "--tensorboard"], "--tensorboard has no effect with --plan-only"),
        (["--plan-only", "--json"], "--json has no effect with --plan-only"),
        (["--minutes", "1", "--steps", "4"], "--steps has no effect beside --minutes"),
        (["--pairing", "paper"], "--pairing has no effect on simulated pairs"),
        (["--allow-contrast"], "--allow-contrast has no effect on simulated pairs"),
        (["--recipe", "paper-model1", "--pairs", "real", "--in-plane"], "--in-plane has no effect with --pairs real"),
        (["--recipe", "{degraded}", "--pairs", "real"], "which has no effect on real pairs"),
        (["--features", "vgg19:relu1_1"], "features have no effect"),
        (["--features-file", "{file}", "--features-sha256", "00"], "a features file has no effect"),
        (["--dry-run", "--features", "vgg19:relu1_1"], "features have no effect"),
        (["--name", "Our Model"], "A model cannot be called 'Our Model'"),
        (["--name", ""], "A model cannot be called ''"),
        (["--dry-run", "--name", "../up"], "A model cannot be called '../up'"),
        (["--recipe", "thin-sharp", "--name", "a-name-that-is-nearly-too-long"], "A model cannot be called"),
        (["--licence", ""], "The licence is empty"),
        (["--dry-run", "--steps", "1,2,3"], "3 numbers of steps were given"),
        (["--dry-run", "--recipe", "nonesuch"], "There is no recipe nonesuch"),
        (["--dry-run", "--device", "tpu"], "tpu is no device."),
        (["--dry-run", "--pairs", "real"], "is trained on simulated pairs only"),
    ],
)
def test_options_of_a_new_run_are_obeyed_or_refused(
    run: Run, tmp_path: Path, file: Path, words: list[str], sentence: str
) -> None:
    """A dry run takes the options of the run that it stands for, and checks them."""
    write_series(tmp_path / "studies", phantom(0, extent=41), slice_spacing_mm=1.0)
    tiny, degraded = tmp_path / "tiny.toml", tmp_path / "degraded.toml"
    tiny.write_text(TINY)
    slices = TINY.replace('"thin"', '"slice"').replace('"strips"', '"slices"').replace("window = 3\n", "")
    degraded.write_text(slices.replace("[[stage]]", "[degradation]\noffset = 0.2\n[[stage]]"))
    own = [] if "--recipe" in words else ["--recipe", tiny]
    places = {"file": file, "degraded": degraded}
    given = [word.format(**places) for word in words]
    ran = run("train", "--studies", tmp_path / "studies", "--out", tmp_path / "run", *own, *given)
    assert ran.code == 2, ran.out
    assert sentence in ran.err
    assert ran.out == ""
    assert not (tmp_path / "run").exists()


def test_a_name_that_no_model_can_bear_is_told_before_the_last_steps_are_trained(run: Run, begun: Path) -> None:
    ran = run("train", "--resume", "--out", begun, "--name", "Our Model")
    assert (ran.code, "A model cannot be called 'Our Model'" in ran.err) == (2, True)
    assert not (begun / "fidelity").exists()


@pytest.mark.parametrize("name", others(evaluate, SCORED))
def test_counting_readers_answers_takes_no_other_option(run: Run, file: Path, name: str) -> None:
    option = option_of(evaluate, name)
    ran = run("evaluate", "--reader-scores", file, *value_for(option, file))
    assert ran.code == 2
    assert f"{option.opts[0]} has no effect with --reader-scores" in ran.err


@pytest.mark.parametrize("name", others(evaluate, {*STUDIED, "reader_scores"}))
def test_a_page_for_readers_takes_only_what_decides_it(run: Run, tmp_path: Path, file: Path, name: str) -> None:
    option = option_of(evaluate, name)
    words = ["--studies", tmp_path, "--reader-study", tmp_path / "page.html", *value_for(option, file)]
    ran = run("evaluate", *words)
    assert ran.code == 2
    assert f"{option.opts[0]} has no effect with --reader-study" in ran.err
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--slices-only", "--probes"], "--probes has no effect with --slices-only"),
        (["--slices-only", "--nominal"], "--nominal has no effect with --slices-only"),
        (["--slices-only", "--planes", "0"], "--planes has no effect with --slices-only"),
        (["--slices-only", "--features", "vgg19:relu1_1"], "--features has no effect with --slices-only"),
        (["--slices-only", "--perceptual-sha256", "00"], "--perceptual-sha256 has no effect with --slices-only"),
        (["--slices-only", "--seed", "1"], "--seed has no effect with --slices-only"),
        (["--allow-contrast"], "--allow-contrast has no effect without the paper's table"),
        (["--figure-style", "paper"], "--figure-style has no effect without --out"),
    ],
)
def test_what_a_judgement_has_no_use_for_is_refused(run: Run, tmp_path: Path, words: list[str], sentence: str) -> None:
    ran = run("evaluate", "--studies", tmp_path, *words)
    assert (ran.code, sentence in ran.err) == (2, True), ran.err
