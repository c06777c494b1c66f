"""``alerts test`` sends to each destination and says what came of it; ``status`` says since when none arrive."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from dicomnode.ledger.store import open_ledger
from dicomnode.ledger.values import Condition
from tests.cli.conftest import Run
from tests.support.certificates import Authority
from tests.support.dcmtk import free_port
from tests.support.mail_server import hook_server, mail_server


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def config(folder: Path, authority: Authority, smtp: int, hook: int) -> Path:
    file = folder / "node.toml"
    file.write_text(
        f'[alert]\nsmtp = "127.0.0.1:{smtp}"\nmail_from = "node@hospital.example"\nmail_to = ["it@hospital.example"]\n'
        f'webhook = "https://127.0.0.1:{hook}/alerts"\nca = "{authority.certificate}"\n'
        "[archive]\nrefuse_free_percent = 0\nwarn_free_percent = 0\n"
    )
    return file


def test_each_destination_gets_one_message_and_the_command_says_so(
    run: Run, tmp_path: Path, authority: Authority
) -> None:
    with mail_server(authority) as mail, hook_server(authority) as hook:
        file = config(tmp_path, authority, mail.port, hook.port)
        ran = run("alerts", "test", "--json", "--config", file)
        assert ran.code == 0
        assert [(row["destination"], row["sent"]) for row in json.loads(ran.out)] == [("mail", True), ("webhook", True)]
        assert "alerts test" in mail.texts[0]
        hook.status = 500
        ran = run("alerts", "test", "--config", file)
    assert ran.code == 4
    assert "The webhook at 127.0.0.1 answered 500." in ran.out
    assert len(mail.mails) == len(hook.bodies) == 2
    assert not (tmp_path / "data").exists()


def test_without_a_destination_it_says_which_keys_name_one(run: Run) -> None:
    ran = run("alerts", "test")
    assert ran.code == 2
    assert "alert.smtp" in ran.err


def test_status_says_since_when_alerts_cannot_be_sent(run: Run, tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "data").mkdir()
    with closing(open_ledger(f"sqlite:///{tmp_path / 'data' / 'ledger.sqlite'}")) as ledger:
        condition = Condition(name="disk", sentence="The disk fills.", number=1, is_error=True)
        ledger.alerts.observe("mail", [condition], (), again_s=0)
        ledger.alerts.not_sent(ledger.alerts.to_send("mail"), "The mail server cannot be used.")
    ran = run("status", "--json", "--config", config(tmp_path, authority, free_port(), free_port()))
    (line,) = json.loads(ran.out)["attention"]
    assert (line["table"], line["state"], line["reason"]) == ("alert", "undelivered", "mail")
    assert line["sentence"].endswith("The mail server cannot be used.")
