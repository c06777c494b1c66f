"""``check --rehearse`` as a person types it: what is printed where, the exit code, and options without effect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.support.committing_pacs import CommittingPacs
from tests.support.dcmtk import free_port
from tests.support.dicomweb import DicomwebServer


@pytest.fixture
def pacs() -> Iterator[CommittingPacs]:
    with CommittingPacs() as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, pacs: CommittingPacs) -> Path:
    port = free_port()
    pacs.node, pacs.node_title = ("127.0.0.1", port), "DICOMNODE"
    file = tmp_path / "node.toml"
    file.write_text(
        f'[node]\nlisten = "127.0.0.1:{port}"\n'
        f'[[peer]]\nname = "pacs"\nae_title = "PACS"\naddress = "127.0.0.1:{pacs.port}"\n'
        '[[rule]]\nname = "all"\ndeliver_to = ["pacs"]\n'
    )
    return file


def test_it_prints_each_answer_and_the_sheet_for_both_teams(run: Run, config: Path, pacs: CommittingPacs) -> None:
    ran = run("check", "--rehearse", "pacs", "--config", config)
    assert ran.code == 0, ran.out
    assert ran.err.startswith("Sends 5 test images of TEST^DICOMNODE (Patient ID DICOMNODE-TEST) to pacs: PACS at ")
    assert len(pacs.held) == 5
    after = ran.out.partition("Hand-over sheet, PACS team:")[2]
    of_pacs, _, of_ours = after.partition("Hand-over sheet, our team:")
    assert "  [?] delete the study 2.25." in of_pacs
    assert "  [x] DICOMNODE may store MR Image Storage" in of_pacs
    assert f"  [x] `address` 127.0.0.1:{pacs.port} is what the PACS team says" in of_ours


def test_json_is_one_object_and_a_failed_step_ends_with_4(run: Run, config: Path, pacs: CommittingPacs) -> None:
    config.write_text(config.read_text().replace(str(pacs.port), str(free_port())))
    ran = run("check", "--rehearse", "pacs", "--config", config, "--json")
    assert ran.code == 4
    told = json.loads(ran.out)
    assert [(step["what"], step["side"]) for step in told["steps"] if step["mark"] == "fail"] == [
        ("connection", "our team")
    ]
    assert told["images_sent"] == 0
    assert not [line for line in told["sheet"] if "delete" in line["item"]], "nothing is there to be deleted"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--rehearse", "nobody"), "No peer named nobody with an address"),
        (("--rehearse", "pacs", "--echo"), "--echo has no effect with --rehearse"),
        (("--wait", "5"), "--wait has no effect without --rehearse"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(
    run: Run, config: Path, pacs: CommittingPacs, words: tuple[str, ...], says: str
) -> None:
    ran = run("check", *words, "--config", config)
    assert ran.code == 2
    assert says in ran.err
    assert not pacs.held


def test_a_server_by_dicomweb_is_rehearsed_with_too(run: Run, tmp_path: Path) -> None:
    with DicomwebServer() as server:
        file = tmp_path / "node.toml"
        file.write_text(
            f'[node]\nlisten = "127.0.0.1:{free_port()}"\n[[peer]]\nname = "web"\nurl = "{server.url}"\n'
            '[[rule]]\nname = "all"\ndeliver_to = ["web"]\n'
        )
        ran = run("check", "--rehearse", "web", "--config", file)
        assert ran.code == 0, ran.out
        assert f"  [x] the server answers at {server.url}" in ran.out
        told = json.loads(run("check", "--rehearse", "web", "--config", file, "--json").out)
    assert (told["address"], told["ae_title"], told["contexts"]) == (server.url, "", [])
