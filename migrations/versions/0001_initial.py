"""The first ledger.

Frozen. Never imports dicomnode: the statements are those that the first released program ran.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = (
    """CREATE TABLE transition (
    table_name VARCHAR(32) NOT NULL,
    from_state VARCHAR(16) NOT NULL,
    to_state VARCHAR(16) NOT NULL,
    CONSTRAINT transition_key PRIMARY KEY (table_name, from_state, to_state)
)""",
    """CREATE TABLE node (
    id INTEGER NOT NULL,
    uuid VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    CONSTRAINT node_key PRIMARY KEY (id),
    CONSTRAINT node_is_one CHECK (id = 1)
)""",
    """CREATE TABLE boot (
    id INTEGER NOT NULL,
    pid INTEGER NOT NULL,
    host TEXT NOT NULL,
    began_at DATETIME NOT NULL,
    ended_at DATETIME,
    CONSTRAINT boot_key PRIMARY KEY (id)
)""",
    """CREATE TABLE series (
    id INTEGER NOT NULL,
    series_uid VARCHAR(64),
    origin VARCHAR(16) NOT NULL,
    revision INTEGER NOT NULL,
    state VARCHAR(16) NOT NULL,
    state_cause VARCHAR(32) NOT NULL,
    state_at DATETIME NOT NULL,
    state_by TEXT NOT NULL,
    state_detail TEXT NOT NULL,
    created_at DATETIME NOT NULL,
    first_at DATETIME,
    last_at DATETIME,
    aborted BOOLEAN NOT NULL,
    reason VARCHAR(32),
    sentence TEXT NOT NULL,
    notes JSON NOT NULL,
    alert BOOLEAN NOT NULL,
    CONSTRAINT series_key PRIMARY KEY (id),
    CONSTRAINT series_uid_once UNIQUE (series_uid),
    CONSTRAINT series_state CHECK (state IN ('receiving', 'settled', 'kept', 'planned')),
    CONSTRAINT series_origin CHECK (origin IN ('received', 'derived')),
    CONSTRAINT series_revision CHECK (revision >= 1),
    CONSTRAINT series_received_has_uid CHECK (origin = 'derived' OR series_uid IS NOT NULL),
    CONSTRAINT series_times CHECK ((first_at IS NULL) = (last_at IS NULL)),
    CONSTRAINT series_settled_has_instances
        CHECK (state NOT IN ('settled', 'planned') OR first_at IS NOT NULL),
    CONSTRAINT series_verdict_has_reason CHECK ((state IN ('kept', 'planned')) = (reason IS NOT NULL))
)""",
    """CREATE INDEX series_settled ON series (id) WHERE state = 'settled'""",
    """CREATE INDEX series_receiving ON series (id) WHERE state = 'receiving'""",
    """CREATE TABLE event (
    id INTEGER NOT NULL,
    at DATETIME NOT NULL,
    table_name VARCHAR(32) NOT NULL,
    row_id BIGINT NOT NULL,
    kind VARCHAR(32) NOT NULL,
    from_state VARCHAR(16),
    to_state VARCHAR(16),
    actor TEXT NOT NULL,
    detail TEXT NOT NULL,
    CONSTRAINT event_key PRIMARY KEY (id)
)""",
    """CREATE INDEX event_row ON event (table_name, row_id)""",
    """CREATE TABLE job (
    id INTEGER NOT NULL,
    series_id INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    output_series_id INTEGER,
    state VARCHAR(16) NOT NULL,
    state_cause VARCHAR(32) NOT NULL,
    state_at DATETIME NOT NULL,
    state_by TEXT NOT NULL,
    state_detail TEXT NOT NULL,
    rule TEXT NOT NULL,
    model TEXT NOT NULL,
    model_digest TEXT NOT NULL,
    ratio INTEGER NOT NULL,
    parameters TEXT NOT NULL,
    derivation_number INTEGER NOT NULL,
    deliver_to JSON NOT NULL,
    verdict TEXT NOT NULL,
    created_at DATETIME NOT NULL,
    queued_at DATETIME NOT NULL,
    attempts INTEGER NOT NULL,
    lease_owner TEXT,
    lease_token INTEGER NOT NULL,
    lease_until DATETIME,
    reason VARCHAR(32),
    sentence TEXT NOT NULL,
    finished_at DATETIME,
    seconds FLOAT,
    notes JSON NOT NULL,
    CONSTRAINT job_key PRIMARY KEY (id),
    CONSTRAINT job_output_once UNIQUE (output_series_id),
    CONSTRAINT job_state
        CHECK (state IN ('queued', 'running', 'done', 'held', 'failed', 'superseded', 'cancelled')),
    CONSTRAINT job_numbers CHECK (revision >= 1 AND ratio >= 2 AND derivation_number >= 1),
    CONSTRAINT job_attempts CHECK (attempts BETWEEN 0 AND 3),
    CONSTRAINT job_failed_spent_all CHECK (state <> 'failed' OR attempts = 3),
    CONSTRAINT job_running_is_leased CHECK ((state = 'running') = (lease_owner IS NOT NULL)),
    CONSTRAINT job_lease CHECK ((lease_owner IS NULL) = (lease_until IS NULL)),
    CONSTRAINT job_done_at CHECK ((state = 'done') = (finished_at IS NOT NULL)),
    CONSTRAINT job_done_has_output CHECK (state <> 'done' OR output_series_id IS NOT NULL),
    CONSTRAINT job_held_for_a_reason CHECK (state <> 'held' OR reason IS NOT NULL),
    CONSTRAINT job_of_series FOREIGN KEY(series_id) REFERENCES series (id),
    CONSTRAINT job_output FOREIGN KEY(output_series_id) REFERENCES series (id)
)""",
    """CREATE INDEX job_series ON job (series_id)""",
    """CREATE INDEX job_leased ON job (lease_until) WHERE state = 'running'""",
    """CREATE INDEX job_waiting ON job (queued_at, id) WHERE state = 'queued'""",
    """CREATE UNIQUE INDEX job_live_once
    ON job (series_id, revision, model)
    WHERE state IN ('queued', 'running', 'held')""",
    """CREATE UNIQUE INDEX job_once
    ON job (series_id, revision, rule, model_digest, parameters, derivation_number)
    WHERE state NOT IN ('superseded', 'cancelled')""",
    """CREATE TABLE instance (
    id BIGINT NOT NULL,
    series_id INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    sop_class_uid VARCHAR(64) NOT NULL,
    sop_instance_uid VARCHAR(64) NOT NULL,
    transfer_syntax_uid VARCHAR(64) NOT NULL,
    size_bytes BIGINT NOT NULL,
    sha256 VARCHAR(64) NOT NULL,
    file TEXT NOT NULL,
    origin VARCHAR(16) NOT NULL,
    job_id INTEGER,
    number INTEGER,
    peer TEXT,
    stored_at DATETIME NOT NULL,
    CONSTRAINT instance_key PRIMARY KEY (id),
    CONSTRAINT instance_uid_once UNIQUE (sop_instance_uid),
    CONSTRAINT instance_file_once UNIQUE (file),
    CONSTRAINT instance_origin CHECK (origin IN ('received', 'derived')),
    CONSTRAINT instance_derived_has_job CHECK ((origin = 'derived') = (job_id IS NOT NULL)),
    CONSTRAINT instance_derived_has_number CHECK ((origin = 'derived') = (number IS NOT NULL)),
    CONSTRAINT instance_received_has_peer CHECK ((origin = 'received') = (peer IS NOT NULL)),
    CONSTRAINT instance_numbers CHECK (id >= 0 AND revision >= 1 AND size_bytes >= 0),
    CONSTRAINT instance_sha256 CHECK (length(sha256) = 64),
    CONSTRAINT instance_of_series FOREIGN KEY(series_id) REFERENCES series (id),
    CONSTRAINT instance_derived_by FOREIGN KEY(job_id) REFERENCES job (id)
)""",
    """CREATE INDEX instance_series ON instance (series_id, revision)""",
    """CREATE INDEX instance_derived ON instance (job_id) WHERE job_id IS NOT NULL""",
    """CREATE TABLE delivery (
    id INTEGER NOT NULL,
    job_id INTEGER NOT NULL,
    peer TEXT NOT NULL,
    state VARCHAR(16) NOT NULL,
    state_cause VARCHAR(32) NOT NULL,
    state_at DATETIME NOT NULL,
    state_by TEXT NOT NULL,
    state_detail TEXT NOT NULL,
    created_at DATETIME NOT NULL,
    next_at DATETIME NOT NULL,
    attempts INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    lease_owner TEXT,
    lease_token INTEGER NOT NULL,
    lease_until DATETIME,
    reason VARCHAR(32),
    sentence TEXT NOT NULL,
    proof VARCHAR(16),
    sent_at DATETIME,
    CONSTRAINT delivery_key PRIMARY KEY (id),
    CONSTRAINT delivery_once UNIQUE (job_id, peer),
    CONSTRAINT delivery_state CHECK (state IN ('due', 'sending', 'sent', 'held', 'cancelled')),
    CONSTRAINT delivery_numbers CHECK (attempts >= 0 AND failures >= 0),
    CONSTRAINT delivery_sending_is_leased CHECK ((state = 'sending') = (lease_owner IS NOT NULL)),
    CONSTRAINT delivery_lease CHECK ((lease_owner IS NULL) = (lease_until IS NULL)),
    CONSTRAINT delivery_sent_at CHECK ((state = 'sent') = (sent_at IS NOT NULL)),
    CONSTRAINT delivery_sent_has_proof CHECK ((state = 'sent') = (proof IS NOT NULL)),
    CONSTRAINT delivery_proof CHECK (proof IN ('acknowledged', 'queried', 'committed')),
    CONSTRAINT delivery_held_for_a_reason CHECK (state <> 'held' OR reason IS NOT NULL),
    CONSTRAINT delivery_of_job FOREIGN KEY(job_id) REFERENCES job (id)
)""",
    """CREATE INDEX delivery_leased ON delivery (peer, lease_until) WHERE state = 'sending'""",
    """CREATE INDEX delivery_waiting ON delivery (peer, next_at) WHERE state = 'due'""",
    """CREATE TABLE quarantine (
    id INTEGER NOT NULL,
    file TEXT NOT NULL,
    reason VARCHAR(16) NOT NULL,
    sha256 VARCHAR(64) NOT NULL,
    peer TEXT NOT NULL,
    instance_id BIGINT,
    kept_sha256 VARCHAR(64),
    at DATETIME NOT NULL,
    CONSTRAINT quarantine_key PRIMARY KEY (id),
    CONSTRAINT quarantine_reason
        CHECK (reason IN ('conflict', 'other_encoding', 'header', 'uid', 'orphan', 'altered')),
    CONSTRAINT quarantine_beside FOREIGN KEY(instance_id) REFERENCES instance (id)
)""",
    """CREATE TABLE delivery_item (
    id INTEGER NOT NULL,
    delivery_id INTEGER NOT NULL,
    instance_id BIGINT NOT NULL,
    state VARCHAR(16) NOT NULL,
    state_cause VARCHAR(32) NOT NULL,
    state_at DATETIME NOT NULL,
    state_by TEXT NOT NULL,
    state_detail TEXT NOT NULL,
    status INTEGER,
    tries INTEGER NOT NULL,
    attempt INTEGER,
    CONSTRAINT item_key PRIMARY KEY (id),
    CONSTRAINT item_once UNIQUE (delivery_id, instance_id),
    CONSTRAINT item_state CHECK (state IN ('pending', 'acknowledged', 'refused')),
    CONSTRAINT item_answered_has_status CHECK (state = 'pending' OR status IS NOT NULL),
    CONSTRAINT item_acknowledged_in_attempt CHECK ((state = 'acknowledged') = (attempt IS NOT NULL)),
    CONSTRAINT item_tries CHECK (tries >= 0),
    CONSTRAINT item_of_delivery FOREIGN KEY(delivery_id) REFERENCES delivery (id),
    CONSTRAINT item_instance FOREIGN KEY(instance_id) REFERENCES instance (id)
)""",
    """CREATE TRIGGER series_born_legally BEFORE INSERT ON series
