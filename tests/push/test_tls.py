"""Sending under TLS: the peer's certificate is the right one, or one sentence says why there is no connection."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from dicomnode.dimse.outcome import RequestOutcome, RequestReason
from dicomnode.ids import AeTitle, digest
from dicomnode.push.carrier import InstanceFormat, Session
from dicomnode.push.dimse_carrier import DimseCarrier
from dicomnode.push.send_files import send_files
from dicomnode.settings.models import PushSettings, TlsSettings
from dicomnode.settings.peers import PeerSettings
from dicomnode.tls.identity import Identity
from dicomnode.wire import MR_IMAGE
from tests.support.certificates import Authority, Issued, listener
from tests.support.dcmtk import free_port, is_listening, needs_dcmtk, storescp
from tests.support.dicom import dataset_bytes
from tests.support.due_delivery import SWIFT, Node
from tests.support.hasty_server import hasty_server
from tests.support.misbehaving_pacs import MisbehavingPacs, Trick, silent_listener
from tests.support.mr_series import write_mr_series
from tests.support.wait import wait_until

DAY = timedelta(days=1)
PATIENT = PushSettings(connect_timeout_s=10.0, response_timeout_s=10.0)
HASTY = PushSettings(connect_timeout_s=0.5, response_timeout_s=0.7)
MR_EXPLICIT = InstanceFormat(sop_class_uid=MR_IMAGE, transfer_syntax_uid="1.2.840.10008.1.2.1")


@dataclass(frozen=True, kw_only=True)
class Hospital:
    """An authority, the node's certificate and the PACS's."""

    authority: Authority
    node: Issued
    pacs: Issued

    def carrier(self, push: PushSettings = PATIENT, *, with_certificate: bool = True) -> DimseCarrier:
        """The node's own sender."""
        files = {"certificate": str(self.node.certificate), "key": str(self.node.key)} if with_certificate else {}
        settings = TlsSettings.model_validate({**files, "ca": str(self.authority.certificate)})
        return DimseCarrier(ae_title=AeTitle("DICOMNODE"), push=push, identity=Identity(settings))


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    authority = Authority(tmp_path_factory.mktemp("hospital"))
    return Hospital(authority=authority, node=authority.issue("node"), pacs=authority.issue("pacs"))


def peer(
    port: int,
    *,
    host: str = "127.0.0.1",
    fingerprints: tuple[str, ...] = (),
    certificate_names: tuple[str, ...] = (),
) -> PeerSettings:
    return PeerSettings(
        name="pacs",
        ae_title=AeTitle("PACS"),
        address=f"{host}:{port}",
        tls=True,
        fingerprints=fingerprints,
        certificate_names=certificate_names,
    )


def bare(issued: Issued) -> str:
    return issued.fingerprint.replace(":", "").lower()


@contextmanager
def pacs_with(hospital: Hospital, issued: Issued, *, asks: bool = True) -> Iterator[MisbehavingPacs]:
    with MisbehavingPacs(tls=listener(hospital.authority, issued, asks=asks)) as running:
        yield running


def echo(carrier: DimseCarrier, to: PeerSettings) -> RequestOutcome:
    return carrier.echo(to)


@pytest.mark.parametrize("asks", [True, False])
def test_a_pacs_whose_certificate_names_its_host_is_sent_to(hospital: Hospital, asks: bool, tmp_path: Path) -> None:
    files = write_mr_series(tmp_path / "thick", slices=3)
    with pacs_with(hospital, hospital.pacs, asks=asks) as pacs:
        for host in ("127.0.0.1", "localhost"):
            assert hospital.carrier(with_certificate=asks).echo(peer(pacs.port, host=host)).status == 0
        sent = list(send_files(hospital.carrier(), peer(pacs.port), files))
        assert [one.outcome.status for one in sent] == [0, 0, 0]
        assert [one.sha256 for one in pacs.arrivals] == [digest(dataset_bytes(file)) for file in files]


@needs_dcmtk
def test_storescp_gets_every_instance_under_tls(hospital: Hospital, tmp_path: Path) -> None:
    files = write_mr_series(tmp_path / "thick", slices=3)
    options = ["+tls", str(hospital.pacs.key), str(hospital.pacs.certificate)]
    options += ["+cf", str(hospital.authority.certificate), "-aet", "PACS", "+xa"]
    with storescp(tmp_path / "received", *options) as port:
        sent = list(send_files(hospital.carrier(), peer(port, fingerprints=(bare(hospital.pacs),)), files))
        assert [one.outcome.status for one in sent] == [0, 0, 0]
    arrived = {digest(dataset_bytes(file)) for file in (tmp_path / "received").iterdir()}
    assert arrived == {digest(dataset_bytes(file)) for file in files}


