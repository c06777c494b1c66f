"""A running node takes new settings between two pieces of its work, or keeps the old ones and says why."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.association import Association

from dicomnode.archive.store import Archive
from dicomnode.errors import StorageError
from dicomnode.ledger.store import open_ledger
from dicomnode.reload import ask, read_anew
from dicomnode.settings.change import change
from dicomnode.settings.load import NO_FILE, Source, data_and_ledger, has_changed, load_with_source, parse
from dicomnode.settings.models import Settings
from tests.support.dcmtk import free_port
from tests.support.mr_series import write_mr_series
from tests.support.node import Node, make_node, running_node
from tests.support.wait import wait_until

MR = "1.2.840.10008.5.1.4.1.1.4"
SCANNER = {"name": "mr1", "ae_title": "MR1", "networks": ["127.0.0.1/32"]}
PACS = {"name": "pacs", "ae_title": "PACS", "address": "127.0.0.1:11113"}


def _associated(node: Node, ae_title: str = "MR1", *, called: str = "NODE") -> Association:
    entity = AE(ae_title=ae_title)
    entity.add_requested_context(MR)
    return entity.associate("127.0.0.1", node.port, ae_title=called)


def _edit(node: Node, old: str, new: str) -> None:
    text = node.config.read_text("utf-8")
    assert text.count(old) == 1, (old, text)
    node.config.write_text(text.replace(old, new), "utf-8")


def test_new_peers_and_rules_are_taken_under_an_association_that_sends(tmp_path: Path) -> None:
    """The sender is not dropped although the new file does not name it; its series is judged by the new rules."""
    files = write_mr_series(tmp_path / "sent", slices=12)
    with running_node(tmp_path, rules=[{"name": "old", "model": "cubic-dc"}]) as node:
        sending = _associated(node)
        assert sending.send_c_store(files[0]).Status == 0
        _edit(node, 'ae_title = "*"', 'ae_title = "MR2"')
        _edit(node, 'name = "old"', 'name = "new"\nmatch = { Modality = "CT" }')
        said = node.ask("reload")
        assert (said["restart"], said["fault"]) == ([], "")
        assert not _associated(node).is_established, "MR1 may not come in any more"
        assert _associated(node, "MR2").is_established
        for file in files[1:]:
            assert sending.send_c_store(file).Status == 0
        sending.release()
        (series,) = node.wait_for_verdicts(1)
        assert (series.state, series.reason, series.instances) == ("kept", "no_rule", 12)
        (note,) = node.explain(series.id)["notes"]
        assert note.startswith("Rule new does not apply")
        status = node.ask("status")
        assert status["settings_file_changed"] is False
        assert status["settings"]["file"] == str(node.config)
        assert status["settings"]["taken_at"] > status["boot"]["began_at"]
        node.config.write_text(node.config.read_text("utf-8") + "# seen\n", "utf-8")
        assert node.ask("status")["settings_file_changed"] is True


def test_a_mistake_changes_nothing_and_is_said_everywhere(tmp_path: Path) -> None:
    with running_node(tmp_path) as node:
        whole = node.config.read_text("utf-8")
        _edit(node, 'ae_title = "*"', 'ae_title = "MR2"\nnetwork = "10.0.0.0/8"')
        done = node.run("reload", check=False)
        assert done.returncode == 2
        assert "peer.0.network" in done.stderr
        assert _associated(node).is_established, "the last good peers are in use"
        (refused,) = node.events("settings_refused")
        assert "peer.0.network" in refused["sentence"]
        node.config.write_text(whole, "utf-8")  # else the command itself has nothing to stand on
        (line,) = [line for line in node.ask("status")["attention"] if line["table"] == "settings"]
        assert "peer.0.network" in line["sentence"]
        assert node.run("reload").stdout.startswith("The service uses the settings of ")
        assert [line for line in node.ask("status")["attention"] if line["table"] == "settings"] == []


def test_a_model_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    with running_node(tmp_path) as node:
        _edit(node, 'model = "cubic-dc"', 'model = "no-such-model"')
        done = node.run("reload", check=False)
        assert done.returncode == 2
        assert "Rule every series asks for model no-such-model" in done.stderr


def test_what_needs_a_restart_is_named_and_stays_as_it_is(tmp_path: Path) -> None:
    with running_node(tmp_path) as node:
        _edit(node, f"127.0.0.1:{node.port}", f"127.0.0.1:{free_port()}")
        _edit(node, "quiet_s = 1.0", "quiet_s = 2.0")
        done = node.run("reload")
        assert done.stdout.rstrip().endswith("A restart is needed for node.listen.")
        assert _associated(node).is_established
        assert node.ask("status")["settings"]["restart"] == ["node.listen"]
        (taken,) = node.events("settings_taken")
        assert taken["sentence"].startswith("The node uses the new values of settle.quiet_s.")


def test_a_new_peer_gets_a_push_loop_and_one_that_is_gone_leaves_its_deliveries(tmp_path: Path) -> None:
    with running_node(tmp_path, pacs_port=free_port()) as node:
        sending = _associated(node)
        for file in write_mr_series(tmp_path / "sent", slices=12):
            assert sending.send_c_store(file).Status == 0
        sending.release()
        (delivery,) = node.wait_for_deliveries("due")
        wait_until(lambda: node.events("delivery_deferred"), what="the peer was tried")
        _edit(node, 'name = "pacs"', 'name = "other"')
        _edit(node, 'deliver_to = ["pacs"]', 'deliver_to = ["other"]')
        node.run("reload")
        wait_until(lambda: node.ask("status")["no_peer"] == {"pacs": 1}, what="the ledger says so")
        tried = len(node.events("delivery_deferred"))
        made = node.ask("deliveries", "retry", str(delivery.id), "--to", "other")
        assert made["id"] != delivery.id
        wait_until(lambda: len(node.events("delivery_deferred")) > tried, what="the new peer is tried")
        assert node.events("delivery_deferred")[-1]["peer"] == "other"


def test_a_further_title_can_be_called_after_a_reload_and_is_named_with_the_series(tmp_path: Path) -> None:
    with running_node(tmp_path) as node:
        assert not _associated(node, called="NIGHT").is_established
        _edit(node, "[log]", 'ae_titles = ["NIGHT"]\n[log]')
        _edit(node, 'name = "every series"', 'name = "night"\nmatch = { called_ae = "NIGHT" }')
        node.run("reload")
        for number, (called, reason) in enumerate((("NIGHT", "too_few"), ("NODE", "no_rule")), 1):
            sending = _associated(node, called=called)
            for file in write_mr_series(tmp_path / called, slices=4 if called == "NIGHT" else 12):
                assert sending.send_c_store(file).Status == 0
            sending.release()
            series = node.wait_for_verdicts(number)[-1]
            assert series.reason == reason
            assert f"It was sent to our AE title {called}." in node.explain(series.id)["sentences"]


def test_sighup_alone_does_not_end_it(tmp_path: Path) -> None:
    with running_node(tmp_path) as node:
        assert node.process is not None
        for _ in range(2):
            node.process.send_signal(signal.SIGHUP)
        wait_until(lambda: node.events("settings_taken"), what="the settings were read")
        assert node.stop() == 0


def test_without_a_service_one_sentence_says_so(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    done = node.run("reload", check=False)
    assert (done.returncode, done.stderr.count("No service runs on the data folder")) == (3, 1)
    node.data.mkdir()
    with closing(open_ledger(f"sqlite:///{node.data / 'ledger.sqlite'}")) as ledger:
        ledger.boots.begin(pid=os.getpid(), host="here")  # this process holds no folder: it is not told to hang up
        with pytest.raises(StorageError, match="No service runs"):
            ask(node.data, f"sqlite:///{node.data / 'ledger.sqlite'}")


def _settings(**tables: object) -> Settings:
    return parse({"peer": [SCANNER, PACS], "rule": [{"name": "all", "model": "cubic-dc"}], **tables})


def test_only_the_keys_that_can_be_taken_are_taken() -> None:
    running = _settings()
    read = _settings(
        node={"ae_title": "OTHER", "ae_titles": ["NIGHT"]},
        settle={"quiet_s": 5.0},
        alert={"letter": ""},
        rule=[],
        receive={"drain_s": 3.0},
    )
    found = change(running, read)
    assert found.taken == ("node.ae_titles", "settle.quiet_s", "alert.letter", "rule")
    assert found.waiting == ("node.ae_title", "receive.drain_s")
    assert found.settings.node.titles == ("DICOMNODE", "NIGHT")
    assert found.settings.rule == ()
    assert change(found.settings, read).waiting == found.waiting, "they are named until the restart"


def test_a_listener_under_tls_keeps_its_certificate_when_the_file_has_none() -> None:
    files = {"certificate": "c.pem", "key": "k.pem", "ca": "a.pem"}
    running = _settings(tls={"listen": "127.0.0.1:2762", **files})
    assert change(running, _settings()).settings.tls == running.tls
    renewed = change(running, _settings(tls={"listen": "", **files, "ca": "new.pem"}))
    assert (renewed.settings.tls.ca, renewed.settings.tls.listen) == ("new.pem", "127.0.0.1:2762")
    assert (renewed.taken, renewed.waiting) == (("tls.ca",), ("tls.listen",))


def test_a_file_of_tls_that_cannot_be_used_is_a_mistake(tmp_path: Path) -> None:
    files = {name: str(tmp_path / name) for name in ("certificate", "key", "ca")}
    said = read_anew(_settings(), lambda: (_settings(tls=files), NO_FILE), dict)
    assert isinstance(said, str)
    assert "(tls.ca) cannot be used" in said


def test_a_settings_file_is_known_by_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[node]\ndata = "/somewhere"\n')
    _, source = load_with_source(file, {})
    assert has_changed(source) is False
    file.write_text("[node]\n")
    assert has_changed(source) is True
    file.unlink()
    assert has_changed(source) is None
    assert has_changed(Source(file=None, sha256="")) is False


def test_the_service_is_found_although_the_file_holds_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[node]\ndata = "/somewhere"\nlisten = 3\n[no_such_table]\n')
    assert data_and_ledger(file, {}) == (Path("/somewhere"), "sqlite:////somewhere/ledger.sqlite")
    file.write_text("no TOML")
    assert data_and_ledger(file, {"DICOMNODE_NODE__DATA": "/there"})[0] == Path("/there")


def test_the_process_that_holds_the_folder_is_told_apart_from_another_one(tmp_path: Path) -> None:
    """A number of a killed service may belong to any program now, which a hang-up would end."""
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    told: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _frame: told.append(number))
    archive = Archive(tmp_path)
    try:
        with closing(open_ledger(url)) as ledger:
            boot = ledger.boots.begin(pid=os.getpid(), host="here").boot
            archive.data_folder.lock()
            ledger.boots.end(boot)
            with pytest.raises(StorageError, match="No service runs"):
                ask(tmp_path, url)
            assert told == []
    finally:
        archive.data_folder.unlock()
        signal.signal(signal.SIGHUP, before)
