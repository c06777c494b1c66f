"""One incoming association from its first byte to its last: a thread that reads its socket itself.

It decides on the protocol only: which message is legal when, within which time, and how an answer is encoded. The
handlers decide which associations are accepted (``admission``) and whether an object is stored (``intake``).
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dicomnode import log
from dicomnode.dimse.associate import AssociationRequest, Context, accept, read_request, reject
from dicomnode.dimse.budget import ByteBudget
from dicomnode.dimse.commands import RESPONSE, Command, Field, encode_command, encode_refusal, report_answer
from dicomnode.dimse.link import Ended, Link
from dicomnode.dimse.messages import (
    UNSPECIFIED,
    ControlPdu,
    Event,
    Flaw,
    Message,
    PduType,
    Phase,
    ReadLimits,
    Violation,
    encode_pdu,
)
from dicomnode.ids import SeriesId
from dicomnode.receive.admission import Admitted, contexts_for
from dicomnode.receive.intake import OfferedInstance
from dicomnode.seams import checkpoint
from dicomnode.settings.peers import PeerSettings
from dicomnode.tls.certificate import Certificate
from dicomnode.wire import COMMITMENT, UNRECOGNISED_OPERATION, VERIFICATION, Answer, Rejection

LOGGER = logging.getLogger(__name__)

EMPTY_FRAGMENTS = 16  # in one message; some senders begin with an empty one, none needs more
NOT_AUTHORISED = 0x0124  # the answer to a C-STORE of a peer that may only report (PS3.7 Annex C.5.17)
_PROVIDER = 2  # source of an A-ABORT (PS3.8 Table 9-26)
_USER = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one association, and of all associations together."""

    pdu_bytes: int
    instance_bytes: int
    associations: int
    per_address: int
    associate_timeout_s: float
    pdu_timeout_s: float
    idle_timeout_s: float
    handshake_timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Handlers:
    """The functions that an association calls, on its own thread, for every decision beyond the protocol."""

    admit: Callable[[Association, AssociationRequest], Admitted | Rejection]
    store: Callable[[Association, OfferedInstance], Answer]
    report: Callable[[str, bytes | bytearray, str], int]  # the peer that reports, a data set and its transfer syntax
    closed: Callable[[Association], None]  # called last


