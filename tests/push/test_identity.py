"""Before the first instance of a delivery the peer is asked under which patient it has the study; over real sockets."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from dicomnode.demo.pacs import Pacs
from dicomnode.ids import AeTitle, DeliveryId
from dicomnode.push.identity import PatientQuery
from dicomnode.push.peer_loop import PeerLoop
from dicomnode.push.witness import Witness
from dicomnode.settings.peers import PeerSettings
from tests.support.committing_pacs import CommittingPacs
from tests.support.dicomweb import DicomwebServer
from tests.support.due_delivery import SWIFT, Derived, Node, carriers_with

OURS = {"PatientID": "P-77", "PatientName": "Sentinel^Möwe", "PatientBirthDate": "19700102", "PatientSex": "F"}
OTHER_ID = OURS | {"PatientID": "P-78"}
ATTRIBUTES = {
    "PatientID": "Patient ID",
    "PatientName": "Patient's Name",
    "PatientBirthDate": "Patient's Birth Date",
    "PatientSex": "Patient's Sex",
}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "node")
    yield node
    node.close()


def describe(path: Path, patient: dict[str, str], *, study_uid: str | None = None) -> None:
    """Write a patient into a file."""
    dataset = dcmread(path)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    if study_uid is not None:
        dataset.StudyInstanceUID = study_uid
    for keyword, value in patient.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


def derive(node: Node) -> Derived:
    return node.derive("pacs", instances=2, change=lambda path: describe(path, OURS))


def archived_at(folder: Path, derived: Derived, patient: dict[str, str]) -> None:
    """Another series of the same study, as the PACS has it."""
    folder.mkdir(exist_ok=True)
    dataset = dcmread(derived.files[0])
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    for keyword, value in patient.items():
        setattr(dataset, keyword, value)
    dataset.save_as(folder / f"{dataset.SOPInstanceUID}.dcm")


@pytest.mark.parametrize("keyword", ATTRIBUTES)
def test_a_study_of_another_patient_holds_the_delivery_and_no_value_is_written_down(
    node: Node, tmp_path: Path, caplog: pytest.LogCaptureFixture, keyword: str
) -> None:
    derived = derive(node)
    theirs = {"PatientID": "X9", "PatientName": "Hidden^Q", "PatientBirthDate": "19991231", "PatientSex": "M"}
    archived_at(tmp_path / "pacs", derived, OURS | {keyword: theirs[keyword]})
    with Pacs(tmp_path / "pacs") as pacs:
        node.push_to("pacs", pacs.port, is_asked=True)
        held = node.wait_for("held")
        assert (held.reason, held.acknowledged) == ("identity", 0)
        assert f"another patient: {ATTRIBUTES[keyword]} differs" in held.sentence
        assert len(pacs.held()) == 1
    written = " ".join((str(node.deliveries()), str(node.events(derived)), caplog.text))
    for value in (*OURS.values(), *theirs.values()):
        assert len(value) < 2 or value not in written


def test_a_retry_asks_again_and_a_release_sends_all_the_same(node: Node, tmp_path: Path) -> None:
    derived = derive(node)
    archived_at(tmp_path / "pacs", derived, OTHER_ID)
    with Pacs(tmp_path / "pacs") as pacs:
        loop = node.push_to("pacs", pacs.port, is_asked=True)
        first = node.wait_for("held")
        node.retry()
        loop.wake()
        second = node.wait_for("held")
        assert second.reason == "identity"
        assert second.changed_at >= first.changed_at
        node.ledger.operator.release_delivery(DeliveryId(second.id), "operator", note="the same person")
        loop.wake()
        node.wait_for("sent")
    assert ("identity_accepted", "the same person") in [(one.kind, one.detail) for one in node.events(derived)]


@pytest.mark.parametrize(
    "theirs",
    [
        OURS,
        OURS | {"PatientName": "SENTINEL^MÖWE^^=x", "PatientID": "P-77 "},
        OURS | {"PatientName": "Sentinel^M?we"},
        {"PatientID": "P-77", "PatientName": "", "PatientBirthDate": "", "PatientSex": ""},
    ],
    ids=["the same", "written otherwise", "no umlauts", "half of it unknown"],
)
def test_the_same_patient_is_sent_to(node: Node, tmp_path: Path, theirs: dict[str, str]) -> None:
    archived_at(tmp_path / "pacs", derive(node), theirs)
    with Pacs(tmp_path / "pacs") as pacs:
        node.push_to("pacs", pacs.port, is_asked=True)
        assert node.wait_for("sent").items == 2


def test_a_pacs_without_the_study_is_sent_to(node: Node, tmp_path: Path) -> None:
    derived = derive(node)
    (tmp_path / "pacs").mkdir()
    with Pacs(tmp_path / "pacs") as pacs:
        node.push_to("pacs", pacs.port, is_asked=True)
        assert node.wait_for("sent").items == len(derived.files)


def test_a_peer_without_query_is_sent_to_and_not_asked_each_time(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    derived = derive(node)
    caplog.set_level(logging.INFO, "dicomnode")
    with CommittingPacs(finds=False) as pacs:
        query = PatientQuery(_peer(pacs.port), Witness(carriers_with(SWIFT)))
        assert query.differences(derived.files[0]) == ()
        assert query.differences(derived.files[0]) == ()
    assert [record.message for record in caplog.records].count("identity_not_compared") == 1


def test_a_delivery_that_the_peer_has_a_part_of_goes_on(node: Node, tmp_path: Path) -> None:
    derived = derive(node)
    claimed = node.ledger.deliveries.claim("pacs", "test", lease_s=60)
    assert claimed is not None
    assert node.ledger.deliveries.is_identity_open(claimed)
    node.ledger.deliveries.acknowledge(claimed, node.ledger.deliveries.pending_items(claimed)[0], status=0)
    assert not node.ledger.deliveries.is_identity_open(claimed)
    node.ledger.deliveries.release_claim(claimed)
    archived_at(tmp_path / "pacs", derived, OTHER_ID)
    with Pacs(tmp_path / "pacs") as pacs:
        node.push_to("pacs", pacs.port, is_asked=True)
        node.wait_for("sent")


def _peer(port: int) -> PeerSettings:
    return PeerSettings(name="pacs", ae_title=AeTitle("PACS"), address=f"127.0.0.1:{port}")


def at_a_server(folder: Path, derived: Derived, patient: dict[str, str]) -> DicomwebServer:
    """A DICOMweb server with another series of the same study."""
    archived_at(folder, derived, patient)
    server = DicomwebServer()
    (file,) = folder.glob("*.dcm")
    server.held[file.stem] = file.read_bytes()
    return server


def push_to(node: Node, server: DicomwebServer) -> PeerLoop:
    """Deliver by DICOMweb, after a question for the patient."""
    peer, carriers = PeerSettings(name="pacs", url=server.url), carriers_with(SWIFT)
    return node.push(peer, SWIFT, carriers, identity=PatientQuery(peer, Witness(carriers)))


@pytest.mark.parametrize("keyword", ATTRIBUTES)
def test_a_server_that_has_the_study_under_another_patient_holds_the_delivery(
    node: Node, tmp_path: Path, caplog: pytest.LogCaptureFixture, keyword: str
) -> None:
    derived = derive(node)
    theirs = {"PatientID": "X9", "PatientName": "Hidden^Q", "PatientBirthDate": "19991231", "PatientSex": "M"}
    with at_a_server(tmp_path / "pacs", derived, OURS | {keyword: theirs[keyword]}) as server:
        push_to(node, server)
        held = node.wait_for("held")
        assert (held.reason, held.acknowledged, server.requests_to_store) == ("identity", 0, 0)
        assert f"another patient: {ATTRIBUTES[keyword]} differs" in held.sentence
    written = " ".join((str(node.deliveries()), str(node.events(derived)), caplog.text))
    for value in (*OURS.values(), *theirs.values()):
        assert len(value) < 2 or value not in written


@pytest.mark.parametrize(
    "theirs",
    [
        OURS | {"PatientName": "SENTINEL^MÖWE^^=x", "PatientID": "P-77 "},
        {"PatientID": "P-77", "PatientName": "", "PatientBirthDate": "", "PatientSex": ""},
    ],
    ids=["written otherwise", "half of it unknown"],
)
def test_the_same_patient_is_sent_to_a_server(node: Node, tmp_path: Path, theirs: dict[str, str]) -> None:
    with at_a_server(tmp_path / "pacs", derive(node), theirs) as server:
        push_to(node, server)
        assert node.wait_for("sent").items == 2


def test_a_server_that_shows_other_studies_too_says_nothing_of_this_one(node: Node, tmp_path: Path) -> None:
    derived = derive(node)
    with DicomwebServer() as server:
        archived_at(tmp_path, derived, OTHER_ID)
        (file,) = tmp_path.glob("*.dcm")
        describe(file, {}, study_uid=generate_uid())
        server.held["other"], server.ignores_study = file.read_bytes(), True
        push_to(node, server)
        node.wait_for("sent")


def test_a_server_without_search_is_sent_to(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dicomnode")
    derive(node)
    with DicomwebServer() as server:
        server.has_search = False
        push_to(node, server)
        node.wait_for("sent")
    assert [record.message for record in caplog.records].count("identity_not_compared") == 1
