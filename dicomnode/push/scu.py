"""One association to one peer: instances go out byte for byte, and what came of it comes back as a value.

Nothing here raises for what a peer does or fails to do: every ending of an association and of a C-STORE is an
``Outcome`` with its ``Reason``. What follows from a status is not decided here (``wire.STATUSES``, ``peer_loop``).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID
from pynetdicom.dsutils import encode

from dicomnode import log, wire
from dicomnode.dimse.associate import Proposal
from dicomnode.dimse.associate import associate as associate_with
from dicomnode.dimse.outcome import Outcome, Reason
from dicomnode.dimse.requestor import Requestor
from dicomnode.ids import AeTitle
from dicomnode.imaging.headers import name_of
from dicomnode.imaging.representation import MALFORMED, misfit_in
from dicomnode.part10 import read_meta
from dicomnode.settings import PeerSettings, PushSettings

LOGGER = logging.getLogger(__name__)

RELEASE_TIMEOUT_S = 10.0  # NODE 2.1
OFFERS_PER_ASSOCIATION = wire.MAXIMUM_CONTEXTS // 2  # each may bring implicit little endian along


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Offer:
    """What an instance needs from the peer: its SOP class in its transfer syntax."""

    sop_class_uid: str
    transfer_syntax_uid: str


_VERIFICATION = Offer(sop_class_uid=wire.VERIFICATION, transfer_syntax_uid=wire.IMPLICIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class SentFile:
    """What came of one file of ``send_files``."""

    path: Path
    outcome: Outcome


class Link:
    """An established association. One thread uses it; only ``abort`` may come from another."""

    def __init__(self, requestor: Requestor, *, peer: str) -> None:
        """``peer``: its name, for the log."""
        self._peer = peer
        self._requestor = requestor
        self._context_ids = {
            Offer(sop_class_uid=context.abstract_syntax, transfer_syntax_uid=context.transfer_syntax): context.id
            for context in requestor.contexts.values()
        }

    def carries(self, offer: Offer) -> bool:
        """Did the peer accept this class in this syntax, or in one that it can be re-encoded to?"""
        return offer in self._context_ids or _implicit(offer) in self._context_ids

    def store(self, dataset: bytes | memoryview, offer: Offer, sop_instance_uid: str) -> Outcome:
        """C-STORE one instance: its bytes as they are, or re-encoded where the peer took implicit little endian only.

        Re-encoding touches value representations and lengths, never the pixel bytes. Blocks until the response,
        about ``response_timeout_s`` at most. On an association that has ended it says at once how that ended.
        """
        chosen = offer if offer in self._context_ids else _implicit(offer)
        if chosen not in self._context_ids:
            return Outcome(reason=Reason.NO_CONTEXT, detail=offered(contexts([offer])))
        content = dataset if chosen == offer else _re_encoded(dataset)
        if isinstance(content, Outcome):
            return content
        return self._requestor.store(self._context_ids[chosen], sop_instance_uid, memoryview(content))

    def echo(self) -> Outcome:
        """C-ECHO: is there a DICOM application that answers?"""
        return self._requestor.echo(self._context_ids[_VERIFICATION])

    def release(self) -> None:
        """End the association in order; a peer that does not answer the release within 10 s is aborted."""
        if not self._requestor.release(RELEASE_TIMEOUT_S):
            detail = "no answer to the release"
            log.event(LOGGER, "association_aborted", peer=self._peer, detail=detail, limit=RELEASE_TIMEOUT_S)

    def abort(self) -> None:
        """End the association at once (A-ABORT 0/0): a request that waits for its response ends too."""
        self._requestor.abort()


def associate(peer: PeerSettings, offers: Iterable[Offer], *, ae_title: AeTitle, push: PushSettings) -> Link | Outcome:
    """Open an association that proposes these offers, or say why there is none."""
    proposed = contexts(offers)
    associated = associate_with(
        (peer.host, peer.port),
        proposed,
        calling=ae_title,
        called=peer.ae_title,
        connect_timeout_s=push.connect_timeout_s,
    )
    if isinstance(associated, Outcome):
        if associated.reason is Reason.NO_CONTEXT:
            return Outcome(reason=Reason.NO_CONTEXT, detail=offered(proposed))
        return associated
    return Link(Requestor(associated, response_timeout_s=push.response_timeout_s), peer=peer.name)


def echo(peer: PeerSettings, *, ae_title: AeTitle, push: PushSettings) -> Outcome:
    """C-ECHO to a peer over an association of its own."""
    link = associate(peer, [_VERIFICATION], ae_title=ae_title, push=push)
    if isinstance(link, Outcome):
        return link
    outcome = link.echo()
    link.release()
    return outcome


def send_files(
    peer: PeerSettings, paths: Sequence[Path], *, ae_title: AeTitle, push: PushSettings
) -> Iterator[SentFile]:
    """C-STORE files, and all DICOM files below folders, each once; what came of each, as it comes.

    Without ledger, retry or memory: this is ``dicomnode send``. What is named and no DICOM file is reported as
    unreadable; below a folder it is passed over.
    """
    files: list[_File] = []
    for path, is_named in _files(paths):
        found = _look_into(path)
        if isinstance(found, _File):
            files.append(found)
        elif is_named:
            yield SentFile(path=path, outcome=found)
    offers = sorted({file.offer for file in files})
    for begin in range(0, len(offers), OFFERS_PER_ASSOCIATION):
        group = offers[begin : begin + OFFERS_PER_ASSOCIATION]
        link = associate(peer, group, ae_title=ae_title, push=push)
        for file in files:
            if file.offer in group:
                yield SentFile(path=file.path, outcome=link if isinstance(link, Outcome) else _send(link, file))
        if isinstance(link, Link):
            link.release()


def contexts(offers: Iterable[Offer]) -> list[Proposal]:
    """One context for each SOP class and transfer syntax: a context yields a single syntax (PS3.8 section 9.3.3.2).

    Implicit VR little endian is proposed beside uncompressed data, as PS3.5 section 10.1 asks.
    """
    wanted = set(offers)
    wanted |= {implicit for offer in wanted if (implicit := _implicit(offer)) is not None}
    assert 0 < len(wanted) <= wire.MAXIMUM_CONTEXTS, "an association proposes 1 to 128 presentation contexts"
    return [Proposal(offer.sop_class_uid, (offer.transfer_syntax_uid,)) for offer in sorted(wanted)]


def offered(proposed: Iterable[Proposal]) -> str:
    """What was offered, in the standard's words: ``MR Image Storage (Explicit VR Little Endian, …)``."""
    syntaxes: dict[str, list[str]] = {}
    for context in proposed:
        sop_class = UID(context.abstract_syntax).name
        syntaxes.setdefault(sop_class, []).extend(UID(syntax).name for syntax in context.transfer_syntaxes)
    return "; ".join(f"{sop_class} ({', '.join(names)})" for sop_class, names in syntaxes.items())


