"""The first page and the lists: what is on them, and that they hold nothing of a patient."""

from __future__ import annotations

import re

import pytest

from dicomnode.web.pages import ROWS
from tests.support.page_node import Browser, PageNode
from tests.support.phantom import Phantom


def _words(text: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


def test_today_counts_what_came_was_derived_kept_and_sent(open_page: Browser) -> None:
    words = _words(open_page.get("/").text)
    assert "received 2 series derived 1 series kept 1 series sent 1 delivery" in words
    assert "mr1 2 11 1 min ago" in words or "mr1 2 11 just now" in words, words
    assert "mr2 0 0 nothing in seven days" in words
    assert "too_few 1" in words
    assert "pacs 1 0 0" in words
    assert "workstation 0 1 0" in words


def test_today_names_each_row_that_waits_for_a_person_as_status_does(node: PageNode, open_page: Browser) -> None:
    assert "Nothing waits for a person." in open_page.get("/").text
    assert node.quiet.ledger.settling.keep(node.receive(), 1, reason="x", sentence="unused") is False
    job = node.quiet.claim_job()
    node.quiet.ledger.jobs.hold(job, reason="model", sentence="The model <b>is</b> not there.")
    node.quiet.clock.advance(10)
    text = open_page.get("/today/live").text
    assert "The model &lt;b&gt;is&lt;/b&gt; not there." in text
    assert [line.sentence for line in node.quiet.reader.attention()] == ["The model <b>is</b> not there."]


def test_a_list_is_filtered_by_state_reason_peer_and_date(open_page: Browser) -> None:
    def numbers(query: str) -> list[str]:
        return re.findall(r'href="/series/(\d+)"', open_page.get(f"/series?{query}").text)

    assert numbers("") == ["3", "1"]
    assert numbers("state=kept") == numbers("reason=too_few") == ["3"]
    assert numbers("peer=mr1") == ["3", "1"]
    assert numbers("peer=mr2") == numbers("from=2027-01-01") == numbers("to=2026-01-01") == []
    assert numbers("from=2026-03-01&to=2026-03-31&state=done") == ["1"]
    assert numbers("derived=yes") == ["3", "2", "1"]
    assert open_page.get("/series?number=12").headers["Location"] == "/series/12"


def test_a_list_goes_on_below_the_last_row_that_it_showed(node: PageNode, open_page: Browser) -> None:
    slices = Phantom(slices=1, rows=4, columns=4)
    for _ in range(ROWS + 2):
        assert node.quiet.send(slices.datasets()) == [0]
    first = open_page.get("/series").text
    rows = re.findall(r'scope="row" class="n"><a href="/series/(\d+)"', first)
    assert len(rows) == ROWS
    assert "Newest" not in first
    older = re.search(r'href="(/series\?before=\d+)" rel="next"', first)
    assert older is not None
    second = open_page.get(older[1]).text
    rest = re.findall(r'scope="row" class="n"><a href="/series/(\d+)"', second)
    assert rows + rest == [*map(str, range(ROWS + 5, 3, -1)), "3", "1"]
    assert "Newest" in second
    assert 'rel="next"' not in second


@pytest.mark.parametrize("query", ["state=nonsense", "from=yesterday", "before=x", "before=-1", "to=9999-12-31"])
def test_what_cannot_be_read_is_a_sentence(open_page: Browser, query: str) -> None:
    got = open_page.get(f"/series?{query}")
    assert got.status == 404
    assert 'role="alert"' in got.text


@pytest.mark.parametrize(
    "place", ["/", "/series?derived=yes", "/deliveries", "/deliveries?state=due&peer=pacs", "/series/1", "/series/3"]
)
def test_no_page_holds_a_word_about_a_patient_or_a_uid(open_page: Browser, place: str) -> None:
    got = open_page.get(place)
    assert got.status == 200
    text = got.text
    assert "SECRET" not in text
    assert not re.search(r"\d\.\d+\.\d+\.\d+\.\d+", text)


def test_the_page_of_a_node_without_a_ledger_says_so(node: PageNode, open_page: Browser) -> None:
    (node.data / "ledger.sqlite").rename(node.data / "elsewhere")
    got = open_page.get("/")
    assert got.status == 503
    assert "There is no ledger" in got.text
    (node.data / "elsewhere").rename(node.data / "ledger.sqlite")
    assert open_page.get("/").status == 200
