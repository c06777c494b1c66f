"""The part of the ledger that the sending loops use: deliveries and their items."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from dicomnode.ids import DeliveryId
from dicomnode.ledger import sending
from dicomnode.ledger.access import Access
from dicomnode.ledger.states import DeliveryState
from dicomnode.ledger.values import Delivery, DeliveryItem


class Deliveries:
    """A sending loop claims deliveries to its peer here, and records the peer's answers."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def claim(self, peer: str, owner: str, *, lease_s: float) -> Delivery | None:
        """Claim the next delivery that is due to this peer, by priority and waiting time, under a lease."""
        with self._access.writing("claim_delivery", owner) as transaction:
            return sending.claim(transaction, peer, owner, transaction.now + timedelta(seconds=lease_s))

    def is_ours(self, delivery: Delivery) -> bool:
        """Does the claim hold, as seen without a lock? It ends when its lease is lost or an operator cancels it."""
        with self._access.reading() as connection:
            return sending.is_ours(connection, delivery)

    def is_identity_open(self, delivery: Delivery) -> bool:
        """Is the peer to be asked whether it has the study under another patient?"""
        with self._access.reading() as connection:
            return sending.is_identity_open(connection, delivery)

    def state_of(self, delivery: DeliveryId) -> DeliveryState:
        """Return the state of a delivery."""
        with self._access.reading() as connection:
            return sending.state_of(connection, delivery)

    def beat(self, delivery: Delivery, *, lease_s: float) -> bool:
        """Renew the lease. False: the holder stops."""
        with self._access.writing("beat_delivery", is_relaxed=True) as transaction:
            return sending.beat(transaction, delivery, transaction.now + timedelta(seconds=lease_s))

    def pending_items(self, delivery: Delivery) -> list[DeliveryItem]:
        """List the items that the peer has still to get, in the order of the slices."""
        with self._access.reading() as connection:
            return sending.pending_items(connection, delivery)

    def acknowledge(self, delivery: Delivery, item: DeliveryItem, *, status: int) -> bool:
        """Record that the peer answered success or a warning, before the next instance is sent.

        False: the delivery is no longer ours; nothing more of it may be sent.
        """
        with self._access.writing("acknowledge", delivery.peer, is_relaxed=True) as transaction:
            return sending.acknowledge(transaction, delivery, item, status)

    def refuse(self, delivery: Delivery, item: DeliveryItem, *, status: int) -> bool:
        """Record that the peer will not take this instance. False means the same as from ``acknowledge``."""
        with self._access.writing("refuse", delivery.peer) as transaction:
            return sending.refuse(transaction, delivery, item, status)

    def fail_item(self, delivery: Delivery, item: DeliveryItem, *, status: int) -> int:
        """Record that the peer could not take this instance now; return how often that has happened."""
        with self._access.writing("fail_item", delivery.peer) as transaction:
            return sending.fail_item(transaction, delivery, item, status)

    def defer(self, delivery: Delivery, *, wait_s: float, reason: str, sentence: str) -> bool:
        """Make a delivery due again after a wait, because of a transient failure."""
        with self._access.writing("defer") as transaction:
            due_at = transaction.now + timedelta(seconds=wait_s)
            return sending.defer(transaction, delivery, due_at=due_at, reason=reason, sentence=sentence)

    def hold(self, delivery: Delivery, *, reason: str, sentence: str) -> bool:
        """Hold a delivery that cannot go on without an operator."""
        with self._access.writing("hold_delivery") as transaction:
            return sending.hold(transaction, delivery, reason=reason, sentence=sentence)

    def finish(self, delivery: Delivery, *, committer: str | None = None) -> DeliveryState | None:
        """End a delivery whose items are all answered: sent, or held where some were refused. None: it was not ours.

        ``committer``: the peer that is to be asked to commit to what was sent. None: no peer.
        """
        with self._access.writing("finish_delivery") as transaction:
            return sending.finish(transaction, delivery, committer)

    def release_claim(self, delivery: Delivery) -> bool:
        """Make a delivery due at once, without a failure: the service stops between two instances."""
        with self._access.writing("release_claim") as transaction:
            return sending.release_claim(transaction, delivery)

    def next_due_in(self, peer: str) -> float | None:
        """Return the seconds until the next delivery to this peer may be claimed. None: none waits."""
        with self._access.reading() as connection:
            now = self._access.now()
            moment = sending.next_due_at(connection, peer, now)
        return None if moment is None else max(0.0, (moment - now).total_seconds())

    def without_peer(self, reachable: Collection[str]) -> dict[str, int]:
        """Count the due deliveries to each peer that is not among those that can be sent to."""
        with self._access.reading() as connection:
            return sending.without_peer(connection, reachable)
