"""Running commands as a user would, in this process: words in, code and printed text out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from dicomnode.cli.main import main
from dicomnode.settings import load


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command line."""

    def run_words(*words: object) -> Ran:
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in words])
        shown = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return Ran(code=caught.value.code, out=shown.out, err=shown.err)

    return run_words


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Commands find no file of the system and write nowhere but below the test's folder."""
    monkeypatch.setattr(load, "SYSTEM_FILE", tmp_path / "no-such-file")
    monkeypatch.setenv("DICOMNODE_NODE__DATA", str(tmp_path / "data"))
