"""The whole service as a process: it starts in order or says why not, stops in order, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from pynetdicom import AE

from dicomnode.archive.store import Archive
from dicomnode.catalog import import_model
from dicomnode.checks.row import Mark
from dicomnode.checks.sheet import check
from dicomnode.errors import SettingsError, StorageError
from dicomnode.generators import pace
from dicomnode.ids import digest
from dicomnode.ledger.queries import open_reader
from dicomnode.ledger.store import open_ledger
from dicomnode.seams import SYSTEM_CLOCK
from dicomnode.service.service import Service
from dicomnode.settings.load import parse
from dicomnode.settings.models import Settings
from tests.ledger.scene import FakeClock
from tests.support.certificates import Authority
from tests.support.dcmtk import free_port
from tests.support.due_delivery import Node as Pushing
from tests.support.mail_server import mail_server
from tests.support.model_folders import write_thin
from tests.support.mounts import tmpfs
from tests.support.mr_series import mr_datasets
from tests.support.node import (
    CHECKOUT,
    START_LIMIT_S,
    STOP_LIMIT_S,
    WORK_LIMIT_S,
    is_running,
    kill,
    make_node,
    running_node,
)
from tests.support.stored import archived_files, store
from tests.support.wait import wait_until


def _settings(folder: Path, **tables: object) -> Settings:
    node = {"listen": f"127.0.0.1:{free_port()}", "data": str(folder / "data")}
    return parse({"node": node, "rule": [{"name": "all", "model": "cubic-dc"}], **tables})


def test_sigterm_ends_it_with_0_and_ctrl_c_with_130_and_no_worker_is_left(tmp_path: Path) -> None:
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        with running_node(tmp_path / number.name) as node:
            pid = node.worker_pid()
            assert node.stop(number) == code
            assert not is_running(pid)
            assert [event["event"] for event in node.events("stopped")] == ["stopped"]
            assert "Traceback" not in node.log_file.read_text()


def test_an_open_association_may_end_while_it_stops(tmp_path: Path) -> None:
    with running_node(tmp_path) as node:
        entity = AE(ae_title="SCANNER")
        entity.add_requested_context("1.2.840.10008.1.1")
        association = entity.associate("127.0.0.1", node.port, ae_title="NODE")
        assert association.is_established
        assert node.process is not None
        node.process.send_signal(signal.SIGTERM)
        wait_until(lambda: node.events("stopping"))
        assert association.send_c_echo().Status == 0
        association.release()
        assert node.process.wait(STOP_LIMIT_S) == 0


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with running_node(tmp_path, settings={"receive": {"drain_s": 60.0}}) as node:
        entity = AE(ae_title="SCANNER")
        entity.add_requested_context("1.2.840.10008.1.1")
        association = entity.associate("127.0.0.1", node.port, ae_title="NODE")
        pid = node.worker_pid()
        assert node.process is not None
        node.process.send_signal(signal.SIGINT)
        wait_until(lambda: node.events("stopping"))
        assert node.stop(signal.SIGINT, limit_s=30) == 130  # half of what it would wait for the association
        wait_until(lambda: not is_running(pid))
        association.abort()


def test_the_service_itself_never_loads_torch(tmp_path: Path) -> None:
    with running_node(tmp_path) as node:
        node.worker_pid()
        assert node.process is not None
        assert "torch" not in Path(f"/proc/{node.process.pid}/maps").read_text()


def test_a_port_in_use_is_named_and_nothing_stays_behind(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", node.port))
        other.listen()
        done = node.run("serve", check=False)
    assert done.returncode == 2
    assert f"The node cannot listen on 127.0.0.1:{node.port}: Address already in use." in done.stderr
    Archive(node.data).data_folder.lock()  # nobody holds it any more
    with running_node(tmp_path / "again"):
        pass


def test_a_second_service_on_the_same_data_folder_does_not_start(tmp_path: Path) -> None:
    with running_node(tmp_path) as node:
        done = node.run("serve", check=False)
        assert done.returncode == 3
        assert "Another dicomnode service uses the data folder" in done.stderr
        assert not node.is_over


def test_a_rule_with_an_unknown_model_is_named_before_anything_listens(tmp_path: Path) -> None:
    settings = _settings(tmp_path, rule=[{"name": "all"}, {"name": "knee", "model": "no-such-model"}])
    service = Service(settings)
    with pytest.raises(SettingsError, match="Rule knee asks for model no-such-model") as caught:
        service.start()
    assert "cubic-dc" in caught.value.hint
    Archive(settings.node.data).data_folder.lock()


def test_a_sharpness_is_refused_for_a_model_that_has_one_set_of_weights(tmp_path: Path) -> None:
    settings = _settings(tmp_path, rule=[{"name": "all"}, {"name": "knee", "model": "cubic-dc", "sharpness": 0.5}])
    with pytest.raises(SettingsError, match=r"^Rule knee asks for model cubic-dc, .* sharpness 0\.5 cannot be chosen"):
        Service(settings).start()
    row = next(row for row in check(settings) if row.what == "model cubic-dc")
    assert row.mark is Mark.FAIL
    assert row.sentence.startswith("Rule knee asks for it: ")


def test_a_rule_may_name_an_imported_model_once_it_is_active_and_whole(tmp_path: Path) -> None:
    settings = _settings(tmp_path, rule=[{"name": "knees", "model": "knee"}])
    data = settings.node.data
    data.mkdir()
    with closing(open_ledger(settings.ledger_url)) as ledger:
        made = write_thin(tmp_path / "made", name="knee")
        imported, _ = import_model(made, data=data, models=ledger.models, by="operator")
        with pytest.raises(SettingsError, match="Rule knees asks for model knee"):
            Service(settings).start()
        assert {row.what: row.mark for row in check(settings)}["model knee"] is Mark.FAIL
        assert imported.id is not None
        ledger.models.activate(imported.id, "operator")
    service = Service(settings)
    service.start()
    service.stop()
    row = next(row for row in check(settings) if row.what == "model knee")
    assert row.mark is Mark.OK
    assert imported.digest in row.sentence
    shutil.rmtree(data / "models")
    with pytest.raises(SettingsError, match=f"expected digest {imported.digest}, found none"):
        Service(settings).start()
    assert {row.what: row.mark for row in check(settings)}["model knee"] is Mark.FAIL


def test_a_data_folder_that_cannot_be_written_to_is_a_storage_error(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "data", "ro"), pytest.raises(StorageError, match="Read-only file system"):
        Service(_settings(tmp_path)).start()


def test_a_data_folder_that_is_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(StorageError, match="cannot be used"):
        Service(_settings(tmp_path)).start()


def test_it_tells_systemd_when_it_is_ready_and_when_it_stops(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(START_LIMIT_S)
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
        command = [sys.executable, "-m", "dicomnode", "serve", "--config", str(node.config)]
        with node.log_file.open("ab") as said:
            node.process = subprocess.Popen(command, cwd=CHECKOUT, stderr=said, env=environment)
        try:
            assert manager.recv(100) == b"READY=1"
            node.process.send_signal(signal.SIGTERM)
            assert manager.recv(100) == b"STOPPING=1"
            assert node.process.wait(STOP_LIMIT_S) == 0
        finally:
            kill(node)


def test_at_its_start_files_without_a_row_go_to_quarantine_and_temporary_ones_go(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    archive = Archive(settings.node.data)
    archive.data.mkdir()
    ledger = open_ledger(settings.ledger_url)
    series = store(ledger, archive, mr_datasets(slices=2))
    ledger.close()
    known = archived_files(archive, series)
    orphan = known[0].with_name("00000000000000ff.dcm")
    orphan.write_bytes(known[0].read_bytes())
    known[0].with_name("x.dcm.tmp").write_bytes(b"half")
    service = Service(settings)
    service.start()
    service.stop()
    assert archived_files(archive, series) == known
    (set_aside,) = archive.quarantine.folder.iterdir()
    assert digest(set_aside.read_bytes()) == digest(known[0].read_bytes())


def test_at_its_start_it_names_a_peer_that_deliveries_are_due_to_and_the_settings_do_not_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Pushing(tmp_path / "data")) as before:
        before.derive("old-pacs", instances=1)
        assert before.ledger.deliveries.claim("old-pacs", "killed", lease_s=60), "it was being sent when the node died"
    caplog.set_level("WARNING", logger="dicomnode.service")
    service = Service(_settings(tmp_path))
    service.start()
    service.stop()
    (told,) = [record for record in caplog.records if record.message == "deliveries_without_peer"]
    assert told.__dict__["dicomnode_fields"] == {"peer": "old-pacs", "count": 1}


def test_a_letter_that_was_due_while_it_was_down_is_mailed_at_its_start(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with mail_server(authority) as mail:
        alert = {
            "smtp": f"127.0.0.1:{mail.port}",
            "mail_from": "node@hospital.example",
            "mail_to": ["it@hospital.example"],
            "ca": str(authority.certificate),
        }
        settings = _settings(tmp_path, alert=alert)
        settings.node.data.mkdir()
        weeks_ago = FakeClock(moment=SYSTEM_CLOCK.now() - timedelta(days=30))
        with closing(open_ledger(settings.ledger_url, clock=weeks_ago)) as ledger:
            ledger.alerts.write_letter("mail")
            ledger.alerts.sent(ledger.alerts.to_send("mail"))
        service = Service(settings)
        service.start()
        try:
            wait_until(lambda: mail.mails)
        finally:
            service.stop()
    assert "the week: 0 derived" in mail.mails[0]["Subject"]


@pytest.mark.parametrize("late_s", [0.0, 1e9])
def test_it_chooses_the_default_model_by_its_time_before_the_first_verdict_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late_s: float
) -> None:
    """Two small models in the place of the real ones; two series are there before the start, one rule names a model."""
    monkeypatch.setattr(pace, "LATE_S", late_s)
    named = {"name": "named", "model": "thin", "match": {"SeriesDescription": "named"}}
    settings = _settings(tmp_path, rule=[named, {"name": "others"}], settle={"quiet_s": 0.1})
    data = settings.node.data
    data.mkdir()
    archive = Archive(data)
    with closing(open_ledger(settings.ledger_url)) as ledger:
        for name in ("thin", "thin-fast"):
            made = write_thin(tmp_path / "made" / name, name=name)
            imported, _ = import_model(made, data=data, models=ledger.models, by="operator")
            assert imported.id is not None
            ledger.models.activate(imported.id, "operator")
        for description in ("named", "other"):
            store(ledger, archive, mr_datasets(attributes={"SeriesDescription": description}))
    service = Service(settings)
    service.start()
    try:
        with closing(open_reader(settings.ledger_url)) as reader:
            wait_until(lambda: reader.status().jobs["done"] == 2, WORK_LIMIT_S, "both are derived")
            jobs = {line.rule: line for one in reader.series_list() for line in reader.series_show(one.id).jobs}
            told = " ".join(reader.series_explain(jobs["others"].series).sentences)
            choice = reader.status().model_choice
    finally:
        service.stop()
    is_late = late_s == 0.0
    assert choice is not None
    assert choice.is_fast == is_late
    assert jobs["named"].model == "thin"
    assert jobs["others"].model == ("thin-fast" if is_late else "thin")
    assert (choice.sentence in told) == is_late
    row = next(row for row in check(settings) if row.what == "model speed")
    assert (row.mark, row.sentence) == (Mark.WARN if is_late else Mark.OK, choice.sentence)
