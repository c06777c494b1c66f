"""A rehearsal with a DICOMweb server: set up right, and with the mistakes that people make; each names its remedy."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pynetdicom.events import Event

from dicomnode.rehearsal import exchange, rehearse
from dicomnode.rehearsal.findings import Mark, Rehearsal, Side, Topic
from dicomnode.settings.load import parse
from dicomnode.settings.models import Settings
from tests.rehearsal.scene import NODE, failed, rehearsed, step_of
from tests.support.certificates import Authority
from tests.support.committing_pacs import Asked, CommittingPacs
from tests.support.dcmtk import free_port
from tests.support.dicomweb import Answer, DicomwebServer
from tests.support.orthanc import WITH_DICOMWEB, needs_dicomweb, needs_orthanc, orthanc
from tests.support.web_commitment import WebCommitment

TOKEN = "geheim-1"  # noqa: S105 (a made-up one)


@pytest.fixture
def server() -> Iterator[DicomwebServer]:
    with DicomwebServer() as server:
        server.commitment = WebCommitment()
        yield server


@pytest.fixture
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a result that never comes, and images that are never shown."""
    monkeypatch.setattr(rehearse, "REPORT_S", 2.0)
    monkeypatch.setattr(exchange, "INDEX_S", 0.5)


def settings_for(folder: Path, url: str, **tables: object) -> Settings:
    """A node that sends everything to one server. ``pacs``: keys of that peer; ``others``: other peers."""
    pacs = {"name": "pacs", "url": url, **dict(tables.pop("pacs", {}))}  # type: ignore[call-overload]
    return parse(
        {
            "node": {"ae_title": NODE, "listen": f"127.0.0.1:{free_port()}", "data": str(folder / "data")},
            "push": {"connect_timeout_s": 3, "response_timeout_s": 10},
            "peer": [pacs, *tables.pop("others", [])],  # type: ignore[misc]
            "rule": [{"name": "all", "deliver_to": ["pacs"]}],
            **tables,
        }
    )


def found_with(folder: Path, url: str, **tables: object) -> Rehearsal:
    return rehearsed(settings_for(folder, url, **tables))[0]


def test_with_everything_right_every_step_is_ticked(server: DicomwebServer, tmp_path: Path) -> None:
    found, said = rehearsed(settings_for(tmp_path, server.url))
    assert failed(found) == {}
    by_dicom = {Topic.ASSOCIATION, Topic.NAGLE, Topic.CONTEXTS}
    assert [one.what for one in found.steps] == [one for one in Topic if one not in by_dicom]
    assert {one.mark for one in found.steps} == {Mark.OK}
    assert f"to pacs: {server.url}." in said[0], "it is said before anything is sent"
    headers = [dcmread(BytesIO(file)) for file in server.held.values()]
    assert (found.images_sent, {str(one.PatientName) for one in headers}) == (5, {"TEST^DICOMNODE"})
    assert {str(one.StudyInstanceUID) for one in headers} == {found.study_uid}
    assert f"delete the study {found.study_uid} of TEST^DICOMNODE" in [line.item for line in found.sheet]
    assert "committed to all 5 images, by DICOMweb" in step_of(found, Topic.COMMITMENT).sentence
    assert not (tmp_path / "data").exists(), "it leaves nothing on this machine"


def test_a_wrong_port_is_named(tmp_path: Path) -> None:
    found = found_with(tmp_path, f"http://127.0.0.1:{free_port()}/dicom-web")
    assert failed(found) == {Topic.CONNECTION: Side.OURS}
    assert "the peer's `url`" in step_of(found, Topic.CONNECTION).hint


def test_a_wrong_path_is_named_and_the_images_are_not_stored(server: DicomwebServer, tmp_path: Path) -> None:
    server.has_search = False
    found = found_with(tmp_path, server.url + "/wrong")
    assert failed(found) == {Topic.SERVICE: Side.BOTH, Topic.IMAGES: Side.PACS}
    assert "404" in step_of(found, Topic.SERVICE).sentence
    assert not found.is_good


def test_a_server_without_search_stores_all_the_same(server: DicomwebServer, tmp_path: Path) -> None:
    server.has_search = False
    found = found_with(tmp_path, server.url)
    assert failed(found) == {Topic.SERVICE: Side.BOTH, Topic.QUERY: Side.PACS}
    assert (found.images_sent, found.is_good) == (5, True)


def test_a_token_that_the_server_does_not_take_is_named(server: DicomwebServer, tmp_path: Path) -> None:
    server.token = TOKEN
    file = tmp_path / "token"
    file.write_text("geheim-0\n")
    file.chmod(0o400)
    found = found_with(tmp_path, server.url, pacs={"token_file": str(file)})
    assert failed(found) == {Topic.SERVICE: Side.BOTH}
    assert "`token_file`" in step_of(found, Topic.SERVICE).hint
    assert "geheim" not in str(found)
    file.chmod(0o600)
    file.write_text(TOKEN)
    assert failed(found_with(tmp_path, server.url, pacs={"token_file": str(file)})) == {}


