"""The part of the ledger that the proof loops use: requests to peers to commit to what was sent, and reports."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta

from dicomnode.ledger import commitments, rehearsals
from dicomnode.ledger.access import Access
from dicomnode.ledger.values import Commitment


class Commitments:
    """A proof loop reads here which deliveries are to be proven, and records the answers of the peers."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def next_one(self, stored_at: str) -> Commitment | None:
        """Return the request that waits longest, of those on deliveries to this peer that may go on now."""
        with self._access.reading() as connection:
            return commitments.next_one(connection, stored_at, self._access.now())

    def unasked(self, stored_at: str, most: int) -> tuple[Commitment, ...]:
        """Return the requests on deliveries to this peer that are to be asked now, the longest-waiting first."""
        with self._access.reading() as connection:
            return commitments.unasked(connection, stored_at, self._access.now(), most)

    def next_in(self, stored_at: str) -> float | None:
        """Return the seconds until a request on a delivery to this peer may go on. None: none waits."""
        with self._access.reading() as connection:
            moment = commitments.next_at(connection, stored_at)
        return None if moment is None else max(0.0, (moment - self._access.now()).total_seconds())

    def late(self, stored_at: str) -> tuple[Commitment, ...]:
        """Return the requests on deliveries to this peer whose result may come yet, without their instances."""
        with self._access.reading() as connection:
            return commitments.late(connection, stored_at, self._access.now())

    def ask(self, one: Commitment, committer: str, *, wait_s: float) -> bool:
        """Record that a request goes out now, before it does. False: it is not to be asked any more."""
        with self._access.writing("commitment_asked") as transaction:
            return commitments.ask(transaction, one, committer, transaction.now + timedelta(seconds=wait_s))

    def postpone(self, one: Commitment, *, wait_s: float) -> None:
        """Record that the peer could not be reached; the request goes on after the wait."""
        with self._access.writing("commitment_waits") as transaction:
            commitments.postpone(transaction, one, transaction.now + timedelta(seconds=wait_s))

    def queried(self, one: Commitment, found: Collection[str]) -> int:
        """Record which SOP Instance UIDs a C-FIND showed; return how many instances are to be sent again."""
        with self._access.writing("commitment_queried") as transaction:
            return commitments.queried(transaction, one, found)

    def give_up(self, one: Commitment, why: str) -> None:
        """Record that no proof beyond the acknowledgements can be had."""
        with self._access.writing("give_up_commitment") as transaction:
            commitments.give_up(transaction, one, why)

    def give_up_all(self, but: Collection[str]) -> int:
        """Record that nobody asks for proof of deliveries to other peers than these; return how many waited."""
        with self._access.writing("give_up_commitments") as transaction:
            return commitments.give_up_all(transaction, but)

    def take_report(
        self, transaction_uid: str, *, peer: str, committed: Collection[str], failed: Mapping[str, int]
    ) -> bool:
        """Record a peer's report on a request: SOP Instance UIDs that it keeps, and those it denies, with reasons.

        False: no request that was asked has this Transaction UID.
        """
        with self._access.writing("take_report", peer) as transaction:
            return commitments.take_report(
                transaction, transaction_uid, peer, committed, failed
            ) or rehearsals.take_report(transaction, transaction_uid, committed, failed)

    def ask_in_rehearsal(self, transaction_uid: str, by: str) -> None:
        """Record that a rehearsal is about to ask for commitment, so that the service recognises a report on it."""
        with self._access.writing("ask_in_rehearsal", by) as transaction:
            rehearsals.ask(transaction, transaction_uid)
