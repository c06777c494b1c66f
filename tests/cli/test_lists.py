"""Lists once printed everything, the oldest first: at ten thousand series, 130,000 lines of JSON.

They show the newest, say what they leave out, and take filters, whose words are checked.
"""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dicomnode.cli.filters import reasons_of_deliveries, reasons_of_series
from dicomnode.ledger.store import open_ledger
from tests.cli.conftest import Run
from tests.ledger.scene import FakeClock, Scene

SETTINGS = """
[[peer]]
name = "pacs"
ae_title = "PACS"
address = "127.0.0.1:11"
[[peer]]
name = "scanner"
ae_title = "SCANNER"
networks = ["127.0.0.1/32"]
[[rule]]
name = "all"
model = "cubic-dc"
deliver_to = ["pacs"]
"""


def _opened(folder: Path) -> Scene:
    """A ledger in a folder with settings; its clock is the machine's until a test moves it."""
    (folder / "node.toml").write_text(SETTINGS)
    path, clock = folder / "data" / "ledger.sqlite", FakeClock(moment=datetime.now(UTC))
    path.parent.mkdir()
    return Scene(ledger=open_ledger(f"sqlite:///{path}", clock=clock), clock=clock, path=path)


def _look_at(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands take the settings and the data folder of this ledger."""
    monkeypatch.setenv("DICOMNODE_CONFIG", str(scene.path.parents[1] / "node.toml"))
    monkeypatch.setenv("DICOMNODE_NODE__DATA", str(scene.path.parent))


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """An empty ledger, which the commands look at."""
    opened = _opened(tmp_path)
    _look_at(opened, monkeypatch)
    yield opened
    opened.close()


def _copies(scene: Scene, number: int) -> None:
    """Many more series, past our own code: each is one row like the first."""
    with closing(sqlite3.connect(scene.path)) as connection, connection:
        columns = [
            row[1] for row in connection.execute("PRAGMA table_info(series)") if row[1] not in ("id", "series_uid")
        ]
        connection.executemany(
            f"INSERT INTO series (series_uid, {', '.join(columns)}) "  # noqa: S608
            f"SELECT ?, {', '.join(columns)} FROM series WHERE id = 1",
            [(f"1.2.3.{place}",) for place in range(number)],
        )


def _ids(shown: str) -> list[int]:
    return [row["id"] for row in json.loads(shown)]


def test_of_ten_thousand_the_newest_hundred_are_shown_and_the_rest_is_named(run: Run, scene: Scene) -> None:
    scene.receive(images=1)
    _copies(scene, 9_999)
    ran = run("series", "list", "--json")
    assert _ids(ran.out) == list(range(10_000, 9_900, -1))
    assert ran.err == "The newest 100 of 10000 series; --limit N shows more of them, --all all.\n"
    assert len(_ids(run("series", "list", "--json", "--limit", 250).out)) == 250
    whole = run("series", "list", "--json", "--all")
    assert (len(_ids(whole.out)), whole.err) == (10_000, "")


def test_a_terminal_gets_a_page_of_twenty(run: Run, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.receive(images=1)
    _copies(scene, 29)
    ran = run("series", "list")
    assert (len(ran.out.splitlines()), ran.err) == (31, ""), "a pipe gets a hundred"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    ran = run("series", "list")
    assert "The newest 20 of 30 series" in ran.err


def test_deliveries_are_cut_alike(run: Run, scene: Scene) -> None:
    for _ in range(4):
        scene.queued("pacs")
        scene.finish_job(images=2)
    ran = run("deliveries", "list", "--json", "--limit", 3)
    assert _ids(ran.out) == [4, 3, 2]
    assert [row["items"] for row in json.loads(ran.out)] == [2, 2, 2]
    assert "The newest 3 of 4 deliveries" in ran.err
    assert _ids(run("deliveries", "list", "--json", "--all").out) == [4, 3, 2, 1]
    assert run("deliveries", "list", "--json", "--limit", 4).err == "", "nothing is left out"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Series 1 kept (gaps), 2 held (input), 4 done and delivered an hour ago, 6 done and held; 3, 5, 7: outputs."""
    scene = _opened(tmp_path_factory.mktemp("filled"))
    scene.clock.advance(-3 * 86400)
    kept = scene.settled()
    scene.ledger.settling.keep(kept, 1, reason="gaps", sentence="Gaps.")
    scene.queued("pacs")
    scene.ledger.jobs.hold(scene.claim_job(), reason="input", sentence="Slice 3 cannot be used.")
    scene.clock.advance(3 * 86400 - 3600)
    scene.queued("pacs")
    scene.finish_job()
    delivery = scene.claim_delivery()
    scene.send_all(delivery)
    scene.ledger.deliveries.finish(delivery)
    scene.queued("old-pacs")
    scene.finish_job()
    delivery = scene.claim_delivery("old-pacs")
    scene.ledger.deliveries.hold(delivery, reason="no_context", sentence="Nothing accepted.")
    yield scene
    scene.close()


@pytest.fixture
def mixed(filled: Scene, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """The filled ledger, which the commands look at; they only read it."""
    _look_at(filled, monkeypatch)
    return filled


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), [6, 4, 2, 1]),
        (("--state", "kept"), [1]),
        (("--state", "held"), [2]),
        (("--state", "done", "--state", "kept"), [6, 4, 1]),
        (("--state", "receiving"), []),
        (("--reason", "gaps"), [1]),
        (("--reason", "input"), [2]),
        (("--reason", "mosaic"), []),
        (("--since", "2h"), [6, 4]),
        (("--since", "4d"), [6, 4, 2, 1]),
        (("--since", "30m"), []),
        (("--peer", "mr1"), [6, 4, 2, 1]),
        (("--peer", "scanner"), []),
        (("--since", "2h", "--state", "kept"), []),
        (("--state", "done", "--limit", "1"), [6]),
        (("--derived", "--since", "2h"), [7, 6, 5, 4]),
        (("--derived", "--reason", "own_output"), [7, 5]),
    ],
)
def test_series_are_filtered(run: Run, mixed: Scene, words: tuple[str, ...], expected: list[int]) -> None:
    assert mixed
    ran = run("series", "list", "--json", *words)
    assert (ran.code, _ids(ran.out)) == (0, expected)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), [2, 1]),
        (("--state", "sent"), [1]),
        (("--state", "held", "--state", "sent"), [2, 1]),
        (("--reason", "no_context"), [2]),
        (("--reason", "rejected"), []),
        (("--peer", "pacs"), [1]),
        (("--peer", "old-pacs"), [2]),
        (("--since", "2h"), [2, 1]),
        (("--since", "30m"), []),
        (("--peer", "pacs", "--state", "held"), []),
    ],
)
def test_deliveries_are_filtered(run: Run, mixed: Scene, words: tuple[str, ...], expected: list[int]) -> None:
    assert mixed
    ran = run("deliveries", "list", "--json", *words)
    assert (ran.code, _ids(ran.out)) == (0, expected)


