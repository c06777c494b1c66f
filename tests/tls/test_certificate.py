"""The facts of a certificate are those that openssl prints, and a certificate is matched by whole names."""

from __future__ import annotations

import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dicomnode.tls.certificate import Certificate, in_pem, is_expected, read
from tests.support.certificates import Authority

NAMED = Certificate(
    names=("PACS.example.org", "10.1.0.5"),
    fingerprint="ab" * 32,
    not_before=datetime(2026, 1, 1, tzinfo=UTC),
    not_after=datetime(2027, 1, 1, tzinfo=UTC),
)


def test_the_facts_are_those_that_openssl_prints(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    issued = authority.issue("mr1", names=("DNS:mr1.example.org", "IP:10.1.2.3", "IP:2001:db8::7", "email:a@b.org"))
    (found,) = in_pem(issued.certificate.read_text())
    assert found.names == ("mr1.example.org", "10.1.2.3", "2001:db8::7"), "and not the common name beside them"
    assert found.fingerprint == issued.fingerprint.replace(":", "").lower()
    command = ["openssl", "x509", "-in", str(issued.certificate), "-noout", "-dates"]
    dates = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    wanted = [datetime.strptime(line.partition("=")[2], "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC) for line in dates]
    assert [found.not_before, found.not_after] == wanted


def test_the_common_name_counts_where_there_is_no_other_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    issued = authority.issue("Scanner 3", names=(), ends=timedelta(days=365 * 40), file="scanner")
    (found,) = in_pem(issued.certificate.read_text())
    assert found.names == ("Scanner 3",)
    assert found.not_after.year > 2050, "from then on the year has four digits in the encoding"


@pytest.mark.parametrize(
    ("fingerprints", "names", "is_it"),
    [
        (["ab" * 32], [], True),
        (["cd" * 32], [], False),
        ([], ["pacs.example.ORG"], True),
        ([], ["10.1.0.5"], True),
        ([], ["example.org"], False),
        ([], ["ACS.example.org"], False),
        (["cd" * 32], ["10.1.0.5"], True),  # one of the two is enough
        ([], [], False),
    ],
)
def test_a_certificate_is_known_by_one_of_its_whole_names_or_its_fingerprint(
    fingerprints: list[str], names: list[str], is_it: bool
) -> None:
    assert is_expected(NAMED, fingerprints=fingerprints, names=names) is is_it


def test_what_is_no_certificate_is_a_value_error_wherever_it_breaks_off(tmp_path: Path) -> None:
    encoded = ssl.PEM_cert_to_DER_cert(Authority(tmp_path).certificate.read_text())
    for size in range(0, len(encoded), 7):
        with pytest.raises(ValueError, match="not an X"):
            read(encoded[:size])
    for at in range(0, len(encoded), 3):
        broken = bytearray(encoded)
        broken[at] ^= 0xFF
        try:
            read(bytes(broken))
        except ValueError:
            continue