WHEN NOT EXISTS (
    SELECT 1 FROM transition WHERE table_name = 'series' AND from_state = '' AND to_state = NEW.state
)
BEGIN SELECT RAISE(ABORT, 'no row of series begins in this state'); END""",
    """CREATE TRIGGER series_moves_legally BEFORE UPDATE OF state ON series
WHEN NEW.state <> OLD.state AND NOT EXISTS (
    SELECT 1 FROM transition
    WHERE table_name = 'series' AND from_state = OLD.state AND to_state = NEW.state
)
BEGIN SELECT RAISE(ABORT, 'no such change of state of series'); END""",
    """CREATE TRIGGER series_moved AFTER UPDATE OF state ON series WHEN NEW.state <> OLD.state
BEGIN
    INSERT INTO event (at, table_name, row_id, kind, from_state, to_state, actor, detail) VALUES
    (NEW.state_at, 'series', NEW.id, NEW.state_cause, OLD.state, NEW.state, NEW.state_by, NEW.state_detail);
END""",
    """CREATE TRIGGER job_born_legally BEFORE INSERT ON job
WHEN NOT EXISTS (
    SELECT 1 FROM transition WHERE table_name = 'job' AND from_state = '' AND to_state = NEW.state
)
BEGIN SELECT RAISE(ABORT, 'no row of job begins in this state'); END""",
    """CREATE TRIGGER job_moves_legally BEFORE UPDATE OF state ON job
