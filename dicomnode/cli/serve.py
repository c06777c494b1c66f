"""``dicomnode serve``: the node itself, in the foreground, until SIGTERM or Ctrl-C."""

from __future__ import annotations

from pathlib import Path

import click

from dicomnode.cli.options import config_option, load_settings


@click.command()
@config_option
def serve(config: Path | None) -> None:
    """Run the node: receive, settle, work, push.

    Runs in the foreground and logs to standard error. SIGTERM and Ctrl-C stop it in order: the door closes, open
    associations and the job in progress get a while to finish. A second signal ends it at once, and safely.
    """
    settings = load_settings(config)
    from dicomnode import log
    from dicomnode.service import Service

    log.start_logging(settings.log.level, settings.log.format)
    Service(settings).run()
