"""Check the peers: which of them may send to this node, and to which of them it sends."""

from __future__ import annotations

from dicomnode.checks.row import CheckRow, Mark
from dicomnode.errors import SettingsError
from dicomnode.push.carriers import carriers_of
from dicomnode.settings.models import Settings
from dicomnode.settings.peers import PeerSettings


def check_settings(settings: Settings) -> CheckRow:
    """Say whom the node listens to and whom it sends to; warn where nothing is delivered."""
    return CheckRow(
        what="settings",
        mark=Mark.OK if any(settings.is_delivered_to(peer.name) for peer in settings.peer) else Mark.WARN,
        sentence=introduction(settings, *_configured_ports(settings)),
    )


def introduction(settings: Settings, port: int, tls_port: int = 0) -> str:
    """Say on which addresses the node listens (port 0: not) and to which peers it sends."""
    senders = ", ".join(peer.name for peer in settings.peer if peer.networks) or "nobody"
    receivers = ", ".join(
        peer.name for peer in settings.peer if peer.is_sent_to and settings.is_delivered_to(peer.name)
    )
    doors = [f"{settings.node.host}:{port}"] if settings.node.listen else []
    doors += [f"{settings.tls.host}:{tls_port} with TLS"] if settings.tls.listen else []
    where = f"Listens on {' and on '.join(doors)} as {' and as '.join(settings.node.titles)} to {senders}"
    if receivers:
        return f"{where}; sends to {receivers}."
    return (
        f"{where}; nothing is delivered until the settings name a peer with an address or url and a rule that delivers "
        "to it."
    )


def _configured_ports(settings: Settings) -> tuple[int, int]:
    return settings.node.port if settings.node.listen else 0, settings.tls.port if settings.tls.listen else 0


def check_peer(settings: Settings, peer: PeerSettings, *, with_echo: bool) -> CheckRow:
    """Say in which ways a peer may send and is sent to; ``with_echo`` asks one that is sent to for an answer."""
    what = f"peer {peer.name}"
    ways = []
    if peer.networks:
        how = ", with TLS and its certificate only" if peer.is_bound else ""
        ways.append(f"may send as {peer.ae_title} from {', '.join(map(str, peer.networks))}{how}")
    if peer.address:
        ways.append(f"is sent to as {peer.ae_title} at {peer.address}{' with TLS' if peer.tls else ''}")
    if peer.url:
        ways.append(f"is sent to by DICOMweb at {peer.url}")
    sentence = f"It {' and '.join(ways)}."
    service = "DICOMweb" if peer.url else "C-ECHO"
    if peer.is_sent_to and with_echo:
        try:
            outcome = carriers_of(settings).echo(peer)
        except SettingsError as exc:  # fault of a file of [tls], which has a line of its own, or of a file of the peer
            return CheckRow(what=what, mark=Mark.FAIL, sentence=f"{sentence} {exc.sentence}", hint=exc.hint)
        if outcome.status != 0:
            return CheckRow(
                what=what, mark=Mark.FAIL, sentence=f"{sentence} {service}: {outcome.sentence}", hint=outcome.hint
            )
        sentence = f"{sentence} It answered {'a search' if peer.url else 'a C-ECHO'}."
    if peer.is_sent_to and not settings.is_delivered_to(peer.name):
        return CheckRow(what=what, mark=Mark.WARN, sentence=f"{sentence} No rule delivers to it.")
    if peer.committer:
        sentence = f"{sentence} {_registration(settings, peer)}"
    if peer.networks and settings.tls.listen and not settings.node.listen and not peer.is_bound:
        return CheckRow(
            what=what,
            mark=Mark.WARN,
            sentence=f"{sentence} Every certificate of an authority in tls.ca may come in as this peer.",
            hint="Name its certificate in `peer.fingerprints` or `peer.certificate_names`.",
        )
    return CheckRow(what=what, mark=Mark.OK, sentence=sentence)


def _registration(settings: Settings, peer: PeerSettings) -> str:
    """Say what to register at the committer of this peer, so that its reports arrive here."""
    asked = "It" if peer.committer == peer.name else f"Peer {peer.committer}"
    if peer.committer not in settings.committers:
        return f"{asked} is asked for storage commitment by DICOMweb; without it, what it got is looked up by QIDO-RS."
    ports = " or ".join(str(port) for port in _configured_ports(settings) if port)
    return (
        f"{asked} is asked for storage commitment: for its reports, {settings.node.ae_title} is to be registered there "
        f"with the address of this machine and port {ports}."
    )
