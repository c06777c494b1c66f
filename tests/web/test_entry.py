"""Who comes in, and what each request has to show."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicomnode.errors import SettingsError
from dicomnode.settings.web import WebSettings
from dicomnode.web.entry import COOKIE_S, Entry
from tests.support.page_node import TOKEN, Browser, PageNode, browser, settings_of, token_file


def test_every_answer_forbids_what_a_page_of_ours_does_not_need(open_page: Browser) -> None:
    for place in ("/", "/page.css", "/no-such-page", "/today/live"):
        headers = open_page.get(place).headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Content-Type-Options"] == "nosniff"
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'nonce-")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
    one, other = (open_page.get("/").headers["Content-Security-Policy"] for _ in range(2))
    assert one != other, "a nonce is used once"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "evil.example:8113", "127.0.0.1@evil"])
def test_a_request_for_another_name_is_refused(open_page: Browser, host: str) -> None:
    got = open_page.get("/", host=host)
    assert got.status == 421
    assert b"html" not in got.body


@pytest.mark.parametrize("host", ["127.0.0.1:8113", "localhost:8113", "[::1]:8113", "LOCALHOST", "node.example"])
def test_each_of_its_names_is_answered(node: PageNode, host: str) -> None:
    with browser(settings_of(node.data, hosts=["node.example"]), node.quiet.clock) as page:
        assert page.get("/", host=host).status == 200


def test_without_the_token_there_is_a_form_and_nothing_else(guarded: Browser) -> None:
    for place in ("/", "/series", "/deliveries", "/today/live", "/no-such-page"):
        got = guarded.get(place)
        assert (got.status, got.headers["Location"]) == (303, "/enter"), place
        assert guarded.get(place, accept="*/*").status == 401, place
    for place in ("/page.css", "/page.js", "/favicon.ico", "/enter"):
        assert guarded.get(place).status == 200, place


def test_the_token_is_typed_once_and_never_in_the_cookie(guarded: Browser, node: PageNode) -> None:
    got = guarded.enter()
    assert (got.status, got.headers["Location"]) == (303, "/")
    assert got.headers["Set-Cookie"].endswith("; Path=/; HttpOnly; SameSite=Strict")
    assert TOKEN not in got.headers["Set-Cookie"]
    page = guarded.get("/")
    assert page.status == 200
    assert "Dr. Ada" in page.text
    node.quiet.clock.advance(COOKIE_S + 1)
    assert guarded.get("/").status == 303, "the day is over"


def test_a_person_who_leaves_has_to_type_it_again(guarded: Browser) -> None:
    guarded.enter()
    assert guarded.post("/leave", {"key": guarded.get("/").key}).status == 303
    assert guarded.get("/").status == 303


@pytest.mark.parametrize(
    ("name", "token"), [("Ada", "wrong"), ("Ada", ""), ("", TOKEN), ("<b>", TOKEN), ("Ada\x00", TOKEN)]
)
def test_a_wrong_token_or_name_opens_nothing(guarded: Browser, name: str, token: str) -> None:
    got = guarded.enter(name, token)
    assert got.status == 403
    assert "Set-Cookie" not in got.headers
    assert guarded.get("/").status == 303


@pytest.mark.parametrize(
    "cookie", ["dicomnode=", "dicomnode=QWRh.1.00", "dicomnode=..", "dicomnode=a.b.c.d", "x=y", "a=\x00"]
)
def test_a_made_up_cookie_opens_nothing(guarded: Browser, cookie: str) -> None:
    guarded.cookie = cookie
    assert guarded.get("/").status in (303, 400)


def test_a_cookie_of_another_name_cannot_be_made_of_one(guarded: Browser) -> None:
    guarded.enter("Ada")
    _, began, mac = guarded.cookie.split(".")
    guarded.cookie = f"dicomnode=Qm9i.{began}.{mac}"
    assert guarded.get("/").status == 303


def test_a_program_shows_the_token_in_a_header(guarded: Browser) -> None:
    assert guarded.get("/series", authorization=f"Bearer {TOKEN}").status == 200
    for wrong in ("Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer"):
        assert guarded.get("/series", authorization=wrong).status == 303, wrong


def test_a_form_from_elsewhere_changes_nothing(guarded: Browser) -> None:
    guarded.enter()
    key = guarded.get("/").key
    for form, headers in (
        ({}, {}),
        ({"key": "guessed"}, {}),
        ({"key": key}, {"sec-fetch-site": "cross-site"}),
        ({"key": key}, {"sec-fetch-site": "same-site"}),
        ({"key": key}, {"origin": "https://evil.example"}),
    ):
        assert guarded.post("/leave", form, **headers).status == 403
    assert guarded.get("/").status == 200, "still in"
    assert guarded.post("/leave", {"key": key}, origin="http://127.0.0.1:8113").status == 303


def test_only_a_proxy_on_this_machine_names_the_person(node: PageNode, tmp_path: Path) -> None:
    settings = settings_of(node.data, token_file=str(token_file(tmp_path)), user_header="X-Remote-User")
    with browser(settings, node.quiet.clock) as page:
        page.headers = {"authorization": f"Bearer {TOKEN}", "x-remote-user": "Grace"}
        assert "<span>Grace</span>" in page.get("/").text
        page.address = "10.1.2.3"
        assert "<span>program</span>" in page.get("/").text


def test_what_is_too_large_or_no_form_is_refused(open_page: Browser) -> None:
    assert open_page.post("/enter", {"name": "x" * 9000}).status == 400
    assert open_page.post("/enter", {f"f{number}": "x" for number in range(100)}).status == 400


@pytest.mark.parametrize(
    "path",
    [
        "/../etc/passwd",
        "/page.css/../templates/base.html",
        "//",
        "/templates/base.html",
        "/series/1/../../x",
        "/series/%2e",
        "/series/01x",
    ],
)
def test_a_path_that_is_no_page_is_none(open_page: Browser, path: str) -> None:
    got = open_page.get(path)
    assert got.status == 404
    assert "There is no such page." in got.text
    assert "passwd" not in got.text


def test_a_token_file_that_others_read_or_that_is_short_stops_the_page(tmp_path: Path) -> None:
    file = token_file(tmp_path)
    file.chmod(0o644)
    with pytest.raises(SettingsError, match="everybody"):
        Entry(WebSettings(token_file=str(file)))
    file.write_text("short\n")
    file.chmod(0o600)
    with pytest.raises(SettingsError, match="at least 16"):
        Entry(WebSettings(token_file=str(file)))
    with pytest.raises(SettingsError, match="cannot be read"):
        Entry(WebSettings(token_file=str(tmp_path / "none")))
