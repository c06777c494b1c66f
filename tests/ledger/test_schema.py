"""What the database itself refuses, whoever asks: each test goes past our own code with plain SQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from dicomnode.ledger.states import BIRTHS, TRANSITIONS, changes
from tests.ledger.scene import Scene, plan_for


@pytest.fixture
def sql(scene: Scene) -> Iterator[sqlite3.Connection]:
    """A connection with no code of ours in between."""
    connection = sqlite3.connect(scene.path, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    yield connection
    connection.close()


# What a row must hold beside its state to pass the CHECKs of that state.
FILLED = {
    ("job", "running"): "lease_owner = 'x', lease_until = '2026-01-01'",
    ("job", "done"): "finished_at = '2026-01-01', lease_owner = NULL, lease_until = NULL",
    ("job", "held"): "reason = 'x', lease_owner = NULL, lease_until = NULL",
    ("job", "failed"): "attempts = 3, lease_owner = NULL, lease_until = NULL",
    ("job", "queued"): "lease_owner = NULL, lease_until = NULL",
    ("delivery", "sending"): "lease_owner = 'x', lease_until = '2026-01-01'",
    ("delivery", "sent"): "sent_at = '2026-01-01', proof = 'acknowledged', lease_owner = NULL, lease_until = NULL",
    ("delivery", "held"): "reason = 'x', lease_owner = NULL, lease_until = NULL, sent_at = NULL, proof = NULL",
    ("delivery", "due"): "lease_owner = NULL, lease_until = NULL, sent_at = NULL, proof = NULL",
    ("delivery_item", "pending"): "attempt = NULL",
    ("commitment", "asked"): "asked_at = '2026-01-01'",
    ("delivery_item", "acknowledged"): "status = 0, attempt = 1",
    ("delivery_item", "refused"): "status = 42752",
    ("series", "kept"): "reason = 'x'",
    ("series", "planned"): "reason = 'x'",
    ("series", "settled"): "reason = NULL",
    ("series", "receiving"): "reason = NULL",
}


def path_to(table: str, wanted: str) -> list[str]:
    """Legal states from a birth to the wanted one, the birth first."""
    paths = [[str(state)] for state in BIRTHS[table]]
    while True:
        for path in paths:
            if path[-1] == wanted:
                return path
        paths = [
            [*path, to] for path in paths for name, source, to in changes() if name == table and source == path[-1]
        ]


def move(sql: sqlite3.Connection, table: str, state: str) -> None:
    filled = FILLED.get((table, state))
    extra = f", {filled}" if filled else ""
    sql.execute(f"UPDATE {table} SET state = '{state}', state_cause = 'test'{extra}")  # noqa: S608 (our own names)


LEGAL = {(table, source, target) for table, source, target in changes() if source}
PAIRS = [
    (table, str(source), str(target))
    for table, transitions in TRANSITIONS.items()
    for source in transitions
    for target in transitions
    if source != target
]


@pytest.mark.parametrize(("table", "source", "target"), PAIRS)
def test_a_change_of_state_passes_only_if_the_table_of_transitions_has_it(
    scene: Scene, sql: sqlite3.Connection, table: str, source: str, target: str
) -> None:
    scene.queued("pacs")
    scene.imported()
    scene.alerted()
    if table.startswith("delivery"):
        scene.finish_job(images=1)
    if table == "commitment":
        scene.committing()
    if table == "series":
        scene.ledger.jobs.hold(scene.claim_job(), reason="x", sentence="x")
        sql.execute("DELETE FROM job")
    path = path_to(table, source)
    sql.execute("PRAGMA ignore_check_constraints = ON")
    sql.execute("DROP TRIGGER delivery_sent_whole")
    sql.execute(f"DROP TRIGGER {table}_moves_legally")
    move(sql, table, path[-1])
    sql.executescript(_trigger(scene, table))
    if (table, source, target) in LEGAL:
        move(sql, table, target)
    else:
        with pytest.raises(sqlite3.IntegrityError, match=f"no such change of state of {table}"):
            move(sql, table, target)


def _trigger(scene: Scene, table: str) -> str:
    from dicomnode.ledger.schema import triggers

    del scene
    (found,) = [statement for statement in triggers() if f"TRIGGER {table}_moves_legally" in statement]
    return found + ";"


@pytest.mark.parametrize(
    ("table", "state"),
    [
        (table, str(state))
        for table, transitions in TRANSITIONS.items()
        for state in (*transitions, "unknown")
        if state not in BIRTHS[table]
    ],
)
def test_a_row_begins_only_in_a_state_of_birth(scene: Scene, sql: sqlite3.Connection, table: str, state: str) -> None:
    scene.queued("pacs")
    scene.imported()
    scene.alerted()
    _ = scene.committing() if table == "commitment" else scene.finish_job(images=1)
    columns = [row[1] for row in sql.execute(f"PRAGMA table_info({table})") if row[1] not in ("id", "state")]
    names = ", ".join(columns)
    with pytest.raises(sqlite3.IntegrityError, match=f"no row of {table} begins in this state"):
        sql.execute(f"INSERT INTO {table} (state, {names}) SELECT '{state}', {names} FROM {table}")  # noqa: S608 (our own names)


@pytest.mark.parametrize("table", list(TRANSITIONS))
def test_no_row_changes_to_a_state_that_is_none(scene: Scene, sql: sqlite3.Connection, table: str) -> None:
    scene.queued("pacs")
    scene.imported()
    scene.alerted()
    _ = scene.committing() if table == "commitment" else scene.finish_job(images=1)
    with pytest.raises(sqlite3.IntegrityError, match=f"no such change of state of {table}"):
        sql.execute(f"UPDATE {table} SET state = 'unknown'")  # noqa: S608 (our own names)


def test_every_change_of_state_leaves_an_event_even_past_our_code(scene: Scene, sql: sqlite3.Connection) -> None:
    series = scene.receive()
    sql.execute("UPDATE series SET state = 'settled', state_cause = 'by hand', state_by = 'somebody'")
    events = scene.ask("SELECT row_id, kind, from_state, to_state, actor FROM event ORDER BY id")
    assert events[-1] == (series, "by hand", "receiving", "settled", "somebody")


def test_events_are_never_changed(scene: Scene, sql: sqlite3.Connection) -> None:
    scene.receive()
    with pytest.raises(sqlite3.IntegrityError, match="never changed"):
        sql.execute("UPDATE event SET detail = 'x'")


def test_only_a_done_job_is_delivered(scene: Scene, sql: sqlite3.Connection) -> None:
    scene.queued("pacs")
    scene.finish_job()
    scene.queued("pacs")
    names = "peer, state, state_cause, state_at, state_by, state_detail, created_at, next_at, attempts, failures, "
    names += "lease_token, sentence, priority, series_id, revision"
    with pytest.raises(sqlite3.IntegrityError, match="only a done job"):
        sql.execute(f"INSERT INTO delivery (job_id, {names}) SELECT 2, {names} FROM delivery")  # noqa: S608 (our own names)


def test_one_live_job_per_revision_and_model(scene: Scene, sql: sqlite3.Connection) -> None:
    scene.queued("pacs")
    columns = [row[1] for row in sql.execute("PRAGMA table_info(job)") if row[1] not in ("id", "rule")]
    names = ", ".join(columns)
    with pytest.raises(sqlite3.IntegrityError, match=r"job\.series_id, job\.revision, job\.model"):
        sql.execute(f"INSERT INTO job (rule, {names}) SELECT 'another', {names} FROM job")  # noqa: S608 (our own names)


def test_an_acknowledged_item_cannot_lose_its_instance(scene: Scene, sql: sqlite3.Connection) -> None:
    scene.queued("pacs")
    scene.finish_job()
    delivery = scene.claim_delivery()
    scene.send_all(delivery)
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        sql.execute("DELETE FROM instance WHERE origin = 'derived'")


def test_a_delivery_is_not_sent_before_its_items(scene: Scene, sql: sqlite3.Connection) -> None:
    scene.queued("pacs")
    scene.finish_job()
    scene.claim_delivery()
    with pytest.raises(sqlite3.IntegrityError, match="every item is acknowledged"):
        move(sql, "delivery", "sent")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE instance SET sha256 = 'short'",
        "UPDATE instance SET origin = 'derived'",
        "UPDATE instance SET peer = NULL",
        "UPDATE series SET revision = 0",
        "UPDATE series SET series_uid = NULL",
        "UPDATE series SET last_at = NULL",
        "UPDATE job SET attempts = 4",
        "UPDATE job SET lease_owner = 'x'",
        "UPDATE job SET lease_until = '2026-01-01'",
        "UPDATE job SET finished_at = '2026-01-01'",
        "UPDATE job SET series_id = 99",
        "UPDATE job SET priority = NULL",
        "INSERT INTO node VALUES (2, 'x', '2026-01-01')",
        "UPDATE model SET digest = 'short'",
        "UPDATE model SET name = 'cubic-dc'",
        "UPDATE model SET highest_ratio = 1",
        "UPDATE model SET place = 7",
        "UPDATE model SET state = 'active'",
        "UPDATE alert SET state = 'sent'",
    ],
)
def test_a_row_that_says_what_cannot_be_is_refused(scene: Scene, sql: sqlite3.Connection, statement: str) -> None:
    scene.queued("pacs")
    scene.imported()
    scene.alerted()
    with pytest.raises(sqlite3.IntegrityError):
        sql.execute(statement)


def test_one_model_of_a_name_is_active(scene: Scene, sql: sqlite3.Connection) -> None:
    for content in ("a", "b"):
        scene.imported("thin", content)
    sql.execute("UPDATE model SET state = 'active', place = 1 WHERE id = 1")
    with pytest.raises(sqlite3.IntegrityError, match=r"model\.name"):
        sql.execute("UPDATE model SET state = 'active', place = 2 WHERE id = 2")


def test_a_second_plan_of_the_same_revision_changes_nothing(scene: Scene) -> None:
    series = scene.queued("pacs")
    assert scene.ledger.settling.plan(series, 1, plan_for("pacs")) is None
    assert scene.states("job") == ["queued"]
