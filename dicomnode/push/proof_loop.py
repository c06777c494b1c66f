"""One thread for each peer whose deliveries are to be proven: it asks for commitment, then looks by C-FIND.

    wanted → the peer is asked → its report comes, here or at the receiver
           → none within ``push.commit_wait_s`` → a C-FIND → proven, or what is absent is sent again

It stands beside the loop that delivers to the peer and shares nothing with it: a peer that does not answer here delays
neither its own deliveries nor those of another peer. All that must survive a restart is in the ledger. A peer without
storage commitment is looked at by C-FIND at once; what it does not show yet counts as absent only after the same wait,
since many a PACS needs a while until it finds what it stored.
"""

from __future__ import annotations

import logging
from datetime import timedelta

from dicomnode import log
from dicomnode.archive import Archive
from dicomnode.dimse.outcome import RequestOutcome
from dicomnode.dimse.proofs import Reference
from dicomnode.imaging.headers import read_values
from dicomnode.ledger.commitments import LISTENING
from dicomnode.ledger.store import Ledger
from dicomnode.ledger.values import Commitment
from dicomnode.push.witness import Asked, Found, NotOffered, Withdrawn, Witness
from dicomnode.reports import take_report
from dicomnode.seams import SYSTEM_CLOCK, Clock, checkpoint
from dicomnode.settings.models import PushSettings
from dicomnode.settings.peers import PeerSettings
from dicomnode.worker_thread import WorkerThread, doubled_s

LOGGER = logging.getLogger(__name__)

POLL_S = 5.0
ABORT_LIMIT_S = 5.0  # after its association was aborted for a stop, the thread ends at once


