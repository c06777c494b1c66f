"""C-ECHO and C-STORE: the receiving half of the node as the network sees it.

Bytes come in through the door, an answer goes out; in between lies ``intake``, which makes "0000" mean: on disk,
flushed, in the ledger. This file only ties pynetdicom's events to our decisions, and starts and stops them.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Sequence

import pydicom.config
from pynetdicom import _config, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import build_context

from dicomnode import log
from dicomnode.archive import Archive
from dicomnode.errors import NodeError, SettingsError
from dicomnode.ids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, SeriesId
from dicomnode.ledger.store import Ledger
from dicomnode.receive.admission import Occasion, admit, contexts_for
from dicomnode.receive.door import Door
from dicomnode.receive.header_walk import unpadded
from dicomnode.receive.intake import Intake, Offer
from dicomnode.receive.space import Condition, Space
from dicomnode.receive.throttle import Throttle
from dicomnode.receive.visitor import AssociateRequest, DoorAssociation, DoorSocket, Limits
from dicomnode.seams import SYSTEM_CLOCK, Clock, checkpoint
from dicomnode.settings import ArchiveSettings, NodeSettings, PeerSettings, ReceiveSettings
from dicomnode.wire import CONGESTED, VERIFICATION, Answer, Rejection

LOGGER = logging.getLogger(__name__)

MEBIBYTE = 1 << 20
LIBRARY_LIMIT = 1 << 20  # associations: pynetdicom counts sockets that never asked; our own limits come first
POLL_S = 0.1  # how long stopping may take to be noticed
ABORT_S = 2.0  # for the aborted peers to close their side, before we close ours


class Receiver:
    """The listening service: started once, stopped once."""

    def __init__(
        self,
        *,
        node: NodeSettings,
        receive: ReceiveSettings,
        disk: ArchiveSettings,
        peers: Sequence[PeerSettings],
        ledger: Ledger,
        archive: Archive,
        wake: Callable[[], None],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """``wake``: told when an association that stored something has ended, so that its series can settle."""
        self._node = node
        self._settings = receive
        self._peers = tuple(peers)
        self._ledger = ledger
        self._wake = wake
        self._space = Space(archive, disk.refuse_free_percent, clock, self._note)
        self._limits = Limits(
            pdu_bytes=receive.max_pdu_bytes,
            instance_bytes=receive.max_instance_mb * MEBIBYTE,
            associations=receive.max_associations,
            per_address=receive.max_per_address,
            associate_timeout_s=receive.associate_timeout_s,
            pdu_timeout_s=receive.pdu_timeout_s,
        )
        self._intake = Intake(
            archive=archive,
            ledger=ledger,
            space=self._space,
            max_instance_bytes=self._limits.instance_bytes,
            clock=clock,
        )
        self._admission = threading.Lock()
        self._is_stopping = False
        self._throttle = Throttle(clock)
        self._door: Door | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port that we listen on."""
        assert self._door is not None, "not started"
        return self._door.port

    def start(self) -> None:
        """Open the door. Raises SettingsError where the address cannot be listened on."""
        assert self._door is None, "started already"
        _quieten_libraries()
        ae = ApplicationEntity(self._node.ae_title)
        ae.maximum_pdu_size = self._settings.max_pdu_bytes
        ae.acse_timeout = self._settings.associate_timeout_s
        ae.network_timeout = self._settings.idle_timeout_s
        ae.maximum_associations = LIBRARY_LIMIT
        ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        try:
            door = ae.make_server(
                (self._node.host, self._node.port),
                contexts=[build_context(VERIFICATION)],
                evt_handlers=[
                    (evt.EVT_REQUESTED, self._requested),
                    (evt.EVT_C_STORE, self._c_store),
                    (evt.EVT_PDU_SENT, self._pdu_sent),
                ],
                server_class=Door,
                limits=self._limits,
                is_near=self._is_near,
                on_closed=self._closed,
            )
        except OSError as exc:
            in_use = exc.errno == errno.EADDRINUSE
            raise SettingsError(
                f"The node cannot listen on {self._node.listen}: {exc.strerror}.",
                hint="Another program listens there: stop it, or set `node.listen`."
                if in_use
                else "Check `node.listen`: the address must be this machine's, and ports under 1024 need a privilege.",
            ) from exc
        assert isinstance(door, Door)
        self._door = door
        self._thread = threading.Thread(target=door.serve_forever, args=(POLL_S,), name="door", daemon=True)
        self._thread.start()
        log.event(LOGGER, "listening", host=self._node.host, port=door.port)

    def open_series(self) -> frozenset[SeriesId]:
        """The series that an association, open now, has stored into: they must not settle."""
        return frozenset(series for one in self._live() for series in list(one.series.values()))

    def associations(self) -> int:
        """How many associations are admitted and open."""
        return sum(one.peer is not None for one in self._live())

    def condition(self) -> Condition | None:
        """Why nothing is accepted at the moment, for ``status``."""
        return self._space.condition()

    def stop(self, drain_s: float) -> None:
        """Close the door: new associations get 2/3/1 while the open ones may finish, then they are aborted."""
        if self._door is None or self._thread is None:
            return
        self._is_stopping = True
        _wait(lambda: not self.associations(), drain_s)
        remaining = self._live()
        for association in remaining:
            association.is_dismissed = True
            if association.is_established:
                association.abort(block=False)
            else:
                _cut(association)
        self._door.shutdown()
        self._thread.join(POLL_S + ABORT_S)
        _wait(lambda: not self._live(), ABORT_S)
        for association in self._live():
            _cut(association)
        _wait(lambda: not self._live(), ABORT_S)
        self._door, self._thread = None, None
        log.event(LOGGER, "door_closed", associations=len(remaining))

    def _note(self, kind: str, detail: str) -> None:
        """An event at the node's own row, the first and only one; a full disk may refuse that too."""
        try:
            self._ledger.note(kind, table="node", row=1, detail=detail)
        except NodeError as exc:
            log.event(LOGGER, "event_not_noted", level=logging.WARNING, code=exc.code, sentence=exc.sentence)

    def _live(self) -> list[DoorAssociation]:
        return self._door.live() if self._door is not None else []

    def _is_near(self, address: str) -> bool:
        return any(peer.is_near(address) for peer in self._peers)

    # What pynetdicom calls, each on the thread of its association.

    def _requested(self, event: evt.Event) -> None:
        """Admit or reject, before the library negotiates anything."""
        association = event.assoc
        assert isinstance(association, DoorAssociation)
        try:
            admitted = self._admit(association)
        except Exception:  # noqa: BLE001 - a border: the library would log it and let the visitor in
            log.failure(LOGGER, "admission_failed")
            admitted = CONGESTED
        if isinstance(admitted, PeerSettings):
            association.acceptor.supported_contexts = contexts_for(admitted)
            return
        association.acse.send_reject(admitted.result, admitted.source, admitted.reason)
        # Else the library closes the socket before the PDU has left, and the peer sees only a lost connection.
        association.kill()

    def _admit(self, association: DoorAssociation) -> PeerSettings | Rejection:
        address = association.requestor.address
        primitive = association.requestor.primitive
        request = association.dul.socket.request if isinstance(association.dul.socket, DoorSocket) else None
        if request is None or primitive is None:
            request = AssociateRequest(called=None, calling=None, is_version_1=False)
        condition = self._space.condition()
        with self._admission:  # counted and taken in one step: two visitors must not both be the last one
            visitors = [one for one in self._live() if one.peer is not None]
            from_there = sum(one.requestor.address == address for one in visitors)
            occasion = Occasion(
                is_refusing=self._is_stopping or condition is not None,
                is_over_limit=len(visitors) >= self._limits.associations or from_there >= self._limits.per_address,
                address=address,
                application_context=str(primitive.application_context_name) if primitive else "",
            )
            admitted = admit(request, occasion, ae_title=self._node.ae_title, peers=self._peers)
            if isinstance(admitted, PeerSettings):
                association.peer = admitted
        if isinstance(admitted, Rejection) and (count := self._throttle.count(f"{address} {admitted.code}")):
            log.event(
                LOGGER,
                "association_rejected",
                level=logging.WARNING,
                code=admitted.code,
                sentence=admitted.sentence,
                address=address,
                calling=request.calling,
                called=request.called,
                count=count,
            )
        return admitted

    def _c_store(self, event: evt.Event) -> int:
        """The status of one C-STORE; raises nothing, for the library would answer with a code of its own."""
        association, request, context = event.assoc, event.request, event.context
        try:
            assert isinstance(association, DoorAssociation)
            assert association.peer is not None
            assert isinstance(request, C_STORE)
            offer = Offer(
                peer=association.peer.name,
                sop_class_uid=unpadded(str(request.AffectedSOPClassUID or "")),
                sop_instance_uid=unpadded(str(request.AffectedSOPInstanceUID or "")),
                context_sop_class_uid=str(context.abstract_syntax),
                transfer_syntax_uid=str(context.transfer_syntax),
                dataset=request.DataSet.getbuffer() if request.DataSet else memoryview(b""),
            )
            answer = self._intake.store(offer, association.series)
            association.stored += answer is Answer.STORED
            return int(answer)
        except Exception:  # noqa: BLE001 - a border: no traceback to the peer
            log.failure(LOGGER, "store_failed")
            return int(Answer.FAILED)

    def _pdu_sent(self, _event: evt.Event) -> None:
        checkpoint("receive.answered")

    def _closed(self, association: DoorAssociation) -> None:
        """The end of an association, however it came. The series counts as open until this returns."""
        if association.peer is None:
            return
        series = sorted(set(association.series.values()))
        log.event(
            LOGGER,
            "association_ended",
            peer=association.peer.name,
            state="released" if association.is_released else "aborted",
            instances=association.stored,
        )
        if not series:
            return
        if not association.is_released:
            try:
                self._ledger.mark_aborted(series)
            except NodeError as exc:
                # The series then settles after the usual quiet time instead of the longer one.
                log.event(LOGGER, "abort_not_noted", level=logging.ERROR, sentence=exc.sentence, code=exc.code)
        self._wake()


def _cut(association: DoorAssociation) -> None:
    if isinstance(association.dul.socket, DoorSocket):
        association.dul.socket.cut()


def _quieten_libraries() -> None:
    """Settings that the libraries hold for the whole process."""
    # The handlers format every PDU and log UIDs, titles and heads of datasets.
    _config.LOG_HANDLER_LEVEL = "none"
    # A UID is judged in ``intake``, which answers A900. pynetdicom would drop the association, and the series with
    # it; pydicom would print the text on stderr.
    _config.VALIDATORS["UI"] = lambda _uid: (True, "")
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


def _wait(condition: Callable[[], bool], limit_s: float) -> None:
    """Poll until the condition holds or the time is over; an ending thread has nothing to wait on."""
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