WHEN NEW.state <> OLD.state AND NOT EXISTS (
    SELECT 1 FROM transition WHERE table_name = 'job' AND from_state = OLD.state AND to_state = NEW.state
)
BEGIN SELECT RAISE(ABORT, 'no such change of state of job'); END""",
    """CREATE TRIGGER job_moved AFTER UPDATE OF state ON job WHEN NEW.state <> OLD.state
BEGIN
    INSERT INTO event (at, table_name, row_id, kind, from_state, to_state, actor, detail) VALUES
    (NEW.state_at, 'job', NEW.id, NEW.state_cause, OLD.state, NEW.state, NEW.state_by, NEW.state_detail);
END""",
    """CREATE TRIGGER delivery_born_legally BEFORE INSERT ON delivery
WHEN NOT EXISTS (
    SELECT 1 FROM transition WHERE table_name = 'delivery' AND from_state = '' AND to_state = NEW.state
)
BEGIN SELECT RAISE(ABORT, 'no row of delivery begins in this state'); END""",
    """CREATE TRIGGER delivery_moves_legally BEFORE UPDATE OF state ON delivery
WHEN NEW.state <> OLD.state AND NOT EXISTS (
    SELECT 1 FROM transition
    WHERE table_name = 'delivery' AND from_state = OLD.state AND to_state = NEW.state
)
BEGIN SELECT RAISE(ABORT, 'no such change of state of delivery'); END""",
    """CREATE TRIGGER delivery_moved AFTER UPDATE OF state ON delivery WHEN NEW.state <> OLD.state
