"""A study goes to a real Orthanc and comes back by DICOMweb alone, is derived, and the result is there and proven."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from tests.support.dcmtk import needs_dcmtk
from tests.support.dicom import storescu
from tests.support.mr_series import write_mr_series
from tests.support.node import AE_TITLE, running_node
from tests.support.orthanc import AE_TITLE as ORTHANC
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


@needs_dcmtk
@needs_orthanc
@needs_dicomweb
@pytest.mark.parametrize(
    ("release", "patient"),
    [([], "Phantom^Made"), (["--refresh", "--by", "A. Archivist"], "CORRECTED^NAME")],
    ids=["sent as it is", "derived anew"],
)
def test_orthanc_has_the_study_under_another_patient(tmp_path: Path, release: list[str], patient: str) -> None:
    paths = write_mr_series(tmp_path / "series")
    corrected = dcmread(paths[0])
    corrected.SOPInstanceUID = corrected.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    corrected.SeriesInstanceUID = generate_uid()
    corrected.PatientName = "CORRECTED^NAME"
    corrected.save_as(tmp_path / "corrected.dcm")
    with (
        orthanc(tmp_path / "pacs", settings=WITH_DICOMWEB) as pacs,
        running_node(
            tmp_path / "node", pacs_port=pacs.dicom_port, pacs={"address": "", "url": pacs.dicomweb_url}
        ) as node,
    ):
        assert storescu(pacs.dicom_port, [tmp_path / "corrected.dcm"], called=ORTHANC).returncode == 0
        assert storescu(node.port, paths, called=AE_TITLE).returncode == 0
        (held,) = node.wait_for_deliveries("held")
        assert (held.reason, held.acknowledged) == ("identity", 0)
        assert "Patient's Name differs" in held.sentence
        assert len(pacs.sop_instance_uids()) == 1
        node.run("deliveries", "release", str(held.id), *release)
        (sent,) = node.wait_for_deliveries("sent")
        assert len(pacs.sop_instance_uids()) == 1 + sent.items
        delivered = [dcmread(BytesIO(content)) for content in pacs.files().values()]
        names = {str(one.PatientName) for one in delivered if one.SOPInstanceUID != corrected.SOPInstanceUID}
        assert names == {patient}
        log = node.log_file.read_text("utf-8")
    assert "CORRECTED" not in log
