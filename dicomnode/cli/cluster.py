"""``dicomnode worker`` and ``dicomnode scheduler`` are the machines of a cluster that runs models for nodes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dicomnode.cli.options import config_option, load_settings
from dicomnode.errors import InputError, SettingsError

if TYPE_CHECKING:
    from dicomnode.settings.models import Settings

CLUSTER_HINT = 'docs/operations.md, "Several machines", shows the files of a cluster.'


@click.command(short_help="Run models for the nodes of a cluster.")
@config_option
def worker(config: Path | None) -> None:
    """Run models for the nodes of a cluster: offer worker.models to the scheduler at work.cluster.

    The worker runs in the foreground and logs to standard error. SIGTERM or Ctrl-C stops it: it takes no further call
    and finishes the one that runs. A second signal ends it at once; the job of the call then goes back to its node.
    """
    settings = cluster_settings(config)
    if not settings.work.cluster:
        raise SettingsError("A worker needs work.cluster, the address of the scheduler.", hint=CLUSTER_HINT)
    from dicomnode import log
    from dicomnode.systemd import notify
    from dicomnode.work.cluster import Cluster
    from dicomnode.work.serve_worker import WorkerSetup, serve_worker
    from dicomnode.work.warm import WarmSetup

    log.start_logging(settings.log.level, settings.log.format)
    serve_worker(
        WorkerSetup(
            cluster=Cluster(address=settings.work.cluster, **settings.cluster.model_dump()),
            host=settings.worker.host,
            port=settings.worker.port,
            warm=WarmSetup(
                models=settings.worker.models,
                device=settings.work.device,
                log_level=settings.log.level,
                log_format=settings.log.format,
            ),
            time_limit_s=settings.work.time_limit_s,
            memory_limit_mb=settings.work.memory_limit_mb,
        ),
        ready=lambda: notify("READY=1"),
    )


@click.command(short_help="Hand calls of nodes to the workers of a cluster.")
@config_option
def scheduler(config: Path | None) -> None:
    """Hand the calls of nodes to the workers of a cluster; nodes and workers meet at scheduler.listen.

    The scheduler runs in the foreground and logs to standard error. SIGTERM or Ctrl-C stops it. The jobs that run then
    go back to their nodes.
    """
    settings = cluster_settings(config)
    from dicomnode import log
    from dicomnode.systemd import notify
    from dicomnode.work.cluster import Cluster
    from dicomnode.work.serve_scheduler import SchedulerSetup, serve_scheduler

    log.start_logging(settings.log.level, settings.log.format)
    serve_scheduler(
        SchedulerSetup(
            cluster=Cluster(address="", **settings.cluster.model_dump()),
            host=settings.scheduler.host,
            port=settings.scheduler.port,
        ),
        ready=lambda: notify("READY=1"),
    )


def cluster_settings(config: Path | None) -> Settings:
    """Load the settings of a machine of a cluster. Raises InputError without the engine, SettingsError without keys."""
    if find_spec("distributed") is None:
        raise InputError("The engine of the cluster is not installed.", hint="pip install 'dicomnode[cluster]'")
    settings = load_settings(config)
    if settings.cluster.missing:
        raise SettingsError(
            f"A machine of a cluster needs cluster.{' and cluster.'.join(settings.cluster.missing)}.", hint=CLUSTER_HINT
        )
    return settings
