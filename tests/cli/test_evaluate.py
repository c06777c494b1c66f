"""``evaluate``: what it prints and writes, and one sentence for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.support.model_folders import random_thin, write_thin
from tests.support.phantom_sources import phantom, write_series


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One thick series, which is its own truth."""
    folder = tmp_path_factory.mktemp("studies")
    write_series(folder / "thick", phantom(1, extent=41)[14:26], slice_spacing_mm=4.0)
    return folder


def test_a_report_is_printed_and_written_with_every_method(run: Run, studies: Path, tmp_path: Path) -> None:
    model = write_thin(tmp_path / "net", net=random_thin(blocks=1))
    ran = run("evaluate", "--studies", studies, "--model", model, "--out", tmp_path / "out", "--device", "cpu")
    assert ran.code == 0, ran.err
    for method in ("nearest", "linear", "cubic", "cubic-dc", "small"):
        assert f"  {method} " in ran.out
    assert "subject-1/1, plane 0, ratio 2: small" in ran.err, "progress while it runs"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.html", "report.json"}
    for text in (ran.out, ran.err, (tmp_path / "out" / "report.html").read_text()):
        assert "Phantom" not in text, "no patient text"
        assert str(studies) not in text, "no path of this machine"


def test_json_is_the_document_alone(run: Run, studies: Path) -> None:
    ran = run("evaluate", "--studies", studies, "--json")
    found = json.loads(ran.out)
    assert {row["method"] for row in found["rows"]} == {"nearest", "linear", "cubic", "cubic-dc"}
    assert found["rows"][0]["case"]["is_rethickened"] is True


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "No studies were named."),
        (["--studies", "{studies}", "--ratios", "3,9"], "--ratios 3,9 is not understood."),
        (["--studies", "{studies}", "--planes", "x"], "--planes x is not understood."),
        (["--studies", "{studies}", "--sharpness", "0,2"], "--sharpness 0,2 is not understood."),
        (["--studies", "{empty}"], "The studies folder empty is empty"),
        (["--studies", "{nowhere}"], "The studies folder nowhere is not there."),
        (["--studies", "{studies}", "--model", "nonesuch"], "There is no model named nonesuch."),
        (["--studies", "{studies}", "--subjects", "nobody"], "No source to judge on is called nobody."),
        (["--studies", "{studies}", "--out", "{studies}"], "is not empty; nothing was judged."),
        (["--studies", "{studies}", "--features-sha256", "00"], "no --features to say which layer"),
        (["--studies", "{studies}", "--features", "resnet"], "names no features."),
        (["--studies", "{studies}", "--device", "tpu"], "tpu is no device."),
        (["--reader-scores", "{other}"], "Among or beside the files of --reader-scores are no keys; one is needed."),
        (["--reader-scores", "{answers}", "{key}", "{key}"], "are 2 keys; one is needed."),
        (["--reader-scores", "{answers}"], "the key of a reader study"),
        (["--reader-scores", "{answers}", "{key}"], "the key of a reader study"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_two(
    run: Run, studies: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    for name in ("empty", "alone"):
        (tmp_path / name).mkdir()
    for name in ("answers.json", "page.html.key.json", "alone/other.json"):
        (tmp_path / name).write_text("{}")
    places = {
        "studies": studies, "empty": tmp_path / "empty", "nowhere": tmp_path / "nowhere",
        "answers": tmp_path / "answers.json", "key": tmp_path / "page.html.key.json",
        "other": tmp_path / "alone" / "other.json",
    }  # fmt: skip
    ran = run("evaluate", *(word.format(**places) for word in words))
    assert ran.code == 2
    assert sentence in ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""


def test_a_study_for_readers_is_written_with_its_key_and_never_over_another(
    run: Run, studies: Path, tmp_path: Path
) -> None:
    model = write_thin(tmp_path / "net", net=random_thin(blocks=1))
    words = ["evaluate", "--studies", studies, "--model", model, "--reader-study", tmp_path / "page.html"]
    ran = run(*words)
    assert ran.code == 0, ran.err
    page, key = (tmp_path / "page.html").read_text(), (tmp_path / "page.html.key.json").read_text()
    assert "cubic-dc" in key
    assert "cubic-dc" not in page, "readers are blinded"
    again = run(*words)
    assert again.code == 2
    assert "is there already" in again.err
