"""A receiver in a process of its own, to be killed: ``main([data, port_file])``; sweeps at start as the node does."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from dicomnode.archive.store import Archive
from dicomnode.ledger.store import open_ledger
from dicomnode.receive.scp import Receiver
from dicomnode.settings.models import ArchiveSettings, NodeSettings, ReceiveSettings
from dicomnode.sweep import Sweep
from tests.receive.receiving_node import SCANNER


def main(arguments: list[str]) -> None:
    """Listen on any port, write its number into the file, wait for a signal."""
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before there are threads, all of which inherit it
    data, port_file = Path(arguments[0]), Path(arguments[1])
    archive = Archive(data)
    archive.data_folder.lock()
    ledger = open_ledger(f"sqlite:///{data / 'ledger.sqlite'}")
    boot = ledger.boots.begin(pid=os.getpid(), host="test")
    sweep = Sweep(archive, ledger, boot, damaged=lambda _: None)
    sweep.begin()
    receiver = Receiver(
        node=NodeSettings(listen="127.0.0.1:0", data=data),
        receive=ReceiveSettings(),
        disk=ArchiveSettings(refuse_free_percent=0.0),
        peers=(SCANNER,),
        ledger=ledger,
        archive=archive,
        wake=lambda: None,
    )
    receiver.start()
    sweep.start()
    port_file.write_text(str(receiver.port))
    signal.sigwait(ends)
    sweep.stop(10.0)
    receiver.stop(0.0)
    ledger.close()
    sys.exit(0)
