"""The receiving service: it answers C-ECHO, C-STORE, and the reports of storage commitment that peers send.

``listener`` accepts connections, ``association`` reads the messages of one, ``admission`` decides which associations
are accepted, and ``intake`` stores an instance. Status 0000 means that the instance is on disk, flushed, and recorded
in the ledger. This file connects these four files, starts them and stops them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from ssl import SSLContext

import pydicom.config

from dicomnode import log
from dicomnode.archive.store import Archive
from dicomnode.dimse.associate import AssociationRequest
from dicomnode.errors import NodeError, SettingsError, cannot_listen
from dicomnode.ids import AeTitle, SeriesId
from dicomnode.ledger.store import Ledger
from dicomnode.receive.admission import AdmissionContext, Admitted, admit
from dicomnode.receive.association import Association, Handlers, Limits
from dicomnode.receive.hosts import Hosts
from dicomnode.receive.intake import Intake, OfferedInstance
from dicomnode.receive.listener import Door, Listener, open_door
from dicomnode.receive.space import Condition, Space
from dicomnode.receive.throttle import Throttle
from dicomnode.reports import NOT_TAKEN, take_report
from dicomnode.seams import SYSTEM_CLOCK, Clock
from dicomnode.settings.models import ArchiveSettings, NodeSettings, ReceiveSettings, TlsSettings
from dicomnode.settings.peers import PeerSettings
from dicomnode.tls.identity import Identity
from dicomnode.wire import Answer, Rejection

LOGGER = logging.getLogger(__name__)

MEBIBYTE = 1 << 20
FETCHER = "pulled-by-this-node"  # in the ledger, the peer of instances fetched by DICOMweb
_LOOPBACK, _EVERYWHERE = "127.0.0.1", ("0.0.0.0", "::")  # noqa: S104 (told apart, not listened on)
ABORT_S = 2.0  # time for the aborted peers to close their side, before we close ours


@dataclass(frozen=True, slots=True, kw_only=True)
class _Guests:
    """The peers that may connect: one value, so that a request meets the peers of one settings file, never of two."""

    ae_titles: tuple[str, ...]  # titles that they may call
    peers: tuple[PeerSettings, ...]
    committers: frozenset[str]
    asked: tuple[PeerSettings, ...]  # peers that may bring what we ask them for
    hosts: Hosts

    def are_at(self, address: str) -> bool:
        return any(peer.is_near(address) for peer in self.peers) or bool(self.hosts.at(address))

    def reporting(self, address: str) -> frozenset[str]:
        """Return the peers that may report and are at this address, by their ``address`` or by their networks."""
        near = {one.name for one in self.peers if one.is_near(address)}
        return self.committers & (self.hosts.at(address) | near)


class Receiver:
    """The listening service: started once, stopped once."""

    def __init__(
        self,
        *,
        node: NodeSettings,
        receive: ReceiveSettings,
        disk: ArchiveSettings,
        peers: Sequence[PeerSettings],
        committers: Collection[str] = (),
        ledger: Ledger,
        archive: Archive,
        wake: Callable[[], None],
        tls: TlsSettings | None = None,
        identity: Identity | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Prepare the service. It calls ``wake`` when an association that stored something has ended.

        ``committers``: names of the peers that may report what they keep. ``identity``: needed where ``tls.listen`` is
        set.
        """
        self._node = node
        self._settings = receive
        self._tls = tls or TlsSettings()
        self._identity = identity
        self._clock = clock
        self._guests = self._invited(node.titles, peers, committers)
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
            idle_timeout_s=receive.idle_timeout_s,
            handshake_timeout_s=self._tls.handshake_timeout_s,
        )
        self._intake = Intake(
            archive=archive,
            ledger=ledger,
            space=self._space,
            clock=clock,
        )
        self._admission = threading.Lock()
        self._is_stopping = False
        self._throttle = Throttle(clock)
        self._listener: Listener | None = None
        self.port = 0  # on which it listens without TLS; 0: it does not, or not yet
        self.tls_port = 0

    def start(self) -> None:
        """Begin to listen. Raises SettingsError if that is not possible at the address of the settings."""
        assert self._listener is None, "started already"
        # pydicom would print the text of an invalid UID on stderr.
        pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
        handlers = Handlers(admit=self._admit, store=self._store, report=self._report, closed=self._closed)
        doors: list[Door] = []
        try:
            if self._node.listen:
                doors.append(_opened("node.listen", self._node.listen, self._node.host, self._node.port, None))
                self.port = doors[-1].port
            if self._tls.listen:
                assert self._identity is not None, "tls.listen needs a certificate"
                listening = self._identity.listening
                doors.append(_opened("tls.listen", self._tls.listen, self._tls.host, self._tls.port, listening))
                self.tls_port = doors[-1].port
        except SettingsError:
            for door in doors:
                door.socket.close()
            raise
        self._guests.hosts.look_up()
        self._listener = Listener(doors, self._limits, handlers, is_near=lambda address: self._guests.are_at(address))
        self._listener.start()
        if self.port:
            log.event(LOGGER, "listening", host=self._node.host, port=self.port)
        if self.tls_port:
            log.event(LOGGER, "listening", host=self._tls.host, port=self.tls_port, detail="TLS")

    def take(self, ae_titles: Sequence[str], peers: Sequence[PeerSettings], committers: Collection[str]) -> None:
        """Admit these peers, who may call these AE titles, from the next connection on.

        Associations that are open go on as they were admitted.
        """
        guests = self._invited(ae_titles, peers, committers)
        guests.hosts.look_up()
        self._guests = guests

    def open_series(self) -> frozenset[SeriesId]:
        """Return the series into which associations that are open now have stored; they must not be settled."""
        return frozenset(series for one in self._live() for series in list(one.series.values()))

    def associations(self) -> int:
        """Return the number of associations that are accepted and open."""
        return sum(one.peer is not None for one in self._live())

    def condition(self) -> Condition | None:
        """Return why no instance is accepted at the moment, or None, for ``status``."""
        return self._space.condition()

    def stop(self, drain_s: float) -> None:
        """Reject new associations with 2/3/1, abort those still open after ``drain_s``, and stop listening."""
        if self._listener is None:
            return
        self._is_stopping = True
        _wait(lambda: not self.associations(), drain_s)
        remaining = self._live()
        for association in remaining:
            association.dismiss()
        self._listener.close()
        _wait(lambda: not self._live(), ABORT_S)
        for association in self._live():
            association.cut()
        _wait(lambda: not self._live(), ABORT_S)
        self._listener = None
        log.event(LOGGER, "door_closed", associations=len(remaining))

    def _note(self, kind: str, detail: str) -> None:
        """Write an event for the only row of table ``node``. A full disk may prevent that."""
        try:
            self._ledger.note(kind, table="node", row=1, detail=detail)
        except NodeError as exc:
            log.event(LOGGER, "event_not_noted", level=logging.WARNING, code=exc.code, sentence=exc.sentence)

    def _live(self) -> list[Association]:
        return self._listener.live() if self._listener is not None else []

    def _invited(self, ae_titles: Sequence[str], peers: Sequence[PeerSettings], committers: Collection[str]) -> _Guests:
        # This node may bring pulled instances, too: it hands over what it fetched by DICOMweb.
        pulls = bool(self._node.pull_ae_title)
        asked = tuple(one for one in (*peers, fetcher(self._node)) if one.address) if pulls else ()
        known = (*asked, *(one for one in peers if one.name in committers))
        hosts = Hosts({one.name: one.host for one in known}, self._clock)
        return _Guests(
            ae_titles=tuple(ae_titles), peers=tuple(peers), committers=frozenset(committers), asked=asked, hosts=hosts
        )

    # The handlers: each association calls them on its own thread.

    def _admit(self, association: Association, request: AssociationRequest) -> Admitted | Rejection:
        address = association.address
        condition = self._space.condition()
        guests = self._guests
        reporting, there = guests.reporting(address), guests.hosts.at(address)
        with self._admission:  # count and accept in one step, so that two requests cannot both get the last free place
            admitted_ones = [one for one in self._live() if one.peer is not None]
            from_there = sum(one.address == address for one in admitted_ones)
            context = AdmissionContext(
                is_refusing=self._is_stopping or condition is Condition.NOT_WRITABLE,
                is_full=condition is Condition.NO_SPACE,
                is_over_limit=len(admitted_ones) >= self._limits.associations or from_there >= self._limits.per_address,
                address=address,
                reporting=reporting,
                asked=[one for one in guests.asked if one.name in there or one.is_near(address)],
                certificate=association.certificate,
            )
            admitted = admit(
                request, context, ae_titles=guests.ae_titles, peers=guests.peers,
                pull_ae_title=self._node.pull_ae_title,
            )  # fmt: skip
            if isinstance(admitted, Admitted):
                association.peer = admitted.peer
        if isinstance(admitted, Rejection) and (
            count := self._throttle.count(f"{address} {admitted.code} {admitted.sentence}")
        ):
            presented = association.certificate
            log.event(
                LOGGER,
                "association_rejected",
                level=logging.WARNING,
                code=admitted.code,
                sentence=admitted.sentence,
                address=address,
                calling=request.calling_as_sent,
                called=request.called_as_sent,
                detail=f"certificate with SHA-256 {presented.fingerprint}" if presented else None,
                count=count,
            )
        return admitted

    def _store(self, association: Association, offer: OfferedInstance) -> Answer:
        """Border: return a status for the C-STORE, whatever exception occurs."""
        try:
            return self._intake.store(offer, association.series)
        except Exception:  # noqa: BLE001 (border: no traceback to the peer)
            log.failure(LOGGER, "store_failed")
            return Answer.FAILED

    def _report(self, peer: str, dataset: bytes | bytearray, transfer_syntax: str) -> int:
        """Border: return a status for the N-EVENT-REPORT, whatever exception occurs."""
        try:
            return take_report(self._ledger, dataset, transfer_syntax, peer=peer)
        except Exception:  # noqa: BLE001 (border: no traceback to the peer)
            log.failure(LOGGER, "report_failed")
            return NOT_TAKEN

    def _closed(self, association: Association) -> None:
        """Log and record that an association has ended. Its series count as open until this returns."""
        if association.peer is None:
            self._log_unadmitted(association)
            return
        series = sorted(set(association.series.values()))
        log.event(
            LOGGER,
            "association_ended",
            level=logging.WARNING if association.is_ended_by_us else logging.INFO,
            peer=association.peer.name,
            state="released" if association.is_released else "aborted",
            detail=association.ending or None,
            instances=association.stored,
            seconds=time.monotonic() - association.begun_s,
        )
        if not series:
            return
        if not association.is_released:
            try:
                self._ledger.intake.mark_aborted(series)
            except NodeError as exc:
                # The series then settles after the usual quiet time instead of the longer one.
                log.event(LOGGER, "abort_not_noted", level=logging.ERROR, sentence=exc.sentence, code=exc.code)
        self._wake()

    def _log_unadmitted(self, association: Association) -> None:
        """Log the end of a connection that was never admitted, if we ended it; a rejection has its own line."""
        if association.is_rejected or not association.is_ended_by_us or self._is_stopping:
            return
        if count := self._throttle.count(f"{association.address} {association.ending}"):
            log.event(
                LOGGER,
                "association_ended",
                level=logging.WARNING,
                address=association.address,
                state="aborted",
                detail=association.ending,
                count=count,
            )


def fetcher(node: NodeSettings) -> PeerSettings:
    """Return this node as the peer that hands over what it fetched, at the address where it listens without TLS."""
    host = node.host if node.listen else _LOOPBACK
    host = _LOOPBACK if host in _EVERYWHERE else host
    bracketed = f"[{host}]" if ":" in host else host
    port = node.port if node.listen else 0
    return PeerSettings(name=FETCHER, ae_title=AeTitle(node.pull_ae_title), address=f"{bracketed}:{port}")


def _opened(key: str, address: str, host: str, port: int, tls: Callable[[], SSLContext] | None) -> Door:
    """Listen at the address of a key. Raises SettingsError if that is not possible."""
    try:
        return open_door(host, port, tls=tls)
    except OSError as exc:
        raise cannot_listen(key, address, exc) from exc


def _wait(condition: Callable[[], bool], limit_s: float) -> None:
    """Poll until the condition holds or the time is over: the end of a thread cannot be waited for otherwise."""
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
