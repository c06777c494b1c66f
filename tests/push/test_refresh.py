"""The patient whom a peer states for a study, and the attributes that are taken over; over real sockets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from dicomnode.demo.pacs import Pacs
from dicomnode.derive import patient
from dicomnode.errors import InputError, PeerError
from dicomnode.ids import AeTitle, DeliveryId
from dicomnode.imaging.dicom_file import read_dataset
from dicomnode.part10 import dataset_sha256
from dicomnode.push import refresh
from dicomnode.push.refresh import Patients
from dicomnode.push.witness import Witness
from dicomnode.settings.peers import PeerSettings
from tests.support.committing_pacs import CommittingPacs
from tests.support.dcmtk import free_port
from tests.support.due_delivery import SWIFT, Node, carriers_with

OURS = {
    "PatientName": "Sentinel^Möwe", "PatientID": "P-77", "IssuerOfPatientID": "HOUSE", "PatientBirthDate": "19700102",
    "PatientSex": "F", "AccessionNumber": "A-1",
}  # fmt: skip


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "node")
    yield node
    node.close()


def describe(path: Path, values: Mapping[str, str]) -> None:
    dataset = dcmread(path)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


def held(node: Node) -> DeliveryId:
    """A delivery that waits for a person."""
    node.derive("pacs", instances=2, change=lambda path: describe(path, OURS))
    claimed = node.ledger.deliveries.claim("pacs", "test", lease_s=60)
    assert claimed is not None
    assert node.ledger.deliveries.hold(claimed, reason="identity", sentence="another patient")
    return claimed.id


def asked(node: Node, delivery: DeliveryId, port: int) -> Patients:
    """Return the answer of the peer at this port."""
    peer = PeerSettings(name="pacs", ae_title=AeTitle("PACS"), address=f"127.0.0.1:{port}")
    found = node.ledger.refreshes.wanted(delivery)
    return refresh.compare(node.archive, found, peer, Witness(carriers_with(SWIFT)))


def answered(node: Node, folder: Path, *theirs: Mapping[str, str]) -> tuple[DeliveryId, Patients]:
    """Return the outcome for a PACS that has the study under these patients."""
    delivery = held(node)
    file = node.archive.path(node.ledger.refreshes.wanted(delivery).file)
    folder.mkdir()
    for values in theirs:
        copy = folder / f"{generate_uid()}.dcm"
        copy.write_bytes(file.read_bytes())
        describe(copy, {"SOPInstanceUID": copy.stem, "SeriesInstanceUID": generate_uid(), **values})
    with Pacs(folder) as pacs:
        return delivery, asked(node, delivery, pacs.port)


def test_another_patient_is_taken_over_as_a_whole(node: Node, tmp_path: Path) -> None:
    """The sex and the issuer that the peer does not state were said of the other patient."""
    theirs = {
        "PatientName": "Right^Name", "PatientID": "P-78", "IssuerOfPatientID": "", "PatientBirthDate": "19700102",
        "PatientSex": "", "AccessionNumber": "A-2",
    }  # fmt: skip
    delivery, found = answered(node, tmp_path / "pacs", theirs)
    assert found.wanted == theirs
    assert set(found.differing) == {
        "Patient's Name", "Patient ID", "Issuer of Patient ID", "Patient's Sex", "Accession Number",
    }  # fmt: skip
    node.ledger.refreshes.wanted(delivery)


def test_a_corrected_patient_keeps_what_the_peer_does_not_state(node: Node, tmp_path: Path) -> None:
    """A poorer spelling of the same name is no correction either."""
    theirs = {
        "PatientName": "SENTINEL^M?WE", "PatientID": "P-77", "IssuerOfPatientID": "", "PatientBirthDate": "19710102",
        "PatientSex": "", "AccessionNumber": "",
    }  # fmt: skip
    _, found = answered(node, tmp_path / "pacs", theirs)
    assert found.wanted == OURS | {"PatientBirthDate": "19710102"}
    assert found.differing == ("Patient's Birth Date",)


def test_the_answer_lies_in_a_file_that_the_job_pins_and_nowhere_else(node: Node, tmp_path: Path) -> None:
    delivery, found = answered(node, tmp_path / "pacs", OURS | {"PatientID": "HIDDEN-9", "PatientName": "Hidden^Q"})
    refresh.refresh(node.ledger, node.archive, delivery, found, by="operator:ann (A. A.)", note="checked")
    job = node.ledger.jobs.claim("test", lease_s=60)
    assert job is not None
    pinned = job.planned.parameters.patient
    assert pinned is not None
    name = node.ledger.refreshes.file_of(job.series, pinned)
    assert name is not None
    with node.archive.quarantine.path(name).open("rb") as file:
        assert dataset_sha256(file) == pinned
    assert patient.decode(read_dataset(node.archive.quarantine.path(name), pixels=False)) == found.wanted
    ledger = (tmp_path / "node" / "ledger.sqlite").read_bytes() + (tmp_path / "node" / "ledger.sqlite-wal").read_bytes()
    assert b"HIDDEN" not in ledger
    assert b"Hidden" not in ledger
    assert "Hidden" not in repr(found)


@pytest.mark.parametrize(
    ("theirs", "why"),
    [
        ([], "does not have the study"),
        ([OURS], "under the same patient"),
        ([OURS | {"PatientID": ""}], "without a Patient ID"),
    ],
    ids=["not there", "nothing to do", "nobody's"],
)
def test_an_answer_that_settles_nothing_changes_nothing(
    node: Node, tmp_path: Path, theirs: list[dict[str, str]], why: str
) -> None:
    with pytest.raises(InputError, match=why) as refused:
        answered(node, tmp_path / "pacs", *theirs)
    assert "P-7" not in str(refused.value)
    assert (node.delivery().state, node.delivery().reason) == ("held", "identity")
    assert node.archive.quarantine.names() == []


def test_a_peer_that_says_nothing_changes_nothing(node: Node) -> None:
    delivery = held(node)
    with pytest.raises(PeerError, match="did not say whose the study is"):
        asked(node, delivery, free_port())
    with CommittingPacs(finds=False) as pacs, pytest.raises(PeerError, match="does not offer"):
        asked(node, delivery, pacs.port)
    assert (node.delivery().state, node.delivery().reason) == ("held", "identity")


def test_a_delivery_that_was_released_meanwhile_leaves_no_file(node: Node, tmp_path: Path) -> None:
    delivery, found = answered(node, tmp_path / "pacs", OURS | {"PatientID": "P-78"})
    node.ledger.operator.release_delivery(delivery, "operator")
    with pytest.raises(InputError, match="only a held one"):
        refresh.refresh(node.ledger, node.archive, delivery, found, by="operator", note="")
    assert node.archive.quarantine.names() == []
