"""The figures of a real node, as a scraper of Prometheus reads them: right, documented, and without a patient."""

from __future__ import annotations

import re
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dicomnode.service.service import Service
from dicomnode.settings.load import parse
from tests.support.dcmtk import free_port, needs_dcmtk
from tests.support.dicom import storescu
from tests.support.misbehaving_pacs import MisbehavingPacs
from tests.support.mounts import resize, tmpfs
from tests.support.mr_series import write_mr_series
from tests.support.node import AE_TITLE, CHECKOUT, running_node
from tests.support.wait import wait_until

HOSTILE = 'SENTINEL^<b>"%s%n\\..\\'


def _get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def _samples(text: str) -> dict[tuple[str, str], float]:
    """Name and the values of the labels of each sample, those that are empty left out, → its value."""
    return {
        (sample.name, " ".join(filter(None, (sample.labels[name] for name in sorted(sample.labels))))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@needs_dcmtk
def test_a_scraper_sees_what_came_was_kept_derived_and_sent_and_no_patient(tmp_path: Path) -> None:
    port = free_port()
    named = {"PatientName": HOSTILE, "PatientID": HOSTILE, "SeriesDescription": HOSTILE, "StationName": "SENTINEL"}
    with (
        MisbehavingPacs() as pacs,
        running_node(
            tmp_path,
            pacs_port=pacs.port,
            settings={"metrics": {"listen": f"127.0.0.1:{port}"}, "log": {"level": "error"}},
        ) as node,
    ):
        wait_until(lambda: _get(port, "/ready") == (200, "ready\n"))
        for name, slices in (("thick", 8), ("few", 3)):
            sent = storescu(
                node.port, write_mr_series(tmp_path / name, slices=slices, attributes=named), called=AE_TITLE
            )
            assert sent.returncode == 0, sent.stderr
        node.wait_for_deliveries("sent")
        node.wait_for_verdicts(2)
        wait_until(lambda: ("dicomnode_deliveries", "sent") in _samples(_get(port, "/metrics")[1]))
        found = wait_until(lambda: _settled(port), 30, "the figures are new")
        text = _get(port, "/metrics")[1]
        assert _get(port, "/live") == (200, "live\n")
        assert node.stop() == 0
    assert "SENTINEL" not in text
    assert not re.search(r"\d+\.\d+\.\d+\.\d+\.\d{3,}", text), "no UID"
    items = found["dicomnode_instances", "derived"]
    assert items > 8
    assert found["dicomnode_instances", "received"] == 11
    assert found["dicomnode_received_instances_total", "scanner"] == 11
    assert found["dicomnode_sent_instances_total", "pacs"] == items
    assert found["dicomnode_kept_series", "too_few"] == 1
    assert found["dicomnode_jobs", "done"] == 1
    assert sum(value for (name, _), value in found.items() if name == "dicomnode_sent_deliveries") == 1
    assert found["dicomnode_queue_rows", "derive"] == 0
    assert found["dicomnode_worker_warm", "1"] == 1
    assert found["dicomnode_worker_memory_bytes", "1"] > 2**20
    assert 0 < found["dicomnode_disk_free_ratio", ""] < 1
    assert found["dicomnode_ledger_up", ""] == 1
    for stage, times in (("receive", 2), ("judge", 2), ("derive", 1), ("push", 1)):
        assert found["dicomnode_stage_seconds_count", stage] == times, stage
    assert found["dicomnode_last_timestamp_seconds", "pacs push"] > 1.7e9
    assert found["dicomnode_events_total", "association_ended info"] >= 2, "below the level of the log"
    told = (CHECKOUT / "docs" / "operations.md").read_text("utf-8")
    ours = {name for name, _ in found if name.startswith("dicomnode_")}
    unnamed = {name for name in ours if f"`{re.sub('_(bucket|count|sum)$', '', name)}`" not in told}
    assert not unnamed
    if promtool := shutil.which("promtool"):
        ran = subprocess.run([promtool, "check", "metrics"], input=text, text=True, capture_output=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def _settled(port: int) -> dict[tuple[str, str], float]:
    """The figures once all that happened is in them: the ledger's are up to five seconds old."""
    found = _samples(_get(port, "/metrics")[1])
    is_new = found.get(("dicomnode_deliveries", "sent")) == 1 and found.get(("dicomnode_kept_series", "too_few")) == 1
    return found if is_new else {}


def test_it_is_not_ready_while_the_disk_is_full_and_says_why(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "data", "size=64m") as data:
        node = {"listen": f"127.0.0.1:{free_port()}", "data": str(data)}
        port = free_port()
        rules = [{"name": "all", "model": "cubic-dc"}]
        service = Service(parse({"node": node, "rule": rules, "metrics": {"listen": f"127.0.0.1:{port}"}}))
        service.start()
        try:
            assert _get(port, "/ready") == (200, "ready\n")
            (data / "other").write_bytes(bytes(62 << 20))
            wait_until(lambda: _get(port, "/ready")[0] == 503)
            assert "too full" in _get(port, "/ready")[1]
            assert _get(port, "/live")[0] == 200
            resize(data, "256m")
            wait_until(lambda: _get(port, "/ready")[0] == 200)
        finally:
            service.stop()
    with pytest.raises(urllib.error.URLError):
        _get(port, "/live")
