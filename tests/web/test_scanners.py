"""Scanner fitness on the page: what changed, in which protocol, and whose texts nobody sees without the token."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.web.scanners import PROTOCOLS
from tests.support.page_node import Browser, PageNode, browser, page_node, settings_of, token_file
from tests.support.phantom import Phantom
from tests.support.quiet_node import changed
from tests.support.scanner_weeks import HOSTILE_PROTOCOL, fill_weeks

WEEKS = 8


@pytest.fixture(scope="module")
def drifted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageNode]:
    """Two scanners over eight weeks; in the last four everything is different."""
    with page_node(tmp_path_factory.mktemp("drifted")) as node:
        fill_weeks(node, WEEKS)
        yield node


@pytest.fixture
def page(drifted: PageNode, tmp_path: Path) -> Iterator[Browser]:
    with browser(settings_of(drifted.data, token_file=str(token_file(tmp_path))), drifted.quiet.clock) as opened:
        opened.enter("Ada")
        yield opened


def _words(text: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


def test_what_changed_stands_at_the_top_with_its_protocol_and_its_week(page: Browser) -> None:
    words = _words(page.get("/scanners").text.partition('id="changed"')[2].partition("</section>")[0])
    assert re.search(r"t2_tse_sag · mr1, station MRC31, .*? The slices lie 4.4 mm apart since \d{4}-\d\d-\d\d", words)
    assert re.search(r"t1_tse_tra · mr1, .*? 8 of 8 series were kept as missing; before, 0 of 8\.", words)
    assert re.search(r"· mr2, station SKYRA2, .*? the clock of the scanner is ahead", words)
    assert words.count("since the week of") + words.count("Since the week of") == 2


def test_each_protocol_has_a_line_and_a_chart_with_words_for_who_does_not_see_it(page: Browser) -> None:
    text = page.get("/scanners").text
    rows = re.findall(r"<tr><th scope=\"row\">.*?</tr>", text, re.DOTALL)
    assert len(rows) == 3
    (sagittal,) = (_words(row) for row in rows if "t2_tse_sag" in row)
    assert sagittal.startswith(f"t2_tse_sag changed {3 * WEEKS} 0 % 4.4 mm 0.4 mm 0")
    (transverse,) = (_words(row) for row in rows if "t1_tse_tra" in row)
    assert "50 % missing" in transverse
    assert all(path for path in re.findall(r'<path d="([^"]*)"', text))
    assert text.count('role="img"') == text.count("<svg")


def test_a_protocol_week_by_week_agrees_with_what_was_sent(page: Browser) -> None:
    number = next(
        one
        for one in re.findall(r'href="/scanners/(\d+)"', page.get("/scanners").text)
        if "<h1>t1_tse_tra</h1>" in page.get(f"/scanners/{one}").text
    )
    text = page.get(f"/scanners/{number}").text
    weeks = [_words(row) for row in re.findall(r'<tr><th scope="row">\d{4}.*?</tr>', text)]
    counted = [re.search(r"^\S+ (\d+) (.*?) 5 mm 5 mm 0 mm (\d+) (.*)$", row) for row in weeks]
    assert all(counted)
    found = [one.groups() for one in counted if one is not None]
    assert sum(int(series) for series, *_ in found) == 2 * WEEKS
    assert sum(int(missing) for _, _, missing, _ in found) == 8, "one slice of each of the last eight series"
    assert found[0][1].endswith("missing")
    assert found[-1][1].endswith("process")
    assert {clock for *_, clock in found} == {"3.3 min before it arrived"}
    assert re.search(r'href="/series/\d+"', text)


def test_a_hostile_protocol_is_text(page: Browser) -> None:
    text = page.get("/scanners").text
    assert HOSTILE_PROTOCOL not in text
    assert "&lt;img src=x onerror=" in text


def test_without_the_token_nobody_reads_what_was_typed_at_the_scanner(drifted: PageNode) -> None:
    with browser(settings_of(drifted.data), drifted.quiet.clock) as page:
        text = page.get("/scanners").text
        for typed in ("MRC31", "SKYRA2", "4711", "t2_tse", "img src"):
            assert typed not in text
        assert "protocol 1" in text
        assert "web.token_file" in text
        assert "4.4 mm apart since" in text, "what changed is there for everybody"
        assert "MRC31" not in page.get("/scanners/1").text


def test_one_peer_alone_and_nonsense(page: Browser) -> None:
    assert "SKYRA2" not in page.get("/scanners?peer=mr1").text
    assert page.get("/scanners?first=x").status == 404
    assert page.get("/scanners/999").status == 404
    assert page.get("/scanners?peer=%3Cscript%3E").status == 200


def test_many_protocols_are_paged_and_a_page_stays_small(tmp_path: Path) -> None:
    """A sender may make up names as it likes."""
    with page_node(tmp_path) as node:
        for number in range(PROTOCOLS + 3):
            sent = Phantom(slices=1, rows=4, columns=4).datasets()
            assert node.quiet.send(changed(sent, ProtocolName=f"made up {number:03}")) == [0]
        node.quiet.settle()
        with browser(settings_of(node.data, token_file=str(token_file(tmp_path))), node.quiet.clock) as page:
            page.enter()
            first = page.get("/scanners")
            assert len(first.body) < 90_000
            older = re.search(r'href="(/scanners\?[^"]*first=\d+)" rel="next"', first.text)
            assert older is not None
            second = page.get(older[1].replace("&amp;", "&"))
            names = re.findall(r"made up (\d+)", first.text + second.text)
            assert sorted(map(int, names)) == list(range(PROTOCOLS + 3))
