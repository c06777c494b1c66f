"""The threads that deliver to the peers and prove the deliveries: one of each kind a peer, as the settings say now.

A new peer gets its threads, a changed one goes on with the new settings from its next delivery on, and those of a peer
that is gone end after the delivery that is being sent. No association is broken off for it. What is due to a peer that
is gone stays in the ledger, where `status` and the lists name it with the reason ``no_peer``.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from dicomnode import log
from dicomnode.archive.store import Archive
from dicomnode.errors import LedgerError
from dicomnode.ledger.store import Ledger
from dicomnode.push.carriers import Carriers
from dicomnode.push.identity import PatientQuery
from dicomnode.push.peer_loop import PeerLoop
from dicomnode.push.proof_loop import ProofLoop
from dicomnode.push.witness import Witness
from dicomnode.seams import SYSTEM_CLOCK, Clock
from dicomnode.settings.models import PushSettings
from dicomnode.settings.peers import PeerSettings

LOGGER = logging.getLogger(__name__)


class PushLoops:
    """All loops of the node. One thread calls ``take``; any thread may call ``wake``."""

    def __init__(self, ledger: Ledger, archive: Archive, owner: str, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._ledger = ledger
        self._archive = archive
        self._owner = owner
        self._clock = clock
        self._loops: dict[str, PeerLoop] = {}  # by the name of the peer
        self._proofs: dict[str, ProofLoop] = {}
        self._retired: list[PeerLoop | ProofLoop] = []

    @property
    def names(self) -> Counter[str]:
        """Count the threads that run as long as their peer is in the settings, by their names."""
        return Counter([f"push-{name}" for name in self._loops] + [f"proof-{name}" for name in self._proofs])

    def take(self, peers: Sequence[PeerSettings], push: PushSettings, carriers: Carriers) -> None:
        """Deliver to these peers, and have what they got proven, from now on."""
        self._retired = [one for one in self._retired if one.is_alive]
        named = {peer.name: peer for peer in peers}
        reached = {peer.name: peer for peer in peers if peer.is_sent_to}
        proven = {name: peer.committer for name, peer in reached.items() if peer.committer is not None}
        for name in self._proofs.keys() - proven.keys():
            self._retire(self._proofs.pop(name))
        for name in self._loops.keys() - reached.keys():
            self._retire(self._loops.pop(name))
        for name, committer in proven.items():
            self._prove(reached[name], named[committer], push, carriers)
        for peer in reached.values():
            self._deliver(peer, push, carriers)
        try:
            self._ledger.commitments.give_up_all(proven)
        except LedgerError as exc:  # what nobody asks for any more is given up at the next start
            log.event(LOGGER, "event_not_noted", level=logging.WARNING, code=exc.code, sentence=exc.sentence)

    def wake(self) -> None:
        """Look into the ledger now, because a job is done."""
        for loop in list(self._loops.values()):
            loop.wake()

    def stop(self, limit_s: float) -> None:
        """Stop all of them at once, as each does: ten peers that hang take no longer than one."""
        loops = [*self._loops.values(), *self._proofs.values(), *self._retired]
        at_once([partial(loop.stop, limit_s) for loop in loops if loop.is_alive])

    def _deliver(self, peer: PeerSettings, push: PushSettings, carriers: Carriers) -> None:
        identity = PatientQuery(peer, Witness(carriers))
        if (loop := self._loops.get(peer.name)) is not None:
            loop.take(peer, push, carriers, identity)
            return
        loop = PeerLoop(
            peer, push, self._ledger, self._archive, self._owner, carrier=carriers, identity=identity,
            sent=partial(self._sent, peer.name),
        )  # fmt: skip
        loop.start()
        self._loops[peer.name] = loop

    def _prove(self, peer: PeerSettings, committer: PeerSettings, push: PushSettings, carriers: Carriers) -> None:
        witness = Witness(carriers)
        if (loop := self._proofs.get(peer.name)) is not None:
            loop.take(peer, committer, push, witness)
            return
        loop = ProofLoop(
            peer, committer, push, self._ledger, self._archive, witness=witness, clock=self._clock
        )  # fmt: skip
        loop.start()
        self._proofs[peer.name] = loop

    def _retire(self, loop: PeerLoop | ProofLoop) -> None:
        loop.retire()
        self._retired.append(loop)

    def _sent(self, peer: str) -> None:
        if (loop := self._proofs.get(peer)) is not None:
            loop.wake()


def at_once(stops: Sequence[Callable[[], object]]) -> None:
    """Call all of these functions at the same time, and wait until all have returned."""
    stopping = [threading.Thread(target=stop, name="stop") for stop in stops]
    for thread in stopping:
        thread.start()
    for thread in stopping:
        thread.join()
