"""A request of a browser and the answer to it, as values.

In: the environment of a WSGI server. Out: the same as a frozen ``Request``, if it is within the limits; and an
``Answer`` with the headers that every answer of the page has. Nothing is logged, and nothing that a client sent is
given back.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from typing import BinaryIO, Final
from urllib.parse import parse_qs

Environ = Mapping[str, object]
StartResponse = Callable[[str, list[tuple[str, str]]], object]

BODY_LIMIT_BYTES: Final = 8192  # a form of this page is some hundred bytes long
FIELDS_LIMIT: Final = 40
HTML: Final = "text/html; charset=utf-8"
JSON: Final = "application/json; charset=utf-8"
PNG: Final = "image/png"

_ALWAYS: Final = (
    ("Cache-Control", "no-store"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), microphone=(), geolocation=()"),
)


class UnreadableRequestError(Exception):
    """The request cannot be read, or is larger than any that the page makes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request of a browser: method, path, fields, headers and cookies."""

    method: str
    path: str
    address: str  # IP address of the other end of the connection
    host: str
    headers: Mapping[str, str]  # names in lower case
    query: Mapping[str, tuple[str, ...]]
    form: Mapping[str, tuple[str, ...]]
    cookies: Mapping[str, str]
    nonce: str = field(default_factory=lambda: secrets.token_urlsafe(16))  # for scripts and styles of the answer

    def asked(self, name: str) -> str:
        """Return the value of a field of the query; empty where there is none."""
        return self.query.get(name, ("",))[0].strip()

    def filled(self, name: str) -> str:
        """Return the value of a field of the form; empty where there is none."""
        return self.form.get(name, ("",))[0].strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to a request: status, body and headers."""

    status: HTTPStatus = HTTPStatus.OK
    body: bytes = b""
    content_type: str = HTML
    headers: tuple[tuple[str, str], ...] = ()
    policy: str = ""  # its Content-Security-Policy; empty: that of our own pages


def see_other(place: str, *headers: tuple[str, str]) -> Answer:
    """Make an answer that sends the browser to another page."""
    return Answer(status=HTTPStatus.SEE_OTHER, headers=(("Location", place), *headers))


def read_request(environ: Environ) -> Request:
    """Read a request. Raises UnreadableRequestError."""
    headers = {
        name.removeprefix("HTTP_").replace("_", "-").lower(): str(value)
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    try:
        cookies = {name: morsel.value for name, morsel in SimpleCookie(headers.get("cookie", "")).items()}
        return Request(
            method=str(environ.get("REQUEST_METHOD", "")),
            path=str(environ.get("PATH_INFO", "")),
            address=str(environ.get("REMOTE_ADDR", "")),
            host=headers.get("host", ""),
            headers=headers,
            query=_fields(str(environ.get("QUERY_STRING", ""))),
            form=_form(environ),
            cookies=cookies,
        )
    except (ValueError, CookieError) as exc:
        raise UnreadableRequestError from exc


def send(answer: Answer, request: Request | None, start: StartResponse) -> Iterable[bytes]:
    """Hand an answer to the server, with its length and its Content-Security-Policy."""
    nonce = request.nonce if request else secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    headers = [
        ("Content-Type", answer.content_type),
        ("Content-Length", str(len(answer.body))),
        ("Content-Security-Policy", answer.policy or policy),
        *_ALWAYS,
        *answer.headers,
    ]
    start(f"{answer.status.value} {answer.status.phrase}", headers)
    return [] if request is not None and request.method == "HEAD" else [answer.body]


def _form(environ: Environ) -> Mapping[str, tuple[str, ...]]:
    if environ.get("REQUEST_METHOD") != "POST":
        return {}
    length = int(str(environ.get("CONTENT_LENGTH") or 0))
    kind = str(environ.get("CONTENT_TYPE", "")).partition(";")[0].strip().lower()
    if length > BODY_LIMIT_BYTES or kind != "application/x-www-form-urlencoded":
        raise UnreadableRequestError
    body: BinaryIO = environ["wsgi.input"]  # type: ignore[assignment]
    return _fields(body.read(length).decode("ascii"))


def _fields(text: str) -> Mapping[str, tuple[str, ...]]:
    found = parse_qs(text, max_num_fields=FIELDS_LIMIT, errors="strict")
    return {name: tuple(values) for name, values in found.items()}
