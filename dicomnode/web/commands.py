"""Run the commands that a person begins on the page and that ask a peer, each as a process of its own.

A peer may take minutes to answer, and a page must not wait so long. One command of a kind runs at a time. Its result is
kept until the page ends; what it did stands in the ledger, as always.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

MOST_KEPT: Final = 100  # results; the oldest is forgotten first


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One command, under way or ended."""

    at: datetime
    found: Mapping[str, Any] | None  # JSON that the command prints; None: it is under way, or failed
    is_good: bool
    fault: str  # why there is no result; empty: it is under way, or there is one

    @property
    def is_under_way(self) -> bool:
        """True until there is a result, or a reason why there is none."""
        return self.found is None and not self.fault


class Commands:
    """The commands of one kind since the start of the page. Safe to use from many threads."""

    def __init__(self, *, what: str, limit_s: float) -> None:
        """``what``: the kind, in words. ``limit_s``: for a command; it has limits of its own for a peer."""
        self.what = what
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._known: dict[str, Ran] = {}
        self._is_running = False

    @property
    def known(self) -> dict[str, Ran]:
        """The last command on each thing that one was begun on."""
        with self._lock:
            return dict(self._known)

    def begin(self, on: str, words: Sequence[str], config: Path, at: datetime, said: str) -> bool:
        """Begin a command on a thing, with ``said`` as its standard input. False: another one is under way."""
        with self._lock:
            if self._is_running:
                return False
            self._is_running = True
            self._known.pop(on, None)
            self._known[on] = Ran(at=at, found=None, is_good=False, fault="")
            if len(self._known) > MOST_KEPT:
                del self._known[next(iter(self._known))]
        command = [sys.executable, "-m", "dicomnode", *words, "--json", f"--config={config}"]
        threading.Thread(target=self._run, args=(on, command, at, said), name="command", daemon=True).start()
        return True

    def _run(self, on: str, command: Sequence[str], at: datetime, said: str) -> None:
        result = Ran(at=at, found=None, is_good=False, fault=f"The {self.what} failed; the log says how.")
        try:
            result = _ran(command, at, said, self._limit_s)
        finally:
            with self._lock:
                self._known[on], self._is_running = result, False


def _ran(command: Sequence[str], at: datetime, said: str, limit_s: float) -> Ran:
    try:
        ended = subprocess.run(  # noqa: S603 (our own words)
            command, input=said, capture_output=True, text=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        return Ran(at=at, found=None, is_good=False, fault=f"It did not end within {limit_s:.0f} s.")
    try:
        return Ran(at=at, found=json.loads(ended.stdout), is_good=ended.returncode == 0, fault="")
    except ValueError:
        lines = ended.stderr.strip().splitlines()
        fault = lines[0].removeprefix("dicomnode: ") if lines else "It said nothing."
        return Ran(at=at, found=None, is_good=False, fault=fault)
