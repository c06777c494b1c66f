"""One transaction for all instances that wait for it at the same moment.

The thread of each association calls ``accept`` with an instance whose file and folder are flushed. The first thread
commits all instances that wait; those that come meanwhile are the next batch. A single association hands nothing over
to another thread; sixteen share one flush of the ledger. (Each thread flushes its folder itself: the journal of the
filesystem groups flushes that come together. With four senders one flush for the whole batch took a tenth more time,
measured on ext4; with one and with sixteen the same.)

``accept`` returns after the row is committed, never before.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from dicomnode.errors import NodeError
from dicomnode.ledger.engine import LedgerBusyError
from dicomnode.ledger.store import Ledger
from dicomnode.ledger.values import StoredInstance, StoreOutcome
from dicomnode.seams import checkpoint

MAX_BATCH = 256  # bounds one transaction; by default 64 associations are open at the most
TURN_TIMEOUT_S = 30.0  # two turns of a ledger that gives up after 10 s each, and then some


class OutcomeUnknownError(NodeError):
    """A commit goes on for longer than anyone waits: the file must stay, the row may still come."""

    code = "commit_unknown"
    exit_code = 3


class GroupCommit:
    """The rows of the instances that come in at the same time."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._turn = threading.Lock()
        self._waiting: list[_Ticket] = []
        self._waiting_lock = threading.Lock()

    def accept(self, instance: StoredInstance) -> StoreOutcome:
        """Commit the row of one instance, together with all that wait. Raises what the ledger raised."""
        ticket = _Ticket(instance)
        with self._waiting_lock:
            self._waiting.append(ticket)
        if not self._turn.acquire(timeout=TURN_TIMEOUT_S):
            self._leave(ticket)
        else:
            try:
                if not ticket.settled.is_set():
                    self._commit(self._take(ticket))
            finally:
                self._turn.release()
        if ticket.error is not None:
            raise ticket.error
        assert ticket.outcome is not None, "a settled ticket has an outcome or an error"
        return ticket.outcome

    def _take(self, own: _Ticket) -> list[_Ticket]:
        """The next batch, our own ticket in it."""
        with self._waiting_lock:
            batch = [own, *(one for one in self._waiting if one is not own)][:MAX_BATCH]
            self._waiting = [one for one in self._waiting if one not in batch]
        return batch

    def _leave(self, ticket: _Ticket) -> None:
        """Give up waiting; where another thread has taken the ticket by now, its answer is on the way."""
        with self._waiting_lock:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                ticket.error = LedgerBusyError("The ledger did not take an instance in time; it was not stored.")
                return
        if not ticket.settled.wait(TURN_TIMEOUT_S):
            ticket.error = OutcomeUnknownError("The ledger did not say in time whether it took an instance.")

    def _commit(self, batch: Sequence[_Ticket]) -> None:
        try:
            outcomes = self._ledger.accept([ticket.instance for ticket in batch])
            checkpoint("receive.committed")
        except Exception as exc:  # noqa: BLE001 - not a border: each waiting thread raises its own
            is_shared = len(batch) == 1 or isinstance(exc, OSError | LedgerBusyError)
            for ticket in batch:
                if is_shared:
                    ticket.settle(error=exc)
                else:  # perhaps the fault of one: the others must not be refused for it
                    self._commit([ticket])
        else:
            for ticket, outcome in zip(batch, outcomes, strict=True):
                ticket.settle(outcome=outcome)


class _Ticket:
    """One instance waiting for its turn."""

    def __init__(self, instance: StoredInstance) -> None:
        self.instance = instance
        self.outcome: StoreOutcome | None = None
        self.error: Exception | None = None
        self.settled = threading.Event()

    def settle(self, *, outcome: StoreOutcome | None = None, error: Exception | None = None) -> None:
        """The end of the wait, with one of the two."""
        self.outcome, self.error = outcome, error
        self.settled.set()
