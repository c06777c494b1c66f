"""Put a backup back: an empty data folder in, the node as it was out, with everything that came after its ledger.

    files of the rows → ledger of the backup, upgraded → later files received again → ledger in its place

The files of all rows come from the backup, each compared with the digest in its row. What came after the ledger was
copied is *adopted*: files without a row, in the backup or in a data folder that was set aside (``also``), are received
once more, as from the peer that had sent them. What a job wrote without getting its rows is left out: the job is still
planned, and derives the same bytes, or it is planned anew, and its result gets UIDs of its own
(docs/derived-objects.md#uids). So nothing goes to a peer under a UID that it has with other bytes.

The folder ``restoring.tmp`` stands in the data folder until everything is in its place. While it is there no service
starts, and a restore begins anew. The backup, and the folder that was set aside, are only read.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dicomnode.archive.data_folder import RESTORING
from dicomnode.archive.digests import digest_in
from dicomnode.archive.disk import scan
from dicomnode.archive.origin import read_origin
from dicomnode.archive.store import Archive
from dicomnode.backup.manifest import Manifest, files_below, read_manifest, read_sums, read_whole
from dicomnode.durable import growing_file, make_folder, sync_folder, write_file
from dicomnode.errors import InputError, StorageError
from dicomnode.ids import SeriesId
from dicomnode.ledger import migrate
from dicomnode.ledger.engine import ledger_path, require_known
from dicomnode.ledger.queries import open_reader
from dicomnode.ledger.store import Ledger, open_ledger
from dicomnode.part10 import read_meta
from dicomnode.receive.header_walk import Flaw, read_uids
from dicomnode.receive.intake import Intake, OfferedInstance
from dicomnode.receive.space import Space
from dicomnode.seams import SYSTEM_CLOCK, Clock, checkpoint
from dicomnode.wire import IMPLICIT, Answer

_MOUNT_POINT = "lost+found"  # the only entry of an empty disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """The result of a restore: what was put back, left out, and lost."""

    at: datetime  # when the ledger of the backup was copied
    settings: str  # the copy of the settings file in the backup; empty: it has none
    files: int  # of archive, quarantine and models
    adopted: int  # instances that came after that and have their rows now
    left_out: int  # files without a row that are no received instance: what a job wrote, for the most part
    lost: tuple[str, ...]  # files that are whole nowhere; what was received has to be sent again


def restore(
    folder: Path, archive: Archive, ledger_url: str, *, also: Path | None, by: str, clock: Clock = SYSTEM_CLOCK
) -> Restored:
    """Put the last whole backup of the folder into the empty data folder of the archive.

    ``also``: a data folder that was set aside, from which what the backup lacks is taken. Raises InputError,
    StorageError or LedgerError.
    """
    source = folder.absolute()
    backup = read_manifest(source)
    if backup is None:
        raise InputError(
            f"{folder} holds no whole backup; nothing was restored.", hint="Name the folder that `db backup` wrote to."
        )
    require_known(backup.ledger_version, source / backup.ledger)
    sums = read_sums(source, backup)
    if also is not None and not (also / "archive").is_dir():
        raise InputError(f"{also} is no data folder; nothing was restored.", hint="It would hold a folder `archive`.")
    archive.data_folder.lock()
    try:
        target = ledger_path(ledger_url)
        _begin(archive.data, target)
        return _Restore(source, backup, sums, archive, also, clock).run(target, by)
    except OSError as exc:
        raise StorageError(
            f"The backup could not be put into {archive.data}: {exc.strerror}.",
            hint="See that it may be written to and that its disk has room, and run the command again: it begins anew.",
        ) from exc
    finally:
        archive.data_folder.unlock()


def _begin(data: Path, ledger: Path) -> None:
    """Refuse a data folder that holds anything but a restore that was broken off; clear that, to begin anew."""
    entries = [entry.name for entry in scan(data) if entry.name != _MOUNT_POINT]
    if RESTORING not in entries:
        there = next((str(data / name) for name in sorted(entries)), str(ledger) if ledger.exists() else "")
        if there:
            raise InputError(
                f"{there} is there already; nothing was restored.",
                hint="Set the data folder aside (`mv`), or name another one in `node.data`. `--also` takes what the "
                "backup lacks from a folder that was set aside.",
            )
        make_folder(data / RESTORING)
        checkpoint("restore.begun")
    for name in entries:
        if name == RESTORING:
            for left in scan(data / name):
                Path(left.path).unlink()
        elif (data / name).is_dir():
            shutil.rmtree(data / name)
        else:
            (data / name).unlink()


class _Restore:
    """One restore under way."""

    def __init__(
        self,
        source: Path,
        backup: Manifest,
        sums: dict[str, str],
        archive: Archive,
        also: Path | None,
        clock: Clock,
    ) -> None:
        self._source = source
        self._backup = backup
        self._sums = sums
        self._archive = archive
        self._places = [source] if also is None else [source, also.absolute()]
        self._clock = clock
        self._made: set[Path] = set()
        self._files = self._left_out = 0
        self._removed: set[str] = set()  # on purpose, before the backup: no copy of these comes back

    def run(self, target: Path, by: str) -> Restored:
        """Run the whole restore; the ledger is put in its place when everything else is there."""
        staged = self._archive.data / RESTORING / "ledger.sqlite"
        self._copy_ledger(staged)
        url = f"sqlite:///{staged}"
        migrate.upgrade(url)
        with closing(open_reader(url)) as reader:
            known, before, self._removed = reader.archived_digests(), reader.status().instances, reader.removed_files()
        lost = [f"archive/{file}" for file in sorted(known) if not self._put_archived(file, known[file])]
        lost += self._put_others()
        for made in sorted(self._made):
            sync_folder(made)
        checkpoint("restore.files_placed")
        with closing(open_ledger(url, clock=self._clock, create=False)) as ledger:
            self._adopt(ledger, set(known))
            ledger.boots.restored(f"the backup of {self._backup.moment:%Y-%m-%d %H:%M:%S} UTC", by)
        with closing(open_reader(url)) as reader:
            adopted = reader.status().instances - before
        checkpoint("restore.adopted")
        make_folder(target.parent)
        with growing_file(target) as growing:
            shutil.copyfile(staged, growing)
        checkpoint("restore.ledger_placed")
        shutil.rmtree(self._archive.data / RESTORING)
        sync_folder(self._archive.data)
        return Restored(
            at=self._backup.moment,
            settings=str(self._source / self._backup.settings) if self._backup.settings else "",
            files=self._files + adopted,
            adopted=adopted,
            left_out=self._left_out,
            lost=tuple(lost),
        )

    def _copy_ledger(self, staged: Path) -> None:
        name = self._backup.ledger
        write_file(staged, [read_whole(self._source, name, self._sums[name])])

    def _put_archived(self, file: str, sha256: str) -> bool:
        """Put the file of a row in its place, from a source where it is whole; False: it is whole in none."""
        for place in self._places:
            try:
                content = (place / "archive" / file).read_bytes()
            except OSError:
                continue
            if digest_in(content) == sha256:
                self._put(self._archive.path(file), content)
                return True
        return False

    def _put_others(self) -> list[str]:
        """Put back the files that were set aside, and the models; return those that are damaged in the backup."""
        lost = []
        for file in sorted(self._sums):
            if file.startswith(("quarantine/", "models/")):
                try:
                    content = read_whole(self._source, file, self._sums[file])
                except StorageError:
                    lost.append(file)
                else:
                    self._put(self._archive.data / file, content)
        for place in self._places[1:]:
            for name in files_below(place / "quarantine"):
                if f"quarantine/{name}" in self._removed:
                    continue
                if not (path := self._archive.quarantine.path(name)).exists():
                    self._put(path, (place / "quarantine" / name).read_bytes())
        return lost

    def _put(self, path: Path, content: bytes) -> None:
        if path.parent not in self._made:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            self._made.update(one for one in (path.parent, *path.parents) if one.is_relative_to(self._archive.data))
        write_file(path, [content])
        checkpoint("restore.file_placed")
        self._files += 1

    def _adopt(self, ledger: Ledger, known: set[str]) -> None:
        """Receive the files without a row once more: the ledger decides for each whether it is new."""
        space = Space(self._archive, 0.0, self._clock, note=lambda _what, _detail: None)
        intake = Intake(archive=self._archive, ledger=ledger, space=space, clock=self._clock)
        series: dict[str, SeriesId] = {}
        for path in self._later(known):
            offer = _offer_of(path)
            if offer is None:
                self._left_out += 1
                continue
            answer = intake.store(offer, series)
            if answer is not Answer.STORED:
                raise StorageError(
                    f"{path} could not be adopted (status {answer:04X}); the restore was broken off.",
                    hint="Make room on the disk of the data folder, and run the command again: it begins anew.",
                )
            checkpoint("restore.instance_adopted")

    def _later(self, known: set[str]) -> Iterator[Path]:
        """Find the files of the archives that no row names, in the order of their series' numbers."""
        seen = known.copy()
        for place in self._places:
            there = {file for file in files_below(place / "archive") if f"archive/{file}" not in self._removed}
            names: Sequence[str] = sorted(there - seen, key=_by_number)
            seen.update(names)
            yield from (place / "archive" / name for name in names)


def _by_number(file: str) -> tuple[int, str]:
    number = file.partition("/")[0]
    return (int(number) if number.isdecimal() else 0, file)


def _offer_of(path: Path) -> OfferedInstance | None:
    """Return the instance of a file as its sender had offered it; None: it was not received, or cannot be read."""
    try:
        origin = read_origin(path)
        with path.open("rb") as stream:
            meta = read_meta(stream)
            dataset = memoryview(stream.read())
    except OSError:
        return None
    if origin is None or meta is None:
        return None
    uids = read_uids(dataset, implicit=meta.transfer_syntax_uid == IMPLICIT)
    if isinstance(uids, Flaw):
        return None
    return OfferedInstance(
        peer=origin.peer,
        sop_class_uid=uids.sop_class_uid,
        sop_instance_uid=uids.sop_instance_uid,
        context_sop_class_uid=uids.sop_class_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        dataset=dataset,
    )
