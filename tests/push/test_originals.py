"""Originals on their way to a peer: the bytes as received, and what differs from a result of ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.ids import AeTitle
from dicomnode.push.identity import PatientQuery
from dicomnode.push.witness import Witness
from dicomnode.settings.peers import PeerSettings
from tests.support.due_delivery import SWIFT, Node, carriers_with
from tests.support.misbehaving_pacs import MisbehavingPacs


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "node")
    yield node
    node.close()


@pytest.fixture
def pacs() -> Iterator[MisbehavingPacs]:
    with MisbehavingPacs() as pacs:
        yield pacs


def test_the_peer_gets_the_bytes_that_came(node: Node, pacs: MisbehavingPacs) -> None:
    received = node.forward("pacs")
    node.push_to("pacs", pacs.port)
    node.wait_for("sent")
    assert pacs.digests() == {uid: {sha256} for uid, sha256 in received.items()}


def test_what_the_peer_has_from_the_scanner_is_no_failure(node: Node, pacs: MisbehavingPacs) -> None:
    node.forward("pacs")
    pacs.answers.extend([0x0111, 0x0000])
    node.push_to("pacs", pacs.port)
    sent = node.wait_for("sent")
    assert sorted(answer.status for answer in sent.answers) == ["0000", "0111"]


def test_an_altered_original_is_not_sent_and_nobody_is_told_to_derive_it(node: Node, pacs: MisbehavingPacs) -> None:
    node.forward("pacs")
    file = next(path for path in node.archive.root.glob("*/*.dcm"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    node.push_to("pacs", pacs.port)
    held = node.wait_for("held")
    assert held.reason == "altered"
    assert "backup" in held.sentence
    assert "series retry" not in held.sentence
    assert pacs.arrivals == []


def test_a_header_that_cannot_be_read_does_not_keep_an_original_from_going(tmp_path: Path) -> None:
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(b"no DICOM at all")
    peer = PeerSettings(name="pacs", ae_title=AeTitle("PACS"), address="127.0.0.1:9")
    query = PatientQuery(peer, Witness(carriers_with(SWIFT)))
    assert query.differences(broken) == ()
