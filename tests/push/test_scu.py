"""One association to one peer: bytes go out as they lie, every ending is a value, nothing waits for ever."""

from __future__ import annotations

import hashlib
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

from dicomnode.dimse.outcome import Outcome, Reason
from dicomnode.ids import AeTitle
from dicomnode.push.scu import Link, Offer, associate, contexts, echo, send_files
from dicomnode.settings.models import PeerSettings, PushSettings
from dicomnode.wire import ENHANCED_MR_IMAGE, IMPLICIT, MR_IMAGE
from tests.support.dcmtk import free_port, needs_dcmtk, storescp
from tests.support.dicom import dataset_bytes
from tests.support.misbehaving_pacs import MisbehavingPacs, Trick, silent_listener, stalling_relay
from tests.support.mr_series import mr_datasets, write_mr_series, write_series
from tests.support.orthanc import AE_TITLE, needs_orthanc, orthanc
from tests.support.wait import wait_until

US = AeTitle("DICOMNODE")
PATIENT = PushSettings(connect_timeout_s=5.0, response_timeout_s=10.0)
HASTY = PushSettings(connect_timeout_s=0.5, response_timeout_s=0.7)
EXPLICIT = str(ExplicitVRLittleEndian)
MR_EXPLICIT = Offer(sop_class_uid=MR_IMAGE, transfer_syntax_uid=EXPLICIT)


def peer(port: int, *, host: str = "127.0.0.1", ae_title: str = "PACS") -> PeerSettings:
    return PeerSettings(name="pacs", ae_title=AeTitle(ae_title), address=f"{host}:{port}")


def send(link: Link, path: Path, offer: Offer = MR_EXPLICIT) -> Outcome:
    return link.store(dataset_bytes(path), offer, str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID))


@pytest.fixture
def pacs() -> Iterator[MisbehavingPacs]:
    with MisbehavingPacs() as running:
        yield running


def link_to(port: int, push: PushSettings = PATIENT) -> Link:
    link = associate(peer(port), [MR_EXPLICIT], ae_title=US, push=push)
    assert isinstance(link, Link), link
    return link


def test_a_file_goes_out_byte_for_byte(pacs: MisbehavingPacs, tmp_path: Path) -> None:
    path = write_mr_series(tmp_path, slices=1, size=256)[0]
    link = link_to(pacs.port)
    outcome = send(link, path)
    link.release()
    assert (outcome.reason, outcome.status) == (Reason.ANSWERED, 0x0000)
    assert [arrival.dataset for arrival in pacs.arrivals] == [dataset_bytes(path)]
    assert pacs.arrivals[0].transfer_syntax_uid == EXPLICIT


def test_a_peer_that_takes_implicit_only_gets_the_same_values_and_pixels(tmp_path: Path) -> None:
    path = write_mr_series(tmp_path, slices=1)[0]
    with MisbehavingPacs(accepts=[(MR_IMAGE, [IMPLICIT])]) as pacs:
        link = link_to(pacs.port)
        assert send(link, path).status == 0x0000
        link.release()
    sent, got = dcmread(path), dcmread_implicit(pacs.arrivals[0].dataset)
    assert pacs.arrivals[0].transfer_syntax_uid == IMPLICIT
    assert got.PixelData == sent.PixelData
    assert got.to_json() == sent.to_json()


def dcmread_implicit(content: bytes) -> Dataset:
    return Dataset(read_dataset(BytesIO(content), is_implicit_VR=True, is_little_endian=True))


def test_each_class_and_syntax_has_a_context_of_its_own_and_implicit_stands_beside_uncompressed() -> None:
    rle = Offer(sop_class_uid=ENHANCED_MR_IMAGE, transfer_syntax_uid=str(RLELossless))
    proposed = [(context.abstract_syntax, list(context.transfer_syntaxes)) for context in contexts([rle, MR_EXPLICIT])]
    assert sorted(proposed) == [
        (MR_IMAGE, [ImplicitVRLittleEndian]),
        (MR_IMAGE, [ExplicitVRLittleEndian]),
        (ENHANCED_MR_IMAGE, [RLELossless]),
    ]


def test_nagle_is_off_and_no_read_or_write_lasts_for_ever(pacs: MisbehavingPacs) -> None:
    link = link_to(pacs.port)
    connected = link._requestor._link._socket
    assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    assert connected.gettimeout() is not None
    link.release()
    assert connected.fileno() == -1


def test_an_association_costs_no_thread_of_ours(pacs: MisbehavingPacs) -> None:
    before = set(threading.enumerate())
    link = link_to(pacs.port)
    wait_until(lambda: set(threading.enumerate()) - before, what="the peer serves it")
    # The peer in this process uses pynetdicom, whose threads are of its own classes.
    assert [one for one in set(threading.enumerate()) - before if type(one) is threading.Thread] == []
    link.release()


