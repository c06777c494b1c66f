"""One association to one peer: bytes go out as they lie, every ending is a value, nothing waits for ever."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from dicomnode.dimse.outcome import RequestOutcome, RequestReason
from dicomnode.ids import AeTitle
from dicomnode.push.carrier import InstanceFormat, OutgoingInstance
from dicomnode.push.dimse_carrier import DimseCarrier, DimseSession, proposals
from dicomnode.push.send_files import send_files
from dicomnode.settings.models import PushSettings
from dicomnode.settings.peers import PeerSettings
from dicomnode.wire import ENHANCED_MR_IMAGE, IMPLICIT, MR_IMAGE
from tests.support.dcmtk import free_port
from tests.support.dicom import dataset_bytes
from tests.support.misbehaving_pacs import MisbehavingPacs, Trick, silent_listener, stalling_relay
from tests.support.mr_series import mr_datasets, write_mr_series, write_series
from tests.support.orthanc import AE_TITLE, needs_orthanc, orthanc
from tests.support.wait import wait_until

US = AeTitle("DICOMNODE")
PATIENT = DimseCarrier(ae_title=US, push=PushSettings(connect_timeout_s=5.0, response_timeout_s=10.0))
HASTY = DimseCarrier(ae_title=US, push=PushSettings(connect_timeout_s=0.5, response_timeout_s=0.7))
EXPLICIT = str(ExplicitVRLittleEndian)
MR_EXPLICIT = InstanceFormat(sop_class_uid=MR_IMAGE, transfer_syntax_uid=EXPLICIT)


def peer(port: int, *, host: str = "127.0.0.1", ae_title: str = "PACS") -> PeerSettings:
    return PeerSettings(name="pacs", ae_title=AeTitle(ae_title), address=f"{host}:{port}")


def send(session: DimseSession, path: Path, format_: InstanceFormat = MR_EXPLICIT) -> RequestOutcome:
    uid = str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
    (outcome,) = session.store([OutgoingInstance(format=format_, sop_instance_uid=uid, path=path)])
    return outcome


@pytest.fixture
def pacs() -> Iterator[MisbehavingPacs]:
    with MisbehavingPacs() as running:
        yield running


def session_with(port: int, carrier: DimseCarrier = PATIENT) -> DimseSession:
    session = carrier.open(peer(port), [MR_EXPLICIT])
    assert isinstance(session, DimseSession), session
    return session


def test_a_file_goes_out_byte_for_byte(pacs: MisbehavingPacs, tmp_path: Path) -> None:
    path = write_mr_series(tmp_path, slices=1, size=256)[0]
    session = session_with(pacs.port)
    outcome = send(session, path)
    session.close()
    assert (outcome.reason, outcome.status) == (RequestReason.ANSWERED, 0x0000)
    assert [arrival.dataset for arrival in pacs.arrivals] == [dataset_bytes(path)]
    assert pacs.arrivals[0].transfer_syntax_uid == EXPLICIT


def test_a_peer_that_takes_implicit_only_gets_the_same_values_and_pixels(tmp_path: Path) -> None:
    path = write_mr_series(tmp_path, slices=1)[0]
    with MisbehavingPacs(accepts=[(MR_IMAGE, [IMPLICIT])]) as pacs:
        session = session_with(pacs.port)
        assert send(session, path).status == 0x0000
        session.close()
    sent, got = dcmread(path), dcmread_implicit(pacs.arrivals[0].dataset)
    assert pacs.arrivals[0].transfer_syntax_uid == IMPLICIT
    assert got.PixelData == sent.PixelData
    assert got.to_json() == sent.to_json()


def dcmread_implicit(content: bytes) -> Dataset:
    return Dataset(read_dataset(BytesIO(content), is_implicit_VR=True, is_little_endian=True))


def test_each_class_and_syntax_has_a_context_of_its_own_and_implicit_stands_beside_uncompressed() -> None:
    rle = InstanceFormat(sop_class_uid=ENHANCED_MR_IMAGE, transfer_syntax_uid=str(RLELossless))
    proposed = [(context.abstract_syntax, list(context.transfer_syntaxes)) for context in proposals([rle, MR_EXPLICIT])]
    assert sorted(proposed) == [
        (MR_IMAGE, [ImplicitVRLittleEndian]),
        (MR_IMAGE, [ExplicitVRLittleEndian]),
        (ENHANCED_MR_IMAGE, [RLELossless]),
    ]


def test_nagle_is_off_and_no_read_or_write_lasts_for_ever(pacs: MisbehavingPacs) -> None:
    session = session_with(pacs.port)
    connected = session._requestor._link._socket
    assert isinstance(connected, socket.socket)
    assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    assert connected.gettimeout() is not None
    session.close()
    assert connected.fileno() == -1


def test_an_association_costs_no_thread_of_ours(pacs: MisbehavingPacs) -> None:
    before = set(threading.enumerate())
    session = session_with(pacs.port)
    wait_until(lambda: set(threading.enumerate()) - before, what="the peer serves it")
    # The peer in this process uses pynetdicom, whose threads are of its own classes.
    assert [one for one in set(threading.enumerate()) - before if type(one) is threading.Thread] == []
    session.close()


def test_a_peer_that_releases_between_two_requests_is_answered(pacs: MisbehavingPacs, tmp_path: Path) -> None:
    path = write_mr_series(tmp_path, slices=1)[0]
    session = session_with(pacs.port)
    assert send(session, path).status == 0x0000
    pacs.release_all()
    wait_until(lambda: select.select([session._requestor._link._socket], [], [], 0)[0])
    assert send(session, path).reason is RequestReason.LOST
    session.close()
    wait_until(pacs.is_idle)


def test_a_peer_without_a_maximum_length_gets_pdus_of_128_kib(tmp_path: Path) -> None:
    path = write_mr_series(tmp_path, slices=1, size=512)[0]
    with MisbehavingPacs(maximum_pdu_bytes=0) as pacs:
        session = session_with(pacs.port)
        assert session._requestor._link.maximum_pdu_bytes == 131072
        assert send(session, path).status == 0x0000
        session.close()
    assert pacs.arrivals[0].dataset == dataset_bytes(path)


def test_an_association_that_we_aborted_is_over_for_every_call(pacs: MisbehavingPacs, tmp_path: Path) -> None:
    path = write_mr_series(tmp_path, slices=1)[0]
    session = session_with(pacs.port)
    session.abort()
    assert send(session, path).reason is RequestReason.ENDED
    session.close()
    wait_until(pacs.is_idle)
    assert pacs.arrivals == []


def test_echo_says_that_a_peer_is_there(pacs: MisbehavingPacs) -> None:
    assert PATIENT.echo(peer(pacs.port)) == RequestOutcome(reason=RequestReason.ANSWERED, status=0x0000)


def test_a_closed_port_is_unreachable_with_the_systems_word_for_it() -> None:
    outcome = PATIENT.echo(peer(free_port()))
    assert outcome.reason is RequestReason.UNREACHABLE
    assert "Connection refused" in outcome.sentence


def test_a_name_without_address_is_unresolved() -> None:
    outcome = PATIENT.echo(peer(104, host="no-such-host.invalid"))
    assert outcome.reason is RequestReason.UNRESOLVED
    assert "no-such-host.invalid" in outcome.sentence


def test_a_listener_that_says_nothing_is_unanswered_after_the_connect_timeout() -> None:
    with silent_listener() as port:
        assert HASTY.echo(peer(port)).reason is RequestReason.UNANSWERED


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ((1, 1, 3), RequestReason.REJECTED),
        ((1, 1, 7), RequestReason.REJECTED),
        ((2, 3, 2), RequestReason.BUSY),
        ((2, 1, 1), RequestReason.BUSY),
    ],
)
def test_a_rejection_names_its_numbers_and_both_titles(
    pacs: MisbehavingPacs, code: tuple[int, int, int], reason: RequestReason
) -> None:
    pacs.rejections.append(code)
    outcome = PATIENT.echo(peer(pacs.port))
    assert outcome.reason is reason
    for word in ("/".join(map(str, code)), "DICOMNODE", "PACS"):
        assert word in outcome.sentence


def test_a_peer_without_our_class_tells_what_was_offered(pacs: MisbehavingPacs) -> None:
    enhanced = InstanceFormat(sop_class_uid=ENHANCED_MR_IMAGE, transfer_syntax_uid=EXPLICIT)
    outcome = PATIENT.open(peer(pacs.port), [enhanced])
    assert isinstance(outcome, RequestOutcome)
    assert outcome.reason is RequestReason.NO_CONTEXT
    assert outcome.detail == "Enhanced MR Image Storage (Implicit VR Little Endian, Explicit VR Little Endian)"


def test_an_instance_that_no_context_carries_is_not_sent(pacs: MisbehavingPacs, tmp_path: Path) -> None:
    path = write_mr_series(tmp_path, slices=1)[0]
    rle = InstanceFormat(sop_class_uid=MR_IMAGE, transfer_syntax_uid=str(RLELossless))
    session = PATIENT.open(peer(pacs.port), [MR_EXPLICIT, rle])
    assert isinstance(session, DimseSession)
    refusal = session.refusal([rle, MR_EXPLICIT])
    assert refusal is not None
    assert (refusal.reason, refusal.detail) == (RequestReason.NO_CONTEXT, "MR Image Storage (RLE Lossless)")
    assert send(session, path, rle).reason is RequestReason.NO_CONTEXT
    assert send(session, path).status == 0x0000
    session.close()


@pytest.mark.parametrize(
    ("trick", "reason"),
    [
        (Trick.HANG, RequestReason.NO_RESPONSE),
        (Trick.ABORT, RequestReason.ABORTED),
        (Trick.LOSE_ANSWER, RequestReason.LOST),
        (Trick.HALF_ANSWER, RequestReason.NO_RESPONSE),
    ],
)
def test_a_missing_answer_says_why(pacs: MisbehavingPacs, tmp_path: Path, trick: Trick, reason: RequestReason) -> None:
    path = write_mr_series(tmp_path, slices=1)[0]
    pacs.answers.append(trick)
    session = session_with(pacs.port, HASTY)
    outcome = send(session, path)
    assert (outcome.status, outcome.reason) == (None, reason)
    assert send(session, path).status is None  # the association has ended: said at once, nothing raised
    session.close()
    assert len(pacs.arrivals) == 1


def test_a_peer_that_stops_reading_in_the_middle_of_an_instance_does_not_hold_us(
    pacs: MisbehavingPacs, tmp_path: Path
) -> None:
    """4 MB fill the buffers of the kernel, so that we block in ``send``."""
    path = write_mr_series(tmp_path, slices=1, size=1448)[0]
    with stalling_relay(pacs.port, after_bytes=65536) as port:
        session = session_with(port, HASTY)
        outcome = send(session, path)
        session.close()
    assert outcome.status is None
    assert outcome.reason in (RequestReason.NO_RESPONSE, RequestReason.LOST)


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xA700, 0xC123, 0x0110, 0xFE00, 0x1234])
def test_every_status_comes_back_as_it_was_sent(pacs: MisbehavingPacs, tmp_path: Path, status: int) -> None:
    path = write_mr_series(tmp_path, slices=1)[0]
    pacs.answers.append(status)
    session = session_with(pacs.port)
    assert send(session, path).status == status
    session.close()


def test_offending_elements_come_back_as_keywords_and_the_peers_free_text_does_not(
    pacs: MisbehavingPacs, tmp_path: Path
) -> None:
    answer = Dataset()
    answer.Status = 0xB000
    answer.OffendingElement = [0x00100020, 0x00100010]
    answer.ErrorComment = "Doe^John"
    pacs.answers.append(answer)
    session = session_with(pacs.port)
    outcome = send(session, write_mr_series(tmp_path, slices=1)[0])
    session.close()
    assert outcome.offending == ("PatientID", "PatientName")
    assert "Doe" not in repr(outcome) + outcome.sentence


@needs_orthanc
def test_orthanc_gets_every_instance_with_its_pixels(tmp_path: Path) -> None:
    datasets = mr_datasets(slices=4)
    paths = write_series(tmp_path / "in", datasets)
    with orthanc(tmp_path / "orthanc") as running:
        to = peer(running.dicom_port, ae_title=AE_TITLE)
        assert PATIENT.echo(to).status == 0x0000
        assert [one.outcome.status for one in send_files(PATIENT, to, paths)] == [0x0000] * 4
        assert running.series() == {str(datasets[0].SeriesInstanceUID): 4}
        (tmp_path / "back.dcm").write_bytes(running.files()[str(datasets[2].SOPInstanceUID)])
    assert dcmread(tmp_path / "back.dcm").PixelData == datasets[2].PixelData


@needs_orthanc
def test_orthanc_rejects_a_called_title_that_is_not_its_own(tmp_path: Path) -> None:
    with orthanc(tmp_path) as running:
        outcome = PATIENT.echo(peer(running.dicom_port, ae_title="WRONG"))
    assert outcome.reason is RequestReason.REJECTED
    assert "1/1/7" in outcome.sentence
