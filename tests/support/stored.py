"""A data folder with series in it, as receive leaves them, without a network."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydicom.dataset import Dataset

from dicomnode.archive import Archive
from dicomnode.generators.model_dir import model_facts
from dicomnode.ids import InstanceId, JobId, SeriesId, digest, new_instance_id
from dicomnode.ledger.rows import PlannedJob, StoredInstance, StoreOutcome
from dicomnode.ledger.store import Ledger
from dicomnode.rules import pinned
from dicomnode.settings.models import RuleSettings
from tests.support.dicom import encoded, made

EXPLICIT = "1.2.840.10008.1.2.1"
AT = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
SERIES = SeriesId(7)


def put_file(archive: Archive, number: int = 255, *, dataset: bytes = b"", series: SeriesId = SERIES) -> str:
    """Put one file into the archive, without a row; its path below the archive folder."""
    one = made(1)
    return archive.put(
        series,
        InstanceId(number),
        sop_class_uid=one.sop_class_uid,
        sop_instance_uid=one.sop_instance_uid,
        transfer_syntax_uid=EXPLICIT,
        dataset=dataset or one.dataset,
        peer="mr1",
        received_at=AT,
    )


def store(ledger: Ledger, archive: Archive, datasets: Sequence[Dataset]) -> SeriesId:
    """Put the datasets of one series into archive and ledger; its number."""
    series = ledger.series_for(str(datasets[0].SeriesInstanceUID))
    instances = [_put(archive, series, dataset) for dataset in datasets]
    archive.sync([series])
    outcomes = ledger.accept(instances)
    assert outcomes == [StoreOutcome.STORED] * len(instances), outcomes
    return series


def plan(ledger: Ledger, series: SeriesId, *, model: str = "cubic-dc", ratio: int = 3, revision: int = 1) -> JobId:
    """Settle the series and plan its job, as the verdict would."""
    facts = model_facts(model)
    assert ledger.settle(series, revision, note="")
    job = ledger.plan(
        series,
        revision,
        PlannedJob(
            rule="every series",
            model=facts.name,
            model_digest=facts.digest,
            ratio=ratio,
            parameters=pinned(RuleSettings(name="every series"), datetime.now(UTC)),
            deliver_to=(),
            sentence="planned by a test",
        ),
    )
    assert job is not None
    return job


def archived_files(archive: Archive, series: SeriesId) -> list[Path]:
    """The files of a series, in order of their names."""
    return sorted(archive.folder_of(series).iterdir())


def _put(archive: Archive, series: SeriesId, dataset: Dataset) -> StoredInstance:
    content = encoded(dataset)
    instance: InstanceId = new_instance_id()
    moment = datetime.now(UTC)
    names = {
        "sop_class_uid": str(dataset.SOPClassUID),
        "sop_instance_uid": str(dataset.SOPInstanceUID),
        "transfer_syntax_uid": EXPLICIT,
        "peer": "scanner",
        "received_at": moment,
    }
    file = archive.put(series, instance, dataset=content, **names)  # type: ignore[arg-type]
    return StoredInstance(
        id=instance,
        series=series,
        size_bytes=len(content),
        sha256=digest(content),
        file=file,
        **names,  # type: ignore[arg-type]
    )
