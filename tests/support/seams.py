"""Every seam of the node: at which ``bench/kill.py`` kills, and why not at the others, with the tests that use them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.node import CHECKOUT

SLICES, RATIO = 8, 4  # of the series that the bench has derived


@dataclass(frozen=True, slots=True, kw_only=True)
class Seam:
    """A checkpoint, and up to which hit of it the process is killed there."""

    name: str
    hits: int = 1
    kills_worker: bool = False
    is_purged: bool = False  # passed by a command beside the service, which is killed
    hides: tuple[str, ...] = ()  # seams that are not passed again after a kill at this one


# In the order in which a round passes them, so that after a kill at one all later ones are still to come. The first
# three are of the round before. The hits of receive and push are fewer than a third of the instances: three kills in a
# round leave enough.
KILLED = (
    Seam(name="retention.marked"),
    Seam(name="archive.removed"),
    Seam(name="purge.marked", is_purged=True),
    Seam(name="sweep.set_aside"),
    Seam(name="service.started"),
    Seam(name="archive.folder_made"),
    Seam(name="durable.written", hits=2),
    Seam(name="durable.flushed", hits=2),
    Seam(name="durable.renamed", hits=2),
    Seam(name="receive.renamed", hits=2),
    Seam(name="receive.folder_synced", hits=2),
    Seam(name="receive.committed", hits=2),
    Seam(name="receive.answered", hits=2),
    Seam(name="settle.settled"),
    Seam(name="settle.examined"),
    Seam(name="settle.kept"),
    Seam(name="settle.chosen", hides=("settle.planned",)),
    Seam(name="settle.planned"),
    Seam(name="work.claimed"),
    Seam(name="job.begun", kills_worker=True),
    Seam(name="job.file_written", hits=SLICES * RATIO, kills_worker=True),
    Seam(name="job.written", kills_worker=True),
    Seam(name="work.child_done"),
    Seam(name="archive.cleared"),
    Seam(name="archive.published"),
    Seam(name="work.published"),
    Seam(name="work.committed"),
    Seam(name="push.claimed", hits=2),
    Seam(name="push.verified", hits=2),
    Seam(name="push.associated", hits=2),
    Seam(name="push.sent", hits=12),
    Seam(name="push.acknowledged", hits=12),
    Seam(name="push.concluded", hits=2),
)

# Reasons why the bench does not kill at a seam → the seams, and the tests that use each.
ELSEWHERE = {
    "it is passed only after a kill that left a file without a row": {
        "archive.quarantined": "tests/test_sweep.py",
        "sweep.recorded": "tests/test_sweep.py",
    },
    "a sender passes it with an object that cannot be understood, which no round sends": {
        "receive.quarantined": "tests/receive/test_kill.py",
    },
    "it is passed only where a look takes longer than a piece, or where events are half a year old": {
        "sweep.piece": "tests/test_sweep.py",
        "retention.piece": "tests/test_retention.py",
    },
    "no image depends on it": {
        "alert.sent": "tests/alert/test_watch.py",
        "infer.step": "tests/generators/test_infer.py",
    },
    "its peer must be one that commits": {
        "proof.associated": "tests/e2e/test_commitment.py",
        "proof.asked": "tests/e2e/test_commitment.py",
        "proof.answered": "tests/e2e/test_commitment.py",
        "proof.reported": "tests/e2e/test_commitment.py",
        "proof.queried": "tests/e2e/test_commitment.py",
    },
    "its peer must have the study under another patient": {
        "refresh.written": "tests/e2e/test_identity.py",
    },
    "it is a cluster's": {
        "warm.begun": "tests/faults/cluster/test_losses.py",
        "remote.ended": "tests/faults/cluster/test_losses.py",
    },
    "it is a backup's": {
        "backup.ledger_copied": "tests/faults/test_restore_drill.py",
        "backup.listed": "tests/faults/test_restore_drill.py",
        "backup.file_copied": "tests/faults/test_restore_drill.py",
        "backup.whole": "tests/faults/test_restore_drill.py",
        "restore.begun": "tests/backup/test_restore.py",
        "restore.file_placed": "tests/backup/test_restore.py",
        "restore.files_placed": "tests/backup/test_restore.py",
        "restore.instance_adopted": "tests/backup/test_restore.py",
        "restore.adopted": "tests/backup/test_restore.py",
        "restore.ledger_placed": "tests/backup/test_restore.py",
    },
    "it is of deriving without a node": {
        "offline.listed": "tests/offline/test_many.py",
        "offline.begun": "tests/offline/test_many.py",
        "offline.written": "tests/offline/test_many.py",
        "offline.made": "tests/offline/test_many.py",
        "offline.published": "tests/offline/test_many.py",
    },
}


def of_the_node() -> Iterator[tuple[Path, str]]:
    """The file and the name of each checkpoint in the code; ``{}`` stands for what only the running code knows."""
    for path in sorted((CHECKOUT / "dicomnode").rglob("*.py")):
        for found in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(found, ast.Call) and ast.unparse(found.func).rpartition(".")[2] == "checkpoint":
                yield path, _name(found.args[0])


def _name(argument: ast.expr) -> str:
    if isinstance(argument, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in argument.values)
    assert isinstance(argument, ast.Constant), ast.unparse(argument)
    return str(argument.value)
