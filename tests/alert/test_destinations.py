"""A message goes over TLS with the right password to a server that proves who it is, or does not go at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicomnode.alert.destination import NotSentError
from dicomnode.alert.message import trial
from dicomnode.alert.watch import destinations
from tests.alert.conftest import settings_for
from tests.support.certificates import Authority
from tests.support.mail_server import HookServer, MailServer, mail_server

TRIAL = trial("NODE\x1b[2J on here")


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text("open sesame\n")
    file.chmod(0o400)
    return file


def send(folder: Path, authority: Authority, server: MailServer, **alert: object) -> None:
    (way,) = destinations(settings_for(folder, authority, mail=server, alert=alert).alert)
    way.send(TRIAL)


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_a_mail_goes_encrypted_and_with_the_password_of_the_file(
    tmp_path: Path, authority: Authority, password_file: Path, tls: str
) -> None:
    with mail_server(authority, tls=tls) as server:
        send(tmp_path, authority, server, smtp_tls=tls, user="node", password_file=str(password_file))
    assert server.was_encrypted == [True]
    assert server.logins == ["node"]
    (mail,) = server.mails
    assert mail["Subject"] == r"[dicomnode NODE\x1b[2J on here] test"
    assert mail["Auto-Submitted"] == "auto-generated"


def test_nothing_is_said_in_the_clear_to_a_server_without_starttls(tmp_path: Path, authority: Authority) -> None:
    with (
        mail_server(authority, offers_starttls=False) as server,
        pytest.raises(NotSentError, match="does not offer what is needed"),
    ):
        send(tmp_path, authority, server)
    assert server.mails == []


def test_a_server_in_the_clear_is_used_only_where_the_settings_say_so(tmp_path: Path, authority: Authority) -> None:
    with mail_server(authority, offers_starttls=False) as server:
        send(tmp_path, authority, server, smtp_tls="none")
    assert server.was_encrypted == [False]


def test_a_server_of_another_authority_gets_neither_mail_nor_password(
    tmp_path: Path, authority: Authority, password_file: Path
) -> None:
    with (
        mail_server(Authority(tmp_path, "others")) as server,
        pytest.raises(NotSentError, match="its certificate is not trusted"),
    ):
        send(tmp_path, authority, server, user="node", password_file=str(password_file))
    assert (server.mails, server.logins) == ([], [])


def test_a_wrong_password_is_named_without_the_password(
    tmp_path: Path, authority: Authority, mail: MailServer, password_file: Path
) -> None:
    mail.password = "another"  # noqa: S105 (of a double)
    with pytest.raises(NotSentError, match="does not take the user and the password") as caught:
        send(tmp_path, authority, mail, user="node", password_file=str(password_file))
    assert "sesame" not in str(caught.value)


def test_a_password_that_every_user_may_read_is_not_used(
    tmp_path: Path, authority: Authority, mail: MailServer, password_file: Path
) -> None:
    password_file.chmod(0o644)
    with pytest.raises(NotSentError, match="may be read by every user: chmod 0400"):
        send(tmp_path, authority, mail, user="node", password_file=str(password_file))
    assert mail.logins == []


def test_a_mail_that_the_server_does_not_take_is_not_sent(
    tmp_path: Path, authority: Authority, mail: MailServer
) -> None:
    mail.data_answer = b"452 no room, Mr. SENTINEL"
    with pytest.raises(NotSentError, match="answered 452") as caught:
        send(tmp_path, authority, mail)
    assert "SENTINEL" not in str(caught.value)


def test_a_webhook_that_answers_with_an_error_was_not_told_and_its_secret_is_not_repeated(
    tmp_path: Path, authority: Authority, hook: HookServer
) -> None:
    (way,) = destinations(settings_for(tmp_path, authority, mail=None, hook=hook).alert)
    way.send(TRIAL)
    assert hook.bodies[0]["kind"] == "test"
    assert hook.bodies[0]["subject"] == TRIAL.subject
    for status in (500, 302):
        hook.status = status
        with pytest.raises(NotSentError, match=f"The webhook at 127.0.0.1 answered {status}") as caught:
            way.send(TRIAL)
        assert "T0K3N" not in str(caught.value)
