"""A data folder with series in it, as receive leaves them, without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pydicom.dataset import Dataset

from dicomnode.archive.store import Archive
from dicomnode.derivation import DerivationParameters, utc_offset_min
from dicomnode.generators.model_dir import model_facts
from dicomnode.ids import InstanceId, JobId, SeriesId, digest, new_instance_id
from dicomnode.ledger.store import Ledger
from dicomnode.ledger.values import PlannedJob, Priority, StoredInstance, StoreOutcome
from dicomnode.rules import parameters_of
from dicomnode.settings.rules import RuleSettings
from tests.support.dicom import encoded, made

EXPLICIT = "1.2.840.10008.1.2.1"
AT = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
SERIES = SeriesId(7)
EVERY_SERIES = RuleSettings(name="every series")


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


def store(ledger: Ledger, archive: Archive, datasets: Sequence[Dataset], *, is_pulled: bool = False) -> SeriesId:
    """Put the datasets of one series into archive and ledger; its number."""
    series = ledger.intake.series_for(str(datasets[0].SeriesInstanceUID))
    instances = [replace(_put(archive, series, dataset), is_pulled=is_pulled) for dataset in datasets]
    archive.sync([series])
    outcomes = ledger.intake.accept(instances)
    assert outcomes == [StoreOutcome.STORED] * len(instances), outcomes
    return series


def pinned(
    model: str = "cubic-dc", *, ratio: int = 3, rule: RuleSettings = EVERY_SERIES, at: datetime | None = None
) -> DerivationParameters:
    """The parameters that ``settle`` pins when it plans a job at that moment, now by default."""
    clock_min = utc_offset_min(at or datetime.now(UTC))
    return replace(parameters_of(rule, model_facts(model)), ratio=ratio, utc_offset_min=clock_min)


def plan(
    ledger: Ledger,
    series: SeriesId,
    *,
    model: str = "cubic-dc",
    ratio: int = 3,
    revision: int = 1,
    priority: Priority = Priority.NORMAL,
) -> JobId:
    """Settle the series and plan its job, as the verdict would."""
    assert ledger.settling.settle(series, revision, note="")
    planned = PlannedJob(
        parameters=pinned(model, ratio=ratio), deliver_to=(), sentence="planned by a test", priority=priority
    )
    job = ledger.settling.plan(series, revision, planned)
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
