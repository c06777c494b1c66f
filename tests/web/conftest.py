"""A node with one series derived and delivered, and one that was kept, and its page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.support.page_node import Browser, PageNode, browser, page_node, settings_of, token_file
from tests.support.phantom import Phantom
from tests.support.training_runs import fill_runs

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, datetime]:
    """Series 1 was derived and is delivered to pacs, and series 3 was kept; and the moment when that was done."""
    folder = tmp_path_factory.mktemp("page")
    with page_node(folder) as made:
        assert made.receive() == 1
        assert made.derive() == 2
        made.deliver()
        few = Phantom(slices=3, rows=16, columns=16).datasets()
        for dataset in few:
            dataset.SeriesDescription, dataset.PatientName = HOSTILE, "SECRET^NAME"
        made.receive(few)
        return folder, made.quiet.clock.now()


@pytest.fixture(scope="session")
def made_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one training run, really trained, judged and read."""
    folder = tmp_path_factory.mktemp("trained")
    fill_runs(folder / "runs", folder / "studies")
    return folder / "runs"


@pytest.fixture
def node(made_once: tuple[Path, datetime], tmp_path: Path) -> Iterator[PageNode]:
    """A copy of it that a test may change."""
    folder, moment = made_once
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    with page_node(tmp_path) as copy:
        copy.quiet.clock.moment = moment
        yield copy


@pytest.fixture
def open_page(node: PageNode) -> Iterator[Browser]:
    """The page on this machine alone, without a token."""
    with browser(settings_of(node.data), node.quiet.clock) as opened:
        yield opened


@pytest.fixture
def guarded(node: PageNode, tmp_path: Path) -> Iterator[Browser]:
    """The page with a token, of which this browser knows nothing yet."""
    with browser(settings_of(node.data, token_file=str(token_file(tmp_path))), node.quiet.clock) as opened:
        yield opened
