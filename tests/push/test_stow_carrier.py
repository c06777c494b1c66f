"""Deliveries by STOW-RS reach the server whole, as the same bytes, or are held with the reason, whatever it answers."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.dimse.outcome import RequestOutcome, RequestReason
from dicomnode.ids import digest
from dicomnode.push import stow_carrier
from dicomnode.push.carriers import Carriers, carriers_of
from dicomnode.push.peer_loop import ABORTS_BEFORE_HOLD, PeerLoop
from dicomnode.push.proof_loop import ProofLoop
from dicomnode.push.send_files import send_files
from dicomnode.push.stow_carrier import StowCarrier
from dicomnode.push.witness import Witness
from dicomnode.settings.load import parse
from dicomnode.settings.models import PushSettings, TlsSettings
from dicomnode.settings.peers import PeerSettings
from dicomnode.stow.server import Server
from tests.support.certificates import Authority, listener
from tests.support.dcmtk import free_port
from tests.support.dicomweb import Answer, DicomwebServer
from tests.support.due_delivery import SWIFT, Derived, Node
from tests.support.hasty_server import hasty_server
from tests.support.mr_series import write_mr_series
from tests.support.orthanc import WITH_DICOMWEB, needs_dicomweb, needs_orthanc, orthanc
from tests.support.wait import wait_until

NEW_TOKEN = "geheim-1"  # noqa: S105 (of the double)
TIRELESS = SWIFT.model_copy(update={"backoff_min_s": 0.01, "backoff_max_s": 0.02})


@pytest.fixture
def server() -> Iterator[DicomwebServer]:
    with DicomwebServer() as running:
        yield running


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    opened = Node(tmp_path / "node")
    yield opened
    opened.close()


def carriers(push: PushSettings = TIRELESS) -> Carriers:
    return carriers_of(parse({"push": push.model_dump()}))


def witness(push: PushSettings = TIRELESS) -> Witness:
    return Witness(carriers(push))


def peer_at(url: str, **keys: object) -> PeerSettings:
    return PeerSettings.model_validate({"name": "pacs", "url": url, **keys})


def push(node: Node, server: DicomwebServer, push: PushSettings = TIRELESS) -> PeerLoop:
    return node.push(peer_at(server.url), push, carriers(push))


def files_of(derived: Derived) -> dict[str, str]:
    """SHA-256 of the whole file, by SOP Instance UID."""
    return {uid: digest(file.read_bytes()) for uid, file in zip(derived.sha256, derived.files, strict=True)}


def kept(server: DicomwebServer) -> dict[str, str]:
    return {uid: digest(file) for uid, file in server.held.items()}


def counts(server: DicomwebServer) -> list[int]:
    """How many instances each request held that was read."""
    numbers = [arrival.request for arrival in server.arrivals]
    return [numbers.count(number) for number in sorted(set(numbers))]


def test_a_delivery_arrives_whole_in_one_request_with_the_bytes_of_the_files(
    node: Node, server: DicomwebServer
) -> None:
    derived = node.derive("pacs", instances=5)
    push(node, server)
    sent = node.wait_for("sent")
    assert (sent.acknowledged, sent.items, sent.attempts) == (5, 5, 1)
    assert kept(server) == files_of(derived)
    assert [one.sop_instance_uid for one in server.arrivals] == list(derived.sha256), "in the order of the slices"
    assert server.requests == ["POST /studies"]


@pytest.mark.parametrize("is_xml", [False, True])
def test_what_a_server_did_not_store_is_refused_by_name_and_the_others_are_not_sent_again(
    node: Node, server: DicomwebServer, is_xml: bool
) -> None:
    derived = node.derive("pacs", instances=4)
    server.answers.append(Answer(status=202, failed={1: 0xA900, 2: 0xC122}, is_xml=is_xml))
    loop = push(node, server)
    held = node.wait_for("held")
    assert (held.reason, held.acknowledged) == ("refused", 2)
    assert set(server.held) == {list(derived.sha256)[place] for place in (0, 3)}
    node.retry()
    loop.wake()
    assert node.wait_for("sent").acknowledged == 4
    assert counts(server) == [4, 2]


def test_a_conflict_is_read_item_by_item(node: Node, server: DicomwebServer) -> None:
    node.derive("pacs", instances=3)
    server.answers.append(Answer(status=409, failed={0: 0x0110, 1: 0x0110, 2: 0x0110}))
    push(node, server)
    assert node.wait_for("sent").acknowledged == 3, "a failure of processing is tried again"
    assert counts(server) == [3, 3]


def test_an_instance_that_always_fails_is_refused_after_three_tries_and_the_others_arrive(
    node: Node, server: DicomwebServer
) -> None:
    node.derive("pacs", instances=3)
    server.answers.extend([Answer(status=202, failed={1: 0x0110}), *[Answer(status=409, failed={0: 0x0110})] * 5])
    push(node, server)
    held = node.wait_for("held")
    assert (held.reason, held.acknowledged, server.requests_to_store) == ("refused", 2, 3)


def test_a_warning_is_an_acknowledgement_and_is_shown(node: Node, server: DicomwebServer) -> None:
    derived = node.derive("pacs", instances=2)
    server.answers.append(Answer(status=202, warned={0: 0xB007}))
    push(node, server)
    assert node.wait_for("sent").acknowledged == 2
    assert any("B007" in (event.detail or "") for event in node.events(derived)) or server.requests_to_store == 1


@pytest.mark.parametrize("body", [b"", b"<html>thank you</html>", b"{", b"[1]", b'{"00081199": {"Value": [{}]}}'])
@pytest.mark.parametrize("status", [200, 202])
def test_instances_that_an_answer_does_not_name_are_looked_up(
    node: Node, server: DicomwebServer, status: int, body: bytes
) -> None:
    derived = node.derive("pacs", instances=5)
    server.is_paged = True
    server.answers.append(Answer(status=status, body=body, failed={1: 0x0110}))
    push(node, server)
    assert node.wait_for("sent").acknowledged == 5
    assert kept(server) == files_of(derived)
    assert counts(server) == [5, 1], "what the search does not show is sent again, and nothing else"


def test_an_answer_that_breaks_off_is_completed_by_a_search(node: Node, server: DicomwebServer) -> None:
    node.derive("pacs", instances=3)
    server.answers.append(Answer(cut="body"))
    push(node, server)
    assert node.wait_for("sent").acknowledged == 3
    assert server.requests_to_store == 1


def test_without_a_search_an_answer_of_200_counts_and_one_of_202_does_not(node: Node, server: DicomwebServer) -> None:
    node.derive("pacs", instances=2)
    server.has_search = False
    server.answers.extend([Answer(status=202, body=b""), Answer(status=200, body=b"")])
    push(node, server)
    assert node.wait_for("sent").acknowledged == 2
    assert server.requests_to_store == 2


def test_a_request_that_is_too_large_is_halved_and_the_size_is_remembered(node: Node, server: DicomwebServer) -> None:
    derived = node.derive("pacs", instances=8)
    size = derived.files[0].stat().st_size
    server.most_bytes = 3 * size
    loop = push(node, server)
    assert node.wait_for("sent").acknowledged == 8
    assert kept(server) == files_of(derived)
    assert counts(server) == [2, 2, 2, 2]
    refused = server.requests_to_store - 4
    assert refused <= 3
    node.derive("pacs", instances=4)
    loop.wake()
    wait_until(lambda: [one.state for one in node.deliveries()] == ["sent", "sent"])
    assert server.requests_to_store - refused == len(counts(server)), "none of the second delivery was too large"


def test_an_object_that_is_too_large_alone_holds_the_delivery(node: Node, server: DicomwebServer) -> None:
    node.derive("pacs", instances=2)
    server.most_bytes = 100
    push(node, server)
    held = node.wait_for("held")
    assert (held.reason, held.acknowledged) == ("too_large", 0)
    assert "HTTP 413" in held.sentence


def test_a_request_has_no_more_than_its_bytes(
    node: Node, server: DicomwebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    derived = node.derive("pacs", instances=7)
    monkeypatch.setattr(stow_carrier, "MOST_BYTES", int(2.5 * derived.files[0].stat().st_size))
    push(node, server)
    node.wait_for("sent")
    assert counts(server) == [2, 2, 2, 1]


@pytest.mark.parametrize("status", [400, 409, 415, 422, 500])
def test_an_instance_for_which_the_whole_request_is_refused_does_not_lose_the_others(
    node: Node, server: DicomwebServer, status: int
) -> None:
    """Four, then two with the bad one, then the bad one alone; an answer without a word on instances."""
    derived = node.derive("pacs", instances=4)
    refused = Answer(status=status, body=b"", is_kept=False)
    server.answers.extend([refused, refused, refused, Answer(), Answer(), *[refused] * 20])
    push(node, server)
    held = node.wait_for("held")
    assert (held.reason, held.acknowledged) == ("refused", 3)
    assert next(iter(derived.sha256)) not in server.held


@pytest.mark.parametrize(("status", "reason"), [(403, "unauthorised"), (404, "no_service"), (302, "no_service")])
def test_what_an_operator_has_to_change_holds_the_delivery_at_once(
    node: Node, server: DicomwebServer, status: int, reason: str
) -> None:
    node.derive("pacs", instances=2)
    server.answers.append(Answer(status=status, body=b"", is_kept=False))
    push(node, server)
    held = node.wait_for("held")
    assert (held.reason, held.acknowledged, server.requests_to_store) == (reason, 0, 1)
    assert f"HTTP {status}" in held.sentence


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_is_occupied_gets_everything_later(node: Node, server: DicomwebServer, status: int) -> None:
    node.derive("pacs", instances=2)
    server.answers.extend([Answer(status=status, body=b"", is_kept=False)] * 4)
    push(node, server)
    assert node.wait_for("sent").acknowledged == 2
    assert server.requests_to_store == 5


@pytest.mark.parametrize("cut", ["request", "answer"])
def test_a_connection_that_is_cut_once_costs_a_second_request_with_the_same_bytes(
    node: Node, server: DicomwebServer, cut: str
) -> None:
    derived = node.derive("pacs", instances=3)
    server.answers.append(Answer(cut=cut))
    push(node, server)
    assert node.wait_for("sent").acknowledged == 3
    assert kept(server) == files_of(derived)
    assert {one.sha256 for one in server.arrivals} == set(files_of(derived).values())


def test_a_server_that_always_cuts_the_connection_is_not_tried_for_ever(node: Node, server: DicomwebServer) -> None:
    node.derive("pacs", instances=2)
    server.answers.extend([Answer(cut="answer")] * 40)
    push(node, server)
    held = node.wait_for("held")
    assert (held.reason, held.acknowledged) == ("lost", 0)
    assert server.requests_to_store == ABORTS_BEFORE_HOLD


def test_a_server_that_is_away_is_tried_again(node: Node) -> None:
    node.derive("pacs")
    node.push(peer_at(f"http://127.0.0.1:{free_port()}"), TIRELESS, carriers())
    wait_until(lambda: node.delivery().reason == "unreachable")


def test_a_server_that_says_nothing_is_tried_again_and_a_stop_ends_the_wait(node: Node) -> None:
    hasty = TIRELESS.model_copy(update={"response_timeout_s": 0.3})
    node.derive("pacs")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        node.push(peer_at(url), hasty, carriers(hasty))
        wait_until(lambda: node.delivery().reason == "no_response")


def test_an_abort_ends_a_request_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = Server(peer_at(f"http://127.0.0.1:{silent.getsockname()[1]}"), PushSettings(), TlsSettings())
        ended: list[RequestOutcome] = []
        thread = threading.Thread(target=lambda: ended.append(server.echo()))
        thread.start()
        accepted, _ = silent.accept()
        server.abort()
        thread.join(20)
        accepted.close()
    assert [one.reason for one in ended] == [RequestReason.ENDED]


def _token(folder: Path, text: str, mode: int = 0o400) -> Path:
    file = folder / "token"
    file.unlink(missing_ok=True)
    file.write_text(f"{text}\n")
    file.chmod(mode)
    return file


def test_a_token_that_is_refused_holds_the_delivery_and_stands_in_no_log(
    node: Node, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    node.derive("pacs", instances=2)
    with DicomwebServer(token=NEW_TOKEN) as server:
        peer = peer_at(server.url, token_file=str(_token(tmp_path, "geheim-0")))
        loop = node.push(peer, TIRELESS, carriers())
        held = node.wait_for("held")
        assert (held.reason, server.authorizations) == ("unauthorised", ["Bearer geheim-0"])
        _token(tmp_path, "geheim-1")
        node.retry()
        loop.wake()
        assert node.wait_for("sent").acknowledged == 2
        assert set(server.authorizations[1:]) == {"Bearer geheim-1"}
    assert "geheim" not in caplog.text + held.sentence


def test_a_token_file_that_everybody_may_read_is_not_used(tmp_path: Path) -> None:
    peer = peer_at("http://127.0.0.1:1", token_file=str(_token(tmp_path, "geheim", 0o444)))
    with pytest.raises(Exception, match="every user of this machine may read it") as raised:
        StowCarrier(TIRELESS, TlsSettings()).open(peer, [])
    assert "geheim" not in str(raised.value)


def test_under_tls_the_server_and_we_are_who_an_authority_says(node: Node, tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "other")
    ours = authority.issue("node")
    ours.key.chmod(0o400)
    tls = {"certificate": str(ours.certificate), "key": str(ours.key), "ca": str(authority.certificate)}
    known = StowCarrier(TIRELESS, TlsSettings.model_validate(tls))
    node.derive("pacs", instances=2)
    with DicomwebServer(context=listener(authority, authority.issue("server"), asks=True)) as server:
        refused = known.server(peer_at(server.url, ca=str(stranger.certificate))).echo()
        assert refused.reason is RequestReason.TLS
        assert "`peer.ca`" in refused.sentence
        peer = peer_at(server.url, ca=str(authority.certificate))
        assert carriers().echo(peer).reason is RequestReason.TLS, "a server that asks for our certificate gets one"
        node.push(peer, TIRELESS, known)
        assert node.wait_for("sent").acknowledged == 2


def test_an_echo_names_no_image_and_says_what_is_wrong(server: DicomwebServer) -> None:
    assert carriers().echo(peer_at(server.url)).status == 0
    assert server.requests == ["GET /instances"]
    server.has_search = False
    assert carriers().echo(peer_at(server.url)).reason is RequestReason.NO_SERVICE
    server.has_search, server.token = True, "geheim"
    assert carriers().echo(peer_at(server.url)).reason is RequestReason.UNAUTHORISED


def test_what_was_sent_is_looked_up_and_what_is_gone_is_sent_again(node: Node, server: DicomwebServer) -> None:
    derived = node.derive("pacs", instances=5)
    peer, once = peer_at(server.url), TIRELESS.model_copy(update={"commit_wait_s": 0.2})
    proof = ProofLoop(peer, peer, once, node.ledger, node.archive, witness=witness(once))
    server.is_paged = True
    push(node, server, once)
    node.wait_for("sent")
    server.held.pop(list(derived.sha256)[2])
    proof.start()
    try:
        wait_until(lambda: node.delivery().proof == "queried")
    finally:
        assert proof.stop(10)
    assert kept(server) == files_of(derived)
    assert counts(server) == [5, 1]


def test_files_are_sent_and_each_is_reported(server: DicomwebServer, tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path / "series", slices=3)
    server.answers.append(Answer(status=202, failed={2: 0xC000}))
    sent = list(send_files(carriers(), peer_at(server.url), [tmp_path / "series"]))
    assert [(one.path, one.outcome.status) for one in sent] == list(zip(paths, [0, 0, 0xC000], strict=True))
    assert set(kept(server).values()) == {digest(path.read_bytes()) for path in paths[:2]}


def test_a_token_that_is_replaced_while_a_request_is_on_its_way_is_used_at_once(node: Node, tmp_path: Path) -> None:
    node.derive("pacs", instances=2)
    with DicomwebServer(token=NEW_TOKEN) as server:
        server.refusing = lambda: _token(tmp_path, NEW_TOKEN)
        node.push(peer_at(server.url, token_file=str(_token(tmp_path, "geheim-0"))), TIRELESS, carriers())
        assert node.wait_for("sent").acknowledged == 2
        assert server.authorizations == ["Bearer geheim-0", f"Bearer {NEW_TOKEN}"]


@needs_orthanc
@needs_dicomweb
def test_orthanc_gets_a_delivery_by_dicomweb_and_shows_that_it_has_it(node: Node, tmp_path: Path) -> None:
    derived = node.derive("pacs", instances=12, size=64)
    with orthanc(tmp_path / "orthanc", settings=WITH_DICOMWEB) as pacs:
        peer = peer_at(pacs.dicomweb_url)
        assert carriers().echo(peer).status == 0
        proof = ProofLoop(peer, peer, TIRELESS, node.ledger, node.archive, witness=witness())
        node.push(peer, TIRELESS, carriers())
        assert node.wait_for("sent").acknowledged == 12
        proof.start()
        try:
            wait_until(lambda: node.delivery().proof == "queried")
        finally:
            assert proof.stop(10)
        assert {uid: digest(file) for uid, file in pacs.files().items()} == files_of(derived)


def test_a_server_that_hangs_up_on_our_certificate_is_named_though_its_alert_is_lost(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    ours = Authority(tmp_path, "foreign").issue("node")
    context = listener(authority, authority.issue("server"), asks=True)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    tls = {"certificate": str(ours.certificate), "key": str(ours.key), "ca": str(authority.certificate)}
    carrier = StowCarrier(TIRELESS, TlsSettings.model_validate(tls))
    with hasty_server(context) as port:
        peer = peer_at(f"https://127.0.0.1:{port}/dicom-web", ca=str(authority.certificate))
        outcomes = [carrier.server(peer).echo() for _ in range(3)]
    assert {outcome.reason for outcome in outcomes} == {RequestReason.TLS}
    assert all("does not know the authority of our certificate" in outcome.sentence for outcome in outcomes)