def test_a_peer_that_releases_between_two_requests_is_answered(pacs: MisbehavingPacs, tmp_path: Path) -> None:
    path = write_mr_series(tmp_path, slices=1)[0]
    link = link_to(pacs.port)
    assert send(link, path).status == 0x0000
    pacs.release_all()
    wait_until(lambda: select.select([link._requestor._link._socket], [], [], 0)[0])
    assert send(link, path).reason is Reason.LOST
    link.release()
    wait_until(pacs.is_idle)


def test_a_peer_without_a_maximum_length_gets_pdus_of_128_kib(tmp_path: Path) -> None:
    path = write_mr_series(tmp_path, slices=1, size=512)[0]
    with MisbehavingPacs(maximum_pdu_bytes=0) as pacs:
        link = link_to(pacs.port)
        assert link._requestor._link.maximum_pdu_bytes == 131072
        assert send(link, path).status == 0x0000
        link.release()
    assert pacs.arrivals[0].dataset == dataset_bytes(path)


def test_an_association_that_we_aborted_is_over_for_every_call(pacs: MisbehavingPacs, tmp_path: Path) -> None:
    path = write_mr_series(tmp_path, slices=1)[0]
    link = link_to(pacs.port)
    link.abort()
    assert send(link, path).reason is Reason.ENDED
    link.release()
    wait_until(pacs.is_idle)
    assert pacs.arrivals == []


def test_echo_says_that_a_peer_is_there(pacs: MisbehavingPacs) -> None:
    assert echo(peer(pacs.port), ae_title=US, push=PATIENT) == Outcome(reason=Reason.ANSWERED, status=0x0000)


def test_a_closed_port_is_unreachable_with_the_systems_word_for_it() -> None:
    outcome = echo(peer(free_port()), ae_title=US, push=PATIENT)
    assert outcome.reason is Reason.UNREACHABLE
    assert "Connection refused" in outcome.sentence


def test_a_name_without_address_is_unresolved() -> None:
    outcome = echo(peer(104, host="no-such-host.invalid"), ae_title=US, push=PATIENT)
    assert outcome.reason is Reason.UNRESOLVED
    assert "no-such-host.invalid" in outcome.sentence


def test_a_listener_that_says_nothing_is_unanswered_after_the_connect_timeout() -> None:
    with silent_listener() as port:
        assert echo(peer(port), ae_title=US, push=HASTY).reason is Reason.UNANSWERED


@pytest.mark.parametrize(
    ("code", "reason"),
    [((1, 1, 3), Reason.REJECTED), ((1, 1, 7), Reason.REJECTED), ((2, 3, 2), Reason.BUSY), ((2, 1, 1), Reason.BUSY)],
)
def test_a_rejection_names_its_numbers_and_both_titles(
    pacs: MisbehavingPacs, code: tuple[int, int, int], reason: Reason
) -> None:
    pacs.rejections.append(code)
    outcome = echo(peer(pacs.port), ae_title=US, push=PATIENT)
    assert outcome.reason is reason
    for word in ("/".join(map(str, code)), "DICOMNODE", "PACS"):
        assert word in outcome.sentence


def test_a_peer_without_our_class_tells_what_was_offered(pacs: MisbehavingPacs) -> None:
    enhanced = Offer(sop_class_uid=ENHANCED_MR_IMAGE, transfer_syntax_uid=EXPLICIT)
    outcome = associate(peer(pacs.port), [enhanced], ae_title=US, push=PATIENT)
    assert isinstance(outcome, Outcome)
    assert outcome.reason is Reason.NO_CONTEXT
    assert outcome.detail == "Enhanced MR Image Storage (Implicit VR Little Endian, Explicit VR Little Endian)"


def test_an_instance_that_no_context_carries_is_not_sent(pacs: MisbehavingPacs, tmp_path: Path) -> None:
    path = write_mr_series(tmp_path, slices=1)[0]
    rle = Offer(sop_class_uid=MR_IMAGE, transfer_syntax_uid=str(RLELossless))
    link = associate(peer(pacs.port), [MR_EXPLICIT, rle], ae_title=US, push=PATIENT)
    assert isinstance(link, Link)
    assert not link.carries(rle)
    assert send(link, path, rle).reason is Reason.NO_CONTEXT
    assert send(link, path).status == 0x0000
    link.release()


@pytest.mark.parametrize(
    ("trick", "reason"),
    [
        (Trick.HANG, Reason.NO_RESPONSE),
        (Trick.ABORT, Reason.ABORTED),
        (Trick.LOSE_ANSWER, Reason.LOST),
        (Trick.HALF_ANSWER, Reason.NO_RESPONSE),
    ],
)
def test_a_missing_answer_says_why(pacs: MisbehavingPacs, tmp_path: Path, trick: Trick, reason: Reason) -> None:
    path = write_mr_series(tmp_path, slices=1)[0]
    pacs.answers.append(trick)
    link = link_to(pacs.port, HASTY)
    outcome = send(link, path)
    assert (outcome.status, outcome.reason) == (None, reason)
    assert send(link, path).status is None  # the association has ended: said at once, nothing raised
    link.release()
    assert len(pacs.arrivals) == 1


