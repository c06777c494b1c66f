"""``train``: from a folder of studies to a model that the node would serve, stopped and gone on with; every mistake."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
import torch

from dicomnode.generators import model_dir
from tests.cli.conftest import Run
from tests.support.mr_series import write_mr_series
from tests.support.paired_series import lopsided, write_thick
from tests.support.phantom_sources import phantom, write_series
from tests.support.wait import wait_until

EXTENT = 41
STEPS = 3
TINY = """
name = "tiny"
about = "for tests"
steps = 100
average_decay = 0.9
[network]
kind = "thin"
channels = 8
blocks = 1
window = 3
[samples]
design = "strips"
batch = 2
patch = 16
ratios = [2, 3]
[[stage]]
name = "fidelity"
share = 1
losses = { charbonnier = 1.0 }
learning_rate = 1e-3
"""


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people's thin series; the seed of the commands puts one of them in the validation split."""
    folder = tmp_path_factory.mktemp("studies")
    for number in range(2):
        write_thin_series(folder / str(number), number)
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "tiny.toml"
    path.write_text(TINY)
    return path


def write_thin_series(folder: Path, number: int, *, person: int | None = None) -> list[Path]:
    """The phantom of a number, of the person of that number if no other is said."""
    who = number if person is None else person
    voxels = phantom(number, extent=EXTENT)
    return write_series(folder, voxels, slice_spacing_mm=1.0, patient=f"P-{who}", PatientName=f"Secret^{who}")


def words(studies: Path, recipe: Path, out: Path) -> list[object]:
    """A whole training of a few steps on one thread, which is what makes two of them alike."""
    where = ["--studies", studies, "--recipe", recipe, "--out", out]
    return ["train", *where, "--steps", STEPS, "--threads", 1, "--device", "cpu"]


def test_a_dry_run_shows_what_would_be_trained_on_and_writes_nothing(run: Run, studies: Path, tmp_path: Path) -> None:
    ran = run("train", "--studies", studies, "--out", tmp_path / "run", "--dry-run")
    assert ran.code == 0, ran.err
    assert "2 patients, 2 series" in ran.out
    assert "Simulated pairs (labelled so) can be made from: subject-1/1, subject-2/1." in ran.out
    assert "Secret" not in ran.out
    assert str(studies) not in ran.out
    found = json.loads(run("train", "--studies", studies, "--dry-run", "--json").out)
    assert sorted(row["split"] for row in found["series"]) == ["train", "validation"]
    assert not (tmp_path / "run").exists()


