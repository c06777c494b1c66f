"""The page as its users meet it: a process over the data folder of a node whose clock is the real one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydicom import dcmread

from tests.support.chromium import Page
from tests.support.dcmtk import free_port, is_listening
from tests.support.page_node import TOKEN, PageNode, page_node, token_file
from tests.support.phantom import Phantom
from tests.support.scanner_weeks import fill_weeks
from tests.support.shared import PROSTATE
from tests.support.wait import wait_until

START_LIMIT_S = 60.0
HOSTILE = "The peer said <img src=x onerror=\"document.title='pwned'\"> and \x1b[2J."

SETTINGS = """\
[node]
data = "{data}"
ae_title = "DICOMNODE"
[web]
listen = "127.0.0.1:{port}"
token_file = "{token}"
viewer_url = "https://viewer.example/show?studyUID={{study_uid}}"
runs = "{runs}"
[[peer]]
name = "mr1"
ae_title = "MR1"
networks = ["10.1.2.0/24"]
[[peer]]
name = "mr2"
ae_title = "MR2"
networks = ["10.1.3.0/24"]
[[peer]]
name = "pacs"
ae_title = "PACS"
address = "127.0.0.1:104"
[[peer]]
name = "workstation"
ae_title = "WS"
address = "127.0.0.1:105"
"""


@dataclass(kw_only=True)
class ServedPage:
    """A node with a few series of today, and the address of its page."""

    node: PageNode
    url: str


def fill(node: PageNode, sentence: str) -> None:
    """A prostate that was derived and delivered (1, 2), four series that were kept, and one with a held job (7)."""
    clock = node.quiet.clock
    clock.moment = datetime.now(UTC) - timedelta(minutes=40)
    received = [dcmread(path) for path in sorted(PROSTATE.glob("*.dcm"))]
    for dataset in received:
        dataset.decompress()
    node.receive(received)
    node.derive()
    node.deliver()
    for peer, slices, image_type in (("mr1", 3, ""), ("mr2", 3, ""), ("mr1", 8, "LOCALIZER"), ("mr2", 4, "")):
        clock.advance(120)
        kept = Phantom(slices=slices, rows=16, columns=16)
        if image_type:
            kept = Phantom(
                slices=slices, rows=16, columns=16, changes={"ImageType": ["ORIGINAL", "PRIMARY", image_type]}
            )
        node.receive(kept.datasets(), peer=peer)
    node.receive(Phantom(slices=8, rows=16, columns=16).datasets(), peer="mr2")
    assert node.quiet.ledger.jobs.hold(node.quiet.claim_job(), reason="model", sentence=sentence)
    clock.moment = datetime.now(UTC)


@contextmanager
def served_page(
    folder: Path, sentence: str = HOSTILE, *, weeks: int = 0, runs: Path | None = None
) -> Iterator[ServedPage]:
    """Filled and served, until the block ends.

    ``sentence``: why a job is held; ``weeks``: of what scanners sent; ``runs``: the folder of training runs.
    """
    port = free_port()
    with page_node(folder) as node:
        fill(node, sentence)
        fill_weeks(node, weeks)
        config = folder / "dicomnode.toml"
        config.write_text(SETTINGS.format(data=node.data, port=port, token=token_file(folder), runs=runs or ""))
        process = subprocess.Popen([sys.executable, "-m", "dicomnode", "web", "--config", str(config)])
        try:
            wait_until(lambda: is_listening(port) or process.poll() is not None, START_LIMIT_S, "the page listens")
            assert process.poll() is None
            yield ServedPage(node=node, url=f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
            process.wait(20)


def enter(page: Page, url: str, name: str = "Dr. Ada") -> None:
    """Come in as a person does: the form asks for the name and the token."""
    page.open(f"{url}/")
    for field, text in (("name", name), ("token", TOKEN)):
        page.value(f"document.querySelector('[name={field}]').focus()")
        page.type_text(text)
    page.follow(lambda: page.press("Enter"))
    assert page.value("document.querySelector('h1').textContent") == "Today"
