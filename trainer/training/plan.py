"""The plan of a run: everything that decides its weights, in one file of the run's folder.

RUN/plan.json                      written first; whoever goes on with the run reads nothing else
RUN/<stage>/last.safetensors       state after the last steps, enough to go on bit for bit
RUN/<stage>/best.safetensors       the weights that did best on the validation subjects so far
RUN/<stage>/metrics.jsonl          one line every so many steps
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from dicomnode import durable
from dicomnode.errors import InputError
from dicomnode.generators.card import DataRow
from dicomnode.strict_toml import StrictModel
from trainer.data.pairs import Matches
from trainer.data.register import Registration
from trainer.data.sources import Source, Split
from trainer.training.recipe import Recipe

PLAN_FILE = "plan.json"


class PairKind(StrEnum):
    """The kinds of pairs that a slice-by-slice network can be shown."""

    SIMULATED = "simulated"
    REAL = "real"
    BOTH = "both"


class Use(StrEnum):
    """The uses of a source in a run."""

    THIN = "thin"  # thick slices are simulated from it; also the thin side of a real pair
    THICK = "thick"  # the thick side of a real pair
    IN_PLANE = "in_plane"  # a thick stack whose own rows and columns are taken as slices


class PlannedSource(StrictModel):
    """A ``Source`` in the file."""

    label: str
    subject: str
    split: Split
    licence: str
    paths: Annotated[tuple[Path, ...], Field(min_length=1)]
    use: Use
    size_bytes: int  # of all its files: a run does not go on with other data

    def source(self) -> Source:
        """The ``Source`` that the rest of the trainer uses."""
        return Source(label=self.label, subject=self.subject, split=self.split, licence=self.licence, paths=self.paths)


class PlannedPair(StrictModel):
    """A real pair, as it was found and registered when the run was planned."""

    thick: str  # labels of sources
    thin: str
    matches: Matches
    registration: Registration | None
    contrast: tuple[str, ...] = ()  # differences that were allowed


class Plan(StrictModel):
    """The plan of a run, as the module describes it."""

    recipe: Recipe
    steps: tuple[int, ...]  # of each stage; one without steps is passed over
    seed: int
    precision: Literal["float32", "bfloat16"]  # of weights and activations; the master copy is float32
    sources: Annotated[tuple[PlannedSource, ...], Field(min_length=1)]
    pairs: PairKind = PairKind.SIMULATED
    real: tuple[PlannedPair, ...] = ()
    begin_with: str | None = None  # a model's name or folder, whose weights the first stage begins with
    begin_digest: str | None = None
    begin_data: tuple[DataRow, ...] = ()  # what that model was trained on: it is in the new weights too
    features_file: Path | None = None
    features_sha256: str | None = None

    def of_split(self, split: Split) -> tuple[PlannedSource, ...]:
        """The sources of one split."""
        return tuple(source for source in self.sources if source.split is split)

    def first_step(self, stage: int) -> int:
        """The number, over the whole run, of the first step of a stage: samples are drawn by it."""
        return sum(self.steps[:stage])


def planned(source: Source, use: Use) -> PlannedSource:
    """The source with the size of its files."""
    return PlannedSource(
        label=source.label,
        subject=source.subject,
        split=source.split,
        licence=source.licence,
        paths=tuple(path.resolve() for path in source.paths),
        use=use,
        size_bytes=sum(path.stat().st_size for path in source.paths),
    )


def write(plan: Plan, run: Path) -> None:
    """Begin a run; InputError where the folder holds one already."""
    refuse_used(run)
    run.mkdir(parents=True, exist_ok=True)
    durable.write_file(run / PLAN_FILE, [json.dumps(plan.model_dump(mode="json"), indent=1).encode() + b"\n"])


def refuse_used(run: Path) -> None:
    """InputError where a run cannot begin in the folder; what one left that was killed here is not in the way."""
    if run.exists() and (not run.is_dir() or not all(map(durable.is_left_over, run.iterdir()))):
        raise InputError(
            f"{run} is not empty; nothing was trained.", hint="Go on with a run by --resume, or name a new folder."
        )


def withdraw(run: Path) -> None:
    """Take a plan back that could not be begun with: what ``write`` made, and folders of its stages without a file."""
    names = [stage["name"] for stage in json.loads((run / PLAN_FILE).read_bytes())["recipe"]["stage"]]
    stages = [run / name for name in names if (run / name).is_dir()]
    if not any(any(stage.iterdir()) for stage in stages):
        (run / PLAN_FILE).unlink()
        for stage in stages:
            stage.rmdir()


def read(run: Path) -> Plan:
    """The plan of a run; InputError where there is none, or where its data are no longer what they were."""
    path = run / PLAN_FILE
    try:
        plan = Plan.model_validate_json(path.read_bytes())
    except OSError as exc:
        raise InputError(f"{run} holds no run: {PLAN_FILE} cannot be read.", hint="Name the folder of --out.") from exc
    except ValidationError as exc:
        raise InputError(f"{path} is not the plan of a run of this version.", hint="Begin a new run.") from exc
    for source in plan.sources:
        there = all(path.is_file() for path in source.paths)
        if not there or source.size_bytes != sum(path.stat().st_size for path in source.paths):
            raise InputError(
                f"The files of {source.label} are not those that the run began with; nothing was trained.",
                hint="Put them back, or begin a new run.",
            )
    return plan
