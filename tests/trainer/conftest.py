"""One folder of phantoms for all trainer tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.phantom_sources import write_sources


@pytest.fixture(scope="session")
def phantom_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a phantom for each volume of the table."""
    data = tmp_path_factory.mktemp("data")
    write_sources(data)
    return data


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny networks: more threads than free cores only wait for each other."""
    torch.set_num_threads(1)
