"""The door under TLS: who gets in, with which certificate, and that nobody's handshake costs anybody else."""

from __future__ import annotations

import shutil
import socket
import ssl
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest

from dicomnode.ids import AeTitle
from dicomnode.settings.peers import PeerSettings
from tests.receive.receiving_node import LOOPBACK, ReceivingNode, receiving_node, said
from tests.support.certificates import Authority, Issued, caller, self_signed
from tests.support.dcmtk import needs_dcmtk, program
from tests.support.dicom import made, storescu, write_series
from tests.support.pdu import (
    ABORT,
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    MR_IMAGE,
    RELEASE_RP,
    RELEASE_RQ_BYTES,
    RawClient,
    associate_rq,
    c_echo_rq,
    p_data,
    raw_client,
    store_pdus,
)
from tests.support.thorough import times
from tests.support.wait import wait_until

LOADED_S = 12.0  # what a loaded machine may take for what takes a second
HALF_OPEN = times(40, 200)
SUITES = "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"


@dataclass(frozen=True, kw_only=True)
class Hospital:
    """An authority, the node's certificate and a scanner's."""

    authority: Authority
    node: Issued
    scanner: Issued

    def tls(self, **more: object) -> dict[str, object]:
        """The table [tls] of the node."""
        files = {"certificate": str(self.node.certificate), "key": str(self.node.key)}
        return {"listen": "127.0.0.1:0", **files, "ca": str(self.authority.certificate), **more}

    def storescu(self, issued: Issued | None = None) -> list[str]:
        """Options with which DCMTK's programs speak TLS."""
        who = issued or self.scanner
        return ["+tls", str(who.key), str(who.certificate), "+cf", str(self.authority.certificate)]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    authority = Authority(tmp_path_factory.mktemp("hospital"))
    return Hospital(authority=authority, node=authority.issue("node"), scanner=authority.issue("mr1"))


def scanner_of(hospital: Hospital) -> PeerSettings:
    """The one peer of the node, bound to its certificate by the fingerprint."""
    fingerprint = hospital.scanner.fingerprint.replace(":", "").lower()
    return PeerSettings(name="mr1", ae_title=AeTitle("TEST"), networks=LOOPBACK, fingerprints=(fingerprint,))


@pytest.fixture
def node(tmp_path: Path, hospital: Hospital) -> Iterator[ReceivingNode]:
    with receiving_node(tmp_path / "data", peers=[scanner_of(hospital)], tls=hospital.tls()) as running:
        yield running


