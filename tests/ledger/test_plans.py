"""What the workers and a start ask of the ledger is found by an index: none of it reads a table that grows for ever."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest
from sqlalchemy import Engine, event

from dicomnode.ledger.queries import open_reader
from dicomnode.ledger.values import StoreOutcome
from tests.ledger.scene import LEASE_S, Scene, derived, new_uid, stored

# A row for each image, job or event there ever was; an index of only those that wait stays small.
GROWING = re.compile(r"SCAN (?:instance|delivery_item|event|job|delivery)\b")
OF_WHAT_WAITS = {"job_leased", "job_live_once", "job_waiting", "delivery_leased", "delivery_waiting"}


@contextmanager
def watched() -> Iterator[list[tuple[str, object]]]:
    """Every statement that SQLite gets meanwhile, with its parameters."""
    seen: list[tuple[str, object]] = []

    def note(
        _connection: object, _cursor: object, statement: str, parameters: object, _context: object, many: bool
    ) -> None:
        assert isinstance(parameters, list | tuple)
        seen.append((statement, parameters[0] if many else parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def scans(scene: Scene, statements: list[tuple[str, object]]) -> list[str]:
    """The statements that would read a growing table from end to end."""
    found = []
    with closing(sqlite3.connect(scene.path)) as connection:
        for statement, parameters in statements:
            if statement.startswith(("BEGIN", "PRAGMA")):
                continue
            plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)  # type: ignore[arg-type]
            for *_, step in plan:
                index = re.search(r"USING (?:COVERING )?INDEX (\w+)", step)
                if GROWING.match(step) and (index is None or index[1] not in OF_WHAT_WAITS):
                    found.append(f"{step}: {statement}")
    return found


def test_a_series_goes_from_the_door_to_the_peer_without_a_scan(scene: Scene) -> None:
    with watched() as statements:
        scene.ledger.boots.begin(pid=1, host="h")
        series = scene.receive(images=3)
        again = stored(series)
        assert scene.ledger.intake.accept([again, again]) == [StoreOutcome.STORED] * 2
        scene.ledger.intake.find_instance(new_uid())
        scene.ledger.intake.mark_aborted([series])
        scene.ledger.settling.receiving()
        scene.ledger.settling.settled()
        scene.ledger.settling.of_study("1.2.3")
        scene.queued("pacs")
        job = scene.claim_job()
        scene.ledger.jobs.beat(job, lease_s=LEASE_S)
        scene.ledger.settling.instances_of(job.series, job.revision)
        scene.ledger.jobs.finish(job, derived(3))
        delivery = scene.claim_delivery()
        scene.ledger.deliveries.beat(delivery, lease_s=LEASE_S)
        items = scene.ledger.deliveries.pending_items(delivery)
        scene.ledger.deliveries.acknowledge(delivery, items[0], status=0)
        scene.ledger.deliveries.fail_item(delivery, items[1], status=0x0110)
        scene.ledger.deliveries.defer(delivery, wait_s=0.0, reason="r", sentence="s")
        scene.ledger.deliveries.next_due_in(delivery.peer)
        scene.ledger.intake.accept([stored(job.series)])
        scene.ledger.boots.begin(pid=2, host="h")
    assert len(statements) > 50
    assert scans(scene, statements) == []


def test_the_sweep_asks_for_a_folder_without_a_scan(scene: Scene) -> None:
    series = scene.receive(images=3)
    with watched() as statements:
        assert len(scene.ledger.upkeep.files_in(str(series))) == 3
    assert scans(scene, statements) == []


@pytest.mark.parametrize("ask", ["series_show", "series_explain"])
def test_what_is_asked_of_one_series_reads_that_series_alone(scene: Scene, ask: str) -> None:
    scene.queued()
    job = scene.claim_job()
    scene.ledger.jobs.finish(job, derived(3))
    reader = open_reader(f"sqlite:///{scene.path}")
    question: Callable[[int], object] = getattr(reader, ask)
    with watched() as statements:
        question(job.series)
    reader.close()
    assert scans(scene, statements) == []
