"""Certificates for the tests of TLS, made by openssl for an hour."""

from __future__ import annotations

import subprocess
from pathlib import Path


def self_signed(folder: Path, name: str = "node") -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
            "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-out", str(certificate), "-keyout", str(key),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return certificate, key


def authority(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate that may sign others, and its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    _openssl(
        "req", "-x509", *_NEW_KEY, "-days", "1", "-subj", f"/CN={name}", "-out", str(certificate), "-keyout", str(key)
    )
    return certificate, key


def signed(folder: Path, name: str, by: tuple[Path, Path], *, days: int = 1) -> tuple[Path, Path]:
    """A certificate that an authority signed, and its key."""
    certificate, key, request = (folder / f"{name}.{suffix}" for suffix in ("pem", "key", "csr"))
    _openssl("req", *_NEW_KEY, "-subj", f"/CN={name}", "-out", str(request), "-keyout", str(key))
    _openssl(
        "x509", "-req", "-in", str(request), "-CA", str(by[0]), "-CAkey", str(by[1]), "-CAcreateserial",
        "-days", str(days), "-out", str(certificate),
    )  # fmt: skip
    return certificate, key


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def _openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)
