"""``python -m dicomnode.web [FILE]``: the page as a child of the service. It ends when its standard input ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
from functools import partial
from pathlib import Path

from dicomnode import log
from dicomnode.errors import NodeError
from dicomnode.settings.load import load_with_source
from dicomnode.web.current import Current
from dicomnode.web.server import serve


def main() -> None:
    """Serve the page until the service ends or a signal comes."""
    read = partial(load_with_source, Path(sys.argv[1]) if len(sys.argv) > 1 else None, dict(os.environ))
    settings, source = read()
    log.start_logging(settings.log.level, settings.log.format)
    threading.Thread(target=_end_with_the_service, name="parent", daemon=True).start()
    try:
        serve(Current(settings, source, read))
    except NodeError as exc:
        sys.exit(f"dicomnode: {exc.sentence}\n  {exc.hint}")
    except KeyboardInterrupt:
        pass  # Ctrl-C reaches every process of the terminal; the service says that it was interrupted


def _end_with_the_service() -> None:
    """End this process when the pipe closes, as it does when the service ends, however it ends."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
