"""Every series below some folders → a folder of thin slices each, in a run that may be killed and goes on.

In: folders with DICOM files, which are only read, and a loaded model. Out: below ``out``, a folder for each series that
was derived, complete or absent, and the state file with a row for each series that was found. A series that cannot be
derived gets its reason there, and the run goes on with the next.

The folders are looked through once, when the run begins. Whoever continues it has to give the same folders and model:
``out`` holds one run.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from dicomnode import __version__, log
from dicomnode.durable import TEMPORARY_SUFFIX, lock_folder, sync_folder
from dicomnode.errors import ClusterError, InputError, ModelError, StorageError
from dicomnode.generators.kinds import Kind
from dicomnode.imaging.studies import list_files, passed_over_lines
from dicomnode.offline.series import KeptSeriesError, LoadedModel, Pins, derive_series
from dicomnode.offline.state import (
    ATTEMPTS,
    STATE_FILE,
    Found,
    Result,
    Row,
    State,
    StateFile,
    StateFileError,
    Task,
    stamp_of,
)
from dicomnode.pipeline import PipelineResult, Progress
from dicomnode.seams import checkpoint

LOGGER = logging.getLogger(__name__)

LOOKED_AT: Final = 10_000  # files between two reports of the listing
JOIN_S: Final = 0.2
CANCEL_S: Final = 10.0  # for a series that is given up
GO_ON: Final = "The same command goes on with the others."

# The choices that must not change while a run is continued → their names in a sentence.
_CHOICES: Final = {
    "version": "version of dicomnode",
    "archive": "archive",
    "model": "model",
    "model_digest": "digest of the model",
    "sharpness": "sharpness",
    "uncertainty": "choice of --uncertainty",
    "device": "kind of device",
}


@contextmanager
def open_run(out: Path, archive: Sequence[Path], model: LoadedModel, *, progress: Progress) -> Iterator[Run]:
    """Begin the run of ``out``, or go on with it, and keep every other process from doing so meanwhile.

    Raises InputError where ``out`` is no place for this run, and StorageError where it cannot be used.
    """
    places = sorted({place.resolve() for place in archive})
    choices = _choices(places, model)
    _refuse_place(out, places)
    with _locked(out), closing(StateFile(out)) as state:
        if not state.is_listed:
            _list(state, places, choices, progress)
            checkpoint("offline.listed")
        _refuse_change(out, state.choices(), choices)
        run = Run(out, state, model)
        run.take_up()
        yield run


class Run:
    """A run whose series are listed."""

    def __init__(self, out: Path, state: StateFile, model: LoadedModel) -> None:
        self._out = out
        self._state = state
        self._model = model
        self._namespace = state.namespace()
        self._stopping = threading.Event()  # no further series is begun
        self._is_cancelled = False  # what is computed elsewhere was given up, after an interrupt

    def take_up(self) -> None:
        """Settle and remove what a killed process left."""
        for left_over in self._out.glob(f"*/.dicomnode-*{TEMPORARY_SUFFIX}"):
            shutil.rmtree(left_over, ignore_errors=True)
        self._state.take_up()

    def derive_all(
        self, progress: Progress, *, others: Sequence[LoadedModel] = (), cancel: Callable[[], None] = lambda: None
    ) -> None:
        """Derive every series that waits, one at a time, and one more with each of ``others``: the same model again.

        ``cancel`` ends what the models compute elsewhere; it is called after an interrupt. Raises StorageError where
        ``out`` cannot be written, and ClusterError where the cluster cannot be reached or no worker offers the model;
        whatever ends the run, the same command goes on.
        """
        told = _Told(progress, self._state.counts())
        if others:
            self._derive_at_once([self._model, *others], told, cancel)
        # A series whose attempt was lost runs by itself: if it ends the process again, no other series is lost with it.
        self._derive_waiting(self._model, told, only_new=False)

    def _derive_at_once(self, models: Sequence[LoadedModel], told: _Told, cancel: Callable[[], None]) -> None:
        """Derive every series that has not been tried yet, one with each model at a time."""
        errors: list[BaseException] = []

        def derive(model: LoadedModel) -> None:
            try:
                self._derive_waiting(model, told, only_new=True)
            except BaseException as exc:  # noqa: BLE001 (raised below, in the thread that waits)
                errors.append(exc)
                self._stopping.set()

        threads = [threading.Thread(target=derive, args=(model,), name="derive", daemon=True) for model in models]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():  # an interrupt is noticed between two waits
                    thread.join(JOIN_S)
        except KeyboardInterrupt:
            self._stopping.set()
            self._is_cancelled = True
            cancel()
            for thread in threads:
                thread.join(CANCEL_S)
            raise
        if errors:
            raise errors[0]

    def _derive_waiting(self, model: LoadedModel, told: _Told, *, only_new: bool) -> None:
        """Derive one series after the other."""
        while not self._stopping.is_set():
            task = self._state.next_task(datetime.now(UTC).astimezone(), only_new=only_new)
            if task is None:
                return
            try:
                told.begun()
                checkpoint("offline.begun")
                if self._derive(task, model):
                    told.ended()
                elif self._is_cancelled:
                    self._state.give_back(task.id)
            except KeyboardInterrupt:
                self._state.give_back(task.id)
                raise
            except ClusterError as exc:
                self._state.give_back(task.id)
                raise ClusterError(f"{exc.sentence} {self.sentence()}", hint=f"{exc.hint} {GO_ON}".strip()) from exc

    def sentence(self) -> str:
        """Count the series in each state, in one sentence."""
        counts = self._state.counts()
        parts = ", ".join(f"{count} {state}" for state, count in counts.items())
        return f"Of {sum(counts.values())} series: {parts}."

    @property
    def is_complete(self) -> bool:
        """Was every series derived?"""
        return set(self._state.counts()) == {State.DERIVED}

    def passed_over(self) -> list[str]:
        """A line for each reason for which files were passed over."""
        return self._state.passed_over()

    def rows(self) -> list[Row]:
        """Every series, by its id."""
        return list(self._state.rows())

    def _derive(self, task: Task, model: LoadedModel) -> bool:
        """Derive one series and keep what became of it; False: its call was lost or cancelled, and it still waits."""
        begun = time.monotonic()

        def keep(result: PipelineResult) -> None:
            checkpoint("offline.written")
            self._state.made(task.id, _result(result, time.monotonic() - begun))
            checkpoint("offline.made")

        def not_derived(state: State, reason: str, sentence: str) -> None:
            self._state.not_derived(task.id, state, reason, sentence)

        try:
            if stamp_of(task.paths) != task.stamp:
                not_derived(State.REFUSED, "changed", "Its files have changed since the run began.")
                return True
        except OSError as exc:
            not_derived(State.UNREADABLE, "unreadable", f"A file cannot be read: {exc.strerror}.")
            return True
        out = self._state.folder(task.id)
        try:
            if not out.parent.is_dir():
                out.parent.mkdir()
                sync_folder(self._out)
            derive_series(
                task.paths,
                out,
                model,
                Pins(namespace=self._namespace, created_at=task.began_at),
                progress=lambda _stage, _share: None,
                replaces=True,  # only a power cut leaves a folder whose row does not say so
                before_publishing=keep,
            )
        except StateFileError:
            raise
        except ClusterError as exc:
            if self._is_cancelled:
                return False
            if not exc.begun:
                raise
            # The worker died at it, perhaps by it: the others come first, and after a few times it is not tried again.
            if task.attempts >= ATTEMPTS:
                not_derived(State.FAILED, "lost", exc.sentence)
                return True
            log.event(LOGGER, "series_lost", level=logging.WARNING, series=task.id, sentence=exc.sentence)
            return False
        except KeptSeriesError as exc:
            not_derived(State.REFUSED, exc.verdict.reason, exc.verdict.sentence)
        except InputError as exc:
            not_derived(State.REFUSED, "undecodable", exc.sentence)
        except StorageError as exc:
            not_derived(State.UNREADABLE, "unreadable", exc.sentence)
        except ModelError as exc:
            not_derived(State.FAILED, "model", exc.sentence)
        except OSError as exc:  # of the files that are written: those that are read raise StorageError
            raise StorageError(
                f"{out} could not be written: {exc.strerror}. {self.sentence()}",
                hint=f"See that the disk has room and may be written to. {GO_ON}",
            ) from exc
        except Exception as exc:  # noqa: BLE001 (border: one series of many)
            if self._is_cancelled:  # whatever it is: the connection to the cluster was taken away
                return False
            log.failure(LOGGER, "series_crashed", series=task.id)
            not_derived(State.FAILED, "crashed", f"Unexpected {type(exc).__name__}; the log holds the traceback.")
        else:
            checkpoint("offline.published")
            self._state.derived(task.id)
        return True


class _Told:
    """Reports the progress of the run, from several threads."""

    def __init__(self, progress: Progress, counts: Mapping[State, int]) -> None:
        self._progress = progress
        self._total = sum(counts.values())
        self._done = self._total - counts.get(State.WAITING, 0)
        self._lock = threading.Lock()

    def begun(self) -> None:
        """One more series is begun."""
        with self._lock:
            self._progress(f"series {self._done + 1} of {self._total}", self._done / self._total)

    def ended(self) -> None:
        """One more series is done with."""
        with self._lock:
            self._done += 1


def _choices(places: Sequence[Path], model: LoadedModel) -> dict[str, object]:
    return {
        "version": __version__,
        "archive": list(map(str, places)),
        "model": model.facts.name,
        "model_digest": model.facts.digest,
        "sharpness": model.chosen_sharpness,
        "uncertainty": model.with_uncertainty,
        "device": _kind_of_device(model),
    }


def _kind_of_device(model: LoadedModel) -> str:
    """The kind of device: a network's last digits differ between CPU and GPU, and an interpolation runs on the CPU."""
    if model.is_remote:
        return "cluster"
    if model.facts.kind is Kind.CUBIC_DC:
        return "cpu"
    from dicomnode.generators.device import choose_device  # torch

    return choose_device(model.device).type