def test_a_server_that_refuses_an_image_is_named(server: DicomwebServer, tmp_path: Path) -> None:
    server.answers.append(Answer(status=409, failed={0: 0xA700}))
    found = found_with(tmp_path, server.url)
    assert failed(found) == {Topic.IMAGES: Side.PACS}
    assert "STOW-RS request with A700" in step_of(found, Topic.IMAGES).sentence


def test_a_server_without_commitment_is_looked_at(server: DicomwebServer, tmp_path: Path) -> None:
    server.commitment = None
    found = found_with(tmp_path, server.url)
    assert failed(found) == {Topic.COMMITMENT: Side.PACS}
    assert (found.is_good, step_of(found, Topic.QUERY).mark) == (True, Mark.OK)
    assert "Few servers offer it" in step_of(found, Topic.COMMITMENT).hint


def test_a_result_that_comes_late_counts(server: DicomwebServer, tmp_path: Path) -> None:
    server.commitment = WebCommitment(works_for=2)
    assert step_of(found_with(tmp_path, server.url), Topic.COMMITMENT).mark is Mark.OK


@pytest.mark.usefixtures("_short_waits")
def test_a_result_that_does_not_come_is_an_open_question(server: DicomwebServer, tmp_path: Path) -> None:
    server.commitment = WebCommitment(is_working=True)
    assert step_of(found_with(tmp_path, server.url), Topic.COMMITMENT).mark is Mark.OPEN


@pytest.mark.usefixtures("_short_waits")
def test_a_server_that_commits_to_a_part_is_named(server: DicomwebServer, tmp_path: Path) -> None:
    server.commitment = WebCommitment(loses_all=True)
    found = found_with(tmp_path, server.url)
    assert failed(found) == {Topic.COMMITMENT: Side.PACS}
    assert "committed to 0 and denied 5" in step_of(found, Topic.COMMITMENT).sentence


def test_commitment_that_the_settings_switch_off_is_named(server: DicomwebServer, tmp_path: Path) -> None:
    assert failed(found_with(tmp_path, server.url, pacs={"commitment": "off"})) == {Topic.COMMITMENT: Side.OURS}
    assert server.commitment is not None
    assert not server.commitment.asked


def test_another_application_commits_by_dicom(server: DicomwebServer, tmp_path: Path) -> None:
    with CommittingPacs() as archive:
        other = {"name": "archive", "ae_title": "PACS", "address": f"127.0.0.1:{archive.port}"}
        settings = settings_for(tmp_path, server.url, pacs={"commitment": "archive"}, others=[other])
        archive.node, archive.node_title = ("127.0.0.1", settings.node.port), NODE

        def report(event: Event, asked: Asked) -> None:
            archive.held.update(server.held)
            archive.on_a_new_association(event, asked)

        archive.report = report
        found, _ = rehearsed(settings)
    assert step_of(found, Topic.COMMITMENT).mark is Mark.OK
    assert step_of(found, Topic.CALL_BACK).mark is Mark.OK


@pytest.mark.parametrize(("off_s", "which"), [(90, "after"), (-3600, "behind")])
def test_a_clock_that_is_off_is_named(server: DicomwebServer, tmp_path: Path, off_s: int, which: str) -> None:
    server.clock_is_off_s = off_s
    found = found_with(tmp_path, server.url)
    assert failed(found) == {Topic.CLOCKS: Side.BOTH}
    said = step_of(found, Topic.CLOCKS).sentence
    assert f"s {which} ours" in said
    assert abs(int(said.partition(" clock is ")[2].partition(" s ")[0]) - abs(off_s)) <= 3


def tls_server(authority: Authority, *, begins: timedelta = timedelta(minutes=-5)) -> DicomwebServer:
    issued = authority.issue("pacs", begins=begins)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)
    return DicomwebServer(context=context)


def test_under_tls_the_certificate_is_shown(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with tls_server(authority) as server:
        found = found_with(tmp_path, server.url, pacs={"ca": str(authority.certificate)})
    assert found.is_good
    step = step_of(found, Topic.TLS)
    assert "was verified. It names localhost, 127.0.0.1" in step.sentence


def test_a_certificate_of_another_authority_is_named_with_its_digest(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "a"), Authority(tmp_path / "b", "elsewhere")
    with tls_server(authority) as server:
        found = found_with(tmp_path, server.url, pacs={"ca": str(other.certificate)})
    assert failed(found) == {Topic.TLS: Side.OURS}
    step = step_of(found, Topic.TLS)
    assert "`peer.ca`" in step.sentence
    assert "The SHA-256 of its certificate is" in step.sentence
    assert found.images_sent == 0


@needs_orthanc
@needs_dicomweb
def test_an_orthanc_without_commitment_shows_the_images(tmp_path: Path) -> None:
    with orthanc(tmp_path / "pacs", settings=WITH_DICOMWEB) as pacs:
        found = found_with(tmp_path, pacs.dicomweb_url)
        assert len(pacs.sop_instance_uids()) == 5
    assert failed(found) == {Topic.COMMITMENT: Side.PACS}
    assert "shows all 5 images" in step_of(found, Topic.QUERY).sentence