def test_a_date_is_of_this_machines_zone_unless_it_names_one(run: Run, mixed: Scene) -> None:
    last = mixed.clock.now()
    for shown in (
        (last - timedelta(minutes=1)).isoformat(),
        (last - timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        (last - timedelta(minutes=1)).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        (last - timedelta(days=1)).astimezone().strftime("%Y-%m-%d"),
    ):
        assert _ids(run("series", "list", "--json", "--since", shown).out) == [6, 4]
    assert _ids(run("series", "list", "--json", "--since", (last + timedelta(minutes=1)).isoformat()).out) == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("series", "list", "--state", "lost"), "receiving"),
        (("series", "list", "--reason", "lost"), "already_thin"),
        (("series", "list", "--peer", "nobody"), "mr1, pacs, scanner"),
        (("deliveries", "list", "--state", "kept"), "sending"),
        (("deliveries", "list", "--reason", "gaps"), "no_context"),
        (("deliveries", "list", "--peer", "nobody"), "old-pacs, pacs, scanner"),
        (("series", "list", "--since", "yesterday"), "2h"),
        (("series", "list", "--since", "99999999w"), "2h"),
        (("series", "list", "--since", "-2h"), "2h"),
        (("series", "list", "--since", ""), "2h"),
        (("series", "list", "--limit", "0"), "range"),
        (("deliveries", "list", "--limit", "3", "--all"), "exclude"),
    ],
)
def test_a_word_that_means_nothing_is_refused_with_those_that_do(
    run: Run, mixed: Scene, words: tuple[str, ...], named: str
) -> None:
    assert mixed
    for form in ((), ("--json",)):
        ran = run(*words, *form)
        assert (ran.code, ran.out) == (2, "")
        assert named in ran.err
        assert "Traceback" not in ran.err


def test_an_empty_answer_does_not_say_that_there_is_nothing_at_all(run: Run, mixed: Scene) -> None:
    assert mixed
    assert run("series", "list", "--state", "receiving").out == "No series.\n"
    assert run("deliveries", "list", "--since", "1m").out == "No deliveries.\n"


def test_every_reason_that_the_page_explains_can_be_asked_for() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()
    section = page.partition("## Why a series was kept\n")[2].partition("\n## ")[0]
    explained = set(re.findall(r"^\| `([a-z_]+)` \|", section, flags=re.MULTILINE))
    assert {"gaps", "set_aside", "pulled", "removed", "not_selected"} <= explained
    assert explained <= reasons_of_series()
    assert {"gate", "review", "identity", "not_accepted", "set_aside", "earlier_revision"} <= reasons_of_deliveries()
