"""The tables of the ledger, and the rules that the database itself enforces: checks, unique indexes, triggers.

Which states there are, and which changes between them, stands in the rows of ``transition`` alone, and triggers refuse
every other. A CHECK names a state only where it relates it to another column. A later state is therefore a migration
that adds rows, and no table has to change. For the same reason no CHECK lists the reasons and findings of
``quarantine`` or the proofs of ``delivery``: only values of an enumeration in the code are ever written there.

Statements elsewhere are SQLAlchemy Core and run on any database; the triggers here are SQLite's, and another database
gets its own beside them. Times are UTC. A released migration is never edited: a change here is a new one, a new
HEAD, and a test that compares a migrated ledger with a fresh one line by line.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    insert,
    text,
)

from dicomnode.ledger.states import (
    BIRTHS,
    ENDED_JOB_STATES,
    LIVE_JOB_STATES,
    changes,
)

HEAD: Final = "0015"  # the newest migration; numbers of four digits, so that text compares like age

RECEIVED: Final = "received"  # origins of a series and of an instance
DERIVED: Final = "derived"

MAX_ATTEMPTS: Final = 3  # of a job, before it is failed (docs/protocol.md#jobs)
UID_LENGTH: Final = 64  # PS3.5 section 9.1
SHA256_LENGTH: Final = 64  # hexadecimal digits
AE_TITLE_LENGTH: Final = 16  # PS3.5 section 6.2


class UtcDateTime(TypeDecorator[datetime]):
    """An aware moment in UTC; SQLite keeps it as text that sorts like time."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a naive moment: nobody could tell which one it means."""
        del dialect
        if value is None:
            return None
        assert value.tzinfo is not None, "a moment in the ledger needs its time zone"
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the zone back."""
        del dialect
        return None if value is None else value.replace(tzinfo=UTC)


def _quoted(values: Sequence[str]) -> str:
    return ", ".join(f"'{value}'" for value in values)


def _state_columns() -> list[Column[object]]:
    """Return the column of the state, and those that the trigger copies into ``event`` when the state changes."""
    return [
        Column("state", String(16), nullable=False),
        Column("state_cause", String(32), nullable=False),
        Column("state_at", UtcDateTime, nullable=False),
        Column("state_by", Text, nullable=False),
        Column("state_detail", Text, nullable=False),
    ]


def _lease_columns() -> list[Column[object]]:
    return [
        Column("lease_owner", Text),
        Column("lease_token", Integer, nullable=False),  # + 1 at each claim, never back
        Column("lease_until", UtcDateTime),
    ]


def _priority_column() -> Column[int]:
    """The first sort key of a claim; ``Priority`` in ``values`` has the numbers."""
    return Column("priority", Integer, nullable=False)


METADATA: Final = MetaData()

# Alembic's own table, spelt as Alembic spells it: a fresh ledger is stamped without importing Alembic.
alembic_version = Table(
    "alembic_version",
    METADATA,
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)

transition = Table(
    "transition",
    METADATA,
    Column("table_name", String(32), nullable=False),
    Column("from_state", String(16), nullable=False),  # empty: a birth
    Column("to_state", String(16), nullable=False),
    PrimaryKeyConstraint("table_name", "from_state", "to_state", name="transition_key"),
)

node = Table(
    "node",
    METADATA,
    Column("id", Integer, nullable=False),
    Column("uuid", String(36), nullable=False),  # namespace of the UIDs that we derive
    Column("created_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("id", name="node_key"),
    CheckConstraint("id = 1", name="node_is_one"),
)

boot = Table(
    "boot",
    METADATA,
    Column("id", Integer, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("host", Text, nullable=False),
    Column("began_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),  # empty: it lives, or was killed
    Column("settings_file", Text),  # that the settings in use were read from; empty: none, or older than 0011
    Column("settings_sha256", String(SHA256_LENGTH)),  # of that file, as it was then
    Column("settings_at", UtcDateTime),  # when they were taken
    Column("settings_restart", JSON(none_as_null=True)),  # keys of the file that are not in use before a restart
    Column("settings_tried_at", UtcDateTime),  # when the file was read last
    Column("settings_fault", Text),  # why it was not taken then; empty: it was
    PrimaryKeyConstraint("id", name="boot_key"),
)

series = Table(
    "series",
    METADATA,
    Column("id", Integer, nullable=False),
    Column("series_uid", String(UID_LENGTH)),  # empty: an output whose job is not done
    Column("origin", String(16), nullable=False),
    Column("revision", Integer, nullable=False),
    *_state_columns(),
    Column("created_at", UtcDateTime, nullable=False),
    Column("first_at", UtcDateTime),  # first instance of this revision; empty: none yet
    Column("last_at", UtcDateTime),
    Column("aborted", Boolean, nullable=False),  # the last association that stored into it ended without a release
    Column("reason", String(32)),  # of the verdict on this revision
    Column("sentence", Text, nullable=False),
    Column("notes", JSON, nullable=False),
    Column("alert", Boolean, nullable=False),
    Column("study_uid", String(UID_LENGTH)),  # as the first instance said; empty: a derived one, or older than 0011
    Column("pulled", Boolean),  # every instance of it was pulled: no rule takes it; empty: no
    PrimaryKeyConstraint("id", name="series_key"),
    UniqueConstraint("series_uid", name="series_uid_once"),
    CheckConstraint(f"origin IN ('{RECEIVED}', '{DERIVED}')", name="series_origin"),
    CheckConstraint("revision >= 1", name="series_revision"),
    CheckConstraint("origin = 'derived' OR series_uid IS NOT NULL", name="series_received_has_uid"),
    CheckConstraint("(first_at IS NULL) = (last_at IS NULL)", name="series_times"),
    CheckConstraint("state NOT IN ('settled', 'planned') OR first_at IS NOT NULL", name="series_settled_has_instances"),
    CheckConstraint("(state IN ('kept', 'planned')) = (reason IS NOT NULL)", name="series_verdict_has_reason"),
)
Index("series_receiving", series.c.id, sqlite_where=text("state = 'receiving'"))
Index("series_study", series.c.study_uid, sqlite_where=text("study_uid IS NOT NULL"))
Index("series_settled", series.c.id, sqlite_where=text("state = 'settled'"))

job = Table(
    "job",
    METADATA,
    Column("id", Integer, nullable=False),
    Column("series_id", Integer, ForeignKey("series.id", name="job_of_series"), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("output_series_id", Integer, ForeignKey("series.id", name="job_output")),
    *_state_columns(),
    Column("rule", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("model_digest", Text, nullable=False),
    Column("ratio", Integer, nullable=False),
    Column("parameters", Text, nullable=False),
    Column("derivation_number", Integer, nullable=False),
    Column("deliver_to", JSON, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("queued_at", UtcDateTime, nullable=False),  # the place in the queue
    Column("attempts", Integer, nullable=False),  # spent ones: the child died, hung or failed
    *_lease_columns(),
    Column("reason", String(32)),  # why it is held
    Column("sentence", Text, nullable=False),
    Column("finished_at", UtcDateTime),
    Column("seconds", Float),
    Column("notes", JSON, nullable=False),
    _priority_column(),
    Column("figures", JSON(none_as_null=True)),  # of the result gate; empty: the job is not done, or older than 0006
    Column("release", String(16), nullable=False, server_default=text("'auto'")),  # what happens with the result
    Column("late", String(16), nullable=False, server_default=text("'hold'")),  # after an earlier revision was sent
    PrimaryKeyConstraint("id", name="job_key"),
    UniqueConstraint("output_series_id", name="job_output_once"),
    CheckConstraint("revision >= 1 AND ratio >= 2 AND derivation_number >= 1", name="job_numbers"),
    CheckConstraint(f"attempts BETWEEN 0 AND {MAX_ATTEMPTS}", name="job_attempts"),
    CheckConstraint(f"state <> 'failed' OR attempts = {MAX_ATTEMPTS}", name="job_failed_spent_all"),
    CheckConstraint("(state = 'running') = (lease_owner IS NOT NULL)", name="job_running_is_leased"),
    CheckConstraint("(lease_owner IS NULL) = (lease_until IS NULL)", name="job_lease"),
    CheckConstraint("(state = 'done') = (finished_at IS NOT NULL)", name="job_done_at"),
    CheckConstraint("state <> 'done' OR output_series_id IS NOT NULL", name="job_done_has_output"),
    CheckConstraint("state <> 'held' OR reason IS NOT NULL", name="job_held_for_a_reason"),
)
Index(
    "job_live_once",
    job.c.series_id,
    job.c.revision,
    job.c.model,
    unique=True,
    sqlite_where=text(f"state IN ({_quoted(LIVE_JOB_STATES)})"),
)
Index(
    "job_once",
    job.c.series_id,
    job.c.revision,
    job.c.rule,
    job.c.model_digest,
    job.c.parameters,
    job.c.derivation_number,
    unique=True,
    sqlite_where=text(f"state NOT IN ({_quoted(ENDED_JOB_STATES)})"),
)
Index("job_waiting", job.c.priority, job.c.queued_at, job.c.id, sqlite_where=text("state = 'queued'"))
Index("job_leased", job.c.lease_until, sqlite_where=text("state = 'running'"))
Index("job_series", job.c.series_id)

instance = Table(
    "instance",
    METADATA,
    Column("id", BigInteger, nullable=False),  # random, and the name of its file
    Column("series_id", Integer, ForeignKey("series.id", name="instance_of_series"), nullable=False),
    Column("revision", Integer, nullable=False),  # with which it came: revision n is all rows up to n
    Column("sop_class_uid", String(UID_LENGTH), nullable=False),
    Column("sop_instance_uid", String(UID_LENGTH), nullable=False),
    Column("transfer_syntax_uid", String(UID_LENGTH), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(SHA256_LENGTH), nullable=False),
    Column("file", Text, nullable=False),
    Column("origin", String(16), nullable=False),
    Column("job_id", Integer, ForeignKey("job.id", name="instance_derived_by")),
    Column("number", Integer),  # place in the derived series
    Column("peer", Text),  # who sent it
    Column("stored_at", UtcDateTime, nullable=False),
    Column("removed_at", UtcDateTime),  # empty: its file is in the archive, or ought to be
    Column("called_ae", String(AE_TITLE_LENGTH)),  # the AE title that its sender called; empty: older than 0011
    PrimaryKeyConstraint("id", name="instance_key"),
    UniqueConstraint("sop_instance_uid", name="instance_uid_once"),
    UniqueConstraint("file", name="instance_file_once"),
    CheckConstraint(f"origin IN ('{RECEIVED}', '{DERIVED}')", name="instance_origin"),
    CheckConstraint("(origin = 'derived') = (job_id IS NOT NULL)", name="instance_derived_has_job"),
    CheckConstraint("(origin = 'derived') = (number IS NOT NULL)", name="instance_derived_has_number"),
    CheckConstraint("(origin = 'received') = (peer IS NOT NULL)", name="instance_received_has_peer"),
    CheckConstraint("id >= 0 AND revision >= 1 AND size_bytes >= 0", name="instance_numbers"),
    CheckConstraint(f"length(sha256) = {SHA256_LENGTH}", name="instance_sha256"),
)
Index("instance_series", instance.c.series_id, instance.c.revision, instance.c.peer)
Index("instance_derived", instance.c.job_id, sqlite_where=text("job_id IS NOT NULL"))
Index("instance_removed", instance.c.series_id, sqlite_where=text("removed_at IS NOT NULL"))

quarantine = Table(
    "quarantine",
    METADATA,
    Column("id", Integer, nullable=False),
    Column("file", Text, nullable=False),
    Column("reason", String(16), nullable=False),
    Column("sha256", String(SHA256_LENGTH), nullable=False),
    Column("peer", Text, nullable=False),
    Column("instance_id", BigInteger, ForeignKey("instance.id", name="quarantine_beside")),  # the one that was kept
    Column("kept_sha256", String(SHA256_LENGTH)),
    Column("at", UtcDateTime, nullable=False),
    Column("series_id", Integer, ForeignKey("series.id", name="quarantine_of_series")),  # by the file's own word
    Column("finding", String(16)),  # empty: nobody has looked yet
    Column("details", JSON, nullable=False),  # of the finding: attribute names and our own words
    Column("seen_at", UtcDateTime),  # when a person said so
    Column("removed_at", UtcDateTime),  # empty: it lies in the quarantine folder, or ought to
    PrimaryKeyConstraint("id", name="quarantine_key"),
)
Index("quarantine_series", quarantine.c.series_id, sqlite_where=text("series_id IS NOT NULL"))
Index("quarantine_instance", quarantine.c.instance_id, sqlite_where=text("instance_id IS NOT NULL"))
Index(
    "quarantine_unexamined",
    quarantine.c.series_id,
    sqlite_where=text("series_id IS NOT NULL AND finding IS NULL"),
)
Index("quarantine_unseen", quarantine.c.reason, quarantine.c.peer, sqlite_where=text("seen_at IS NULL"))

delivery = Table(
    "delivery",
    METADATA,
    Column("id", Integer, nullable=False),
    Column("job_id", Integer, ForeignKey("job.id", name="delivery_of_job")),  # empty: the originals are delivered
    Column("peer", Text, nullable=False),
    *_state_columns(),
    Column("created_at", UtcDateTime, nullable=False),
    Column("next_at", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False),  # claims; above 0 it has begun
    Column("failures", Integer, nullable=False),  # transient ones in a row
    *_lease_columns(),
    Column("reason", String(32)),  # why it is held or had to wait
    Column("sentence", Text, nullable=False),
    Column("proof", String(16)),  # how it is known that the peer has every instance
    Column("sent_at", UtcDateTime),
    _priority_column(),
    Column("resends", Integer, nullable=False, server_default=text("0")),  # for want of proof, since an operator acted
    Column("series_id", Integer, ForeignKey("series.id", name="delivery_of_series"), nullable=False),  # received
    Column("revision", Integer, nullable=False),
    PrimaryKeyConstraint("id", name="delivery_key"),
    UniqueConstraint("job_id", "peer", name="delivery_once"),
    CheckConstraint("attempts >= 0 AND failures >= 0", name="delivery_numbers"),
    CheckConstraint("(state = 'sending') = (lease_owner IS NOT NULL)", name="delivery_sending_is_leased"),
    CheckConstraint("(lease_owner IS NULL) = (lease_until IS NULL)", name="delivery_lease"),
    CheckConstraint("(state = 'sent') = (sent_at IS NOT NULL)", name="delivery_sent_at"),
    CheckConstraint("(state = 'sent') = (proof IS NOT NULL)", name="delivery_sent_has_proof"),
    CheckConstraint("state <> 'held' OR reason IS NOT NULL", name="delivery_held_for_a_reason"),
)
Index(
    "delivery_waiting",
    delivery.c.peer,
    delivery.c.priority,
    delivery.c.next_at,
    delivery.c.id,
    sqlite_where=text("state = 'due'"),
)
Index("delivery_series", delivery.c.series_id)
Index(
    "delivery_originals_once",
    delivery.c.series_id,
    delivery.c.revision,
    delivery.c.peer,
    unique=True,
    sqlite_where=text("job_id IS NULL"),
)
Index("delivery_leased", delivery.c.peer, delivery.c.lease_until, sqlite_where=text("state = 'sending'"))

delivery_item = Table(
    "delivery_item",
    METADATA,
    Column("id", Integer, nullable=False),
    Column("delivery_id", Integer, ForeignKey("delivery.id", name="item_of_delivery"), nullable=False),
    Column("instance_id", BigInteger, ForeignKey("instance.id", name="item_instance"), nullable=False),
    *_state_columns(),
    Column("status", Integer),  # the peer's last answer
    Column("tries", Integer, nullable=False),  # processing failures so far
    Column("attempt", Integer),  # of the delivery, in which it was acknowledged
    Column("committed_at", UtcDateTime),  # when the peer said that it keeps it
    PrimaryKeyConstraint("id", name="item_key"),
    UniqueConstraint("delivery_id", "instance_id", name="item_once"),
    CheckConstraint("state = 'pending' OR status IS NOT NULL", name="item_answered_has_status"),
    CheckConstraint("(state = 'acknowledged') = (attempt IS NOT NULL)", name="item_acknowledged_in_attempt"),
    CheckConstraint("tries >= 0", name="item_tries"),
)

commitment = Table(
    "commitment",
    METADATA,
    Column("id", Integer, nullable=False),
    Column("delivery_id", Integer, ForeignKey("delivery.id", name="commitment_of_delivery"), nullable=False),
    Column("peer", Text, nullable=False),  # that is asked; not always the one that the delivery went to
    Column("transaction_uid", String(UID_LENGTH), nullable=False),
    *_state_columns(),
    Column("created_at", UtcDateTime, nullable=False),
    Column("next_at", UtcDateTime, nullable=False),  # wanted: ask then; asked: look by C-FIND then
    Column("asked_at", UtcDateTime),
    Column("failures", Integer, nullable=False),  # to reach the peer, in a row
    PrimaryKeyConstraint("id", name="commitment_key"),
    UniqueConstraint("transaction_uid", name="commitment_transaction_once"),
    CheckConstraint("failures >= 0", name="commitment_numbers"),
    CheckConstraint("state <> 'asked' OR asked_at IS NOT NULL", name="commitment_asked_at"),
)
Index("commitment_delivery", commitment.c.delivery_id)
Index("commitment_waiting", commitment.c.next_at, sqlite_where=text("state IN ('wanted', 'asked')"))

model = Table(
    "model",
    METADATA,
    Column("id", Integer, nullable=False),
    Column("name", String(32), nullable=False),
    Column("digest", String(SHA256_LENGTH), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("lowest_ratio", Integer, nullable=False),
    Column("highest_ratio", Integer, nullable=False),
    *_state_columns(),
    Column("imported_at", UtcDateTime, nullable=False),
    Column("place", Integer),  # in the line of its name, the foremost has the highest; empty: not in it
    PrimaryKeyConstraint("id", name="model_key"),
    UniqueConstraint("digest", name="model_digest_once"),
    UniqueConstraint("place", name="model_place_once"),
    CheckConstraint(f"length(digest) = {SHA256_LENGTH}", name="model_digest"),
    CheckConstraint("lowest_ratio >= 2 AND highest_ratio >= lowest_ratio", name="model_ratios"),
    CheckConstraint("(state IN ('active', 'replaced')) = (place IS NOT NULL)", name="model_has_place"),
    CheckConstraint("name <> 'cubic-dc'", name="model_of_no_weights"),
)
Index("model_active_once", model.c.name, unique=True, sqlite_where=text("state = 'active'"))

alert = Table(
    "alert",
    METADATA,
    Column("id", Integer, nullable=False),
    Column("destination", String(16), nullable=False),
    Column("name", Text, nullable=False),  # of the condition
    *_state_columns(),
    Column("sentence", Text, nullable=False),  # own ids only
    Column("is_error", Boolean, nullable=False),  # else something that waits for a decision
    Column("number", Integer, nullable=False),  # of rows, or a grade
    Column("first_at", UtcDateTime, nullable=False),
    Column("last_at", UtcDateTime, nullable=False),  # when ``number`` changed last
    Column("sent_at", UtcDateTime),  # empty: never
    Column("sent_number", Integer, nullable=False),
    Column("failing_since", UtcDateTime),  # the first failed try to send what is to be sent; empty: none failed
    Column("failure", Text, nullable=False),  # of the last try
    PrimaryKeyConstraint("id", name="alert_key"),
    CheckConstraint("state NOT IN ('sent', 'closed') OR sent_at IS NOT NULL", name="alert_sent_at"),
)
Index(
    "alert_open_once",
    alert.c.destination,
    alert.c.name,
    unique=True,
    sqlite_where=text("state IN ('raised', 'sent', 'ended')"),
)

# The data on its scanner that a verdict yields; texts of headers stand in ``protocol`` alone.
protocol = Table(
    "protocol",
    METADATA,
    Column("id", Integer, nullable=False),
    Column("peer", Text, nullable=False),  # that sent the first instance
    Column("station", Text, nullable=False),  # Station Name; empty: none
    Column("serial", Text, nullable=False),  # Device Serial Number; empty: none
    Column("name", Text, nullable=False),  # Protocol Name, else Series Description; empty: none
    PrimaryKeyConstraint("id", name="protocol_key"),
    UniqueConstraint("peer", "station", "serial", "name", name="protocol_once"),
)

judgement = Table(
    "judgement",
    METADATA,
    Column("series_id", Integer, ForeignKey("series.id", name="judgement_of_series"), nullable=False),
    Column("protocol_id", Integer, ForeignKey("protocol.id", name="judgement_protocol"), nullable=False),
    Column("at", UtcDateTime, nullable=False),  # when its last instance came
    Column("week", Integer, nullable=False),  # of ``at``, counted from 0001-01-01, a Monday
    Column("reason", String(32), nullable=False),  # of the verdict on its images
    Column("slices", Integer, nullable=False),
    Column("missing", Integer, nullable=False),  # slices
    Column("spacing_mm", Float),  # empty: the verdict ended before it was measured
    Column("thickness_mm", Float),  # empty: unknown or not believed
    Column("clock_s", Float),  # the youngest image's own time minus that of its arrival; empty: it states none
    PrimaryKeyConstraint("series_id", name="judgement_key"),
)
Index("judgement_protocol", judgement.c.protocol_id, judgement.c.week)
Index("judgement_week", judgement.c.week)

events = Table(
    "event",
    METADATA,
    Column("id", Integer, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("table_name", String(32), nullable=False),
    Column("row_id", BigInteger, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("from_state", String(16)),  # empty: not a change of state, or a birth
    Column("to_state", String(16)),
    Column("actor", Text, nullable=False),
    Column("detail", Text, nullable=False),
    PrimaryKeyConstraint("id", name="event_key"),
)
Index("event_row", events.c.table_name, events.c.row_id)

# Triggers that refuse illegal changes and write events. {table} stands for each table whose rows have a state.
_GUARDS: Final = (
    """