@contextmanager
def tls_client(port: int, context: ssl.SSLContext, *, source: str = "127.0.0.1") -> Iterator[RawClient]:
    """A connection under TLS, from an address of this machine."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(source, 0)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        yield RawClient(connection)


@pytest.fixture
def client(node: ReceivingNode, hospital: Hospital) -> Iterator[RawClient]:
    """The scanner, with an association."""
    with tls_client(node.tls_port, caller(hospital.authority, hospital.scanner)) as connected:
        answer = connected.associate()
        assert answer is not None
        assert answer.kind == ASSOCIATE_AC, answer.code
        yield connected


def echo(node: ReceivingNode, hospital: Hospital, issued: Issued | None, **versions: ssl.TLSVersion) -> int:
    """The status of a C-ECHO over an association of its own."""
    context = caller(hospital.authority, issued)
    context.maximum_version = versions.get("version", ssl.TLSVersion.MAXIMUM_SUPPORTED)
    with tls_client(node.tls_port, context) as connected:
        answer = connected.associate()
        assert answer is not None
        assert answer.kind == ASSOCIATE_AC, answer.code
        status = connected.echo()
        connected.release()
        return status


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_scanner_is_let_in_with_either_version(
    node: ReceivingNode, hospital: Hospital, version: ssl.TLSVersion
) -> None:
    assert echo(node, hospital, hospital.scanner, version=version) == 0x0000


@needs_dcmtk
def test_storescu_delivers_a_series_and_echoscu_without_a_certificate_does_not_get_in(
    node: ReceivingNode, hospital: Hospital, tmp_path: Path
) -> None:
    files = write_series(tmp_path / "files", 5, size=256)
    sent = storescu(node.tls_port, files, "-xe", *hospital.storescu())
    assert sent.returncode == 0, sent.stderr
    assert len(node.files()) == 5
    command = [program("echoscu"), "-aet", "TEST", "-aec", "DICOMNODE", "+tla", "-ic", "127.0.0.1", str(node.tls_port)]
    assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode != 0


@pytest.mark.parametrize(
    ("options", "is_in"),
    [
        (["-tls1_3"], True),
        (["-tls1_2", "-cipher", SUITES[0]], True),
        (["-tls1_2", "-cipher", SUITES[1]], True),
        (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256"], False),
        (["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"], False),
        (["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], False),
        (["-tls1", "-cipher", "ALL:@SECLEVEL=0"], False),
    ],
)
def test_openssl_gets_in_with_the_versions_and_suites_of_the_profile_only(
    node: ReceivingNode, hospital: Hospital, options: list[str], is_in: bool
) -> None:
    command = [
        "openssl", "s_client", "-connect", f"127.0.0.1:{node.tls_port}", "-brief", "-cert",
        str(hospital.scanner.certificate), "-key", str(hospital.scanner.key), "-CAfile",
        str(hospital.authority.certificate), "-verify_return_error", *options,
    ]  # fmt: skip
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode == 0) is is_in, done.stderr
    assert ("CONNECTION ESTABLISHED" in done.stderr) is is_in


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("none", "the peer presented no certificate"),
        ("expired", "the peer's certificate has expired"),
        ("not yet", "the peer's certificate is not valid yet"),
        ("other authority", "the peer's certificate comes from no authority in `tls.ca`"),
        ("for servers only", "the peer's certificate is not made for this use"),
    ],
)
def test_a_certificate_that_does_not_hold_is_refused_by_an_alert_and_the_log_says_why(
    node: ReceivingNode,
    hospital: Hospital,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    version: ssl.TLSVersion,
    case: str,
    words: str,
) -> None:
    days, authority = timedelta(days=1), hospital.authority
    match case:
        case "none":
            issued = None
        case "expired":
            issued = authority.issue("mr1", begins=-9 * days, ends=-days, file=f"expired{version}")
        case "not yet":
            issued = authority.issue("mr1", begins=days, file=f"not-yet{version}")
        case "other authority":
            issued = Authority(tmp_path, "other").issue("mr1")
        case _:
            issued = authority.issue("mr1", usage="serverAuth", file=f"server{version}")
    with pytest.raises(ssl.SSLError, match="ALERT"):
        echo(node, hospital, issued, version=version)
    endings = wait_until(lambda: said(caplog, "association_ended"), what="the node has logged it")
    assert words in str(endings[0]["detail"])
    assert node.receiver.associations() == 0


def test_another_peer_of_the_same_authority_is_rejected_by_name_and_the_log_holds_no_name(
    node: ReceivingNode, hospital: Hospital, caplog: pytest.LogCaptureFixture
) -> None:
    other = hospital.authority.issue("Dr. Somebody", file="mr2")
    with tls_client(node.tls_port, caller(hospital.authority, other)) as connected:
        answer = connected.associate()
        assert answer is not None
        assert (answer.kind, answer.code) == (ASSOCIATE_RJ, (1, 1, 3))
    (line,) = said(caplog, "association_rejected")
    assert "the certificate is none of those" in str(line["sentence"])
    assert other.fingerprint.replace(":", "").lower() in str(line["detail"])
    assert "Somebody" not in str(line)


def test_a_peer_with_a_certificate_may_not_come_in_by_the_plain_port(
    node: ReceivingNode, caplog: pytest.LogCaptureFixture
) -> None:
    with raw_client(node.port) as connected:
        answer = connected.associate()
        assert answer is not None
        assert (answer.kind, answer.code) == (ASSOCIATE_RJ, (1, 1, 3))
    (line,) = said(caplog, "association_rejected")
    assert "let the sender use TLS" in str(line["sentence"])


def test_a_peer_is_known_by_a_name_of_its_certificate(tmp_path: Path, hospital: Hospital) -> None:
    named = hospital.authority.issue("mr3", names=("DNS:mr3.example.org",))
    peers = [
        scanner_of(hospital).model_copy(update={"fingerprints": (), "certificate_names": ("MR3.example.org",)}),
    ]
    with receiving_node(tmp_path / "data", peers=peers, tls=hospital.tls(), listen="") as node:
        assert node.port == 0, "with TLS alone"
        assert echo(node, hospital, named) == 0x0000
        with tls_client(node.tls_port, caller(hospital.authority, hospital.scanner)) as connected:
            answer = connected.associate()
            assert answer is not None
            assert answer.code == (1, 1, 3)


def test_peers_may_sign_for_themselves(tmp_path: Path) -> None:
    ours, theirs = self_signed(tmp_path, "node"), self_signed(tmp_path, "mr1")
    stranger = self_signed(tmp_path, "stranger")
    tls = {
        "listen": "127.0.0.1:0",
        "certificate": str(ours.certificate),
        "key": str(ours.key),
        "ca": str(theirs.certificate),
    }
    with receiving_node(tmp_path / "data", tls=tls) as node:
        with tls_client(node.tls_port, caller(ours, theirs)) as connected:
            assert connected.associate() is not None
            assert connected.echo() == 0x0000
        with (
            pytest.raises(ssl.SSLError, match="UNKNOWN_CA"),
            tls_client(node.tls_port, caller(ours, stranger)) as connected,
        ):
            connected.associate()


def test_the_authority_that_issued_is_enough_without_the_one_above_it(tmp_path: Path, hospital: Hospital) -> None:
    issuing = Authority(tmp_path, "issuing", above=hospital.authority)
    scanner = issuing.issue("mr1")
    table = hospital.tls(ca=str(issuing.certificate))
    with (
        receiving_node(tmp_path / "data", tls=table) as node,
        tls_client(node.tls_port, caller(hospital.authority, scanner)) as connected,
    ):
        assert connected.associate() is not None
        assert connected.echo() == 0x0000


def test_a_plain_client_at_the_port_for_tls_is_closed(node: ReceivingNode, caplog: pytest.LogCaptureFixture) -> None:
    with raw_client(node.tls_port) as connected:
        connected.send(associate_rq())
        content = b""
        with suppress(ConnectionError):
            while more := connected.connection.recv(1000):
                content += more
        assert content[:1] in (b"", b"\x15"), "an alert of TLS, or nothing, and no PDU"
    endings = wait_until(lambda: said(caplog, "association_ended"), what="the node has logged it")
    assert endings[0]["detail"] == "no TLS connection: what the peer sent is not TLS"


def test_command_and_data_in_one_record_are_answered_at_once(client: RawClient) -> None:
    one = made(1, size=64)
    content = store_pdus(MR_IMAGE, one.sop_instance_uid, one.dataset)
    assert len(content) < 16384, "one record"
    began_s = time.monotonic()
    client.send(content + p_data(1, c_echo_rq(2), is_command=True) + RELEASE_RQ_BYTES)
    assert client.status() == 0x0000
    assert client.status() == 0x0000
    answer = client.receive()
    assert answer is not None
    assert answer.kind == RELEASE_RP
    assert time.monotonic() - began_s < LOADED_S
    assert client.is_closed()


def test_a_large_object_arrives_byte_for_byte(node: ReceivingNode, client: RawClient) -> None:
    one = made(1, size=1024)
    assert client.store(MR_IMAGE, one.sop_instance_uid, one.dataset, pdv_bytes=131072 - 6) == 0x0000
    (file,) = node.files()
    assert file.read_bytes().endswith(one.dataset)


def test_a_client_that_vanishes_without_a_notice_leaves_a_series_that_waits(
    node: ReceivingNode, client: RawClient
) -> None:
    one = made(1)
    assert client.store(MR_IMAGE, one.sop_instance_uid, one.dataset) == 0x0000
    socket.socket.shutdown(client.connection, socket.SHUT_RDWR)
    node.wait_until_empty()
    (series,) = node.ledger.settling.receiving()
    assert series.aborted


def test_a_certificate_that_is_replaced_counts_for_new_connections_and_drops_none(
    tmp_path: Path, hospital: Hospital
) -> None:
    first, second = (hospital.authority.issue("node", file=name) for name in ("first", "second"))
    table = hospital.tls(certificate=str(first.certificate), key=str(first.key))
    context = caller(hospital.authority, hospital.scanner)

    def shown(connected: RawClient) -> str:
        assert isinstance(connected.connection, ssl.SSLSocket)
        encoded = connected.connection.getpeercert(binary_form=True)
        assert encoded is not None
        return ssl.DER_cert_to_PEM_cert(encoded).strip()

    before = first.certificate.read_text().strip()
    with (
        receiving_node(tmp_path / "data", peers=[scanner_of(hospital)], tls=table) as node,
        tls_client(node.tls_port, context) as old,
    ):
        old.associate()
        for now, then in ((second.certificate, first.certificate), (second.key, first.key)):
            shutil.copy(now, then)
        with tls_client(node.tls_port, context) as new:
            assert shown(new) == second.certificate.read_text().strip()
            assert new.associate() is not None
            assert new.echo() == 0x0000
            assert shown(old) == before
            assert old.echo() == 0x0000


def test_half_open_handshakes_delay_no_peer(tmp_path: Path, hospital: Hospital) -> None:
    """They come from a peer's network, with nothing or with the beginning of a handshake."""
    peers = [scanner_of(hospital).model_copy(update={"networks": (ip_network("127.0.0.0/8"),)})]
    seconds: list[float] = []
    with receiving_node(tmp_path / "data", peers=peers, tls=hospital.tls()) as node, ExitStack() as stack:
        for number in range(HALF_OPEN):
            half = stack.enter_context(raw_client(node.tls_port, source=f"127.0.1.{number % 50 + 1}"))
            half.send(b"\x16\x03\x01\x02\x00\x01" if number % 2 else b"")
        for _ in range(times(20, 100)):
            began_s = time.monotonic()
            assert echo(node, hospital, hospital.scanner) == 0x0000
            seconds.append(time.monotonic() - began_s)
    assert statistics.quantiles(seconds, n=20)[-1] < 1.0


