"""Alerts by mail: one connection for each message, over SMTP (RFC 5321) with STARTTLS (RFC 3207) or TLS (RFC 8314)."""

from __future__ import annotations

import contextlib
import logging
import smtplib
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from pathlib import Path

from dicomnode import log
from dicomnode.alert.destination import TIMEOUT_S, NotSentError, trust, why
from dicomnode.alert.message import Message
from dicomnode.seams import SYSTEM_CLOCK, Clock
from dicomnode.settings.addresses import split_address
from dicomnode.settings.alert import AlertSettings
from dicomnode.visible import visible

LOGGER = logging.getLogger(__name__)

_OTHERS_MAY_READ = 0o007


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """The mail server of the settings."""

    alert: AlertSettings
    clock: Clock = SYSTEM_CLOCK
    name: str = "mail"

    def send(self, message: Message) -> None:
        """Hand the message to the mail server. Raises NotSentError."""
        password = _password(self.alert) if self.alert.user else ""
        server = self.alert.smtp
        try:
            with self._connected() as connection:
                if self.alert.user:
                    connection.login(self.alert.user, password)
                refused = connection.send_message(self._written(message))
        except smtplib.SMTPAuthenticationError as exc:
            raise NotSentError(f"The mail server {server} does not take the user and the password.") from exc
        except smtplib.SMTPNotSupportedError as exc:
            raise NotSentError(f"The mail server {server} does not offer what is needed: {visible(str(exc))}") from exc
        except smtplib.SMTPRecipientsRefused as exc:
            raise NotSentError(f"The mail server {server} refused every address in alert.mail_to.") from exc
        except smtplib.SMTPResponseException as exc:
            raise NotSentError(f"The mail server {server} answered {exc.smtp_code}.") from exc
        except (OSError, ValueError) as exc:  # errors of the network, of TLS, or of smtplib
            raise NotSentError(f"The mail server {server} cannot be used: {why(exc)}.") from exc
        if refused:
            log.event(
                LOGGER, "alert_recipients_refused", level=logging.WARNING, destination=self.name, count=len(refused)
            )

    def _connected(self) -> smtplib.SMTP:
        """Return a connection to the mail server, encrypted as the settings demand. Raises OSError."""
        host, port = split_address(self.alert.smtp)
        if self.alert.smtp_tls == "tls":
            return smtplib.SMTP_SSL(host, port, timeout=TIMEOUT_S, context=trust(self.alert.ca))
        connection = smtplib.SMTP(host, port, timeout=TIMEOUT_S)
        if self.alert.smtp_tls == "starttls":
            try:
                connection.starttls(context=trust(self.alert.ca))  # raises where the server does not offer STARTTLS
            except BaseException:
                with contextlib.suppress(OSError):
                    connection.close()
                raise
        return connection

    def _written(self, message: Message) -> EmailMessage:
        mail = EmailMessage()
        mail["From"] = self.alert.mail_from
        mail["To"] = ", ".join(self.alert.mail_to)
        mail["Subject"] = message.subject
        mail["Date"] = format_datetime(self.clock.now())
        mail["Message-ID"] = make_msgid(domain=self.alert.mail_from.rpartition("@")[2])
        mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no reply of an absent person comes back
        mail.set_content(message.text)
        return mail


def _password(alert: AlertSettings) -> str:
    file = Path(alert.password_file)
    try:
        mode = file.stat().st_mode
        text = file.read_text("utf-8")
    except (OSError, ValueError) as exc:
        raise NotSentError(f"The password file {file} (alert.password_file) cannot be read.") from exc
    if mode & _OTHERS_MAY_READ:
        raise NotSentError(f"The password file {file} (alert.password_file) may be read by every user: chmod 0400.")
    return text.partition("\n")[0].strip()
