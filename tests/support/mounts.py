"""Disks that misbehave: a small file system of a test's own, and files that the kernel refuses to read.

Where this machine allows no mount, the test is skipped and says so.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[Path]:
    """Mount a tmpfs with these options (``size=8m``, ``ro``) on the folder, which is made for it."""
    folder.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("mounting a file system is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def resize(folder: Path, size: str) -> None:
    """Make a mounted tmpfs larger or smaller."""
    subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)


@contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """Reading the file is an I/O error (EIO) meanwhile: it leads to this process's memory, whose page 0 nobody has."""
    yield from _replaced_by_link(path, "/proc/self/mem")


@contextmanager
def unreachable(path: Path) -> Iterator[None]:
    """Even to look whether there is such a file fails meanwhile: its name leads to one that no disk can have."""
    yield from _replaced_by_link(path, "x" * 300)


def _replaced_by_link(path: Path, target: str) -> Iterator[None]:
    kept = path.with_name(path.name + ".kept")
    path.rename(kept)
    path.symlink_to(target)
    try:
        yield
    finally:
        path.unlink()
        kept.rename(path)