class Association:
    """One incoming association: its peer, and the series that it stored."""

    def __init__(
        self,
        connected: socket.socket,
        address: str,
        limits: Limits,
        budget: ByteBudget,
        handlers: Handlers,
        *,
        tls: ssl.SSLContext | None,
    ) -> None:
        """``tls``: the context of the handshake with which the peer has to begin; None: plain DICOM."""
        self.address = address
        self.peer: PeerSettings | None = None  # None: not admitted
        self.series: dict[str, SeriesId] = {}  # that it stored, by Series Instance UID
        self.stored = 0  # number of answers 0000
        self.is_released = False
        self.is_rejected = False
        self.ending = ""  # the cause of its end, other than a release
        self.is_ended_by_us = False
        self.begun_s = time.monotonic()
        self._is_dismissed = False
        self._limits = limits
        self._tls = tls
        self._is_shaking_hands = tls is not None
        self._handlers = handlers
        self._contexts: Mapping[int, Context] = {}
        self._admitted: Admitted | None = None
        self._called: str | None = None  # the AE title that the peer called
        limits_of_reading = ReadLimits(
            pdu_bytes=limits.pdu_bytes, dataset_bytes=limits.instance_bytes, empty_fragments=EMPTY_FRAGMENTS
        )
        self._link = Link(connected, Phase.AWAITING_REQUEST, limits_of_reading, budget=budget)
        self._thread = threading.Thread(target=self._run, name=f"association-{address}", daemon=True)

    @property
    def certificate(self) -> Certificate | None:
        """The verified certificate of the peer; None: the connection is not under TLS."""
        return self._link.certificate

    @property
    def is_shaking_hands(self) -> bool:
        """True while the handshake of TLS is not over."""
        return self._is_shaking_hands

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Tell whether its thread runs, whether the association is established or not."""
        return self._thread.is_alive()

    def dismiss(self) -> None:
        """End it because the node stops: by A-ABORT 0/0 if it is established, else the connection is cut."""
        self._is_dismissed = True
        if self.peer is not None:
            self._link.abort(_USER, 0)
        else:
            self._link.cut()

    def cut(self) -> None:
        """End the connection now, whatever it is doing."""
        self._link.cut()

    def _run(self) -> None:
        """Border: nothing that a peer sends may end more than its own association."""
        try:
            if self._secure() and self._associate():
                while self._serve():
                    pass
        except Exception:  # noqa: BLE001 (border: one association)
            log.failure(LOGGER, "association_failed", address=self.address)
            self._abort("the node failed to serve it", UNSPECIFIED)
        finally:
            self._link.close()
            self._handlers.closed(self)

    def _secure(self) -> bool:
        """Shake hands where the connection has to be under TLS; return whether the association request may come now."""
        if self._tls is None:
            return True
        until_s = time.monotonic() + self._limits.handshake_timeout_s
        ended = self._link.secure(self._tls, until_s, is_server=True)
        self._is_shaking_hands = False
        if ended is None:
            return True
        if ended is Ended.TIMED_OUT:
            self.ending, self.is_ended_by_us = "the handshake of TLS was not over within tls.handshake_timeout_s", True
        elif self._link.tls_failure:
            self.ending, self.is_ended_by_us = f"no TLS connection: {self._link.tls_failure}", True
            self._link.linger()  # wait, so that the TLS alert arrives at the peer
        else:
            self._end(ended)
        return False

    def _associate(self) -> bool:
        """Read the request and answer it; return whether there is an association now."""
        event = self._link.next_event(time.monotonic() + self._limits.associate_timeout_s)
        if not isinstance(event, ControlPdu) or event.kind is not PduType.ASSOCIATE_RQ:
            self._end(event)
            return False
        request = read_request(event.body)
        if isinstance(request, Violation):
            self._end(request)
            return False
        if request.left_out:
            log.event(
                LOGGER, "association_items_skipped", level=logging.DEBUG, detail=request.left_out, address=self.address
            )
        admitted = self._handlers.admit(self, request)
        if isinstance(admitted, Rejection):
            self.is_rejected = True
            self._link.send(reject(admitted), self._soon())
            self._link.linger()
            return False
        acceptance = accept(request, contexts_for(admitted), maximum_pdu_bytes=self._limits.pdu_bytes)
        if isinstance(acceptance, Violation):
            self._end(acceptance)
            return False
        self._admitted = admitted
        self._called = request.called
        self._contexts = acceptance.contexts
        self._link.maximum_pdu_bytes = acceptance.maximum_pdu_bytes
        self._link.phase = Phase.ESTABLISHED
        return self._link.send(acceptance.pdu, self._soon()) is None

    def _serve(self) -> bool:
        """Wait for one message and answer it; return whether the association goes on.

        Each call takes one message, so that no object is kept in memory while the next message is waited for.
        """
        idle_until_s = time.monotonic() + self._limits.idle_timeout_s
        event = self._link.next_event(idle_until_s, pdu_timeout_s=self._limits.pdu_timeout_s)
        if isinstance(event, Message):
            answer = self._answer(event)
            if isinstance(answer, Violation):
                self._end(answer)
                return False
            if answer is None:
                return True
            ended = self._link.send_message(event.context_id, answer, None, self._soon())
            checkpoint("receive.answered")
            return ended is None
        if isinstance(event, ControlPdu) and event.kind is PduType.RELEASE_RQ:
            self.is_released = True
            self._link.send(encode_pdu(PduType.RELEASE_RP), self._soon())
            self._link.linger()
        else:
            self._end(event)
        return False

    def _answer(self, message: Message) -> bytes | Violation | None:
        """Return the command set of the response; None: no response is due."""
        command, context = message.command, self._contexts.get(message.context_id)
        field, message_id = command.number(Field.COMMAND), command.number(Field.MESSAGE_ID)
        assert field is not None, "a command set without its field is no message"
        if field == Command.C_CANCEL_RQ:
            return None
        if context is None or message_id is None or field & RESPONSE:
            return Violation(Flaw.CONTEXT_UNKNOWN if context is None else Flaw.MESSAGE_UNEXPECTED)
        values: dict[Field, str | int] = {Field.MESSAGE_ID_RESPONDED_TO: message_id}
        if field == Command.C_ECHO_RQ:
            values |= {Field.AFFECTED_SOP_CLASS_UID: VERIFICATION, Field.STATUS: Answer.STORED}
            return encode_command(Command.C_ECHO_RSP, values, has_dataset=False)
        assert self.peer is not None
        assert self._admitted is not None
        reporter = self._admitted.reporter
        if field == Command.N_EVENT_REPORT_RQ and context.abstract_syntax == COMMITMENT and reporter is not None:
            status = self._handlers.report(reporter, message.dataset or b"", context.transfer_syntax)
            return report_answer(command, message_id, status)
        if field != Command.C_STORE_RQ:
            return encode_refusal(field, message_id, UNRECOGNISED_OPERATION)
        if not self._admitted.may_store:
            return encode_refusal(field, message_id, NOT_AUTHORISED)
        offer = OfferedInstance(
            peer=self.peer.name,
            called_ae=self._called,
            sop_class_uid=command.text(Field.AFFECTED_SOP_CLASS_UID),
            sop_instance_uid=command.text(Field.AFFECTED_SOP_INSTANCE_UID),
            context_sop_class_uid=context.abstract_syntax,
            transfer_syntax_uid=context.transfer_syntax,
            dataset=memoryview(message.dataset or b""),
            is_pulled=self._admitted.is_pulled,
        )
        answer = self._handlers.store(self, offer)
        self.stored += answer is Answer.STORED
        values |= {
            Field.AFFECTED_SOP_CLASS_UID: offer.sop_class_uid,
            Field.AFFECTED_SOP_INSTANCE_UID: offer.sop_instance_uid,
            Field.STATUS: answer,
        }
        return encode_command(Command.C_STORE_RSP, values, has_dataset=False)

    def _end(self, event: Event | Ended) -> None:
        """Note why the association ends, unless by a release, and send an A-ABORT where the protocol demands it."""
        match event:
            case _ if self._is_dismissed:
                self.ending, self.is_ended_by_us = "the node stops", True
            case Violation(flaw=Flaw.OBJECT_TOO_LARGE):
                self._abort("an object that is larger than receive.max_instance_mb", event.reason)
            case Violation():
                self._abort(event.sentence, event.reason)
            case Ended.TIMED_OUT if self.peer is None:  # PS3.8 section 9.2.3, AA-2: closed without an A-ABORT
                self.ending, self.is_ended_by_us = "no association request came in time", True
            case Ended.TIMED_OUT if self._link.is_inside_pdu:
                self._abort("a PDU was not whole within its time (receive.pdu_timeout_s)", UNSPECIFIED)
            case Ended.TIMED_OUT:
                self._abort("nothing came for longer than receive.idle_timeout_s", UNSPECIFIED)
            case Ended.TOO_SLOW:
                self._abort("it was too slow to send an object for whose memory others waited", UNSPECIFIED)
            case ControlPdu():
                self.ending = "the peer aborted it: source {}, reason {}".format(*event.numbers[1:])
            case _:
                self.ending = "the connection was lost"

    def _abort(self, why: str, reason: int) -> None:
        self.ending, self.is_ended_by_us = why, True
        self._link.tell_abort(_PROVIDER, reason)
        self._link.linger()

    def _soon(self) -> float:
        """Return the moment by which the operating system must have taken a PDU of ours."""
        return time.monotonic() + self._limits.pdu_timeout_s