def test_handshakes_that_stand_still_count_for_their_address_and_the_oldest_makes_room(
    tmp_path: Path, hospital: Hospital, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        receiving_node(
            tmp_path / "data", peers=[scanner_of(hospital)], tls=hospital.tls(), max_associations=2, max_per_address=1
        ) as node,
        ExitStack() as stack,
    ):
        silent = [stack.enter_context(raw_client(node.tls_port)) for _ in range(2)]
        wait_until(lambda: len(node.receiver._live()) == 2)
        assert echo(node, hospital, hospital.scanner) == 0x0000
        assert silent[0].is_closed()
        assert [line["address"] for line in said(caplog, "handshake_dropped")] == ["127.0.0.1"]


def test_a_handshake_that_is_not_over_in_time_is_ended(
    tmp_path: Path, hospital: Hospital, caplog: pytest.LogCaptureFixture
) -> None:
    table = hospital.tls(handshake_timeout_s=0.3)
    with receiving_node(tmp_path / "data", peers=[scanner_of(hospital)], tls=table) as node:
        with raw_client(node.tls_port) as connected:
            began_s = time.monotonic()
            assert connected.is_closed()
            assert time.monotonic() - began_s < LOADED_S
        endings = wait_until(lambda: said(caplog, "association_ended"))
        assert "tls.handshake_timeout_s" in str(endings[0]["detail"])
        with tls_client(node.tls_port, caller(hospital.authority, hospital.scanner)) as connected:
            threading.Event().wait(0.5)  # longer than the handshake may take: its limit holds no more
            assert connected.associate() is not None


def test_the_limits_of_a_pdu_hold_under_tls(tmp_path: Path, hospital: Hospital) -> None:
    context = caller(hospital.authority, hospital.scanner)
    peers = [scanner_of(hospital)]
    with receiving_node(tmp_path / "data", peers=peers, tls=hospital.tls(), pdu_timeout_s=0.5) as node:
        for content, code in ((b"\x04\0\0", (2, 0)), (b"\x04\0\x7f\xff\xff\xff", (2, 6))):
            with tls_client(node.tls_port, context) as connected:
                connected.associate()
                connected.send(content)
                answer = connected.receive()
                assert answer is not None
                assert (answer.kind, answer.code) == (ABORT, code)
                assert connected.is_closed()


def test_a_stop_aborts_an_open_association_under_tls(node: ReceivingNode, client: RawClient) -> None:
    node.receiver.stop(0.0)
    answer = client.receive()
    assert answer is not None
    assert (answer.kind, answer.code) == (ABORT, (0, 0))
