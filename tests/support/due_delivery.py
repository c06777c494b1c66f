"""A real ledger and archive with finished jobs whose deliveries are due; the files are small MR objects."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydicom.uid import generate_uid

from dicomnode.archive.store import Archive
from dicomnode.derivation import DerivationParameters, DerivedInstance, DerivedSeries
from dicomnode.ids import AeTitle, DeliveryId, digest, new_instance_id
from dicomnode.ledger.queries import open_reader
from dicomnode.ledger.store import Ledger, open_ledger
from dicomnode.ledger.values import Forward, PlannedJob, StoredInstance
from dicomnode.ledger.views import DeliveryLine, EventLine
from dicomnode.push.carrier import Carrier
from dicomnode.push.carriers import Carriers
from dicomnode.push.dimse_carrier import DimseCarrier
from dicomnode.push.identity import PatientQuery
from dicomnode.push.peer_loop import PeerLoop
from dicomnode.push.stow_carrier import StowCarrier
from dicomnode.push.witness import Witness
from dicomnode.settings.models import PushSettings, TlsSettings
from dicomnode.settings.peers import PeerSettings
from tests.support.dicom import dataset_bytes, made, write_series
from tests.support.pdu import MR_IMAGE
from tests.support.wait import wait_until

EXPLICIT = "1.2.840.10008.1.2.1"
SWIFT = PushSettings(connect_timeout_s=20.0, response_timeout_s=30.0, backoff_min_s=0.05, backoff_max_s=0.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """The files that one finished job made."""

    series_id: int  # the source series
    files: tuple[Path, ...]  # in the archive
    sha256: dict[str, str]  # by SOP Instance UID, in the order of the slices


def carriers_with(push: PushSettings) -> Carriers:
    """The ways to peers under our AE title, without TLS."""
    return Carriers(dimse=DimseCarrier(ae_title=AeTitle("DICOMNODE"), push=push), stow=StowCarrier(push, TlsSettings()))


class Node:
    """The parts of a service that push stands on, in one folder. Opening it again is a restart."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.url = f"sqlite:///{folder / 'ledger.sqlite'}"
        self.archive = Archive(folder)
        self.ledger: Ledger = open_ledger(self.url)
        self._loops: list[PeerLoop] = []
        self.boot = self.ledger.boots.begin(pid=os.getpid(), host="test")

    def close(self) -> None:
        """Stop what runs."""
        for loop in self._loops:
            assert loop.stop(10), "the peer's thread did not end"
        self.ledger.close()

    def derive(
        self, *peers: str, instances: int = 4, size: int = 16, change: Callable[[Path], object] = lambda _file: None
    ) -> Derived:
        """Receive, plan, run and finish a job whose result goes to the peers; ``change`` makes each file another."""
        source = made()
        series = self.ledger.intake.series_for(source.series_uid)
        stored = StoredInstance(
            id=new_instance_id(),
            series=series,
            sop_class_uid=MR_IMAGE,
            sop_instance_uid=source.sop_instance_uid,
            transfer_syntax_uid=EXPLICIT,
            size_bytes=len(source.dataset),
            sha256=digest(source.dataset),
            file=f"{series}/source.dcm",
            peer="mr1",
            received_at=datetime.now(UTC),
        )
        self.ledger.intake.accept([stored])
        assert self.ledger.settling.settle(series, 1, note="quiet")
        planned = PlannedJob(
            parameters=DerivationParameters(rule="all", model="cubic-dc", model_digest="cubic-dc:1", ratio=4),
            deliver_to=peers,
            sentence="derived",
        )
        assert self.ledger.settling.plan(series, 1, planned) is not None
        job = self.ledger.jobs.claim("test", lease_s=60)
        assert job is not None
        paths = write_series(self.archive.outputs.begin(job.output_series), instances, size=size)
        for path in paths:
            change(path)
        uids = [_sop_instance_uid(path) for path in paths]
        digests = [digest(dataset_bytes(path)) for path in paths]
        folder = self.archive.outputs.publish(job.output_series)
        derived = tuple(
            DerivedInstance(
                id=new_instance_id(),
                file_name=path.name,
                sop_instance_uid=uid,
                sop_class_uid=MR_IMAGE,
                transfer_syntax_uid=EXPLICIT,
                size_bytes=(folder / path.name).stat().st_size,
                sha256=sha256,
            )
            for path, uid, sha256 in zip(paths, uids, digests, strict=True)
        )
        made_series = DerivedSeries(series_uid=f"2.25.{int(series)}", instances=derived, notes=(), seconds=1.0)
        assert self.ledger.jobs.finish(job, made_series)
        files = tuple(folder / path.name for path in paths)
        return Derived(series_id=int(series), files=files, sha256=dict(zip(uids, digests, strict=True)))

    def forward(
        self, *peers: str, instances: int = 2, change: Callable[[Path], object] = lambda _file: None
    ) -> dict[str, str]:
        """Receive a series that is kept and forwarded to the peers; sha256 by SOP Instance UID."""
        series = self.ledger.intake.series_for(generate_uid())
        paths = write_series(self.archive.root / str(series), instances)
        received = {}
        for path in paths:
            change(path)
            uid, sha256 = _sop_instance_uid(path), digest(dataset_bytes(path))
            received[uid] = sha256
            one = StoredInstance(
                id=new_instance_id(), series=series, sop_class_uid=MR_IMAGE, sop_instance_uid=uid,
                transfer_syntax_uid=EXPLICIT, size_bytes=path.stat().st_size, sha256=sha256,
                file=f"{series}/{path.name}", peer="mr1", received_at=datetime.now(UTC),
            )  # fmt: skip
            self.ledger.intake.accept([one])
        assert self.ledger.settling.settle(series, 1, note="quiet")
        assert self.ledger.settling.keep(series, 1, reason="gaps", sentence="gaps", forward=Forward(peers=peers))
        return received

    def push_to(
        self,
        name: str,
        port: int,
        push: PushSettings = SWIFT,
        *,
        host: str = "127.0.0.1",
        carrier: Carrier | None = None,
        tls: bool = False,
        is_asked: bool = False,
    ) -> PeerLoop:
        """Start the loop of a peer, over DIMSE unless another carrier is given.

        ``is_asked``: the peer is asked under which patient it has the study.
        """
        peer = PeerSettings(name=name, ae_title=AeTitle("PACS"), address=f"{host}:{port}", tls=tls)
        carriers = carriers_with(push)
        asked = PatientQuery(peer, Witness(carriers)) if is_asked else None
        return self.push(peer, push, carrier or carriers.dimse, identity=asked)

    def push(
        self, peer: PeerSettings, push: PushSettings, carrier: Carrier, *, identity: PatientQuery | None = None
    ) -> PeerLoop:
        """Start the loop of a peer over a carrier."""
        loop = PeerLoop(peer, push, self.ledger, self.archive, "test", carrier=carrier, identity=identity)
        loop.start()
        self._loops.append(loop)
        return loop

    def deliveries(self) -> list[DeliveryLine]:
        """The lines of ``deliveries list``, the oldest first."""
        reader = open_reader(self.url)
        try:
            return reader.deliveries_list()[::-1]
        finally:
            reader.close()

    def delivery(self, peer: str = "pacs") -> DeliveryLine:
        """The one delivery to a peer."""
        (found,) = [one for one in self.deliveries() if one.peer == peer]
        return found

    def wait_for(self, state: str, peer: str = "pacs", limit_s: float = 60.0) -> DeliveryLine:
        """The one delivery to a peer, once it is in the state."""
        wait_until(lambda: self.delivery(peer).state == state, limit_s, f"the delivery is {state}")
        return self.delivery(peer)

    def events(self, derived: Derived) -> Sequence[EventLine]:
        """The events of the source series, as ``series explain`` lists them."""
        reader = open_reader(self.url)
        try:
            return reader.series_explain(derived.series_id).events
        finally:
            reader.close()

    def retry(self, peer: str = "pacs") -> None:
        """The operator's ``deliveries retry``."""
        self.ledger.operator.retry_delivery(DeliveryId(self.delivery(peer).id), "operator")


def _sop_instance_uid(path: Path) -> str:
    from pydicom import dcmread

    return str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
