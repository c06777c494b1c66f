"""A receiver with a real ledger and archive in a folder of its own, for the tests of receiving."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest

from dicomnode.archive.store import Archive
from dicomnode.ids import AeTitle
from dicomnode.ledger.store import Ledger, open_ledger
from dicomnode.receive.scp import Receiver
from dicomnode.settings.models import ArchiveSettings, NodeSettings, ReceiveSettings, TlsSettings
from dicomnode.settings.peers import PeerSettings
from dicomnode.tls.identity import Identity
from tests.support.wait import wait_until

LOOPBACK = (ip_network("127.0.0.1"),)
SCANNER = PeerSettings(name="mr1", ae_title=AeTitle("TEST"), networks=LOOPBACK)


def said(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, object]]:
    """The fields of each line of the log with this event."""
    return [vars(record)["dicomnode_fields"] for record in caplog.records if record.getMessage() == name]


class ReceivingNode:
    """The receiver and what it stores into."""

    port: int  # where it listens, or listened
    tls_port: int

    def __init__(
        self,
        data: Path,
        receive: ReceiveSettings,
        peers: Sequence[PeerSettings],
        free_percent: float,
        listen: str,
        tls: TlsSettings,
    ) -> None:
        self.data = data
        self.archive = Archive(data)
        self.archive.data_folder.lock()
        self.ledger: Ledger = open_ledger(f"sqlite:///{data / 'ledger.sqlite'}")
        self.wakes: list[None] = []
        self.disk = ArchiveSettings(refuse_free_percent=free_percent)
        self.limits = receive
        self.receiver = Receiver(
            node=NodeSettings(listen=listen, data=data),
            receive=receive,
            disk=self.disk,
            peers=peers,
            ledger=self.ledger,
            archive=self.archive,
            wake=lambda: self.wakes.append(None),
            tls=tls,
            identity=Identity(tls) if tls.ca else None,
        )

    def stored(self, series_uid: str) -> list[str]:
        """The archive files of a series' first revision, in no order."""
        instances = self.ledger.settling.instances_of(self.ledger.intake.series_for(series_uid), 1)
        return [one.file for one in instances]

    def files(self) -> list[Path]:
        """Everything that lies in the archive folder."""
        return sorted(path for path in self.archive.root.rglob("*") if path.is_file())

    def quarantined(self) -> list[Path]:
        """Everything that lies in the quarantine folder."""
        return sorted(self.archive.quarantine.folder.glob("*"))

    def wait_until_empty(self) -> None:
        """Until every association has ended."""
        wait_until(lambda: not self.receiver.associations(), what="associations end")


@contextmanager
def receiving_node(
    data: Path,
    *,
    peers: Sequence[PeerSettings] = (SCANNER,),
    free_percent: float = 0.0,
    listen: str = "127.0.0.1:0",
    tls: Mapping[str, object] | None = None,
    **limits: float,
) -> Iterator[ReceivingNode]:
    """A receiver that listens, and is stopped without waiting; ``tls`` and ``limits``: keys of ``[tls], [receive]``."""
    data.mkdir(parents=True, exist_ok=True)
    settings = ReceiveSettings.model_validate(limits)
    made = ReceivingNode(data, settings, peers, free_percent, listen, TlsSettings.model_validate(tls or {}))
    made.receiver.start()
    made.port, made.tls_port = made.receiver.port, made.receiver.tls_port
    try:
        yield made
    finally:
        made.receiver.stop(0.0)
        made.ledger.close()
        made.archive.data_folder.unlock()
