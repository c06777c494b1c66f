"""The time zone of this machine, as another one's."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def machine_zone(text: str) -> Iterator[None]:
    """``text`` as POSIX has it: "IST-5:30" is five and a half hours east of Greenwich. For this process alone."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = text
    time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()
