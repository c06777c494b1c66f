"""The running node, from its start to its stop.

    data folder locked → ledger → monitor → the parts (``parts``)

The parts are stopped in reverse order. The monitor is there from early on, and says that the node is not ready yet. The
ledger records at any moment what each part has begun. A stop in this order is therefore not needed for safety; it only
saves time at the next start.

At SIGHUP the settings file is read anew. Everything that can fail is tried first. If nothing fails, each part is given
its new settings as one value, which it begins to use between two pieces of its work. If something fails, every part
goes on as before, and the ledger records why.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime
from queue import SimpleQueue

from dicomnode import __version__, log
from dicomnode.archive.store import Archive
from dicomnode.checks.disk import ensure_writable
from dicomnode.checks.peers import introduction
from dicomnode.errors import NodeError
from dicomnode.ledger.store import Ledger, open_ledger
from dicomnode.ledger.values import BootReport
from dicomnode.reload import Reading, read_anew
from dicomnode.seams import SYSTEM_CLOCK, Clock, checkpoint
from dicomnode.service.parts import NOT_SERVING, Parts
from dicomnode.service.signals import Asked, signals, wait_for_next
from dicomnode.settings.load import NO_FILE, Source
from dicomnode.settings.models import Settings
from dicomnode.systemd import notify
from dicomnode.tls.identity import Identity

LOGGER = logging.getLogger(__name__)


class Service:
    """One node on one data folder. Started once, stopped once."""

    def __init__(
        self,
        settings: Settings,
        *,
        source: Source = NO_FILE,
        read: Callable[[], tuple[Settings, Source]] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """``source``: the file that the settings come from. ``read`` reads them anew; None: they stay as they are."""
        self.settings = settings  # the settings in use
        self._source = source
        self._read = read
        self._clock = clock
        self._stack = ExitStack()  # what stops the node
        self._parts: Parts | None = None
        self._asked: Asked = SimpleQueue()  # the reasons to end, or to read the settings anew

    @property
    def port(self) -> int:
        """The port on which the service listens without TLS, or with TLS if there is no other. It must be started."""
        assert self._parts is not None, "not started"
        return self._parts.receiver.port or self._parts.receiver.tls_port

    def run(self) -> None:
        """Start, serve until SIGTERM or Ctrl-C, and stop every part. SIGHUP reads the settings anew.

        Returns after SIGTERM and raises KeyboardInterrupt after Ctrl-C. If the check of the ledger finds damage, the
        service stops as well and raises LedgerError. Every part has stopped before this returns or raises.
        """
        with signals(self._asked):
            self.start()
            notify("READY=1")
            while (why := wait_for_next(self._asked)) == signal.SIGHUP:
                self.reload()
            if isinstance(why, NodeError):
                log.event(LOGGER, "stopping", level=logging.ERROR, code=why.code, sentence=why.sentence)
            else:
                log.event(LOGGER, "stopping", signal=signal.Signals(why).name)
            notify("STOPPING=1")
            self.stop()
        if isinstance(why, NodeError):
            raise why
        if why == signal.SIGINT:
            raise KeyboardInterrupt

    def start(self) -> None:
        """Start every part. If one cannot start, the parts before it are stopped and its error is raised."""
        with ExitStack() as stack:
            parts = self._start(stack)
            parts.drain_s = self.settings.receive.drain_s
            self._stack = stack.pop_all()

    def reload(self) -> None:
        """Use the settings that the file has now, or go on with those in use where it holds a mistake."""
        assert self._parts is not None, "not started"
        if self._read is None:
            return
        at = self._clock.now()
        read = read_anew(self.settings, self._read, self._ledger.models.active)
        if isinstance(read, Reading):
            try:
                self.settings = read.settings
                self._parts.take(read.settings, read.identity)
            except Exception as exc:  # noqa: BLE001 (border: a part that cannot start a thread, for example)
                log.failure(LOGGER, "reload_failed")
                read = f"Not every part of the node took the new settings ({type(exc).__name__}); restart the service."
        try:
            if isinstance(read, Reading):
                self._source = read.source
                log.event(LOGGER, "settings_taken", sentence=read.sentence)
                self._record_settings(read.waiting, at)
            else:
                log.event(LOGGER, "settings_refused", level=logging.ERROR, sentence=read)
                self._ledger.boots.refuse_settings(self._boot, fault=read, at=at)
        except NodeError as exc:
            log.event(LOGGER, "event_not_noted", level=logging.WARNING, code=exc.code, sentence=exc.sentence)

    def stop(self) -> None:
        """Stop every part, the last one first."""
        self._stack.close()
        log.event(LOGGER, "stopped")

    def _start(self, stack: ExitStack) -> Parts:
        settings = self.settings
        host = socket.gethostname()
        identity = Identity(settings.tls) if settings.uses_tls else None
        archive, ledger, boot = self._open(stack, host)
        self._ledger, self._boot = ledger, boot.boot
        self._monitor(stack)
        parts = self._parts = Parts(
            stack, lambda: self.settings, archive, ledger, boot, identity, host=host, damaged=self._asked.put,
            clock=self._clock,
        )  # fmt: skip
        parts.start(stack, settings)
        self._record_settings((), self._clock.now())
        parts.watch_threads(stack)
        checkpoint("service.started")
        log.event(
            LOGGER, "started", version=__version__, boot=boot.boot, pid=os.getpid(), port=self.port,
            host=settings.node.host if settings.node.listen else settings.tls.host, archive=str(settings.node.data),
            sentence=introduction(settings, parts.receiver.port, parts.receiver.tls_port),
        )  # fmt: skip
        return parts

    def _open(self, stack: ExitStack, host: str) -> tuple[Archive, Ledger, BootReport]:
        """Lock the data folder and open the ledger, until the service stops."""
        archive = Archive(self.settings.node.data)
        archive.data_folder.lock()
        stack.callback(archive.data_folder.unlock)
        archive.data_folder.require_restored()
        ensure_writable(archive)
        ledger = open_ledger(self.settings.ledger_url, clock=self._clock)
        stack.callback(ledger.close)
        boot = ledger.boots.begin(pid=os.getpid(), host=host)
        stack.callback(ledger.boots.end, boot.boot)
        for peer, number in ledger.deliveries.without_peer(self.settings.reachable_peers).items():
            log.event(LOGGER, "deliveries_without_peer", level=logging.WARNING, peer=peer, count=number)
        return archive, ledger, boot

    def _monitor(self, stack: ExitStack) -> None:
        """Start the monitor, if the settings name an address for it. It runs until the node has stopped."""
        if not self.settings.metrics.listen:
            return
        # Imported here: a node without a monitor does not need the library.
        from dicomnode.monitor.figures import Parts as Watched
        from dicomnode.monitor.figures import Worker
        from dicomnode.monitor.monitored import monitored

        watched = Watched(
            associations=lambda: self._parts.receiver.associations() if self._parts else 0,
            workers=lambda: [
                Worker(is_warm=one.pid is not None, memory_mb=one.memory_mb)
                for one in (self._parts.slots.executors if self._parts else ())
            ],
            ended=lambda: self._parts.ended() if self._parts else [],
            unready=lambda: self._parts.unready() if self._parts else [NOT_SERVING],
        )
        stack.enter_context(monitored(lambda: self.settings, watched, clock=self._clock))

    def _record_settings(self, waiting: Sequence[str], at: datetime) -> None:
        file = self._source.file
        self._ledger.boots.take_settings(
            self._boot, file=str(file) if file else None, sha256=self._source.sha256, restart=waiting, at=at
        )
