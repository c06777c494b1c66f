"""kill -9 of a sender at each seam of a delivery by DICOMweb: nothing goes again after its acknowledgement."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from dicomnode.ids import digest
from tests.support.dicomweb import DicomwebServer
from tests.support.due_delivery import Node
from tests.support.node import CHECKOUT

SEAMS = ("push.associated", "push.sent", "push.acknowledged:3", "push.sent", "push.acknowledged", "push.concluded")
_ACKNOWLEDGED = """
    SELECT instance.sop_instance_uid FROM delivery_item JOIN instance ON instance.id = delivery_item.instance_id
    WHERE delivery_item.state = 'acknowledged'
"""


def acknowledged(folder: Path) -> set[str]:
    """What the ledger holds as acknowledged, read without our code."""
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as ledger:
        return {uid for (uid,) in ledger.execute(_ACKNOWLEDGED)}


def send(folder: Path, url: str, *faults: str) -> int:
    """Run the sender until it dies or is done; return the exit code."""
    command = [sys.executable, "-m", "tests.support.checkpoints", *faults, "--module", "tests.push.lone_sender"]
    return subprocess.run([*command, "--", str(folder), url], cwd=CHECKOUT, check=False, timeout=120).returncode


@pytest.mark.faults
def test_a_sender_that_is_killed_at_each_seam_sends_nothing_after_its_acknowledgement(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    node = Node(folder)
    derived = node.derive("pacs", instances=8)
    node.close()
    counts = []
    with DicomwebServer() as server:
        for seam in SEAMS:
            before, arrived = acknowledged(folder), len(server.arrivals)
            assert send(folder, server.url, "--kill", seam) < 0, f"it did not die at {seam}"
            again = {one.sop_instance_uid for one in server.arrivals[arrived:]}
            assert not again & before, f"sent again after its acknowledgement, killed at {seam}"
            counts.append(len(acknowledged(folder)))
        assert send(folder, server.url) == 0
        assert counts == [0, 0, 3, 3, 4, 8]
        files = {uid: digest(file.read_bytes()) for uid, file in zip(derived.sha256, derived.files, strict=True)}
        assert {uid: digest(file) for uid, file in server.held.items()} == files
        assert {(one.sop_instance_uid, one.sha256) for one in server.arrivals} == set(files.items()), "the same bytes"
