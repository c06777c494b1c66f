"""What systemd is told; that the service tells it at its start and end is seen in ``test_service``."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from dicomnode.systemd import notify


def test_a_manager_hears_the_state_at_the_address_that_it_gave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also at an address without a file, which begins with ``@``."""
    for given, bound in ((str(tmp_path / "notify"), str(tmp_path / "notify")), (f"@{tmp_path}", f"\0{tmp_path}")):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(bound)
            manager.settimeout(30)
            monkeypatch.setenv("NOTIFY_SOCKET", given)
            notify("READY=1")
            assert manager.recv(100) == b"READY=1"


def test_a_manager_that_is_gone_does_not_stop_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify("READY=1")
