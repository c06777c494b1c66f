"""A rehearsal with a real Orthanc: set up right, and with the mistakes that people make; each names its remedy."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from dicomnode.rehearsal import rehearse
from dicomnode.rehearsal.findings import Mark, Side, Topic
from tests.rehearsal.scene import NODE, failed, rehearsed, settings_for, step_of
from tests.support.certificates import Authority
from tests.support.dcmtk import free_port
from tests.support.node import running_node
from tests.support.orthanc import Orthanc, needs_orthanc, orthanc

pytestmark = needs_orthanc


@pytest.fixture
def _short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a report that never comes."""
    monkeypatch.setattr(rehearse, "REPORT_S", 5.0)


@pytest.fixture(scope="module")
def port() -> int:
    """On which the node listens."""
    return free_port()


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Orthanc]:
    """An Orthanc that knows the node."""
    with orthanc(tmp_path_factory.mktemp("pacs")) as running:
        running.register(NODE, port, AllowStorageCommitment=True)
        yield running


def test_with_everything_right_every_step_that_can_be_seen_is_ticked(pacs: Orthanc, port: int, tmp_path: Path) -> None:
    before = set(pacs.sop_instance_uids())
    found, said = rehearsed(settings_for(tmp_path, port, pacs.dicom_port))
    assert {one.what: one.mark for one in found.steps if one.mark is not Mark.OK} == {Topic.CLOCKS: Mark.OPEN}
    assert [one.what for one in found.steps] == [one for one in Topic if one is not Topic.SERVICE]
    assert found.images_sent == 5
    assert len(set(pacs.sop_instance_uids()) - before) == 5
    assert f"delete the study {found.study_uid} of TEST^DICOMNODE" in [line.item for line in found.sheet]
    assert found.study_uid in said[0], "it is said before anything is sent"
    assert not (tmp_path / "data").exists(), "it leaves nothing on this machine"


def test_two_rehearsals_send_two_studies(pacs: Orthanc, port: int, tmp_path: Path) -> None:
    settings = settings_for(tmp_path, port, pacs.dicom_port)
    first, second = rehearsed(settings)[0], rehearsed(settings)[0]
    assert first.study_uid != second.study_uid
    assert {first.is_good, second.is_good} == {True}


def test_a_wrong_port_is_named(port: int, tmp_path: Path) -> None:
    nobody = free_port()
    found, _ = rehearsed(settings_for(tmp_path, port, nobody))
    assert failed(found) == {Topic.CONNECTION: Side.OURS}
    step = step_of(found, Topic.CONNECTION)
    assert f"Nothing listens at 127.0.0.1:{nobody}" in step.sentence
    assert "port" in step.hint


def test_a_port_of_something_that_is_not_dicom_is_named(pacs: Orthanc, port: int, tmp_path: Path) -> None:
    found, _ = rehearsed(settings_for(tmp_path, port, pacs.http_port))
    assert failed(found).keys() == {Topic.ASSOCIATION}


def test_an_orthanc_with_nagles_algorithm_is_found_by_its_answers(port: int, tmp_path: Path) -> None:
    with orthanc(tmp_path / "pacs", has_nagle=True) as pacs:
        pacs.register(NODE, port, AllowStorageCommitment=True)
        found, _ = rehearsed(settings_for(tmp_path, port, pacs.dicom_port))
    assert failed(found) == {Topic.NAGLE: Side.PACS}
    assert "TCP_NODELAY=1" in step_of(found, Topic.NAGLE).hint
    assert found.is_good, "images arrive, each a little late"


def test_a_node_that_the_pacs_does_not_know_is_named(port: int, tmp_path: Path) -> None:
    with orthanc(tmp_path / "pacs", settings={"DicomAlwaysAllowEcho": False, "DicomAlwaysAllowStore": False}) as pacs:
        found, _ = rehearsed(settings_for(tmp_path, port, pacs.dicom_port))
    assert failed(found) == {Topic.ASSOCIATION: Side.PACS}
    step = step_of(found, Topic.ASSOCIATION)
    assert "1/1/3" in step.sentence
    assert f"register our AE title {NODE}" in step.hint
    assert "127.0.0.1" in step.hint


@pytest.mark.usefixtures("_short_wait")
def test_a_node_that_may_store_and_is_not_known_gets_no_report(port: int, tmp_path: Path) -> None:
    """Orthanc stores from anybody by default, and reports to those it knows only."""
    with orthanc(tmp_path / "pacs", settings={"DicomAlwaysAllowFind": True}) as pacs:
        found, _ = rehearsed(settings_for(tmp_path, port, pacs.dicom_port))
    assert failed(found) == {Topic.COMMITMENT: Side.PACS}
    assert f"register {NODE} with the address of this machine and port {port}" in step_of(found, Topic.COMMITMENT).hint
    assert step_of(found, Topic.CALL_BACK).mark is Mark.OPEN


@pytest.mark.usefixtures("_short_wait")
def test_an_ae_title_of_ours_that_the_pacs_has_in_another_case_is_seen_when_it_calls(port: int, tmp_path: Path) -> None:
    with orthanc(tmp_path / "pacs", settings={"DicomAlwaysAllowFind": True}) as pacs:
        pacs.register(NODE.lower(), port, AllowStorageCommitment=True)
        found, _ = rehearsed(settings_for(tmp_path, port, pacs.dicom_port))
    assert failed(found)[Topic.COMMITMENT] is Side.BOTH
    hint = step_of(found, Topic.COMMITMENT).hint
    assert "1/1/7" in hint
    assert "it calls itself ORTHANC, and us node" in hint


