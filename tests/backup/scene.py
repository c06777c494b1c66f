"""A data folder with received and derived series, its backup folder, and short ways from one to the other."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from dicomnode.archive.store import Archive
from dicomnode.backup.restore import Restored, restore
from dicomnode.backup.write import Backup, write_backup
from dicomnode.ids import SeriesId
from dicomnode.ledger.queries import open_reader
from dicomnode.ledger.store import Ledger, open_ledger
from tests.support.mr_series import mr_datasets
from tests.support.stored import store


@dataclass(kw_only=True)
class Scene:
    """A node without its processes: the ledger is open as a service has it."""

    folder: Path
    archive: Archive
    ledger: Ledger

    @property
    def backup_folder(self) -> Path:
        """Where its backups go."""
        return self.folder / "backup"

    @property
    def url(self) -> str:
        """The ledger in the data folder."""
        return url_in(self.archive.data)

    def receive(self, datasets: list[Dataset] | None = None) -> SeriesId:
        """Store a series."""
        return store(self.ledger, self.archive, datasets or mr_datasets(slices=3))

    def back_up(self, settings_file: Path | None = None) -> Backup:
        """Write a backup into the backup folder, beside the open ledger."""
        return write_backup(self.archive, self.url, self.backup_folder, settings_file=settings_file)

    def restore_to(self, data: Path, *, also: Path | None = None) -> Restored:
        """Put the backup into another data folder."""
        return restore(self.backup_folder, Archive(data), url_in(data), also=also, by="operator:test")


def url_in(data: Path) -> str:
    """The URL of the ledger of a data folder."""
    return f"sqlite:///{data / 'ledger.sqlite'}"


def make_scene(folder: Path) -> Scene:
    """A fresh node in a folder of its own."""
    data = folder / "data"
    data.mkdir(parents=True)
    return Scene(folder=folder, archive=Archive(data), ledger=open_ledger(url_in(data)))


def contents(data: Path) -> dict[str, bytes]:
    """All files of the archive, by their path in it."""
    root = data / "archive"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def uids_of(data: Path) -> set[str]:
    """The SOP Instance UIDs of the ledger's instances."""
    with closing(open_reader(url_in(data))) as reader:
        shown = [reader.series_show(line.id, identify=True) for line in reader.series_list()]
    return {file.sop_instance_uid for detail in shown for file in detail.files if file.sop_instance_uid}
