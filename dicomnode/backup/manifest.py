"""The files of a backup folder, and the manifest that makes them a whole backup.

    node                          the UUID of the node: the folder takes backups of no other one
    backup.json                   which of the files below belong to the last whole backup; written last
    SHA256SUMS-<digest>           every file of that backup with its SHA-256, as ``sha256sum -c`` reads it
    ledger-<digest>.sqlite        the ledger, as it was at one moment
    settings-<digest>.toml        the settings file, where there is one
    archive/ quarantine/ models/  the files, under the names that they have in the data folder

``backup.json`` names the list with its digest, and the list names everything else with its digest. A backup that was
broken off has therefore changed nothing of the one before it, and is not taken for a whole one: it only left files that
no list names yet. The files of the archive are copies, never hard links: a link would share a damaged block with the
file that it is to replace.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from dicomnode.archive.disk import scan, unreadable
from dicomnode.durable import TEMPORARY_SUFFIX, sync_folder, write_file
from dicomnode.errors import StorageError
from dicomnode.ids import digest

FORMAT: Final = 1
FOLDERS: Final = ("archive", "quarantine", "models")  # of the data folder, in the order in which they are copied
NODE_FILE: Final = "node"

_MANIFEST: Final = "backup.json"
_DIGITS: Final = 12  # of a digest, in a file's name


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The last whole backup of a folder."""

    format: int
    node: str  # UUID
    at: str  # when its ledger was copied, ISO 8601
    version: str  # of the program
    ledger: str  # file name
    ledger_version: str  # of the schema
    settings: str  # file name; empty: the node has no settings file
    sums: str  # file name of the list
    sums_sha256: str

    @property
    def moment(self) -> datetime:
        """The moment at which the ledger was copied."""
        return datetime.fromisoformat(self.at)


def read_manifest(folder: Path) -> Manifest | None:
    """Return what the folder says of its last whole backup; None where it holds none. Raises StorageError."""
    path = folder / _MANIFEST
    try:
        told = json.loads(path.read_bytes())
        manifest = Manifest(**told)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise unreadable(path, exc) from exc
    except (ValueError, TypeError) as exc:
        raise StorageError(
            f"{path} does not describe a backup that this program can read.",
            hint="Restore with the dicomnode that wrote it, or use another backup.",
        ) from exc
    if manifest.format != FORMAT:
        raise StorageError(
            f"The backup in {folder} has format {manifest.format}, this program reads {FORMAT}.",
            hint=f"Restore it with dicomnode {manifest.version}, which wrote it.",
        )
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Make the files that the manifest names the last whole backup. Raises OSError as it comes."""
    write_file(folder / _MANIFEST, [json.dumps(asdict(manifest), indent=2).encode() + b"\n"])
    sync_folder(folder)


def read_sums(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Return the SHA-256 of every file of the backup, by its path in the folder. Raises StorageError."""
    path = folder / manifest.sums
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise unreadable(path, exc) from exc
    if digest(content) != manifest.sums_sha256:
        raise _damaged(path)
    lines = content.decode().splitlines()
    return {file: sha256 for sha256, _, file in (line.partition("  ") for line in lines)}


def sums_text(sums: Mapping[str, str]) -> bytes:
    """Return the content of the file that lists the sums."""
    return "".join(f"{sha256}  {file}\n" for file, sha256 in sorted(sums.items())).encode()


def read_whole(folder: Path, file: str, sha256: str) -> bytes:
    """Return a file of the backup; StorageError where its bytes are not those that were written."""
    path = folder / file
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise unreadable(path, exc) from exc
    if digest(content) != sha256:
        raise _damaged(path)
    return content


def named(stem: str, sha256: str, suffix: str = "") -> str:
    """Return the name of a file of which each backup may have its own: it contains the first digits of its digest."""
    return f"{stem}-{sha256[:_DIGITS]}{suffix}"


def files_below(folder: Path) -> Iterator[str]:
    """Find the files of a folder and of those in it, as paths below it; what ends in ``.tmp`` is not whole."""
    for entry in scan(folder):
        if entry.name.endswith(TEMPORARY_SUFFIX):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from (f"{entry.name}/{file}" for file in files_below(Path(entry.path)))
        elif entry.is_file(follow_symlinks=False):
            yield entry.name


def _damaged(path: Path) -> StorageError:
    return StorageError(
        f"The backup is damaged: {path} does not have the bytes that were written.",
        hint="Use another backup; this one was not touched.",
    )
