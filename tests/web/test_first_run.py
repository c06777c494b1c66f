"""From a node that knows nobody to the first derived series: in a browser, by clicks; IT adds the block to the file."""

from __future__ import annotations

import sqlite3
import tomllib
from contextlib import closing
from pathlib import Path

import pytest

from dicomnode.settings.load import load_with_source, parse
from dicomnode.web.first import FIELDS, block_of
from tests.support.chromium import Page, chromium, needs_chromium
from tests.support.dcmtk import free_port, needs_dcmtk, storescp
from tests.support.dicom import storescu, write_part10
from tests.support.dicomweb import DicomwebServer
from tests.support.first_node import first_node
from tests.support.page_node import PHANTOM, browser, page_node, settings_of, token_file
from tests.support.served_page import enter
from tests.support.wait import wait_until
from tests.support.web_commitment import WebCommitment

FILLED = {
    "scanner": "mr1", "scanner_title": "MR1", "network": "127.0.0.1/32", "pacs": "pacs", "pacs_title": "PACS",
    "address": "127.0.0.1:104",
}  # fmt: skip
WORK_LIMIT_S = 180.0


def test_the_block_is_toml_that_holds_what_was_typed() -> None:
    block, mistakes = block_of({**FILLED, "pacs": "pacs-2"})
    assert mistakes == []
    read = tomllib.loads(block)
    assert read["peer"][0] == {"name": "mr1", "ae_title": "MR1", "networks": ["127.0.0.1/32"]}
    assert read["peer"][1]["address"] == "127.0.0.1:104"
    assert read["rule"][0]["deliver_to"] == ["pacs-2"]


@pytest.mark.parametrize(
    ("field", "text", "named"),
    [
        ("address", "10.1.0.5", "peer.1.address"),
        ("network", "nonsense", "peer.0.networks"),
        ("scanner_title", "A TITLE THAT IS FAR TOO LONG", "peer.0.ae_title"),
        ("pacs", "mr1", "peer.1.name"),
        ("pacs", '"]\n[evil]', "peer.1.name"),
    ],
)
def test_what_the_file_would_not_take_is_said_at_once(field: str, text: str, named: str) -> None:
    block, mistakes = block_of({**FILLED, field: text})
    assert block == ""
    assert any(named in one for one in mistakes), mistakes


def test_a_node_that_knows_nobody_says_so_and_leads_there(tmp_path: Path) -> None:
    with page_node(tmp_path) as node:
        nobody = parse({"node": {"data": str(node.data)}})
        with browser(nobody, node.quiet.clock) as page:
            assert 'href="/first"' in page.get("/").text
            text = page.get("/first").text
            assert "knows no scanner and no PACS yet" in text
            for name in FIELDS:
                assert f'name="{name}"' in text
        with browser(settings_of(node.data), node.quiet.clock) as page:
            assert 'href="/first"' not in page.get("/").text


def test_what_is_typed_comes_back_as_text(tmp_path: Path) -> None:
    hostile = "%22%3E%3Cscript%3Ealert(1)%3C/script%3E"
    with page_node(tmp_path) as node, browser(settings_of(node.data), node.quiet.clock) as page:
        query = "&".join(f"{name}={hostile}" for name in FIELDS)
        got = page.get(f"/first?{query}")
        assert got.status == 200
        assert "<script>alert" not in got.text
        assert "These cannot be used" in got.text


def test_a_rehearsal_is_asked_first_and_only_with_a_peer_that_has_an_address(tmp_path: Path) -> None:
    with page_node(tmp_path) as node:
        settings = settings_of(node.data, token_file=str(token_file(tmp_path)))
        with browser(settings, node.quiet.clock) as page:
            page.enter("Ada")
            assert "Five test images" in page.get("/first/rehearse/pacs").text
            for peer in ("mr1", "nobody", "--config=x", "../pacs"):
                assert page.get(f"/first/rehearse/{peer}").status == 404
            assert page.post("/first/rehearse/pacs", {}).status == 403
        with browser(settings_of(node.data, actions=False), node.quiet.clock) as page:
            assert "/first/rehearse/" not in page.get("/first").text
            assert page.get("/first/rehearse/pacs").status == 404
        assert _events_of_node(node.data / "ledger.sqlite") == []


