"""What the child does with one order, called in this process."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import dcmread

from dicomnode.archive.store import Archive
from dicomnode.durable import TEMPORARY_SUFFIX
from dicomnode.errors import InputError, ModelError, StorageError
from dicomnode.generators import model_dir
from dicomnode.ids import JobId, SeriesId, digest
from dicomnode.ledger.store import open_ledger
from dicomnode.settings.rules import RuleSettings
from dicomnode.work import job, orders
from tests.support.dicom import dataset_bytes
from tests.support.model_folders import random_thin, write_thin
from tests.support.mr_series import mr_datasets
from tests.support.stored import archived_files, pinned, store

OUTPUT = SeriesId(99)
PLANNED_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """An archive with one series, and the order to derive it."""

    archive: Archive
    order: orders.Order
    series: SeriesId

    def run(self, order: orders.Order | None = None, stages: list[str] | None = None) -> orders.Finished:
        """Do the job into an empty output folder."""
        self.archive.outputs.begin(OUTPUT)
        return job.run(
            order or self.order,
            device="cpu",
            models=job.Models(self.archive.data),
            progress=lambda stage, _share: (stages if stages is not None else []).append(stage),
        )

    @property
    def output(self) -> Path:
        return self.archive.outputs.folder(OUTPUT)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    archive = Archive(tmp_path)
    series = store(ledger, archive, mr_datasets(slices=6))
    order = orders.Order(
        job=JobId(1),
        token=1,
        archive=str(archive.root),
        files=tuple(
            orders.SourceFile(instance=one.id, file=one.file, sha256=one.sha256)
            for one in ledger.settling.instances_of(series, 1)
        ),
        output=str(archive.outputs.folder(OUTPUT)),
        node_uuid=str(ledger.node_uuid),
        ae_title="NODE",
        parameters=pinned(at=PLANNED_AT),
        derivation_number=1,
        created_at=PLANNED_AT.isoformat(),
    )
    yield Bench(archive=archive, order=order, series=series)
    ledger.close()


def test_the_manifest_is_what_lies_in_the_folder(bench: Bench) -> None:
    stages: list[str] = []
    made = bench.run(stages=stages)
    assert list(dict.fromkeys(stages)) == ["verify", "read", "generate", "derive", "write"]
    assert {path.name for path in bench.output.iterdir()} == {one.file_name for one in made.series.instances}
    for one in made.series.instances:
        content = dataset_bytes(bench.output / one.file_name)
        assert (len(content), digest(content)) == (one.size_bytes, one.sha256)
        assert not one.file_name.endswith(TEMPORARY_SUFFIX)


def test_a_second_attempt_writes_the_same_uids_and_the_same_bytes(bench: Bench) -> None:
    """A PACS that got half of the first attempt must not find other bytes under a UID that it holds."""
    first, second = bench.run().series, bench.run().series
    assert second.series_uid == first.series_uid
    assert [(one.sop_instance_uid, one.sha256) for one in second.instances] == [
        (one.sop_instance_uid, one.sha256) for one in first.instances
    ]


def test_another_derivation_number_is_another_series(bench: Bench) -> None:
    second = bench.run(replace(bench.order, derivation_number=2))
    assert second.series.series_uid != bench.run().series.series_uid


def test_a_file_that_is_no_dicom_file_any_more_is_altered_and_its_whole_digest_is_told(bench: Bench) -> None:
    victim = archived_files(bench.archive, bench.series)[0]
    victim.write_bytes(b"not what was received")
    with pytest.raises(job.AlteredFile) as caught:
        bench.run()
    refused = job.refusal_of(caught.value, bench.order)
    assert refused is not None
    assert refused.cause is orders.Cause.ALTERED
    assert refused.found_sha256 == digest(b"not what was received")


def test_a_series_whose_verdict_is_no_longer_to_process_is_refused_with_the_verdict(bench: Bench) -> None:
    strict = pinned(rule=RuleSettings(name="every series", refuse_terms=("ND",)), at=PLANNED_AT)
    with pytest.raises(InputError, match="This is a ND image, not an anatomical stack"):
        bench.run(replace(bench.order, parameters=strict))


def test_a_patient_that_is_pinned_and_whose_file_is_gone_or_altered_is_never_replaced_by_the_source_s(
    bench: Bench, tmp_path: Path
) -> None:
    """What may have left the quarantine: the job is refused, which holds it, and says what to do."""
    parameters = replace(bench.order.parameters, patient="a" * 64)
    altered = tmp_path / "altered.dcm"
    altered.write_bytes(archived_files(bench.archive, bench.series)[0].read_bytes())
    for path in (None, str(tmp_path / "gone.dcm"), str(altered)):
        with pytest.raises(InputError, match="missing, or was altered since: `dicomnode series retry`") as caught:
            bench.run(replace(bench.order, parameters=parameters, patient=path))
        assert job.refusal_of(caught.value, bench.order) is not None
        assert not list(bench.output.iterdir())


def test_a_tampered_model_is_refused_with_its_file_and_both_digests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = model_dir.shipped_models()
    if not shipped:
        pytest.skip("no learned model is shipped")
    name, folder = next(iter(shipped.items()))
    shutil.copytree(folder, tmp_path / "models" / name)
    monkeypatch.setattr(model_dir, "SHIPPED", tmp_path / "models")
    models = job.Models()
    planned = model_dir.model_facts(name).digest
    models.get(name, planned)
    assert models.loaded == (name,)
    weights = tmp_path / "models" / name / model_dir.WEIGHTS_FILE
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        models.get(name, planned)  # although it is loaded already
    for told in (str(weights), digest(content), digest(bytes(content[:-1]) + bytes([content[-1] ^ 1]))):
        assert told in caught.value.sentence


@pytest.fixture
def imported(tmp_path: Path) -> list[str]:
    """Two models of one name below the data folder; their digests."""
    digests = []
    for blocks in (1, 2):
        made = write_thin(tmp_path / "made" / str(blocks), net=random_thin(blocks=blocks), name="knee")
        digests.append(model_dir.verify(made))
        model_dir.copy_model(made, model_dir.imported_folder(tmp_path, "knee", digests[-1]))
    return digests


def _by_model(order: orders.Order, digest_of_model: str) -> orders.Order:
    return replace(order, parameters=replace(order.parameters, model="knee", model_digest=digest_of_model))


def test_a_job_is_done_by_the_model_that_it_was_planned_with_whichever_others_there_are(
    bench: Bench, imported: list[str]
) -> None:
    made = []
    for digest_of_model in imported:
        bench.run(_by_model(bench.order, digest_of_model))
        said = {dcmread(path).DerivationDescription for path in bench.output.iterdir()}
        assert len(said) == 1
        assert digest_of_model[:16] in said.pop()
        made.append(sorted(digest(path.read_bytes()) for path in bench.output.iterdir()))
    assert made[0] != made[1]


def test_a_job_whose_model_is_nowhere_is_held_and_not_done_by_another_of_the_name(
    bench: Bench, imported: list[str]
) -> None:
    first, second = imported
    shutil.rmtree(model_dir.imported_folder(bench.archive.data, "knee", first))
    order = _by_model(bench.order, first)
    with pytest.raises(ModelError) as caught:
        bench.run(order)
    assert list(bench.output.iterdir()) == []
    refused = job.refusal_of(caught.value, order)
    assert refused is not None
    assert refused.cause is orders.Cause.MODEL
    assert f"Model knee is not here with the digest that was asked for: expected digest {first}" in refused.sentence
    assert second not in refused.sentence


def test_a_model_is_warmed_by_name_and_digest_and_one_that_is_not_there_waits_for_its_job(
    tmp_path: Path, imported: list[str]
) -> None:
    models = job.Models(tmp_path)
    for wanted in (f"knee@{imported[1]}", f"knee@{'0' * 64}", "cubic-dc"):
        models.warm(wanted)
    assert models.loaded == ("knee", "cubic-dc")
    assert models.get("knee", imported[1])[1].digest == imported[1]


@pytest.mark.parametrize(
    ("problem", "blame"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), orders.Blame.DISK),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), orders.Blame.DISK),
        (StorageError("gone"), orders.Blame.SOURCE),
        (OSError(errno.EINVAL, "Invalid argument"), orders.Blame.JOB),
        (MemoryError(), orders.Blame.JOB),
        (ZeroDivisionError("Smith^Anna"), orders.Blame.JOB),
    ],
)
def test_only_the_disks_failures_cost_no_attempt_and_no_foreign_text_is_told(
    problem: Exception, blame: orders.Blame
) -> None:
    assert job.blame_of(problem) is blame
    assert "Smith" not in job.words_of(problem)
