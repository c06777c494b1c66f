"""The drill: a node under load, a backup beside it, ``rm -rf`` of its data folder, a restore, the senders again.

A kill in each step: of a second backup, of the first restore, and of the service that starts on what was restored.
The end is always the same: every instance that was ever acknowledged is in the archive, byte for byte, every series is
at the PACS, and no SOP Instance UID ever came there with other bytes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from dicomnode.ids import digest
from dicomnode.ledger.queries import open_reader
from tests.support.dcmtk import needs_dcmtk
from tests.support.dicom import dataset_bytes, storescu
from tests.support.misbehaving_pacs import MisbehavingPacs
from tests.support.mr_series import write_mr_series
from tests.support.node import AE_TITLE, CHECKOUT, WORK_LIMIT_S, Node, kill, make_node
from tests.support.thorough import times
from tests.support.wait import wait_until

pytestmark = [needs_dcmtk, pytest.mark.faults]

SLICES, RATIO = 6, 4
KILLED = -9
SETTINGS = {"settle": {"quiet_s": 1.0, "aborted_wait_s": 20.0}}

# Of the second backup, of the first try to restore, of the service on what was restored.
DRILLS = [
    ("backup.listed", "restore.instance_adopted", "push.sent:3"),
    ("backup.file_copied:3", "restore.file_placed:5", "receive.committed:2"),
    ("backup.ledger_copied", "restore.ledger_placed", "archive.published"),
    ("backup.whole", "restore.files_placed", "receive.committed:4"),
    ("durable.renamed:2", "restore.begun", "push.acknowledged:5"),
    ("backup.file_copied:1", "restore.file_placed:20", "service.started"),
]


def command(node: Node, seam: str, *words: str) -> int:
    """Run a command of the node that dies at a seam; its exit code."""
    module = ["tests.support.checkpoints", "--kill", seam, "--"]
    told = [sys.executable, "-m", *module, *words, "--config", str(node.config)]
    return subprocess.run(told, cwd=CHECKOUT, capture_output=True, check=False, timeout=WORK_LIMIT_S).returncode


def send(node: Node, files: list[Path]) -> bool:
    return storescu(node.port, files, called=AE_TITLE).returncode == 0


@pytest.mark.parametrize(("backup_seam", "restore_seam", "service_seam"), DRILLS[: times(1, len(DRILLS))])
@pytest.mark.timeout(900)
def test_nothing_acknowledged_is_lost_and_nothing_goes_out_under_other_bytes(
    tmp_path: Path, backup_seam: str, restore_seam: str, service_seam: str
) -> None:
    series = [write_mr_series(tmp_path / f"thick{number}", slices=SLICES) for number in range(5)]
    folder = str(tmp_path / "backup")
    with MisbehavingPacs() as pacs:
        node = make_node(tmp_path / "node", pacs_port=pacs.port, settings=SETTINGS)
        try:
            node.start()
            assert send(node, series[0])
            node.wait_for_deliveries("sent")
            assert send(node, series[1])
            assert send(node, series[2][:3])
            under_load = threading.Thread(target=send, args=(node, series[3]))
            under_load.start()
            node.run("db", "backup", folder)
            under_load.join()
            assert send(node, series[2][3:])
            assert send(node, series[4])
            node.wait_for_deliveries("sent", 4)
            assert command(node, backup_seam, "db", "backup", folder) == KILLED

            kill(node)
            shutil.rmtree(node.data)
            assert command(node, restore_seam, "db", "restore", folder) == KILLED
            refused = node.run("serve", check=False)
            assert refused.returncode == 3
            assert "was broken off" in refused.stderr
            node.run("db", "restore", folder)

            node.start("--kill", service_seam)
            for files in series:
                send(node, files)
            wait_until(lambda: node.is_over, WORK_LIMIT_S, f"the service is killed at {service_seam}")
            node.start()
            for files in series:
                assert send(node, files)
            wait_until(lambda: is_drained(node), WORK_LIMIT_S, "every series is at the PACS again")
            assert node.stop() == 0
        finally:
            kill(node)
        assert_received(node, [path for files in series for path in files])
        assert_delivered(node, pacs, len(series))


def is_drained(node: Node) -> bool:
    lines, deliveries = node.series(), node.deliveries()
    return (
        len(lines) == 5
        and all(line.state == "planned" and line.job_state == "done" for line in lines)
        and all(one.state == "sent" for one in deliveries)
    )


def assert_received(node: Node, files: list[Path]) -> None:
    archive = node.data / "archive"
    with closing(open_reader(f"sqlite:///{node.data / 'ledger.sqlite'}")) as reader:
        known = reader.archived_digests()
    kept = {digest(dataset_bytes(archive / file)) for file in known}
    assert {digest(dataset_bytes(path)) for path in files} <= kept
    assert {str(path.relative_to(archive)) for path in archive.rglob("*") if path.is_file()} == set(known)


def assert_delivered(node: Node, pacs: MisbehavingPacs, count: int) -> None:
    digests = pacs.digests()
    assert all(len(found) == 1 for found in digests.values()), "the same UID came with other bytes"
    with closing(open_reader(f"sqlite:///{node.data / 'ledger.sqlite'}")) as reader:
        shown = [reader.series_show(line.id, identify=True) for line in reader.series_list(derived=True)]
    made = {file.sop_instance_uid for one in shown if one.origin == "derived" for file in one.files}
    assert len(made) >= count * SLICES * RATIO
    assert made <= digests.keys()