def test_studies_become_a_model_that_the_node_can_serve_and_an_interrupt_leaves_no_trace_in_it(
    run: Run, studies: Path, recipe: Path, tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    ran = run(*words(studies, recipe, whole), "--name", "mine", "--licence", "for this hospital", "--json")
    assert ran.code == 0, ran.err
    (made,) = json.loads(ran.out)
    folder = whole / "models" / "mine"
    assert (made["name"], made["folder"], made["digest"]) == ("mine", str(folder), model_dir.verify(folder))
    assert run("model", "verify", folder).code == 0
    assert model_dir.load_generator(str(folder)).name == "mine"
    card = model_dir.read_card(folder)
    assert card.licence == "for this hospital"
    assert {(row.split, row.licence) for row in card.data} == {("train", "not stated"), ("validation", "not stated")}
    assert [row.measure for row in card.metrics if row.measure.startswith("PSNR")], "judged on the second person"
    for path in whole.rglob("*"):
        assert path.is_dir() or b"Secret" not in path.read_bytes()

    command = [sys.executable, "-m", "dicomnode", *map(str, words(studies, recipe, broken))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as training:
        wait_until((broken / "fidelity").is_dir, limit_s=300, what="the first stage begins")
        training.send_signal(signal.SIGINT)
        out, err = training.communicate(timeout=300)
    assert training.returncode == 130, err
    assert out == ""
    assert f"Interrupted; `dicomnode train --resume --out {broken}` goes on." in err
    assert "Traceback" not in err
    assert not (broken / "models").exists()

    ran = run("train", "--resume", "--out", broken, "--threads", 1, "--device", "cpu", "--name", "mine")
    assert ran.code == 0, ran.err
    weights = [path / "models" / "mine" / "weights.safetensors" for path in (whole, broken)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_plan_can_be_made_without_training(run: Run, studies: Path, recipe: Path, tmp_path: Path) -> None:
    ran = run(*words(studies, recipe, tmp_path / "run"), "--plan-only")
    assert ran.code == 0, ran.err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["plan.json"]
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert (plan["steps"], plan["seed"], plan["recipe"]["name"]) == ([STEPS], 1, "tiny")


def test_a_plan_that_could_not_be_trained_is_not_made(run: Run, recipe: Path, tmp_path: Path) -> None:
    """Only the pixels tell that the body is too small; the ones to learn of it would be the processes of a cluster."""
    write_series(tmp_path / "studies" / "a", phantom(1, extent=41)[:18], slice_spacing_mm=1.0, patient="P-1")
    write_thin_series(tmp_path / "others" / "b", 2)
    asked = ["--validate", tmp_path / "others", "--plan-only"]
    ran = run(*words(tmp_path / "studies", recipe, tmp_path / "run"), *asked)
    assert ran.code == 2, ran.out
    assert "is too small to be trained on" in ran.err
    assert not list((tmp_path / "run").iterdir())


def corrupt_file(folder: Path) -> None:
    """One slice was cut off in its header."""
    path = write_thin_series(folder, 0)[7]
    path.write_bytes(path.read_bytes()[:300])


def cut_pixels(folder: Path) -> None:
    """One slice was cut off in its pixels, which no header tells."""
    path = write_thin_series(folder, 0)[7]
    path.write_bytes(path.read_bytes()[:-500])


def another_matrix(folder: Path) -> None:
    """From the middle on the slices have fewer rows."""
    for path in write_thin_series(folder, 0)[EXTENT // 2 :]:
        dataset = pydicom.dcmread(path)
        dataset.PixelData = dataset.PixelData[: 2 * 30 * EXTENT]
        dataset.Rows = 30
        dataset.save_as(path)


def one_person_twice(folder: Path) -> None:
    """In the folder to train on and in the one to judge on."""
    write_thin_series(folder / "a", 0)
    write_thin_series(folder.with_name("judged"), 1, person=0)


def one_picture_twice(folder: Path) -> None:
    """Under two names."""
    write_thin_series(folder / "a", 0)
    write_thin_series(folder.with_name("judged"), 0, person=1)


def small_stack(folder: Path) -> None:
    """Less than a strip of the recipe."""
    write_series(folder, phantom(1, extent=EXTENT)[:, 8:-8, 8:-8][10:30], slice_spacing_mm=1.0)


def localizer(folder: Path) -> None:
    """Too few slices to be anything."""
    write_mr_series(folder, slices=2)


JUDGED = ["--validate", "{judged}"]
MISTAKES: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "an empty folder": (lambda folder: folder.mkdir(), [], "The studies folder studies is empty"),
    "no folder": (lambda _folder: None, [], "The studies folder studies is not there."),
    "a corrupt file": (corrupt_file, [], "cannot be used"),
    "pixels cut off": (cut_pixels, [], "subject-1/1 cannot be used"),
    "a matrix that changes": (another_matrix, [], "subject-1/1"),
    "nothing of use": (localizer, [], "Nothing in the studies can be used; subject-1/1"),
    "one person in two splits": (one_person_twice, JUDGED, "subject-1"),
    "one picture in two splits": (one_picture_twice, JUDGED, "same image content"),
    "too small for the recipe": (small_stack, [], "subject-1/1 is too small to be trained on"),
    "no thin partner": (
        lambda folder: write_thick(folder, lopsided()),
        ["--recipe", "paper-model1", "--pairs", "real"],
        "This thick series has no thin partner: the study holds no thin series.",
    ),
    "only thick series": (lambda folder: write_thick(folder, lopsided()), [], "The studies hold no thin series"),
    "real pairs for strips": (lambda folder: write_thin_series(folder, 0), ["--pairs", "real"], "simulated pairs only"),
    "features of another digest": (
        lambda folder: write_thin_series(folder, 0),
        ["--recipe", "paper-model1", "--features-file", "{recipe}", "--features-sha256", "00" * 32],
        "is not the features file that was asked for",
    ),
    "no such recipe": (lambda folder: write_thin_series(folder, 0), ["--recipe", "thick"], "There is no recipe thick"),
    "no number": (lambda folder: write_thin_series(folder, 0), ["--steps", "many"], "--steps many is not understood."),
    "too many numbers": (lambda folder: write_thin_series(folder, 0), ["--steps", "3,3"], "has 1 stages"),
    "an unknown device": (lambda folder: write_thin_series(folder, 0), ["--device", "tpu"], "tpu is no device."),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_with_exit_code_two_and_nothing_written(
    run: Run, recipe: Path, tmp_path: Path, mistake: str
) -> None:
    make, more, sentence = MISTAKES[mistake]
    make(tmp_path / "studies")
    places = {"judged": tmp_path / "judged", "recipe": recipe}
    out = tmp_path / "run"
    ran = run(*words(tmp_path / "studies", recipe, out), *(word.format(**places) for word in more))
    assert ran.code == 2, ran.err
    assert sentence in ran.err
    assert "unexpected" not in ran.err
    assert "Secret" not in ran.err
    assert ran.out == ""
    assert not out.exists() or not any(out.iterdir())


def test_a_broken_recipe_is_told_with_all_its_mistakes(run: Run, studies: Path, tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(TINY.replace("batch = 2", 'batch = "2"').replace("share", "part"))
    ran = run("train", "--studies", studies, "--recipe", path, "--out", tmp_path / "run")
    assert ran.code == 2
    for word in ("samples.batch", "stage.0.share", "stage.0.part"):
        assert word in ran.err


def test_a_folder_that_holds_something_is_never_trained_into(
    run: Run, studies: Path, recipe: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("kept")
    ran = run(*words(studies, recipe, tmp_path / "run"))
    assert ran.code == 2
    assert "is not empty; nothing was trained." in ran.err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ([], "No run was named to go on with."),
        (["--out", "{nowhere}"], "holds no run"),
    ],
)
def test_only_a_run_can_be_gone_on_with(run: Run, tmp_path: Path, more: list[str], sentence: str) -> None:
    ran = run("train", "--resume", *(word.format(nowhere=tmp_path / "nowhere") for word in more))
    assert ran.code == 2
    assert sentence in ran.err
