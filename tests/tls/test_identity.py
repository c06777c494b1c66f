"""The files of [tls]: each that cannot be used has its sentence, and a replacement counts without a restart."""

from __future__ import annotations

import os
import shutil
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dicomnode.errors import SettingsError
from dicomnode.tls.identity import SUITES, Age, Identity, held_certificates
from tests.support.certificates import Authority, Issued


@dataclass(frozen=True, kw_only=True)
class Files:
    certificate: str
    key: str
    ca: str


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def files_of(authority: Authority, issued: Issued) -> Files:
    return Files(certificate=str(issued.certificate), key=str(issued.key), ca=str(authority.certificate))


def replace(files: Files, issued: Issued) -> None:
    """As an administrator does it: a new file is renamed over the old one."""
    for old, new in ((files.certificate, issued.certificate), (files.key, issued.key)):
        copy = Path(old + ".new")
        shutil.copy(new, copy)
        copy.chmod(0o600)
        copy.rename(old)


def fingerprint(identity: Identity) -> str:
    return identity.certificates(datetime.now(UTC))[0].fingerprint


def colons(text: str) -> str:
    return text.replace(":", "").lower()


def missing(files: Files, _authority: Authority) -> None:
    Path(files.certificate).unlink()


def a_folder(files: Files, _authority: Authority) -> None:
    Path(files.ca).unlink()
    Path(files.ca).mkdir()


def no_pem(files: Files, _authority: Authority) -> None:
    Path(files.ca).write_bytes(b"\x30\x82\x01\x02")


def broken(files: Files, _authority: Authority) -> None:
    text = Path(files.certificate).read_text()
    Path(files.certificate).write_text(text[:120] + text[160:])


def other_key(files: Files, authority: Authority) -> None:
    shutil.copy(authority.issue("other").key, files.key)


def open_key(files: Files, _authority: Authority) -> None:
    Path(files.key).chmod(0o644)


def locked_key(files: Files, _authority: Authority) -> None:
    Path(files.key).write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")


def no_key(files: Files, _authority: Authority) -> None:
    Path(files.key).write_text("nothing of this kind\n")


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (missing, "(tls.certificate) cannot be used: No such file or directory."),
        (a_folder, "(tls.ca) cannot be used: Is a directory."),
        (no_pem, "(tls.ca) cannot be used: it holds no certificate in PEM form"),
        (broken, "(tls.certificate) cannot be used: it holds a certificate that cannot be read."),
        (other_key, "(tls.key) does not belong to the certificate"),
        (open_key, "(tls.key) may be read by every user of this machine (mode 0644)."),
        (locked_key, "(tls.key) is encrypted with a passphrase"),
        (no_key, "(tls.key) cannot be used: "),
    ],
)
def test_a_file_that_cannot_be_used_is_named_in_one_sentence(
    authority: Authority, harm: Callable[[Files, Authority], None], sentence: str
) -> None:
    files = files_of(authority, authority.issue("node"))
    harm(files, authority)
    with pytest.raises(SettingsError) as caught:
        Identity(files)
    assert sentence in caught.value.sentence
    assert caught.value.sentence.count("\n") == 0
    assert caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_a_file_that_may_not_be_read_is_named(authority: Authority) -> None:
    files = files_of(authority, authority.issue("node"))
    Path(files.key).chmod(0)
    with pytest.raises(SettingsError, match="cannot be used: Permission denied"):
        Identity(files)


def test_the_profile_has_nothing_older_than_tls_1_2_and_four_suites_under_it(authority: Authority) -> None:
    identity = Identity(files_of(authority, authority.issue("node")))
    for context in (identity.listening(), identity.sending(is_host_checked=True)):
        older = {cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] != "TLSv1.3"}
        assert older == set(SUITES)
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.verify_mode is ssl.CERT_REQUIRED
    assert identity.sending(is_host_checked=True).check_hostname
    assert not identity.sending(is_host_checked=False).check_hostname


def test_a_certificate_that_was_replaced_counts_for_the_next_connection(authority: Authority) -> None:
    first, second = authority.issue("node"), authority.issue("node", file="second")
    files = files_of(authority, first)
    identity = Identity(files)
    before = identity.listening()
    assert identity.listening() is before, "nothing is read again while nothing changes"
    replace(files, second)
    assert identity.listening() is not before
    assert fingerprint(identity) == colons(second.fingerprint)


def test_a_replacement_that_cannot_be_used_leaves_the_last_good_one(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    files = files_of(authority, authority.issue("node"))
    identity = Identity(files)
    good, name = identity.listening(), fingerprint(identity)
    other = authority.issue("other")
    shutil.copy(other.certificate, files.certificate)  # its key has not come yet
    for _ in range(3):
        assert identity.listening() is good
    assert fingerprint(identity) == name
    assert [record.getMessage() for record in caplog.records] == ["certificate_not_taken"], "once, not at each look"
    shutil.copy(other.key, files.key)
    assert identity.listening() is not good
    assert fingerprint(identity) == colons(other.fingerprint)


@pytest.mark.parametrize(
    ("begins", "ends", "age", "said"),
    [
        (-1, 400, Age.VALID, "expires in 399 days"),
        (-1, 29, Age.SOON, "expires in 28 days"),
        (-1, 6.5, Age.URGENT, "expires in 6 days"),
        (-9, -1, Age.EXPIRED, "expired on "),
        (1, 400, Age.NOT_YET, "is not valid before "),
    ],
)
def test_the_end_of_a_certificate_is_announced(
    authority: Authority, begins: float, ends: float, age: Age, said: str
) -> None:
    issued = authority.issue("node", begins=timedelta(days=begins), ends=timedelta(days=ends))
    ours, root = held_certificates(files_of(authority, issued), datetime.now(UTC))
    assert (ours.key, ours.age) == ("tls.certificate", age)
    assert said in ours.sentence
    assert (root.key, root.number, root.age) == ("tls.ca", 1, Age.VALID)


def test_without_files_there_is_nothing_to_announce() -> None:
    assert held_certificates(Files(certificate="", key="", ca=""), datetime.now(UTC)) == []


def test_the_files_of_other_settings_count_for_the_next_connection(authority: Authority) -> None:
    first, second = authority.issue("node"), authority.issue("node", file="second")
    identity = Identity(files_of(authority, first))
    listening = identity.listening  # what an open door asks at each connection
    identity.take(Identity(files_of(authority, second)))
    assert listening() is identity.listening()
    assert fingerprint(identity) == colons(second.fingerprint)
