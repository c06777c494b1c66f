"""The web page as a WSGI application: it checks each request, finds its page, and sends the answer.

In: requests of browsers and programs. Out: pages, pictures and JSON. The checks come in this order: the request can be
read, its Host is one of the page's names, its sender may come in, and a request that changes something carries the key
of one of our forms. Nothing that a client sent is logged or given back unescaped.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from importlib.resources import files
from typing import Final

from dicomnode import log
from dicomnode.errors import InputError, LedgerError, NodeError, StorageError
from dicomnode.seams import SYSTEM_CLOCK, Clock
from dicomnode.web import acting, first, models, pages, refreshing, runs, scanners, viewing
from dicomnode.web.current import Current
from dicomnode.web.entry import Entry, Person, clean_name
from dicomnode.web.exchange import (
    HTML,
    Answer,
    Environ,
    Request,
    StartResponse,
    UnreadableRequestError,
    read_request,
    see_other,
    send,
)
from dicomnode.web.node import Node
from dicomnode.web.pages import Visit
from dicomnode.web.render import page

LOGGER = logging.getLogger(__name__)

KEY_FIELD: Final = "key"  # field of every form
TOLD_TOKEN: Final = "That is not the token, or the name is none: letters, digits and blanks."  # noqa: S105

_ASSETS: Final = {  # path: file, content type
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.svg": ("page.svg", "image/svg+xml"),
    "/favicon.ico": ("page.svg", "image/svg+xml"),  # where a page names no icon (a report), browsers ask for this path
}
_ID: Final = r"([1-9]\d{0,17})"  # id of a row: a number, and nothing else
_NAME: Final = r"([^/]{1,255})"  # name of a folder; only one that is listed is ever opened
_GET: Final[tuple[tuple[str, Callable[..., Answer]], ...]] = (
    (r"/", pages.today),
    (r"/today/live", pages.today_live),
    (r"/series", pages.series_list),
    (r"/deliveries", pages.deliveries_list),
    (rf"/series/{_ID}", pages.one_series),
    (rf"/series/{_ID}/passport", pages.passport_page),
    (rf"/series/{_ID}/passport\.json", pages.passport_json),
    (rf"/series/{_ID}/images", viewing.images),
    (rf"/series/{_ID}/(before|after|difference)/(column|row|slice)/(\d{{1,3}})", viewing.picture),
    (rf"/series/{_ID}/viewer", viewing.viewer),
    (rf"/deliveries/{_ID}/refresh", refreshing.confirm),
    (rf"/deliveries/{_ID}/refresh/live", refreshing.live),
    (rf"/(series|deliveries)/{_ID}/([a-z]{{1,16}})", acting.confirm),
    (r"/scanners", scanners.scanners),
    (rf"/scanners/{_ID}", scanners.one_protocol),
    (r"/models", models.models),
    (r"/first", first.first),
    (r"/first/live", first.first_live),
    (rf"/first/rehearse/{_NAME}", first.confirm_rehearsal),
    (r"/runs", runs.runs),
    (rf"/runs/{_NAME}", runs.one_run),
    (rf"/runs/{_NAME}/report", runs.report),
    (rf"/runs/{_NAME}/{_NAME}/report", runs.report),
)
_POST: Final[tuple[tuple[str, Callable[..., Answer]], ...]] = (
    (rf"/deliveries/{_ID}/refresh", refreshing.begin),
    (rf"/(series|deliveries)/{_ID}/([a-z]{{1,16}})", acting.perform),
    (rf"/first/rehearse/{_NAME}", first.rehearse),
)


class Application:
    """The application of one node's web page. Safe to use from many threads."""

    def __init__(self, current: Current, *, clock: Clock = SYSTEM_CLOCK) -> None:
        """Raises SettingsError where the token file cannot be used."""
        self._entry = Entry(current.settings.web, clock=lambda: clock.now().timestamp())
        self._node = Node(current, clock)
        self._assets = {
            path: Answer(body=files("dicomnode.web").joinpath("assets", name).read_bytes(), content_type=kind)
            for path, (name, kind) in _ASSETS.items()
        }

    def close(self) -> None:
        """Close the ledger."""
        self._node.close()

    def __call__(self, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        request = None
        try:
            request = read_request(environ)
            answer = self._answer(request)
        except UnreadableRequestError:
            answer = Answer(status=HTTPStatus.BAD_REQUEST, body=b"The request cannot be read.\n")
        except Exception:  # noqa: BLE001 (border: one request)
            log.failure(LOGGER, "page_failed")
            answer = Answer(
                status=HTTPStatus.INTERNAL_SERVER_ERROR, body=b"The page failed; the log of the node says how.\n"
            )
        return send(answer, request, start)

    def _answer(self, request: Request) -> Answer:
        if not self._entry.is_asked_by_name(request):
            said = b"This page is not called by that name. The key web.hosts lists further names.\n"
            return Answer(status=HTTPStatus.MISDIRECTED_REQUEST, body=said, content_type="text/plain; charset=utf-8")
        if request.path in self._assets and request.method in ("GET", "HEAD"):
            return self._assets[request.path]
        person = self._entry.person(request)
        if request.method == "POST" and not self._may_post(request, person):
            return self._told(
                request, person, HTTPStatus.FORBIDDEN, "This form is out of date.", "Open the page again."
            )
        if request.path == "/enter":
            return self._enter(request, person)
        if person is None:
            if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
                return see_other("/enter")
            unknown = (("WWW-Authenticate", 'Bearer realm="dicomnode"'),)
            return Answer(status=HTTPStatus.UNAUTHORIZED, body=b"The token is needed.\n", headers=unknown)
        if request.path == "/leave" and request.method == "POST":
            return see_other("/enter", ("Set-Cookie", "dicomnode=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"))
        visit = Visit(request=request, person=person, node=self._node, entry=self._entry)
        try:
            self._node.follow()
            return self._page(visit)
        except InputError as exc:
            status = HTTPStatus.CONFLICT if request.method == "POST" else HTTPStatus.NOT_FOUND
            return self._told(request, person, status, exc.sentence, exc.hint)
        except (LedgerError, StorageError) as exc:
            return self._told(request, person, HTTPStatus.SERVICE_UNAVAILABLE, exc.sentence, exc.hint)
        except NodeError as exc:
            return self._told(request, person, HTTPStatus.INTERNAL_SERVER_ERROR, exc.sentence, exc.hint)

    def _may_post(self, request: Request, person: Person | None) -> bool:
        is_ours = self._entry.is_from_here(request)
        return is_ours and self._entry.is_form_key(person, request.filled(KEY_FIELD))

    def _page(self, visit: Visit) -> Answer:
        """Find the page of a path and make it. Ids in a path are small numbers and nothing else."""
        request = visit.request
        table = {"GET": _GET, "HEAD": _GET, "POST": _POST}.get(request.method, ())
        for pattern, make in table:
            if (match := re.fullmatch(pattern, request.path, re.ASCII)) is not None:
                values = [int(one) if one.isdigit() else one for one in match.groups()]
                return make(visit, *values)
        if request.method not in ("GET", "HEAD", "POST"):
            return Answer(status=HTTPStatus.METHOD_NOT_ALLOWED, headers=(("Allow", "GET, HEAD, POST"),))
        return self._told(request, visit.person, HTTPStatus.NOT_FOUND, "There is no such page.", "")

    def _enter(self, request: Request, person: Person | None) -> Answer:
        """Show the form that asks for the token, or check the token that was typed there."""
        if person is not None or not self._entry.has_token:
            return see_other("/")
        told = ""
        if request.method == "POST":
            name = clean_name(request.filled("name"))
            cookie = self._entry.let_in(request.filled("token"), name) if name else None
            if cookie is not None:
                return see_other("/", ("Set-Cookie", cookie))
            told = TOLD_TOKEN
        status = HTTPStatus.FORBIDDEN if told else HTTPStatus.OK
        return self._bare("enter.html", request, None, status, told=told)

    def _told(self, request: Request, person: Person | None, status: HTTPStatus, sentence: str, hint: str) -> Answer:
        """Make a page with one sentence."""
        return self._bare("told.html", request, person, status, sentence=sentence, hint=hint)

    def _bare(self, template: str, request: Request, person: Person | None, status: HTTPStatus, **told: str) -> Answer:
        """Make a page that reads neither ledger nor archive."""
        body = page(
            template,
            nonce=request.nonce,
            node=self._node.settings.node.ae_title,
            person=person,
            has_token=self._entry.has_token,
            has_runs=bool(self._node.settings.web.runs),
            form_key=self._entry.form_key(person),
            path=request.path,
            **told,
        )
        return Answer(status=status, body=body, content_type=HTML)
