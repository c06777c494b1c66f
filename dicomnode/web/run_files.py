"""Read training runs from their files: plan, journals, models, evaluations, reader studies.

In: the folder of ``web.runs``, which holds a folder for each run (docs/training.md#6-interrupt-resume-repeat). Out:
frozen values. The trainer is not needed here, and the files are not trusted: a file that is too large, a link, or of
another form is left out, and a sentence says so. Only counts of the plan are shown, never its paths.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dicomnode.errors import InputError

PLAN: Final = "plan.json"  # files of a run, as the trainer and its commands name them
JOURNAL: Final = "metrics.jsonl"
MODELS: Final = "models"
REPORT: Final = "report.json"
REPORT_PAGE: Final = "report.html"
READERS: Final = "readers.json"  # output of `dicomnode evaluate --reader-scores … --json`

LARGEST_BYTES: Final = 32 << 20  # of a file: a journal of 300,000 steps is 3 MB, a report with pictures 10 MB
MOST_RUNS: Final = 200
MOST_PARTS: Final = 64  # folders of one run that are read
POINTS: Final = 130  # of a curve, at most

File = TypeVar("File", bound=BaseModel)


def _finite(value: object) -> object:
    """Replace NaN and infinity, as a diverged run writes them, by None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Line(_Read):
    """A line of a journal; a value that is absent was not measured."""

    step: int = Field(ge=0)
    steps: int = Field(ge=0)
    loss: Number = None
    learning_rate: Number = None
    gradient_norm: Number = None
    images_per_s: Number = None
    seconds_left: Number = None
    discriminator_loss: Number = None
    accuracy: Number = None
    adversarial_gradient: Number = None
    validation_psnr: Number = None


class _Stage(_Read):
    name: str


class _Recipe(_Read):
    name: str
    about: str = ""
    stage: tuple[_Stage, ...] = ()


class _Source(_Read):
    subject: str
    split: str


class Plan(_Read):
    """The part of a plan that is shown."""

    recipe: _Recipe
    steps: tuple[int, ...] = ()
    seed: int = 0
    precision: str = ""
    sources: tuple[_Source, ...] = ()

    def people(self, split: str) -> int:
        """Return the number of people whose volumes are in a split."""
        return len({source.subject for source in self.sources if source.split == split})

    def volumes(self, split: str) -> int:
        """Return the number of volumes in a split."""
        return sum(source.split == split for source in self.sources)


class _Estimate(_Read):
    subjects: int
    mean: Number = None
    low: Number = None
    high: Number = None


class EstimateRow(_Read):
    """A measure of one method over the subjects of a group."""

    group: str
    method: str
    measure: str
    estimate: _Estimate


class Evaluation(_Read):
    """The part of an evaluation's report that is shown."""

    estimates: tuple[EstimateRow, ...]
    notes: tuple[str, ...] = ()


class Interval(_Read):
    """The interval that holds 95 % of the bootstrap's means."""

    low: float
    high: float


class MethodScore(_Read):
    """The scores of one method for one question of a reader study."""

    method: str
    question: str
    mean: float
    interval: Interval | None = None
    to_reference: float | None = None
    to_reference_interval: Interval | None = None


class _Agreement(_Read):
    question: str
    inter_reader_icc: float | None = None
    intra_reader_kappa: float | None = None


