"""The main job under TLS: a scanner's series in, the derived one out, and the operator hears of the certificate."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from tests.support.certificates import Authority
from tests.support.dcmtk import free_port, needs_dcmtk, storescp
from tests.support.dicom import storescu
from tests.support.mr_series import write_mr_series
from tests.support.node import AE_TITLE, running_node


@needs_dcmtk
def test_a_series_comes_in_and_its_thin_slices_go_out_under_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ours, scanner = authority.issue("node", ends=timedelta(days=20.5)), authority.issue("mr1")
    pacs = authority.issue("pacs", names=("DNS:pacs.example.org",))
    port, trust = free_port(), ["+cf", str(authority.certificate)]
    tls = {
        "listen": f"127.0.0.1:{port}",
        "certificate": str(ours.certificate),
        "key": str(ours.key),
        "ca": str(authority.certificate),
    }
    files = write_mr_series(tmp_path / "thick", slices=6)
    received = tmp_path / "received"
    with (
        storescp(received, "+tls", str(pacs.key), str(pacs.certificate), *trust) as pacs_port,
        running_node(
            tmp_path / "node",
            settings={"tls": tls},
            pacs_port=pacs_port,
            pacs={"tls": True, "certificate_names": ["pacs.example.org"]},
        ) as node,
    ):
        sent = storescu(port, files, "+tls", str(scanner.key), str(scanner.certificate), *trust, called=AE_TITLE)
        assert sent.returncode == 0, sent.stderr
        (delivery,) = node.wait_for_deliveries("sent")
        assert len(list(received.iterdir())) == delivery.items > len(files)
        assert node.ask("echo", "pacs")["status"] == 0
        (waiting,) = node.ask("status")["attention"]
        assert (waiting["table"], waiting["state"], waiting["reason"]) == ("certificate", "soon", "tls.certificate")
        assert "expires in 20 days" in waiting["sentence"]
        (event,) = node.events("certificate_expires")
        assert event["level"] == "warning"
        assert node.stop() == 0
