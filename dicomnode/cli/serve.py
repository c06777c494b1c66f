"""``dicomnode serve`` runs the node in the foreground until SIGTERM or Ctrl-C."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dicomnode.cli.options import config_option

if TYPE_CHECKING:
    from dicomnode.settings.models import Settings


@click.command(short_help="Run the node.")
@click.option("--web", is_flag=True, help="Also serve the web page, in a process of its own. Default: no page.")
@config_option
def serve(web: bool, config: Path | None) -> None:
    """Run the node: receive series, judge them, derive thin series and deliver these.

    The node runs in the foreground and logs to standard error. SIGTERM or Ctrl-C stops it: it accepts no new
    association and gives open associations and the running job receive.drain_s seconds to finish. A second signal ends
    it at once. Nothing that was acknowledged is lost either way. SIGHUP reads the settings anew (`dicomnode reload`).
    """
    from dicomnode.settings.load import load_with_source

    read = partial(load_with_source, config, dict(os.environ))
    settings, source = read()
    from dicomnode import log
    from dicomnode.service.service import Service

    log.start_logging(settings.log.level, settings.log.format)
    with _page_of(settings, config) if web else nullcontext():
        Service(settings, source=source, read=read).run()


def _page_of(settings: Settings, config: Path | None) -> AbstractContextManager[None]:
    """Serve the web page beside the service. Raises SettingsError where its token file cannot be used."""
    from dicomnode.web.beside import beside
    from dicomnode.web.entry import Entry

    Entry(settings.web)
    return beside(config)
