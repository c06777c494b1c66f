"""What ``status`` says of certificates that end, and what a command says of a file that it cannot use."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from dicomnode.ledger.store import open_ledger
from tests.cli.conftest import Run
from tests.support.certificates import Authority, Issued

PACS = '[[peer]]\nname = "pacs"\nae_title = "PACS"\naddress = "127.0.0.1:11"\ntls = true\n'


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    (tmp_path / "data").mkdir()
    open_ledger(f"sqlite:///{tmp_path / 'data' / 'ledger.sqlite'}").close()
    return Authority(tmp_path)


def config(folder: Path, authority: Authority, issued: Issued) -> Path:
    file = folder / "node.toml"
    file.write_text(
        f'[tls]\ncertificate = "{issued.certificate}"\nkey = "{issued.key}"\nca = "{authority.certificate}"\n{PACS}'
    )
    return file


@pytest.mark.parametrize(("days", "state"), [(90, None), (29, "soon"), (3, "urgent"), (-1, "expired")])
def test_status_names_a_certificate_that_ends(
    run: Run, tmp_path: Path, authority: Authority, days: int, state: str | None
) -> None:
    issued = authority.issue("node", begins=timedelta(days=-99), ends=timedelta(days=days))
    ran = run("status", "--json", "--config", config(tmp_path, authority, issued))
    assert ran.code == 0
    found = [(line["table"], line["id"], line["state"], line["reason"]) for line in json.loads(ran.out)["attention"]]
    assert found == ([("certificate", 1, state, "tls.certificate")] if state else [])


def test_a_key_that_others_may_read_stands_in_status_and_ends_an_echo(
    run: Run, tmp_path: Path, authority: Authority
) -> None:
    issued = authority.issue("node")
    issued.key.chmod(0o644)
    file = config(tmp_path, authority, issued)
    (line,) = json.loads(run("status", "--json", "--config", file).out)["attention"]
    assert (line["table"], line["state"]) == ("certificate", "unusable")
    ran = run("echo", "pacs", "--config", file)
    assert ran.code == 2
    assert "may be read by every user" in ran.err
    assert "chmod 0400" in ran.err