def _refuse_place(out: Path, places: Sequence[Path]) -> None:
    place = out.resolve()
    for folder in places:
        if place.is_relative_to(folder):
            raise InputError(
                f"{out} lies in {folder}, which is only read; nothing was derived.", hint="Name a folder outside of it."
            )
    if place.exists() and not (place / STATE_FILE).is_file() and (not place.is_dir() or any(place.iterdir())):
        raise InputError(
            f"{out} is not empty and holds no run of this command; nothing was derived.", hint="Name a new folder."
        )


def _refuse_change(out: Path, then: Mapping[str, object], now: Mapping[str, object]) -> None:
    changed = [name for name in _CHOICES if then.get(name) != now[name]]
    if changed:
        differences = "; ".join(
            f"the {_CHOICES[name]} was {_words(then.get(name))} and is {_words(now[name])} now" for name in changed
        )
        raise InputError(
            f"{out} holds another run: {differences}. Nothing was derived.",
            hint="Give what that run was begun with, or name a new folder.",
        )


def _words(choice: object) -> str:
    return ", ".join(map(str, choice)) if isinstance(choice, list) else str(choice)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keep every other process from working on the folder."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = lock_folder(out)
    except BlockingIOError as exc:
        raise StorageError(
            f"Another process derives series into {out}; nothing was done.", hint="Wait for it, or stop it."
        ) from exc
    except OSError as exc:
        raise StorageError(
            f"{out} could not be made: {exc.strerror}; nothing was derived.",
            hint="See that the folder above it may be written to and that the disk has room.",
        ) from exc
    try:
        yield
    finally:
        os.close(descriptor)