def test_a_peer_that_stops_reading_in_the_middle_of_an_instance_does_not_hold_us(
    pacs: MisbehavingPacs, tmp_path: Path
) -> None:
    """4 MB fill the buffers of the kernel, so that we block in ``send``."""
    path = write_mr_series(tmp_path, slices=1, size=1448)[0]
    with stalling_relay(pacs.port, after_bytes=65536) as port:
        link = link_to(port, HASTY)
        outcome = send(link, path)
        link.release()
    assert outcome.status is None
    assert outcome.reason in (Reason.NO_RESPONSE, Reason.LOST)


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xA700, 0xC123, 0x0110, 0xFE00, 0x1234])
def test_every_status_comes_back_as_it_was_sent(pacs: MisbehavingPacs, tmp_path: Path, status: int) -> None:
    path = write_mr_series(tmp_path, slices=1)[0]
    pacs.answers.append(status)
    link = link_to(pacs.port)
    assert send(link, path).status == status
    link.release()


def test_offending_elements_come_back_as_keywords_and_the_peers_free_text_does_not(
    pacs: MisbehavingPacs, tmp_path: Path
) -> None:
    answer = Dataset()
    answer.Status = 0xB000
    answer.OffendingElement = [0x00100020, 0x00100010]
    answer.ErrorComment = "Doe^John"
    pacs.answers.append(answer)
    link = link_to(pacs.port)
    outcome = send(link, write_mr_series(tmp_path, slices=1)[0])
    link.release()
    assert outcome.offending == ("PatientID", "PatientName")
    assert "Doe" not in repr(outcome) + outcome.sentence


def test_send_files_sends_folders_and_files_once_and_reports_each(pacs: MisbehavingPacs, tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path / "series", slices=3)
    (tmp_path / "series" / "notes.txt").write_text("no DICOM")
    stray = tmp_path / "stray.txt"
    stray.write_text("no DICOM either")
    gone = tmp_path / "gone.dcm"
    pacs.answers.extend([0x0000, 0xC000])
    sent = list(send_files(peer(pacs.port), [tmp_path / "series", stray, gone], ae_title=US, push=PATIENT))
    assert {one.path: (one.outcome.reason, one.outcome.status) for one in sent} == {
        stray: (Reason.UNREADABLE, None),
        gone: (Reason.UNREADABLE, None),
        paths[0]: (Reason.ANSWERED, 0x0000),
        paths[1]: (Reason.ANSWERED, 0xC000),
        paths[2]: (Reason.ANSWERED, 0x0000),
    }
    assert len(pacs.arrivals) == 3


def test_send_files_to_a_peer_that_is_off_reports_each_file(tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path, slices=2)
    sent = list(send_files(peer(free_port()), paths, ae_title=US, push=PATIENT))
    assert [one.outcome.reason for one in sent] == [Reason.UNREACHABLE] * 2


@needs_dcmtk
def test_storescp_gets_the_very_bytes(tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path / "in", slices=3, size=64)
    with storescp(tmp_path / "out", "+B") as port:  # +B: written exactly as received
        statuses = [one.outcome.status for one in send_files(peer(port), paths, ae_title=US, push=PATIENT)]
    assert statuses == [0x0000] * 3
    stored = {hashlib.sha256(dataset_bytes(path)).digest() for path in (tmp_path / "out").iterdir()}
    assert stored == {hashlib.sha256(dataset_bytes(path)).digest() for path in paths}


@needs_orthanc
def test_orthanc_gets_every_instance_with_its_pixels(tmp_path: Path) -> None:
    datasets = mr_datasets(slices=4)
    paths = write_series(tmp_path / "in", datasets)
    with orthanc(tmp_path / "orthanc") as running:
        to = peer(running.dicom_port, ae_title=AE_TITLE)
        assert echo(to, ae_title=US, push=PATIENT).status == 0x0000
        assert [one.outcome.status for one in send_files(to, paths, ae_title=US, push=PATIENT)] == [0x0000] * 4
        assert running.series() == {str(datasets[0].SeriesInstanceUID): 4}
        (tmp_path / "back.dcm").write_bytes(running.files()[str(datasets[2].SOPInstanceUID)])
    assert dcmread(tmp_path / "back.dcm").PixelData == datasets[2].PixelData


@needs_orthanc
def test_orthanc_rejects_a_called_title_that_is_not_its_own(tmp_path: Path) -> None:
    with orthanc(tmp_path) as running:
        outcome = echo(peer(running.dicom_port, ae_title="WRONG"), ae_title=US, push=PATIENT)
    assert outcome.reason is Reason.REJECTED
    assert "1/1/7" in outcome.sentence
