"""A peer was renamed or removed, or lost its address: what was due to it waited for ever, and nothing said so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dicomnode.ledger.store import open_ledger
from tests.cli.conftest import Run
from tests.ledger.scene import FakeClock, Scene

WITH_PACS = '[[peer]]\nname = "pacs"\nae_title = "PACS"\naddress = "127.0.0.1:11"\n'
RENAMED = WITH_PACS.replace('"pacs"', '"archive"')
WITHOUT_ADDRESS = '[[peer]]\nname = "pacs"\nae_title = "PACS"\nnetworks = ["127.0.0.1/32"]\n'
RULE = '[[rule]]\nname = "all"\nmodel = "cubic-dc"\n'


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """One delivery of three images is due to pacs."""
    (tmp_path / "data").mkdir()
    _configure(tmp_path, WITH_PACS)
    monkeypatch.setenv("DICOMNODE_CONFIG", str(tmp_path / "node.toml"))
    path, clock = tmp_path / "data" / "ledger.sqlite", FakeClock(moment=datetime.now(UTC))
    opened = Scene(ledger=open_ledger(f"sqlite:///{path}", clock=clock), clock=clock, path=path)
    opened.queued("pacs")
    opened.finish_job(images=3)
    yield opened
    opened.close()


def _configure(folder: Path, peers: str) -> None:
    (folder / "node.toml").write_text(peers + RULE)


def test_while_the_peer_is_there_nobody_is_bothered(run: Run, scene: Scene) -> None:
    assert scene
    status = json.loads(run("status", "--json").out)
    assert (status["attention"], status["no_peer"]) == ([], {})
    assert "pacs" not in run("deliveries", "list", "--reason", "no_peer").out
    assert json.loads(run("deliveries", "list", "--json").out)[0]["next_at"] is not None


@pytest.mark.parametrize("peers", [RENAMED, WITHOUT_ADDRESS, ""])
def test_status_check_list_and_explain_name_the_delivery_and_the_ways_out(
    run: Run, scene: Scene, tmp_path: Path, peers: str
) -> None:
    assert scene
    _configure(tmp_path, peers)
    status = json.loads(run("status", "--json").out)
    (line,) = status["attention"]
    assert (line["table"], line["id"], line["series"], line["state"], line["reason"]) == (
        "delivery", 1, 1, "due", "no_peer",
    )  # fmt: skip
    assert "no peer pacs" in line["sentence"]
    assert "--to PEER" in line["sentence"]
    assert "deliveries cancel 1" in line["sentence"]
    assert status["no_peer"] == {"pacs": 1}
    checked = json.loads(run("check", "--json").out)
    row = next(row for row in checked if row["what"] == "peer pacs" and "are due to it" in row["sentence"])
    assert (row["mark"], "1 deliveries" in row["sentence"]) == ("warn", True)
    assert "rows wait for a person" in next(row["sentence"] for row in checked if row["what"] == "ledger")
    (listed,) = json.loads(run("deliveries", "list", "--reason", "no_peer", "--json").out)
    assert (listed["id"], listed["next_at"], listed["sentence"]) == (1, None, line["sentence"])
    assert line["sentence"] in run("series", "explain", 1).out


def test_a_held_delivery_to_it_says_both(run: Run, scene: Scene, tmp_path: Path) -> None:
    scene.ledger.deliveries.hold(scene.claim_delivery(), reason="no_context", sentence="Nothing accepted.")
    _configure(tmp_path, RENAMED)
    (listed,) = json.loads(run("deliveries", "list", "--json").out)
    assert listed["reason"] == "no_context"
    assert listed["sentence"].startswith("Nothing accepted. The settings name no peer pacs")


@pytest.mark.parametrize("verb", ["retry", "release"])
def test_a_verb_that_makes_it_due_says_that_nothing_will_be_sent(
    run: Run, scene: Scene, tmp_path: Path, verb: str
) -> None:
    scene.ledger.deliveries.hold(scene.claim_delivery(), reason="no_context", sentence="Nothing accepted.")
    _configure(tmp_path, RENAMED)
    ran = run("deliveries", verb, 1)
    assert (ran.code, "no peer pacs" in ran.out, "--to PEER" in ran.out) == (0, True, True)


def test_to_another_peer_it_goes_as_a_delivery_of_its_own(run: Run, scene: Scene, tmp_path: Path) -> None:
    _configure(tmp_path, RENAMED)
    done = json.loads(run("deliveries", "retry", 1, "--to", "archive", "--json").out)
    assert done == {"id": 2, "done": "Delivery 2 to archive is due now."}
    new, old = json.loads(run("deliveries", "list", "--json").out)
    assert (new["peer"], new["state"], new["items"]) == ("archive", "due", 3)
    assert (old["state"], old["reason"]) == ("cancelled", "operator")
    assert json.loads(run("status", "--json").out)["attention"] == []
    explained = run("series", "explain", 1).out
    assert "Delivery 1 to pacs was cancelled: 0 of 3 acknowledged. An operator sent it to archive" in explained
    assert scene.ledger.deliveries.claim("archive", "o", lease_s=60) is not None


@pytest.mark.parametrize(("peers", "to"), [(RENAMED, "nobody"), (WITHOUT_ADDRESS, "pacs")])
def test_to_a_peer_that_cannot_be_sent_to_is_refused(
    run: Run, scene: Scene, tmp_path: Path, peers: str, to: str
) -> None:
    _configure(tmp_path, peers)
    ran = run("deliveries", "retry", 1, "--to", to)
    assert (ran.code, "with an address or url" in ran.err) == (2, True)
    assert scene.states("delivery") == ["due"]


def test_a_cancelled_delivery_waits_for_nobody_and_a_retry_takes_it_back(
    run: Run, scene: Scene, tmp_path: Path
) -> None:
    _configure(tmp_path, RENAMED)
    assert run("deliveries", "cancel", 1).code == 0
    status = json.loads(run("status", "--json").out)
    assert (status["attention"], status["no_peer"], status["deliveries"]["cancelled"]) == ([], {}, 1)
    again = run("deliveries", "cancel", 1)
    assert (again.code, "nothing to cancel" in again.err) == (2, True)
    _configure(tmp_path, WITH_PACS)
    assert run("deliveries", "retry", 1).code == 0
    assert scene.states("delivery") == ["due"]


def test_a_series_gives_its_job_up_and_a_retry_plans_anew(run: Run, scene: Scene) -> None:
    series = scene.queued("pacs")
    ran = run("series", "cancel", series)
    assert (ran.code, ran.out) == (0, f"Of series {series} is cancelled: job 2.\n")
    assert "Job 2 was cancelled by an operator." in run("series", "explain", series).out
    events = json.loads(run("series", "explain", series, "--json").out)["events"]
    assert next(event["by"] for event in events if event["kind"] == "cancel").startswith("operator:")
    assert run("series", "cancel", series).code == 2
    assert run("series", "cancel", 4711).code == 2
    assert run("series", "retry", series).code == 0
