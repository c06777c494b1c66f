"""Check the kind of file system under the data folder and the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dicomnode.checks.row import CheckRow, Mark

NETWORK_FILESYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "9p", "fuse.sshfs")  # no shared memory for WAL


def check_file_system(place: Path, hint: str) -> Iterator[CheckRow]:
    """Object to a place on a network file system; a disk of this machine gets no line."""
    kind = _kind(place)
    if kind in NETWORK_FILESYSTEMS:
        yield CheckRow(
            what="file system",
            mark=Mark.FAIL,
            sentence=f"{place} lies on a network file system ({kind}), where a SQLite ledger may be damaged.",
            hint=hint,
        )


def _kind(place: Path) -> str:
    """Return the kind of file system of a place, by the longest mount point above it (proc(5), mountinfo)."""
    found, kind = "", ""
    for line in Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines():
        fields = line.split()
        mount = fields[4].replace("\\040", " ")
        if place.resolve().is_relative_to(mount) and len(mount) >= len(found):
            found, kind = mount, fields[fields.index("-") + 1]
    return kind
