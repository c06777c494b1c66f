"""``dicomnode infer`` derives one series from a folder of DICOM files, without ledger or network."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dicomnode.cli import output
from dicomnode.cli.options import device_option, json_option, kept, new_folder
from dicomnode.errors import InputError

if TYPE_CHECKING:
    from dicomnode.generators.spread import Spread
    from dicomnode.pipeline import PipelineResult

UNDONE = "nothing was derived"
SPREAD_FOLDER = "spread"  # within OUT: a viewer that opens OUT as one series does not mix the two
AE_TITLE = "DICOMNODE"  # Station Name of objects that are derived without settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """The result that is printed."""

    thick: int  # slices
    thin: int
    ratio: int
    slice_spacing_mm: float
    thin_spacing_mm: float
    model: str
    model_digest: str
    sharpness: float | None  # None: the model has one set of weights
    device: str
    network_share: float | None  # of the pixels that a network ran on, around the body; None: there was none
    stages: dict[str, float]  # name → seconds
    notes: tuple[str, ...]
    spread: Spread | None  # where --uncertainty asked for it
    spread_out: Path | None  # the folder of its series
    gate: tuple[str, ...]  # what the result gate found; the node would hold the delivery of such a series
    out: Path


@click.command(short_help="Derive one series from a folder of DICOM files.")
@click.argument("source", metavar="SRC", type=click.Path(exists=True, path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--model",
    metavar="NAME|DIR",
    default=None,
    help="Use this model: a name that `dicomnode model list` shows, or a model directory. Default: the node's default.",
)
@click.option(
    "--sharpness",
    metavar="SHARE",
    type=click.FloatRange(0.0, 1.0),
    default=None,
    help="Go this share of the way, 0 to 1, from the model's fidelity weights to its adversarial ones. "
    "Default: the share that the model's card states.",
)
@click.option(
    "--uncertainty",
    is_flag=True,
    help="Also say how far the thin slices lie apart when the series is turned and mirrored in 16 ways, which takes 16 "
    "times as long, and write a series that shows it voxel by voxel into OUT/spread. Default: do not.",
)
@device_option
@json_option
def infer(
    source: Path, out: Path, model: str | None, sharpness: float | None, uncertainty: bool, device: str, as_json: bool
) -> None:
    """Derive the one series in folder SRC and below, and write the thin slices into OUT, a new or empty folder.

    Each run makes new UIDs. Exit code 2 if SRC holds no series or several, or if the series cannot be derived.
    """
    new_folder(out, UNDONE)
    paths, passed_over = _one_series(source)
    with output.progress_bar(str(source), quiet=as_json) as progress:
        derived = _derive(paths, out, model, sharpness, device, progress, uncertainty=uncertainty)
    output.print_facts(replace(derived, notes=(*passed_over, *derived.notes)), as_json=as_json)


def _one_series(source: Path) -> tuple[list[Path], list[str]]:
    """The files of the only series, and notes on what was passed over. Raises InputError unless there is one."""
    from dicomnode.pipeline import series_in

    passed_over: list[str] = []
    found = list(series_in(source, note=passed_over.append).values())
    if len(found) == 1:
        return found[0], passed_over
    if not found:
        raise InputError(f"There is no DICOM series in {source}.", hint="\n  ".join(passed_over))
    places = "".join(f"\n  {len(paths)} images from {paths[0]}" for paths in found)
    raise InputError(f"{source} holds {len(found)} series:{places}", hint="Name a folder that holds one of them.")


def _derive(
    paths: list[Path],
    out: Path,
    model: str | None,
    sharpness: float | None,
    device: str,
    progress: Callable[[str, float], None],
    *,
    uncertainty: bool,
) -> Derived:
    from dicomnode import durable, log
    from dicomnode.derivation import DerivationParameters
    from dicomnode.derive.encode import DerivedFile
    from dicomnode.derive.facts import DerivationPlan
    from dicomnode.generators import model_dir
    from dicomnode.ids import AeTitle
    from dicomnode.pipeline import run_pipeline

    log.start_logging("warning", "auto")  # says when a slower device is used, or less memory is free than expected
    facts = model_dir.model_facts(model or model_dir.default_model())
    plan = DerivationPlan(
        parameters=DerivationParameters(
            rule="infer", model=facts.name, model_digest=facts.digest, sharpness=sharpness,
            uncertainty=uncertainty or None,
        ),
        model_kind=facts.kind, namespace=uuid.uuid4(), ae_title=AeTitle(AE_TITLE),
        created_at=datetime.now(UTC).astimezone(),
    )  # fmt: skip
    generator = model_dir.load_generator(model or facts.name)
    with kept(out, UNDONE), durable.growing_folder(new_folder(out, UNDONE)) as growing:

        def write(file: DerivedFile) -> None:
            durable.write_file(growing / f"{file.instance_number:04d}.dcm", [file.content])

        def write_spread(file: DerivedFile) -> None:
            durable.make_folder(growing / SPREAD_FOLDER)
            durable.write_file(growing / SPREAD_FOLDER / f"{file.instance_number:04d}.dcm", [file.content])

        result = run_pipeline(
            paths,
            generator=generator,
            plan=plan,
            ratios=facts.ratios,
            device=device,
            write=write,
            write_spread=write_spread,
            progress=progress,
        )
        if result.spread is not None:
            durable.sync_folder(growing / SPREAD_FOLDER)
        chosen = facts.sharpness if sharpness is None else sharpness
        return _derived(result, facts.name, facts.digest, chosen, device, out)


def _derived(
    result: PipelineResult, model: str, digest: str, sharpness: float | None, device: str, out: Path
) -> Derived:
    verdict = result.verdict
    if not verdict.process:
        raise InputError(f"The series was not derived: {verdict.sentence}")
    assert result.ratio
    assert verdict.slice_spacing_mm
    assert verdict.thin_spacing_mm
    return Derived(
        thick=verdict.slices, thin=len(result.instances), ratio=result.ratio,
        slice_spacing_mm=verdict.slice_spacing_mm, thin_spacing_mm=verdict.thin_spacing_mm, model=model,
        model_digest=digest, sharpness=sharpness, device=device, notes=result.notes, out=out,
        spread=result.spread, spread_out=None if result.spread is None else out / SPREAD_FOLDER,
        network_share=None if result.network_share is None else round(result.network_share, 3),
        gate=tuple(f"{sentence}; the node would hold the delivery" for sentence in result.objections),
        stages={name: round(seconds, 3) for name, seconds in result.stages.items()},
    )  # fmt: skip
