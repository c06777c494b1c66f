"""Make TLS contexts from the files of ``[tls]``: for peers that connect to us, and for those that we connect to.

The profile is that of PS3.15 section B.12 (BCP 195; RFC 9325): TLS 1.2 and 1.3 and nothing older, no renegotiation and
no compression; under TLS 1.2 the four suites with ECDHE and AES-GCM. Both sides present a certificate to the listener.

Every new connection gets its context here. So a certificate that was replaced on disk counts for the next connection,
and connections that are open keep the one that they began with. A replacement that cannot be used is logged, and the
last good files stay in use.
"""

from __future__ import annotations

import logging
import ssl
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from dicomnode import log
from dicomnode.errors import SettingsError
from dicomnode.tls.certificate import Certificate, in_pem

LOGGER = logging.getLogger(__name__)

SOON_DAYS = 30
URGENT_DAYS = 7
SUITES = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
)
"""The cipher suites for TLS 1.2; those of TLS 1.3 are all of this kind."""

_OTHERS_MAY_READ = 0o007


class Files(Protocol):
    """The paths of the PEM files; an empty text is none."""

    @property
    def certificate(self) -> str:
        """Our certificate, followed by those between it and its authority."""

    @property
    def key(self) -> str:
        """The private key of our certificate."""

    @property
    def ca(self) -> str:
        """The authorities that the certificates of peers come from."""


class Age(StrEnum):
    """The age of a certificate, by the time until it expires."""

    VALID = "valid"
    SOON = "soon"  # within SOON_DAYS
    URGENT = "urgent"  # within URGENT_DAYS
    EXPIRED = "expired"
    NOT_YET = "not_yet"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldCertificate:
    """A certificate in our files, with its age at one moment."""

    key: str  # key of the settings that names the file
    number: int  # place in its file, from 1
    file: str
    fingerprint: str
    names: tuple[str, ...]
    not_after: datetime
    age: Age
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """The contents of the files."""

    listening: ssl.SSLContext | None  # None: we have no certificate
    sending: ssl.SSLContext
    sending_to_host: ssl.SSLContext
    certificates: tuple[tuple[str, int, str, Certificate], ...]  # key, number, file


class Identity:
    """Our certificate and the authorities that we trust, by the present files. Safe to use from many threads."""

    def __init__(self, files: Files) -> None:
        """Read the files. Raises SettingsError where one of them cannot be used."""
        self._files = files
        self._lock = threading.Lock()
        self._stamp = _stamp(files)
        self._loaded = _load(files)

    def take(self, other: Identity) -> None:
        """Use the files of another ``Identity`` from the next connection on."""
        with self._lock:
            self._files, self._stamp, self._loaded = other._files, other._stamp, other._loaded

    def listening(self) -> ssl.SSLContext:
        """Return the context for a peer that connects: it must present a certificate of an authority in ``tls.ca``."""
        context = self._now().listening
        assert context is not None, "the settings demand a certificate where tls.listen is set"
        return context

    def sending(self, *, is_host_checked: bool) -> ssl.SSLContext:
        """Return the context for a peer that we call; with ``is_host_checked``, its certificate must name the host."""
        loaded = self._now()
        return loaded.sending_to_host if is_host_checked else loaded.sending

    def certificates(self, now: datetime) -> list[HeldCertificate]:
        """List our certificate and those of the authorities, each with a sentence on its dates."""
        return [_held(*one, now) for one in self._now().certificates]

    def _now(self) -> _Loaded:
        with self._lock:
            stamp = _stamp(self._files)
            if stamp != self._stamp:
                self._stamp = stamp  # a replacement that cannot be used is tried once
                try:
                    self._loaded = _load(self._files)
                except SettingsError as exc:
                    log.event(LOGGER, "certificate_not_taken", level=logging.ERROR, sentence=exc.sentence)
                else:
                    log.event(LOGGER, "certificate_taken")
            return self._loaded


def held_certificates(files: Files, now: datetime) -> list[HeldCertificate]:
    """List the certificates in these files, none where TLS is not used. Raises SettingsError as ``Identity`` does."""
    return Identity(files).certificates(now) if files.ca else []


def certificates_of_cluster(ca: str, cert: str, now: datetime) -> list[HeldCertificate]:
    """List our certificate of the cluster and those of its authority. Raises SettingsError where one cannot be read."""
    ours = _read("cluster.cert", cert)[0]
    authorities = enumerate(_read("cluster.ca", ca), 1)
    found = [("cluster.cert", 1, cert, ours), *(("cluster.ca", number, ca, one) for number, one in authorities)]
    return [_held(*one, now) for one in found]


