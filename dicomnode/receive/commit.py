"""Commit all instances that wait at the same moment in one transaction.

The thread of each association calls ``accept`` with an instance whose file and folder are flushed. The first thread
leads: it commits all instances that wait. Those that come meanwhile are the next batch, and the first of them leads
it. A single association hands nothing over to another thread; sixteen share one flush of the ledger. (Each thread
flushes its folder itself: the journal of the filesystem groups flushes that come together. With four senders one flush
for the whole batch took a tenth more time, measured on ext4; with one and with sixteen the same.)

``accept`` returns after the row is committed, never before.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from dicomnode.errors import NodeError
from dicomnode.ledger.engine import LedgerBusyError
from dicomnode.ledger.facades.intake import Intake
from dicomnode.ledger.values import StoredInstance, StoreOutcome
from dicomnode.seams import checkpoint

MAX_BATCH = 256  # bounds one transaction; by default 64 associations are open at the most
TURN_TIMEOUT_S = 30.0  # two turns of a ledger that gives up after 10 s each, with a margin


class OutcomeUnknownError(NodeError):
    """A commit goes on for longer than the thread waits: the file must stay, the row may still come."""

    code = "commit_unknown"
    exit_code = 3


class GroupCommit:
    """Commits the rows of instances that come in at the same time together."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._lock = threading.Lock()
        self._waiting: list[_Ticket] = []  # in the order in which they came; the first may be about to lead
        self._is_led = False  # true: a thread commits or is about to

    def accept(self, instance: StoredInstance) -> StoreOutcome:
        """Commit the row of one instance, together with all that wait. Raises what the ledger raised."""
        ticket = _Ticket(instance)
        with self._lock:
            self._waiting.append(ticket)
            ticket.leads, self._is_led = not self._is_led, True
        if not ticket.leads:
            self._wait(ticket)
        if ticket.leads:
            self._lead(ticket)
        if ticket.error is not None:
            raise ticket.error
        if ticket.outcome is None:
            raise OutcomeUnknownError("The ledger did not say in time whether it took an instance.")
        return ticket.outcome

    def _wait(self, ticket: _Ticket) -> None:
        """Wait for the outcome or for the lead. A ticket that nobody takes in time is withdrawn."""
        if ticket.woken.acquire(timeout=TURN_TIMEOUT_S):
            return
        with self._lock:
            if ticket.leads:  # the lead was handed over just now
                return
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                ticket.error = LedgerBusyError("The ledger did not take an instance in time; it was not stored.")
                return
        ticket.woken.acquire(timeout=TURN_TIMEOUT_S)  # its commit has begun: the answer is on the way

    def _lead(self, own: _Ticket) -> None:
        """Commit all that wait, then hand the lead to the first of those who came meanwhile."""
        with self._lock:
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        try:
            self._commit(batch)
        finally:
            with self._lock:
                successors = self._waiting[:1]
                self._is_led = bool(successors)
                for one in successors:
                    one.leads = True
            for one in (*successors, *batch):  # the successor first: the disk need not wait for the others
                if one is not own:
                    one.woken.release()

    def _commit(self, batch: Sequence[_Ticket]) -> None:
        try:
            outcomes = self._intake.accept([ticket.instance for ticket in batch])
            checkpoint("receive.committed")
        except Exception as exc:  # noqa: BLE001 - not a border: each waiting thread raises its own
            is_shared = len(batch) == 1 or isinstance(exc, OSError | LedgerBusyError)
            for ticket in batch:
                if is_shared:
                    ticket.error = exc
                else:  # the fault may lie in one: the others must not be refused for it
                    self._commit([ticket])
        else:
            for ticket, outcome in zip(batch, outcomes, strict=True):
                ticket.outcome = outcome


class _Ticket:
    """One instance that waits for its row. Its thread is woken once it has an outcome, an error, or the lead."""

    def __init__(self, instance: StoredInstance) -> None:
        self.instance = instance
        self.outcome: StoreOutcome | None = None
        self.error: Exception | None = None
        self.leads = False
        self.woken = threading.Lock()  # held until then: a tenth of what an Event costs
        self.woken.acquire()
