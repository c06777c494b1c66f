"""The data folder on a disk of 64 MiB, under load, with images that go by their age: it never fills up.

The service is the real one, and what removes old images runs beside it as ``dicomnode archive age`` does. Together the
series are larger than the disk. What is looked at: that nothing goes whose proof the PACS has not given, that the list
of a dry run is what then goes, and that nothing is lost or called missing when the service is killed on the way.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from pynetdicom.events import Event

from dicomnode.archive.store import Archive
from dicomnode.ledger.old_images import OldSeries
from dicomnode.ledger.queries import open_reader
from dicomnode.ledger.store import open_ledger
from dicomnode.retention import remove_old
from dicomnode.seams import SYSTEM_CLOCK
from tests.support.committing_pacs import Asked, CommittingPacs
from tests.support.dcmtk import needs_dcmtk
from tests.support.dicom import storescu
from tests.support.mounts import tmpfs
from tests.support.mr_series import write_mr_series
from tests.support.node import AE_TITLE, CHECKOUT, WORK_LIMIT_S, Node, kill, make_node
from tests.support.thorough import times
from tests.support.wait import wait_until

pytestmark = [needs_dcmtk, pytest.mark.faults]

SERIES = times(12, 100)
SLICES, SIZE, RATIO = 6, 320, 4  # 1.2 MB, and 4.9 MB of what is derived from it
KEPT_S = 2.0
KEEP_DAYS = KEPT_S / 86400
FULL_PERCENT = 50.0  # free, under which old images are removed
UNDER_WAY = 2  # series that may wait for the proof of their delivery: until then they stay, and so do their results
LARGE = 768  # pixels of a side: 7.1 MB, and 28 MB of what is derived from it
KILLED = -9
RULES: list[dict[str, object]] = [
    {"name": "for nobody", "match": {"SeriesDescription": "NOBODY"}, "model": "cubic-dc"},
    {"name": "every series", "model": "cubic-dc", "deliver_to": ["pacs"]},
]


@dataclass(kw_only=True)
class Remover:
    """What ``archive age`` does, at one moment for its dry run and for what follows."""

    node: Node
    pacs: CommittingPacs
    removed: set[int] = field(default_factory=set)
    free_percent: float = 100.0  # the least that was seen

    def look(self, *, always: bool = False) -> None:
        """Remove what is old enough once the disk has filled, and check what went."""
        archive = Archive(self.node.data)
        free = archive.data_folder.free_percent()
        self.free_percent = min(self.free_percent, free)
        if free > FULL_PERCENT and not always:
            return
        before = SYSTEM_CLOCK.now() - timedelta(seconds=KEPT_S)
        listed = [one for one in self.node.read(lambda reader: reader.old_series(before)) if one.stays is None]
        with closing(open_ledger(f"sqlite:///{self.node.data / 'ledger.sqlite'}", create=False)) as ledger:
            gone = list(remove_old(ledger, archive, before, stopping=threading.Event()))
        assert [(one.id, one.instances, one.size_bytes) for one in listed] == [
            (one.series, one.instances, one.size_bytes) for one in gone
        ]
        for one in gone:
            assert not any(archive.has(file) for file in one.files)
        kept = {row.id for row in self.node.series() if row.state == "kept"}
        for line in listed:
            if line.id not in kept:  # such as the part of a series that the full disk let in: nobody waits for it
                self._check_proof(line)
                self.removed.add(line.id)

    def _check_proof(self, line: OldSeries) -> None:
        """The PACS has every image, and said that it keeps it."""
        found = self.node.explain(line.id)
        assert [(one["state"], one["proof"]) for one in found["deliveries"]] == [("sent", "committed")], line
        (derived,) = line.derived
        shown = self.node.read(lambda reader: reader.series_show(derived, identify=True))
        assert {file.sop_instance_uid for file in shown.files} <= self.pacs.held
        assert len(shown.files) == SLICES * RATIO


def store_once(node: Node, files: Sequence[Path]) -> bool:
    """Send a series; tell whether all of it was accepted."""
    return storescu(node.port, files, called=AE_TITLE).returncode == 0


def store(node: Node, files: Sequence[Path]) -> None:
    """Send a series as a scanner does: again and again until all of it is accepted."""
    wait_until(lambda: store_once(node, files), WORK_LIMIT_S, "the node accepts the series")


def unproven(node: Node) -> int:
    """Count the series that are to be delivered and are not, or have no proof that they are."""
    waiting = [row for row in node.series() if row.state != "kept" and row.job_state != "done"]
    return len(waiting) + sum(row.proof != "committed" for row in node.deliveries())


def command(node: Node, seam: str, *words: str) -> int:
    """Run a command of the node that dies at a seam; its exit code."""
    module = ["tests.support.checkpoints", "--kill", seam, "--"]
    told = [sys.executable, "-m", *module, *words, "--config", str(node.config)]
    return subprocess.run(told, cwd=CHECKOUT, capture_output=True, check=False, timeout=WORK_LIMIT_S).returncode


@pytest.mark.timeout(300 + 30 * SERIES)
def test_a_disk_of_64_mib_never_fills_and_nothing_goes_before_its_proof(tmp_path: Path) -> None:
    settings = {"archive": {"refuse_free_percent": 10.0, "keep_days": KEEP_DAYS}}
    with tmpfs(tmp_path / "node" / "data", "size=64m"), CommittingPacs(ae_title="ORTHANC") as pacs:
        node = make_node(tmp_path / "node", pacs_port=pacs.port, settings=settings, rules=RULES)
        pacs.node, pacs.node_title = ("127.0.0.1", node.port), AE_TITLE
        remover = Remover(node=node, pacs=pacs)
        try:
            node.start()
            stays = write_mr_series(tmp_path / "stays", attributes={"SeriesDescription": "NOBODY"})
            store(node, stays)
            first: list[Path] = []
            for number in range(SERIES):
                files = write_mr_series(tmp_path / "thick", slices=SLICES, size=SIZE)
                store(node, files)
                if not first:
                    first = [
                        Path(shutil.copy2(file, tmp_path / f"first{place}.dcm")) for place, file in enumerate(files)
                    ]
                shutil.rmtree(tmp_path / "thick")
                remover.look()
                wait_until(lambda: unproven(node) <= UNDER_WAY, WORK_LIMIT_S, f"series {number} is on its way")
            wait_until(lambda: unproven(node) == 0, WORK_LIMIT_S, "every series is delivered")

            def is_all_gone() -> bool:
                remover.look(always=True)
                return len(remover.removed) == SERIES

            wait_until(is_all_gone, WORK_LIMIT_S, "everything that was delivered is gone")
            assert remover.free_percent > 10.0
            assert not node.events("job_returned"), "no job was without room"
            (nowhere,) = [row for row in node.series() if row.id not in remover.removed]
            shown = node.read(lambda reader: reader.series_show(nowhere.id))
            assert all(Archive(node.data).has(file.file) for file in shown.files), "its result is nowhere else"

            store(node, first)  # a sender that was away for long
            returned = next(row for row in node.series() if row.id == min(remover.removed))
            shown = node.read(lambda reader: reader.series_show(returned.id))
            assert [file.removed_at for file in shown.files] == [None] * SLICES
            assert all(Archive(node.data).has(file.file) for file in shown.files)
            assert node.stop() == 0
        finally:
            kill(node)


def test_a_disk_that_is_full_while_the_proof_is_late_is_emptied_once_it_comes(tmp_path: Path) -> None:
    """Jobs leave the ledger room to record the proof, and failed attempts leave nothing behind."""
    settings = {"archive": {"refuse_free_percent": 10.0, "keep_days": KEEP_DAYS}}
    with tmpfs(tmp_path / "node" / "data", "size=64m"), CommittingPacs(ae_title="ORTHANC") as pacs:
        late: list[tuple[Event, Asked]] = []
        pacs.report = lambda event, asked: late.append((event, asked))
        node = make_node(tmp_path / "node", pacs_port=pacs.port, settings=settings, rules=RULES[1:])
        pacs.node, pacs.node_title = ("127.0.0.1", node.port), AE_TITLE
        remover = Remover(node=node, pacs=pacs)
        try:
            node.start()
            store(node, write_mr_series(tmp_path / "first", slices=SLICES, size=LARGE))
            wait_until(lambda: late, WORK_LIMIT_S, "the PACS is asked to commit")
            number = 0
            while store_once(node, write_mr_series(tmp_path / f"thick{number}", slices=SLICES, size=LARGE)):
                number += 1
            wait_until(lambda: node.events("job_returned"), WORK_LIMIT_S, "a job is without room")
            assert Archive(node.data).data_folder.free_bytes() > 1 << 20, "of which the ledger takes what it needs"
            pacs.report = pacs.on_a_new_association
            for event, asked in late:
                pacs.report(event, asked)

            def is_all_gone() -> bool:
                remover.look(always=True)
                planned = {row.id for row in node.series() if row.state == "planned"}
                return unproven(node) == 0 and planned == remover.removed

            wait_until(is_all_gone, WORK_LIMIT_S, "everything that came is delivered, proven and gone")
            assert len(remover.removed) >= 1 + number
            assert not node.events("push_paused"), "the ledger had room for every answer of the PACS"
            assert node.stop() == 0
        finally:
            kill(node)


@pytest.mark.parametrize("seam", ["retention.marked", "archive.removed"])
def test_a_service_that_is_killed_while_it_removes_ends_that_at_its_next_start(tmp_path: Path, seam: str) -> None:
    with CommittingPacs(ae_title="ORTHANC") as pacs:
        settings = {"archive": {"keep_days": KEEP_DAYS}}
        node = make_node(tmp_path / "node", pacs_port=pacs.port, settings=settings, rules=RULES)
        pacs.node, pacs.node_title = ("127.0.0.1", node.port), AE_TITLE
        try:
            node.start()
            store(node, write_mr_series(tmp_path / "thick"))
            wait_until(
                lambda: [one.proof for one in node.deliveries()] == ["committed"], WORK_LIMIT_S, "the PACS commits"
            )
            assert node.stop() == 0
            until = SYSTEM_CLOCK.monotonic() + KEPT_S
            wait_until(lambda: SYSTEM_CLOCK.monotonic() > until, what="the images are old enough")
            assert command(node, seam, "serve") == KILLED
            archive = node.data / "archive"
            left = [path for path in archive.rglob("*.dcm")]
            assert bool(left) == (seam == "retention.marked")
            with closing(open_reader(f"sqlite:///{node.data / 'ledger.sqlite'}")) as reader:
                assert reader.archived_digests() == {}, "every row says that its file is removed"
            node.start()
            wait_until(lambda: not [*archive.rglob("*.dcm")], WORK_LIMIT_S, "the files are gone")
            wait_until(lambda: node.events("archive_swept"), WORK_LIMIT_S, "the archive is looked through")
            assert node.events("files_missing") == []
            assert node.ask("quarantine", "list", "--all") == []
            assert node.stop() == 0
        finally:
            kill(node)
