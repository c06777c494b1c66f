"""The hand-over sheet of one peer: what each team has to have done, with the answer of the rehearsal beside it.

In: the settings and the steps. Out: lines. A line whose step was not reached is open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from dicomnode.rehearsal.findings import Mark, SheetLine, Side, Step, Topic
from dicomnode.rehearsal.phantom import PATIENT_NAME
from dicomnode.settings.models import Settings
from dicomnode.settings.peers import PeerSettings


class _Line(Protocol):
    """Makes a line whose mark is the worst of some steps."""

    def __call__(self, side: Side, item: str, *topics: Topic) -> SheetLine: ...


_FROM_WORST = (Mark.FAIL, Mark.OPEN, Mark.WARN, Mark.OK)


def hand_over(
    settings: Settings, peer: PeerSettings, steps: Sequence[Step], *, our_address: str, deletes: str
) -> tuple[SheetLine, ...]:
    """Fill the sheet in. ``deletes``: the Study Instance UID of test images that lie at the peer; empty: none do."""
    marks = {step.what: step.mark for step in steps}

    def line(side: Side, item: str, *topics: Topic) -> SheetLine:
        found = [marks.get(topic, Mark.OPEN) for topic in topics]
        return SheetLine(side=side, mark=min(found, key=_FROM_WORST.index), item=item)

    lines = (
        [*_of_server(peer, line), *_of_ours_by_dicomweb(peer, line)]
        if peer.url
        else [*_of_pacs(settings, peer, our_address, line), *_of_ours(settings, peer, line)]
    )
    if deletes:
        item = f"delete the study {deletes} of {PATIENT_NAME}"
        lines.insert(0, SheetLine(side=Side.PACS, mark=Mark.OPEN, item=item))
    return tuple(sorted(lines, key=lambda one: one.side is Side.OURS))


def ports(settings: Settings) -> str:
    """Name the ports on which the service listens, in words."""
    found = [f"{settings.node.port}"] if settings.node.listen else []
    found += [f"{settings.tls.port} (TLS)"] if settings.tls.listen else []
    return " or ".join(found)


def _of_pacs(settings: Settings, peer: PeerSettings, our_address: str, line: _Line) -> Iterator[SheetLine]:
    ours = settings.node.ae_title
    where = our_address or "the address of our machine"
    yield line(Side.PACS, f"the PACS answers at {peer.address} as {peer.ae_title}", Topic.CONNECTION, Topic.ASSOCIATION)
    yield line(Side.PACS, f"{ours} with {where} is registered, and may use C-ECHO", Topic.ASSOCIATION)
    yield line(
        Side.PACS, f"{ours} may store MR Image Storage, explicit or implicit VR little endian", Topic.CONTEXTS,
        Topic.IMAGES,
    )  # fmt: skip
    yield line(Side.PACS, f"{ours} may ask by Study Root C-FIND at the level IMAGE", Topic.QUERY)
    if peer.committer is not None:
        who = "the PACS" if peer.committer == peer.name else peer.committer
        item = f"{who} offers storage commitment to {ours}, and reports to {where}, port {ports(settings)}"
        yield line(Side.PACS, item, Topic.COMMITMENT)
    if peer.tls:
        yield line(Side.PACS, "our certificate or its authority is known at the PACS", Topic.TLS)
    yield line(Side.PACS, "Nagle's algorithm is off (dcmtk, Orthanc: TCP_NODELAY=1)", Topic.NAGLE)
    yield line(Side.PACS, "the clock of the PACS is set by the hospital's time service", Topic.CLOCKS)


def _of_ours(settings: Settings, peer: PeerSettings, line: _Line) -> Iterator[SheetLine]:
    yield line(Side.OURS, f"a rule delivers to {peer.name}", Topic.SETTINGS)
    yield line(Side.OURS, f"`address` {peer.address} is what the PACS team says", Topic.NAME, Topic.CONNECTION)
    yield line(Side.OURS, f"`ae_title` {peer.ae_title} is the PACS's, letter by letter", Topic.ASSOCIATION)
    if peer.tls:
        yield line(Side.OURS, "`tls.ca` and `peer.fingerprints` know the certificate of the PACS", Topic.TLS)
    if peer.committer is not None or peer.networks:
        item = f"the firewall lets the PACS in at port {ports(settings)} of our machine"
        yield line(Side.OURS, item, Topic.CALL_BACK)
    yield line(Side.OURS, "our clock is set by the hospital's time service", Topic.CLOCKS)


def _of_server(peer: PeerSettings, line: _Line) -> Iterator[SheetLine]:
    yield line(Side.PACS, f"the server answers at {peer.url}", Topic.CONNECTION, Topic.SERVICE)
    yield line(Side.PACS, "the node may store MR Image Storage by STOW-RS", Topic.IMAGES)
    yield line(Side.PACS, "the node may search for studies, series and instances by QIDO-RS", Topic.QUERY)
    if peer.committer is not None:
        who = "the server" if peer.committer == peer.name else peer.committer
        yield line(Side.PACS, f"{who} offers storage commitment (few servers do)", Topic.COMMITMENT)
    yield line(Side.PACS, "the clock of the server is set by the hospital's time service", Topic.CLOCKS)


def _of_ours_by_dicomweb(peer: PeerSettings, line: _Line) -> Iterator[SheetLine]:
    yield line(Side.OURS, f"a rule delivers to {peer.name}", Topic.SETTINGS)
    yield line(Side.OURS, f"`url` {peer.url} is what the PACS team says", Topic.NAME, Topic.CONNECTION, Topic.SERVICE)
    if peer.url.startswith("https:"):
        known = "`peer.ca` has" if peer.ca else "this machine trusts"
        yield line(Side.OURS, f"{known} the authority of the server's certificate", Topic.TLS)
    if peer.token_file:
        yield line(Side.OURS, "`peer.token_file` holds a token that the server takes", Topic.SERVICE)
    if peer.networks:
        yield line(Side.OURS, "the firewall lets the PACS in at our machine", Topic.CALL_BACK)
    yield line(Side.OURS, "our clock is set by the hospital's time service", Topic.CLOCKS)
