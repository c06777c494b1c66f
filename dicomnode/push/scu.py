"""One association to one peer: instances go out byte for byte, and what came of it comes back as a value.

Nothing here raises for what a peer does or fails to do: every ending of an association and of a C-STORE is an
``Outcome`` with its ``Reason``. What follows from a status is not decided here (``wire.STATUSES``, ``peer_loop``).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.dsutils import encode, split_dataset
from pynetdicom.presentation import PresentationContext, build_context

from dicomnode import wire
from dicomnode.ids import AeTitle
from dicomnode.imaging.headers import name_of
from dicomnode.imaging.representation import MALFORMED, misfit_in
from dicomnode.push import requestor
from dicomnode.push.exchange import C_ECHO_RQ, C_STORE_RQ, Exchange
from dicomnode.push.outcome import Outcome, Reason
from dicomnode.settings import PeerSettings, PushSettings

RELEASE_TIMEOUT_S = 10.0  # NODE 2.1
OFFERS_PER_ASSOCIATION = wire.MAXIMUM_CONTEXTS // 2  # each may bring implicit little endian along
_TRANSIENT = 2  # result of an A-ASSOCIATE-RJ (PS3.8 Table 9-21)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Offer:
    """What an instance needs from the peer: its SOP class in its transfer syntax."""

    sop_class_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SentFile:
    """What came of one file of ``send_files``."""

    path: Path
    outcome: Outcome


class Link:
    """An established association. One thread uses it; only ``abort`` may come from another."""

    def __init__(self, exchange: Exchange, accepted: Iterable[PresentationContext]) -> None:
        self._exchange = exchange
        self._context_ids = {
            Offer(
                sop_class_uid=str(context.abstract_syntax), transfer_syntax_uid=str(context.transfer_syntax[0])
            ): context.context_id
            for context in accepted
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
        return self._exchange.request(
            C_STORE_RQ,
            self._context_id(chosen),
            offer.sop_class_uid,
            instance_uid=sop_instance_uid,
            dataset=memoryview(content),
        )

    def echo(self) -> Outcome:
        """C-ECHO: is there a DICOM application that answers?"""
        verification = Offer(sop_class_uid=wire.VERIFICATION, transfer_syntax_uid=wire.IMPLICIT)
        return self._exchange.request(C_ECHO_RQ, self._context_id(verification), wire.VERIFICATION)

    def release(self) -> None:
        """End the association in order; a peer that does not answer the release within 10 s is aborted."""
        self._exchange.release(RELEASE_TIMEOUT_S)

    def abort(self) -> None:
        """End the association at once (A-ABORT 0/0): a request that waits for its response ends too."""
        self._exchange.abort()

    def _context_id(self, offer: Offer) -> int:
        context_id = self._context_ids[offer]
        assert context_id is not None, "an accepted context has an id"
        return context_id


def associate(peer: PeerSettings, offers: Iterable[Offer], *, ae_title: AeTitle, push: PushSettings) -> Link | Outcome:
    """Open an association that proposes these offers, or say why there is none."""
    proposed = contexts(offers)
    heard = requestor.Heard()
    began_s = time.monotonic()
    try:
        association = requestor.entity(ae_title, push).associate(
            peer.host,
            peer.port,
            proposed,
            ae_title=peer.ae_title,
            evt_handlers=[
                (evt.EVT_CONN_OPEN, requestor.set_socket_options, [push.response_timeout_s]),
                (evt.EVT_PDU_RECV, heard.listen),
            ],
        )
    except (socket.gaierror, UnicodeError) as exc:
        return Outcome(reason=Reason.UNRESOLVED, detail=f"{peer.host}, {exc}")
    if association.is_established:
        exchange = requestor.take_over(association, response_timeout_s=push.response_timeout_s)
        if exchange is None:
            detail = heard.abort or "the peer released it"
            return Outcome(reason=Reason.ABORTED if heard.abort else Reason.LOST, detail=detail)
        return Link(exchange, association.accepted_contexts)
    if heard.rejection:
        reason = Reason.BUSY if heard.rejection.result == _TRANSIENT else Reason.REJECTED
        called = f"(we are {ae_title}, the peer is {peer.ae_title})"
        return Outcome(reason=reason, detail=f"{heard.rejection.code}, {heard.rejection.sentence} {called}")
    if association.rejected_contexts:
        return Outcome(reason=Reason.NO_CONTEXT, detail=offered(proposed))
    if heard.abort:
        return Outcome(reason=Reason.ABORTED, detail=heard.abort)
    where = f"{peer.host}:{peer.port}"
    if (failure := requestor.connect_failure(association)) is not None:
        return Outcome(reason=Reason.UNREACHABLE, detail=f"{where}, {failure.strerror or failure}")
    waited_s = time.monotonic() - began_s
    is_silent = waited_s >= push.connect_timeout_s
    return Outcome(reason=Reason.UNANSWERED if is_silent else Reason.LOST, detail=f"{where}, after {waited_s:.1f} s")


def echo(peer: PeerSettings, *, ae_title: AeTitle, push: PushSettings) -> Outcome:
    """C-ECHO to a peer over an association of its own."""
    verification = Offer(sop_class_uid=wire.VERIFICATION, transfer_syntax_uid=wire.IMPLICIT)
    link = associate(peer, [verification], ae_title=ae_title, push=push)
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


def contexts(offers: Iterable[Offer]) -> list[PresentationContext]:
    """One context for each SOP class and transfer syntax: a context yields a single syntax (PS3.8 section 9.3.3.2).

    Implicit VR little endian is proposed beside uncompressed data, as PS3.5 section 10.1 asks.
    """
    wanted = set(offers)
    wanted |= {implicit for offer in wanted if (implicit := _implicit(offer)) is not None}
    assert 0 < len(wanted) <= wire.MAXIMUM_CONTEXTS, "an association proposes 1 to 128 presentation contexts"
    return [build_context(offer.sop_class_uid, offer.transfer_syntax_uid) for offer in sorted(wanted)]


def offered(proposed: Iterable[PresentationContext]) -> str:
    """What was offered, in the standard's words: ``MR Image Storage (Explicit VR Little Endian, …)``."""
    syntaxes: dict[str, list[str]] = {}
    for context in proposed:
        sop_class = UID(str(context.abstract_syntax)).name
        syntaxes.setdefault(sop_class, []).extend(syntax.name for syntax in context.transfer_syntax)
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
        meta, offset = split_dataset(path)
    except OSError as exc:
        return Outcome(reason=Reason.UNREADABLE, detail=f"{path}, {exc.strerror}")
    except InvalidDicomError:
        return Outcome(reason=Reason.UNREADABLE, detail=f"{path} does not begin as a DICOM file")
    uids = [str(meta.get(f"MediaStorageSOP{kind}UID", "")) for kind in ("Class", "Instance")]
    syntax = str(meta.get("TransferSyntaxUID", ""))
    if not (all(uids) and syntax):
        return Outcome(reason=Reason.UNREADABLE, detail=f"{path} has no complete file meta")
    offer = Offer(sop_class_uid=uids[0], transfer_syntax_uid=syntax)
    return _File(path=path, offer=offer, sop_instance_uid=uids[1], offset=offset)


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
