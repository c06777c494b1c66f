"""One series of files → a folder of thin slices, without ledger or network.

In: the paths of the images, a loaded model, and what is drawn or read from the clock for the series (``Pins``). Out:
the folder, complete or absent, and the result of the pipeline. Writes nowhere else.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dicomnode import durable
from dicomnode.derivation import DerivationParameters
from dicomnode.derive.encode import DerivedFile
from dicomnode.derive.facts import DerivationPlan
from dicomnode.errors import InputError
from dicomnode.generators import model_dir
from dicomnode.generators.base import Generator
from dicomnode.generators.model_dir import ModelFacts
from dicomnode.ids import AeTitle
from dicomnode.imaging.verdict import Verdict
from dicomnode.pipeline import PipelineResult, Progress, run_pipeline

SPREAD_FOLDER = "spread"  # within the folder: a viewer that opens the folder as one series does not mix the two
AE_TITLE = AeTitle("DICOMNODE")  # Station Name of objects that are derived without settings
RULE = "infer"  # stands in place of a rule's name in the parameters


class KeptSeriesError(InputError):
    """The verdict is to keep the series."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(f"The series was not derived: {verdict.sentence}")
        self.verdict = verdict


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """A model in memory, and what is asked of it."""

    facts: ModelFacts
    generator: Generator
    sharpness: float | None  # None: as the model's card says
    with_uncertainty: bool
    device: str
    is_remote: bool = False  # the network runs on the workers of a cluster

    @property
    def chosen_sharpness(self) -> float | None:
        """The sharpness that the derived objects state; None: the model has one set of weights."""
        return self.facts.sharpness if self.sharpness is None else self.sharpness


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """The values that decide the bytes of a derived series beside its source and the model."""

    namespace: uuid.UUID  # of the derived UIDs
    created_at: datetime  # aware


def new_pins() -> Pins:
    """Pins that no other series has."""
    return Pins(namespace=uuid.uuid4(), created_at=datetime.now(UTC).astimezone())


def load_model(
    model: str | None,
    *,
    sharpness: float | None,
    with_uncertainty: bool,
    device: str,
    remote: Callable[[ModelFacts], Generator] | None = None,
) -> LoadedModel:
    """Load a model by its name or folder, the node's default without one. Raises ModelError.

    ``remote`` makes generators whose weights are on the workers of a cluster. None: the weights are loaded here.
    """
    facts = model_dir.model_facts(model or model_dir.default_model())
    generator = model_dir.load_generator(model or facts.name) if remote is None else remote(facts)
    if sharpness is not None:
        generator.at(sharpness)  # raises before any series is read
    return LoadedModel(
        facts=facts,
        generator=generator,
        sharpness=sharpness,
        with_uncertainty=with_uncertainty,
        device=device,
        is_remote=remote is not None,
    )


def derive_series(
    paths: Sequence[Path],
    out: Path,
    model: LoadedModel,
    pins: Pins,
    *,
    progress: Progress,
    replaces: bool = False,
    before_publishing: Callable[[PipelineResult], None] = lambda _result: None,
) -> PipelineResult:
    """Derive one series into the folder ``out``, which must be new or empty; ``replaces``: or made by this function.

    ``before_publishing`` is called when all files are on the disk and before ``out`` is there. Raises KeptSeriesError
    where the verdict is to keep the series, whatever the pipeline raises, and OSError where ``out`` cannot be written.
    """
    plan = DerivationPlan(
        parameters=DerivationParameters(
            rule=RULE, model=model.facts.name, model_digest=model.facts.digest, sharpness=model.sharpness,
            uncertainty=model.with_uncertainty or None,
        ),
        model_kind=model.facts.kind, namespace=pins.namespace, ae_title=AE_TITLE, created_at=pins.created_at,
    )  # fmt: skip
    with durable.growing_folder(out, replaces=replaces) as growing:

        def write(file: DerivedFile) -> None:
            durable.write_unflushed(growing / f"{file.instance_number:04d}.dcm", [file.content])

        def write_spread(file: DerivedFile) -> None:
            durable.make_folder(growing / SPREAD_FOLDER)
            durable.write_unflushed(growing / SPREAD_FOLDER / f"{file.instance_number:04d}.dcm", [file.content])

        result = run_pipeline(
            paths,
            generator=model.generator,
            plan=plan,
            ratios=model.facts.ratios,
            device=model.device,
            write=write,
            write_spread=write_spread,
            progress=progress,
        )
        if not result.verdict.process:
            raise KeptSeriesError(result.verdict)
        durable.flush_files(growing)
        if result.spread is not None:
            durable.sync_folder(growing / SPREAD_FOLDER)
        before_publishing(result)
    return result
