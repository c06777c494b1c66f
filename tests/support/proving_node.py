"""A node that delivers, asks its peers for proof, and takes their reports."""

from __future__ import annotations

from pathlib import Path

from dicomnode.ids import AeTitle
from dicomnode.ledger.views import DeliveryLine
from dicomnode.push.carriers import Carriers
from dicomnode.push.dimse_carrier import DimseCarrier
from dicomnode.push.peer_loop import PeerLoop
from dicomnode.push.proof_loop import ProofLoop
from dicomnode.push.stow_carrier import StowCarrier
from dicomnode.push.witness import Witness
from dicomnode.receive.scp import Receiver
from dicomnode.settings.models import ArchiveSettings, NodeSettings, PushSettings, ReceiveSettings, TlsSettings
from dicomnode.settings.peers import PeerSettings
from tests.support.due_delivery import SWIFT, Node
from tests.support.wait import wait_until

SOON = SWIFT.model_copy(update={"commit_wait_s": 1.0})
PATIENT = SWIFT.model_copy(update={"commit_wait_s": 600.0})


class ProvingNode(Node):
    """Delivers, asks for proof, and has a receiver for reports."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.proofs: list[ProofLoop] = []
        self._receiver: Receiver | None = None

    def serve(self, *peers: PeerSettings, push: PushSettings = PATIENT) -> None:
        """Start a receiver, and both loops of each peer."""
        names = {peer.name: peer for peer in peers}
        self._receiver = Receiver(
            node=NodeSettings(listen="127.0.0.1:0"), receive=ReceiveSettings(), disk=ArchiveSettings(), peers=peers,
            committers=[one.committer for one in peers if one.committer and names[one.committer].address],
            ledger=self.ledger, archive=self.archive,
            wake=lambda: None,
        )  # fmt: skip
        self._receiver.start()
        dimse = DimseCarrier(ae_title=AeTitle("DICOMNODE"), push=push)
        carrier = Carriers(dimse=dimse, stow=StowCarrier(push, TlsSettings()))
        for peer in peers:
            loop = PeerLoop(peer, push, self.ledger, self.archive, "test", carrier=carrier)
            if peer.committer is not None:
                proof = ProofLoop(
                    peer, names[peer.committer], push, self.ledger, self.archive, witness=Witness(carrier)
                )
                proof.start()
                self.proofs.append(proof)
                loop = PeerLoop(peer, push, self.ledger, self.archive, "test", carrier=carrier, sent=proof.wake)
            loop.start()
            self._loops.append(loop)

    @property
    def address(self) -> tuple[str, int]:
        """The address at which the node takes reports."""
        assert self._receiver is not None
        return "127.0.0.1", self._receiver.port

    def close(self) -> None:
        for proof in self.proofs:
            assert proof.stop(10), "the thread of a proof did not end"
        if self._receiver is not None:
            self._receiver.stop(1)
        super().close()

    def wait_for_proof(self, proof: str, peer: str = "pacs", limit_s: float = 60.0) -> DeliveryLine:
        """The delivery to a peer, once it has the proof."""
        wait_until(lambda: self.delivery(peer).proof == proof, limit_s, f"the delivery is {proof}")
        return self.delivery(peer)

    def wait_for_request(self, state: str, peer: str = "pacs") -> None:
        wait_until(lambda: self.delivery(peer).commitment == state, 60, f"the request is {state}")
