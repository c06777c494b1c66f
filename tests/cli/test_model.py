"""``model``: what is installed, what it says of itself, that an altered file is found; import, activate, rollback."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dicomnode.generators import model_dir
from dicomnode.ledger.store import open_ledger
from tests.cli.conftest import Run
from tests.support.model_folders import random_thin, write_thin


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


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A node's empty ledger in the data folder that the commands look at."""
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "ledger.sqlite"
    open_ledger(f"sqlite:///{path}").close()
    return path


def _models(run: Run) -> list[tuple[str, str, bool]]:
    """Those named knee: origin, first digits, active."""
    found = json.loads(run("model", "list", "--json").out)
    return [(one["origin"], one["digest"][:12], one["active"]) for one in found if one["name"] == "knee"]


def test_without_a_ledger_the_shipped_models_are_shown_and_none_is_made(run: Run, tmp_path: Path) -> None:
    found = json.loads(run("model", "list", "--json").out)
    assert {one["origin"] for one in found} == {"shipped"}
    assert not (tmp_path / "data").exists()
    ran = run("model", "import", write_thin(tmp_path / "knee", name="knee"))
    assert ran.code == 3
    assert "There is no ledger" in ran.err


@pytest.mark.usefixtures("ledger")
def test_a_model_is_imported_activated_replaced_and_rolled_back(run: Run, tmp_path: Path) -> None:
    folders = [write_thin(tmp_path / word, net=random_thin(blocks=blocks), name="knee")
               for word, blocks in (("old", 1), ("new", 2))]  # fmt: skip
    old, new = (model_dir.verify(folder)[:12] for folder in folders)
    for folder in folders:
        assert run("model", "import", folder).code == 0
    again = json.loads(run("model", "import", folders[0], "--json").out)
    assert (again["changed"], again["done"]) == (False, "was imported before; its files are whole")
    assert _models(run) == [("imported", old, False), ("imported", new, False)]
    assert run("model", "activate", "knee").code == 2
    for digest in (old, new):
        assert json.loads(run("model", "activate", f"knee@{digest}", "--json").out)["changed"]
    assert not json.loads(run("model", "activate", f"knee@{new}", "--json").out)["changed"]
    assert _models(run) == [("imported", old, False), ("imported", new, True)]
    assert json.loads(run("model", "rollback", "knee", "--json").out)["digest"].startswith(old)
    assert _models(run) == [("imported", old, True), ("imported", new, False)]
    assert json.loads(run("model", "rollback", "knee", "--json").out)["digest"] is None
    assert run("model", "rollback", "knee").code == 2
    shown = json.loads(run("model", "show", f"knee@{old}", "--json").out)
    assert shown["card"]["name"] == "knee"
    kinds = [event["kind"] for event in shown["events"]]
    assert kinds == ["import", "imported_again", "activate", "supersede", "restore", "withdraw"]
    assert all(event["by"].startswith("operator:") for event in shown["events"])


@pytest.mark.usefixtures("ledger")
def test_an_imported_model_that_was_altered_since_is_found_by_verify(run: Run, tmp_path: Path) -> None:
    run("model", "import", write_thin(tmp_path / "made", name="knee"))
    assert run("model", "verify", "knee").code == 0
    (card,) = (tmp_path / "data" / "models").rglob("card.toml")
    card.write_text(card.read_text() + "\n# altered\n")
    ran = run("model", "verify", "knee")
    assert ran.code == 2
    assert "card.toml is not the file that was sealed" in ran.err
    assert run("model", "activate", "knee").code == 2


@pytest.mark.usefixtures("ledger")
def test_a_rule_of_the_settings_does_not_lose_its_last_model(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "dicomnode.toml"
    config.write_text('[[rule]]\nname = "knees"\nmodel = "knee"\n')
    run("model", "import", write_thin(tmp_path / "made", name="knee"), "--config", config)
    run("model", "activate", "knee", "--config", config)
    ran = run("model", "rollback", "knee", "--config", config)
    assert ran.code == 2
    assert "Rule knees asks for model knee" in ran.err
    assert run("model", "rollback", "knee").code == 0


def test_a_folder_is_verified_before_anybody_imports_it(run: Run, tmp_path: Path) -> None:
    folder = write_thin(tmp_path / "made", name="knee")
    found = json.loads(run("model", "verify", folder, "--json").out)
    assert (found["name"], found["origin"], found["digest"]) == ("knee", "folder", model_dir.verify(folder))
    assert json.loads(run("model", "show", folder, "--json").out)["card"]["name"] == "knee"


def test_an_older_ledger_is_refused_with_what_to_do(run: Run, ledger: Path) -> None:
    with closing(sqlite3.connect(ledger)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    ran = run("model", "list")
    assert ran.code == 3
    assert "run `dicomnode db upgrade`" in ran.err
