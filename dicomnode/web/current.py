"""The settings of the running node, as the page follows them.

The page reads the settings file when it starts. When the service has taken a newer one (`dicomnode reload`), the ledger
says so with the digest of the file, and the page takes of that file what the service took. What the page itself opened
at its start (its address, its token, the data folder) stays until it is started again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from dicomnode.errors import SettingsError
from dicomnode.ledger.views import SettingsLine
from dicomnode.settings.change import change
from dicomnode.settings.load import NO_FILE, Source
from dicomnode.settings.models import Settings

Read = Callable[[], tuple[Settings, Source]]


class Current:
    """Safe to use from many threads."""

    def __init__(self, settings: Settings, source: Source = NO_FILE, read: Read | None = None) -> None:
        """``read``: reads the same file once more; None: nothing is followed."""
        self._lock = threading.Lock()
        self._settings = settings
        self._source = source
        self._read = read

    @property
    def settings(self) -> Settings:
        """Those in use now."""
        return self._settings

    @property
    def file(self) -> Path | None:
        """Where they were read from; None: the embedded defaults hold."""
        return self._source.file

    def follow(self, used: SettingsLine | None) -> None:
        """Take what the service uses now, if it is another file than ours. A file that has changed since is left."""
        if self._read is None or used is None or used.sha256 == self._source.sha256:
            return
        with self._lock:
            try:
                settings, source = self._read()
            except SettingsError:  # the service goes on with what it has, and so does the page
                return
            if source.sha256 == used.sha256:
                self._settings = change(self._settings, settings).settings
                self._source = source
