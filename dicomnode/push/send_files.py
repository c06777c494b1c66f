"""Files from disk to a peer, each once: no ledger, no retry, nothing remembered. This is ``dicomnode send``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dicomnode.dimse.outcome import RequestOutcome, RequestReason
from dicomnode.part10 import read_meta
from dicomnode.push.carrier import MOST_FORMATS, Carrier, InstanceFormat, OutgoingInstance, Session
from dicomnode.settings.models import PeerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class SentFile:
    """What came of one file."""

    path: Path
    outcome: RequestOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A Part 10 file as its file meta describes it."""

    path: Path
    format: InstanceFormat
    sop_instance_uid: str
    offset: int  # where the data set begins


def send_files(carrier: Carrier, peer: PeerSettings, paths: Sequence[Path]) -> Iterator[SentFile]:
    """Send files, and all DICOM files below folders; yield what came of each as soon as it is known.

    A named file that is no DICOM file is reported as unreadable; such a file below a named folder is passed over.
    """
    files: list[_File] = []
    for path, is_named in _files(paths):
        found = _look_into(path)
        if isinstance(found, _File):
            files.append(found)
        elif is_named:
            yield SentFile(path=path, outcome=found)
    formats = sorted({file.format for file in files})
    for begin in range(0, len(formats), MOST_FORMATS):
        group = formats[begin : begin + MOST_FORMATS]
        session = carrier.open(peer, group)
        for file in files:
            if file.format in group:
                outcome = session if isinstance(session, RequestOutcome) else _send(session, file)
                yield SentFile(path=file.path, outcome=outcome)
        if not isinstance(session, RequestOutcome):
            session.close()


def _files(paths: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """Every file named, and every file below a folder named; whether it was named itself."""
    for path in paths:
        if path.is_dir():
            yield from ((below, False) for below in sorted(path.rglob("*")) if below.is_file())
        else:
            yield path, True


def _look_into(path: Path) -> _File | RequestOutcome:
    """Read what a file needs from the peer, without its data set."""
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
    return _File(path=path, format=needed, sop_instance_uid=meta.sop_instance_uid, offset=meta.start)


def _send(session: Session, file: _File) -> RequestOutcome:
    try:
        content = memoryview(file.path.read_bytes())
    except OSError as exc:
        return _unreadable(f"{file.path}, {exc.strerror}")
    return session.store(
        OutgoingInstance(format=file.format, sop_instance_uid=file.sop_instance_uid, dataset=content[file.offset :])
    )


def _unreadable(detail: str) -> RequestOutcome:
    return RequestOutcome(reason=RequestReason.UNREADABLE, detail=detail)
