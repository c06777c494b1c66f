"""The page in a real browser: what a person sees, types, drags and presses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from dicomnode.web.first import FIELDS
from tests.support.chromium import Page, chromium, needs_chromium
from tests.support.scanner_weeks import HOSTILE_PROTOCOL
from tests.support.served_page import ServedPage, enter, served_page
from tests.support.training_runs import RUN

pytestmark = needs_chromium

AXE = Path(__file__).resolve().parents[1] / "support" / "axe.min.js"
FILLED = {name: example for name, (_, example) in FIELDS.items()}
PLACES = (
    "/", "/series", "/deliveries", "/series/1", "/series/2", "/series/7", "/series/1/images",
    "/series/1/images?mode=side",
    "/series/1/images?mode=difference&plane=row", "/series/7/retry", "/series/1/passport",
    "/scanners", "/scanners/4", "/models", "/runs", f"/runs/{RUN}", "/first",
    f"/first?{urlencode(FILLED)}", "/first/rehearse/pacs", "/no-such-page",
)  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, made_runs: Path) -> Iterator[ServedPage]:
    with served_page(tmp_path_factory.mktemp("served"), weeks=5, runs=made_runs) as found:
        yield found


@pytest.fixture(scope="module")
def tab(served: ServedPage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A tab of somebody who has come in."""
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        page = browser.new_page()
        page.resize(1280, 900)
        enter(page, served.url)
        yield page


def _link(page: Page, text: str) -> None:
    """Click the link or button with this text, and wait for the next page."""
    found = f"[...document.querySelectorAll('a, button')].find((one) => one.textContent.trim() === {text!r})"
    page.follow(lambda: page.value(f"setTimeout(() => {found}.click()); 0"))


def test_the_form_is_what_whoever_is_not_in_sees_of_each_page(served: ServedPage, tmp_path: Path) -> None:
    with chromium(tmp_path) as browser:
        page = browser.new_page()
        for place in ("/", "/series/1", "/series/1/images"):
            page.open(served.url + place)
            assert page.value("location.pathname") == "/enter"
        enter(page, served.url)
        assert page.value("document.cookie") == "", "no script reads the cookie"


