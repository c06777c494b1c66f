"""Admit persons and programs to the page: check the host name, the token and the cookie, and the keys of forms.

In: requests. Out: a ``Person``, or None. The token of ``web.token_file`` admits a browser by a form, which leaves a
cookie that holds a signed name and never the token, and a program by ``Authorization: Bearer``. Without a token file
the page listens on this machine alone, everybody on it comes in, and nobody sees an image.

A form of the page carries a key that no other site can have, and a request from another site is refused by the headers
that the browser sets. The names of persons are what they or a proxy say: they are for the record, not for deciding.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from dicomnode.errors import SettingsError
from dicomnode.settings.urls import is_loopback
from dicomnode.settings.web import WebSettings
from dicomnode.web.exchange import Request

COOKIE: Final = "dicomnode"
COOKIE_S: Final = 12 * 3600.0  # a working day; then the token is asked for again
LOOK_S: Final = 3600.0  # the images of a series can be asked for so long after its viewer was opened
SHORTEST_TOKEN: Final = 16
NAME_LIMIT: Final = 40
NOTE_LIMIT: Final = 500

_LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")
_NAME: Final = re.compile(rf"[\w@.+'-][\w @.+'-]{{0,{NAME_LIMIT - 1}}}")
_OWN_SITES: Final = ("", "same-origin", "none")  # Sec-Fetch-Site: absent, this page, or typed in by the person


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A person or program that has come in."""

    name: str  # empty: not given
    may_see_images: bool

    @property
    def actor(self) -> str:
        """The name of this person in the ledger."""
        return actor(self.name)


class Entry:
    """The admission to one page. Safe to use from many threads."""

    def __init__(self, web: WebSettings, *, clock: Callable[[], float] = time.time) -> None:
        """Raises SettingsError where the token file cannot be used."""
        self._web = web
        self._clock = clock
        self._token = read_token(Path(web.token_file)) if web.token_file else b""
        self._secret = secrets.token_bytes(32)  # of this process: keys of its forms and looks end with it
        own = f"[{web.host}]" if ":" in web.host else web.host
        self._hosts = {own.lower(), *web.hosts, *(_LOCAL_NAMES if web.is_local else ())}

    @property
    def has_token(self) -> bool:
        """True if the page asks for a token."""
        return bool(self._token)

    def is_asked_by_name(self, request: Request) -> bool:
        """Tell whether the request's Host is a name of the page. Another site can point a name of its own at us."""
        return _without_port(request.host) in self._hosts

    def is_from_here(self, request: Request) -> bool:
        """Tell, by the headers that the browser sets, whether a request comes from a page of ours."""
        origin = request.headers.get("origin", "null")  # browsers send "null" under Referrer-Policy: no-referrer
        try:
            is_ours = origin == "null" or _without_port(urlsplit(origin).netloc) in self._hosts
        except ValueError:
            is_ours = False
        return is_ours and request.headers.get("sec-fetch-site", "") in _OWN_SITES

    def person(self, request: Request) -> Person | None:
        """Return the sender of a request; None: a sender without the token."""
        name = self._named_by_proxy(request)
        if not self._token:
            return Person(name=name, may_see_images=False)
        kind, _, shown = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(_digest(shown.strip().encode()), _digest(self._token)):
            return Person(name=name or "program", may_see_images=True)
        signed = self._read_cookie(request.cookies.get(COOKIE, ""))
        return None if signed is None else Person(name=name or signed, may_see_images=True)

    def let_in(self, token: str, name: str) -> str | None:
        """Return the header of the cookie for somebody who typed the token and a name; None: the token is wrong."""
        if not self._token or not hmac.compare_digest(_digest(token.strip().encode()), _digest(self._token)):
            return None
        packed = base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")
        signed = f"{packed}.{int(self._clock())}"
        value = f"{signed}.{self._mac(self._token, 'cookie', signed)}"
        return f"{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict"

    def form_key(self, person: Person | None) -> str:
        """Return the key that a form for this person carries."""
        return self._mac(self._secret, "form", person.name if person else "")

    def is_form_key(self, person: Person | None, key: str) -> bool:
        """Tell whether this is the key of a form that this person got."""
        return hmac.compare_digest(self.form_key(person).encode(), key.encode())

    def look(self, person: Person, series: int) -> str:
        """Return the pass for the images of a series, valid for ``LOOK_S``, after the viewer's opening is recorded."""
        until = int(self._clock() + LOOK_S)
        return f"{until}.{self._mac(self._secret, 'look', f'{series} {until} {person.name}')}"

    def is_look(self, person: Person, series: int, look: str) -> bool:
        """Tell whether this is a valid pass for the images of this series."""
        until, _, _ = look.partition(".")
        if not (until.isascii() and until.isdigit() and len(until) < 20 and int(until) >= self._clock()):
            return False
        expected = f"{until}.{self._mac(self._secret, 'look', f'{series} {until} {person.name}')}"
        return hmac.compare_digest(expected.encode(), look.encode())

    def _named_by_proxy(self, request: Request) -> str:
        """Return the name in the proxy's header; only a proxy on this machine is trusted."""
        if not self._web.user_header or not is_loopback(request.address):
            return ""
        return clean_name(request.headers.get(self._web.user_header.lower(), ""))

    def _read_cookie(self, cookie: str) -> str | None:
        packed, _, rest = cookie.partition(".")
        began, _, mac = rest.partition(".")
        if not hmac.compare_digest(self._mac(self._token, "cookie", f"{packed}.{began}").encode(), mac.encode()):
            return None
        if self._clock() - int(began) > COOKIE_S:
            return None
        return base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)).decode()

    def _mac(self, key: bytes, use: str, text: str) -> str:
        return hmac.new(key, f"{use} {text}".encode(), hashlib.sha256).hexdigest()


def read_token(file: Path) -> bytes:
    """Read the token from a file, which only its owner and group may read. Raises SettingsError."""
    try:
        mode, token = file.stat().st_mode, file.read_bytes().strip()
    except OSError as exc:
        raise SettingsError(
            f"web.token_file {file} cannot be read: {exc.strerror}.", hint="Make it readable for the user of the page."
        ) from exc
    if mode & 0o007:
        raise SettingsError(
            f"web.token_file {file} can be read by everybody on this machine.", hint=f"chmod 0640 {file}"
        )
    if len(token) < SHORTEST_TOKEN:
        raise SettingsError(
            f"web.token_file {file} holds {len(token)} characters, expected at least {SHORTEST_TOKEN}.",
            hint="`openssl rand -hex 24` makes a token.",
        )
    return token


def clean_name(text: str) -> str:
    """Return the name of a person as it is kept; empty where the text is no name.

    >>> clean_name(" Dr. Müller "), clean_name("<b>")
    ('Dr. Müller', '')
    """
    name = " ".join(text.split())
    return name if _NAME.fullmatch(name) else ""


def clean_note(text: str) -> str:
    """Return a person's words as they are kept: one line of at most ``NOTE_LIMIT`` characters."""
    return " ".join(text.split())[:NOTE_LIMIT]


def actor(name: str) -> str:
    """Return the name of a person of the page in the ledger."""
    return f"web:{name}" if name else "web"


def _without_port(netloc: str) -> str:
    host, colon, port = netloc.rpartition(":")
    return (
        host if colon and (port.isascii() and port.isdigit()) and (":" not in host or host[-1] == "]") else netloc
    ).lower()


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
