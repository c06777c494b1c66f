"""The way to each peer: DIMSE where it has an ``address``, STOW-RS where it has a ``url``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from dicomnode.dimse.outcome import RequestOutcome
from dicomnode.push.carrier import InstanceFormat, Session
from dicomnode.push.dimse_carrier import DimseCarrier, carrier_of
from dicomnode.push.stow_carrier import StowCarrier
from dicomnode.settings.models import Settings
from dicomnode.settings.peers import PeerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Carriers:
    """A carrier for all peers: STOW-RS for one with a ``url``, else DIMSE."""

    dimse: DimseCarrier
    stow: StowCarrier

    def open(self, peer: PeerSettings, formats: Collection[InstanceFormat]) -> Session | RequestOutcome:
        """Open a session on the peer's way, or say why there is none."""
        return (self.stow if peer.url else self.dimse).open(peer, formats)

    def echo(self, peer: PeerSettings) -> RequestOutcome:
        """Does the peer answer? C-ECHO, or a search by QIDO-RS that finds nothing."""
        return self.stow.server(peer).echo() if peer.url else self.dimse.echo(peer)


def carriers_of(settings: Settings) -> Carriers:
    """Return the carriers for a command. Raises SettingsError where a file of ``[tls]`` cannot be used."""
    return Carriers(dimse=carrier_of(settings), stow=StowCarrier(settings.push, settings.tls))
