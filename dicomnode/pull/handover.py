"""Hands instances that were fetched by C-GET or DICOMweb over to the node's own door, under ``node.pull_ae_title``.

The door alone writes the archive. An instance goes there from a file of PS3.10 that is deleted then.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from dicomnode import wire
from dicomnode.dimse.outcome import RequestOutcome, RequestReason
from dicomnode.push.dimse_carrier import DimseCarrier
from dicomnode.push.send_files import send_files
from dicomnode.settings.peers import PeerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """Sends fetched instances to our own door."""

    carrier: DimseCarrier  # it calls under ``node.pull_ae_title``
    myself: PeerSettings

    def store(self, *parts: bytes | bytearray) -> RequestOutcome:
        """C-STORE a file, whose parts follow each other, at our door."""
        with tempfile.TemporaryDirectory(prefix="dicomnode-pull-") as folder:
            path = Path(folder) / "instance.dcm"
            with path.open("wb") as file:
                file.writelines(parts)
            sent = [one.outcome for one in send_files(self.carrier, self.myself, [path])]
        refused = RequestOutcome(reason=RequestReason.ANSWERED, status=wire.Answer.NOT_UNDERSTOOD)
        return sent[0] if sent else refused
