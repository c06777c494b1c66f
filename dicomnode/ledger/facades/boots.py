"""The part of the ledger that the service itself uses: its starts and stops, and the settings in use."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from dicomnode.ledger import boots, commitments, intake, jobs, sending
from dicomnode.ledger.access import Access
from dicomnode.ledger.schema import node
from dicomnode.ledger.values import BootId, BootReport

CHECKED_AT_START_BYTES: Final = 64 << 20  # a third of a second's work; a larger ledger is checked after the start


class Boots:
    """The service records its starts and stops here, and which settings it uses."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def begin(self, *, pid: int, host: str) -> BootReport:
        """Record that a service starts, and take back every lease: no other holder is alive.

        Raises LedgerError where the file is damaged, as far as that is looked for: ``is_checked`` in the report says
        whether ``Ledger.check`` still has to be called.
        """
        is_checked = self._access.database.size_bytes() <= CHECKED_AT_START_BYTES
        if is_checked:
            self._access.database.check()
        with self._access.writing("begin_boot") as transaction:
            ended_cleanly = boots.ended_cleanly(transaction.connection)
            last_clean_stop = boots.last_clean_stop(transaction.connection)
            detail = "the service ended" if ended_cleanly else "the service was killed"
            if not ended_cleanly:
                intake.mark_cut_off(transaction)
            return BootReport(
                boot=boots.begin(transaction, pid=pid, host=host),
                ended_cleanly=ended_cleanly,
                last_clean_stop=last_clean_stop,
                is_checked=is_checked,
                returned_jobs=jobs.return_all(transaction, detail),
                returned_deliveries=sending.return_all(transaction, detail),
                renewed_commitments=commitments.ask_anew(transaction),
            )

    def end(self, ended: BootId) -> None:
        """Record that the service stops in order."""
        with self._access.writing("end_boot") as transaction:
            boots.end(transaction, ended)

    def take_settings(
        self, of: BootId, *, file: str | None, sha256: str, restart: Sequence[str] = (), at: datetime
    ) -> None:
        """Record which settings the service uses from now on; ``restart``: keys of the file that need one."""
        with self._access.writing("take_settings") as transaction:
            boots.take_settings(transaction, of, file=file, sha256=sha256, restart=restart, at=at)

    def refuse_settings(self, of: BootId, *, fault: str, at: datetime) -> None:
        """Record why the service did not take the settings that it read, and goes on with those that it has."""
        with self._access.writing("refuse_settings") as transaction:
            boots.refuse_settings(transaction, of, fault=fault, at=at)

    def restored(self, detail: str, by: str) -> None:
        """Record that this ledger was put back from a backup; series whose instances still came were cut off."""
        with self._access.writing("restored", by) as transaction:
            transaction.note("restored", table=node.name, row=1, detail=detail)
            intake.mark_cut_off(transaction)
