"""``echo`` and ``send`` against a PACS that is really there, and one that is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.demo.pacs import Pacs
from tests.cli.conftest import Run
from tests.support.mr_series import write_mr_series


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[Pacs]:
    with Pacs(tmp_path / "pacs") as running:
        yield running


@pytest.fixture
def config(pacs: Pacs, tmp_path: Path) -> Path:
    file = tmp_path / "node.toml"
    file.write_text(
        f'[[peer]]\nname = "pacs"\nae_title = "PACS"\naddress = "127.0.0.1:{pacs.port}"\n'
        '[[peer]]\nname = "mr1"\nae_title = "MR1"\nnetworks = ["10.0.0.0/8"]\n'
        '[[peer]]\nname = "gone"\nae_title = "GONE"\naddress = "127.0.0.1:1"\n'
    )
    return file


def test_a_peer_that_answers_is_told_with_its_address(run: Run, config: Path, pacs: Pacs) -> None:
    ran = run("echo", "pacs", "--config", config, "--json")
    assert ran.code == 0
    found = json.loads(ran.out)
    assert found | {"seconds": 0} == {
        "peer": "pacs", "ae_title": "PACS", "address": f"127.0.0.1:{pacs.port}", "status": 0, "seconds": 0,
    }  # fmt: skip


def test_a_peer_that_does_not_answer_is_code_4_with_a_hint(run: Run, config: Path) -> None:
    ran = run("echo", "gone", "--config", config)
    assert ran.code == 4
    assert "gone: No connection to the peer: 127.0.0.1:1" in ran.err
    assert "firewall" in ran.err


@pytest.mark.parametrize("name", ["nosuch", "mr1"])
def test_a_peer_without_an_address_is_code_2_and_those_that_have_one_are_named(
    run: Run, config: Path, name: str
) -> None:
    ran = run("echo", name, "--config", config)
    assert ran.code == 2
    assert "Peers with one: gone, pacs." in ran.err


def test_a_folder_arrives_whole(run: Run, config: Path, pacs: Pacs, tmp_path: Path) -> None:
    write_mr_series(tmp_path / "in", slices=5)
    (tmp_path / "in" / "notes.txt").write_text("no DICOM")
    ran = run("send", "pacs", tmp_path / "in", "--config", config, "--json")
    assert ran.code == 0
    assert json.loads(ran.out) == {"peer": "pacs", "sent": 5, "failed": []}
    assert len(pacs.held()) == 5


def test_what_was_not_stored_is_listed_and_the_code_is_4(run: Run, config: Path, tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path / "in", slices=2)
    ran = run("send", "gone", *paths, "--config", config)
    assert ran.code == 4
    assert "2 of 2 files were not stored by gone." in ran.err
    assert ran.out.count("No connection to the peer") == 2


def test_nothing_to_send_is_code_2(run: Run, config: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert run("send", "pacs", tmp_path / "in", "--config", config).code == 2
