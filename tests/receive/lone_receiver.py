"""A receiver in a process of its own, to be killed: ``main([data, port_file])``; sweeps at start as the node does."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from dicomnode.archive import Archive
from dicomnode.ledger.rows import QuarantinedFile, QuarantineReason
from dicomnode.ledger.store import open_ledger
from dicomnode.receive.scp import Receiver
from dicomnode.settings import ArchiveSettings, NodeSettings, ReceiveSettings
from tests.receive.house import SCANNER


def main(arguments: list[str]) -> None:
    """Listen on any port, write its number into the file, wait for a signal."""
    data, port_file = Path(arguments[0]), Path(arguments[1])
    archive = Archive(data)
    archive.lock()
    ledger = open_ledger(f"sqlite:///{data / 'ledger.sqlite'}")
    report = archive.sweep(ledger.known_files(), ledger.quarantined_files())
    for orphan in report.orphans:
        ledger.record_quarantine(
            QuarantinedFile(
                file=orphan.file,
                reason=QuarantineReason.ORPHAN,
                sha256=orphan.sha256,
                peer=orphan.peer,
                instance=None,
                kept_sha256=None,
            )
        )
    assert not report.missing, "a row without its file: something acknowledged was lost"
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
    port_file.write_text(str(receiver.port))
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    receiver.stop(0.0)
    ledger.close()
    sys.exit(0)
