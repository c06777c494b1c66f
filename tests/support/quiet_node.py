"""A node without its network: what a C-STORE brings goes through intake, ledger, archive and settler, all real."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from dicomnode.archive.store import Archive
from dicomnode.generators.model_dir import ModelFacts, model_facts
from dicomnode.ids import SeriesId
from dicomnode.ledger.queries import Reader, open_reader
from dicomnode.ledger.store import Ledger, open_ledger
from dicomnode.ledger.values import Job
from dicomnode.ledger.views import Explanation
from dicomnode.receive.intake import Intake, OfferedInstance
from dicomnode.receive.space import Space
from dicomnode.settings.load import parse
from dicomnode.settings.models import SettleSettings
from dicomnode.settle.settler import Settler
from tests.ledger.scene import FakeClock, derived
from tests.support.dicom import encoded

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
QUIET_S = 30.0
PEERS = ("pacs", "workstation")


@dataclass(kw_only=True)
class QuietNode:
    """Time passes when a test says so; one rule takes everything and delivers it to two peers."""

    archive: Archive
    ledger: Ledger
    reader: Reader
    clock: FakeClock
    intake: Intake
    settler: Settler

    def send(self, datasets: Sequence[Dataset], *, syntax: str = EXPLICIT, peer: str = "mr1") -> list[int]:
        """Send the objects over one association; the status of each."""
        series: dict[str, SeriesId] = {}
        return [int(self.intake.store(offer_of(dataset, syntax=syntax, peer=peer), series)) for dataset in datasets]

    def settle(self) -> None:
        """Let enough time pass that everything is quiet, and look twice."""
        self.settler.turn()
        self.clock.advance(QUIET_S)
        self.settler.turn()

    def explain(self, series: int) -> Explanation:
        """The answer of ``series explain``."""
        return self.reader.series_explain(series)

    def number_of(self, datasets: Sequence[Dataset]) -> SeriesId:
        """The series that the datasets name."""
        return self.ledger.intake.series_for(str(datasets[0].SeriesInstanceUID))

    def claim_job(self) -> Job:
        """Claim the job that waits."""
        job = self.ledger.jobs.claim("worker", lease_s=60)
        assert job is not None
        return job

    def finish_job(self) -> None:
        """Finish the job that waits, as some worker would."""
        assert self.ledger.jobs.finish(self.claim_job(), derived(2))

    def deliveries(self) -> list[tuple[str, str | None]]:
        """State and reason of each, the oldest first."""
        return [(line.state, line.reason) for line in reversed(self.reader.deliveries_list())]

    def attention(self) -> dict[tuple[str, int | None], str]:
        """The rows that wait for a person: (table, series) → sentence."""
        return {(line.table, line.series): line.sentence for line in self.reader.status().attention}


@contextmanager
def quiet_node(
    data: Path, *, model_of: Callable[[str | None], ModelFacts] | None = None, **rule: object
) -> Iterator[QuietNode]:
    """A node on a data folder; again on the same one after it was left. ``rule``: more keys of its rule."""
    data.mkdir(parents=True, exist_ok=True)
    clock = FakeClock()
    url = f"sqlite:///{data / 'ledger.sqlite'}"
    ledger = open_ledger(url, clock=clock)
    reader = open_reader(url)
    archive = Archive(data)
    space = Space(archive, 0.0, clock, lambda kind, detail: ledger.note(kind, table="node", row=1, detail=detail))
    settler = Settler(
        SettleSettings(quiet_s=QUIET_S),
        parse(
            {
                "peer": [{"name": name, "ae_title": name.upper(), "address": "127.0.0.1:104"} for name in PEERS],
                "rule": [{"name": "all", "model": "cubic-dc", "deliver_to": list(PEERS), **rule}],
            }
        ).rule,
        ledger,
        archive,
        model_of=model_of or (lambda _name: model_facts("cubic-dc")),
        open_series=frozenset,
        planned=lambda: None,
        clock=clock,
    )
    intake = Intake(archive=archive, ledger=ledger, space=space, clock=clock)
    try:
        yield QuietNode(
            archive=archive, ledger=ledger, reader=reader, clock=clock, intake=intake, settler=settler
        )  # fmt: skip
    finally:
        reader.close()
        ledger.close()


def offer_of(dataset: Dataset, *, syntax: str = EXPLICIT, peer: str = "mr1") -> OfferedInstance:
    """The C-STORE of one object; a compressed one is given in the syntax that it has."""
    return OfferedInstance(
        peer=peer,
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        context_sop_class_uid=str(dataset.SOPClassUID),
        transfer_syntax_uid=syntax,
        dataset=memoryview(encoded(dataset, implicit=syntax == IMPLICIT)),
    )


def changed(datasets: Sequence[Dataset], **attributes: object) -> list[Dataset]:
    """Copies of the datasets with other values."""
    copies = copy.deepcopy(list(datasets))
    for dataset in copies:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that are none by their VR
            for keyword, value in attributes.items():
                setattr(dataset, keyword, value)
    return copies