def test_commitment_that_the_settings_switch_off_is_named(pacs: Orthanc, port: int, tmp_path: Path) -> None:
    found, _ = rehearsed(settings_for(tmp_path, port, pacs.dicom_port, pacs={"commitment": "off"}))
    assert failed(found) == {Topic.COMMITMENT: Side.OURS}
    assert '`peer.commitment = "auto"`' in step_of(found, Topic.COMMITMENT).hint


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("hospital"))


def tls_of(authority: Authority) -> dict[str, str]:
    ours = authority.issue("node")
    files = {"certificate": ours.certificate, "key": ours.key, "ca": authority.certificate}
    return {name: str(file) for name, file in files.items()}


def tls_of_orthanc(authority: Authority, *, begins: timedelta = timedelta(minutes=-5)) -> dict[str, object]:
    issued = authority.issue("pacs", begins=begins)
    return {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(issued.certificate),
        "DicomTlsPrivateKey": str(issued.key),
        "DicomTlsTrustedCertificates": str(authority.certificate),
    }


def test_under_tls_both_certificates_are_shown(port: int, tmp_path: Path, authority: Authority) -> None:
    """The report comes without TLS: Orthanc 1.10.1 is registered so."""
    with orthanc(tmp_path / "pacs", settings=tls_of_orthanc(authority)) as pacs:
        pacs.register(NODE, port, AllowStorageCommitment=True)
        settings = settings_for(tmp_path, port, pacs.dicom_port, pacs={"tls": True}, tls=tls_of(authority))
        found, _ = rehearsed(settings)
    assert failed(found) == {}
    step = step_of(found, Topic.TLS)
    assert step.mark is Mark.OK
    assert "It names localhost, 127.0.0.1" in step.sentence
    assert "Ours has" in step.sentence


def test_a_certificate_of_ours_that_the_pacs_does_not_know_is_a_matter_of_the_pacs_team(
    port: int, tmp_path: Path, authority: Authority
) -> None:
    ours = Authority(tmp_path, "elsewhere").issue("node")
    tls = {"certificate": str(ours.certificate), "key": str(ours.key), "ca": str(authority.certificate)}
    with orthanc(tmp_path / "pacs", settings=tls_of_orthanc(authority)) as pacs:
        found, _ = rehearsed(settings_for(tmp_path, port, pacs.dicom_port, pacs={"tls": True}, tls=tls))
    assert failed(found) == {Topic.TLS: Side.PACS}
    step = step_of(found, Topic.TLS)
    assert "register our certificate" in step.hint
    assert f"Ours has {ours.fingerprint.replace(':', '').lower()}" in step.sentence


def test_a_pacs_that_speaks_tls_while_the_settings_say_none_is_named(
    port: int, tmp_path: Path, authority: Authority
) -> None:
    with orthanc(tmp_path / "pacs", settings=tls_of_orthanc(authority)) as pacs:
        settings = settings_for(tmp_path, port, pacs.dicom_port, tls=tls_of(authority))
        found, _ = rehearsed(settings)
    assert failed(found) == {Topic.TLS: Side.OURS}
    assert "`peer.tls = true`" in step_of(found, Topic.TLS).hint


def test_a_pacs_without_tls_while_the_settings_demand_it_is_named(
    pacs: Orthanc, port: int, tmp_path: Path, authority: Authority
) -> None:
    settings = settings_for(tmp_path, port, pacs.dicom_port, pacs={"tls": True}, tls=tls_of(authority))
    found, _ = rehearsed(settings)
    assert failed(found) == {Topic.TLS: Side.BOTH}
    assert "speaks no TLS" in step_of(found, Topic.TLS).sentence


def test_a_clock_that_is_hours_off_shows_in_a_certificate_that_does_not_hold_yet(
    port: int, tmp_path: Path, authority: Authority
) -> None:
    with orthanc(tmp_path / "pacs", settings=tls_of_orthanc(authority, begins=timedelta(hours=3))) as pacs:
        settings = settings_for(tmp_path, port, pacs.dicom_port, pacs={"tls": True}, tls=tls_of(authority))
        found, _ = rehearsed(settings)
    assert failed(found) == {Topic.TLS: Side.OURS, Topic.CLOCKS: Side.BOTH}
    assert "Compare the clocks" in step_of(found, Topic.CLOCKS).hint


def test_a_rehearsal_beside_the_running_service_sees_the_report_and_changes_no_delivery(tmp_path: Path) -> None:
    with (
        orthanc(tmp_path / "pacs", settings={"DicomAlwaysAllowFind": True}) as pacs,
        running_node(tmp_path / "node", pacs_port=pacs.dicom_port) as node,
    ):
        pacs.register(NODE, node.port, AllowStorageCommitment=True)
        ran = node.run("check", "--rehearse", "pacs", check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert "committed to all 5 images, on an association of its own; the running service took" in ran.stdout
        assert "[x] NODE may store MR Image Storage" in ran.stdout
        assert "Sends 5 test images of TEST^DICOMNODE" in ran.stderr
        assert not node.deliveries()
        assert not node.events("report_refused")
