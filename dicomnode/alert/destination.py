"""A way by which people are told: it takes a message or says why not. And what both ways ask of a server."""

from __future__ import annotations

import socket
import ssl
from typing import Final, Protocol

from dicomnode.alert.message import Message
from dicomnode.visible import visible

TIMEOUT_S: Final = 20.0  # for each answer of a server


class NotSentError(Exception):
    """The message did not get there; the text is one sentence on why."""


class Destination(Protocol):
    """One way."""

    @property
    def name(self) -> str:
        """Its name in the ledger, in ``status`` and in the log."""

    def send(self, message: Message) -> None:
        """Send the message, or raise NotSentError."""


def trust(ca: str) -> ssl.SSLContext:
    """Whom to trust: the authorities of the file, else those of this machine. Raises OSError."""
    context = ssl.create_default_context(cafile=ca or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def why(exc: Exception) -> str:
    """Say what an error of a connection was."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({visible(exc.verify_message)})"
    if isinstance(exc, socket.gaierror):
        return "its name has no address"
    if isinstance(exc, TimeoutError):
        return "it does not answer in time"
    if isinstance(exc, OSError) and exc.strerror:
        return visible(exc.strerror)
    return visible(str(exc)) or type(exc).__name__
