"""Runs one order: reads the archived files, runs the pipeline, writes the derived files, and returns their manifest.

Every executor calls this code, in whatever process it uses. The derived files are flushed to the output folder. Until
the supervisor has published that folder and committed the job, the result may be lost; the job is then run again. This
code only reads the archive, and has no access to the ledger.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

from dicomnode import durable, log
from dicomnode.derivation import DerivedInstance, DerivedSeries
from dicomnode.derive import patient
from dicomnode.derive.encode import DerivedFile
from dicomnode.derive.facts import DerivationPlan
from dicomnode.errors import ClusterError, InputError, ModelError, NodeError, StorageError
from dicomnode.generators import pace
from dicomnode.generators.base import Generator
from dicomnode.generators.model_dir import ModelFacts, load_generator, model_facts, pinned_model
from dicomnode.ids import AeTitle, file_stem, new_instance_id
from dicomnode.imaging.dicom_file import read_dataset
from dicomnode.part10 import dataset_sha256
from dicomnode.pipeline import PipelineResult, Progress, run_pipeline
from dicomnode.seams import checkpoint
from dicomnode.work import orders

LOGGER = logging.getLogger(__name__)

# Flushes of several files at once share the disk's journal, and encoding goes on meanwhile: 120 files of 131 kB in
# 0.15 s with four threads, in 1.0 s one after the other (MEASURED on ext4, two busy cores).
WRITERS = 4
AHEAD = 16  # encoded instances that wait for the disk, at most

# Room on the disk that a result leaves to the ledger, where deliveries and their proofs are recorded meanwhile: a
# delivery whose last answer finds no room waits until its lease has run out. Each writer may be a file ahead of it.
LEFT_FREE_BYTES = 8 << 20

VERIFY = "verify"  # the stage before the pipeline's own

# Errors in writing the result that end when somebody makes room, closes files or mounts the disk again. They do not
# count as an attempt. An error in reading the archive is a StorageError instead.
_DISK_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.EACCES}
)


class AlteredFile(Exception):
    """An archived file is missing, or its data set is not the one that was received."""

    def __init__(self, source: orders.SourceFile, found_sha256: str | None) -> None:
        super().__init__(source.file)
        self.source = source
        self.found_sha256 = found_sha256

    @property
    def sentence(self) -> str:
        """The error for an operator, with the path and the digests."""
        if self.found_sha256 is None:
            return f"Archived file {self.source.file} is missing; expected sha256 {self.source.sha256}."
        return (
            f"Archived file {self.source.file} is not what was received: expected sha256 {self.source.sha256}, "
            f"found {self.found_sha256}; it was moved to quarantine."
        )


class Models:
    """The models that this process has loaded. Each is loaded once and kept in memory."""

    def __init__(self, data: Path | None = None, *, remote: Callable[[ModelFacts], Generator] | None = None) -> None:
        """``remote`` makes generators whose weights are on other machines. None: the weights are loaded here."""
        self._data = data  # with the imported models; None: only those that came with the node
        self._remote = remote
        self._generators: dict[tuple[str, str], Generator] = {}

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the models in memory."""
        return tuple(name for name, _ in self._generators)

    def warm(self, wanted: str) -> None:
        """Load ``NAME`` or ``NAME@DIGEST`` before a job needs it.

        If it cannot be loaded, this only logs the error; a job that needs the model reports it again.
        """
        try:
            self._load(*self._find(wanted))
        except ModelError as exc:
            log.event(
                LOGGER, "model_not_loaded", level=logging.ERROR, model=wanted.partition("@")[0], sentence=exc.sentence
            )

    def seconds_for_reference(self, wanted: str, device: str) -> float | None:
        """Return how long ``NAME`` or ``NAME@DIGEST`` takes for the reference series. None: it cannot be run here.

        A job that needs the model reports the reason.
        """
        try:
            facts, place = self._find(wanted)
            return pace.seconds_for_reference(self._load(facts, place), facts.ratios, device=device)
        except (NodeError, RuntimeError) as exc:  # the second is torch's, as of a GPU without memory
            sentence = words_of(exc)
            log.event(LOGGER, "model_not_timed", level=logging.ERROR, model=wanted.partition("@")[0], sentence=sentence)
            return None

    def get(self, name: str, model_digest: str) -> tuple[ModelFacts, Generator]:
        """Return the model that a job was planned with, after comparing all its files with their digests."""
        facts, place = pinned_model(name, model_digest, self._data)
        return facts, self._load(facts, place)

    def _find(self, wanted: str) -> tuple[ModelFacts, str | Path]:
        name, _, digest = wanted.partition("@")
        return pinned_model(name, digest, self._data) if digest else (model_facts(name), name)

    def _load(self, facts: ModelFacts, place: str | Path) -> Generator:
        key = (facts.name, facts.digest)
        if key not in self._generators:
            generator = load_generator(place) if self._remote is None else self._remote(facts)
            if generator.digest != facts.digest:
                raise ModelError(f"The files of model {facts.name} changed while it was loaded; it was not used.")
            self._generators[key] = generator
        return self._generators[key]


def answer(order: orders.Order, *, device: str, models: Models, progress: Progress) -> orders.Answer:
    """Run the order and return an answer, also after an exception.

    This is a border: an unexpected exception is logged here. The process may then be in any state, so the caller should
    replace it.
    """
    stage = "start"

    def tell(name: str, share: float) -> None:
        nonlocal stage
        stage = name
        progress(name, share)

    try:
        return run(order, device=device, models=models, progress=tell)
    except Exception as exc:  # noqa: BLE001 (border: one order)
        refusal = refusal_of(exc, order)
        if refusal is not None:
            return refusal
        log.failure(LOGGER, "job_crashed", job=order.job, stage=stage)
        return orders.Failed(
            job=order.job,
            stage=stage,
            sentence=f"The job failed at “{stage}”: {words_of(exc)}; the log holds the traceback.",
            blame=blame_of(exc),
        )


