"""Calls that come in from the peer during a rehearsal: a report on our request for commitment, a C-ECHO, or a mistake.

Where the service runs, it has the ports: the door reads in the ledger which reports it got. Else the door listens
itself, at the addresses of the settings, and admits the same peers as the service, for C-ECHO and reports only. A peer
that tries to store something is asked to try again later (2/3/1), so no image is lost by a rehearsal.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Protocol

from dicomnode.dimse.associate import AssociationRequest
from dicomnode.dimse.items import abstract_syntax
from dicomnode.dimse.proofs import read_report
from dicomnode.errors import NodeError
from dicomnode.ledger.engine import require_usable
from dicomnode.ledger.queries import open_reader
from dicomnode.ledger.store import open_ledger
from dicomnode.receive.admission import AdmissionContext, Admitted, admit
from dicomnode.receive.association import Association, Handlers, Limits
from dicomnode.receive.hosts import Hosts
from dicomnode.receive.intake import OfferedInstance
from dicomnode.receive.listener import Door as Opened
from dicomnode.receive.listener import Listener, open_door
from dicomnode.reports import NOT_TAKEN, TAKEN
from dicomnode.settings.models import Settings
from dicomnode.tls.identity import Identity
from dicomnode.wire import COMMITMENT, CONGESTED, VERIFICATION, Answer, Rejection

POLL_S = 0.1
PDU_BYTES = 1 << 17
INSTANCE_BYTES = 1 << 22  # the longest report that is read
CLOSE_S = 2.0  # for associations that are open when the rehearsal ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """A connection that came in during the rehearsal."""

    address: str
    peer: str  # the name of the peer; empty: nobody that the settings admit
    sentence: str  # why it was turned away; empty: it was admitted
    fingerprint: str = ""  # of the certificate that it presented


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A report on the request of this rehearsal: the peer, and the numbers of instances committed and denied."""

    peer: str
    committed: int
    denied: int


class Door(Protocol):
    """The place where calls of the peer come in."""

    sentence: str  # where it is, for people

    def expect(self, transaction_uid: str) -> None:
        """Take note of a request that is about to be sent."""

    def report(self) -> Told | None:
        """Return the report on that request; None until it has come."""

    def visits(self) -> Sequence[Visit]:
        """Return all connections that came so far, as far as the door learns of them."""

    @property
    def sees_visits(self) -> bool:
        """Does the door learn of connections that bring no report?"""

    def close(self) -> None:
        """Close the door."""


def wait(is_enough: Callable[[], bool], until_s: float) -> None:
    """Wait until something has come, or until this moment of the monotonic clock."""
    while not is_enough() and time.monotonic() < until_s:
        time.sleep(POLL_S)


def open_for(settings: Settings, identity: Identity | None, by: str) -> Door:
    """Open the door that this machine allows at this moment. ``by``: the person who rehearses, for the ledger."""
    opened: list[Opened] = []
    try:
        if settings.node.listen:
            opened.append(open_door(settings.node.host, settings.node.port, tls=None))
        if settings.tls.listen:
            assert identity is not None, "the settings demand the files of tls.listen"
            opened.append(open_door(settings.tls.host, settings.tls.port, tls=identity.listening))
    except OSError as exc:
        for one in opened:
            one.socket.close()
        return _not_ours(settings, exc, by)
    return OwnDoor(settings, opened)


def _not_ours(settings: Settings, error: OSError, by: str) -> Door:
    if error.errno != errno.EADDRINUSE:
        return ClosedDoor(f"this machine cannot listen at the addresses of the settings ({error.strerror})")
    try:
        require_usable(settings.ledger_url, is_folder_made=True)
        with closing(open_reader(settings.ledger_url)) as reader:
            boot = reader.status().boot
    except NodeError as exc:
        return ClosedDoor(f"a program listens there already, and the ledger cannot be read ({exc.sentence})")
    if boot is None or boot.ended_at is not None:
        return ClosedDoor("another program than the node listens there already")
    return ServiceDoor(settings, by)


