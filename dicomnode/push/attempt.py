"""One attempt at a delivery: what is pending goes out in one session, each answer is committed before the next request.

    files verified → the peer has the study under no other patient → session open
        → (sent → answered → committed) for each request → an ``Ending``

A request holds one instance, or as many as the carrier sends together.

The meaning of each status is in ``wire.STATUSES``; what becomes of the delivery after the attempt (when it is tried
again, whether it waits for the operator) is decided in ``peer_loop``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from dicomnode import log, wire
from dicomnode.archive.store import Archive, FileState
from dicomnode.dimse.outcome import RequestOutcome, RequestReason
from dicomnode.ids import ItemId
from dicomnode.ledger.deliveries import IDENTITY
from dicomnode.ledger.store import Ledger
from dicomnode.ledger.values import Delivery, DeliveryItem
from dicomnode.push.carrier import MOST_FORMATS, Carrier, IdentityCheck, InstanceFormat, OutgoingInstance, Session
from dicomnode.seams import checkpoint
from dicomnode.settings.models import PushSettings
from dicomnode.settings.peers import PeerSettings

LOGGER = logging.getLogger(__name__)

# of an instance that the peer fails to process, before it counts as refused (docs/protocol.md#answers-of-a-peer)
MAX_TRIES = 3
LEASE_S = 60.0  # docs/protocol.md#leases; renewed when a third of it has passed

IDENTITY_KEYWORDS = frozenset(
    {
        "PatientName", "PatientID", "IssuerOfPatientID", "OtherPatientIDs", "PatientBirthDate", "PatientSex",
        "StudyInstanceUID", "StudyID", "StudyDate", "StudyTime", "AccessionNumber",
    }
)  # fmt: skip
"""Elements that identify patient and study: a peer that changes one of them may file the series elsewhere."""


_OF_OPERATOR = frozenset(
    {
        RequestReason.UNREADABLE, RequestReason.NOT_ENCODABLE, RequestReason.UNAUTHORISED, RequestReason.NO_SERVICE,
        RequestReason.TOO_LARGE,
    }
)  # fmt: skip
"""Reasons for which there is no status and which another try alone would not change."""


class End(StrEnum):
    """The consequence of an attempt for its delivery; the loop writes it into the ledger."""

    FINISH = "finish"  # nothing is pending any more
    UNREACHED = "unreached"  # no session could be opened, whatever the delivery holds
    RETRY = "retry"  # later, after a wait
    REASSOCIATE = "reassociate"  # at once, once; never leaves ``Attempt.run``
    HOLD = "hold"  # until an operator decides
    STOPPED = "stopped"  # the service stops: due again at once, and no failure
    GONE = "gone"  # the claim is not ours any more (lease lost, cancelled): nothing is written


class Cause(StrEnum):
    """Reasons for which a delivery waits, beside those of ``outcome.RequestReason``."""

    ALTERED = "altered"
    MISSING = "missing"
    NO_RESOURCES = "no_resources"
    PROCESSING_FAILURE = "processing_failure"
    REFUSED = "refused"
    NOT_SUPPORTED = "not_supported"
    NOT_AUTHORISED = "not_authorised"
    PROTOCOL_ERROR = "protocol_error"
    IDENTITY = IDENTITY


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The end of an attempt, with its reason and a sentence for ``deliveries list``."""

    end: End
    reason: RequestReason | Cause | None = None
    sentence: str = ""


@dataclass(slots=True, kw_only=True)
class InFlight:
    """The instances of a delivery that may have reached the peer without an answer; kept while the process lasts."""

    is_first: bool  # this process made every attempt at the delivery, the first one too
    sent: set[ItemId] = field(default_factory=set)  # went out in this process and is not acknowledged
    _is_looked_at: bool = False
    _of_earlier_process: frozenset[ItemId] = frozenset()  # they may have been sent, and the answer was not read

    def look(self, pending: Sequence[DeliveryItem], together: int) -> None:
        """Find, before anything is sent, the instances that an earlier process had in flight.

        Instances go out in order, ``together`` in one request, so these are the first ones without any answer.
        """
        if not self.is_first and not self._is_looked_at:
            unanswered = [item.id for item in pending if item.status is None]
            self._of_earlier_process = frozenset(unanswered[:together])
        self._is_looked_at = True

    def may_hold(self, item: DeliveryItem) -> bool:
        """Can the peer have this instance from us?

        If it once refused the instance with 0111, it had it before we sent it; any other answer shows that it had not.
        """
        if any(wire.status_of(status).action is wire.Action.DUPLICATE for status in item.refusals):
            return False
        return item.id in self.sent or item.id in self._of_earlier_process or item.status is not None


