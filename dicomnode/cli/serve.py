"""``dicomnode serve`` runs the node in the foreground until SIGTERM or Ctrl-C."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import click

from dicomnode.cli.options import config_option


@click.command(short_help="Run the node.")
@config_option
def serve(config: Path | None) -> None:
    """Run the node: receive series, judge them, derive thin series and deliver these.

    The node runs in the foreground and logs to standard error. SIGTERM or Ctrl-C stops it: it accepts no new
    association and gives open associations and the running job receive.drain_s seconds to finish. A second signal ends
    it at once. Nothing that was acknowledged is lost either way. SIGHUP reads the settings anew (`dicomnode reload`).
    """
    from dicomnode.settings.load import load_with_source

    read = partial(load_with_source, config, dict(os.environ))
    settings, source = read()
    from dicomnode import log
    from dicomnode.service import Service

    log.start_logging(settings.log.level, settings.log.format)
    Service(settings, source=source, read=read).run()
