"""One thread for each peer whose deliveries are to be proven: it asks for commitment, then looks by C-FIND.

    wanted → the peer is asked → its report comes, here or at the receiver
           → none within ``push.commit_wait_s`` → a C-FIND → proven, or what is absent is sent again

Some peers report on the association of the request, so it stays open for a while. Once a peer has let that time pass
without a report, several requests share an association and that time. A peer that reports there gets one request at a
time: it need not understand a second one while we have yet to answer its report.

By DICOMweb nobody reports: the server is asked for its result again and again, and a search takes the place of the
C-FIND. Where a search was all that came in time, the server is still asked for its result now and then.

It stands beside the loop that delivers to the peer and shares nothing with it: a peer that does not answer here delays
neither its own deliveries nor those of another peer. All that must survive a restart is in the ledger. A peer without
storage commitment is looked at by C-FIND at once; what it does not show yet counts as absent only after the same wait,
since many a PACS needs a while until it finds what it stored.
"""

from __future__ import annotations

import logging
import time
from datetime import timedelta

from dicomnode import log
from dicomnode.archive.store import Archive
from dicomnode.dimse.commitment import Reference, Report
from dicomnode.dimse.outcome import RequestOutcome
from dicomnode.imaging.dicom_file import read_values
from dicomnode.ledger.commitments import LISTENING
from dicomnode.ledger.store import Ledger
from dicomnode.ledger.values import Commitment
from dicomnode.push.answers import Asked, Found, NotOffered, Request, Together, Told, Withdrawn
from dicomnode.push.witness import Witness
from dicomnode.reports import record
from dicomnode.seams import SYSTEM_CLOCK, Clock, checkpoint
from dicomnode.settings.models import PushSettings
from dicomnode.settings.peers import PeerSettings
from dicomnode.worker_thread import WorkerThread, doubled_s

LOGGER = logging.getLogger(__name__)