@pytest.mark.parametrize("place", PLACES)
def test_axe_finds_nothing_wrong_at_either_width(served: ServedPage, tab: Page, place: str) -> None:
    for width, height in ((1280, 900), (390, 844)):
        tab.resize(width, height)
        tab.open(served.url + place)
        tab.value(AXE.read_text("utf-8") + "; undefined")
        found = tab.value(
            "axe.run().then((done) => done.violations.map((one) => [one.id, one.nodes.map((n) => n.html)]))"
        )
        assert found == []
        assert tab.value("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than the window"
    tab.resize(1280, 900)


@pytest.mark.parametrize("place", [place for place in PLACES if place != "/no-such-page"])
def test_no_page_complains_or_asks_elsewhere_or_is_large(served: ServedPage, tab: Page, place: str) -> None:
    before, said = len(tab.requests()), len(tab.complaints())
    tab.open(served.url + place)
    asked = [url for url in tab.requests()[before:] if not url.startswith("data:")]
    assert all(url.startswith(served.url) for url in asked), asked
    assert tab.complaints()[said:] == []
    sizes = tab.value(
        "performance.getEntries().filter((e) => e.transferSize).map((e) => [e.initiatorType, e.transferSize])"
    )
    assert sum(size for kind, size in sizes if kind != "img") < 100_000
    assert not tab.value("document.title").startswith("pwned")


def test_hostile_text_stands_there_as_text(served: ServedPage, tab: Page) -> None:
    for place in ("/", "/series/7"):
        tab.open(served.url + place)
        assert tab.value("document.body.innerText.includes('<img src=x onerror=')")
        assert tab.value(r"document.body.innerText.includes('\\x1b[2J')")
        assert tab.value("document.querySelectorAll('main img').length") == 0
        assert tab.value("document.title") != "pwned"


def test_hostile_text_of_a_scanner_and_of_a_report_stands_there_as_text(served: ServedPage, tab: Page) -> None:
    for place in ("/scanners", f"/first?{urlencode({**FILLED, 'scanner': HOSTILE_PROTOCOL})}"):
        tab.open(served.url + place)
        seen = "[document.body.innerText, ...[...document.querySelectorAll('input')].map((one) => one.value)].join()"
        assert tab.value(f"{seen}.includes('<img src=x onerror=')"), place
        assert tab.value("document.querySelectorAll('main img').length") == 0
        assert tab.value("document.title") != "pwned"


def test_the_page_of_a_report_runs_nothing(served: ServedPage, tab: Page) -> None:
    """Whatever stands in it: the browser holds it in a sandbox without scripts, and it loads nothing."""
    tab.open(f"{served.url}/runs/{RUN}")
    _link(tab, "The whole report, with pictures")
    assert tab.value("location.pathname") == f"/runs/{RUN}/report/report"
    assert tab.value("document.querySelectorAll('table').length") > 0
    assert tab.value("self.origin") == "null", "of no origin: it could ask for no page of ours"
    tab.open(f"{served.url}/favicon.ico")  # what a browser asks for by itself, as the report names no icon
    assert tab.value("document.contentType") == "image/svg+xml"


def test_charts_keep_their_words_at_night(served: ServedPage, tab: Page) -> None:
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    for place in ("/scanners", "/models", f"/runs/{RUN}", "/first"):
        tab.open(served.url + place)
        tab.value(AXE.read_text("utf-8") + "; undefined")
        found = tab.value("axe.run().then((done) => done.violations.map((one) => one.id))")
        assert found == [], place
    tab.call("Emulation.setEmulatedMedia", features=[])


def test_today_renews_itself_and_keeps_the_focus(served: ServedPage, tab: Page) -> None:
    tab.open(f"{served.url}/")
    tab.value("window.mark = 1; document.querySelector('#live a[href=\"/series/7\"]').focus()")
    moment = tab.value("document.querySelector('#live time').dateTime")
    tab.wait_for(f"document.querySelector('#live time').dateTime !== '{moment}'")
    assert tab.value("window.mark") == 1, "without a new page"
    assert tab.value("document.activeElement.getAttribute('href')") == "/series/7"


def test_the_wipe_follows_the_mouse_and_the_arrow_keys(served: ServedPage, tab: Page) -> None:
    tab.open(f"{served.url}/series/1/images")
    tab.wait_for("[...document.querySelectorAll('.wipe img')].every((one) => one.complete && one.naturalWidth > 0)")
    box = "document.querySelector('#wipe').getBoundingClientRect()"
    left, top, width, height = (tab.value(f"{box}.{side}") for side in ("left", "top", "width", "height"))
    at = "document.querySelector('#wipe').style.getPropertyValue('--at')"
    assert tab.value(at) == "50%"
    for kind, share in (("mousePressed", 0.5), ("mouseMoved", 0.25), ("mouseReleased", 0.25)):
        tab.call(
            "Input.dispatchMouseEvent",
            type=kind,
            x=left + share * width,
            y=top + height / 2,
            button="left",
            buttons=1,
            clickCount=1,
        )
    assert tab.value(at) == "25%"
    tab.value("document.querySelector('#wipe-at').focus()")
    tab.press("ArrowRight")
    assert tab.value(at) == "26%"
    assert tab.value("document.querySelector('.over img').computedStyleMap().get('clip-path').toString()").startswith(
        "inset("
    )


def test_another_place_is_another_picture(served: ServedPage, tab: Page) -> None:
    tab.open(f"{served.url}/series/1/images?mode=side")
    tab.value("document.querySelector('#place').focus()")
    first = tab.value("document.querySelector('.pair img').src")
    tab.press("ArrowRight")
    loaded = "one.src.includes('/51?') && one.complete && one.naturalWidth"
    tab.wait_for(f"[...document.querySelectorAll('.pair img')].every((one) => {loaded})")
    assert first != tab.value("document.querySelector('.pair img').src")


def test_a_person_releases_and_cancels_by_clicks(tmp_path: Path) -> None:
    """With a node of its own: series 7 is held for the other tests, in whichever order they come."""
    with served_page(tmp_path / "served") as served, chromium(tmp_path / "chromium") as browser:
        tab = browser.new_page()
        enter(tab, served.url)
        tab.open(f"{served.url}/")
        tab.follow(
            lambda: tab.value("setTimeout(() => document.querySelector('#live a[href=\"/series/7\"]').click()); 0")
        )
        for act in ("Go on as it is", "Cancel the job"):
            _link(tab, act)
            _link(tab, act)
            told = tab.value("document.querySelector('[role=status]').textContent")
            assert told.startswith(("Series 7", "Of series 7"))
            _link(tab, "To series 7")
        assert [line.state for line in served.node.quiet.reader.series_show(7).jobs] == ["cancelled"]
        assert {event.by for event in served.node.quiet.explain(7).events if event.kind in ("release", "cancel")} == {
            "web:Dr. Ada"
        }