@dataclass(slots=True, kw_only=True)
class Attempt:
    """An attempt at a delivery: made for one claim, run once, thrown away."""

    delivery: Delivery
    peer: PeerSettings
    push: PushSettings
    carrier: Carrier
    ledger: Ledger
    archive: Archive
    stop: threading.Event
    opened: Callable[[Session | None], None]  # is given the session while it is open, so that a stop can end it
    in_flight: InFlight  # of this delivery, from one attempt to the next
    identity: IdentityCheck | None = None  # None: the peer is not asked whose study it is
    acknowledged: int = 0
    refused: Counter[int] = field(default_factory=Counter)  # by status
    warned: Counter[int] = field(default_factory=Counter)
    _failed: Counter[int] = field(default_factory=Counter)  # by status: these stay pending
    _changed: set[str] = field(default_factory=set)  # identity keywords that the peer said it changed
    _beaten_s: float = field(default_factory=time.monotonic)

    def run(self) -> Ending:
        """Send what is pending. Raises StorageError where the disk cannot be read, LedgerError as it comes."""
        items = self.ledger.deliveries.pending_items(self.delivery)
        if not items:
            return Ending(end=End.FINISH)
        if (unfit := self._verify(items)) is not None:
            return unfit
        checkpoint("push.verified")
        if (other := self._other_identity(items[0])) is not None:
            return other
        ending = self._in_one_session(items)
        if ending.end is End.REASSOCIATE:
            log.event(LOGGER, "delivery_reassociates", delivery=self.delivery.id, peer=self.peer.name)
            ending = self._in_one_session(self.ledger.deliveries.pending_items(self.delivery))
        if ending.end is End.REASSOCIATE:
            return Ending(end=End.HOLD, reason=ending.reason, sentence=ending.sentence)
        return ending

    def _verify(self, items: Sequence[DeliveryItem]) -> Ending | None:
        """Check that all files are what the job made, before the first is sent: half a series would be of no use."""
        for item in items:
            if not self._beat():
                return Ending(end=End.GONE)
            state = self.archive.verify(item.file, item.sha256)
            if state is FileState.MISSING:
                return self._unfit(item, Cause.MISSING, "is not in the archive any more")
            if state is FileState.ALTERED:
                return self._unfit(item, Cause.ALTERED, "was altered in the archive since it was written")
        return None

    def _unfit(self, item: DeliveryItem, cause: Cause, what: str) -> Ending:
        remedy = (
            "Restore it from a backup, then `deliveries retry`."
            if self.delivery.job is None
            else "Have the series derived again (`series retry`)."
        )
        sentence = f"The file {item.file} {what}; nothing was sent. {remedy}"
        return Ending(end=End.HOLD, reason=cause, sentence=sentence)

    def _other_identity(self, first: DeliveryItem) -> Ending | None:
        """Ask whether the peer has the study under another patient, before it gets the first instance of a delivery."""
        if self.identity is None or not self.ledger.deliveries.is_identity_open(self.delivery):
            return None
        differences = self.identity.differences(self.archive.path(first.file))
        if not self._beat():
            return Ending(end=End.GONE)
        if not differences:
            return None
        sentence = (
            f"{self.peer.name} has the study under another patient: {', '.join(differences)} differ"
            f"{'s' if len(differences) == 1 else ''}; nothing was sent. Find out which is right. `dicomnode deliveries "
            "retry` asks the peer again, `release` sends it all the same, `release --refresh` derives it anew "
            "under the patient of the peer."
        )
        return Ending(end=End.HOLD, reason=Cause.IDENTITY, sentence=sentence)

    def _in_one_session(self, items: Sequence[DeliveryItem]) -> Ending:
        formats = {_format(item) for item in items}
        if len(formats) > MOST_FORMATS:  # of originals, each instance of which may have a class and a syntax of its own
            sentence = f"The instances have {len(formats)} formats; one association offers at most {MOST_FORMATS}."
            return Ending(end=End.HOLD, reason=Cause.NOT_SUPPORTED, sentence=sentence)
        session = self.carrier.open(self.peer, formats)
        if isinstance(session, RequestOutcome):
            return _unanswered(End.HOLD if session.reason is RequestReason.NO_CONTEXT else End.UNREACHED, session)
        self.opened(session)
        try:
            checkpoint("push.associated")
            if not self.ledger.deliveries.is_ours(self.delivery):  # cancelled while we waited for the peer
                session.close()
                return Ending(end=End.GONE)
            ending = self._send_all(session, items)
            if ending.end is End.REASSOCIATE:
                session.abort()
            else:
                session.close()
        except BaseException:
            session.abort()
            raise
        finally:
            self.opened(None)
        return ending

    def _send_all(self, session: Session, items: Sequence[DeliveryItem]) -> Ending:
        if (refusal := session.refusal({_format(item) for item in items})) is not None:
            return _unanswered(End.HOLD, refusal)
        outgoing = [self._outgoing(item) for item in items]
        begin = 0
        while begin < len(items):
            if self.stop.is_set():
                return Ending(end=End.STOPPED)
            if not self._beat():
                return Ending(end=End.GONE)
            end = begin + session.batch(outgoing[begin:])
            self.in_flight.look(items[begin:], end - begin)
            if (ending := self._send_together(session, items[begin:end], outgoing[begin:end])) is not None:
                return ending
            begin = end
        if self._failed:
            sentence = f"{self._failed.total()} of {len(items)} instances wait: {_counted(self._failed)}"
            return Ending(end=End.RETRY, reason=Cause.PROCESSING_FAILURE, sentence=sentence)
        return Ending(end=End.FINISH)

    def _send_together(
        self, session: Session, items: Sequence[DeliveryItem], outgoing: Sequence[OutgoingInstance]
    ) -> Ending | None:
        """Send instances in one request, and record every answer, also those behind an answer that ends the attempt."""
        before = [(item.id in self.in_flight.sent, self.in_flight.may_hold(item)) for item in items]
        self.in_flight.sent.update(item.id for item in items)
        outcomes = session.store(outgoing)
        checkpoint("push.sent")
        first: Ending | None = None
        for item, outcome, (is_repeat, may_have_arrived) in zip(items, outcomes, before, strict=True):
            ending = self._obey(item, outcome, is_repeat=is_repeat, may_have_arrived=may_have_arrived)
            if ending is None:
                checkpoint("push.acknowledged")
            elif ending.end is End.GONE:
                return ending
            first = first or ending
        return first

    def _outgoing(self, item: DeliveryItem) -> OutgoingInstance:
        return OutgoingInstance(
            format=_format(item), sop_instance_uid=item.sop_instance_uid, path=self.archive.path(item.file)
        )

    def _obey(
        self, item: DeliveryItem, outcome: RequestOutcome, *, is_repeat: bool, may_have_arrived: bool
    ) -> Ending | None:
        """Record the answer to one instance; return an ending where it concerns the delivery as a whole."""
        if outcome.status is None:
            if self.stop.is_set():
                return Ending(end=End.STOPPED)
            return _unanswered(End.HOLD if outcome.reason in _OF_OPERATOR else End.RETRY, outcome)
        entry = wire.status_of(outcome.status)
        sentence = f"{_in_words(outcome.status)} {entry.remedy}".strip()
        match entry.action:
            case wire.Action.ACCEPT:
                return self._acknowledge(item, outcome.status, is_repeat=is_repeat)
            case wire.Action.WARN:
                self._warn(outcome)
                return self._acknowledge(item, outcome.status, is_repeat=is_repeat)
            case wire.Action.DUPLICATE:
                # Only what we sent before can be there already: the same UID means the same bytes
                # (docs/derived-objects.md#uids).
                # The maker of an original may have sent it there too.
                if may_have_arrived or self.delivery.job is None:
                    return self._acknowledge(item, outcome.status, is_repeat=may_have_arrived)
                return self._refuse(item, outcome.status)
            case wire.Action.RETRY:
                if self.ledger.deliveries.fail_item(self.delivery, item, status=outcome.status) >= MAX_TRIES:
                    return self._refuse(item, outcome.status)
                self._failed[outcome.status] += 1
                return None if self.ledger.deliveries.is_ours(self.delivery) else Ending(end=End.GONE)
            case wire.Action.REFUSE:
                return self._refuse(item, outcome.status)
            case wire.Action.HOLD:
                if (gone := self._refuse(item, outcome.status)) is not None:
                    return gone
                return Ending(end=End.HOLD, reason=Cause.NOT_SUPPORTED, sentence=sentence)
            case wire.Action.HOLD_PENDING:
                return Ending(end=End.HOLD, reason=Cause.NOT_AUTHORISED, sentence=sentence)
            case wire.Action.BACK_OFF:
                return Ending(end=End.RETRY, reason=Cause.NO_RESOURCES, sentence=sentence)
            case wire.Action.REASSOCIATE:
                return Ending(end=End.REASSOCIATE, reason=Cause.PROTOCOL_ERROR, sentence=sentence)

    def _acknowledge(self, item: DeliveryItem, status: int, *, is_repeat: bool) -> Ending | None:
        if not self.ledger.deliveries.acknowledge(self.delivery, item, status=status):
            return Ending(end=End.GONE)
        self.acknowledged += 1
        self.in_flight.sent.discard(item.id)
        if is_repeat:
            self.ledger.note("repeated", table="delivery_item", row=item.id, detail="sent again, the same bytes")
        return None

    def _refuse(self, item: DeliveryItem, status: int) -> Ending | None:
        is_ours = self.ledger.deliveries.refuse(self.delivery, item, status=status)
        self.refused[status] += 1
        log.event(
            LOGGER,
            "instance_refused",
            level=logging.WARNING,
            delivery=self.delivery.id,
            peer=self.peer.name,
            instance=item.instance,
            status=f"{status:04X}",
        )
        return None if is_ours else Ending(end=End.GONE)

    def _warn(self, outcome: RequestOutcome) -> None:
        """Count a warning; record a change of patient or study by keyword, never by value."""
        assert outcome.status is not None, "only an answer warns"
        self.warned[outcome.status] += 1
        news = IDENTITY_KEYWORDS.intersection(outcome.offending) - self._changed
        if outcome.status == wire.STATUS_IDENTITY_COERCED and news:
            self._changed |= news
            detail = f"the peer changed {', '.join(sorted(news))}"
            self.ledger.note("identity", table="delivery", row=self.delivery.id, detail=detail)
            log.event(LOGGER, "identity_changed", level=logging.WARNING, delivery=self.delivery.id, peer=self.peer.name)

    def _beat(self) -> bool:
        """Prolong the lease; False: another process holds it."""
        now_s = time.monotonic()
        if now_s - self._beaten_s < LEASE_S / 3:
            return True
        self._beaten_s = now_s
        return self.ledger.deliveries.beat(self.delivery, lease_s=lease_s(self.push))


def lease_s(push: PushSettings) -> float:
    """Return how long a claim holds without renewal: there is none during a C-STORE, up to the whole response time."""
    return LEASE_S + push.response_timeout_s


def _format(item: DeliveryItem) -> InstanceFormat:
    return InstanceFormat(sop_class_uid=item.sop_class_uid, transfer_syntax_uid=item.transfer_syntax_uid)


def _unanswered(end: End, outcome: RequestOutcome) -> Ending:
    return Ending(end=end, reason=outcome.reason, sentence=f"{outcome.sentence} {outcome.hint}".strip())


def _in_words(status: int) -> str:
    return f"The peer answered {status:04X}, {wire.status_of(status).meaning}."


def _counted(statuses: Counter[int]) -> str:
    return ", ".join(f"{count} × {status:04X} ({wire.status_of(status).meaning})" for status, count in statuses.items())
