"""The one way to write a file: whole under its name, or not there."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomnode import durable, seams


@settings(max_examples=30, deadline=None)
@given(parts=st.lists(st.binary(max_size=70_000), max_size=5))
def test_a_file_holds_its_parts_one_after_the_other(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("durable") / "a.dcm"
    assert durable.write_file(path, parts) == len(b"".join(parts))
    assert path.read_bytes() == b"".join(parts)


def test_a_write_that_the_disk_cuts_short_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda descriptor, views: real(descriptor, [views[0][:3]]))
    durable.write_file(tmp_path / "a", [b"0123456789", b"", b"abcdef"])
    assert (tmp_path / "a").read_bytes() == b"0123456789abcdef"


@pytest.mark.parametrize("seam", ["durable.written", "durable.flushed"])
def test_a_write_that_fails_leaves_neither_the_file_nor_its_temporary(tmp_path: Path, seam: str) -> None:
    def fail(name: str) -> None:
        if name == seam:
            raise OSError(errno.ENOSPC, "disk full")

    seams.set_checkpoint_hook(fail)
    try:
        with pytest.raises(OSError, match="disk full"):
            durable.write_file(tmp_path / "a.dcm", [b"x"])
    finally:
        seams.set_checkpoint_hook(None)
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_flushed_before_it_gets_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def recorded(step: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            steps.append(step)
            return real(*arguments)

        return call

    monkeypatch.setattr(os, "fdatasync", recorded("flush", os.fdatasync))
    monkeypatch.setattr(os, "fsync", recorded("folder", os.fsync))
    monkeypatch.setattr(Path, "rename", recorded("rename", Path.rename))
    durable.write_file(tmp_path / "a", [b"x"])
    durable.sync_folder(tmp_path)
    assert steps == ["flush", "rename", "folder"]


def test_a_published_folder_appears_whole_and_its_old_name_is_gone(tmp_path: Path) -> None:
    durable.make_folder(tmp_path / "7.tmp")
    durable.write_file(tmp_path / "7.tmp" / "a.dcm", [b"x"])
    durable.rename_folder(tmp_path / "7.tmp", tmp_path / "7")
    assert [path.name for path in tmp_path.iterdir()] == ["7"]
    assert (tmp_path / "7" / "a.dcm").read_bytes() == b"x"


def test_files_of_a_growing_folder_are_all_flushed_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: set[str] = set()
    really = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        flushed.add(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        assert not (tmp_path / "series").exists()
        really(descriptor)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    with durable.growing_folder(tmp_path / "series") as growing:
        (growing / "below").mkdir()
        for name in ("1", "2", "below/3"):
            durable.write_unflushed(growing / name, [name.encode(), b"!"])
        assert not flushed
        durable.flush_files(growing)
    assert flushed == {"1", "2", "3"}
    assert (tmp_path / "series" / "below" / "3").read_bytes() == b"below/3!"


def test_a_flush_that_fails_is_not_lost_among_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        durable.write_unflushed(tmp_path / f"{number}", [b"x"])

    def fdatasync(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == "7":
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    with pytest.raises(OSError, match="Input/output error"):
        durable.flush_files(tmp_path)