class OwnDoor:
    """A door at which the rehearsal listens itself, since no service does."""

    sees_visits = True

    def __init__(self, settings: Settings, opened: Sequence[Opened]) -> None:
        self.sentence = "the rehearsal listened itself, since the service does not run"
        self._settings = settings
        self._hosts = Hosts({one.name: one.host for one in settings.peer if one.name in settings.committers})
        self._hosts.look_up()
        self._transaction_uid = ""
        self._told: list[Told] = []
        self._visits: list[Visit] = []
        receive, tls = settings.receive, settings.tls
        limits = Limits(
            pdu_bytes=PDU_BYTES,
            instance_bytes=INSTANCE_BYTES,
            associations=receive.max_associations,
            per_address=receive.max_per_address,
            associate_timeout_s=receive.associate_timeout_s,
            pdu_timeout_s=receive.pdu_timeout_s,
            idle_timeout_s=receive.idle_timeout_s,
            handshake_timeout_s=tls.handshake_timeout_s,
        )
        handlers = Handlers(admit=self._admit, store=_store_nothing, report=self._report, closed=self._closed)
        self._listener = Listener(opened, limits, handlers, is_near=lambda _address: True)
        self._listener.start()

    def expect(self, transaction_uid: str) -> None:
        """Take note of a request that is about to be sent."""
        self._transaction_uid = transaction_uid

    def report(self) -> Told | None:
        """Return the report on that request; None until it has come."""
        return self._told[0] if self._told else None

    def visits(self) -> Sequence[Visit]:
        """Return all connections that came so far."""
        return tuple(self._visits)

    def close(self) -> None:
        """Stop listening, and end what is open."""
        for association in self._listener.live():
            association.dismiss()
        self._listener.close()
        wait(lambda: not self._listener.live(), time.monotonic() + CLOSE_S)
        for association in self._listener.live():
            association.cut()

    def _admit(self, association: Association, request: AssociationRequest) -> Admitted | Rejection:
        address, peers = association.address, self._settings.peer
        committers = self._settings.committers
        near = {one.name for one in peers if one.name in committers and one.is_near(address)}
        context = AdmissionContext(
            is_refusing=False,
            is_over_limit=False,
            address=address,
            reporting=self._hosts.at(address) | near,
            certificate=association.certificate,
        )
        admitted = admit(request, context, ae_titles=self._settings.node.titles, peers=peers)
        presented = association.certificate.fingerprint if association.certificate else ""
        if isinstance(admitted, Rejection):
            titles = f"it calls itself {request.calling_as_sent}, and us {request.called_as_sent}"
            sentence = f"{admitted.code}, {admitted.sentence} ({titles})"
            self._visits.append(Visit(address=address, peer="", sentence=sentence, fingerprint=presented))
            return admitted
        if any(abstract_syntax(one) not in (VERIFICATION, COMMITMENT) for one in request.tidied.contexts.values()):
            return CONGESTED
        association.peer = admitted.peer
        self._visits.append(Visit(address=address, peer=admitted.peer.name, sentence="", fingerprint=presented))
        return Admitted(peer=admitted.peer, may_store=False, reporter=admitted.reporter)

    def _report(self, peer: str, dataset: bytes | bytearray, transfer_syntax: str) -> int:
        report = read_report(dataset, transfer_syntax)
        if report is None or report.transaction_uid != self._transaction_uid:
            return NOT_TAKEN
        self._told.append(Told(peer=peer, committed=len(report.committed), denied=len(report.failed)))
        return TAKEN

    def _closed(self, association: Association) -> None:
        if association.peer is None and not association.is_rejected and association.ending:
            self._visits.append(Visit(address=association.address, peer="", sentence=association.ending))


def _store_nothing(_association: Association, _offer: OfferedInstance) -> Answer:
    return Answer.NO_RESOURCES


class ServiceDoor:
    """A door at which the running service listens; it writes into the ledger which reports it got."""

    sees_visits = False

    def __init__(self, settings: Settings, by: str) -> None:
        self.sentence = "the running service took what came in"
        self._url = settings.ledger_url
        self._by = by
        self._transaction_uid = ""
        self._open = ExitStack()
        self._reader = self._open.enter_context(closing(open_reader(self._url)))

    def expect(self, transaction_uid: str) -> None:
        """Record the request, so that the service recognises the report. Raises NodeError where that is impossible."""
        with closing(open_ledger(self._url)) as ledger:
            ledger.commitments.ask_in_rehearsal(transaction_uid, self._by)
        self._transaction_uid = transaction_uid

    def report(self) -> Told | None:
        """Return the report on that request; None until the service has it."""
        found = self._reader.rehearsal_report(self._transaction_uid) if self._transaction_uid else None
        return None if found is None else Told(peer=found.peer, committed=found.committed, denied=found.denied)

    def visits(self) -> Sequence[Visit]:
        """Return a visit of the peer that reported; the ledger has no record of a C-ECHO."""
        told = self.report()
        return () if told is None else (Visit(address="", peer=told.peer, sentence=""),)

    def close(self) -> None:
        """Close the ledger."""
        self._open.close()


class ClosedDoor:
    """A door that is closed: nobody listens for the rehearsal."""

    sees_visits = False

    def __init__(self, why: str) -> None:
        self.sentence = why

    def expect(self, transaction_uid: str) -> None:
        """Do nothing: nobody can take a report on the request."""

    def report(self) -> Told | None:
        """Return None: no report can come."""
        return None

    def visits(self) -> Sequence[Visit]:
        """Return nothing: nobody can connect."""
        return ()

    def close(self) -> None:
        """Do nothing: nothing is open."""
