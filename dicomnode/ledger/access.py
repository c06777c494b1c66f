"""The one way to the rows: a transaction that writes, or a read that cannot.

The facades have it in common, so that the moment and the name of the actor, the locks, and the words for what the
database reports are the same for each of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from dicomnode.ledger.engine import Database
from dicomnode.ledger.transaction import NODE, LedgerTransaction
from dicomnode.seams import Clock


@dataclass(frozen=True, slots=True)
class Access:
    """An open ledger file and the clock that dates what is written; for every thread of this process."""

    database: Database
    clock: Clock

    @contextmanager
    def writing(self, name: str, by: str = NODE, *, is_relaxed: bool = False) -> Iterator[LedgerTransaction]:
        """Commit everything inside together, or nothing of it.

        ``name``: part of the names of its checkpoints; ``by``: the name of the actor. With ``is_relaxed`` a power cut
        may undo the transaction; the file stays whole.
        """
        with self.database.transaction(name, is_relaxed=is_relaxed) as connection:
            yield LedgerTransaction(connection=connection, now=self.now(), by=by)

    def reading(self) -> AbstractContextManager[Connection]:
        """Open one consistent view: what is committed meanwhile is not seen."""
        return self.database.reading()

    def now(self) -> datetime:
        """Return the moment, in UTC."""
        return self.clock.now()
