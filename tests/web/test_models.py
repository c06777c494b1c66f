"""The page of the models: what the cards state, what the gate measured, and a model that was tried in shadow."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.catalog import import_model
from dicomnode.generators.model_dir import model_facts, model_names, read_card, seal, shipped_models, write_card
from dicomnode.ids import SeriesId
from tests.support.page_node import Browser, PageNode, browser, settings_of
from tests.support.quiet_node import quiet_node


def _words(text: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


@pytest.fixture
def page(node: PageNode) -> Iterator[Browser]:
    with browser(settings_of(node.data), node.quiet.clock) as opened:
        yield opened


def test_each_model_is_a_column_with_what_its_card_states(page: Browser) -> None:
    text = page.get("/models").text
    head = _words(text.partition("<thead>")[2].partition("</thead>")[0])
    assert head.split()[::2] == list(model_names())
    for folder in shipped_models().values():
        card = read_card(folder)
        for mode in card.failure_modes:
            assert f"<li>{mode}</li>" in text.replace("&#39;", "'")
    assert "12 volumes of 10 people" in _words(text)
    assert "It has no weights and no card." in text


def test_a_measurement_stands_in_one_row_with_the_value_of_each_model(page: Browser) -> None:
    measure, volume = "PSNR gain over cubic-dc, dB, mean of ratios 3 to 5, 3 planes", "philips"
    row = page.get("/models").text.partition(f'{measure} <span class="faint">· {volume}</span></th>')[2]
    cells = re.findall(r'<td class="n">(.*?)</td>', row.partition("</tr>")[0])
    expected = []
    for name in model_names():
        rows = read_card(shipped_models()[name]).metrics if name in shipped_models() else ()
        values = [one.value for one in rows if (one.measure, one.volume) == (measure, volume)]
        expected.append(f"{values[0]:.3g}" if values else "")
    assert cells == expected
    assert sum(map(bool, cells)) == 2


def test_what_the_gate_measured_stands_under_its_month(node: PageNode, page: Browser) -> None:
    text = page.get("/models").text
    assert "cubic-dc" in text.partition('id="made-1"')[2].partition("</h3>")[0]
    (row,) = re.findall(r'<tr><th scope="row">2026-03</th>.*?</tr>', text)
    assert _words(row).startswith("2026-03 1 0 0 ")
    for figure in node.quiet.explain(1).gate:
        assert f'<th scope="col" class="n">{figure.check}</th>' in text
        if figure.share is not None:
            assert f"{100 * figure.share:.3g} %" in row


def test_a_model_that_was_tried_in_shadow_stands_beside_the_one_that_was_sent(node: PageNode) -> None:
    """The rule is changed, the series judged again, and the second model really derives it."""
    deliveries = len(node.quiet.deliveries())
    node.quiet.ledger.operator.retry_series(SeriesId(1), "operator")
    with quiet_node(node.data, model_of=lambda _name: model_facts("thin-fast"), release="shadow") as quiet:
        quiet.clock.moment = node.quiet.clock.now()
        quiet.settler.turn()
        assert PageNode(data=node.data, quiet=quiet).derive() > 2
        assert len(quiet.deliveries()) == deliveries, "what is made in shadow is sent to nobody"
        with browser(settings_of(node.data), quiet.clock) as page:
            text = page.get("/models").text
    pair = text.partition('id="pair-1">')[2].partition("</table>")[0]
    digits = model_facts("thin-fast").digest[:12]
    expected = f"cubic-dc cubic-dc/1 and, in shadow, thin-fast {digits} 1 series, the newest series 1"
    assert _words(pair).startswith(expected)
    assert "encoded_averages, of its limit" in pair
    assert len(re.findall(r"\d %</td><td class=\"n\">[\d.e+-]+ %", pair)) > 3


def test_what_a_card_says_is_text(node: PageNode, tmp_path: Path) -> None:
    folder = tmp_path / "imported"
    shutil.copytree(shipped_models()["thin-fast"], folder)
    hostile = "<script>document.title='pwned'</script>"
    card = read_card(folder).model_copy(update={"intended_use": hostile, "failure_modes": (hostile,)})
    write_card(folder, card)
    seal(folder)
    imported, _ = import_model(folder, data=node.data, models=node.quiet.ledger.models, by="operator")
    with browser(settings_of(node.data), node.quiet.clock) as page:
        got = page.get("/models")
    assert hostile not in got.text
    assert got.text.count("&lt;script&gt;document.title=") == 2
    assert imported.digest[:12] in got.text
    assert len(got.body) < 100_000