class ProofLoop:
    """The thread that proves the deliveries to one peer. Started once, stopped once."""

    def __init__(
        self,
        peer: PeerSettings,
        committer: PeerSettings,
        push: PushSettings,
        ledger: Ledger,
        archive: Archive,
        *,
        witness: Witness,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """``committer``: who is asked to commit to what ``peer`` got; the peer itself, or another one."""
        assert peer.is_sent_to, "only a peer with an address or url was sent to"
        assert committer.address or committer is peer, "only a peer with an address can be asked to commit"
        self._next = (peer, committer, push, witness)
        self._peer, self._committer, self._push, self._witness = self._next  # those of this round, of the thread alone
        self._ledger = ledger
        self._archive = archive
        self._clock = clock
        self._thread = WorkerThread(
            self._turn, name=f"proof-{peer.name}", events="proof", logger=LOGGER, fields={"peer": peer.name},
            pause_s=POLL_S,
        )  # fmt: skip

    @property
    def peer(self) -> str:
        """The name of the peer whose deliveries are proven."""
        return self._peer.name

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Look into the ledger now, because a delivery was sent."""
        self._thread.wake()

    def take(self, peer: PeerSettings, committer: PeerSettings, push: PushSettings, witness: Witness) -> None:
        """Use these settings from the next request on; one that is under way goes on as it began."""
        self._next = (peer, committer, push, witness)
        self._thread.wake()

    def retire(self) -> None:
        """End after the present request: the settings do not ask for proof of deliveries to this peer any more."""
        self._thread.retire()

    def stop(self, limit_s: float) -> bool:
        """Stop after the present request; abort its association after ``limit_s``. Return whether the thread ended."""
        if self._thread.stop(limit_s):
            return True
        self._witness.abort()
        if self._thread.stop(ABORT_LIMIT_S):
            return True
        log.event(LOGGER, "proof_not_stopped", level=logging.ERROR, peer=self._peer.name)
        return False

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive

    def _turn(self) -> float:
        """Bring the next request a step further; return how long to wait: not at all after one, else until one may."""
        self._peer, self._committer, self._push, self._witness = self._next
        one = self._ledger.commitments.next_one(self._peer.name)
        if one is None:
            return self._idle_s()
        self._serve(one)
        return 0.0

    def _serve(self, one: Commitment) -> None:
        """Bring one request a step further, and write down in the ledger where it stands then."""
        why = ""
        if not one.is_asked and not self._is_overdue(one):
            answer = self._witness.ask(
                self._committer,
                one.transaction_uid,
                [Reference(item.sop_class_uid, item.sop_instance_uid) for item in one.items],
                before=lambda: self._record_asked(one),
                reported=lambda dataset, syntax: take_report(self._ledger, dataset, syntax, peer=self._committer.name),
            )
            if isinstance(answer, Asked | Withdrawn):
                return
            if isinstance(answer, RequestOutcome):
                self._postpone(one, answer.sentence)
                return
            why = f"{answer.why}; "
        self._query(one, why)

    def _record_asked(self, one: Commitment) -> bool:
        if not self._ledger.commitments.ask(one, self._committer.name, wait_s=self._push.commit_wait_s):
            return False
        log.event(
            LOGGER, "commitment_asked", delivery=one.delivery, peer=self._committer.name, instances=len(one.items)
        )
        return True

    def _query(self, one: Commitment, why: str) -> None:
        """Look by C-FIND what the peer has; ``why``: it was not asked to commit."""
        uids = self._series_of(one)
        if uids is None:
            self._give_up(one, f"{why}the files of the delivery cannot be read, or are not in the archive any more")
            return
        answer = self._witness.query(self._peer, *uids)
        if isinstance(answer, RequestOutcome):
            if self._clock.now() - one.created_at > LISTENING:
                self._give_up(one, why + answer.sentence)
            else:
                self._postpone(one, answer.sentence)
        elif isinstance(answer, NotOffered):
            self._give_up(one, why + answer.why)
        else:
            self._compare(one, answer)

    def _compare(self, one: Commitment, answer: Found) -> None:
        absent = [item for item in one.items if item.sop_instance_uid not in answer.uids]
        if absent and not one.is_asked and not self._is_overdue(one):
            self._postpone(one, f"{len(absent)} of {len(one.items)} instances are not found yet")
            return
        checkpoint("proof.queried")
        again = self._ledger.commitments.queried(one, answer.uids)
        log.event(
            LOGGER,
            "delivery_queried",
            level=logging.WARNING if again else logging.INFO,
            delivery=one.delivery,
            peer=self._peer.name,
            instances=len(one.items),
            detail=f"{again} absent" if again else None,
        )

    def _postpone(self, one: Commitment, sentence: str) -> None:
        wait_s = doubled_s(self._push.backoff_min_s, self._push.backoff_max_s, one.failures)
        self._ledger.commitments.postpone(one, wait_s=wait_s)
        log.event(
            LOGGER, "proof_deferred", delivery=one.delivery, peer=self._peer.name, sentence=sentence, wait_s=wait_s
        )

    def _give_up(self, one: Commitment, why: str) -> None:
        self._ledger.commitments.give_up(one, why)
        log.event(LOGGER, "delivery_unproven", delivery=one.delivery, peer=self._peer.name, detail=why)

    def _is_overdue(self, one: Commitment) -> bool:
        return self._clock.now() - one.created_at >= timedelta(seconds=self._push.commit_wait_s)

    def _series_of(self, one: Commitment) -> tuple[str, str] | None:
        """Study and Series Instance UID of the delivery, as its first file has them; None: it is gone or unreadable."""
        if not one.items:
            return None
        file = one.items[0].file
        if not self._archive.has(file):
            return None
        found = read_values(self._archive.path(file), ["StudyInstanceUID", "SeriesInstanceUID"])
        return (found["StudyInstanceUID"], found["SeriesInstanceUID"]) if found and all(found.values()) else None

    def _idle_s(self) -> float:
        """Return the seconds until a request may go on, at most ``POLL_S``: an operator may make a delivery due."""
        due_s = self._ledger.commitments.next_in(self._peer.name)
        return POLL_S if due_s is None else min(max(due_s, 0.0), POLL_S)
