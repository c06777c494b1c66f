"""Read an X.509 certificate: its names, the dates of its validity, and its fingerprint.

In: a certificate as a peer presented it, or as it stands in a PEM file. Out: its facts. Its trust is not decided here:
OpenSSL has verified a peer's certificate before, and our own is verified by the peers.

The standard library gives the dates and names of a verified peer only, never those of our own certificate. So the few
fields that are needed are read from the encoding itself (RFC 5280 section 4.1, in DER).
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_VERSION, _EXTENSIONS = 0xA0, 0xA3  # context tags [0] and [3] of a certificate
_UTC_TIME = 0x17
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87  # context tags [2] and [7] of a name (RFC 5280 section 4.2.1.6)
_BMP_STRING = 0x1E
_COMMON_NAME = bytes.fromhex("55 04 03")  # 2.5.4.3
_ALTERNATIVE_NAMES = bytes.fromhex("55 1d 11")  # 2.5.29.17


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """The facts of one certificate."""

    names: tuple[str, ...]  # DNS names and IP addresses of subjectAltName; the common name only where there is none
    fingerprint: str  # SHA-256 of the whole certificate, in lower-case hexadecimal digits
    not_before: datetime
    not_after: datetime


def in_pem(text: str) -> list[Certificate]:
    """Read all certificates of a PEM file, in their order. Raises ValueError where one cannot be read."""
    return [read(ssl.PEM_cert_to_DER_cert(block)) for block in _PEM.findall(text)]


def read(encoded: bytes) -> Certificate:
    """Read a certificate in DER. Raises ValueError where it is none."""
    try:
        ((_, whole),) = _elements(encoded)
        (_, signed), *_ = _elements(whole)
        fields = [(tag, content) for tag, content in _elements(signed) if tag != _VERSION]
        _serial, _algorithm, _issuer, (_, validity), (_, subject), *more = fields
        (not_before, not_after) = (_moment(tag, content) for tag, content in _elements(validity))
        alternatives = [name for tag, content in more if tag == _EXTENSIONS for name in _alternative_names(content)]
        names = alternatives or list(_common_names(subject))[-1:]
    except (IndexError, ValueError) as exc:
        raise ValueError("not an X.509 certificate") from exc
    return Certificate(
        names=tuple(names),
        fingerprint=hashlib.sha256(encoded).hexdigest(),
        not_before=not_before,
        not_after=not_after,
    )


def is_expected(certificate: Certificate, *, fingerprints: Collection[str], names: Collection[str]) -> bool:
    """Tell whether its fingerprint or one of its names is listed. Whole names are compared; case is ignored."""
    wanted = {comparable(name) for name in names}
    return certificate.fingerprint in fingerprints or not wanted.isdisjoint(map(comparable, certificate.names))


def comparable(name: str) -> str:
    """Return a name in the form in which names are compared.

    >>> comparable("PACS.Example.org"), comparable("2001:DB8::0:1")
    ('pacs.example.org', '2001:db8::1')
    """
    try:
        return str(ip_address(name))
    except ValueError:
        return name.lower()


def _alternative_names(extensions: bytes) -> Iterator[str]:
    ((_, listed),) = _elements(extensions)
    for _, extension in _elements(listed):
        (_, kind), *_, (_, value) = _elements(extension)
        if kind != _ALTERNATIVE_NAMES:
            continue
        ((_, names),) = _elements(value)
        for tag, name in _elements(names):
            if tag == _DNS_NAME:
                yield name.decode("ascii", "backslashreplace")
            elif tag == _IP_ADDRESS:
                yield str(ip_address(name))


def _common_names(subject: bytes) -> Iterator[str]:
    for _, group in _elements(subject):
        for _, attribute in _elements(group):
            (_, kind), (tag, value) = _elements(attribute)
            if kind == _COMMON_NAME:
                yield value.decode("utf-16-be" if tag == _BMP_STRING else "utf-8", "backslashreplace")


def _moment(tag: int, content: bytes) -> datetime:
    """Parse a time: two digits of the year until 2049, four from then on (RFC 5280 section 4.1.2.5)."""
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each of the elements that stand one after the other."""
    at = 0
    while at < len(content):
        tag, length = content[at], content[at + 1]
        at += 2
        if length & 0x80:  # the length has so many bytes
            size = length & 0x7F
            length = int.from_bytes(content[at : at + size], "big")
            at += size
        if at + length > len(content):
            raise ValueError("an element ends behind its end")
        yield tag, content[at : at + length]
        at += length