@pytest.mark.parametrize(
    ("by_name", "wanted", "is_in"),
    [
        (False, "", True),  # "" stands for the fingerprint of its certificate
        (True, "pacs.example.org", True),
        (False, "ab" * 32, False),
        (True, "127.0.0.1", False),
    ],
)
def test_a_pacs_is_bound_to_its_certificate_whatever_its_address_is(
    hospital: Hospital, by_name: bool, wanted: str, is_in: bool
) -> None:
    elsewhere = hospital.authority.issue("pacs", names=("DNS:pacs.example.org",), file=f"elsewhere-{wanted}")
    wanted = wanted or bare(elsewhere)
    with pacs_with(hospital, elsewhere) as pacs:
        bound = peer(pacs.port, certificate_names=(wanted,)) if by_name else peer(pacs.port, fingerprints=(wanted,))
        outcome = echo(hospital.carrier(), bound)
        if is_in:
            assert outcome.status == 0
            return
        assert outcome.reason is RequestReason.TLS
        assert "its certificate is none of those" in outcome.sentence
        assert bare(elsewhere) in outcome.sentence, "whoever reads it can compare it, and name it"
        assert pacs.requested == 0


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("expired", "the peer's certificate has expired"),
        ("not yet", "the peer's certificate is not valid yet"),
        ("other authority", "the peer's certificate comes from no authority in `tls.ca`"),
        ("other host", "the peer's certificate does not name the IP address of its `address`"),
        ("for clients only", "the peer's certificate is not made for this use"),
    ],
)
def test_a_pacs_whose_certificate_does_not_hold_is_not_sent_to(
    hospital: Hospital, tmp_path: Path, case: str, words: str
) -> None:
    authority = hospital.authority
    match case:
        case "expired":
            issued = authority.issue("pacs", begins=-9 * DAY, ends=-DAY, file="expired")
        case "not yet":
            issued = authority.issue("pacs", begins=DAY, file="not-yet")
        case "other authority":
            issued = Authority(tmp_path, "other").issue("pacs")
        case "other host":
            issued = authority.issue("pacs", names=("DNS:pacs.example.org",), file="other-host")
        case _:
            issued = authority.issue("pacs", usage="clientAuth", file="client")
    with pacs_with(hospital, issued) as pacs:
        outcome = echo(hospital.carrier(), peer(pacs.port))
        assert outcome.reason is RequestReason.TLS
        assert words in outcome.sentence
        assert pacs.requested == 0


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("case", "words"),
    [("foreign", "the peer does not know the authority of our certificate"), ("none", "certificate")],
)
def test_a_pacs_that_does_not_accept_our_certificate_is_named_as_the_cause(
    hospital: Hospital, tmp_path: Path, version: ssl.TLSVersion, case: str, words: str
) -> None:
    foreign = Authority(tmp_path, "foreign")
    context = listener(foreign, hospital.pacs, asks=True)
    context.maximum_version = version
    with reading_server(context) as port:
        outcome = echo(hospital.carrier(with_certificate=case == "foreign"), peer(port))
    assert outcome.reason is RequestReason.TLS
    assert words in outcome.sentence


@pytest.mark.parametrize(
    ("case", "words"), [("foreign", "does not know the authority"), ("none", "wants a certificate")]
)
def test_a_pacs_that_hangs_up_on_our_certificate_is_named_though_its_alert_is_lost(
    hospital: Hospital, tmp_path: Path, case: str, words: str
) -> None:
    """Under TLS 1.3 our request is on its way when the peer closes, and the reset takes the alert away."""
    context = listener(Authority(tmp_path, "foreign"), hospital.pacs, asks=True)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with hasty_server(context) as port:
        outcomes = [echo(hospital.carrier(with_certificate=case == "foreign"), peer(port)) for _ in range(3)]
    assert {outcome.reason for outcome in outcomes} == {RequestReason.TLS}
    assert all(words in outcome.sentence for outcome in outcomes)


