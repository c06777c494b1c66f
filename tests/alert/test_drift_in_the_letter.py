"""The weekly letter names each protocol that changed in its week, once, in the page's sentence, without its texts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from html import unescape

import pytest

from dicomnode.alert.conditions import WEEK, facts
from dicomnode.alert.message import Message, letter
from dicomnode.ledger.queries import open_reader
from tests.support.page_node import PageNode, browser, page_node, settings_of
from tests.support.scanner_weeks import PROTOCOLS, fill_weeks


@pytest.fixture(scope="module")
def drifted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageNode]:
    """Two scanners over five weeks; in the last one everything is different."""
    with page_node(tmp_path_factory.mktemp("drifted")) as node:
        fill_weeks(node, 5, drift_weeks=1)
        yield node


def letter_of(node: PageNode, now: datetime) -> Message:
    settings = settings_of(node.data)
    with closing(open_reader(settings.ledger_url)) as reader:
        told = facts(settings, reader, now)
        return letter("NODE", reader.week(now - WEEK), reader.waiting(), told, next_at=now + WEEK)


def part(message: Message) -> list[str]:
    """Return the lines below the heading."""
    block = message.text.partition("Protocols of scanners that changed\n")[2].partition("\n\n")[0]
    return [line.strip() for line in block.splitlines()]


def test_what_changed_this_week_is_named_in_the_page_s_sentence(drifted: PageNode) -> None:
    lines = part(letter_of(drifted, drifted.quiet.clock.now()))
    with browser(settings_of(drifted.data), drifted.quiet.clock) as page:
        shown = " ".join(unescape(re.sub(r"<[^>]+>", " ", page.get("/scanners").text)).split())
    assert len(lines) == 2
    assert any(
        re.match(r"mr1, protocol \d+: The slices lie 4\.4 mm apart since \d{4}-\d\d-\d\d; before", one) for one in lines
    )
    assert any(re.match(r"mr2, protocol \d+: .* the clock of the scanner is ahead", one) for one in lines)
    for line in lines:
        assert line.partition(": ")[2] in shown


def test_no_text_of_a_header_is_in_it(drifted: PageNode) -> None:
    message = letter_of(drifted, drifted.quiet.clock.now())
    for one in PROTOCOLS:
        assert one.station not in message.text + str(message.json)
        assert one.name not in message.text + str(message.json)
    assert "4711" not in message.text


def test_what_the_last_letter_said_is_not_said_again(drifted: PageNode) -> None:
    assert part(letter_of(drifted, drifted.quiet.clock.now() + WEEK)) == ["none"]