POLL_S = 5.0
MOST_TOGETHER = 32  # requests on one association
LATE_S = 3600.0  # between two looks for results that did not come in time: what a server waits for may take a night
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
        """``committer``: the peer that is asked to commit to what ``peer`` got; the same one, or another."""
        assert peer.is_sent_to, "only a peer with an address or url was sent to"
        assert committer.is_sent_to, "only a peer with an address or url can be asked to commit"
        self._next = (peer, committer, push, witness)
        self._peer, self._committer, self._push, self._witness = self._next  # those of this round, of the thread alone
        self._ledger = ledger
        self._archive = archive
        self._clock = clock
        self._thread = WorkerThread(
            self._turn, name=f"proof-{peer.name}", events="proof", logger=LOGGER, fields={"peer": peer.name},
            pause_s=POLL_S,
        )  # fmt: skip
        self._late_at_s = time.monotonic() + LATE_S
        self._most = MOST_TOGETHER  # requests that share an association where the peer reports elsewhere
        self._together = 1  # that share the next one

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
        """Tell whether the thread runs."""
        return self._thread.is_alive

    def _turn(self) -> float:
        """Bring the next request a step further; return how long to wait: not at all after one, else until one may."""
        self._peer, self._committer, self._push, self._witness = self._next
        one = self._ledger.commitments.next_one(self._peer.name)
        if one is not None:
            if self._is_to_ask(one) and not self._committer.url:
                self._ask_together()
            else:
                self._serve(one)
            return 0.0
        if self._committer.url and time.monotonic() >= self._late_at_s:
            self._look_late()
        return self._idle_s()

    def _is_to_ask(self, one: Commitment) -> bool:
        return not one.is_asked and not self._is_overdue(one)

    def _ask_together(self) -> None:
        """Send requests on one association, as many as the peer is known to take, and record their new states."""
        due = self._ledger.commitments.unasked(self._peer.name, self._together)
        asking = {one.transaction_uid: one for one in due if self._is_to_ask(one)}
        if not asking:
            return
        answer = self._witness.ask_together(
            self._committer,
            [Request(uid, _references(one)) for uid, one in asking.items()],
            before=lambda uid: not self._thread.is_ending and self._record_asked(asking[uid], None),
            reported=self._record,
        )
        if isinstance(answer, Together):
            self._learn(answer)
        for uid, one in asking.items():
            if self._thread.is_ending:
                return
            if not isinstance(answer, Together):
                self._follow(one, answer)
            elif uid in answer.answers:
                self._follow(one, answer.answers[uid])

    def _learn(self, answer: Together) -> None:
        """Decide how many requests share the next association."""
        if answer.is_cut and len(answer.answers) > 1:  # it may not take several on one
            self._most = self._together = 1
        elif not answer.is_cut:
            self._together = 1 if answer.is_told_here else self._most

    def _serve(self, one: Commitment) -> None:
        """Bring one request a step further, and record its new state in the ledger."""
        if self._is_overdue(one) or not self._committer.url:
            self._query(one, "")
        else:
            self._follow(one, self._look(one) if one.is_asked else self._ask(one))

    def _follow(self, one: Commitment, answer: Asked | Told | Withdrawn | NotOffered | RequestOutcome) -> None:
        """Record what an answer makes of a request."""
        match answer:
            case Withdrawn() | Asked(after_s=None):
                pass
            case Told():  # where it named some instances only
                self._ledger.commitments.postpone(one, wait_s=self._wait_s(one))
            case Asked(after_s=float(after_s)):
                if one.is_asked:
                    self._postpone(one, "It has no result yet.", least_s=after_s)
            case RequestOutcome():
                self._postpone(one, answer.sentence)
            case NotOffered():
                self._query(one, f"{answer.why}; ")

    def _ask(self, one: Commitment) -> Asked | Told | Withdrawn | NotOffered | RequestOutcome:
        """Ask a server."""
        return self._witness.ask(
            self._committer,
            one.transaction_uid,
            _references(one),
            before=lambda after_s: self._record_asked(one, after_s),
            reported=self._record,
        )

    def _look(self, one: Commitment) -> Asked | Told | NotOffered | RequestOutcome:
        """Look for the result of a request at a server, which does not report by itself."""
        return self._witness.result(self._committer, one.transaction_uid, reported=self._record)

    def _look_late(self) -> None:
        """Look for the results of requests that a search has answered meanwhile."""
        self._late_at_s = time.monotonic() + LATE_S
        for one in self._ledger.commitments.late(self._peer.name):
            if self._thread.is_ending or isinstance(self._look(one), RequestOutcome):
                return

    def _record(self, report: Report | None) -> int:
        return record(self._ledger, report, peer=self._committer.name)

    def _record_asked(self, one: Commitment, after_s: float | None) -> bool:
        """Record that the peer has the request; ``after_s``: the time after which it is to be asked for the result."""
        wait_s = self._push.commit_wait_s if after_s is None else max(after_s, self._push.backoff_min_s)
        if not self._ledger.commitments.ask(one, self._committer.name, wait_s=wait_s):
            return False
        log.event(
            LOGGER, "commitment_asked", delivery=one.delivery, peer=self._committer.name, instances=len(one.items)
        )
        return True

    def _query(self, one: Commitment, why: str) -> None:
        """Ask by C-FIND which instances the peer has; ``why``: the reason for which it was not asked to commit."""
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
        if absent and not self._is_overdue(one):
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

    def _postpone(self, one: Commitment, sentence: str, *, least_s: float = 0.0) -> None:
        wait_s = max(self._wait_s(one), least_s)
        self._ledger.commitments.postpone(one, wait_s=wait_s)
        log.event(
            LOGGER, "proof_deferred", delivery=one.delivery, peer=self._peer.name, sentence=sentence, wait_s=wait_s
        )

    def _wait_s(self, one: Commitment) -> float:
        """Return how long to wait before the next try: doubled with each failure, up to ``push.backoff_max_s``."""
        return doubled_s(self._push.backoff_min_s, self._push.backoff_max_s, one.failures)

    def _give_up(self, one: Commitment, why: str) -> None:
        self._ledger.commitments.give_up(one, why)
        log.event(LOGGER, "delivery_unproven", delivery=one.delivery, peer=self._peer.name, detail=why)

    def _is_overdue(self, one: Commitment) -> bool:
        return self._clock.now() - one.created_at >= timedelta(seconds=self._push.commit_wait_s)

    def _series_of(self, one: Commitment) -> tuple[str, str] | None:
        """Return Study and Series Instance UID of the delivery from its first file; None: it is gone or unreadable."""
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


def _references(one: Commitment) -> list[Reference]:
    return [Reference(item.sop_class_uid, item.sop_instance_uid) for item in one.items]
