"""A sender in a process of its own, to be killed: ``main([folder, url])`` ends when its delivery is sent."""

from __future__ import annotations

from pathlib import Path

from dicomnode.push.carriers import carriers_of
from dicomnode.settings.load import parse
from dicomnode.settings.peers import PeerSettings
from tests.support.due_delivery import SWIFT, Node


def main(arguments: list[str]) -> None:
    """Open the folder of a ``Node`` as a restart does, and deliver to ``pacs`` by DICOMweb."""
    node = Node(Path(arguments[0]))
    node.push(PeerSettings(name="pacs", url=arguments[1]), SWIFT, carriers_of(parse({})))
    node.wait_for("sent")
    node.close()