def _implicit(offer: Offer) -> Offer | None:
    """What uncompressed data may be re-encoded to."""
    if offer.transfer_syntax_uid not in wire.UNCOMPRESSED:
        return None
    return Offer(sop_class_uid=offer.sop_class_uid, transfer_syntax_uid=wire.IMPLICIT)


def _files(paths: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """Every file named, and every file below a folder named; whether it was named itself."""
    for path in paths:
        if path.is_dir():
            yield from ((below, False) for below in sorted(path.rglob("*")) if below.is_file())
        else:
            yield path, True


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A Part 10 file as its file meta describes it."""

    path: Path
    offer: Offer
    sop_instance_uid: str
    offset: int  # where the dataset begins


def _look_into(path: Path) -> _File | Outcome:
    """What a file needs from the peer, without its dataset."""
    try:
        with path.open("rb") as file:
            meta = read_meta(file)
    except OSError as exc:
        return Outcome(reason=Reason.UNREADABLE, detail=f"{path}, {exc.strerror}")
    if meta is None:
        return Outcome(reason=Reason.UNREADABLE, detail=f"{path} does not begin as a DICOM file")
    if not (meta.sop_class_uid and meta.sop_instance_uid and meta.transfer_syntax_uid):
        return Outcome(reason=Reason.UNREADABLE, detail=f"{path} has no complete file meta")
    offer = Offer(sop_class_uid=meta.sop_class_uid, transfer_syntax_uid=meta.transfer_syntax_uid)
    return _File(path=path, offer=offer, sop_instance_uid=meta.sop_instance_uid, offset=meta.start)


def _send(link: Link, file: _File) -> Outcome:
    try:
        content = memoryview(file.path.read_bytes())
    except OSError as exc:
        return Outcome(reason=Reason.UNREADABLE, detail=f"{file.path}, {exc.strerror}")
    return link.store(content[file.offset :], file.offer, file.sop_instance_uid)


def _re_encoded(dataset: bytes | memoryview) -> bytes | Outcome:
    """Explicit VR little endian → implicit, where every receiver must read the same in it.

    An implicit data set says no value representation: whoever reads it looks it up. Text under a sequence's tag would
    make it stop in mid-object, or take the text for items.
    """
    try:
        read = Dataset(read_dataset(BytesIO(dataset), is_implicit_VR=False, is_little_endian=True))
        tag = misfit_in(read)
        content = None if tag is not None else encode(read, is_implicit_vr=True, is_little_endian=True)
    except MALFORMED:
        return Outcome(reason=Reason.NOT_ENCODABLE, detail="its elements cannot be read")
    if tag is not None:
        name = name_of(tag)
        return Outcome(reason=Reason.NOT_ENCODABLE, detail=f"its {name} is not encoded as the standard says")
    if content is None:
        return Outcome(reason=Reason.NOT_ENCODABLE, detail="its elements cannot be encoded anew")
    return content
