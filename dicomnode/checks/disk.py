"""The data folder: what ``check`` says of it, and what a start demands of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dicomnode.archive.store import Archive
from dicomnode.checks.file_system import check_file_system
from dicomnode.checks.row import CheckRow, Mark
from dicomnode.errors import StorageError
from dicomnode.receive.space import ASIDE_SHARE_PERCENT
from dicomnode.settings.models import Settings


def check_disk(settings: Settings) -> Iterator[CheckRow]:
    """Check that the data folder can be used, its free space, its quarantine and its file system."""
    data = settings.node.data.absolute()
    archive = Archive(next(folder for folder in (data, *data.parents) if folder.is_dir()))
    try:
        _require_room_for(data)
        archive.data_folder.require_restored()
        ensure_writable(archive)
    except StorageError as exc:
        yield CheckRow(what="data folder", mark=Mark.FAIL, sentence=exc.sentence, hint=exc.hint)
        return
    state = "can be written to" if archive.data == data else "does not exist yet; it will be made"
    yield CheckRow(what="data folder", mark=Mark.OK, sentence=f"{data} {state}.")
    free, limit = archive.data_folder.free_percent(), settings.archive.refuse_free_percent
    is_scarce = free < settings.archive.warn_free_percent
    room = f"{archive.data_folder.free_bytes() / 2**30:.1f} GiB are free, {free:.0f} %"
    yield CheckRow(
        what="free space",
        mark=Mark.FAIL if free <= limit else Mark.WARN if is_scarce else Mark.OK,
        sentence=f"{room}; below {limit:g} % nothing is accepted.",
        hint="" if free > limit and not is_scarce else "Make room, or lower archive.refuse_free_percent.",
    )
    yield _check_quarantine(archive)
    yield from check_file_system(data, "Set `node.data` to a disk of this machine.")


def _check_quarantine(archive: Archive) -> CheckRow:
    taken = archive.quarantine.size_bytes()
    share = archive.data_folder.size_bytes() * ASIDE_SHARE_PERCENT / 100
    return CheckRow(
        what="quarantine",
        mark=Mark.OK if taken < share else Mark.WARN,
        sentence=f"{taken / 2**20:.1f} MiB lie there; beyond {share / 2**30:.1f} GiB ({ASIDE_SHARE_PERCENT:g} % of the "
        "disk) nothing more is set aside.",
        hint="" if taken < share else "`dicomnode quarantine list`; what was seen may be removed from the folder.",
    )


def _require_room_for(data: Path) -> None:
    """Raise StorageError where the data folder neither is a folder nor can become one."""
    taken = next(place for place in (data, *data.parents) if os.path.lexists(place))
    if not taken.is_dir():
        raise StorageError(
            f"The data folder {data} cannot be used: {taken} is not a folder; the node did not start.",
            hint="Set `node.data` to a folder.",
        )


def ensure_writable(archive: Archive) -> None:
    """Raise StorageError where nothing can be written, so that the start fails and not the first instance."""
    try:
        with tempfile.TemporaryFile(dir=archive.data):
            pass
    except OSError as exc:
        raise StorageError(
            f"Nothing can be written to the data folder {archive.data}: {exc.strerror}; the node did not start.",
            hint="Mount it writable and give the node's user write permission, or set `node.data`.",
        ) from exc
