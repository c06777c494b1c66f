"""One job, in the child: archived files → pipeline → flushed derived files in the output folder → their manifest.

Nothing here is promised to anyone: until the supervisor has published the folder and committed the job, all of it
may vanish and the job is simply done again.
"""

from __future__ import annotations

import errno
import json
import logging
import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

from dicomnode import durable, log
from dicomnode.archive import FILE_SUFFIX, Archive, FileState
from dicomnode.derive.encode import DerivedFile
from dicomnode.derive.facts import DerivationPlan
from dicomnode.errors import InputError, ModelError, NodeError, StorageError
from dicomnode.generators.base import Generator
from dicomnode.generators.model_dir import ModelFacts, load_generator, model_facts, pinned_model
from dicomnode.ids import AeTitle, file_stem, new_instance_id
from dicomnode.imaging.verdict import Limits
from dicomnode.ledger.rows import UTC_OFFSET_MIN, DerivedInstance
from dicomnode.pipeline import Progress, run_pipeline
from dicomnode.seams import checkpoint
from dicomnode.work import orders

LOGGER = logging.getLogger(__name__)

# Flushes of several files at once share the disk's journal, and encoding goes on meanwhile: 120 files of 131 kB in
# 0.15 s with four threads, in 1.0 s one after the other (MEASURED on ext4, two busy cores).
WRITERS = 4
AHEAD = 16  # encoded instances that wait for the disk, at most

VERIFY = "verify"  # the stage before the pipeline's own

# What passes when somebody makes room, closes files or mounts the disk again: no attempt of the job's is spent on it.
# They come from writing the result; what cannot be read of the archive is a StorageError.
_DISK_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.EACCES}
)


class AlteredFile(Exception):
    """An archived file is missing, or its dataset is not the one that was received."""

    def __init__(self, source: orders.SourceFile, found_sha256: str | None) -> None:
        super().__init__(source.file)
        self.source = source
        self.found_sha256 = found_sha256

    @property
    def sentence(self) -> str:
        """What an operator has to know to find the file."""
        if self.found_sha256 is None:
            return f"Archived file {self.source.file} is missing; expected sha256 {self.source.sha256}."
        return (
            f"Archived file {self.source.file} is not what was received: expected sha256 {self.source.sha256}, "
            f"found {self.found_sha256}; it was moved to quarantine."
        )