def _list(state: StateFile, places: Sequence[Path], choices: Mapping[str, object], progress: Progress) -> None:
    """Look through the archive and keep what is there."""

    def tell(count: int) -> None:
        if count % LOOKED_AT == 0:
            progress(f"{count} files looked at", 0.0)

    progress("looking for series", 0.0)
    listed = list_files(places, progress=tell)
    passed_over = passed_over_lines({**listed.passed_over, **dict.fromkeys(listed.nifti, "a NIfTI file, not DICOM")})
    if not listed.series:
        raise InputError(f"There is no DICOM series in {', '.join(map(str, places))}.", hint="\n  ".join(passed_over))
    found = (Found(paths=one.paths, stamp=_stamp(one.paths), fault=one.fault) for one in listed.series)
    state.list_series(choices, found, passed_over=passed_over)


def _stamp(paths: Sequence[Path]) -> str:
    try:
        return stamp_of(paths)
    except OSError:  # it has changed since it was listed
        return ""


def _result(result: PipelineResult, seconds: float) -> Result:
    verdict = result.verdict
    assert result.ratio
    assert verdict.slice_spacing_mm
    assert verdict.thin_spacing_mm
    return Result(
        thick=verdict.slices, thin=len(result.instances), ratio=result.ratio,
        slice_spacing_mm=verdict.slice_spacing_mm, thin_spacing_mm=verdict.thin_spacing_mm,
        network_share=None if result.network_share is None else round(result.network_share, 3),
        notes=result.notes, gate=result.objections, seconds=round(seconds, 3),
    )  # fmt: skip
