"""Authorities and certificates for the tests of TLS, made by openssl when a test needs them."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

HERE = ("DNS:localhost", "IP:127.0.0.1")  # this machine, as a peer's address names it

_CONFIG = """
[ca]
default_ca = here
[here]
dir = {folder}
database = $dir/index.txt
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
email_in_dn = no
[any]
commonName = supplied
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path

    @property
    def fingerprint(self) -> str:
        """As openssl prints it: pairs of digits, colons between."""
        said = _openssl("x509", "-in", str(self.certificate), "-noout", "-fingerprint", "-sha256")
        return said.strip().partition("=")[2]


class Authority:
    """A certificate authority in a folder of its own."""

    def __init__(self, folder: Path, name: str = "authority", *, above: Authority | None = None) -> None:
        """``above``: the authority that signs its certificate; without one it is a root."""
        self._folder = folder / name
        self._folder.mkdir(parents=True)
        (self._folder / "index.txt").touch()
        self._config = self._folder / "ca.cnf"
        self._config.write_text(_CONFIG.format(folder=self._folder))
        self._own = Issued(certificate=self._folder / "ca.pem", key=self._folder / "ca.key")
        if above is not None:
            self._own = above.issue(name, names=(), is_authority=True)
            return
        _openssl(
            "req", "-x509", *_NEW_KEY, "-days", "365", "-subj", f"/CN={name}",
            "-addext", "keyUsage=critical,keyCertSign", "-out", str(self._own.certificate),
            "-keyout", str(self._own.key),
        )  # fmt: skip

    @property
    def certificate(self) -> Path:
        """The certificate of the authority, which those who trust it need."""
        return self._own.certificate

    def issue(
        self,
        name: str,
        *,
        names: Sequence[str] = HERE,
        begins: timedelta = timedelta(minutes=-5),
        ends: timedelta = timedelta(days=90),
        usage: str = "serverAuth,clientAuth",
        file: str = "",
        is_authority: bool = False,
    ) -> Issued:
        """A new certificate with a new key; its times count from now. ``file``: its name, where it is not ``name``."""
        stem = self._folder / (file or name)
        issued = Issued(certificate=stem.with_suffix(".pem"), key=stem.with_suffix(".key"))
        request, extensions = stem.with_suffix(".csr"), stem.with_suffix(".ext")
        lines = ["basicConstraints=critical,CA:TRUE"] if is_authority else [f"extendedKeyUsage={usage}"]
        lines += [f"subjectAltName={','.join(names)}"] if names else []
        extensions.write_text("\n".join([*lines, ""]))
        _openssl("req", *_NEW_KEY, "-subj", f"/CN={name}", "-out", str(request), "-keyout", str(issued.key))
        now = datetime.now(UTC)
        _openssl(
            "ca", "-batch", "-notext", "-config", str(self._config), "-in", str(request), "-out",
            str(issued.certificate), "-cert", str(self._own.certificate), "-keyfile", str(self._own.key),
            "-outdir", str(self._folder), "-extfile", str(extensions),
            "-startdate", _moment(now + begins), "-enddate", _moment(now + ends),
        )  # fmt: skip
        return issued


def self_signed(folder: Path, name: str) -> Issued:
    """A certificate without an authority, as docs/operations.md#tls has it made."""
    issued = Issued(certificate=folder / f"{name}.pem", key=folder / f"{name}.key")
    _openssl(
        "req", "-x509", *_NEW_KEY, "-days", "825", "-subj", f"/CN={name}", "-addext",
        f"subjectAltName={','.join(HERE)}", "-addext", "extendedKeyUsage=serverAuth,clientAuth",
        "-out", str(issued.certificate), "-keyout", str(issued.key),
    )  # fmt: skip
    return issued


def caller(authority: Authority | Issued, issued: Issued | None = None) -> ssl.SSLContext:
    """The TLS of a foreign client that trusts an authority or one certificate; its own certificate, if it has one."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.check_hostname = False
    if issued is not None:
        context.load_cert_chain(issued.certificate, issued.key)
    return context


def listener(authority: Authority, issued: Issued, *, asks: bool = False) -> ssl.SSLContext:
    """The TLS of a foreign server; ``asks``: it requires a certificate of whoever calls."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)
    if asks:
        context.load_verify_locations(authority.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def _moment(at: datetime) -> str:
    return f"{at:%Y%m%d%H%M%SZ}"


def _openssl(*words: str) -> str:
    done = subprocess.run(["openssl", *words], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout
