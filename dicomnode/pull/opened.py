"""A pull made ready: the settings allow it now, our door is open, no other pull from this peer runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from dicomnode.errors import PeerError, SettingsError
from dicomnode.pull.dimse_source import DimseSource
from dicomnode.pull.fetch import only_one, refuse_in
from dicomnode.pull.handover import Handover
from dicomnode.pull.source import Source
from dicomnode.pull.web_source import WebSource
from dicomnode.push.dimse_carrier import carrier_of
from dicomnode.receive.scp import fetcher
from dicomnode.seams import SYSTEM_CLOCK
from dicomnode.settings.models import Settings
from dicomnode.settings.peers import PeerSettings
from dicomnode.stow.server import Server


@contextmanager
def opened(
    settings: Settings, peer: PeerSettings, *, now: Callable[[], datetime] = SYSTEM_CLOCK.now
) -> Iterator[Source]:
    """Ask a peer, and have what it brings received by the running service.

    Raises SettingsError where a key is missing, InputError where a pull is not allowed now, PeerError where the service
    is away.
    """
    node = settings.node
    if not (node.pull_ae_title and node.listen):
        raise SettingsError(
            "Nothing can be pulled: node.pull_ae_title and node.listen are needed.",
            hint="Set both, restart the service, and register that title with our address and port at the peer.",
        )
    refuse_in(peer.pull_blackout, peer.name, now())
    ours = carrier_of(settings)
    myself = fetcher(node)
    door = type(ours)(ae_title=myself.ae_title, push=settings.push)
    if (outcome := door.echo(myself)).status != 0:
        raise PeerError(
            f"The node does not answer at {myself.address} as {myself.ae_title}: {outcome.sentence}",
            hint="Start `dicomnode serve`, or restart it after node.pull_ae_title was set.",
        )
    with only_one(node.data, peer.name):
        handover, most_bytes = Handover(carrier=door, myself=myself), settings.receive.max_instance_mb << 20
        source: Source
        if peer.url:
            source = WebSource(Server(peer, settings.push, settings.tls, most_bytes=most_bytes), handover)
        else:
            source = DimseSource(ours, peer, handover, most_bytes=most_bytes)
        try:
            yield source
        finally:
            source.close()