class ReaderStudy(_Read):
    """The results of a reader study."""

    title: str
    readers: tuple[object, ...]
    cases: int
    panels: int
    methods: tuple[MethodScore, ...]
    agreement: tuple[_Agreement, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One value of the journal over the steps."""

    name: str
    values: tuple[float | None, ...]  # at most ``POINTS``, evenly over the steps done; means where there were more
    first: float
    last: float
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage of a run, as far as it has come."""

    name: str
    step: int
    steps: int
    last: Line
    last_at: datetime
    curves: tuple[Curve, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An evaluation in a folder of the run."""

    folder: str
    evaluation: Evaluation
    has_page: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A training run: one folder of ``web.runs``."""

    name: str
    plan: Plan | None
    stages: tuple[Stage, ...]
    models: tuple[str, ...]
    reports: tuple[Report, ...]
    readers: tuple[tuple[str, ReaderStudy], ...]  # with the name of their folder; empty: the run itself
    faults: tuple[str, ...]  # sentences on files that could not be read
    changed_at: datetime


CURVES: Final = {
    "loss": "loss",
    "validation_psnr": "PSNR on validation samples, dB",
    "learning_rate": "learning rate",
    "gradient_norm": "gradient norm",
    "images_per_s": "images per second",
    "discriminator_loss": "loss of the discriminator",
    "accuracy": "share of pairs in which the discriminator is right",
    "adversarial_gradient": "adversarial gradient ÷ that of the other terms",
}


class _File(Generic[File]):
    """The content of one file, or a sentence that says why it was not read."""

    def __init__(self, path: Path, shape: type[File]) -> None:
        self.value: File | None = None
        self.fault = ""
        content = read_bytes(path)
        if content is None:
            self.fault = "" if not path.exists() else f"{path.name} is a link, too large, or cannot be read."
            return
        try:
            self.value = shape.model_validate_json(content)
        except ValidationError:
            self.fault = f"{path.name} is not what the trainer writes."


class RunFiles:
    """The runs below a folder. A run is read again only where one of its files has changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._known: dict[str, tuple[tuple[tuple[str, int, int], ...], Run]] = {}

    def runs(self) -> list[Run]:
        """List all runs, the one that changed last first. Raises InputError where the folder cannot be read."""
        try:
            folders = sorted(path for path in self._folder.iterdir() if _is_folder(path))
        except OSError as exc:
            raise InputError(
                f"The folder of the runs cannot be read: {exc.strerror}.", hint="The key web.runs names it."
            ) from exc
        with self._lock:
            found = {path.name: self._read(path) for path in folders[:MOST_RUNS]}
            self._known = found
        return sorted(
            (run for _, run in found.values() if run.plan or run.stages or run.reports or run.readers),
            key=lambda run: run.changed_at,
            reverse=True,
        )

    def page_of(self, run: str, folder: str) -> bytes:
        """Return the page of an evaluation. Raises InputError where there is none."""
        for one in self.runs():
            if one.name == run and any(report.folder == folder and report.has_page for report in one.reports):
                content = read_bytes(self._folder / run / folder / REPORT_PAGE)
                if content is not None:
                    return content
        raise InputError("There is no such report.")

    def _read(self, path: Path) -> tuple[tuple[tuple[str, int, int], ...], Run]:
        parts = [path, *sorted(part for part in path.iterdir() if _is_folder(part))[:MOST_PARTS]]
        seen = tuple(_seen(path, parts))
        known = self._known.get(path.name)
        return known if known is not None and known[0] == seen else (seen, read_run(path, parts, seen))


def read_run(path: Path, parts: Sequence[Path], seen: Sequence[tuple[str, int, int]]) -> Run:
    """Read one run. ``parts``: its folder, and those in it; ``seen``: its files with their times, in ns, and sizes."""
    faults: list[str] = []

    def read(file: Path, shape: type[File]) -> File | None:
        found = _File(file, shape)
        if found.fault:
            faults.append(f"{path.name}/{file.relative_to(path).parent}: {found.fault}".replace("/.:", ":"))
        return found.value

    plan = read(path / PLAN, Plan)
    names = [stage.name for stage in plan.recipe.stage] if plan else []
    stages = [stage for part in parts if (stage := _stage(part, faults)) is not None]
    reports = [
        Report(folder=_below(part, path), evaluation=evaluation, has_page=_is_file(part / REPORT_PAGE))
        for part in parts
        if (evaluation := read(part / REPORT, Evaluation)) is not None
    ]
    studies = [
        (_below(part, path), study) for part in parts if (study := read(part / READERS, ReaderStudy)) is not None
    ]
    made = path / MODELS
    return Run(
        name=path.name,
        plan=plan,
        stages=tuple(sorted(stages, key=lambda one: names.index(one.name) if one.name in names else len(names))),
        models=tuple(sorted(one.name for one in made.iterdir() if _is_folder(one))) if _is_folder(made) else (),
        reports=tuple(reports),
        readers=tuple(studies),
        faults=tuple(faults),
        changed_at=datetime.fromtimestamp(max((at for _, at, _ in seen), default=0) / 1e9, UTC),
    )


def read_bytes(path: Path) -> bytes | None:
    """Read a plain file that is not too large; None for anything else."""
    try:
        return path.read_bytes() if _is_file(path) and path.stat().st_size <= LARGEST_BYTES else None
    except OSError:
        return None


def _stage(folder: Path, faults: list[str]) -> Stage | None:
    journal = folder / JOURNAL
    content = read_bytes(journal)
    if content is None:
        return None
    lines: dict[int, Line] = {}
    for text in content.splitlines():
        try:
            line = Line.model_validate_json(text)
        except ValidationError:
            continue  # the last line of a run that goes on may be half written
        lines = {step: one for step, one in lines.items() if step < line.step} if line.step in lines else lines
        lines[line.step] = line  # after a kill a run goes back to where it was saved
    if not lines:
        faults.append(f"{folder.name}: {JOURNAL} holds no line.")
        return None
    ordered = [lines[step] for step in sorted(lines)]
    last = ordered[-1]
    return Stage(
        name=folder.name,
        step=last.step,
        steps=last.steps,
        last=last,
        last_at=datetime.fromtimestamp(journal.stat().st_mtime, UTC),
        curves=tuple(
            curve for key, name in CURVES.items() if (curve := _curve(name, key, ordered, last.step)) is not None
        ),
    )


def _curve(name: str, key: str, lines: Sequence[Line], last_step: int) -> Curve | None:
    known = [(line.step, float(value)) for line in lines if (value := getattr(line, key)) is not None]
    if not known:
        return None
    places = min(POINTS, len(known))
    sums, counts = [0.0] * places, [0] * places
    for step, value in known:
        place = min(int(places * max(step - 1, 0) / max(last_step, 1)), places - 1)  # a line closes its steps
        sums[place] += value
        counts[place] += 1
    values = [value for _, value in known]
    return Curve(
        name=name,
        values=tuple(total / count if count else None for total, count in zip(sums, counts, strict=True)),
        first=values[0],
        last=values[-1],
        lowest=min(values),
        highest=max(values),
    )


def _seen(run: Path, parts: Sequence[Path]) -> Iterator[tuple[str, int, int]]:
    for part in parts:
        for name in (PLAN, JOURNAL, REPORT, REPORT_PAGE, READERS):
            if _is_file(part / name):
                facts = (part / name).stat()
                yield f"{_below(part, run)}/{name}", facts.st_mtime_ns, facts.st_size


def _below(part: Path, run: Path) -> str:
    return "" if part == run else part.name


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not path.name.startswith(".")


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
