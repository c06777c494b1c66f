"""Sound streams and data sets with something wrong in them, by the thousand, at a real node, plain and under TLS.

Random bytes rarely get past the first length. These begin as what a scanner sends, and then bytes are turned, cut out,
doubled or put in. After each one the node answers somebody else; what it acknowledged lies in the archive as it came;
and nothing that happened was unforeseen: no line of the log has a traceback.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicomnode.archive.store import FileState
from dicomnode.ids import digest
from tests.receive.receiving_node import ReceivingNode, receiving_node
from tests.support.certificates import Authority, caller
from tests.support.dicom import encoded, made, mr_dataset
from tests.support.pdu import MR_IMAGE, RELEASE_RQ_BYTES, RawClient, associate_rq, c_echo_rq, p_data, store_pdus
from tests.support.thorough import times

EXAMPLES = times(25, 10_000)
WAIT_S = 10.0
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
Connect = Callable[[], AbstractContextManager[RawClient]]

change = st.tuples(
    st.sampled_from(["turn", "cut", "double", "insert", "zero", "ones"]),
    st.integers(min_value=0, max_value=1 << 16),  # where
    st.integers(min_value=1, max_value=64),  # how many bytes
    st.binary(min_size=1, max_size=16),
)
changes = st.lists(change, min_size=1, max_size=4)


def changed(content: bytes, wanted: list[tuple[str, int, int, bytes]]) -> bytes:
    """The content with the changes made, one after the other."""
    for kind, where, size, more in wanted:
        at = where % max(len(content), 1)
        head, middle, tail = content[:at], content[at : at + size], content[at + size :]
        content = {
            "turn": head + bytes(byte ^ more[0] for byte in middle) + tail,
            "cut": head + tail,
            "double": head + middle + middle + tail,
            "insert": head + more + middle + tail,
            "zero": head + bytes(len(middle)) + tail,
            "ones": head + b"\xff" * len(middle) + tail,
        }[kind]
    return content


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[ReceivingNode]:
    ours = authority.issue("node")
    tls = {
        "listen": "127.0.0.1:0", "certificate": str(ours.certificate), "key": str(ours.key),
        "ca": str(authority.certificate),
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("node")
    with receiving_node(
        folder, tls=tls, max_instance_mb=1, associate_timeout_s=2.0, pdu_timeout_s=2.0, idle_timeout_s=2.0
    ) as running:
        yield running


@pytest.fixture(scope="module", params=["plain", "TLS"])
def connect(request: pytest.FixtureRequest, node: ReceivingNode, authority: Authority) -> Connect:
    """Opens a connection to the node."""
    context = caller(authority, authority.issue("mr1"))

    @contextmanager
    def opened() -> Iterator[RawClient]:
        is_plain = request.param == "plain"
        with socket.create_connection(("127.0.0.1", node.port if is_plain else node.tls_port), WAIT_S) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if is_plain:
                yield RawClient(plain)
                return
            with context.wrap_socket(plain) as secured:
                yield RawClient(secured)

    return opened


@pytest.fixture(autouse=True)
def _nothing_is_unforeseen(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.ERROR)
    yield
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


STREAM = b"".join(
    [
        associate_rq(),
        p_data(1, c_echo_rq(), is_command=True),
        store_pdus(MR_IMAGE, made(1).sop_instance_uid, made(1).dataset, pdv_bytes=500),
        RELEASE_RQ_BYTES,
    ]
)


@pytest.mark.timeout(times(900, 7200))
@SETTINGS
@given(wanted=changes)
def test_a_stream_with_something_wrong_in_it_ends_its_own_association_only(
    connect: Connect,
    wanted: list[tuple[str, int, int, bytes]],
) -> None:
    with connect() as client, suppress(OSError):  # the node may have closed by then
        client.send(changed(STREAM, wanted))
        with suppress(OSError, ssl.SSLError):
            socket.socket.shutdown(client.connection, socket.SHUT_WR)
        while client.receive() is not None:
            pass
    with connect() as client:
        client.associate()
        assert client.echo() == 0x0000


@pytest.mark.timeout(times(900, 7200))
@SETTINGS
@given(wanted=changes)
def test_a_data_set_with_something_wrong_in_it_is_kept_as_it_came_or_refused(
    node: ReceivingNode,
    connect: Connect,
    wanted: list[tuple[str, int, int, bytes]],
) -> None:
    dataset = mr_dataset(1)
    uid = str(dataset.SOPInstanceUID)
    content = changed(encoded(dataset), wanted)
    with connect() as client:
        client.associate()
        answer = client.store(MR_IMAGE, uid, content)
        assert client.echo() == 0x0000, "the association goes on"
    assert answer in (0x0000, 0xA900, 0xC000)
    if answer == 0x0000:
        known = node.ledger.intake.find_instance(uid)
        assert known is not None
        assert known.sha256 == digest(content)
        assert node.archive.verify(known.file, known.sha256) is FileState.WHOLE
