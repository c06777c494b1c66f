"""Alerts by webhook: one HTTPS POST of a JSON object for each message. A redirection is not followed."""

from __future__ import annotations

import http.client
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import urlsplit

from dicomnode import __version__
from dicomnode.alert.destination import TIMEOUT_S, NotSentError, trust, why
from dicomnode.alert.message import Message
from dicomnode.settings.alert import AlertSettings
from dicomnode.visible import json_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """The webhook of the settings. Only the host of its URL is ever named: the rest may hold a secret."""

    alert: AlertSettings
    name: str = "webhook"

    def send(self, message: Message) -> None:
        """Post the message. Raises NotSentError where the answer is none of 200 to 299."""
        url = urlsplit(self.alert.webhook)
        assert url.hostname, "the settings demand a host"
        body = json_text({"subject": message.subject, "text": message.text, **message.json}).encode()
        headers = {"Content-Type": "application/json", "User-Agent": f"dicomnode/{__version__}"}
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        try:
            with closing(
                http.client.HTTPSConnection(url.hostname, url.port, timeout=TIMEOUT_S, context=trust(self.alert.ca))
            ) as connection:
                connection.request("POST", path, body=body, headers=headers)
                status = connection.getresponse().status
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise NotSentError(f"The webhook at {url.hostname} cannot be used: {why(exc)}.") from exc
        if not 200 <= status < 300:
            raise NotSentError(f"The webhook at {url.hostname} answered {status}.")
