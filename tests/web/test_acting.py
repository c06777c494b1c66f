"""The page of a series, and what a person does on it: asked first, done by the acts of the commands, written down."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dicomnode.ledger.states import TRANSITIONS
from tests.support.page_node import Browser, PageNode, browser, settings_of, token_file
from tests.support.phantom import Phantom


def _words(text: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


def _by(node: PageNode, series: int) -> list[tuple[str, str]]:
    return [(event.kind, event.by) for event in node.quiet.explain(series).events if event.by.startswith("web")]


def test_a_series_tells_what_explain_tells(node: PageNode, open_page: Browser) -> None:
    for number in (1, 2, 3):
        words = _words(open_page.get(f"/series/{number}").text)
        told = node.quiet.explain(number)
        assert told.sentences
        for sentence in told.sentences:
            assert " ".join(sentence.split()) in words.replace("&#39;", "'").replace("&lt;", "<"), sentence
    assert 'href="/series/2"' in open_page.get("/series/1").text
    assert 'href="/series/1"' in open_page.get("/series/2").text
    assert open_page.get("/series/99").status == 404


def test_each_figure_of_the_result_gate_stands_beside_its_limit(node: PageNode, open_page: Browser) -> None:
    text = open_page.get("/series/1").text
    figures = node.quiet.explain(1).gate
    assert figures
    for figure in figures:
        assert f'<th scope="row">{figure.check}</th>' in text


def test_an_act_is_asked_first_and_done_once_with_the_person_s_name(node: PageNode, guarded: Browser) -> None:
    guarded.enter("Dr. Ada")
    assert 'href="/series/3/retry"' in guarded.get("/series/3").text
    asked = guarded.get("/series/3/retry")
    assert "The series is judged again now" in asked.text
    assert _by(node, 3) == [], "asking does nothing"
    done = guarded.post("/series/3/retry", {"key": asked.key})
    assert done.status == 200
    assert "Series 3 is judged again." in done.text
    assert ("retry", "web:Dr. Ada") in _by(node, 3)


def test_every_act_on_a_delivery_is_there_when_it_can_be_done(node: PageNode, guarded: Browser) -> None:
    guarded.enter("Ada")
    number = next(line.id for line in node.quiet.explain(1).deliveries if line.peer == "workstation")

    def press(act: str) -> str:
        assert f'href="/deliveries/{number}/{act}"' in guarded.get("/series/1").text, act
        return guarded.post(f"/deliveries/{number}/{act}", {"key": guarded.get(f"/deliveries/{number}/{act}").key}).text

    assert f"Delivery {number} is cancelled." in press("cancel")
    assert f"Delivery {number} is due now." in press("retry")
    delivery = node.quiet.ledger.deliveries.claim("workstation", "boot1:host:1", lease_s=60)
    assert delivery is not None
    assert node.quiet.ledger.deliveries.hold(delivery, reason="refused", sentence="No.")
    assert f"Delivery {number} is due." in press("release")
    assert {by for _, by in _by(node, 1)} == {"web:Ada"}


def test_to_reject_a_result_under_review_a_person_says_why(node: PageNode, guarded: Browser) -> None:
    guarded.enter("Ada")
    number = next(line.id for line in node.quiet.explain(1).deliveries if line.peer == "workstation")
    with closing(sqlite3.connect(node.quiet.archive.data / "ledger.sqlite")) as connection, connection:
        connection.execute("UPDATE job SET release = 'review' WHERE id IN (SELECT job_id FROM delivery)")
    delivery = node.quiet.ledger.deliveries.claim("workstation", "boot1:host:1", lease_s=60)
    assert delivery is not None
    assert node.quiet.ledger.deliveries.hold(delivery, reason="review", sentence="It waits for a person.")
    place = f"/deliveries/{number}/cancel"
    assert "Say why" in guarded.post(place, {"key": guarded.get(place).key, "note": " "}).text
    told = guarded.post(place, {"key": guarded.get(place).key, "note": "motion \n on slice 3"}).text
    assert f"Delivery {number} is cancelled." in told
    (line,) = (one for one in node.quiet.explain(1).deliveries if one.id == number)
    assert (line.state, line.sentence) == ("cancelled", "A person rejected the result: motion on slice 3")


def test_a_held_job_is_released_and_cancelled(node: PageNode, guarded: Browser) -> None:
    guarded.enter("Ada")
    series = node.receive(Phantom(slices=8, rows=16, columns=16).datasets())
    node.quiet.ledger.jobs.hold(node.quiet.claim_job(), reason="model", sentence="The model is not there.")
    place = f"/series/{series}"
    assert f'href="{place}/cancel"' in guarded.get(place).text
    assert "goes on as it is" in guarded.post(f"{place}/release", {"key": guarded.get(f"{place}/release").key}).text
    assert "is cancelled" in guarded.post(f"{place}/cancel", {"key": guarded.get(f"{place}/cancel").key}).text
    assert node.quiet.reader.series_show(series).jobs[-1].state == "cancelled"


def test_what_the_state_does_not_allow_is_refused_with_the_command_s_sentence(node: PageNode, guarded: Browser) -> None:
    guarded.enter("Ada")
    sent = next(line.id for line in node.quiet.explain(1).deliveries if line.state == "sent")
    assert f'href="/deliveries/{sent}/retry"' not in guarded.get("/series/1").text
    got = guarded.post(f"/deliveries/{sent}/retry", {"key": guarded.get("/").key})
    assert got.status == 409
    assert f"Delivery {sent} is sent already; there is nothing to retry." in got.text
    assert _by(node, 1) == []


def test_nobody_acts_without_a_name(node: PageNode, open_page: Browser) -> None:
    key = open_page.get("/series/3/retry").key
    assert "Your name, for the record" in open_page.get("/series/3/retry").text
    for name in ("", "<b>", " "):
        got = open_page.post("/series/3/retry", {"key": key, "name": name})
        assert got.status == 409
        assert "A name is needed" in got.text
    assert _by(node, 3) == []
    assert open_page.post("/series/3/retry", {"key": key, "name": "Müller, K".replace(",", "")}).status == 200
    assert ("retry", "web:Müller K") in _by(node, 3)


def test_no_act_without_the_key_of_a_form_or_by_a_link(node: PageNode, guarded: Browser) -> None:
    guarded.enter("Ada")
    before = len(node.quiet.explain(3).events)
    key = guarded.get("/series/3/retry").key
    assert guarded.post("/series/3/retry", {}).status == 403
    assert guarded.post("/series/3/retry", {"key": key}, origin="http://evil.example").status == 403
    assert guarded.get(f"/series/3/retry?key={key}").status == 200
    assert guarded.post("/series/3/nonsense", {"key": key}).status == 409
    assert guarded.post("/series/99/retry", {"key": key}).status == 409
    guarded.cookie = ""
    assert guarded.post("/series/3/retry", {"key": key}).status == 403
    assert len(node.quiet.explain(3).events) == before


def test_a_page_without_actions_offers_and_does_none(node: PageNode, tmp_path: Path) -> None:
    settings = settings_of(node.data, actions=False, token_file=str(token_file(tmp_path)))
    with browser(settings, node.quiet.clock) as page:
        page.enter("Ada")
        assert "/retry" not in page.get("/series/3").text
        assert "/cancel" not in page.get("/series/1").text
        assert page.get("/series/3/retry").status == 404
        got = page.post("/series/3/retry", {"key": page.get("/").key})
        assert got.status == 409
        assert "Nothing can be changed on this page." in got.text
    assert _by(node, 3) == []


@pytest.mark.parametrize("table", ["series", "delivery"])
def test_every_state_of_an_act_is_one(table: str) -> None:
    from dicomnode import acts

    known = {str(state) for states in TRANSITIONS.values() for state in states}
    for act in (acts.ON_SERIES if table == "series" else acts.ON_DELIVERY).values():
        assert act.states <= known
