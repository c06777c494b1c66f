"""Files from disk to a peer, each once: no ledger, no retry, nothing remembered. This is ``dicomnode send``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dicomnode.dimse.outcome import RequestOutcome, RequestReason
from dicomnode.errors import StorageError
from dicomnode.part10 import read_meta
from dicomnode.push.carrier import MOST_FORMATS, Carrier, InstanceFormat, OutgoingInstance, Session
from dicomnode.settings.peers import PeerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class SentFile:
    """A file, and the outcome of sending it."""

    path: Path
    outcome: RequestOutcome


def send_files(carrier: Carrier, peer: PeerSettings, paths: Sequence[Path]) -> Iterator[SentFile]:
    """Send files, and all DICOM files below folders; yield the outcome of each as soon as it is known.

    A named file that is no DICOM file is reported as unreadable; such a file below a named folder is passed over.
    """
    instances: list[OutgoingInstance] = []
    for path, is_named in _files(paths):
        found = _look_into(path)
        if isinstance(found, OutgoingInstance):
            instances.append(found)
        elif is_named:
            yield SentFile(path=path, outcome=found)
    formats = sorted({one.format for one in instances})
    for begin in range(0, len(formats), MOST_FORMATS):
        group = formats[begin : begin + MOST_FORMATS]
        session = carrier.open(peer, group)
        waiting = [one for one in instances if one.format in group]
        if isinstance(session, RequestOutcome):
            yield from (SentFile(path=one.path, outcome=session) for one in waiting)
            continue
        while waiting:
            count = _batch(session, waiting)
            yield from _send(session, waiting[:count])
            waiting = waiting[count:]
        session.close()


def _files(paths: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """Yield every named file, and every file below a named folder, each with whether it was named itself."""
    for path in paths:
        if path.is_dir():
            yield from ((below, False) for below in sorted(path.rglob("*")) if below.is_file())
        else:
            yield path, True


def _look_into(path: Path) -> OutgoingInstance | RequestOutcome:
    """Read the format that the peer has to accept for a file, not its data set; or say why the file is unreadable."""
    try:
        with path.open("rb") as file:
            meta = read_meta(file)
    except OSError as exc:
        return _unreadable(f"{path}, {exc.strerror}")
    if meta is None:
        return _unreadable(f"{path} does not begin as a DICOM file")
    if not (meta.sop_class_uid and meta.sop_instance_uid and meta.transfer_syntax_uid):
        return _unreadable(f"{path} has no complete file meta")
    needed = InstanceFormat(sop_class_uid=meta.sop_class_uid, transfer_syntax_uid=meta.transfer_syntax_uid)
    return OutgoingInstance(format=needed, sop_instance_uid=meta.sop_instance_uid, path=path)


def _batch(session: Session, waiting: Sequence[OutgoingInstance]) -> int:
    try:
        return session.batch(waiting)
    except StorageError:  # of a file that has gone meanwhile; it is found out when it is sent
        return 1


def _send(session: Session, batch: Sequence[OutgoingInstance]) -> Iterator[SentFile]:
    try:
        outcomes = session.store(batch)
    except StorageError as exc:
        if len(batch) > 1:  # one file must not lose the others
            for one in batch:
                yield from _send(session, [one])
            return
        why = exc.__cause__.strerror if isinstance(exc.__cause__, OSError) else exc.sentence
        outcomes = [_unreadable(f"{batch[0].path}, {why}")]
    yield from (SentFile(path=one.path, outcome=outcome) for one, outcome in zip(batch, outcomes, strict=True))


def _unreadable(detail: str) -> RequestOutcome:
    return RequestOutcome(reason=RequestReason.UNREADABLE, detail=detail)