class Models:
    """The models that this process has loaded: each is loaded once and stays warm."""

    def __init__(self, data: Path | None = None) -> None:
        self._data = data  # with the imported models; None: only those that came with the node
        self._generators: dict[tuple[str, str], Generator] = {}

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the models that are warm."""
        return tuple(name for name, _ in self._generators)

    def warm(self, wanted: str) -> None:
        """Load ``NAME`` or ``NAME@DIGEST`` before it is asked for.

        One that cannot be loaded is the matter of the job that needs it.
        """
        name, _, digest = wanted.partition("@")
        try:
            self._load(*(pinned_model(name, digest, self._data) if digest else (model_facts(name), name)))
        except ModelError as exc:
            log.event(LOGGER, "model_not_loaded", level=logging.ERROR, model=name, sentence=exc.sentence)

    def get(self, name: str, model_digest: str) -> tuple[ModelFacts, Generator]:
        """The model that a job was planned with. All its files are compared with their digests before each job."""
        facts, place = pinned_model(name, model_digest, self._data)
        return facts, self._load(facts, place)

    def _load(self, facts: ModelFacts, place: str | Path) -> Generator:
        key = (facts.name, facts.digest)
        if key not in self._generators:
            generator = load_generator(place)
            if generator.digest != facts.digest:
                raise ModelError(f"The files of model {facts.name} changed while it was loaded; it was not used.")
            self._generators[key] = generator
        return self._generators[key]


def run(order: orders.Order, *, data: Path, device: str, models: Models, progress: Progress) -> orders.Finished:
    """Do the job. Raises what ``refusal_of`` understands, and anything else where another attempt may do better."""
    begun = time.monotonic()
    checkpoint("job.begun")
    archive = Archive(data)
    progress(VERIFY, 0.0)
    paths = _verified(order, archive)
    facts, generator = models.get(order.model, order.model_digest)
    output = Path(order.output)
    writing: list[Future[DerivedInstance]] = []
    with ThreadPoolExecutor(WRITERS, thread_name_prefix="write") as writers:

        def write(file: DerivedFile) -> None:
            if len(writing) >= AHEAD:
                writing[-AHEAD].result()  # bounds the memory, and raises what went wrong
            writing.append(writers.submit(_write, output, file))

        outcome = run_pipeline(
            list(paths),
            generator=generator,
            plan=_plan(order, facts),
            limits=_limits(order, facts),
            device=device,
            write=write,
            digests=paths,
            progress=progress,
        )
        made = tuple(future.result() for future in writing)
    if outcome.series_uid is None:  # the verdict that planned the job was another: the pinned limits changed meaning
        raise InputError(outcome.verdict.sentence)
    durable.sync_folder(output)
    checkpoint("job.written")
    seconds = time.monotonic() - begun
    log.event(
        LOGGER, "job_stages", level=logging.DEBUG, job=order.job, seconds=seconds, device=device,
        detail=", ".join(f"{stage} {spent_s:.2f} s" for stage, spent_s in outcome.stages.items()),
    )  # fmt: skip
    return orders.Finished(
        job=order.job,
        series_uid=outcome.series_uid,
        instances=made,
        notes=outcome.notes[len(outcome.verdict.notes) :],  # the verdict's stand with the series already
        seconds=seconds,
    )


def refusal_of(exc: Exception, order: orders.Order) -> orders.Refused | None:
    """The answer to what another attempt would meet again; None for everything else."""
    match exc:
        case AlteredFile():
            return orders.Refused(
                job=order.job,
                cause=orders.Cause.ALTERED,
                sentence=exc.sentence,
                instance=exc.source.instance,
                found_sha256=exc.found_sha256,
            )
        case InputError():
            return orders.Refused(job=order.job, cause=orders.Cause.INPUT, sentence=exc.sentence)
        case ModelError():
            sentence = f"{exc.sentence} {exc.hint}".strip()
            return orders.Refused(job=order.job, cause=orders.Cause.MODEL, sentence=sentence)
        case _:
            return None


def blame_of(exc: Exception) -> orders.Blame:
    """Whose fault is it, and so: does it count as an attempt, and what has to wait?"""
    if isinstance(exc, StorageError):
        return orders.Blame.SOURCE
    return orders.Blame.DISK if isinstance(exc, OSError) and exc.errno in _DISK_ERRORS else orders.Blame.JOB


def words_of(exc: Exception) -> str:
    """What happened, for the sentence of a failed attempt; no text of unknown origin."""
    if isinstance(exc, NodeError):
        return exc.sentence
    return (exc.strerror or type(exc).__name__) if isinstance(exc, OSError) else type(exc).__name__


def _verified(order: orders.Order, archive: Archive) -> dict[Path, str]:
    """The files of the revision with their digests, every one just compared with what was received."""
    for source in order.files:
        match archive.verify(source.file, source.sha256):
            case FileState.MISSING:
                raise AlteredFile(source, None)
            case FileState.ALTERED:
                raise AlteredFile(source, archive.digest_of_altered(source.file))
            case FileState.WHOLE:
                pass
    return {archive.path(source.file): source.sha256 for source in order.files}


def _limits(order: orders.Order, facts: ModelFacts) -> Limits:
    pinned = json.loads(order.parameters)
    pinned.pop(UTC_OFFSET_MIN, None)
    pinned["refuse_terms"] = tuple(pinned["refuse_terms"])
    return Limits(rule_name=order.rule, model=facts.name, ratios=facts.ratios, **pinned)


def _plan(order: orders.Order, facts: ModelFacts) -> DerivationPlan:
    return DerivationPlan(
        namespace=uuid.UUID(order.node_uuid),
        ae_title=AeTitle(order.ae_title),
        rule=order.rule,
        model=facts.name,
        model_kind=facts.kind,
        model_digest=facts.digest,
        parameters=order.parameters,
        derivation_number=order.derivation_number,
        created_at=_planned_at(order),
        ratio=order.ratio,
    )


def _planned_at(order: orders.Order) -> datetime:
    """The job's moment in the time zone that was this machine's then; a job of an older node pins none."""
    moment = datetime.fromisoformat(order.created_at)
    offset_min = json.loads(order.parameters).get(UTC_OFFSET_MIN)
    return moment.astimezone(None if offset_min is None else timezone(timedelta(minutes=offset_min)))


def _write(folder: Path, file: DerivedFile) -> DerivedInstance:
    """One encoded instance, flushed and under its final name."""
    instance = new_instance_id()
    name = file_stem(instance) + FILE_SUFFIX
    durable.write_file(folder / name, [file.content])
    checkpoint("job.file_written")
    return DerivedInstance(
        id=instance,
        file_name=name,
        sop_instance_uid=file.sop_instance_uid,
        sop_class_uid=file.sop_class_uid,
        transfer_syntax_uid=file.transfer_syntax_uid,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
    )
