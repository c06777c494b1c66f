"""``dicomnode web`` serves the web page in the foreground until SIGTERM or Ctrl-C."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import click

from dicomnode.cli.options import config_option


@click.command(short_help="Serve the web page of the node.")
@config_option
def web(config: Path | None) -> None:
    """Serve the web page of the node at web.listen: what came and was derived, and what waits for a person.

    The page is a process of its own beside `dicomnode serve`. It reads the ledger, and changes it only where a person
    presses a button.
    """
    from dicomnode.settings.load import load_with_source

    read = partial(load_with_source, config, dict(os.environ))
    settings, source = read()
    from dicomnode import log
    from dicomnode.web.current import Current
    from dicomnode.web.server import serve

    log.start_logging(settings.log.level, settings.log.format)
    serve(Current(settings, source, read))
