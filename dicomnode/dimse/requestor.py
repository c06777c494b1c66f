"""Requests on an association that we asked for, each with its outcome: PS3.7 sections 9.3 and 10.3.

The thread that sends a request also reads its response. Nothing here raises for what a peer does or fails to do: on an
association that has ended, each request returns how it ended.

While a peer answers a C-GET it sends requests of its own, a C-STORE for each instance: ``brought`` is called with each
and returns the status that answers it.

A peer may send a report of its own (N-EVENT-REPORT) on our association at any moment: before the response to our
request, while we ``listen``, or after we asked for the release. ``reported`` is called with each one and returns the
status that answers it. After we asked for the release no answer may be sent (PS3.8 section 9.2), so none is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from pydicom.datadict import keyword_for_tag
from pydicom.tag import Tag

from dicomnode.dimse.associate import Associated, Context, aborted
from dicomnode.dimse.commands import RESPONSE, Command, CommandSet, Field, encode_command, report_answer
from dicomnode.dimse.link import Ended, Link
from dicomnode.dimse.messages import UNEXPECTED, ControlPdu, Event, Message, PduType, Phase, Violation, encode_pdu
from dicomnode.dimse.outcome import RequestOutcome, RequestReason

_MESSAGE_IDS = 0xFFFF  # PS3.7 section 9.1.1.1: 16 bits
_MEDIUM = 0x0000  # Priority
_PENDING = (0xFF00, 0xFF01)  # statuses of a C-FIND response that carries a match (PS3.4 section C.4.1.1.4)

Reported = Callable[[Context, Message], int]
"""A function that takes a report of the peer and returns the status that answers it."""


class Requestor:
    """An established association. One thread uses it; only ``abort`` may come from another."""

    def __init__(
        self,
        associated: Associated,
        *,
        response_timeout_s: float,
        reported: Reported | None = None,
        brought: Reported | None = None,
    ) -> None:
        """``reported``: takes the peer's reports; None: a report breaks the protocol. ``brought``: so for C-GET."""
        self._link: Link = associated.link
        self._reported = reported
        self._brought = brought
        self._timeout_s = response_timeout_s
        self._message_id = 0
        self._in_use = threading.Lock()  # by a request: the thread that uses the connection closes it
        self._ended: RequestOutcome | None = None
        self.contexts: Mapping[int, Context] = associated.contexts

    def echo(self, context_id: int) -> RequestOutcome:
        """Send a C-ECHO, to see whether a DICOM application answers."""
        sop_class_uid = self.contexts[context_id].abstract_syntax
        return self.request(context_id, Command.C_ECHO_RQ, {Field.AFFECTED_SOP_CLASS_UID: sop_class_uid})

    def store(self, context_id: int, sop_instance_uid: str, dataset: memoryview) -> RequestOutcome:
        """Send one instance by C-STORE, its bytes as they are, in the transfer syntax of the context."""
        values: dict[Field, str | int] = {
            Field.AFFECTED_SOP_CLASS_UID: self.contexts[context_id].abstract_syntax,
            Field.PRIORITY: _MEDIUM,
            Field.AFFECTED_SOP_INSTANCE_UID: sop_instance_uid,
        }
        return self.request(context_id, Command.C_STORE_RQ, values, dataset)

    def find(self, context_id: int, identifier: bytes, matched: Callable[[bytes], bool]) -> RequestOutcome:
        """Search by C-FIND: pass each match to ``matched``; where that returns False, the association is aborted."""
        values: dict[Field, str | int] = {
            Field.AFFECTED_SOP_CLASS_UID: self.contexts[context_id].abstract_syntax,
            Field.PRIORITY: _MEDIUM,
        }
        with self._in_use:
            return self._request(context_id, Command.C_FIND_RQ, values, memoryview(identifier), matched)

    def move(self, context_id: int, identifier: bytes, destination: str) -> RequestOutcome:
        """Have instances sent to an AE title by C-MOVE. The counts of the responses are not read: many are wrong."""
        values: dict[Field, str | int] = {
            Field.AFFECTED_SOP_CLASS_UID: self.contexts[context_id].abstract_syntax,
            Field.PRIORITY: _MEDIUM,
            Field.MOVE_DESTINATION: destination,
        }
        with self._in_use:
            return self._request(context_id, Command.C_MOVE_RQ, values, memoryview(identifier), lambda _: True)

    def get(self, context_id: int, identifier: bytes) -> RequestOutcome:
        """Have instances brought on this association by C-GET. The counts of the responses are not read."""
        values: dict[Field, str | int] = {
            Field.AFFECTED_SOP_CLASS_UID: self.contexts[context_id].abstract_syntax,
            Field.PRIORITY: _MEDIUM,
        }
        with self._in_use:
            return self._request(context_id, Command.C_GET_RQ, values, memoryview(identifier), lambda _: True)

    def act(self, context_id: int, sop_instance_uid: str, action_type: int, information: bytes) -> RequestOutcome:
        """Send an N-ACTION (PS3.7 section 10.1.4) on an instance of the context's SOP class."""
        values: dict[Field, str | int] = {
            Field.REQUESTED_SOP_CLASS_UID: self.contexts[context_id].abstract_syntax,
            Field.REQUESTED_SOP_INSTANCE_UID: sop_instance_uid,
            Field.ACTION_TYPE_ID: action_type,
        }
        return self.request(context_id, Command.N_ACTION_RQ, values, memoryview(information))

    def listen(self, limit_s: float, is_enough: Callable[[], bool]) -> None:
        """Take reports until there are enough, the time is over or the association has ended."""
        until_s = time.monotonic() + limit_s
        with self._in_use:
            while self._ended is None and not is_enough() and not self._link.was_aborted:
                event = self._link.next_event(until_s)
                if event is Ended.TIMED_OUT:
                    return
                if not self._take_report(event):
                    self._end(self._ending(event) or self._unasked())

    def request(
        self,
        context_id: int,
        command: Command,
        values: Mapping[Field, str | int],
        dataset: memoryview | None = None,
    ) -> RequestOutcome:
        """Send a request and wait for its response, ``response_timeout_s`` for the one and for the other."""
        with self._in_use:
            return self._request(context_id, command, values, dataset)

    def release(self, limit_s: float) -> bool:
        """End in order; False: the peer did not answer within the limit and was aborted."""
        is_answered = True
        if self._ended is None:
            self._ended = RequestOutcome(reason=RequestReason.ENDED)
            self._link.phase = Phase.RELEASING
            until_s = time.monotonic() + limit_s
            event: Event | Ended | None = self._link.send(encode_pdu(PduType.RELEASE_RQ), until_s)
            while event is None or isinstance(event, Message):
                event = self._link.next_event(until_s)
                self._take_report(event, is_answered=False)
                # Both at once (PS3.8 section 7.2.2.7): the requestor answers first, then waits for its own answer.
                if isinstance(event, ControlPdu) and event.kind is PduType.RELEASE_RQ:
                    event = self._link.send(encode_pdu(PduType.RELEASE_RP), until_s)
            if not isinstance(event, ControlPdu):
                is_answered = event is Ended.CLOSED
                self._link.tell_abort(0, 0)
        self._link.close()
        return is_answered

    def abort(self) -> None:
        """End at once (A-ABORT 0/0), from any thread: a request that waits for its response ends too."""
        self._ended = self._ended or RequestOutcome(reason=RequestReason.ENDED)
        self._link.abort(0, 0)
        if self._in_use.acquire(blocking=False):
            self._link.close()
            self._in_use.release()

    def _request(
        self,
        context_id: int,
        command: Command,
        values: Mapping[Field, str | int],
        dataset: memoryview | None,
        matched: Callable[[bytes], bool] | None = None,
    ) -> RequestOutcome:
        while self._ended is None and self._link.has_input():  # it may have released, aborted or reported in between
            event = self._link.next_event(time.monotonic() + self._timeout_s)
            if not self._take_report(event):
                self._end(self._ending(event) or self._unasked())
        if self._ended is not None:
            return self._ended
        self._message_id = self._message_id % _MESSAGE_IDS + 1
        told = encode_command(command, {**values, Field.MESSAGE_ID: self._message_id}, has_dataset=dataset is not None)
        began_s = time.monotonic()
        ended = self._link.send_message(context_id, told, dataset, began_s + self._timeout_s)
        while True:
            event = ended or self._link.next_event(time.monotonic() + self._timeout_s)
            if self._take_report(event) or self._take_instance(event):
                continue
            answer = self._ending(event, waited_s=time.monotonic() - began_s)
            if answer is None:
                assert isinstance(event, Message)
                answer = self._answer(event.command, command)
            if answer.status is None:
                return self._end(answer)
            if matched is None or answer.status not in _PENDING:
                return answer
            assert isinstance(event, Message)
            if not matched(bytes(event.dataset or b"")):
                self._link.tell_abort(0, 0)
                return self._end(RequestOutcome(reason=RequestReason.ILLEGAL, detail="more matches than can be meant"))

    def _take_report(self, event: Event | Ended | None, *, is_answered: bool = True) -> bool:
        """Tell whether this event is a report; if so, hand it over and answer it, as far as an answer may be sent."""
        if self._reported is None or not isinstance(event, Message):
            return False
        command, context = event.command, self.contexts.get(event.context_id)
        message_id = command.number(Field.MESSAGE_ID)
        if command.number(Field.COMMAND) != Command.N_EVENT_REPORT_RQ or context is None or message_id is None:
            return False
        status = self._reported(context, event)
        if is_answered:
            self._link.send_message(
                event.context_id, report_answer(command, message_id, status), None, time.monotonic() + self._timeout_s
            )
        return True

    def _take_instance(self, event: Event | Ended | None) -> bool:
        """Tell whether this event is an instance that a C-GET brings; if so, hand it over and answer it."""
        if self._brought is None or not isinstance(event, Message):
            return False
        command, context = event.command, self.contexts.get(event.context_id)
        message_id = command.number(Field.MESSAGE_ID)
        if command.number(Field.COMMAND) != Command.C_STORE_RQ or context is None or message_id is None:
            return False
        values: dict[Field, str | int] = {
            Field.AFFECTED_SOP_CLASS_UID: command.text(Field.AFFECTED_SOP_CLASS_UID),
            Field.MESSAGE_ID_RESPONDED_TO: message_id,
            Field.STATUS: self._brought(context, event),
            Field.AFFECTED_SOP_INSTANCE_UID: command.text(Field.AFFECTED_SOP_INSTANCE_UID),
        }
        answer = encode_command(Command.C_STORE_RSP, values, has_dataset=False)
        self._link.send_message(event.context_id, answer, None, time.monotonic() + self._timeout_s)
        return True

    def _end(self, outcome: RequestOutcome) -> RequestOutcome:
        self._ended = self._ended or outcome
        self._link.close()
        return self._ended

    def _ending(self, event: Event | Ended, *, waited_s: float = 0.0) -> RequestOutcome | None:
        """Return how this event ends the association, None for a message; abort where it is still open at the peer."""
        match event:
            case Message():
                return None
            case ControlPdu(kind=PduType.ABORT):
                return aborted(event)
            case ControlPdu():
                self._link.send(encode_pdu(PduType.RELEASE_RP), time.monotonic() + self._timeout_s)
                return RequestOutcome(reason=RequestReason.LOST, detail="the peer released the association")
            case Violation():
                self._link.tell_abort(2, event.reason)
                return RequestOutcome(reason=RequestReason.ILLEGAL, detail=event.sentence)
            case Ended.TIMED_OUT:
                self._link.tell_abort(0, 0)
                return RequestOutcome(reason=RequestReason.NO_RESPONSE, detail=f"{waited_s:.0f} s")
            case _:
                return RequestOutcome(reason=RequestReason.LOST, detail=self._link.tls_failure)

    def _answer(self, response: CommandSet, command: Command) -> RequestOutcome:
        status = response.number(Field.STATUS)
        is_ours = (
            response.number(Field.COMMAND) == command | RESPONSE
            and response.number(Field.MESSAGE_ID_RESPONDED_TO) == self._message_id
        )
        if not is_ours or status is None:
            return self._unasked()
        offending = tuple(keyword_for_tag(Tag(*tag)) for tag in response.tags(Field.OFFENDING_ELEMENT))
        return RequestOutcome(reason=RequestReason.ANSWERED, status=status, offending=offending)

    def _unasked(self) -> RequestOutcome:
        self._link.tell_abort(2, UNEXPECTED)
        return RequestOutcome(reason=RequestReason.ILLEGAL, detail="a message that is no response to our request")
