"""A fresh ledger for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.ledger.store import open_ledger
from tests.ledger.scene import FakeClock, Scene


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def scene(tmp_path: Path, clock: FakeClock) -> Iterator[Scene]:
    path = tmp_path / "ledger.sqlite"
    scene = Scene(ledger=open_ledger(f"sqlite:///{path}", clock=clock), clock=clock, path=path)
    yield scene
    scene.close()