CREATE TRIGGER {table}_born_legally BEFORE INSERT ON {table}
WHEN NOT EXISTS (
    SELECT 1 FROM transition WHERE table_name = '{table}' AND from_state = '' AND to_state = NEW.state
)
BEGIN SELECT RAISE(ABORT, 'no row of {table} begins in this state'); END
""",
    """
CREATE TRIGGER {table}_moves_legally BEFORE UPDATE OF state ON {table}
WHEN NEW.state <> OLD.state AND NOT EXISTS (
    SELECT 1 FROM transition WHERE table_name = '{table}' AND from_state = OLD.state AND to_state = NEW.state
)
BEGIN SELECT RAISE(ABORT, 'no such change of state of {table}'); END
""",
    """
CREATE TRIGGER {table}_moved AFTER UPDATE OF state ON {table} WHEN NEW.state <> OLD.state
BEGIN
    INSERT INTO event (at, table_name, row_id, kind, from_state, to_state, actor, detail) VALUES
    (NEW.state_at, '{table}', NEW.id, NEW.state_cause, OLD.state, NEW.state, NEW.state_by, NEW.state_detail);
END
""",
)
# Not for an item: a delivery of 120 instances is one birth.
_BIRTH: Final = """
CREATE TRIGGER {table}_born AFTER INSERT ON {table}
BEGIN
    INSERT INTO event (at, table_name, row_id, kind, from_state, to_state, actor, detail) VALUES
    (NEW.state_at, '{table}', NEW.id, NEW.state_cause, NULL, NEW.state, NEW.state_by, NEW.state_detail);
