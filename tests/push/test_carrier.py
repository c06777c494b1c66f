"""A delivery needs of a carrier what the protocol says and nothing else: one that writes files serves as well."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dicomnode.dimse.outcome import RequestOutcome, RequestReason
from dicomnode.ids import AeTitle
from dicomnode.push.carrier import InstanceFormat, OutgoingInstance
from dicomnode.push.send_files import send_files
from dicomnode.settings.peers import PeerSettings
from dicomnode.wire import MR_IMAGE
from tests.support.dicom import dataset_bytes
from tests.support.due_delivery import Node
from tests.support.mr_series import write_mr_series
from tests.support.pdu import EXPLICIT
from tests.support.wait import wait_until


@dataclass(kw_only=True)
class FolderCarrier:
    """A peer is a folder: a data set becomes a file, and a name that is taken is a duplicate (0111)."""

    folder: Path
    accepted: str = MR_IMAGE
    together: int = 1  # instances of one request
    log: list[str] = field(default_factory=list)
    offered: set[InstanceFormat] = field(default_factory=set)

    def open(self, peer: PeerSettings, formats: Collection[InstanceFormat]) -> FolderSession | RequestOutcome:
        self.log.append(f"open {peer.name}")
        self.offered = set(formats)
        if not self.folder.is_dir():
            return RequestOutcome(reason=RequestReason.UNREACHABLE, detail="no such folder")
        return FolderSession(self)


class FolderSession:
    def __init__(self, carrier: FolderCarrier) -> None:
        self._carrier = carrier

    def refusal(self, formats: Collection[InstanceFormat]) -> RequestOutcome | None:
        refused = sorted(one.sop_class_uid for one in formats if one.sop_class_uid != self._carrier.accepted)
        return RequestOutcome(reason=RequestReason.NO_CONTEXT, detail=", ".join(refused)) if refused else None

    def batch(self, instances: Sequence[OutgoingInstance]) -> int:
        return min(len(instances), self._carrier.together)

    def store(self, instances: Sequence[OutgoingInstance]) -> list[RequestOutcome]:
        self._carrier.log.append(f"store {len(instances)}")
        outcomes = []
        for instance in instances:
            file = self._carrier.folder / instance.sop_instance_uid
            status = 0x0111 if file.exists() else 0x0000
            file.write_bytes(instance.read_dataset())
            outcomes.append(RequestOutcome(reason=RequestReason.ANSWERED, status=status))
        return outcomes

    def close(self) -> None:
        self._carrier.log.append("close")

    def abort(self) -> None:
        self._carrier.log.append("abort")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    opened = Node(tmp_path / "node")
    yield opened
    opened.close()


@pytest.fixture
def carrier(tmp_path: Path) -> FolderCarrier:
    (tmp_path / "peer").mkdir()
    return FolderCarrier(folder=tmp_path / "peer")


def test_a_delivery_arrives_whole_in_one_session_that_is_closed(node: Node, carrier: FolderCarrier) -> None:
    derived = node.derive("pacs", instances=3)
    node.push_to("pacs", 104, carrier=carrier)
    assert node.wait_for("sent").acknowledged == 3
    arrived = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in carrier.folder.iterdir()}
    assert arrived == derived.sha256
    wait_until(lambda: carrier.log == ["open pacs", "store 1", "store 1", "store 1", "close"])
    assert carrier.offered == {InstanceFormat(sop_class_uid=MR_IMAGE, transfer_syntax_uid=EXPLICIT)}


def test_a_status_means_to_the_delivery_what_it_means_on_any_carrier(node: Node, carrier: FolderCarrier) -> None:
    derived = node.derive("pacs", instances=3)
    (carrier.folder / next(iter(derived.sha256))).write_bytes(b"another object")
    node.push_to("pacs", 104, carrier=carrier)
    held = node.wait_for("held")
    assert (held.reason, held.acknowledged) == ("refused", 2)


def test_a_carrier_says_how_many_instances_go_together_and_each_answer_counts(
    node: Node, carrier: FolderCarrier
) -> None:
    derived = node.derive("pacs", instances=5)
    carrier.together = 2
    (carrier.folder / list(derived.sha256)[2]).write_bytes(b"another object")
    node.push_to("pacs", 104, carrier=carrier)
    held = node.wait_for("held")
    assert (held.reason, held.acknowledged) == ("refused", 4), "what stands beside a refusal is acknowledged"
    assert carrier.log[:4] == ["open pacs", "store 2", "store 2", "store 1"]


def test_a_format_that_the_peer_does_not_accept_holds_the_delivery_with_nothing_sent(
    node: Node, carrier: FolderCarrier
) -> None:
    node.derive("pacs", instances=2)
    carrier.accepted = "1.2.3"
    node.push_to("pacs", 104, carrier=carrier)
    held = node.wait_for("held")
    assert (held.reason, held.acknowledged, list(carrier.folder.iterdir())) == ("no_context", 0, [])
    assert MR_IMAGE in held.sentence


def test_a_peer_that_is_away_is_tried_again(node: Node, carrier: FolderCarrier) -> None:
    node.derive("pacs")
    carrier.folder.rmdir()
    node.push_to("pacs", 104, carrier=carrier)
    wait_until(lambda: (one := node.delivery()).state == "due" and one.reason == "unreachable")
    carrier.folder.mkdir()
    node.wait_for("sent")


def test_files_are_sent_over_any_carrier(carrier: FolderCarrier, tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path / "series", slices=2)
    peer = PeerSettings(name="pacs", ae_title=AeTitle("PACS"), address="127.0.0.1:104")
    assert [one.outcome.status for one in send_files(carrier, peer, paths)] == [0x0000] * 2
    assert {file.read_bytes() for file in carrier.folder.iterdir()} == {dataset_bytes(path) for path in paths}
