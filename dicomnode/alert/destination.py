"""The interface of a destination of alerts, and the TLS settings and error words that mail and webhook share."""

from __future__ import annotations

import socket
import ssl
from typing import Final, Protocol

from dicomnode.alert.message import Message
from dicomnode.visible import visible

TIMEOUT_S: Final = 20.0  # for each answer of a server


class NotSentError(Exception):
    """The message did not reach the destination; the text is one sentence on why."""


class Destination(Protocol):
    """A way by which alerts and letters reach people: mail or webhook."""

    @property
    def name(self) -> str:
        """The name of the destination in the ledger, in ``status`` and in the log."""

    def send(self, message: Message) -> None:
        """Send the message, or raise NotSentError."""


def trust(ca: str) -> ssl.SSLContext:
    """Return a TLS context that trusts the authorities of the file, else those of this machine. Raises OSError."""
    context = ssl.create_default_context(cafile=ca or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def why(exc: Exception) -> str:
    """Say in words why a connection failed."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({visible(exc.verify_message)})"
    if isinstance(exc, socket.gaierror):
        return "its name has no address"
    if isinstance(exc, TimeoutError):
        return "it does not answer in time"
    if isinstance(exc, OSError) and exc.strerror:
        return visible(exc.strerror)
    return visible(str(exc)) or type(exc).__name__
