"""Tests of the layers below DICOM and DICOMweb: the host's name, a TCP connection, and the certificates of TLS.

In: where the peer is by the settings. Out: the steps of these questions. Nothing is sent over a connection.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dicomnode.rehearsal.findings import Mark, Side, Step, Topic
from dicomnode.settings.models import TlsSettings
from dicomnode.tls.certificate import Certificate, read

CONNECT_S = 5.0  # for a look at what speaks there


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The host and port of a peer, the settings key that names them, and the service that has to listen there."""

    host: str
    port: int
    key: str  # key of the peer's settings that names the place
    service: str  # what has to listen there

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """A connection that stood for a moment."""

    our_address: str
    took_s: float


def look_up(place: Place) -> Step:
    """Has the host an address?"""
    try:
        answers = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        return Step(
            what=Topic.NAME, mark=Mark.FAIL, side=Side.OURS, sentence=f"{place.host} has no address: {exc}.",
            hint=f"Correct the host in the peer's `{place.key}`, or the name service of this machine.",
        )  # fmt: skip
    addresses = ", ".join(dict.fromkeys(str(one[4][0]) for one in answers))
    return Step(what=Topic.NAME, mark=Mark.OK, sentence=f"{place.host} is {addresses}.")


def connect(place: Place, timeout_s: float) -> tuple[Step, Connected | None]:
    """Does anything listen there?"""
    began_s = time.monotonic()
    try:
        with socket.create_connection((place.host, place.port), timeout_s) as to:
            took_s = time.monotonic() - began_s
            ours = str(to.getsockname()[0])
    except ConnectionRefusedError:
        return Step(
            what=Topic.CONNECTION, mark=Mark.FAIL, side=Side.OURS,
            sentence=f"Nothing listens at {place}: the machine is there and refused the connection.",
            hint=f"Compare the port in the peer's `{place.key}` with what the PACS team says; if it is the right one, "
            f"the PACS team has to start its {place.service} service.",
        ), None  # fmt: skip
    except OSError as exc:
        return Step(
            what=Topic.CONNECTION, mark=Mark.FAIL, side=Side.BOTH,
            sentence=f"No connection to {place}: {exc.strerror or exc}.",
            hint=f"Compare the peer's `{place.key}` with what the PACS team says; if it is the right one, a firewall "
            "between the two machines has to let this port through.",
        ), None  # fmt: skip
    sentence = f"{place} took a connection from {ours} in {took_s * 1000:.1f} ms."
    return Step(what=Topic.CONNECTION, mark=Mark.OK, sentence=sentence), Connected(our_address=ours, took_s=took_s)


def secured(presented: Certificate | None, ours: Certificate | None) -> Step:
    """Show both certificates; ``presented``: the peer's, which was verified. None: no TLS is wanted."""
    if presented is None:
        return Step(what=Topic.TLS, mark=Mark.OK, sentence="Not used: the settings call this peer without TLS.")
    names = ", ".join(presented.names) or "nobody"
    own = f" Ours has {ours.fingerprint}." if ours else " We have none to present."
    return Step(
        what=Topic.TLS, mark=Mark.OK,
        sentence=f"The peer's certificate was verified. It names {names}, ends on {presented.not_after:%Y-%m-%d}, "
        f"and its SHA-256 is {presented.fingerprint}.{own}",
    )  # fmt: skip


def presented(place: Place, tls: TlsSettings) -> Certificate | None:
    """Return the certificate that the peer presents, whoever issued it; None: there is no handshake of TLS."""
    try:
        with looking(place, tls) as connection:
            encoded = connection.getpeercert(binary_form=True)
        return read(encoded) if encoded else None
    except (OSError, ValueError):
        return None


@contextmanager
def looking(place: Place, tls: TlsSettings) -> Iterator[ssl.SSLSocket]:
    """Open a connection under TLS, whatever certificate is presented; nothing is sent over it. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if tls.certificate:
        context.load_cert_chain(tls.certificate, tls.key)
    with (
        socket.create_connection((place.host, place.port), CONNECT_S) as plain,
        context.wrap_socket(plain) as connection,
    ):
        yield connection
