"""A study that a real Orthanc has under another patient holds what the node would add to it, until a person decides."""

from __future__ import annotations

from pathlib import Path

from pydicom import dcmread
from pydicom.uid import generate_uid

from tests.support.dcmtk import needs_dcmtk
from tests.support.dicom import storescu
from tests.support.mr_series import write_mr_series
from tests.support.node import AE_TITLE, running_node
from tests.support.orthanc import AE_TITLE as ORTHANC
from tests.support.orthanc import needs_orthanc, orthanc

pytestmark = [needs_dcmtk, needs_orthanc]


def test_orthanc_has_the_study_under_another_patient(tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path / "series")
    corrected = dcmread(paths[0])
    corrected.SOPInstanceUID = corrected.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    corrected.SeriesInstanceUID = generate_uid()
    corrected.PatientID = "CORRECTED-77"
    corrected.save_as(tmp_path / "corrected.dcm")
    with (
        orthanc(tmp_path / "pacs", settings={"DicomAlwaysAllowFind": True}) as pacs,
        running_node(tmp_path / "node", pacs_port=pacs.dicom_port) as node,
    ):
        assert storescu(pacs.dicom_port, [tmp_path / "corrected.dcm"], called=ORTHANC).returncode == 0
        assert storescu(node.port, paths, called=AE_TITLE).returncode == 0
        (held,) = node.wait_for_deliveries("held")
        assert (held.reason, held.acknowledged) == ("identity", 0)
        assert "Patient ID differs" in held.sentence
        assert len(pacs.sop_instance_uids()) == 1
        node.run("deliveries", "release", str(held.id))
        (sent,) = node.wait_for_deliveries("sent")
        assert len(pacs.sop_instance_uids()) == 1 + sent.items
        # Orthanc has the study under both patients now, so the next series of ours is no surprise to anyone.
        node.run("series", "retry", str(held.series))
        node.wait_for_deliveries("sent", 2)
        log = node.log_file.read_text("utf-8")
    assert "CORRECTED-77" not in log
