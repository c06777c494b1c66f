"""A patient is erased beside the running service, which goes on as if nothing had been."""

from __future__ import annotations

from pathlib import Path

from pydicom import dcmread

from tests.support.dcmtk import needs_dcmtk
from tests.support.dicom import storescu
from tests.support.mr_series import write_mr_series
from tests.support.node import AE_TITLE, WORK_LIMIT_S, Node, running_node
from tests.support.wait import wait_until

pytestmark = needs_dcmtk


def patients(node: Node) -> list[str]:
    """Whose images the archive holds, received and derived."""
    return sorted(str(dcmread(path, stop_before_pixels=True).PatientID) for path in node.data.rglob("*.dcm"))


def test_a_patient_is_erased_and_may_come_again(tmp_path: Path) -> None:
    sent = {name: write_mr_series(tmp_path / name, attributes={"PatientID": name}) for name in ("ANNA", "BERT")}
    with running_node(tmp_path / "node") as node:
        for files in sent.values():
            assert storescu(node.port, files, called=AE_TITLE).returncode == 0
        node.wait_for_jobs("done", 2)
        before = patients(node)
        counted = node.ask("purge", "--patient", "ANNA", "--dry-run")
        assert counted["instances"] == before.count("ANNA")
        erased = node.ask("purge", "--patient", "ANNA")
        assert (erased["series"], erased["instances"], erased["left"]) == ([1], counted["instances"], [])
        assert patients(node) == ["BERT"] * before.count("BERT")
        assert node.ask("series", "show", "1")["instances"] == len(sent["ANNA"]), "the rows stay"

        assert storescu(node.port, sent["ANNA"], called=AE_TITLE).returncode == 0
        node.run("series", "retry", "1")
        wait_until(lambda: node.job(1).derivation_number == 2, WORK_LIMIT_S, "the series is planned anew")
        node.wait_for_jobs("done", 2)
        assert patients(node) == before
        assert node.stop() == 0
        assert node.events("files_missing") == []
        assert "ANNA" not in node.log_file.read_text("utf-8")
