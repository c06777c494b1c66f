"""UIDs with leading zeros or too many characters, as scanners in the field write them and archives keep them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicomnode.derivation import DerivationParameters
from dicomnode.derive.encode import DerivedFile
from dicomnode.derive.facts import DerivationPlan
from dicomnode.generators.cubic_dc import CubicDc
from dicomnode.ids import AeTitle, is_uid
from dicomnode.pipeline import run_pipeline
from dicomnode.push.dimse_carrier import DimseCarrier
from dicomnode.push.send_files import send_files
from dicomnode.settings.models import PushSettings
from dicomnode.settings.peers import PeerSettings
from tests.receive.receiving_node import receiving_node
from tests.support.mr_series import mr_datasets, write_series
from tests.support.quiet_node import IMPLICIT, QuietNode, changed, quiet_node

ZERO, LONG = "1.2.392.200036.9999.2.07.2024", "1.2.392.200036." + "1234567890." * 4 + "123456"
pytestmark = pytest.mark.filterwarnings("ignore:.*for VR UI:UserWarning")  # pydicom's, of what the tests write and read
KEYWORDS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[QuietNode]:
    with quiet_node(tmp_path / "data") as one:
        yield one


def with_uid(keyword: str, uid: str) -> list[Dataset]:
    """A series of which one attribute breaks the rule; of instances each its own."""
    datasets = mr_datasets(slices=6)
    if keyword != "SOPInstanceUID":
        return changed(datasets, **{keyword: uid})
    return [changed([one], SOPInstanceUID=f"{uid}{place}")[0] for place, one in enumerate(datasets)]


@pytest.mark.parametrize("keyword", KEYWORDS)
@pytest.mark.parametrize(
    ("uid", "fault"), [(ZERO, "has a leading zero in a component"), (LONG, "has 65 characters, more than 64")]
)
def test_the_series_is_archived_and_derived_with_an_alert_that_names_attribute_and_fault(
    node: QuietNode, keyword: str, uid: str, fault: str
) -> None:
    assert len(LONG) == 65
    uid = uid[:-1] if keyword == "SOPInstanceUID" and uid == LONG else uid
    datasets = with_uid(keyword, uid)
    assert node.send(datasets) == [0x0000] * 6
    node.settle()
    series = node.number_of(datasets)
    found = node.explain(series)
    name = {"SOPInstanceUID": "SOP Instance UID", "FrameOfReferenceUID": "Frame of Reference UID"}.get(
        keyword, keyword.replace("InstanceUID", " Instance UID")
    )
    note = f"{name} {fault} in 6 of 6 instances, which PS3.5 section 9.1 forbids; a PACS may refuse it."
    assert found.state == "planned"
    assert found.notes == (note,)
    assert node.attention()["series", series].endswith(note)
    assert uid not in repr((found, node.reader.status()))
    node.ledger.operator.release_series(series, "operator")
    assert not node.attention()


def test_valid_uids_are_no_alert(node: QuietNode) -> None:
    datasets = mr_datasets(slices=6)
    node.send(datasets)
    node.settle()
    assert node.explain(node.number_of(datasets)).notes == ()
    assert not node.attention()


@pytest.mark.parametrize("uid", ["", "1.2/3", "../..", "1.2\n.3", "1..2", "1.2.A", "1." * 64 + "1", "1.2.3\\4.5"])
@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_what_could_harm_is_refused_and_waits_for_a_person(node: QuietNode, keyword: str, uid: str) -> None:
    assert node.send(with_uid(keyword, uid)) == [0xA900] * 6
    assert [line.reason for line in node.reader.status().attention] == ["uid"]
    assert not node.reader.series_list()


@pytest.mark.parametrize("keyword", KEYWORDS)
@pytest.mark.parametrize("uid", [ZERO, LONG[:-1] + "7"])
def test_what_is_derived_bears_valid_uids_of_its_own_and_the_study_of_its_source(
    tmp_path: Path, keyword: str, uid: str
) -> None:
    paths = write_series(tmp_path / "in", with_uid(keyword, uid))
    kept: list[DerivedFile] = []
    plan = DerivationPlan(
        parameters=DerivationParameters(rule="all", model="cubic-dc", model_digest="cubic-dc/1"),
        model_kind="cubic-dc", namespace=uuid.UUID(int=7), ae_title=AeTitle("NODE"),
        created_at=datetime(2026, 3, 4, tzinfo=UTC),
    )  # fmt: skip
    run_pipeline(paths, generator=CubicDc(), plan=plan, device="cpu", write=kept.append)
    assert kept
    source = dcmread(paths[0])
    for number, file in enumerate(kept):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(file.content)
        derived = dcmread(path)
        assert all(is_uid(str(one)) for one in (derived.SOPInstanceUID, derived.SeriesInstanceUID))
        assert derived.file_meta.MediaStorageSOPInstanceUID == derived.SOPInstanceUID == file.sop_instance_uid
        assert derived.StudyInstanceUID == source.StudyInstanceUID
        assert derived.FrameOfReferenceUID == source.FrameOfReferenceUID
        named = {str(item.ReferencedSOPInstanceUID) for item in derived.SourceImageSequence}
        assert named <= {str(dcmread(one, stop_before_pixels=True).SOPInstanceUID) for one in paths}


@pytest.mark.parametrize("keyword", KEYWORDS)
@pytest.mark.parametrize("uid", [ZERO, LONG])
def test_send_brings_such_objects_to_a_peer_as_they_are(tmp_path: Path, keyword: str, uid: str) -> None:
    paths = write_series(tmp_path / "in", with_uid(keyword, uid))
    with receiving_node(tmp_path / "data") as peer:
        settings = PeerSettings(name="pacs", ae_title=AeTitle("DICOMNODE"), address=f"127.0.0.1:{peer.port}")
        carrier = DimseCarrier(ae_title=AeTitle("TEST"), push=PushSettings())
        sent = list(send_files(carrier, settings, paths))
        assert [one.outcome.status for one in sent] == [0x0000] * 6
        assert len(peer.files()) == 6
        assert {str(dcmread(one)[keyword].value) for one in peer.files()} == {
            str(dcmread(one)[keyword].value) for one in paths
        }


def test_the_same_images_under_such_uids_in_another_encoding_are_harmless(node: QuietNode) -> None:
    datasets = with_uid("SOPInstanceUID", ZERO)
    node.send(datasets)
    assert node.send(datasets, syntax=IMPLICIT) == [0x0000] * 6
    node.settle()
    assert {line.state for line in node.reader.quarantine_list(is_all=True)} == {"harmless"}
