"""What a process really loads, seen in a fresh interpreter; what may import what is import-linter's matter."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "pydicom", "pynetdicom", "sqlalchemy", "alembic", "pydantic", "rich")


def _loaded(code: str) -> set[str]:
    """Top names of all modules that are loaded after the code ran."""
    report = "; import sys, json; print(json.dumps(sorted({n.partition('.')[0] for n in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def _help(*words: str) -> str:
    return (
        "from dicomnode.cli.main import main\n"
        f"try: main({[*words, '--help']!r})\n"
        "except SystemExit as exc: assert exc.code == 0, exc.code\n"
        "import sys"
    )


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["serve"],
        ["reload"],
        ["infer"],
        ["series"],
        ["series", "explain"],
        ["model"],
        ["db"],
        ["train"],
        ["evaluate"],
        ["worker"],
    ],
)
def test_help_loads_no_heavy_library(words: list[str]) -> None:
    assert _loaded(_help(*words)).isdisjoint(HEAVY)


def test_the_version_needs_no_package_metadata() -> None:
    loaded = _loaded(_help().replace("--help", "--version"))
    assert loaded.isdisjoint({*HEAVY, "email"}), "importlib.metadata drags email along"


def test_the_service_never_loads_torch() -> None:
    """Only the worker's child does: a service that forked or leaked a GPU context would be two programs."""
    assert "torch" not in _loaded("import dicomnode.service.service")


def test_the_page_loads_neither_torch_nor_the_network_library() -> None:
    """A page is not to cost what a model does, and nothing on it speaks DICOM."""
    assert _loaded("import dicomnode.web.server").isdisjoint({"torch", "pynetdicom"})


def test_the_service_never_loads_the_engine_of_a_cluster() -> None:
    """Whoever may connect to the engine can run code where it is loaded; only the child of a job does."""
    assert _loaded("import dicomnode.service.service, dicomnode.checks.sheet").isdisjoint(
        {"distributed", "dask", "tornado"}
    )


def test_the_receiver_loads_no_numpy_through_us() -> None:
    """pydicom imports numpy itself where it is installed; so it is blocked, and the receiver must not miss it."""
    code = "import sys; sys.modules['numpy'] = None\nimport dicomnode.receive.scp"
    assert "pynetdicom" in _loaded(code)


def test_what_makes_a_trainings_batches_loads_no_torch() -> None:
    """A process of its own does, started anew for each stage: torch would cost it seconds and hundreds of megabytes."""
    assert "torch" not in _loaded("import trainer.training.loader")


def test_imaging_loads_no_network_and_no_database() -> None:
    code = "import dicomnode.imaging.stack, dicomnode.imaging.judge, dicomnode.derive.encode"
    assert _loaded(code).isdisjoint({"pynetdicom", "sqlalchemy", "click", "pydantic", "torch"})


def test_settings_load_no_dicom_library_without_a_rule_that_needs_its_dictionary() -> None:
    assert "pydicom" not in _loaded("from dicomnode.settings import load; load.parse({})")
