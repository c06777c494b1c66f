"""The keys of the web page: its address, its token, and the acts that it offers."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import AfterValidator, model_validator

from dicomnode.settings.addresses import HostPort, Listening
from dicomnode.settings.urls import is_loopback, whole
from dicomnode.settings.values import MaybeFolder, SecretFile
from dicomnode.strict_toml import fail

STUDY_UID = "{study_uid}"  # placeholder of the study in ``viewer_url``

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")
_ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 (nothing is bound here)
_HEADER = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")


def _host(text: str) -> str:
    if not _HOST.fullmatch(text):
        fail('expected a name as browsers ask for it, without a port, such as "dicomnode.hospital.example"')
    return text.lower()


def _header(text: str) -> str:
    if text and not _HEADER.fullmatch(text):
        fail('expected the name of a header of HTTP, such as "X-Remote-User"')
    return text


def _viewer(text: str) -> str:
    if not text:
        return text
    if whole(text, ("http", "https")) is None or text.count(STUDY_UID) != 1:
        fail(f"expected a URL that begins with http:// or https:// and has {STUDY_UID} where the study's UID belongs")
    return text


Host = Annotated[str, AfterValidator(_host)]
MaybeHeader = Annotated[str, AfterValidator(_header)]
MaybeViewer = Annotated[str, AfterValidator(_viewer)]


class WebSettings(Listening):
    """The web page. Nothing listens until `dicomnode web` or `serve --web` runs."""

    listen: HostPort = "127.0.0.1:8113"
    hosts: tuple[Host, ...] = ()  # more host names by which browsers may ask for the page
    token_file: SecretFile = ""  # empty: everybody on this machine comes in, and nobody sees an image
    actions: bool = True  # true: a person may change something
    viewer_url: MaybeViewer = ""  # empty: no link
    user_header: MaybeHeader = ""  # header in which a proxy on this machine names the person; empty: no proxy
    runs: MaybeFolder = ""  # folder of training runs; empty: none are shown

    @property
    def is_local(self) -> bool:
        """True if only this machine itself can reach the page."""
        return is_loopback(self.host)

    @model_validator(mode="after")
    def _others_need_the_token(self) -> Self:
        if not self.is_local and not self.token_file:
            fail("listen is an address that other machines reach, which needs token_file")
        if self.host in _ANY_ADDRESS and not self.hosts:
            fail("listen is every address of this machine, which needs hosts: the names by which browsers ask for it")
        return self
