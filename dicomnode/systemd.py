"""Send systemd the state of the service (sd_notify(3)). Does nothing where systemd did not ask, and never fails."""

from __future__ import annotations

import logging
import os
import socket

from dicomnode import log

LOGGER = logging.getLogger(__name__)


def notify(state: str) -> None:
    """Send one state, ``READY=1`` or ``STOPPING=1``."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
        try:
            notifier.connect("\0" + address[1:] if address.startswith("@") else address)
            notifier.sendall(state.encode())
        except OSError as exc:  # a service that runs is worth more than one that is announced
            log.event(LOGGER, "notify_failed", level=logging.WARNING, error=exc.strerror)
