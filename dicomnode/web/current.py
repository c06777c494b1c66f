"""Keep the page's settings the same as those of the running node.

The page reads the settings file when it starts. When the service has taken a newer file (`dicomnode reload`), the
ledger holds the digest of that file, and the page takes from the file the same keys as the service. The address, the
token and the data folder, which the page opened at its start, stay until it is started again.
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
    """The settings in use, and the file that they were read from. Safe to use from many threads."""

    def __init__(self, settings: Settings, source: Source = NO_FILE, read: Read | None = None) -> None:
        """``read`` reads the same file once more; None: newer settings are not taken."""
        self._lock = threading.Lock()
        self._settings = settings
        self._source = source
        self._read = read

    @property
    def settings(self) -> Settings:
        """The settings in use now."""
        return self._settings

    @property
    def file(self) -> Path | None:
        """The file that the settings were read from; None: the embedded defaults hold."""
        return self._source.file

    def follow(self, used: SettingsLine | None) -> None:
        """Take the settings that the service uses now, if its file differs from ours and has not changed since."""
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