def run(order: orders.Order, *, device: str, models: Models, progress: Progress) -> orders.Finished:
    """Run the order. If it raises an exception that ``refusal_of`` answers, no further attempt can succeed."""
    begun = time.monotonic()
    checkpoint("job.begun")
    progress(VERIFY, 0.0)
    paths, whose = _verified(order), _patient(order)
    facts, generator = models.get(order.parameters.model, order.parameters.model_digest)
    output = Path(order.output)
    writing: list[Future[DerivedInstance]] = []
    with ThreadPoolExecutor(WRITERS, thread_name_prefix="write") as writers:

        def write(file: DerivedFile) -> None:
            if len(writing) >= AHEAD:
                writing[-AHEAD].result()  # bounds the memory, and raises what went wrong
            writing.append(writers.submit(_write, output, file))

        result = run_pipeline(
            list(paths),
            generator=generator,
            plan=_plan(order, facts, whose),
            ratios=facts.ratios,
            device=device,
            write=write,
            digests=paths,
            progress=progress,
        )
        made = tuple(future.result() for future in writing)
    if result.series_uid is None:  # this version of the node reaches another verdict with the recorded limits
        raise InputError(result.verdict.sentence)
    durable.sync_folder(output)
    checkpoint("job.written")
    seconds = time.monotonic() - begun
    _log_stages(order, result, seconds, device)
    notes = result.notes[len(result.verdict.notes) :]  # the notes of the verdict are stored with the series already
    series = DerivedSeries(
        series_uid=result.series_uid,
        instances=made,
        notes=notes,
        objections=result.objections,
        figures=tuple(finding.figure for finding in result.findings),
        seconds=seconds,
    )
    return orders.Finished(job=order.job, series=series)


def _log_stages(order: orders.Order, result: PipelineResult, seconds: float, device: str) -> None:
    spent = ", ".join(f"{stage} {spent_s:.2f} s" for stage, spent_s in result.stages.items())
    ran_on = "" if result.network_share is None else f"; network on {result.network_share:.0%} of the pixels"
    log.event(
        LOGGER, "job_stages", level=logging.DEBUG, job=order.job, seconds=seconds, device=device, detail=spent + ran_on
    )


def refusal_of(exc: Exception, order: orders.Order) -> orders.Refused | None:
    """Return the answer to an exception that every further attempt would raise again; None for all others."""
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
    """Return the cause of a failure. It decides whether the attempt counts, and which jobs wait."""
    if isinstance(exc, StorageError):
        return orders.Blame.SOURCE
    if isinstance(exc, ClusterError):  # what ended after a worker began may have ended by the job itself
        return orders.Blame.JOB if exc.begun else orders.Blame.CLUSTER
    return orders.Blame.DISK if isinstance(exc, OSError) and exc.errno in _DISK_ERRORS else orders.Blame.JOB


def words_of(exc: Exception) -> str:
    """Return text for the sentence of a failed attempt. It never quotes text whose origin is unknown."""
    if isinstance(exc, NodeError):
        return exc.sentence
    return (exc.strerror or type(exc).__name__) if isinstance(exc, OSError) else type(exc).__name__


def _verified(order: orders.Order) -> dict[Path, str]:
    """Compare every file of the revision with the digest of what was received; return paths and digests."""
    verified = {}
    for source in order.files:
        path = Path(order.archive) / source.file
        found = _dataset_sha256(path)
        if found != source.sha256:
            raise AlteredFile(source, found)
        verified[path] = found
    return verified


def _dataset_sha256(path: Path) -> str | None:
    """SHA-256 of an archived data set, or of the whole file if it is not a DICOM file any more; None: no such file."""
    try:
        with path.open("rb") as file:
            return dataset_sha256(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:  # the disk cannot be read: the file may be intact
        raise StorageError(
            f"{path} could not be read: {exc.strerror}.",
            hint="Check that the disk is mounted and sound, and that the node's user may read it.",
        ) from exc


def _patient(order: orders.Order) -> dict[str, str] | None:
    """The patient that a peer stated and that the job pins; None: the source says whose it is. Raises InputError."""
    if (pinned := order.parameters.patient) is None:
        return None
    path = None if order.patient is None else Path(order.patient)
    if path is None or _dataset_sha256(path) != pinned:
        raise InputError(
            "What the peer said of the patient is missing, or was altered since: `dicomnode series retry` derives the "
            "series under the patient of its source; `deliveries release --refresh` asks the peer again."
        )
    return patient.decode(read_dataset(path, pixels=False))


def _plan(order: orders.Order, facts: ModelFacts, whose: dict[str, str] | None) -> DerivationPlan:
    return DerivationPlan(
        parameters=order.parameters,
        model_kind=facts.kind,
        namespace=uuid.UUID(order.node_uuid),
        ae_title=AeTitle(order.ae_title),
        derivation_number=order.derivation_number,
        created_at=order.parameters.on_pinned_clock(datetime.fromisoformat(order.created_at)),
        patient=whose,
    )


def _write(folder: Path, file: DerivedFile) -> DerivedInstance:
    """Write one encoded instance under its final name and flush it. Raises OSError, and leaves the ledger its room."""
    if shutil.disk_usage(folder).free < file.size_bytes + LEFT_FREE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    instance = new_instance_id()
    name = f"{file_stem(instance)}.dcm"
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