END
"""
_OTHER_TRIGGERS: Final = (
    """
CREATE TRIGGER event_is_never_updated BEFORE UPDATE ON event
BEGIN SELECT RAISE(ABORT, 'the rows of event are never changed'); END
""",
    """
CREATE TRIGGER event_is_kept BEFORE DELETE ON event
WHEN OLD.at > strftime('%Y-%m-%d %H:%M:%f', 'now', '-183 days')
BEGIN SELECT RAISE(ABORT, 'a row of event is kept for 183 days'); END
""",
    """
CREATE TRIGGER delivery_of_done_job BEFORE INSERT ON delivery
WHEN NEW.job_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM job WHERE id = NEW.job_id AND state = 'done')
BEGIN SELECT RAISE(ABORT, 'only a done job is delivered'); END
""",
    """
CREATE TRIGGER delivery_sent_whole BEFORE UPDATE OF state ON delivery
WHEN NEW.state = 'sent' AND EXISTS (
    SELECT 1 FROM delivery_item WHERE delivery_id = NEW.id AND state <> 'acknowledged'
)
BEGIN SELECT RAISE(ABORT, 'a delivery is sent when every item is acknowledged'); END
""",
)


def triggers() -> list[str]:
    """Return the statements that make all triggers; a migration that rebuilds a table drops its triggers with it."""
    guards = [guard.format(table=table) for table in BIRTHS for guard in _GUARDS]
    births = [_BIRTH.format(table=table) for table in BIRTHS if table != delivery_item.name]
    return [statement.strip() for statement in (*guards, *births, *_OTHER_TRIGGERS)]


def create_ledger(connection: Connection, now: datetime) -> None:
    """Make all tables in an empty database, with its number, its transitions and the node's own UUID."""
    METADATA.create_all(connection, checkfirst=False)
    for statement in triggers():
        connection.exec_driver_sql(statement)
    connection.execute(insert(alembic_version), {"version_num": HEAD})
    connection.execute(
        insert(transition),
        [{"table_name": table, "from_state": source, "to_state": target} for table, source, target in changes()],
    )
    connection.execute(insert(node), {"id": 1, "uuid": str(uuid.uuid4()), "created_at": now})