def test_a_rehearsal_by_dicomweb_is_made_on_the_page_too(tmp_path: Path) -> None:
    config = tmp_path / "dicomnode.toml"
    with page_node(tmp_path) as node, DicomwebServer() as server:
        server.commitment = WebCommitment()
        config.write_text(
            f'[node]\nlisten = "127.0.0.1:{free_port()}"\ndata = "{node.data}"\n'
            f'[[peer]]\nname = "web"\nurl = "{server.url}"\n[[rule]]\nname = "all"\ndeliver_to = ["web"]\n'
        )
        settings, source = load_with_source(config, {})
        with browser(settings, node.quiet.clock, source) as page:
            assert 'href="/first/rehearse/web"' in page.get("/first").text
            asked = page.get("/first/rehearse/web")
            page.post("/first/rehearse/web", {"key": asked.key, "name": "Ada"})
            wait_until(lambda: "The rehearsal with web," in page.get("/first/live").text, WORK_LIMIT_S)
            assert '<span class="state done">good</span>' in page.get("/first/live").text
        assert len(server.held) == 5, "five test images"
        assert ("rehearsed", "web:Ada", "web") in _events_of_node(node.data / "ledger.sqlite")


class _Person:
    """Somebody who sees the page and clicks."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def click(self, text: str) -> None:
        """The link or button with this text, once it is there; the next page is awaited."""
        found = f"[...document.querySelectorAll('a, button')].find((one) => one.textContent.trim() === {text!r})"
        self.page.wait_for(found, WORK_LIMIT_S)
        self.page.follow(lambda: self.page.value(f"setTimeout(() => {found}.click()); 0"))

    def fill(self, name: str, text: str) -> None:
        self.page.value(f"document.querySelector('[name={name}]').focus()")
        self.page.type_text(text)

    def sees(self, text: str) -> None:
        """Without a new page: the page renews itself."""
        self.page.wait_for(f"document.body.innerText.includes({text!r})", WORK_LIMIT_S)


@needs_chromium
@needs_dcmtk
def test_from_the_first_run_to_the_first_derived_series_by_clicks(tmp_path: Path) -> None:
    with (
        first_node(tmp_path) as (node, url),
        storescp(tmp_path / "pacs", "-aet", "PACS") as pacs,
        chromium(tmp_path / "chromium") as opened,
    ):
        page = opened.new_page()
        page.resize(1280, 900)
        enter(page, url)
        person = _Person(page)
        person.click("First steps")
        for name, text in {**FILLED, "address": f"127.0.0.1:{pacs}"}.items():
            person.fill(name, text)
        person.click("Show the settings")
        block = page.value("document.querySelector('#block').textContent")
        _it_adds(node.config, block)
        assert f"dicomnode reload --config {node.config}" in page.value("document.body.innerText")
        node.run("reload")
        person.sees("The node uses mr1 (MR1) as sender and pacs as recipient.")

        person.click("Rehearse with pacs")
        person.click("Rehearse")
        person.sees("The rehearsal with pacs,")
        person.sees("images")
        assert len(list((tmp_path / "pacs").iterdir())) == 5, "five test images"
        assert ("rehearsed", "web:Dr. Ada", "pacs") in _events_of_node(node.data / "ledger.sqlite")

        files = [write_part10(tmp_path / f"{place}.dcm", one) for place, one in enumerate(PHANTOM.datasets())]
        assert storescu(node.port, files, calling="MR1", called="NODE").returncode == 0
        person.sees("Series 1")
        person.sees("It was derived.")
        person.sees("images sent.")
        person.click("Series 1")
        assert page.value("document.querySelector('h1').textContent").startswith("Series 1")
        person.click("Before and after")
        page.wait_for(
            "[...document.querySelectorAll('.wipe img')].every((one) => one.complete && one.naturalWidth > 0)"
        )
        page.open(f"{url}/")
        assert "First steps" not in page.value("document.body.innerText"), "the page has followed the settings"
    said = node.log_file.read_text()
    assert f"The page is at {url}/" in said
    assert "PHANTOM" not in said


def _events_of_node(ledger: Path) -> list[tuple[str, str, str]]:
    with closing(sqlite3.connect(ledger)) as connection:
        return connection.execute("SELECT kind, actor, detail FROM event WHERE table_name = 'node'").fetchall()


def _it_adds(config: Path, block: str) -> None:
    """Do the tasks that the page gives to those who run the machine."""
    config.write_text(f"{config.read_text()}\n{block}\n")
