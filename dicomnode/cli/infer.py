"""``dicomnode infer`` derives one series, or every series of an archive, without ledger or network."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import click

from dicomnode.cli import output
from dicomnode.cli.cluster import CLUSTER_HINT, cluster_settings
from dicomnode.cli.options import config_option, device_option, json_option, kept, new_folder, refuse_given
from dicomnode.cli.several import SeveralValues
from dicomnode.errors import InputError, SettingsError

if TYPE_CHECKING:
    from dicomnode.generators.spread import Spread
    from dicomnode.offline.many import Run
    from dicomnode.offline.series import LoadedModel
    from dicomnode.pipeline import PipelineResult
    from dicomnode.work.cluster import Cluster
    from dicomnode.work.remote import Link

UNDONE = "nothing was derived"
NOT_ALL = 2  # exit code
ROWS_SHOWN = 100  # of an archive in a table; JSON has all
MOST_SLOTS = 8  # unless more are asked for: each holds a series in memory, and encodes it on this machine
COLUMNS = {
    "id": "id", "state": "state", "reason": "reason", "images": "images", "thin": "thin", "first": "first image",
    "trouble": "why",
}  # fmt: skip


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
    network_share: float | None  # share of the pixels, around the body, that a network ran on; None: no network
    stages: dict[str, float]  # name → seconds
    notes: tuple[str, ...]
    spread: Spread | None  # None without --uncertainty
    spread_out: Path | None  # the folder of its series
    gate: tuple[str, ...]  # objections of the result gate; the node would hold the delivery of such a series
    out: Path


@click.command(cls=SeveralValues, short_help="Derive one series, or a whole archive, without a node.")
@click.argument("source", metavar="SRC", required=False, type=click.Path(exists=True, path_type=Path))
@click.argument("out", metavar="OUT", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--archive",
    metavar="DIR…",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Derive every series in these folders and below instead of the one in SRC. Default: derive the one in SRC.",
)
@click.option(
    "--out",
    "archive_out",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="With --archive, write the thin series below DIR, which is new or empty, or holds the run that is to go on.",
)
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
@click.option(
    "--cluster",
    is_flag=True,
    help="Run the model on the workers of the cluster that the settings name (work.cluster). Default: on this machine.",
)
@click.option(
    "--slots",
    metavar="N",
    type=click.IntRange(1, 64),
    default=None,
    help="With --archive and --cluster, derive N series at once. Default: one for each worker that offers the model, "
    "8 at most.",
)
@device_option
@config_option
@json_option
def infer(
    source: Path | None, out: Path | None, archive: tuple[Path, ...], archive_out: Path | None, model: str | None,
    sharpness: float | None, uncertainty: bool, cluster: bool, slots: int | None, device: str, config: Path | None,
    as_json: bool,
) -> int:  # fmt: skip
    """Derive the one series in folder SRC and below, and write the thin slices into OUT, a new or empty folder.

    Each run makes new UIDs. Exit code 2 if SRC holds no series or several, or if the series cannot be derived.

    With --archive DIR… --out DIR, derive every series of an archive. A run that was interrupted or killed goes on where
    it was when the same command is given again. Exit code 2 if a series could not be derived.
    """
    if not cluster:
        refuse_given({"config", "slots"}, "without --cluster", "Leave it out, or give --cluster.")
    if archive:
        if source or not archive_out:
            raise click.UsageError("With --archive, name the folder for the results with --out, and no SRC and OUT.")
        with _Models(model, sharpness, uncertainty, device, _cluster(config, device) if cluster else None) as models:
            return _derive_archive(archive, archive_out, models, slots, as_json=as_json)
    refuse_given({"archive_out", "slots"}, "without --archive", "Name the folder as OUT, behind SRC.")
    if source is None or out is None:
        raise click.UsageError("Name SRC and OUT, or --archive DIR… and --out DIR.")
    new_folder(out, UNDONE)
    paths, passed_over = _one_series(source)
    from dicomnode.offline.series import derive_series, new_pins

    models = _Models(model, sharpness, uncertainty, device, _cluster(config, device) if cluster else None)
    with output.progress_bar(str(source), quiet=as_json) as progress, models:
        loaded = models.load()
        with kept(out, UNDONE):
            result = derive_series(paths, new_folder(out, UNDONE), loaded, new_pins(), progress=progress)
    derived = _derived(result, loaded, out)
    output.print_facts(replace(derived, notes=(*passed_over, *derived.notes)), as_json=as_json)
    return 0


@dataclass(slots=True)
class _Models:
    """Loads the wanted model once for each series at a time, and closes its links to the cluster at the end."""

    model: str | None
    sharpness: float | None
    uncertainty: bool
    device: str
    cluster: Cluster | None
    links: list[Link] = field(default_factory=list)

    def load(self) -> LoadedModel:
        """Load the model here, or find it on the cluster over one more link."""
        from dicomnode import log
        from dicomnode.offline.series import load_model

        log.start_logging("warning", "auto")  # warns when a slower device is used, or less memory is free than expected
        remote = None
        if self.cluster is not None:
            from dicomnode.work.remote import Link

            self.links.append(Link(self.cluster))
            remote = self.links[-1].generator
        return load_model(
            self.model, sharpness=self.sharpness, with_uncertainty=self.uncertainty, device=self.device, remote=remote
        )

    def slots(self, asked: int | None, loaded: LoadedModel) -> int:
        """Return the number of series to derive at once; without ``asked``, one here, or one for each worker."""
        if asked is not None or not self.links:
            return asked or 1
        return max(1, min(self.links[0].workers_of(loaded.facts.digest), MOST_SLOTS))

    def close(self) -> None:
        """End the computations of the cluster for this process."""
        for link in self.links:
            link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _cluster(config: Path | None, device: str) -> Cluster:
    """Return the cluster of the settings. Raises SettingsError where none is named."""
    settings = cluster_settings(config)
    if not settings.work.cluster:
        raise SettingsError("--cluster needs work.cluster, the address of the scheduler.", hint=CLUSTER_HINT)
    from dicomnode.work.cluster import Cluster

    return Cluster(address=settings.work.cluster, device=device, **settings.cluster.model_dump())


def _one_series(source: Path) -> tuple[list[Path], list[str]]:
    """Find the files of the only series, and note those passed over. Raises InputError unless there is one series."""
    from dicomnode.pipeline import series_in

    passed_over: list[str] = []
    found = list(series_in(source, note=passed_over.append).values())
    if len(found) == 1:
        return found[0], passed_over
    if not found:
        raise InputError(f"There is no DICOM series in {source}.", hint="\n  ".join(passed_over))
    places = "".join(f"\n  {len(paths)} images from {paths[0]}" for paths in found)
    raise InputError(f"{source} holds {len(found)} series:{places}", hint="Name a folder that holds one of them.")


def _derived(result: PipelineResult, model: LoadedModel, out: Path) -> Derived:
    from dicomnode.offline.series import SPREAD_FOLDER

    verdict = result.verdict
    assert result.ratio
    assert verdict.slice_spacing_mm
    assert verdict.thin_spacing_mm
    return Derived(
        thick=verdict.slices, thin=len(result.instances), ratio=result.ratio,
        slice_spacing_mm=verdict.slice_spacing_mm, thin_spacing_mm=verdict.thin_spacing_mm,
        model=model.facts.name, model_digest=model.facts.digest, sharpness=model.chosen_sharpness,
        device="cluster" if model.is_remote else model.device, notes=result.notes, out=out,
        spread=result.spread, spread_out=None if result.spread is None else out / SPREAD_FOLDER,
        network_share=None if result.network_share is None else round(result.network_share, 3),
        gate=tuple(f"{sentence}; the node would hold the delivery" for sentence in result.objections),
        stages={name: round(seconds, 3) for name, seconds in result.stages.items()},
    )  # fmt: skip


def _derive_archive(archive: tuple[Path, ...], out: Path, models: _Models, slots: int | None, *, as_json: bool) -> int:
    from dicomnode.offline.many import GO_ON, open_run

    loaded = models.load()
    others = [models.load() for _ in range(models.slots(slots, loaded) - 1)]
    with ExitStack() as stack:
        with output.progress_bar(str(out), quiet=as_json) as progress:
            run = stack.enter_context(open_run(out, archive, loaded, progress=progress))
            try:
                run.derive_all(progress, others=others, cancel=models.close)
            except KeyboardInterrupt:
                output.say(f"{run.sentence()} {GO_ON}", err=True)
                raise
        _print_run(run, as_json=as_json)
        return 0 if run.is_complete else NOT_ALL


def _print_run(run: Run, *, as_json: bool) -> None:
    """Print the rows: as JSON all of them, as a table first those that somebody may want to look at."""
    rows = run.rows()
    if as_json:
        output.print_json(rows)
        return
    rows.sort(key=lambda row: not row.trouble)
    output.print_rows(rows[:ROWS_SHOWN], COLUMNS, as_json=False, none="")
    if len(rows) > ROWS_SHOWN:
        output.say(f"{ROWS_SHOWN} of {len(rows)} series; --json prints all.", err=True)
    for line in run.passed_over():
        output.say(line, err=True)
    output.say(run.sentence())
