"""``model``: what is installed, what it says of itself, and that an altered file is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dicomnode.generators import model_dir
from tests.cli.conftest import Run


def test_the_list_names_one_default_and_interpolation_is_always_there(run: Run) -> None:
    found = json.loads(run("model", "list", "--json").out)
    assert {"name", "kind", "digest", "default"} <= found[0].keys()
    assert [model["name"] for model in found if model["default"]] == [model_dir.default_model()]
    assert "cubic-dc" in {model["name"] for model in found}


@pytest.mark.parametrize("name", model_dir.model_names())
def test_every_model_shows_itself_and_is_whole(run: Run, name: str) -> None:
    shown = json.loads(run("model", "show", name, "--json").out)
    assert shown["model"]["name"] == name
    assert bool(shown["card"]) == (name != "cubic-dc")
    assert run("model", "verify", name).code == 0


def test_a_model_that_is_not_there_is_code_2_and_names_those_that_are(run: Run) -> None:
    ran = run("model", "show", "nosuch")
    assert ran.code == 2
    assert "cubic-dc" in ran.err


def test_an_altered_file_is_code_2_and_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = model_dir.shipped_models()
    if not shipped:
        pytest.skip("no learned model is in this checkout")
    name, folder = next(iter(shipped.items()))
    shutil.copytree(folder, tmp_path / name)
    card = tmp_path / name / "card.toml"
    card.write_text(card.read_text() + "\n# altered\n")
    monkeypatch.setattr(model_dir, "SHIPPED", tmp_path)
    ran = run("model", "verify", name)
    assert ran.code == 2
    assert "card.toml" in ran.err
    assert "expected sha256" in ran.err
