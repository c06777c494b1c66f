"""The page as a child process of the service: it starts with the service, restarts where it ends, and ends with it.

The two processes share only a pipe: the page ends when the service's end of the pipe closes. Whatever happens to the
page, the service goes on.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dicomnode import log

LOGGER = logging.getLogger(__name__)

PAUSE_S: Final = 5.0  # before the page is started again
STOP_S: Final = 10.0


@contextmanager
def beside(config: Path | None) -> Iterator[None]:
    """Run the process of the page as long as the block runs."""
    ending = threading.Event()
    keeper = threading.Thread(target=_keep, args=(config, ending), name="web")
    keeper.start()
    try:
        yield
    finally:
        ending.set()
        keeper.join()


def _keep(config: Path | None, ending: threading.Event) -> None:
    while not ending.is_set():
        words = [sys.executable, "-m", "dicomnode.web", *([str(config)] if config else [])]
        with subprocess.Popen(words, stdin=subprocess.PIPE) as child:  # noqa: S603 (our own words)
            while child.poll() is None and not ending.wait(0.5):
                pass
            if child.poll() is None:
                _end(child)
                return
        log.event(LOGGER, "web_ended", level=logging.ERROR, exit_code=child.returncode, wait_s=PAUSE_S)
        ending.wait(PAUSE_S)


def _end(child: subprocess.Popen[bytes]) -> None:
    assert child.stdin is not None
    child.stdin.close()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
