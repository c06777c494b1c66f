"""A prover in a process of its own, to be killed: ``main([folder, url])`` ends when the delivery is committed."""

from __future__ import annotations

from pathlib import Path

from dicomnode.settings.peers import PeerSettings
from tests.support.proving_node import PATIENT, ProvingNode


def main(arguments: list[str]) -> None:
    """Open the folder of a ``Node`` as a restart does, deliver to ``pacs`` by DICOMweb and ask it for proof."""
    node = ProvingNode(Path(arguments[0]))
    node.serve(PeerSettings(name="pacs", url=arguments[1]), push=PATIENT)
    node.wait_for_proof("committed")
    node.close()
