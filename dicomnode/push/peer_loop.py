"""One thread for each peer: it claims the delivery that is due, makes an attempt, records how it ended, and waits.

The ledger holds everything that must survive a restart: which instances are acknowledged, when a delivery is due again,
and how often it has failed. After a restart the loop therefore continues from the last commit. An instance that was
being sent without an answer is sent again, with the same bytes. Each peer has its own loop, so a peer that hangs delays
only its own deliveries.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable

from dicomnode import log
from dicomnode.archive.store import Archive
from dicomnode.dimse.outcome import RequestReason
from dicomnode.errors import NodeError
from dicomnode.ids import DeliveryId
from dicomnode.ledger.states import DeliveryState
from dicomnode.ledger.store import Ledger
from dicomnode.ledger.values import Delivery
from dicomnode.push.attempt import Attempt, Cause, End, Ending, InFlight, lease_s
from dicomnode.push.carrier import Carrier, IdentityCheck, Session
from dicomnode.seams import checkpoint
from dicomnode.settings.models import PushSettings
from dicomnode.settings.peers import PeerSettings
from dicomnode.worker_thread import WorkerThread, doubled_s

LOGGER = logging.getLogger(__name__)

# The loop needs no wake-up (docs/protocol.md#wake-ups-and-clocks). A `retry` by another process is seen after this time
# at the latest.
POLL_S = 5.0
REJECTIONS_BEFORE_HOLD = 3  # docs/protocol.md#answers-of-a-peer
# A delivery is held after so many associations in a row that ended at the same instance. If the peer had restarted, or
# the network had failed, an instance would have been acknowledged by then, since the later tries are
# `push.backoff_max_s` apart. So the instance itself is the cause.
ABORTS_BEFORE_HOLD = 10
ABORT_LIMIT_S = 5.0  # after an association was aborted for a stop, its thread ends at once
INTERNAL = "internal"

_REFUSED = (RequestReason.REJECTED, RequestReason.TLS)
_BROKEN_OFF = (RequestReason.ABORTED, RequestReason.LOST)


class PeerLoop:
    """The thread that delivers to one peer. Started once, stopped once."""

    def __init__(
        self,
        peer: PeerSettings,
        push: PushSettings,
        ledger: Ledger,
        archive: Archive,
        owner: str,
        *,
        carrier: Carrier,
        identity: IdentityCheck | None = None,
        sent: Callable[[], None] = lambda: None,
        chance: random.Random | None = None,
    ) -> None:
        """``sent``: called when a delivery was sent, whose proof may now be asked for.

        ``identity``: asks the peer whose study it is, before a delivery. None: nobody asks.
        """
        assert peer.is_sent_to, "only a peer with an address or url can be sent to"
        self._next = (peer, push, carrier, identity)
        self._peer, self._push, self._carrier, self._identity = self._next  # those of this round, of the thread alone
        self._ledger = ledger
        self._archive = archive
        self._owner = owner
        self._sent = sent
        self._chance = chance or random.Random()  # noqa: S311 (spreads retries; nothing to guess)
        self._session_lock = threading.Lock()
        self._session: Session | None = None
        self._in_flight: dict[DeliveryId, InFlight] = {}
        # Rejections in a row. After a restart the delivery has three more tries, but not at once: the time of the next
        # one is in the ledger.
        self._rejections: dict[DeliveryId, int] = {}
        self._aborts: dict[DeliveryId, int] = {}  # in a row, with nothing acknowledged between
        self._quiet_until_s = 0.0  # after a failed association: until then no other delivery is tried either
        self._thread = WorkerThread(
            self._turn, name=f"push-{peer.name}", events="push", logger=LOGGER, fields={"peer": peer.name},
            pause_s=POLL_S,
        )  # fmt: skip

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Look into the ledger now, because a delivery may be due."""
        self._thread.wake()

    def take(
        self, peer: PeerSettings, push: PushSettings, carrier: Carrier, identity: IdentityCheck | None = None
    ) -> None:
        """Use these settings from the next delivery on; one that is being sent goes on as it began."""
        assert (peer.name, peer.is_sent_to) == (self._peer.name, True), "a loop belongs to one peer"
        self._next = (peer, push, carrier, identity)
        self._thread.wake()

    def retire(self) -> None:
        """End after the delivery that is being sent: the settings do not name the peer any more."""
        self._thread.retire()

    def stop(self, limit_s: float) -> bool:
        """Stop after the present instance; abort the association after ``limit_s``. Return whether the thread ended."""
        if self._thread.stop(limit_s):
            return True
        with self._session_lock:
            session = self._session
        if session is not None:
            log.event(LOGGER, "association_aborted", level=logging.WARNING, peer=self._peer.name, limit=limit_s)
            session.abort()
        elif self._identity is not None:
            self._identity.abort()
        if self._thread.stop(ABORT_LIMIT_S):
            return True
        log.event(LOGGER, "push_not_stopped", level=logging.ERROR, peer=self._peer.name)
        return False

    @property
    def is_alive(self) -> bool:
        """Tell whether the thread runs."""
        return self._thread.is_alive

    def _turn(self) -> float:
        """Attempt the next delivery; return how long to wait: not at all after one, else until one may be due."""
        self._renew()
        return 0.0 if self._serve_next() else self._idle_s()

    def _renew(self) -> None:
        """Take over the settings of this round. New ones end a pause, since the old ones may have been its cause."""
        if self._next != (self._peer, self._push, self._carrier, self._identity):
            self._quiet_until_s = 0.0
            self._peer, self._push, self._carrier, self._identity = self._next

    def _serve_next(self) -> bool:
        """Claim a delivery that is due and attempt it. Return False if there is none, or while the peer has a pause."""
        if time.monotonic() < self._quiet_until_s:
            return False
        delivery = self._ledger.deliveries.claim(self._peer.name, self._owner, lease_s=lease_s(self._push))
        if delivery is None:
            return False
        checkpoint("push.claimed")
        began_s = time.monotonic()
        attempt = Attempt(
            delivery=delivery,
            peer=self._peer,
            push=self._push,
            carrier=self._carrier,
            ledger=self._ledger,
            archive=self._archive,
            stop=self._thread.stopping,
            opened=self._opened,
            in_flight=self._in_flight.setdefault(delivery.id, InFlight(is_first=delivery.attempts == 1)),
            identity=self._identity,
        )
        try:
            ending = attempt.run()
        except NodeError as exc:
            log.failure(LOGGER, "push_failed", peer=self._peer.name, delivery=delivery.id)
            self._defer(attempt, reason=exc.code, sentence=f"{exc.sentence} {exc.hint}".strip())
            return True
        except Exception:
            self._defer(attempt, reason=INTERNAL, sentence="An unexpected failure of the node: see its log.")
            raise
        self._conclude(attempt, ending, seconds=time.monotonic() - began_s)
        return True

    def _conclude(self, attempt: Attempt, ending: Ending, *, seconds: float) -> None:
        """Record in the ledger how the attempt ended, and when the next one is due."""
        delivery = attempt.delivery
        reason = str(ending.reason or "")
        rejections, aborts = self._rejections.pop(delivery.id, 0), self._aborts.pop(delivery.id, 0)
        match ending.end:
            case End.FINISH:
                self._finish(attempt, seconds=seconds)
            case End.HOLD:
                self._hold(delivery, reason=reason, sentence=ending.sentence)
            case End.UNREACHED if ending.reason in _REFUSED:
                self._quiet()
                # The peer's administrator often adds a missing registration, or renews a certificate, soon, but not
                # within seconds (docs/protocol.md#answers-of-a-peer).
                if rejections + 1 < REJECTIONS_BEFORE_HOLD:
                    self._rejections[delivery.id] = rejections + 1
                    self._defer(attempt, reason=reason, sentence=ending.sentence, wait_s=self._push.backoff_max_s)
                else:
                    sentence = f"{ending.sentence} It did so {rejections + 1} times in a row."
                    self._hold(delivery, reason=reason, sentence=sentence)
            case End.UNREACHED:
                if aborts:  # a peer that cannot be reached does not show that the instance is acceptable
                    self._aborts[delivery.id] = aborts
                self._quiet()
                self._defer(attempt, reason=reason, sentence=ending.sentence)
            case End.RETRY if ending.reason in _BROKEN_OFF and not attempt.acknowledged:
                # Instances go out in order: with none acknowledged, it was the same one as the last time.
                if aborts + 1 < ABORTS_BEFORE_HOLD:
                    self._aborts[delivery.id] = aborts + 1
                    self._defer(attempt, reason=reason, sentence=ending.sentence)
                else:
                    sentence = f"{ending.sentence} It did so {aborts + 1} times in a row, at the same instance."
                    self._hold(delivery, reason=reason, sentence=sentence)
            case End.RETRY:
                self._defer(attempt, reason=reason, sentence=ending.sentence)
            case End.STOPPED:
                if self._ledger.deliveries.release_claim(delivery):
                    log.event(
                        LOGGER, "delivery_stopped", delivery=delivery.id, peer=self._peer.name,
                        instances=attempt.acknowledged,
                    )  # fmt: skip
                else:
                    self._log_gone(delivery)
            case End.GONE:
                self._log_gone(delivery)
            case _:
                raise AssertionError(f"an attempt does not end so: {ending.end}")
        checkpoint("push.concluded")

    def _finish(self, attempt: Attempt, *, seconds: float) -> None:
        delivery = attempt.delivery
        state = self._ledger.deliveries.finish(delivery, committer=self._peer.committer)
        self._in_flight.pop(delivery.id, None)
        if state is None:
            self._log_gone(delivery)
            return
        log.event(
            LOGGER,
            "delivery_sent" if state is DeliveryState.SENT else "delivery_held",
            level=logging.WARNING if attempt.refused or attempt.warned else logging.INFO,
            delivery=delivery.id,
            peer=self._peer.name,
            instances=attempt.acknowledged,
            reason=None if state is DeliveryState.SENT else str(Cause.REFUSED),
            status=_listed(attempt.refused + attempt.warned),
            seconds=seconds,
        )
        self._sent()

    def _log_gone(self, delivery: Delivery) -> None:
        """Log that the claim was lost: an operator cancelled the delivery, or the lease ran out."""
        if self._ledger.deliveries.state_of(delivery.id) is DeliveryState.CANCELLED:
            log.event(LOGGER, "delivery_cancelled", delivery=delivery.id, peer=self._peer.name)
        else:
            log.event(LOGGER, "delivery_lease_lost", level=logging.WARNING, delivery=delivery.id, peer=self._peer.name)

    def _defer(self, attempt: Attempt, *, reason: str, sentence: str, wait_s: float | None = None) -> None:
        delivery = attempt.delivery
        # An acknowledged instance ends a row of failures, in the ledger and here.
        failures = 0 if attempt.acknowledged else delivery.failures
        wait_s = backoff_s(failures, self._push, self._chance) if wait_s is None else wait_s
        if not self._ledger.deliveries.defer(delivery, wait_s=wait_s, reason=reason, sentence=sentence):
            self._log_gone(delivery)
            return
        log.event(
            LOGGER,
            "delivery_deferred",
            delivery=delivery.id,
            peer=self._peer.name,
            instances=attempt.acknowledged,
            reason=reason,
            sentence=sentence,
            wait_s=wait_s,
        )

    def _hold(self, delivery: Delivery, *, reason: str, sentence: str) -> None:
        if not self._ledger.deliveries.hold(delivery, reason=reason, sentence=sentence):
            self._log_gone(delivery)
            return
        log.event(
            LOGGER,
            "delivery_held",
            level=logging.WARNING,
            delivery=delivery.id,
            peer=self._peer.name,
            reason=reason,
            sentence=sentence,
        )

    def _quiet(self) -> None:
        """Begin a pause for all deliveries of the peer; without it, every due delivery would be rejected in turn."""
        self._quiet_until_s = time.monotonic() + min(self._push.backoff_min_s, POLL_S)

    def _idle_s(self) -> float:
        """Return the seconds until a delivery may be due, at most ``POLL_S``: another process may make one due."""
        pause_s = self._quiet_until_s - time.monotonic()
        if pause_s > 0:
            return min(pause_s, POLL_S)
        due_s = self._ledger.deliveries.next_due_in(self._peer.name)
        return POLL_S if due_s is None else min(max(due_s, 0.0), POLL_S)

    def _opened(self, session: Session | None) -> None:
        with self._session_lock:
            self._session = session


def backoff_s(failures: int, push: PushSettings, chance: random.Random) -> float:
    """Return how long to wait after one more failure: a random time, whose upper limit doubles with each failure.

    ``failures`` counts those in a row before this one. The time is between ``backoff_min_s`` and ``backoff_max_s``.
    """
    return chance.uniform(push.backoff_min_s, doubled_s(push.backoff_min_s, push.backoff_max_s, failures + 1))


def _listed(statuses: Counter[int]) -> str | None:
    return ", ".join(f"{count} x {status:04X}" for status, count in sorted(statuses.items())) or None
