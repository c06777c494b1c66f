"""A study goes to a real Orthanc and comes back by DICOMweb alone, is derived, and the result is there and proven."""

from __future__ import annotations

import json
from pathlib import Path

from pydicom import dcmread

from tests.support.mr_series import write_mr_series
from tests.support.node import running_node
from tests.support.orthanc import WITH_DICOMWEB, needs_dicomweb, needs_orthanc, orthanc
from tests.support.wait import wait_until


@needs_orthanc
@needs_dicomweb
def test_a_study_is_sent_pulled_derived_and_delivered_by_dicomweb(tmp_path: Path) -> None:
    files = write_mr_series(tmp_path / "series", slices=8)
    study = str(dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)
    with (
        orthanc(tmp_path / "pacs", settings=WITH_DICOMWEB) as pacs,
        running_node(
            tmp_path / "node",
            pacs_port=pacs.dicom_port,
            pacs={"address": "", "url": pacs.dicomweb_url},
            settings={"node": {"pull_ae_title": "PULLED"}},
        ) as node,
    ):
        assert node.ask("send", "pacs", str(tmp_path / "series"))["sent"] == 8
        (row,) = node.ask("pull", "pacs", "--study", study)
        assert (row["wanted"], row["here"]) == (8, 8)
        (kept,) = node.wait_for_verdicts(1)
        assert (kept.state, kept.reason, kept.origin) == ("kept", "pulled", "pulled")
        assert json.loads(node.run("series", "release", str(kept.id), "--json").stdout)["done"] is not None
        (sent,) = node.wait_for_deliveries("sent")
        wait_until(lambda: node.deliveries()[0].proof == "queried", 60, "the delivery is proven")
        assert len(pacs.sop_instance_uids()) == 8 + sent.items
        assert node.ask("echo", "pacs")["status"] == 0
