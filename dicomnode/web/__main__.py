"""``python -m dicomnode.web [FILE]``: the page as a child of the service, which ends when its standard input does."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from dicomnode import log
from dicomnode.errors import NodeError
from dicomnode.settings.load import load
from dicomnode.web.server import serve


def main() -> None:
    """Serve the page until the service is gone or says so."""
    settings = load(Path(sys.argv[1]) if len(sys.argv) > 1 else None, os.environ)
    log.start_logging(settings.log.level, settings.log.format)
    threading.Thread(target=_end_with_the_service, name="parent", daemon=True).start()
    try:
        serve(settings)
    except NodeError as exc:
        sys.exit(f"dicomnode: {exc.sentence}\n  {exc.hint}")
    except KeyboardInterrupt:
        pass  # Ctrl-C reaches every process of the terminal; the service says that it was interrupted


def _end_with_the_service() -> None:
    """The other end of the pipe closes when the service ends, however it ends."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
