"""The wheel alone, away from the checkout, is a whole node: migrations, example settings, samples and models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _run(*words: str | Path, folder: Path, **environ: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("DICOMNODE_", "PYTHON"))}
    done = subprocess.run(
        [str(word) for word in words], cwd=folder, env=clean | environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the checkout as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, folder=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def program(wheel: Path) -> Path:
    """``dicomnode`` in a fresh environment with the wheel in it; its dependencies are those of this one.

    The fresh environment's own packages come first on the path, so a checkout installed here is not what runs.
    """
    home = wheel.parent / "venv"
    _run(sys.executable, "-m", "venv", "--without-pip", home, folder=wheel.parent)
    python = home / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "--quiet")
    _run(*pip, "install", "--no-deps", "--no-index", wheel, folder=wheel.parent)
    (packages,) = home.glob("lib/python3*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = _run(python, "-c", "import dicomnode; print(dicomnode.__file__)", folder=wheel.parent)
    assert Path(where.strip()).is_relative_to(home)
    return home / "bin" / "dicomnode"


def test_it_holds_everything_that_the_node_reads(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for beginning in (
        "dicomnode/migrations/",
        "dicomnode/etc/dicomnode.toml",
        "dicomnode/samples/prostatex_t2_tra/",
        "dicomnode/samples/brain_m2307_t2/thick/",
        "dicomnode/ledger/states.py",
        "trainer/data/open_data.toml",
        "trainer/training/recipes/thin.toml",
        "trainer/judging/templates/report.html",
        "trainer/readers/templates/study.html",
    ):
        assert any(name.startswith(beginning) for name in names), beginning
    for model in (path.parent.name for path in (ROOT / "dicomnode" / "models").glob("*/card.toml")):
        for file in ("card.toml", "weights.safetensors", "metrics.json", "SHA256SUMS"):
            assert f"dicomnode/models/{model}/{file}" in names
    assert not [name for name in names if name.startswith("tests/") or "__pycache__" in name]


def test_it_carries_the_licence_and_the_notices(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for file in ("LICENSE", "THIRD_PARTY_NOTICES.md"):
        assert any(name.endswith(f".dist-info/licenses/{file}") for name in names), file


def test_it_makes_a_ledger(program: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    _run(program, "db", "upgrade", folder=tmp_path, DICOMNODE_NODE__DATA=str(data))
    assert (data / "ledger.sqlite").is_file()
    found = json.loads(_run(program, "db", "current", "--json", folder=tmp_path, DICOMNODE_NODE__DATA=str(data)))
    assert found["current"] == found["needed"]


def test_its_models_are_whole(program: Path, tmp_path: Path) -> None:
    models = json.loads(_run(program, "model", "list", "--json", folder=tmp_path))
    assert [model["name"] for model in models if model["default"]]
    for model in models:
        _run(program, "model", "verify", model["name"], folder=tmp_path)


def test_it_derives_a_series_from_a_sample_that_it_brings_along(program: Path, tmp_path: Path) -> None:
    samples = next(program.parent.parent.glob("lib/python3*/site-packages/dicomnode/samples/prostatex_t2_tra"))
    words = ("infer", samples, tmp_path / "out", "--model", "cubic-dc", "--device", "cpu", "--json")
    found = json.loads(_run(program, *words, folder=tmp_path))
    assert found["thin"] == found["thick"] * found["ratio"] == len(list((tmp_path / "out").glob("*.dcm")))
