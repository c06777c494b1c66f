"""The ledger of a running node: its one writer, and the facades through which each user of it reads and writes.

Everything durable goes through here, from any thread of the service and from the operator's commands beside it. Each
method of a facade is one transaction, or one read. It returns what happened as a value; False or None means that the
row was no longer where the caller left it (its lease was lost, a late instance came) and that nothing was written.
Which rows a transaction changes stands in the modules that a facade calls; which changes there are at all, in
``states``.
"""

from __future__ import annotations

import uuid

from dicomnode.ledger.access import Access
from dicomnode.ledger.engine import Database, ledger_path, node_uuid, require_file, require_head, schema_version
from dicomnode.ledger.facades.alerts import Alerts
from dicomnode.ledger.facades.boots import Boots
from dicomnode.ledger.facades.commitments import Commitments
from dicomnode.ledger.facades.deliveries import Deliveries
from dicomnode.ledger.facades.intake import Intake
from dicomnode.ledger.facades.jobs import Jobs
from dicomnode.ledger.facades.models import Models
from dicomnode.ledger.facades.operator import Operator
from dicomnode.ledger.facades.quarantine import Quarantine
from dicomnode.ledger.facades.refreshes import Refreshes
from dicomnode.ledger.facades.removals import Removals
from dicomnode.ledger.facades.settling import Settling
from dicomnode.ledger.facades.upkeep import Upkeep
from dicomnode.ledger.schema import create_ledger
from dicomnode.ledger.transaction import NODE
from dicomnode.seams import SYSTEM_CLOCK, Clock


def open_ledger(url: str, *, clock: Clock = SYSTEM_CLOCK, create: bool = True) -> Ledger:
    """Open the ledger, or make an empty one where ``create`` allows it.

    Raises LedgerError for an older, a newer and a damaged ledger, and for a missing one that may not be made.
    """
    if not create:
        require_file(ledger_path(url))
    database = Database(url)
    try:
        with database.transaction("open") as connection:
            version = schema_version(connection)
            if version is None:
                create_ledger(connection, clock.now())
            else:
                require_head(version, database.path)
            own = uuid.UUID(node_uuid(connection))
    except BaseException:
        database.close()
        raise
    return Ledger(Access(database, clock), own)


class Ledger:
    """The open ledger, which every thread of this process may use."""

    def __init__(self, access: Access, node_uuid: uuid.UUID) -> None:
        self.node_uuid = node_uuid  # namespace of the UIDs that this node derives
        self.boots = Boots(access)
        self.intake = Intake(access)
        self.quarantine = Quarantine(access)
        self.settling = Settling(access)
        self.jobs = Jobs(access)
        self.deliveries = Deliveries(access)
        self.commitments = Commitments(access)
        self.operator = Operator(access)
        self.models = Models(access)
        self.alerts = Alerts(access)
        self.upkeep = Upkeep(access)
        self.removals = Removals(access)
        self.refreshes = Refreshes(access)
        self._access = access

    def note(self, kind: str, *, table: str, row: int, detail: str = "", by: str = NODE) -> None:
        """Record an event that an operator may want to read, at the row to which it happened."""
        with self._access.writing("note", by) as transaction:
            transaction.note(kind, table=table, row=row, detail=detail)

    def check(self) -> None:
        """Check every page of the file. Raises LedgerError for damage, CheckStoppedError after ``stop_check``."""
        self._access.database.check()

    def stop_check(self) -> None:
        """Stop a check that runs in another thread."""
        self._access.database.stop_check()

    def close(self) -> None:
        """Fold the write-ahead log into the file."""
        self._access.database.close()
