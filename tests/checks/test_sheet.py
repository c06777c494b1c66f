"""The check sheet: what would keep a node from its work, line by line, and nothing is changed by looking."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from dicomnode.archive.store import Archive
from dicomnode.checks.disk import ensure_writable
from dicomnode.checks.peers import introduction
from dicomnode.checks.row import Mark
from dicomnode.checks.sheet import check
from dicomnode.service.service import Service
from dicomnode.settings.load import parse
from dicomnode.settings.models import Settings
from tests.support.certificates import Authority
from tests.support.dcmtk import free_port


def _settings(folder: Path, **tables: object) -> Settings:
    node = {"listen": f"127.0.0.1:{free_port()}", "data": str(folder / "data")}
    return parse({"node": node, "rule": [{"name": "all", "model": "cubic-dc"}], **tables})


def test_it_says_whom_it_listens_to_and_whom_it_sends_to(tmp_path: Path) -> None:
    peers = [
        {"name": "mr1", "ae_title": "MR1", "networks": ["10.1.2.0/24"]},
        {"name": "pacs", "ae_title": "PACS", "address": "10.1.0.5:104"},
    ]
    rules = [{"name": "all", "deliver_to": ["pacs"]}]
    settings = _settings(tmp_path, peer=peers, rule=rules)
    said = introduction(settings, 104)
    assert said == "Listens on 127.0.0.1:104 as DICOMNODE to mr1; sends to pacs."


def test_with_the_embedded_defaults_it_says_that_nothing_is_delivered() -> None:
    said = introduction(Settings(), 11112)
    assert said == (
        "Listens on 127.0.0.1:11112 as DICOMNODE to this-machine; nothing is delivered until the settings name a peer "
        "with an address or url and a rule that delivers to it."
    )


def test_the_check_sheet_of_a_sound_node_has_no_failure_and_creates_nothing(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    rows = {row.what: row for row in check(settings)}
    assert {row.mark for row in rows.values()} <= {Mark.OK, Mark.WARN}
    assert "does not exist yet" in rows["data folder"].sentence
    assert rows["ledger"].sentence.startswith("There is none yet")
    assert rows["model cubic-dc"].sentence.endswith("verified.")
    assert not settings.node.data.exists()


def test_the_check_sheet_beside_a_running_service_reads_its_ledger(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    service = Service(settings)
    service.start()
    try:
        rows = {row.what: row for row in check(settings)}
    finally:
        service.stop()
    assert rows["ledger"].mark is Mark.OK
    assert rows["ledger"].sentence.endswith("0 instances; 0 rows wait for a person.")


def test_the_check_sheet_says_what_to_register_at_whoever_commits(tmp_path: Path) -> None:
    peers = [
        {"name": "pacs", "ae_title": "PACS", "address": "10.1.2.3:104"},
        {"name": "vna", "ae_title": "VNA", "address": "10.1.2.4:104", "commitment": "pacs"},
        {"name": "old", "ae_title": "OLD", "address": "10.1.2.5:104", "commitment": "off"},
    ]
    settings = _settings(tmp_path, peer=peers, rule=[{"name": "all", "deliver_to": ["pacs", "vna", "old"]}])
    rows = {row.what: row.sentence for row in check(settings)}
    title, port = settings.node.ae_title, settings.node.port
    there = f"{title} is to be registered there with the address of this machine and port {port}."
    assert rows["peer pacs"].endswith(f"It is asked for storage commitment: for its reports, {there}")
    assert rows["peer vna"].endswith(f"Peer pacs is asked for storage commitment: for its reports, {there}")
    assert rows["peer old"] == "It is sent to as OLD at 10.1.2.5:104."


def test_the_check_sheet_names_what_fails(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "ledger.sqlite").write_bytes(b"no database" * 100)
    peers = [
        {"name": "pacs", "ae_title": "PACS", "address": f"127.0.0.1:{free_port()}"},
        {"name": "mr1", "ae_title": "MR1", "networks": ["10.1.2.0/24"]},
    ]
    settings = _settings(tmp_path, peer=peers, rule=[{"name": "knee", "model": "gone", "deliver_to": ["pacs"]}])
    rows = {row.what: row for row in check(settings, with_echo=True)}
    assert [what for what, row in rows.items() if row.mark is Mark.FAIL] == ["ledger", "model gone", "peer pacs"]
    assert "Rule knee asks for it" in rows["model gone"].sentence
    assert "C-ECHO: No connection to the peer" in rows["peer pacs"].sentence
    assert rows["peer mr1"].sentence == "It may send as MR1 from 10.1.2.0/24."


def test_a_folder_that_can_be_written_to_holds_nothing_afterwards(tmp_path: Path) -> None:
    ensure_writable(Archive(tmp_path))
    assert list(tmp_path.iterdir()) == []


def _with_tls(folder: Path, *, ends: timedelta = timedelta(days=90), **peer: object) -> Settings:
    authority = Authority(folder)
    issued = authority.issue("node", begins=timedelta(days=-99), ends=ends)
    files = {"certificate": str(issued.certificate), "key": str(issued.key), "ca": str(authority.certificate)}
    scanner = {"name": "mr1", "ae_title": "MR1", "networks": ["10.1.2.0/24"], **peer}
    node = {"listen": "", "data": str(folder / "data")}
    tls = {"listen": f"127.0.0.1:{free_port()}", **files}
    return _settings(folder, node=node, tls=tls, peer=[scanner])


@pytest.mark.parametrize(
    ("days", "mark", "words"),
    [
        (90.5, Mark.OK, "expires in 90 days"),
        (29.5, Mark.WARN, "expires in 29 days"),
        (6.5, Mark.WARN, "expires in 6 days"),
        (-1, Mark.FAIL, "expired on"),
    ],
)
def test_the_check_sheet_shows_our_certificate_and_when_it_ends(
    tmp_path: Path, days: float, mark: Mark, words: str
) -> None:
    settings = _with_tls(tmp_path, ends=timedelta(days=days), certificate_names=["mr1.example.org"])
    rows = {row.what: row for row in check(settings)}
    assert rows["certificate"].mark is mark
    assert words in rows["certificate"].sentence
    assert "It names localhost, 127.0.0.1; its SHA-256 is " in rows["certificate"].sentence
    assert bool(rows["certificate"].hint) is (mark is not Mark.OK)
    assert "authority" not in rows, "which lasts for a year"
    assert rows["settings"].sentence.startswith(f"Listens on 127.0.0.1:{settings.tls.port} with TLS as DICOMNODE to")
    assert rows["peer mr1"].sentence == ("It may send as MR1 from 10.1.2.0/24, with TLS and its certificate only.")


def test_the_check_sheet_names_a_file_that_cannot_be_used_and_a_peer_that_is_bound_to_no_certificate(
    tmp_path: Path,
) -> None:
    settings = _with_tls(tmp_path)
    Path(settings.tls.key).chmod(0o644)
    rows = {row.what: row for row in check(settings)}
    assert rows["tls"].mark is Mark.FAIL
    assert "may be read by every user" in rows["tls"].sentence
    assert rows["peer mr1"].mark is Mark.WARN
    assert "Every certificate of an authority in tls.ca may come in" in rows["peer mr1"].sentence


def test_plain_and_tls_are_both_named(tmp_path: Path) -> None:
    settings = _with_tls(tmp_path).model_copy(update={"node": Settings().node})
    said = introduction(settings, 104, 2762)
    assert said.startswith("Listens on 127.0.0.1:104 and on 127.0.0.1:2762 with TLS as DICOMNODE to mr1")


def test_the_introduction_names_every_title_that_a_scanner_may_call() -> None:
    settings = parse({"node": {"ae_title": "NODE", "ae_titles": ["NODE_NIGHT"]}})
    assert "as NODE and as NODE_NIGHT to this-machine" in introduction(settings, 11112)
