"""The keys of alerts and of the weekly letter: to whom they go, and how."""

from __future__ import annotations

import re
from datetime import time
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, model_validator

from dicomnode.settings import urls
from dicomnode.settings.addresses import MaybeHostPort
from dicomnode.settings.values import PemFile, SecretFile
from dicomnode.strict_toml import StrictModel, fail

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MAIL_ADDRESS = re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{1,253}")
_LETTER = re.compile(rf"({'|'.join(WEEKDAYS)}) ([01]\d|2[0-3]):([0-5]\d)(?: ([A-Za-z0-9_+/-]{{1,64}}))?")


def _mail_address(text: str) -> str:
    if not _MAIL_ADDRESS.fullmatch(text):
        fail('expected a mail address without a name, such as "it@hospital.example"')
    return text


def _mail_address_or_none(text: str) -> str:
    return text and _mail_address(text)


def _letter(text: str) -> str:
    if text:
        split_letter(text)
    return text


MailAddress = Annotated[str, AfterValidator(_mail_address)]
MaybeMailAddress = Annotated[str, AfterValidator(_mail_address_or_none)]
Webhook = Annotated[str, AfterValidator(urls.webhook)]
Letter = Annotated[str, AfterValidator(_letter)]


def split_letter(text: str) -> tuple[int, time, ZoneInfo | None]:
    """Parse day of the week (Monday is 0), time of day and time zone; None: the zone of this machine.

    >>> split_letter("mon 07:00")
    (0, datetime.time(7, 0), None)
    """
    match = _LETTER.fullmatch(text)
    if match is None:
        fail('expected day and time, such as "mon 07:00", and a time zone behind them where it is not the machine\'s')
    day, hour, minute, name = match.groups()
    try:
        zone = ZoneInfo(name) if name else None
    except (KeyError, ValueError, OSError):  # unknown; no name of a zone; a folder
        zone = None
    if name and zone is None:
        fail('there is no such time zone; expected a name such as "Europe/Berlin"')
    return WEEKDAYS.index(day), time(int(hour), int(minute)), zone


class AlertSettings(StrictModel):
    """The destinations of alerts and of the weekly letter."""

    smtp: MaybeHostPort = ""  # empty: no mail
    smtp_tls: Literal["starttls", "tls", "none"] = "starttls"
    mail_from: MaybeMailAddress = ""
    mail_to: tuple[MailAddress, ...] = ()
    user: str = ""
    password_file: SecretFile = ""
    webhook: Webhook = ""  # empty: none
    ca: PemFile = ""  # empty: the authorities that this machine trusts
    letter: Letter = "mon 07:00"  # empty: none

    @model_validator(mode="after")
    def _mail_is_whole(self) -> Self:
        if self.smtp and not (self.mail_from and self.mail_to):
            fail("smtp needs mail_from and mail_to")
        if bool(self.user) != bool(self.password_file):
            fail("user and password_file belong together: both are needed, or none")
        if self.user and self.smtp_tls == "none":
            fail('a password is sent under TLS only: smtp_tls = "starttls" or "tls"')
        return self