BEGIN
    INSERT INTO event (at, table_name, row_id, kind, from_state, to_state, actor, detail) VALUES
    (NEW.state_at, 'delivery', NEW.id, NEW.state_cause, OLD.state, NEW.state, NEW.state_by, NEW.state_detail);
END""",
    """CREATE TRIGGER delivery_item_born_legally BEFORE INSERT ON delivery_item
WHEN NOT EXISTS (
    SELECT 1 FROM transition
    WHERE table_name = 'delivery_item' AND from_state = '' AND to_state = NEW.state
)
BEGIN SELECT RAISE(ABORT, 'no row of delivery_item begins in this state'); END""",
    """CREATE TRIGGER delivery_item_moves_legally BEFORE UPDATE OF state ON delivery_item
WHEN NEW.state <> OLD.state AND NOT EXISTS (
    SELECT 1 FROM transition
    WHERE table_name = 'delivery_item' AND from_state = OLD.state AND to_state = NEW.state
)
BEGIN SELECT RAISE(ABORT, 'no such change of state of delivery_item'); END""",
    """CREATE TRIGGER delivery_item_moved AFTER UPDATE OF state ON delivery_item WHEN NEW.state <> OLD.state
BEGIN
    INSERT INTO event (at, table_name, row_id, kind, from_state, to_state, actor, detail) VALUES
    (NEW.state_at, 'delivery_item', NEW.id, NEW.state_cause, OLD.state, NEW.state, NEW.state_by, NEW.state_detail);
