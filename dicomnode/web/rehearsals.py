"""Run the rehearsals that a person begins on the page: the command `check --rehearse`, as a process of its own.

One rehearsal runs at a time. Its result is kept until the page ends; the test images are events of the ledger, as
always.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

LIMIT_S: Final = 180.0  # a rehearsal takes a minute at most; for a peer that hangs the command has limits of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsed:
    """A rehearsal with one peer."""

    at: datetime
    found: Mapping[str, Any] | None  # JSON that the command prints; None: it is under way, or failed
    is_good: bool
    fault: str  # why there is no result; empty: it is under way, or there is one


class Rehearsals:
    """The rehearsals since the start of the page. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, Rehearsed] = {}
        self._running: str | None = None

    @property
    def known(self) -> dict[str, Rehearsed]:
        """The last rehearsal with each peer."""
        with self._lock:
            return dict(self._known)

    def begin(self, peer: str, config: Path, at: datetime) -> bool:
        """Begin a rehearsal. False: another one is under way."""
        with self._lock:
            if self._running is not None:
                return False
            self._running = peer
            self._known[peer] = Rehearsed(at=at, found=None, is_good=False, fault="")
        threading.Thread(target=self._run, args=(peer, config, at), name="rehearsal", daemon=True).start()
        return True

    def _run(self, peer: str, config: Path, at: datetime) -> None:
        result = Rehearsed(at=at, found=None, is_good=False, fault="The rehearsal failed; the log says how.")
        try:
            result = _rehearse(peer, config, at)
        finally:
            with self._lock:
                self._known[peer], self._running = result, None


def _rehearse(peer: str, config: Path, at: datetime) -> Rehearsed:
    words = [sys.executable, "-m", "dicomnode", "check", f"--rehearse={peer}", "--json", f"--config={config}"]
    try:
        ended = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, check=False)  # noqa: S603
        found = json.loads(ended.stdout)
    except subprocess.TimeoutExpired:
        return Rehearsed(at=at, found=None, is_good=False, fault=f"It did not end within {LIMIT_S:.0f} s.")
    except ValueError:
        said = ended.stderr.strip().splitlines()
        return Rehearsed(at=at, found=None, is_good=False, fault=said[0] if said else "It said nothing.")
    return Rehearsed(at=at, found=found, is_good=ended.returncode == 0, fault="")
