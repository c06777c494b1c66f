"""Read the settings of a running node anew: which of them it can take, and how a command asks it to.

The service side (``read_anew``) does everything that can fail and returns the settings to use, or the sentence that
says why the node goes on with those in use. The command side (``ask``) finds the service by the lock on its data
folder, sends it SIGHUP, and waits for the answer in the ledger. Neither needs a socket.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dicomnode import log
from dicomnode.catalog import ModelCatalog
from dicomnode.checks.models import known_models
from dicomnode.errors import NodeError, StorageError
from dicomnode.ledger.queries import open_reader
from dicomnode.ledger.values import ImportedModel
from dicomnode.ledger.views import BootLine, SettingsLine
from dicomnode.seams import SYSTEM_CLOCK
from dicomnode.settings.change import change
from dicomnode.settings.load import Source
from dicomnode.settings.models import Settings
from dicomnode.tls.identity import Identity

LOGGER = logging.getLogger(__name__)

ANSWER_LIMIT_S: Final = 60.0  # models of new rules are verified, from a slow disk perhaps
POLL_S: Final = 0.1
LOCKS: Final = Path("/proc/locks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Settings that a running node can use from now on."""

    settings: Settings
    source: Source
    identity: Identity | None  # read from the files of ``tls``; None: TLS is not used
    taken: tuple[str, ...]  # keys that changed
    waiting: tuple[str, ...]  # keys that need a restart

    @property
    def sentence(self) -> str:
        """A sentence that names the keys that changed and those that need a restart."""
        taken = f"The node uses the new values of {', '.join(self.taken)}." if self.taken else "Nothing changed."
        return f"{taken} A restart is needed for {', '.join(self.waiting)}." if self.waiting else taken


def read_anew(
    running: Settings,
    read: Callable[[], tuple[Settings, Source]],
    active_models: Callable[[], Mapping[str, ImportedModel]],
) -> Reading | str:
    """Read the settings, and try what the node needs for them. Returns a sentence where they cannot be used."""
    try:
        settings, source = read()
        found = change(running, settings)
        used = found.settings
        is_fast = used.work.model_speed == "fast"
        known_models(used, ModelCatalog(active_models, used.node.data.absolute(), is_fast=is_fast))
        return Reading(
            settings=used,
            source=source,
            identity=Identity(used.tls) if used.uses_tls else None,
            taken=found.taken,
            waiting=found.waiting,
        )
    except NodeError as exc:
        return f"{exc.sentence} {exc.hint}".strip()
    except Exception as exc:  # noqa: BLE001 (border: a file that somebody has just written)
        log.failure(LOGGER, "reload_failed")
        return f"The settings could not be read anew ({type(exc).__name__}); the log holds the traceback."


def ask(data: Path, ledger_url: str) -> SettingsLine:
    """Ask the service on this data folder to read its settings anew, and return the result.

    Raises StorageError where there is no such service, or it does not answer.
    """
    none = StorageError(
        f"No service runs on the data folder {data}; nothing was reloaded.",
        hint="A service reads its settings when it starts. In a container, run the command inside it.",
    )
    if not data.is_dir():
        raise none
    with closing(open_reader(ledger_url)) as reader:
        boot = reader.boot()
        if boot is None or not _holds(boot, data):
            raise none
        asked_at = SYSTEM_CLOCK.now()
        try:
            os.kill(boot.pid, signal.SIGHUP)
        except OSError as exc:
            raise StorageError(
                f"The service (process {boot.pid}) cannot be told: {exc.strerror}; nothing was reloaded.",
                hint="Run the command as the user of the service, or as root.",
            ) from exc
        until_s = time.monotonic() + ANSWER_LIMIT_S
        while time.monotonic() < until_s:
            found = reader.settings()
            if found is not None and found.tried_at >= asked_at:
                return found
            time.sleep(POLL_S)
    raise StorageError(
        f"The service (process {boot.pid}) has not answered within {ANSWER_LIMIT_S:g} s.",
        hint="Its log says what it does; `dicomnode status` shows when it read its settings last.",
    )


def _holds(boot: BootLine, data: Path) -> bool:
    """Tell whether the process of this start holds the data folder. Its number may be another process's by now."""
    inode = str(data.stat().st_ino)
    # Number, FLOCK, ADVISORY, WRITE, process, device:inode, start, end (proc(5)).
    locks = [line.split() for line in LOCKS.read_text("ascii", "replace").splitlines()]
    return boot.ended_at is None and any(
        lock[1:5] == ["FLOCK", "ADVISORY", "WRITE", str(boot.pid)] and lock[5].rpartition(":")[2] == inode
        for lock in locks
    )