END""",
    """CREATE TRIGGER series_born AFTER INSERT ON series
BEGIN
    INSERT INTO event (at, table_name, row_id, kind, from_state, to_state, actor, detail) VALUES
    (NEW.state_at, 'series', NEW.id, NEW.state_cause, NULL, NEW.state, NEW.state_by, NEW.state_detail);
END""",
    """CREATE TRIGGER job_born AFTER INSERT ON job
BEGIN
    INSERT INTO event (at, table_name, row_id, kind, from_state, to_state, actor, detail) VALUES
    (NEW.state_at, 'job', NEW.id, NEW.state_cause, NULL, NEW.state, NEW.state_by, NEW.state_detail);
END""",
    """CREATE TRIGGER delivery_born AFTER INSERT ON delivery
BEGIN
    INSERT INTO event (at, table_name, row_id, kind, from_state, to_state, actor, detail) VALUES
    (NEW.state_at, 'delivery', NEW.id, NEW.state_cause, NULL, NEW.state, NEW.state_by, NEW.state_detail);
END""",
    """CREATE TRIGGER event_is_never_updated BEFORE UPDATE ON event
BEGIN SELECT RAISE(ABORT, 'the rows of event are never changed'); END""",
    """CREATE TRIGGER event_is_never_deleted BEFORE DELETE ON event
BEGIN SELECT RAISE(ABORT, 'the rows of event are never changed'); END""",
    """CREATE TRIGGER delivery_of_done_job BEFORE INSERT ON delivery
WHEN NOT EXISTS (SELECT 1 FROM job WHERE id = NEW.job_id AND state = 'done')
BEGIN SELECT RAISE(ABORT, 'only a done job is delivered'); END""",
    """CREATE TRIGGER delivery_sent_whole BEFORE UPDATE OF state ON delivery
WHEN NEW.state = 'sent' AND EXISTS (
    SELECT 1 FROM delivery_item WHERE delivery_id = NEW.id AND state <> 'acknowledged'
)
BEGIN SELECT RAISE(ABORT, 'a delivery is sent when every item is acknowledged'); END""",
)

# (table, from, to); from the empty state: a birth.
TRANSITIONS = (
    ("delivery", "", "due"),
    ("delivery", "", "held"),
    ("delivery", "due", "cancelled"),
    ("delivery", "due", "sending"),
    ("delivery", "held", "cancelled"),
    ("delivery", "held", "due"),
    ("delivery", "sending", "due"),
    ("delivery", "sending", "held"),
    ("delivery", "sending", "sent"),
    ("delivery_item", "", "pending"),
    ("delivery_item", "pending", "acknowledged"),
    ("delivery_item", "pending", "refused"),
    ("delivery_item", "refused", "pending"),
    ("job", "", "queued"),
    ("job", "failed", "cancelled"),
    ("job", "failed", "queued"),
    ("job", "held", "cancelled"),
    ("job", "held", "queued"),
    ("job", "held", "superseded"),
    ("job", "queued", "cancelled"),
    ("job", "queued", "running"),
    ("job", "queued", "superseded"),
    ("job", "running", "done"),
    ("job", "running", "failed"),
    ("job", "running", "held"),
    ("job", "running", "queued"),
    ("series", "", "kept"),
    ("series", "", "receiving"),
    ("series", "kept", "receiving"),
    ("series", "kept", "settled"),
    ("series", "planned", "receiving"),
    ("series", "planned", "settled"),
    ("series", "receiving", "settled"),
    ("series", "settled", "kept"),
    ("series", "settled", "planned"),
    ("series", "settled", "receiving"),
)


def upgrade() -> None:
    """Make every table, index and trigger, the transitions, and the node's own UUID."""
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)
    connection.execute(
        sa.text("INSERT INTO transition (table_name, from_state, to_state) VALUES (:t, :f, :s)"),
        [{"t": table, "f": source, "s": target} for table, source, target in TRANSITIONS],
    )
    # SQLite keeps a moment as text in this very form.
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    connection.execute(
        sa.text("INSERT INTO node (id, uuid, created_at) VALUES (1, :u, :now)"), {"u": str(uuid.uuid4()), "now": now}
    )
