"""The worker process: it gets a job by pipe, writes derived files and answers with their manifest.

It imports torch once and keeps the models warm; where the models run on a cluster, it connects to the cluster instead
and says which models are offered there. It never opens the ledger, and no socket but the one to the cluster.
"""

from __future__ import annotations

import os
import queue
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

from dicomnode import log
from dicomnode.work import orders
from dicomnode.work.cluster import Cluster
from dicomnode.work.process import PARENT_GONE, become_child

if TYPE_CHECKING:
    from dicomnode.work.job import Models
    from dicomnode.work.remote import Link

OFFER_S = 1.0  # between two looks at what the cluster offers, while there is no job


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The settings that a child gets when it is spawned."""

    data: Path  # the node's data folder
    device: str  # auto | cpu | cuda | cuda:N
    models: tuple[str, ...]  # to load before the first job: NAME, or NAME@DIGEST
    timed: str | None = None  # NAME@DIGEST of the model to be timed before the first job
    log_level: str
    log_format: Literal["auto", "text", "json"]
    cluster: Cluster | None = None  # where the models run; None: in the child


def child_main(connection: Connection, parent_pid: int, setup: Setup) -> NoReturn:
    """Serve orders from the pipe until the parent is gone."""
    become_child(parent_pid)
    log.start_logging(setup.log_level, setup.log_format)
    waiting: queue.SimpleQueue[orders.Order] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, waiting), name="pipe", daemon=True).start()
    link = _link(setup)
    models = _warm_up(connection, setup, link)
    offer = None if link is None else _Offer(connection, link)
    while True:
        if offer is not None:
            offer.tell()
        try:
            order = waiting.get(timeout=None if offer is None else OFFER_S)
        except queue.Empty:
            continue
        _answer(order, setup.device, models, connection, link)


def _link(setup: Setup) -> Link | None:
    if setup.cluster is None:
        return None
    from dicomnode.work.remote import Link  # the engine of the cluster

    return Link(setup.cluster)


def _warm_up(connection: Connection, setup: Setup, link: Link | None) -> Models:
    from dicomnode.work.job import Models  # numpy, pydicom and, for a learned model that runs here, torch

    models = Models(setup.data, remote=None if link is None else link.generator)
    for wanted in setup.models:
        models.warm(wanted)
    reference_s = models.seconds_for_reference(setup.timed, setup.device) if setup.timed else None
    device = setup.device if link is None else "cluster"
    connection.send_bytes(orders.encode(orders.Ready(models=models.loaded, device=device, reference_s=reference_s)))
    return models


class _Offer:
    """Tells the parent what the cluster offers, each time that it changes."""

    def __init__(self, connection: Connection, link: Link) -> None:
        self._connection = connection
        self._link = link
        self._told: orders.Offer | None = None

    def tell(self) -> None:
        """Look, and tell."""
        offer = self._link.offer()
        if offer != self._told:
            self._connection.send_bytes(orders.encode(offer))
            self._told = offer


def _answer(order: orders.Order, device: str, models: Models, connection: Connection, link: Link | None) -> None:
    from dicomnode.work import job

    def progress(stage: str, share: float) -> None:
        connection.send_bytes(orders.encode(orders.StageReport(job=order.job, stage=stage, share=share)))

    if link is not None:
        link.begin(order, progress, ended=lambda report: connection.send_bytes(orders.encode(report)))
    answer = job.answer(order, device=device, models=models, progress=progress)
    connection.send_bytes(orders.encode(answer))


def _listen(connection: Connection, waiting: queue.SimpleQueue[orders.Order]) -> NoReturn:
    """Pass orders on; the end of the pipe is the end of the parent, and so of this process."""
    while True:
        try:
            message = orders.decode(connection.recv_bytes(orders.MESSAGE_LIMIT_BYTES))
        except (EOFError, OSError):
            os._exit(PARENT_GONE)
        assert isinstance(message, orders.Order), message
        waiting.put(message)