@contextmanager
def reading_server(context: ssl.SSLContext) -> Iterator[int]:
    """One connection: the handshake, and then the bytes that come are read, so that what is said last arrives."""

    def serve(server: socket.socket) -> None:
        connected, _ = server.accept()
        with connected:
            connected.settimeout(10)
            try:
                with context.wrap_socket(connected, server_side=True, do_handshake_on_connect=False) as secured:
                    try:
                        secured.do_handshake()
                    except ssl.SSLError:
                        socket.socket.recv(secured, 65536)
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as server:
        serving = threading.Thread(target=serve, args=(server,))
        serving.start()
        yield int(server.getsockname()[1])
        serving.join(30)


def test_a_pacs_that_speaks_no_tls_is_named(hospital: Hospital) -> None:
    with MisbehavingPacs() as pacs:
        outcome = echo(hospital.carrier(), peer(pacs.port))
        assert outcome.reason is RequestReason.TLS
        assert "what the peer sent is not TLS" in outcome.sentence


def test_a_pacs_of_tls_1_1_is_named(hospital: Hospital) -> None:
    port = free_port()
    command = ["openssl", "s_server", "-accept", str(port), "-cert", str(hospital.pacs.certificate), "-key"]
    command += [str(hospital.pacs.key), "-tls1_1", "-cipher", "ALL:@SECLEVEL=0", "-quiet"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: is_listening(port), what="openssl listens")
        outcome = echo(hospital.carrier(), peer(port))
    finally:
        process.kill()
        process.wait(30)
    assert outcome.reason is RequestReason.TLS
    assert "neither TLS 1.2 nor TLS 1.3" in outcome.sentence


def test_a_pacs_that_hangs_up_or_says_nothing_is_tried_again(hospital: Hospital) -> None:
    """Either may pass: a PACS that restarts does so, too."""
    with silent_listener() as port:
        outcome = echo(hospital.carrier(HASTY), peer(port))
        assert outcome.reason is RequestReason.UNANSWERED
        assert "the handshake of TLS was not over after 0.5 s" in outcome.sentence

    def hang_up(server: socket.socket) -> None:
        server.accept()[0].close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        hanging_up = threading.Thread(target=hang_up, args=(server,))
        hanging_up.start()
        outcome = echo(hospital.carrier(), peer(int(server.getsockname()[1])))
        hanging_up.join(30)
    assert outcome.reason is RequestReason.LOST
    assert "perhaps the peer speaks no TLS there" in outcome.sentence


def test_an_association_can_be_aborted_while_the_peer_hangs(hospital: Hospital, tmp_path: Path) -> None:
    (file,) = write_mr_series(tmp_path / "thick", slices=1)
    with pacs_with(hospital, hospital.pacs) as pacs:
        pacs.answers.append(Trick.HANG)
        session = hospital.carrier().open(peer(pacs.port), [MR_EXPLICIT])
        assert not isinstance(session, RequestOutcome)
        threading.Timer(0.3, session.abort).start()
        sent = list(send_files(_Opened(session), peer(pacs.port), [file]))
        assert sent[0].outcome.status is None
        pacs.let_go.set()


class _Opened:
    """A carrier whose session is open already."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def open(self, peer: PeerSettings, formats: Collection[InstanceFormat]) -> Session | RequestOutcome:  # noqa: ARG002
        return self._session


def test_a_certificate_that_is_not_trusted_holds_the_delivery_after_three_tries(
    hospital: Hospital, tmp_path: Path
) -> None:
    node = Node(tmp_path / "node")
    other = Authority(tmp_path, "other").issue("pacs")
    try:
        node.derive("pacs")
        with pacs_with(hospital, other) as pacs:
            node.push_to("pacs", pacs.port, carrier=hospital.carrier(SWIFT), tls=True)
            held = node.wait_for("held")
            assert (held.reason, held.attempts, pacs.requested) == ("tls", 3, 0)
            assert "no authority in `tls.ca`" in held.sentence
    finally:
        node.close()


def test_a_delivery_goes_out_under_tls(hospital: Hospital, tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    try:
        derived = node.derive("pacs", instances=5)
        with pacs_with(hospital, hospital.pacs) as pacs:
            node.push_to("pacs", pacs.port, carrier=hospital.carrier(SWIFT), tls=True)
            assert node.wait_for("sent").attempts == 1
            assert [(one.sop_instance_uid, one.sha256) for one in pacs.arrivals] == list(derived.sha256.items())
    finally:
        node.close()
