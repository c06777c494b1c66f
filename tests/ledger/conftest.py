"""A fresh ledger for each test: a copy of an empty one, since to make its tables takes longer than most tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.ledger.store import open_ledger
from tests.ledger.scene import FakeClock, Scene


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="session")
def empty_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a ledger that nothing has been written to."""
    path = tmp_path_factory.mktemp("empty") / "ledger.sqlite"
    open_ledger(f"sqlite:///{path}", clock=FakeClock()).close()
    return path


@pytest.fixture
def scene(tmp_path: Path, clock: FakeClock, empty_ledger: Path) -> Iterator[Scene]:
    path = tmp_path / "ledger.sqlite"
    shutil.copyfile(empty_ledger, path)
    scene = Scene(ledger=open_ledger(f"sqlite:///{path}", clock=clock), clock=clock, path=path)
    yield scene
    scene.close()
