"""A study that a real Orthanc has under another patient holds what the node would add to it, until a person decides."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import generate_uid

from tests.support.dcmtk import needs_dcmtk
from tests.support.dicom import storescu
from tests.support.mr_series import write_mr_series
from tests.support.node import AE_TITLE, CHECKOUT, running_node
from tests.support.orthanc import AE_TITLE as ORTHANC
from tests.support.orthanc import needs_orthanc, orthanc
from tests.support.wait import wait_until

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
        third = dcmread(tmp_path / "corrected.dcm")
        third.SOPInstanceUID = third.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        third.PatientID = "CORRECTED-78"
        third.save_as(tmp_path / "third.dcm")
        assert storescu(pacs.dicom_port, [tmp_path / "third.dcm"], called=ORTHANC).returncode == 0
        refused = node.run("deliveries", "release", str(held.id), "--refresh", "--by", "A. A.", check=False)
        assert (refused.returncode, "under 2 patients" in refused.stderr) == (2, True)
        assert node.deliveries() == [held]
        node.run("deliveries", "release", str(held.id))
        (sent,) = node.wait_for_deliveries("sent")
        assert len(pacs.sop_instance_uids()) == 2 + sent.items
        # Orthanc has the study under both patients now, so the next series of ours is no surprise to anyone.
        node.run("series", "retry", str(held.series))
        node.wait_for_deliveries("sent", 2)
        log = node.log_file.read_text("utf-8")
    assert "CORRECTED-77" not in log


def test_a_person_has_it_derived_anew_under_the_patient_of_orthanc(tmp_path: Path) -> None:
    """Nothing of the old result leaves, the new one is another series, and a restart does not lose the patient.

    A command that is killed between its file and the ledger has changed nothing, and its file is found.
    """
    paths = write_mr_series(tmp_path / "series", attributes={"AccessionNumber": "OLD-1"})
    corrected = dcmread(paths[0])
    corrected.SOPInstanceUID = corrected.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    corrected.SeriesInstanceUID = generate_uid()
    corrected.PatientID, corrected.PatientName, corrected.AccessionNumber = "CORRECTED-77", "Right^Person", "NEW-1"
    corrected.save_as(tmp_path / "corrected.dcm")
    with (
        orthanc(tmp_path / "pacs", settings={"DicomAlwaysAllowFind": True}) as pacs,
        running_node(tmp_path / "node", pacs_port=pacs.dicom_port) as node,
    ):
        assert storescu(pacs.dicom_port, [tmp_path / "corrected.dcm"], called=ORTHANC).returncode == 0
        assert storescu(node.port, paths, called=AE_TITLE).returncode == 0
        (held,) = node.wait_for_deliveries("held")
        number = str(held.id)
        unsigned = node.run("deliveries", "release", number, "--refresh", check=False)
        assert (unsigned.returncode, "--by NAME" in unsigned.stderr) == (2, True)
        shown = node.ask("deliveries", "release", number, "--refresh", "--dry-run")
        assert {row["attribute"]: (row["here"], row["peer"], row["derived"]) for row in shown}["PatientID"] == (
            "P-1", "CORRECTED-77", "CORRECTED-77",
        )  # fmt: skip
        refresh = ["deliveries", "release", number, "--refresh", "--by", "A. Archivist", "--note", "merged"]
        killed = ["-m", "tests.support.checkpoints", "--kill", "refresh.written", "--", *refresh]
        command = [sys.executable, *killed, "--config", str(node.config)]
        assert subprocess.run(command, cwd=CHECKOUT, check=False).returncode == -signal.SIGKILL
        assert node.deliveries() == [held]
        node.run(*refresh)
        node.stop()
        node.start()
        (sent,) = node.wait_for_deliveries("sent")
        assert [one.state for one in node.deliveries()] == ["cancelled", "sent"]
        assert len(pacs.sop_instance_uids()) == 1 + sent.items
        said = node.explain(held.series)["events"]
        assert [one["by"].endswith("(A. Archivist)") for one in said if one["kind"] == "refreshed"] == [True]
        files = sorted((node.data / "archive").glob("*/*.dcm"))
        derived = [one for one in map(dcmread, files) if one.ImageType[0] == "DERIVED"]
        new = [one for one in derived if one.PatientID == "CORRECTED-77"]
        assert (len(derived), len(new)) == (2 * sent.items, sent.items)
        assert {str(one.PatientName) for one in new} == {"Right^Person"}
        assert {one.AccessionNumber for one in new} == {"NEW-1"}
        assert {one.SOPInstanceUID for one in new} == set(pacs.sop_instance_uids()) - {corrected.SOPInstanceUID}
        before = new[0].OriginalAttributesSequence[0].ModifiedAttributesSequence[0]
        assert (before.PatientID, before.AccessionNumber) == ("P-1", "OLD-1")
        wait_until(
            lambda: len(node.ask("quarantine", "list", "--all")) == 2, 60.0, "the file of the killed command has a row"
        )
        assert {row["reason"] for row in node.ask("quarantine", "list", "--all")} == {"orphan", "patient"}
        log, ledger = node.log_file.read_text("utf-8"), (node.data / "ledger.sqlite").read_bytes()
    assert "CORRECTED-77" not in log
    assert b"CORRECTED-77" not in ledger