def for_web(files: Files, ca: str) -> ssl.SSLContext:
    """Return the context for a web server that we connect to. Raises SettingsError.

    ``ca``: the authorities that its certificate may come from (``peer.ca``); empty: those that this machine trusts. Our
    own certificate, where there is one, is shown to a server that asks for it.
    """
    context = _harden(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    if ca:
        _trust(context, "peer.ca", ca)
    else:
        context.load_default_certs()
    _present(context, files)
    return context


def _held(key: str, number: int, file: str, certificate: Certificate, now: datetime) -> HeldCertificate:
    return HeldCertificate(
        key=key, number=number, file=file, fingerprint=certificate.fingerprint, names=certificate.names,
        not_after=certificate.not_after, age=age_of(certificate, now),
        sentence=_in_words(key, number, file, certificate, now),
    )  # fmt: skip


def age_of(certificate: Certificate, now: datetime) -> Age:
    """Return the age of the certificate, by the time until it expires."""
    left = certificate.not_after - now
    if left < timedelta(0):
        return Age.EXPIRED
    if certificate.not_before > now:
        return Age.NOT_YET
    if left < timedelta(days=URGENT_DAYS):
        return Age.URGENT
    return Age.SOON if left < timedelta(days=SOON_DAYS) else Age.VALID


def _in_words(key: str, number: int, file: str, certificate: Certificate, now: datetime) -> str:
    which = f"{file} ({key})" if number == 1 else f"number {number} in {file} ({key})"
    match age_of(certificate, now):
        case Age.EXPIRED:
            who = "the cluster refuses" if key.startswith("cluster.") else "peers refuse"
            return f"The certificate {which} expired on {certificate.not_after:%Y-%m-%d}; {who} it."
        case Age.NOT_YET:
            return f"The certificate {which} is not valid before {certificate.not_before:%Y-%m-%d %H:%M} UTC."
        case _:
            days = (certificate.not_after - now).days
            return f"The certificate {which} expires in {days} days, on {certificate.not_after:%Y-%m-%d}."


def _stamp(files: Files) -> tuple[object, ...]:
    """Return the facts of the files that change when one is replaced or written."""
    found: list[object] = []
    for name in (files.certificate, files.key, files.ca):
        try:
            facts = Path(name).stat() if name else None
        except OSError:
            facts = None
        found.append(facts and (facts.st_mtime_ns, facts.st_ino, facts.st_size, facts.st_mode))
    return tuple(found)


def _load(files: Files) -> _Loaded:
    held = [("tls.ca", number, files.ca, one) for number, one in enumerate(_read("tls.ca", files.ca), 1)]
    if files.certificate:
        ours = _read("tls.certificate", files.certificate)[0]  # the others in the file lead to its authority
        held.insert(0, ("tls.certificate", 1, files.certificate, ours))
        _require_private(files.key)
    sending_to_host = _context(ssl.PROTOCOL_TLS_CLIENT, files)
    sending = _context(ssl.PROTOCOL_TLS_CLIENT, files)
    sending.check_hostname = False
    listening = None
    if files.certificate:
        listening = _context(ssl.PROTOCOL_TLS_SERVER, files)
        listening.verify_mode = ssl.CERT_REQUIRED
        # No session tickets: a peer could present one for hours, in place of a certificate that ended meanwhile.
        listening.num_tickets = 0
    return _Loaded(listening=listening, sending=sending, sending_to_host=sending_to_host, certificates=tuple(held))


def _context(protocol: int, files: Files) -> ssl.SSLContext:
    context = _harden(ssl.SSLContext(protocol))
    _trust(context, "tls.ca", files.ca)
    _present(context, files)
    return context


def _harden(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(":".join(SUITES))
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    # A hospital often hands out the authority that issues its certificates, and not the root above it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _trust(context: ssl.SSLContext, key: str, file: str) -> None:
    try:
        context.load_verify_locations(cafile=file)
    except FileNotFoundError as exc:
        raise _unusable(key, file, exc.strerror or "it cannot be read") from exc
    except (OSError, ValueError) as exc:
        raise _unusable(key, file, "it holds a certificate that cannot be read") from exc


def _present(context: ssl.SSLContext, files: Files) -> None:
    if files.certificate:
        try:
            context.load_cert_chain(files.certificate, files.key, password=lambda: b"")
        except ssl.SSLError as exc:
            if exc.reason == "KEY_VALUES_MISMATCH":
                raise SettingsError(
                    f"The key {files.key} (tls.key) does not belong to the certificate {files.certificate} "
                    "(tls.certificate).",
                    hint="Name the key that the certificate was requested with.",
                ) from exc
            what = (exc.reason or "it is no key in PEM form").lower().replace("_", " ")
            raise _unusable("tls.key", files.key, f"the TLS library says {what} of it and its certificate") from exc
        except OSError as exc:
            raise _unusable("tls.key", files.key, exc.strerror or "it cannot be read") from exc


def _read(key: str, file: str) -> list[Certificate]:
    try:
        certificates = in_pem(_text(key, file))
    except ValueError as exc:
        raise _unusable(key, file, "it holds a certificate that cannot be read") from exc
    if not certificates:
        raise _unusable(key, file, "it holds no certificate in PEM form (BEGIN CERTIFICATE)")
    return certificates


def _require_private(file: str) -> None:
    """Raise SettingsError for a key that others may read, or that a person would have to unlock at each start."""
    if "ENCRYPTED" in _text("tls.key", file):
        raise SettingsError(
            f"The key {file} (tls.key) is encrypted with a passphrase, for which nobody can be asked when the node "
            "starts.",
            hint="`openssl pkey -in … -out …` writes it without one; let nobody but the node's user read it.",
        )
    mode = Path(file).stat().st_mode
    if mode & _OTHERS_MAY_READ:
        raise SettingsError(
            f"The key {file} (tls.key) may be read by every user of this machine (mode {mode & 0o777:04o}).",
            hint=f"`chmod 0400 {file}`, and let it belong to the node's user. A key that was open for long is no "
            "secret any more: ask for a new certificate.",
        )


def _text(key: str, file: str) -> str:
    try:
        return Path(file).read_text("ascii", "replace")
    except OSError as exc:
        raise _unusable(key, file, exc.strerror or "it cannot be read") from exc


def _unusable(key: str, file: str, why: str) -> SettingsError:
    return SettingsError(
        f"The file {file} ({key}) cannot be used: {why}.",
        hint=f"Name a PEM file that the node's user may read, or leave {key} out.",
    )
