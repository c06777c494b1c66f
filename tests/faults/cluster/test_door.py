"""Who may connect to a cluster, and at which addresses."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dicomnode.work.cluster import Cluster
from dicomnode.work.remote import Link
from tests.support.certificates import Authority, Issued, caller
from tests.support.cluster import TestCluster, running_cluster

pytestmark = pytest.mark.faults

LIMIT_S = 20.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster"), workers=1) as made:
        yield made


def _ports(cluster: TestCluster) -> list[int]:
    return [cluster.scheduler.port, cluster.workers[0].port]


def test_it_listens_where_it_was_told_to_and_nowhere_else(cluster: TestCluster) -> None:
    for machine in (cluster.scheduler, cluster.workers[0]):
        assert machine.process is not None
        parent = psutil.Process(machine.process.pid)
        open_ = [one for process in (parent, *parent.children(recursive=True)) for one in process.net_connections()]
        listening = {(one.laddr.ip, one.laddr.port) for one in open_ if one.status == psutil.CONN_LISTEN}
        assert listening == {("127.0.0.1", machine.port)}


def test_nobody_is_served_without_a_certificate_of_the_cluster(cluster: TestCluster, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "strangers").issue("stranger")
    for port in _ports(cluster):
        assert _is_served(port, cluster, cluster.cert)
        assert not _is_served(port, cluster, None)
        assert not _is_served(port, cluster, stranger)


def _is_served(port: int, cluster: TestCluster, issued: Issued | None) -> bool:
    """Does the other end speak to us, as the engine does first of all?"""
    context = caller(cluster.authority, issued)
    try:
        with (
            socket.create_connection(("127.0.0.1", port), LIMIT_S) as plain,
            context.wrap_socket(plain) as secured,
        ):
            return bool(secured.recv(1))
    except (ssl.SSLError, ConnectionError):
        return False


def test_plain_tcp_and_http_get_no_answer(cluster: TestCluster) -> None:
    for port in _ports(cluster):
        with socket.create_connection(("127.0.0.1", port), LIMIT_S) as plain:
            plain.sendall(b"GET /status HTTP/1.0\r\n\r\n")
            try:
                answer = plain.recv(100)
            except ConnectionResetError:
                answer = b""
        assert not answer.startswith(b"HTTP")


def test_a_node_with_a_foreign_certificate_is_offered_nothing_and_told_why(
    cluster: TestCluster, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "strangers").issue("stranger")
    files = {**cluster.files, "cert": str(stranger.certificate), "key": str(stranger.key)}
    foreign = Cluster(address=cluster.address, **files)
    link = Link(foreign)
    offer = link.offer()
    link.close()
    assert offer.digests == ()
    assert "cannot be reached" in offer.sentence
